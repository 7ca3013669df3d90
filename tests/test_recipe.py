"""Recipes: what is refused, in which words, and what a preset expands to."""

import json
from pathlib import Path
from typing import get_args

import pytest

from squeezer.errors import Code, RecipeError
from squeezer.methods import METHODS
from squeezer.methods.distillation.distill import UPLOADED
from squeezer.recipe import Encoding, Recipe, parse_recipe, presets
from squeezer.zoo import ARCHITECTURES

PRUNE = {"method": "magnitude_prune", "sparsity": 0.9}
SHARE = {"method": "kmeans_share", "bits": 5}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"steps": [{"method": "magnitude_prune", "sparsity": 1.5}]}, ["steps[0].sparsity", "less than 1"]),
        ({"steps": [{"method": "magnitude_prune"}]}, ["steps[0].sparsity", "required"]),
        ({"steps": [{"method": "magnitude_prune", "sparsity": float("nan")}]}, ["steps[0].sparsity"]),
        ({"steps": [{"method": "magnitude_prune", "sparsity": "0.5x"}]}, ["steps[0].sparsity"]),
        ({"steps": [{"method": "prune"}]}, ["unknown method 'prune'", *METHODS]),
        ({"steps": [{"sparsity": 0.5}]}, ["unknown method None", *METHODS]),
        ({"steps": [PRUNE | {"sparsty": 1}]}, ["steps[0].sparsty", "unknown key", "sparsity", "scope"]),
        ({"steps": [PRUNE], "stps": 1}, ["stps", "unknown key", "encoding", "outputs"]),
        ({"steps": [PRUNE], "encoding": {"coda": 1}}, ["encoding.coda", "coder, level, small_tensors"]),
        ({"steps": [PRUNE], "version": 2}, ["version"]),
        ({"steps": [PRUNE], "outputs": ["tflite"]}, ["outputs[0]", "sqz"]),
        ({"steps": [SHARE, PRUNE]}, ["magnitude_prune cannot follow kmeans_share", "change the order"]),
        ({"steps": [PRUNE | {"overrides": {"fc*": {"sparsity": 2}}}]}, ["sparsity", "less than 1"]),
        (
            {"steps": [PRUNE | {"overrides": {"fc*": {"scope": "global"}}}]},
            ["overrides['fc*'] may not set scope"],
        ),
        ({"steps": "all"}, ["steps"]),
        ({"steps": [1]}, ["steps[0]"]),
        ({"preset": "tiny"}, ["unknown preset 'tiny'", "deep-compression, distill, lossless, safe"]),
        ({"preset": ["safe"]}, ["unknown preset"]),
        ({"preset": "safe", "steps": []}, ["steps cannot be combined with preset 'safe'", "outputs"]),
        ({"preset": "safe", "seed": -1}, ["seed"]),
        ("tiny", ["unknown preset 'tiny'"]),
        (["safe"], ["JSON object or the name of a preset, not list"]),
        (None, ["not NoneType"]),
        ({"steps": [{"method": "kmeans_share"}]}, ["steps[0]", "bits"]),
        ({"steps": [SHARE | {"clusters": 3}]}, ["steps[0]", "clusters"]),
        ({"steps": [{"method": "fold_batch_norm"}, {"method": "finetune"}]}, ["finetune", "freeze_batch_norm to true"]),
    ],
)
def test_wrong_recipes_are_refused_in_words_that_help(document: object, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(document)
    assert error.value.code is Code.INVALID_RECIPE
    for word in words:
        assert word in error.value.detail


def test_presets_are_valid_and_described() -> None:
    assert set(presets()) == {"lossless", "safe", "deep-compression", "distill"}
    for name, preset in presets().items():
        assert preset["description"]
        assert parse_recipe(name) == parse_recipe({"preset": name})
        assert parse_recipe(name).preset == name


def test_safe_is_the_default() -> None:
    assert parse_recipe({}) == parse_recipe("safe")
    assert parse_recipe({"seed": 3}).seed == 3


def test_a_preset_takes_the_settings_beside_it() -> None:
    recipe = parse_recipe(
        {"preset": "safe", "outputs": ["sqz", "safetensors"], "seed": 5, "max_seconds": 60, "device": "cpu"}
    )
    assert (recipe.outputs, recipe.seed, recipe.max_seconds, recipe.device) == (
        ("sqz", "safetensors"),
        5,
        60,
        "cpu",
    )
    assert recipe.steps == parse_recipe("safe").steps


def test_steps_that_need_data_are_refused_without_it_unless_a_preset_has_them() -> None:
    own = parse_recipe({"steps": [PRUNE, {"method": "finetune"}]})
    own.check_data(has_data=True)
    with pytest.raises(RecipeError, match="finetune needs a data set"):
        own.check_data(has_data=False)
    parse_recipe("deep-compression").check_data(has_data=False)
    with pytest.raises(RecipeError, match="entropy_train needs a data set"):
        parse_recipe("distill").check_data(has_data=False)
    with pytest.raises(RecipeError, match="accept needs a data set"):
        parse_recipe({"preset": "safe", "accept": {"max_drop": 0.01}}).check_data(has_data=False)


@pytest.mark.parametrize(
    "document",
    ["safe", "deep-compression", {"steps": [PRUNE | {"overrides": {"fc*": {"sparsity": 0.95}}}, SHARE]}],
)
def test_a_recipe_survives_json(document: object) -> None:
    recipe = parse_recipe(document)
    assert Recipe.model_validate_json(json.dumps(recipe.model_dump(mode="json"))) == recipe


def test_steps_with_globs_are_judged_later() -> None:
    assert parse_recipe({"steps": [SHARE | {"include": ["conv*"]}, PRUNE | {"include": ["fc*"]}]})


def test_the_page_lists_every_key() -> None:
    page = (Path(__file__).parent.parent / "docs" / "recipe.md").read_text(encoding="utf-8")
    for name in [*Recipe.model_fields, *Encoding.model_fields]:
        assert f"| `{name}` |" in page
    for value in get_args(Encoding.model_fields["coder"].annotation):
        assert f"`{value}`" in page


def test_a_student_is_asked_for_by_name_alone() -> None:
    uploaded = parse_recipe({"steps": [PRUNE, {"method": "distill", "student": "uploaded"}]})
    uploaded.check_student(has_student=True)
    with pytest.raises(RecipeError, match="distill needs the student"):
        uploaded.check_student(has_student=False)
    for student in (None, "lenet-300-100"):
        other = parse_recipe({"steps": [{"method": "distill", "student": student}]})
        other.check_student(has_student=False)
        with pytest.raises(RecipeError, match="no step uses the student"):
            other.check_student(has_student=True)
    with pytest.raises(RecipeError, match="no step uses the student"):
        parse_recipe("deep-compression").check_student(has_student=True)


def test_the_reserved_word_is_no_network_of_the_zoo() -> None:
    assert UPLOADED not in ARCHITECTURES
