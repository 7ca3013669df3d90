"""Entropy-constrained training: shorter codes than rounding and retraining, at no cost in accuracy."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from squeezer.artifact.writer import encode_tensor
from squeezer.errors import RecipeError
from squeezer.methods import METHODS
from squeezer.recipe import parse_recipe
from squeezer.representations import Dense
from squeezer.training.workbench import State
from tests.training.building import accuracy, bench, digests, digits, mlp

pytestmark = pytest.mark.usefixtures("one_thread")

COMMON = {"epochs": 20, "lr": 3e-3, "batch_size": 64, "alpha": 0.0}


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
    assert coded(trained(0.3)) < coded(trained(0.1)) < 0.7 * coded(trained(0.0))


def test_a_global_scope_begins_with_one_step_for_all_but_small_ones() -> None:
    small = {name: Dense(tensor.decode() * np.float32(0.1 if name == "fc1.weight" else 1), tensor.dtype)
             for name, tensor in dense().tensors.items()}  # fmt: skip
    still = COMMON | {"epochs": 0.1, "lr": 1e-12, "rate_weight": 0.0, "relative_step": 0.5}
    weights = [small[name].decode().reshape(-1) for name in ("fc1.weight", "fc2.weight")]
    first, second = (float(np.sqrt(np.square(one).mean())) for one in weights)
    whole = float(np.sqrt(np.square(np.concatenate(weights)).mean()))
    assert 2 * first < whole < 2 * second
    for scope, expected in (("tensor", (first, second)), ("global", (2 * first, whole))):
        state = run(State(dense().graph, small), "entropy_train", scope=scope, **still)
        steps = [float(state.tensors[name].step) for name in ("fc1.weight", "fc2.weight")]
        assert steps == pytest.approx([0.5 * one for one in expected], rel=1e-4)


def test_it_is_the_same_for_the_same_seed() -> None:
    short = COMMON | {"epochs": 1}
    one, other = (run(dense(), "entropy_train", rate_weight=0.1, **short) for _ in range(2))
    for name, tensor in one.tensors.items():
        assert tensor.decode().tobytes() == other.tensors[name].decode().tobytes()


def test_a_size_that_is_asked_for_is_reached() -> None:
    names = {name for name in dense().tensors if name.endswith("weight")}
    for ratio in (15.0, 25.0):
        around = bench(dense(), digits())
        state = step("entropy_train", target_ratio=ratio, **COMMON).run(dense(), names, around)
        everything = sum(len(encode_tensor(tensor).data) + 14 for tensor in state.tensors.values())
        whole = sum(tensor.decode().nbytes for tensor in state.tensors.values())
        assert 0.95 * ratio < whole / everything < 1.15 * ratio
        assert not around.events
        assert accuracy(state, digits()) > accuracy(dense(), digits()) - 0.04


def test_a_size_that_is_out_of_reach_is_told_of() -> None:
    around = bench(dense(), digits())
    names = {name for name in dense().tensors if name.endswith("weight")}
    step("entropy_train", target_ratio=40, **(COMMON | {"epochs": 1})).run(dense(), names, around)
    assert [event["event"] for event in around.events] == ["target_missed"]
    with pytest.raises(RecipeError, match=r"which take \d+ bytes; make target_ratio less than"):
        step("entropy_train", target_ratio=1000, **COMMON).run(dense(), names, around)


def test_biases_are_rounded_and_what_is_excluded_is_not() -> None:
    short = COMMON | {"epochs": 1}
    state = step("entropy_train", rate_weight=0.1, **short).run(dense(), {"fc1.weight"}, bench(dense(), digits()))
    assert {name: tensor.kind for name, tensor in state.tensors.items()} == {
        "fc1.weight": "uniform",
        "fc1.bias": "uniform",
        "fc2.weight": "dense",
        "fc2.bias": "uniform",
    }


def test_pruned_weights_stay_zero() -> None:
    pruning = step("magnitude_prune", sparsity=0.8)
    pruned = {
        name: pruning.apply(name, tensor, None, 0) if name.endswith("weight") else tensor
        for name, tensor in dense().tensors.items()
    }
    state = run(State(dense().graph, pruned), "entropy_train", rate_weight=0.01, **(COMMON | {"epochs": 3}))
    for name in ("fc1.weight", "fc2.weight"):
        zeros = pruned[name].decode() == 0
        assert not state.tensors[name].decode()[zeros].any()
        assert np.count_nonzero(state.tensors[name].decode()) > 0.5 * np.count_nonzero(~zeros)


@pytest.mark.parametrize("wanted", [{"rate_weight": 0.1}, {"target_ratio": 12}])
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path, wanted: dict[str, float]) -> None:
    """The price and what is known of the codes are in the checkpoint too."""
    names = {name for name in dense().tensors if name.endswith("weight")}
    settings = COMMON | {"epochs": 4} | wanted

    class KilledError(Exception):
        pass

    def kill(share: float, note: str = "") -> None:
        if share > 0.5:
            raise KilledError(note)

    undisturbed = run(dense(), "entropy_train", **settings)
    with pytest.raises(KilledError):
        step("entropy_train", **settings).run(dense(), names, bench(dense(), digits(), folder=tmp_path, tell=kill))
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]
    resumed = step("entropy_train", **settings).run(dense(), names, bench(dense(), digits(), folder=tmp_path))
    assert digests(resumed) == digests(undisturbed)


def test_price_and_target_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="give exactly one of rate_weight, target_ratio"):
        parse_recipe({"steps": [{"method": "entropy_train", "rate_weight": 1, "target_ratio": 9}]})
