"""Networks with batch norm for the tests of quantisation that uses the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import squeezer
from squeezer.data.dataset import Split
from squeezer.formats import open_model
from squeezer.methods import UniformQuantize
from squeezer.representations import Dense
from squeezer.training.network import Network
from squeezer.training.workbench import State
from tests.training.building import ArrayDataset


class Mixed(nn.Module):
    """Norms behind convolutions with and without bias, in groups, with dilation, and behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.norm2 = nn.Conv2d(8, 8, 3, padding="same", groups=8, dilation=2), nn.BatchNorm2d(8, eps=1e-3)
        self.point, self.norm3 = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.wide, self.norm4 = nn.Linear(12, 16), nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm1(self.first(x)), inplace=True)
        x = x + functional.relu(self.norm2(self.deep(x)))
        x = functional.relu6(self.norm3(self.point(x))).mean((2, 3))
        result: torch.Tensor = self.out(functional.relu(self.norm4(self.wide(x))))
        return result


def lived_in(module: nn.Module, x: torch.Tensor, seed: int = 0) -> nn.Module:
    """The module with gains, biases and statistics as training leaves them; the statistics are those of `x`."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = 1.0
            with torch.no_grad():
                part.weight.copy_(0.5 + torch.rand(part.weight.shape, generator=generator))
                part.bias.copy_(0.5 * torch.randn(part.bias.shape, generator=generator))
    module.train()
    with torch.no_grad():
        for _ in range(8):  # each settles one more layer
            module(x)
    return module.eval()


def exported(module: nn.Module, x: torch.Tensor, folder: Path) -> State:
    model = open_model(squeezer.export(module, x[:2], folder / "model.pt2"))
    assert model.graph is not None
    state = State(model.graph, {info.name: Dense(model.read(info.name), info.dtype) for info in model.tensors})
    model.close()
    return state


def weights_of(state: State) -> set[str]:
    return {name for name, tensor in state.tensors.items() if len(tensor.shape) >= 2}


def outputs(state: State, x: torch.Tensor) -> NDArray[Any]:
    tensors = {name: torch.from_numpy(tensor.decode()) for name, tensor in state.tensors.items()}
    with torch.no_grad():
        result = Network(state.graph)(tensors, [x])
    assert isinstance(result, torch.Tensor)
    return result.numpy()


def loaded(module: nn.Module, state: State) -> nn.Module:
    """The user's own class with these tensors."""
    module.load_state_dict({name: torch.from_numpy(tensor.decode()) for name, tensor in state.tensors.items()})
    return module.eval()


def rounded(state: State, relative_step: float, **settings: Any) -> State:
    """Each weight to the nearest multiple of a step, unless the settings say more."""
    step = UniformQuantize(relative_step=relative_step, **settings)
    changed = {name: step.apply(name, state.tensors[name], None, 0) for name in weights_of(state)}
    return State(state.graph, state.tensors | changed)


def rows_of(x: torch.Tensor) -> ArrayDataset:
    """Training rows without labels."""
    return ArrayDataset((x.numpy(),), None, np.full(len(x), Split.TRAIN.value))
