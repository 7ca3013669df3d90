"""Modules of many kinds, as users write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Convolutions(nn.Module):
    """Batch norm with and without statistics, work in place, dropout of channels and of values."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.2),
            nn.Conv2d(4, 8, 3, bias=False),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.SiLU(),
            nn.MaxPool2d(2),
        )
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.dropout(self.features(x).mean((2, 3))))
        return result


class Residual(nn.Module):
    """An addition in place, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        y = self.second(functional.relu(self.norm(self.first(x))))
        y += short
        return functional.relu_(y).flatten(2).mean(2)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM] | type[nn.RNN]) -> None:
        super().__init__()
        self.layers = kind(4, 6, 2, batch_first=True, dropout=0.3, bidirectional=True)
        self.out = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.layers(x)[0][:, -1])
        return result


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        causal = torch.ones(x.shape[1], x.shape[1], device=x.device).triu(1).bool()
        result: torch.Tensor = self.out(self.encoder(self.embedding(x), mask=causal, is_causal=True))
        return result


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding="same")
        self.deep = nn.Conv2d(8, 16, 3, 2, 1)
        self.norms = nn.Sequential(nn.InstanceNorm2d(16, affine=True, track_running_stats=True), nn.GroupNorm(4, 16))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = functional.elu(self.down(x))
        deep = functional.gelu(self.norms(self.deep(first)), approximate="tanh")
        up = functional.interpolate(self.up(deep), size=first.shape[-2:], mode="bilinear")
        return self.out(torch.cat([first, up], 1)), deep.amax((2, 3))


class Tied(nn.Module):
    """A head that is the embedding, and parts whose names mean something in Python or in torch.fx."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embedding.weight
        self.heads = nn.ModuleDict({"class": nn.Linear(4, 4), "a-b": nn.Linear(4, 4)})
        self.graph, self.code = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.code(self.graph(self.heads["class"](self.embedding(x).mean(1))))
        result: torch.Tensor = self.out(self.heads["a-b"](y) + self.shift + torch.tensor([1.0, 0, 0, 0]))
        return result


def examples() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Each kind with inputs."""
    torch.manual_seed(0)
    steps, tokens = torch.randn(3, 5, 4), torch.randint(0, 10, (3, 5))
    return {
        "convolutions": (Convolutions(), torch.randn(3, 1, 9, 9)),
        "residual": (Residual(), torch.randn(3, 3, 8, 8)),
        "gru": (Recurrent(nn.GRU), steps),
        "lstm": (Recurrent(nn.LSTM), steps),
        "rnn": (Recurrent(nn.RNN), steps),
        "transformer": (Transformer(), tokens),
        "unet": (UNet(), torch.randn(3, 3, 8, 8)),
        "tied": (Tied(), tokens),
    }


def outputs_of(result: Any) -> tuple[torch.Tensor, ...]:
    """A network's one output or its several ones, as a tuple."""
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)
