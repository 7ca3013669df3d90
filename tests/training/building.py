"""Small networks and data sets for tests, made by hand: no export, no files."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from squeezer.data import DataSpec
from squeezer.data.dataset import Batch, Split
from squeezer.graph import Graph, Input, Node, Value
from squeezer.methods import Finetune
from squeezer.representations import Dense, Representation, digest
from squeezer.training.workbench import State, Workbench

V = Value
#: Of the network `trained` gives.
WEIGHTS = ("fc1.weight", "fc2.weight", "fc3.weight")


class ArrayDataset:
    """Rows in memory. `splits` gives each row's split, by name."""

    def __init__(
        self, inputs: tuple[NDArray[Any], ...], targets: NDArray[Any] | None, splits: NDArray[np.str_]
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.rows = {split: np.flatnonzero(splits == split.value) for split in Split}

    @property
    def labelled(self) -> bool:
        return self.targets is not None

    @property
    def black(self) -> tuple[NDArray[Any], ...]:
        return tuple(np.zeros(1, np.float32) for _ in self.inputs)

    def size(self, split: Split) -> int:
        return len(self.rows[split])

    def batch(self, split: Split, rows: NDArray[Any]) -> Batch:
        chosen = self.rows[split][rows]
        targets = None if self.targets is None else self.targets[chosen]
        return Batch(tuple(array[chosen] for array in self.inputs), targets)

    def close(self) -> None:
        pass

    def but(
        self, *, inputs: tuple[NDArray[Any], ...] | None = None, targets: NDArray[Any] | None = None
    ) -> ArrayDataset:
        """The same rows in the same splits, with other inputs or other targets."""
        other = copy(self)
        other.inputs = self.inputs if inputs is None else inputs
        other.targets = self.targets if targets is None else targets
        return other

    def without_targets(self) -> ArrayDataset:
        other = copy(self)
        other.targets = None
        return other

    def without_class(self, omitted: int) -> ArrayDataset:
        """The same with no row of a class in the training and validation splits."""
        assert self.targets is not None
        other = copy(self)
        kept = {split: self.rows[split][self.targets[self.rows[split]] != omitted] for split in Split}
        other.rows = kept | {Split.TEST: self.rows[Split.TEST]}
        return other


def split_of(rows: int, seed: int = 0) -> NDArray[np.str_]:
    """70 % train, 10 % validation, 20 % test."""
    draw = np.random.default_rng(seed).permutation(rows) / rows
    return np.where(draw < 0.7, "train", np.where(draw < 0.8, "validation", "test"))


@cache
def digits(*, images: bool = False) -> ArrayDataset:
    """scikit-learn's 1,797 digits: (64) or (1, 8, 8), from -1 to 1."""
    found = load_digits()
    x = (found.data / 8 - 1).astype(np.float32)
    x = x.reshape(-1, 1, 8, 8) if images else x
    return ArrayDataset((x,), found.target.astype(np.int64), split_of(len(x)))


def bench(
    state: State,
    data: ArrayDataset,
    *,
    spec: DataSpec | None = None,
    seed: int = 0,
    folder: Path | None = None,
    tell: Callable[..., None] = lambda share, note="": None,
) -> Workbench:
    return Workbench(
        original=state,
        data=data,
        spec=spec or DataSpec(),
        device="cpu",
        seed=seed,
        tell=tell,
        checkpoints=folder,
    )


def mlp(*sizes: int, dropout: float = 0.0, seed: int = 0) -> State:
    """Linear layers fc1, fc2, ... with ReLU, and dropout, between them."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Representation] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    value = "x"
    for i, (before, after) in enumerate(pairwise(sizes), 1):
        _parameter(tensors, names, f"fc{i}.weight", rng.uniform(-1, 1, (after, before)) * np.sqrt(3 / before))
        _parameter(tensors, names, f"fc{i}.bias", np.zeros(after))
        nodes.append(Node("aten.linear.default", (V(value), V(f"fc{i}_weight"), V(f"fc{i}_bias")), (f"h{i}",)))
        value = f"h{i}"
        if i < len(sizes) - 1:
            nodes.append(Node("aten.relu.default", (V(value),), (f"r{i}",)))
            value = f"r{i}"
            if dropout:
                nodes.append(Node("aten.dropout.default", (V(value), dropout, False), (f"d{i}",)))
                value = f"d{i}"
    graph = Graph((Input("x", (None, sizes[0]), "F32"),), names, frozenset(), tuple(nodes), (V(value),))
    return State(graph, tensors)


@cache
def trained() -> State:
    """A network in the manner of LeNet-300-100, 98 % right on the digits."""
    state = mlp(64, 300, 100, 10)
    settings = Finetune(epochs=20, batch_size=64, lr=3e-3, alpha=0)
    return settings.run(state, set(WEIGHTS), bench(state, digits()))


def cnn(channels: int = 8, seed: int = 0, *, view: bool = False) -> State:
    """Two convolutions with batch norm on 8 x 8 images of one channel, ten classes."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Representation] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    value, before = "x", 1
    for i in (1, 2):
        filters = rng.uniform(-1, 1, (channels, before, 3, 3)) * np.sqrt(3 / (9 * before))
        _parameter(tensors, names, f"conv{i}.weight", filters)
        for leaf, start in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            _parameter(tensors, names, f"bn{i}.{leaf}", np.full(channels, start))
        tensors[f"bn{i}.num_batches_tracked"] = Dense(np.zeros((), np.int64), np.dtype(np.int64))
        names[f"bn{i}_num_batches_tracked"] = f"bn{i}.num_batches_tracked"
        nodes += [
            Node("aten.conv2d.default", (V(value), V(f"conv{i}_weight"), None, (1, 1), (1, 1)), (f"c{i}",)),
            Node("aten.add_.Tensor", (V(f"bn{i}_num_batches_tracked"), 1), (f"n{i}",)),
            Node(
                "aten.batch_norm.default",
                (
                    V(f"c{i}"),
                    *(V(f"bn{i}_{leaf}") for leaf in ("weight", "bias", "running_mean", "running_var")),
                    *(False, 0.1, 1e-5, True),
                ),
                (f"b{i}",),
            ),
            Node("aten.relu.default", (V(f"b{i}"),), (f"r{i}",)),
            Node("aten.max_pool2d.default", (V(f"r{i}"), (2, 2), (2, 2)), (f"p{i}",)),
        ]
        value, before = f"p{i}", channels
    if view:
        nodes.append(Node("aten.view.default", (V(value), (-1, channels * 4)), ("f",)))
    else:
        nodes.append(Node("aten.flatten.using_ints", (V(value), 1), ("f",)))
    _parameter(tensors, names, "fc.weight", rng.uniform(-1, 1, (10, channels * 4)) * np.sqrt(3 / (channels * 4)))
    _parameter(tensors, names, "fc.bias", np.zeros(10))
    nodes.append(Node("aten.linear.default", (V("f"), V("fc_weight"), V("fc_bias")), ("y",)))
    buffers = frozenset(name for name in tensors if "running" in name or "num_batches" in name)
    return State(Graph((Input("x", (None, 1, 8, 8), "F32"),), names, buffers, tuple(nodes), (V("y"),)), tensors)


def _parameter(
    tensors: dict[str, Representation], names: dict[str, str], name: str, values: NDArray[np.floating[Any]]
) -> None:
    tensors[name] = Dense(values.astype(np.float32), np.dtype(np.float32))
    names[name.replace(".", "_")] = name


def digests(state: State) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in state.tensors.items()}


def accuracy(state: State, data: ArrayDataset, split: Split = Split.TEST) -> float:
    """The share of right labels of the decoded network."""
    predicted, targets = predictions(state, data, split)
    return float(np.mean(predicted == targets))


def predictions(state: State, data: ArrayDataset, split: Split = Split.TEST) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predicted and true labels; the network runs by `Network`, not by what trains it."""
    import torch

    from squeezer.training.network import Network

    inputs, targets = data.batch(split, np.arange(data.size(split)))
    tensors = {name: torch.from_numpy(tensor.decode()) for name, tensor in state.tensors.items()}
    outputs = Network(state.graph)(tensors, [torch.from_numpy(array) for array in inputs])
    assert isinstance(outputs, torch.Tensor)
    assert targets is not None
    return outputs.argmax(1).numpy(), targets
