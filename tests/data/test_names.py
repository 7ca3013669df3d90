"""Which arrays are taken as inputs and targets, and what is said where one is missing."""

from __future__ import annotations

import pytest

from squeezer.data.dataset import Split
from squeezer.data.names import choose
from squeezer.data.spec import DataSpec
from squeezer.errors import Code, DataError


def chosen(there: str, wanted: str = "image", **spec: object) -> tuple[str, str | None]:
    found = choose(there.split(), DataSpec.model_validate(spec), wanted.split())
    return " ".join(found.inputs), found.targets


@pytest.mark.parametrize(
    ("there", "inputs", "targets"),
    [
        ("image y", "image", "y"),
        ("x y", "x", "y"),
        ("X Y", "X", "Y"),
        ("images labels extra", "images", "labels"),
        ("inputs targets", "inputs", "targets"),
        ("data", "data", None),
        ("anything labels", "anything", "labels"),
        ("anything", "anything", None),
        ("x_train y_train x_test y_test", "x", "y"),
        ("a_train y_train a_val y_val a_test y_test", "a", "y"),
        ("a_test", "a_test", None),  # one array, whatever it is called
        ("image x y labels", "image", "y"),
    ],
)
def test_defaults_of_one_input(there: str, inputs: str, targets: str | None) -> None:
    assert chosen(there) == (inputs, targets)


def test_names_of_the_recipe() -> None:
    assert chosen("a b c d", "one two", inputs=["b", "a"], targets="c") == ("b a", "c")
    assert chosen("x y z", "image", targets="z") == ("x", "z")
    assert chosen("y z", "y") == ("y", None)  # an input is no target
    assert chosen("p q y", "q p") == ("q p", "y")


@pytest.mark.parametrize(
    ("there", "wanted", "spec", "missing", "key"),
    [
        ("a b y", "image", {}, "'image'", "data.inputs"),
        ("x y", "one two", {}, "'one'", "data.inputs"),
        ("x y", "image", {"inputs": ["z"]}, "'z'", "data.inputs"),
        ("x y", "image", {"targets": "labels"}, "'labels'", "data.targets"),
        ("x y", "image", {"inputs": ["x", "y"]}, "2 arrays", "'image'"),
        ("x y", "image", {"transforms": {"z": {}}}, "'z'", "'x'"),
        ("y", "image", {}, "'image'", "data.inputs"),
    ],
)
def test_missing_arrays(there: str, wanted: str, spec: dict[str, object], missing: str, key: str) -> None:
    with pytest.raises(DataError) as caught:
        chosen(there, wanted, **spec)
    assert caught.value.code is Code.MISSING_ARRAY
    assert missing in caught.value.detail
    assert key in caught.value.detail


def test_what_there_is_is_listed() -> None:
    with pytest.raises(DataError, match="there are 'a', 'b', 'y'"):
        chosen("a b y")
    with pytest.raises(DataError, match="and 480 more"):
        chosen(" ".join(f"a{number}" for number in range(500)))


def test_an_attack_by_many_names_is_quick() -> None:
    there = [f"{'x' * 50}{number}_train" for number in range(100_000)]
    with pytest.raises(DataError):
        choose(there, DataSpec(), ["image"])


def test_splits_are_those_of_the_arrays_that_are_used() -> None:
    there = ["x_train", "y_train", "x_test", "y_test", "z_train"]
    assert choose(there, DataSpec(), ["x"]).arrays == {
        Split.TRAIN: {"x": "x_train", "y": "y_train"},
        Split.TEST: {"x": "x_test", "y": "y_test"},
    }
    assert choose(there, DataSpec(inputs=("x_train",), targets="y_train"), ["x"]).arrays == {
        Split.TRAIN: {"x_train": "x_train", "y_train": "y_train"}
    }
