from __future__ import annotations

import json

import pytest

from squeezer.methods import METHODS
from squeezer.recipe import presets
from tests.cli.conftest import squeezer


def first_words(*arguments: str) -> dict[str, str]:
    """Lines of the output by their first word."""
    return {line.split()[0]: line for line in squeezer(*arguments).stdout.splitlines() if line.strip()}


def test_presets() -> None:
    documents = json.loads(squeezer("presets", "--json").stdout)
    assert {document["name"]: document["recipe"] for document in documents} == {
        name: preset["recipe"] for name, preset in presets().items()
    }
    words = set(squeezer("presets").stdout.split())  # a long description takes two lines
    assert all({name, *preset["description"].split()} <= words for name, preset in presets().items())


def test_methods() -> None:
    documents = json.loads(squeezer("methods", "--json").stdout)
    assert [document["name"] for document in documents] == list(METHODS)
    text = squeezer("methods").stdout
    assert all(name in text and method.summary in text for name, method in METHODS.items())
    needs = {name: line.rstrip() for name, line in first_words("methods").items()}
    assert needs["magnitude_prune"].endswith("weights alone")
    assert needs["finetune"].endswith("the network and data")


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_a_method(name: str) -> None:
    lines = first_words("methods", name)
    assert lines.keys() >= METHODS[name].model_fields.keys() - {"method"}


def test_settings_show_bounds_and_defaults() -> None:
    lines = first_words("methods", "magnitude_prune")
    assert "number >= 0 and < 1" in lines["sparsity"]
    assert "required" in lines["sparsity"]
    assert "layer | global" in lines["scope"]
    assert "list of strings" in lines["include"]
    assert json.loads(squeezer("methods", "magnitude_prune", "--json").stdout)["name"] == "magnitude_prune"
