"""What `benchmarks.codec` codes: symbols drawn at random, networks that packages ship, and a pruned LeNet-300-100."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from math import erf, pi, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_LLOYD_ROUNDS = 2000
#: Shares of weights that are kept, by layer (Han et al. 2016, table 2, LeNet-300-100).
KEPT = {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}
_BATCH = 128


@dataclass(frozen=True)
class Symbols:
    """Codes (uint8, one-dimensional), what each stands for, and integers in the order of these values.

    `levels[c]` is an integer for code c; a pruned weight is 0. That is the form in which nncodec takes them.
    """

    name: str
    codes: NDArray[np.uint8]
    values: NDArray[np.float32]
    levels: NDArray[np.int8]


def gaussian(name: str, count: int, levels: int, seed: int = 0) -> Symbols:
    """Normally distributed weights, each rounded to the nearest of the levels that k-means finds for them."""
    weights = np.random.default_rng(seed).standard_normal(count, np.float32)
    values = lloyd_max(levels)
    codes = np.searchsorted((values[1:] + values[:-1]) / 2, weights).astype(np.uint8)
    return Symbols(name, codes, values, np.arange(levels, dtype=np.int8) - np.int8(levels // 2))


def pruned(name: str, count: int, levels: int, sparsity: float, seed: int = 0) -> Symbols:
    """Normally distributed weights, rounded to equal steps over their range; a share of them, at random, pruned.

    Code 0 stands for a pruned weight, and code c > 0 for level c - 1.
    """
    random = np.random.default_rng(seed)
    weights = random.standard_normal(count, np.float32)
    bound = np.float32(np.abs(weights).max())
    step = 2 * bound / np.float32(levels - 1)
    codes = np.clip(np.rint((weights + bound) / step), 0, levels - 1).astype(np.uint8) + np.uint8(1)
    codes[random.random(count, np.float32) < sparsity] = 0
    values = (np.arange(levels, dtype=np.float32) * step - bound).astype(np.float32)
    return Symbols(name, codes, np.concatenate([np.zeros(1, np.float32), values]), levels_of(values))


def lloyd_max(levels: int) -> NDArray[np.float32]:
    """The levels, ascending, of least mean squared error for the standard normal distribution (Max 1960).

    Each level is the mean of the density between the midpoints to its neighbours, found by iteration.
    """
    values = np.linspace(-3, 3, levels)
    for _ in range(_LLOYD_ROUNDS):
        edges = (values[1:] + values[:-1]) / 2
        shares = np.diff([0.0, *(erf(edge / sqrt(2)) / 2 + 0.5 for edge in edges), 1.0])
        density = np.array([0.0, *np.exp(-np.square(edges) / 2), 0.0]) / sqrt(2 * pi)
        values = -np.diff(density) / shares
    return values.astype(np.float32)


def levels_of(codebook: NDArray[Any]) -> NDArray[np.int8]:
    """For a sparse codebook of at most 127 values: code 0 is 0, and the others count from it in order of value."""
    ranks = np.argsort(np.argsort(codebook, kind="stable"), kind="stable")
    below = int(np.count_nonzero(codebook < 0))
    return np.concatenate([np.zeros(1, np.int8), np.where(ranks < below, ranks - below, ranks - below + 1)]).astype(
        np.int8
    )


def packaged(package: str, suffix: str) -> Path | None:
    """The largest file with that suffix in an installed package, or None."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.suffix == suffix]
    return max(paths, key=lambda path: path.stat().st_size, default=None)


def trained_lenet(folder: Path, epochs: int, seed: int = 0) -> tuple[dict[str, NDArray[np.float32]], float]:
    """LeNet-300-100, trained on MNIST by Adam for a few epochs on one thread.

    Args:
        folder: holds `mnist.npz`, with `x_train`, `y_train`, `x_test`, `y_test`.
        epochs: passes over the training images.
        seed: of the first weights and of the order of the images.

    Returns:
        Its tensors, and its accuracy in per cent on the test images.
    """
    import torch  # here, since the other parts of the benchmark do without

    with np.load(folder / "mnist.npz") as archive:
        data = {name: torch.from_numpy(archive[name]) for name in ("x_train", "y_train", "x_test", "y_test")}
    images = {part: data[f"x_{part}"].reshape(-1, 784).float() / 255 for part in ("train", "test")}
    truth = {part: data[f"y_{part}"].long() for part in ("train", "test")}
    torch.manual_seed(seed)
    network = torch.nn.Sequential()
    for i, (inputs, outputs) in enumerate(((784, 300), (300, 100), (100, 10)), 1):
        network.add_module(f"fc{i}", torch.nn.Linear(inputs, outputs))
        if i < len(KEPT):
            network.add_module(f"relu{i}", torch.nn.ReLU())
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(images["train"])), _BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images["train"][chosen]), truth["train"][chosen])
            loss.backward()  # type: ignore[no-untyped-call] # torch's own
            optimizer.step()
    with torch.inference_mode():
        right = (network(images["test"]).argmax(1) == truth["test"]).float().mean()
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}, 100 * float(right)


def lenet_recipe() -> dict[str, Any]:
    """One-shot pruning to the paper's shares, and 5 bits of shared values, of the three weight matrices."""
    overrides = {f"{layer}.weight": {"sparsity": 1 - kept} for layer, kept in KEPT.items()}
    return {
        "steps": [
            {"method": "magnitude_prune", "sparsity": 0.9, "include": ["*.weight"], "overrides": overrides},
            {"method": "kmeans_share", "bits": 5, "include": ["*.weight"]},
        ]
    }


def floats(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Those of floating-point numbers, at least one-dimensional and not empty."""
    return {name: array for name, array in tensors.items() if array.dtype.kind in "fV" and array.ndim and array.size}
