"""A small trained network as an exported program, and the data set that goes with it, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import squeezer
from squeezer.training.device import torch_threads

HIDDEN = 48


def write_program(path: Path) -> Path:
    """A perceptron with batch norm, trained on scikit-learn's digits; its class is known to this function alone."""
    import torch
    from torch import nn

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(64, HIDDEN)
            self.norm = nn.BatchNorm1d(HIDDEN)
            self.fc2 = nn.Linear(HIDDEN, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.fc2(torch.relu(self.norm(self.fc1(x))))
            return result

    with torch_threads(1), torch.random.fork_rng():
        torch.manual_seed(0)
        network, rows = Perceptron(), digits()
        images, labels = torch.from_numpy(rows["x"]), torch.from_numpy(rows["y"])
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(25):
            for batch in torch.randperm(len(labels)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call] # torch's own
                optimiser.step()
        return squeezer.export(network.eval(), images[:4], path)


def write_student(path: Path, *, seed: int = 1) -> Path:
    """A smaller network of another kind for the same images, untrained."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    return squeezer.export(network.eval(), torch.zeros(4, 64), path)


def write_data(path: Path) -> Path:
    """The digits as `.npz`, by the name of the network's input."""
    np.savez(path, **digits())
    return path


def digits() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """1,797 images of 8x8 points from 0 to 1, and what they show."""
    images, labels = load_digits(return_X_y=True)
    return {"x": (images / 16).astype(np.float32), "y": labels.astype(np.int64)}
