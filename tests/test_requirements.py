"""The pins in requirements.txt cover what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [Requirement(line) for group in (project["dependencies"], *extras.values()) for line in group]


def lines() -> list[str]:
    text = (ROOT / "requirements.txt").read_text("utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines())}
    for requirement in asked_for():
        assert pins.get(canonicalize_name(requirement.name), "none") in requirement.specifier, requirement


def test_pins_are_plain() -> None:
    """Any index will do: no addresses, no local versions, nothing that only a CUDA build needs."""
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-z.]+", line) for line in lines())
    assert not [line for line in lines() if line.startswith(("nvidia-", "cuda-", "triton"))]
