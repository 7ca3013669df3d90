"""A folded network computes what it did before, in the user's own class, and has nothing in its norms."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from squeezer.artifact.writer import encode_tensor
from squeezer.methods import FoldBatchNorm
from squeezer.representations import Dense, Masked
from squeezer.training.workbench import State
from tests.methods.quantization.networks import Mixed, exported, lived_in, loaded, outputs, weights_of
from tests.training.building import bench, digits

X = torch.randn(64, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, State]:
    torch.manual_seed(0)
    module = lived_in(Mixed(), X)
    return module, exported(module, X, tmp_path_factory.mktemp("mixed"))


def folded(state: State, names: set[str] | None = None) -> tuple[State, int]:
    around = bench(state, digits())
    result = FoldBatchNorm().run(state, weights_of(state) if names is None else names, around)
    return result, around.findings["fold_batch_norm"]["folded"]


def test_outputs_are_the_same_in_the_graph_and_in_the_users_class(mixed: tuple[nn.Module, State]) -> None:
    module, state = mixed
    result, number = folded(state)
    assert number == 4
    before = outputs(state, X)
    assert np.abs(outputs(result, X) - before).max() <= 1e-5 * np.abs(before).max()
    with torch.no_grad():
        after = loaded(copy.deepcopy(module), result)(X).numpy()
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def test_negative_control_a_bias_left_out_shows(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    result, _ = folded(state)
    wrong = State(result.graph, result.tensors | {"norm3.bias": state.tensors["norm3.bias"]})
    assert np.abs(outputs(wrong, X) - outputs(state, X)).max() > 1e-2


def test_statistics_are_neutral_and_gains_alike(mixed: tuple[nn.Module, State]) -> None:
    result, _ = folded(mixed[1])
    for norm in ("norm1", "norm2", "norm3", "norm4"):
        values = {leaf: result.tensors[f"{norm}.{leaf}"].decode() for leaf in ("weight", "running_mean", "running_var")}
        assert not values["running_mean"].any()
        assert (values["running_var"] == 1).all()
        assert len(np.unique(values["weight"])) == 1
        assert (values["weight"].astype(np.float16) == values["weight"]).all()
    for layer in ("deep", "point", "wide"):
        assert not result.tensors[f"{layer}.bias"].decode().any()


def test_each_layer_keeps_its_root_mean_square(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    result, _ = folded(state)
    for name in weights_of(state):
        before, after = (float(np.square(one.tensors[name].decode()).mean()) ** 0.5 for one in (state, result))
        assert after == pytest.approx(before, rel=1e-3)  # half precision of the common gain


def test_norms_take_a_fraction_of_the_bytes(mixed: tuple[nn.Module, State]) -> None:
    def nbytes(state: State) -> int:
        names = [f"norm3.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
        halves = [Dense(state.tensors[name].decode().astype(np.float16), np.dtype(np.float32)) for name in names]
        return sum(len(encode_tensor(tensor).data) for tensor in halves)

    assert nbytes(folded(mixed[1])[0]) < 0.6 * nbytes(mixed[1])


def test_pruned_weights_stay_pruned(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    values = state.tensors["point.weight"].decode()
    mask = np.abs(values) > np.median(np.abs(values))
    pruned = State(state.graph, state.tensors | {"point.weight": Masked(values, mask)})
    result, _ = folded(pruned)
    weight = result.tensors["point.weight"]
    assert isinstance(weight, Masked)
    assert (weight.mask == mask).all()
    assert np.allclose(outputs(result, X), outputs(pruned, X), atol=1e-5)


def test_only_selected_layers(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    result, number = folded(state, {"first.weight"})
    assert number == 1
    assert result.tensors["norm3.weight"] is state.tensors["norm3.weight"]


class Shared(nn.Module):
    """A norm whose input is used elsewhere, one that two layers share, and one behind a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm, self.twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.steps, self.along = nn.Linear(9, 9), nn.BatchNorm1d(9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y = y + self.norm(y)
        z: torch.Tensor = self.twice(self.b(y)) + self.twice(self.c(y))
        result: torch.Tensor = self.along(self.steps(z.mean(1)))
        return result


def test_what_others_use_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = exported(lived_in(Shared(), X), X, tmp_path)
    result, number = folded(state)
    assert number == 0  # `along` goes along the rows of a picture, and not along the outputs of `steps`
    assert all(result.tensors[name] is tensor for name, tensor in state.tensors.items())


def test_a_channel_that_would_overflow_is_left_alone(mixed: tuple[nn.Module, State]) -> None:
    _, state = mixed
    huge = Dense(np.full(12, 3e38, np.float32), np.dtype(np.float32))
    tiny = Dense(np.zeros(12, np.float32), np.dtype(np.float32))
    _, number = folded(State(state.graph, state.tensors | {"norm3.weight": huge, "norm3.running_var": tiny}))
    assert number == 3
