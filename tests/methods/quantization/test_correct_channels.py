"""Channels come back to where they were: measured against hooks in the user's class, predicted against the data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError, RecipeError
from squeezer.methods import CorrectChannels, FoldBatchNorm
from squeezer.training.workbench import State, Workbench
from tests.methods.quantization.networks import Mixed, exported, lived_in, loaded, outputs, rounded, rows_of, weights_of
from tests.training.building import ArrayDataset, bench, mlp

X = torch.randn(400, 3, 9, 9, generator=torch.Generator().manual_seed(1))
NORMS = ("norm1", "norm2", "norm3", "norm4")
STEP = 1.0


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, State]:
    torch.manual_seed(0)
    module = lived_in(Mixed(), X)
    return module, exported(module, X, tmp_path_factory.mktemp("mixed"))


def around(state: State, data: ArrayDataset | None) -> Workbench:
    made = bench(state, rows_of(X))
    return Workbench(state, data, made.spec, made.device, made.seed, made.tell)


def channels(module: nn.Module, state: State) -> dict[str, NDArray[Any]]:
    """What norms and the last layer give, by hooks in the user's own class: (examples and places, channels)."""
    network, seen = loaded(copy.deepcopy(module), state), {}
    for name in (*NORMS, "out"):

        def keep(_: nn.Module, __: Any, output: torch.Tensor, name: str = name) -> None:
            seen[name] = output.detach().clone().movedim(1, -1).reshape(-1, output.shape[1]).numpy().astype(np.float64)

        network.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        network(X)
    return seen


def off(found: dict[str, NDArray[Any]], before: dict[str, NDArray[Any]]) -> float:
    """How far means are from where they were, in deviations: the root mean square over all channels."""
    errors = [(found[name].mean(0) - before[name].mean(0)) / before[name].std(0) for name in found]
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def test_means_and_variances_are_the_uploaded_networks(mixed: tuple[nn.Module, State]) -> None:
    module, state = mixed
    coarse, before = rounded(state, STEP), channels(module, state)
    work = around(state, rows_of(X))
    found = channels(module, CorrectChannels().run(coarse, weights_of(state), work))
    assert work.findings["correct_channels"] == {"corrected": 5, "measured": True}
    assert off(channels(module, coarse), before) > 0.1
    assert off(found, before) < 1e-5
    for name in NORMS:
        assert found[name].std(0) == pytest.approx(before[name].std(0), rel=1e-4)


def test_outputs_come_nearer_and_the_other_way_leads_away(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    coarse = rounded(state, STEP)
    for data, least in ((rows_of(X), 2.0), (None, 1.1)):
        corrected = CorrectChannels().run(coarse, weights_of(state), around(state, data))
        plain, better, worse = (
            float(np.square(outputs(one, X) - outputs(state, X)).mean())
            for one in (coarse, corrected, opposite(coarse, corrected))
        )
        assert better * least < plain
        assert worse > plain


def opposite(coarse: State, corrected: State) -> State:
    """The biases moved as far, but the wrong way."""
    tensors = dict(coarse.tensors)
    for name, tensor in coarse.tensors.items():
        if name.endswith("bias"):
            values = 2 * tensor.decode() - corrected.tensors[name].decode()
            tensors[name] = type(corrected.tensors[name])(values, values.dtype)  # type: ignore[call-arg] # Dense
    return State(coarse.graph, tensors)


def test_means_are_predicted_from_the_norms(mixed: tuple[nn.Module, State]) -> None:
    module, state = mixed
    coarse, before = rounded(state, STEP), channels(module, state)
    work = around(state, None)
    corrected = CorrectChannels().run(coarse, weights_of(state), work)
    # The first layer is given the input, of which nothing is known.
    assert work.findings["correct_channels"] == {"corrected": 4, "measured": False}
    assert corrected.tensors["norm1.bias"] is coarse.tensors["norm1.bias"]
    assert off(channels(module, corrected), before) < 0.6 * off(channels(module, coarse), before)


def test_the_prediction_is_the_formula(mixed: tuple[nn.Module, State]) -> None:
    """For the layer `point`, whose inputs are a sum of a clipped normal and a clipped normal: by drawing numbers."""
    _, state = mixed
    coarse = rounded(state, STEP)
    corrected = CorrectChannels().run(coarse, {"point.weight"}, around(state, None))
    random = np.random.default_rng(0)
    value = {name: tensor.decode().astype(np.float64) for name, tensor in state.tensors.items()}

    def draws(norm: str) -> NDArray[np.float64]:
        normal = random.standard_normal((400_000, 8))
        return np.maximum(value[f"{norm}.bias"] + value[f"{norm}.weight"] * normal, 0)

    mean = (draws("norm1") + draws("norm2")).mean(0)
    error = (value["point.weight"] - coarse.tensors["point.weight"].decode())[:, :, 0, 0]
    scale = value["norm3.weight"] / np.sqrt(value["norm3.running_var"] + 1e-5)
    moved = corrected.tensors["norm3.bias"].decode() - value["norm3.bias"]
    assert moved == pytest.approx(scale * (error @ mean), abs=0.01)
    assert np.abs(moved).max() > 0.05


def test_a_folded_network_is_compared_with_the_uploaded_one(mixed: tuple[nn.Module, State]) -> None:
    module, state = mixed
    folded = FoldBatchNorm().run(state, weights_of(state), around(state, None))
    before = channels(module, state)
    for data, most in ((rows_of(X), 1e-5), (None, 0.6)):
        coarse = rounded(folded, STEP)
        found = CorrectChannels().run(coarse, weights_of(state), around(state, data))
        assert off(channels(module, found), before) < most * max(1, off(channels(module, coarse), before))


def test_what_is_exact_is_left_as_it_is(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    for data in (rows_of(X), None):
        found = CorrectChannels().run(state, weights_of(state), around(state, data))
        for name, tensor in state.tensors.items():
            assert found.tensors[name].decode() == pytest.approx(tensor.decode(), abs=1e-5)


def test_a_channel_that_died_keeps_its_gain(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    dead = rounded(state, STEP)
    weight = dead.tensors["point.weight"].decode()
    weight[3] = 0
    dead = State(dead.graph, dead.tensors | {"point.weight": type(state.tensors["point.weight"])(weight, weight.dtype)})  # type: ignore[call-arg] # Dense
    found = CorrectChannels().run(dead, weights_of(state), around(state, rows_of(X)))
    assert np.isfinite(outputs(found, X)).all()
    gain = found.tensors["norm3.weight"].decode()
    assert gain[3] == state.tensors["norm3.weight"].decode()[3]


def test_another_network_cannot_be_compared(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    student = mlp(64, 10)
    with pytest.raises(RecipeError, match="leave correct_channels out"):
        CorrectChannels().run(student, {"fc1.weight"}, around(state, None))


def test_without_training_rows_it_says_so(mixed: tuple[nn.Module, State], tmp_path: Path) -> None:
    _, state = mixed
    empty = ArrayDataset((X.numpy(),), None, np.full(len(X), Split.TEST.value))
    with pytest.raises(DataError, match="send more") as caught:
        CorrectChannels().run(rounded(state, STEP), weights_of(state), around(state, empty))
    assert caught.value.code is Code.TOO_FEW_ROWS
