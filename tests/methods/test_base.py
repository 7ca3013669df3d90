"""Selection of tensors, overrides, alternatives, registration, and what an import loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from squeezer.errors import RecipeError
from squeezer.methods import METHODS, KmeansShare, MagnitudePrune, UniformQuantize
from squeezer.methods.base import Step, matches
from squeezer.methods.network_step import TrainingStep
from squeezer.recipe import parse_recipe

ROOT = Path(__file__).parents[2]


def test_recipe_loads_neither_torch_nor_numba() -> None:
    code = (
        "import sys, json, squeezer.recipe as r; r.parse_recipe('deep-compression');"
        "print(json.dumps([m for m in ('torch', 'numba', 'llvmlite') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page_that_names_its_settings(method: str) -> None:
    page = (ROOT / "docs" / "methods" / f"{method}.md").read_text("utf-8")
    assert page.startswith(f"# `{method}`")
    shared = TrainingStep if issubclass(METHODS[method], TrainingStep) else Step
    own = METHODS[method].model_fields.keys() - shared.model_fields.keys() - {"method"}
    missing = [setting for setting in own if f"`{setting}`" not in page]
    assert not missing


def test_the_page_on_training_names_the_settings_of_all_steps_that_retrain() -> None:
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    own = TrainingStep.model_fields.keys() - Step.model_fields.keys()
    assert not [setting for setting in own if f"`{setting}`" not in page]


def test_every_method_file_is_registered() -> None:
    folder = ROOT / "squeezer" / "methods"
    bases = ("(Step):", "(NetworkStep):", "(TrainingStep):")
    declared = [path for path in folder.rglob("*.py") if any(base in path.read_text("utf-8") for base in bases)]
    declared = [path for path in declared if path.stem != "network_step"]
    assert {path.stem for path in declared} == set(METHODS)


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("fc1.weight", "fc*", True),
        ("module.fc1.weight", "fc*", True),
        ("module.fc1.weight", "module.fc*", True),
        ("features.module.fc1.weight", "fc*", False),
        ("FC1.weight", "fc*", False),
        ("conv.weight", "fc*", False),
        ("layer10.weight", "layer[0-9].weight", False),
    ],
)
def test_globs(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, pattern) is fits


def test_include_and_exclude() -> None:
    step = MagnitudePrune(sparsity=0.5, include=("fc*", "conv*"), exclude=("*2.weight",))
    assert [n for n in ("fc1.weight", "module.conv1.weight", "fc2.weight", "head.weight") if step.selects(n)] == [
        "fc1.weight",
        "module.conv1.weight",
    ]
    assert MagnitudePrune(sparsity=0.5).selects("anything")


def test_the_last_fitting_override_wins() -> None:
    step = MagnitudePrune(sparsity=0.5, overrides={"fc*": {"sparsity": 0.9}, "*1.weight": {"sparsity": 0.1}})
    wanted = {"fc2.weight": 0.9, "fc1.weight": 0.1, "module.fc2.weight": 0.9, "conv.weight": 0.5}
    assert {name: step.for_tensor(name).sparsity for name in wanted} == wanted


def test_an_override_keeps_the_other_settings() -> None:
    step = KmeansShare(bits=5, init="linear", overrides={"fc*": {"bits": 3}})
    assert step.for_tensor("fc").model_dump(include={"bits", "init"}) == {"bits": 3, "init": "linear"}


def test_an_override_by_an_alternative_replaces_the_setting() -> None:
    share = KmeansShare(bits=5, overrides={"fc*": {"clusters": 7}}).for_tensor("fc")
    assert (share.bits, share.clusters) == (None, 7)
    quantize = UniformQuantize(step=0.1, overrides={"fc*": {"bits": 4}}).for_tensor("fc")
    assert (quantize.step, quantize.bits, quantize.relative_step) == (None, 4, None)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"method": "kmeans_share"}, "give exactly one of bits, clusters; found none of them"),
        (
            {"method": "kmeans_share", "bits": 4, "clusters": 9},
            "give exactly one of bits, clusters; found bits and clusters",
        ),
        ({"method": "uniform_quantize"}, "give exactly one of bits, relative_step, step; found none of them"),
        ({"method": "uniform_quantize", "bits": 4, "step": 1}, "found bits and step"),
        ({"method": "uniform_quantize", "step": 0}, "steps[0].step: Input should be greater than 0"),
        ({"method": "magnitude_prune", "sparsity": 1.5}, "steps[0].sparsity: Input should be less than 1"),
        (
            {"method": "magnitude_prune", "sparsity": 0.5, "overrides": {"fc*": {"sparsity": 1.5}}},
            "overrides['fc*']: sparsity: Input should be less than 1",
        ),
        (
            {"method": "kmeans_share", "bits": 5, "overrides": {"fc*": {"sparsity": 0.5}}},
            "overrides['fc*']: sparsity: unknown key; the keys here are bits, clusters, init",
        ),
        (
            {"method": "kmeans_share", "bits": 5, "overrides": {"fc*": {"bits": 4, "clusters": 16}}},
            "overrides['fc*']: give exactly one of bits, clusters; found bits and clusters",
        ),
        (
            {"method": "magnitude_prune", "sparsity": 0.5, "overrides": {"fc*": {"scope": "global"}}},
            "overrides['fc*'] may not set scope",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(step: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"steps": [step]})
    assert sentence in caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan"), float("inf")])
def test_sparsity_is_a_share(sparsity: float) -> None:
    with pytest.raises(ValidationError):
        MagnitudePrune(sparsity=sparsity)
