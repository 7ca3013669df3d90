"""Entropy-constrained training: shorter codes than rounding and retraining, at no cost in accuracy."""

from __future__ import annotations

from functools import cache

import pytest

from squeezer.artifact.writer import encode_tensor
from squeezer.errors import RecipeError
from squeezer.methods import METHODS
from squeezer.recipe import parse_recipe
from squeezer.training.workbench import State
from tests.training.building import accuracy, bench, digits, mlp

COMMON = {"epochs": 30, "lr": 3e-3, "batch_size": 64, "alpha": 0.0}


def step(method: str, **settings: object):
    return METHODS[method].model_validate(settings)


def run(state: State, method: str, **settings: object) -> State:
    names = {name for name in state.tensors if name.endswith("weight")}
    return step(method, **settings).run(state, names, bench(dense(), digits()))


@cache
def dense() -> State:
    start = mlp(64, 64, 10)
    names = {name for name in start.tensors if name.endswith("weight")}
    return step("finetune", **COMMON).run(start, names, bench(start, digits()))


@cache
def trained(price: float) -> State:
    return run(dense(), "entropy_train", rate_weight=price, **COMMON)


def coded(state: State) -> int:
    """Bytes of the weights in a file."""
    tensors = [tensor for name, tensor in state.tensors.items() if name.endswith("weight")]
    return sum(len(encode_tensor(tensor, "auto", "balanced").data) for tensor in tensors)


def test_the_file_is_smaller_than_after_rounding_and_retraining() -> None:
    rounding = step("uniform_quantize", relative_step=1.0)
    rounded = {
        name: rounding.apply(name, tensor, None, 0) if name.endswith("weight") else tensor
        for name, tensor in dense().tensors.items()
    }
    retrained = run(State(dense().graph, rounded), "finetune", **COMMON)
    ours = trained(0.1)
    assert coded(ours) < 0.75 * coded(retrained)
    assert accuracy(ours, digits()) >= accuracy(retrained, digits()) - 0.01
    assert accuracy(ours, digits()) >= accuracy(dense(), digits()) - 0.02
    assert {tensor.kind for name, tensor in ours.tensors.items() if name.endswith("weight")} == {"uniform"}


def test_the_price_decides_about_the_size() -> None:
    assert coded(trained(0.3)) < coded(trained(0.1)) < 0.6 * coded(trained(0.0))


def test_it_is_the_same_for_the_same_seed() -> None:
    short = COMMON | {"epochs": 1}
    one, other = (run(dense(), "entropy_train", rate_weight=0.1, **short) for _ in range(2))
    for name, tensor in one.tensors.items():
        assert tensor.decode().tobytes() == other.tensors[name].decode().tobytes()


def test_price_and_target_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="give exactly one of rate_weight, target_ratio"):
        parse_recipe({"steps": [{"method": "entropy_train", "rate_weight": 1, "target_ratio": 9}]})
