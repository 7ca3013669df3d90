"""A network for sensors, in the manner of DeepSense (Yao et al. 2017, "DeepSense: a unified deep learning framework for
time-series mobile sensing data processing", WWW, section 3): convolutions of each sensor by itself, then of all
together, then a recurrence over the intervals of time, whose outputs are averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from squeezer.zoo.shapes import extent, unusable_shape

if TYPE_CHECKING:
    from squeezer.zoo.shapes import Shape, Shapes

_FILTERS = 64
_CELLS = 120
_INTERVALS = 20  # the paper's; the weights do not tell
_CELLS_OF = {"deepsense-gru": nn.GRU, "deepsense-lstm": nn.LSTM}


class Convolutions(nn.Module):
    """Three convolutions: one that spans all rows and halves the columns, and two along the columns.

    Maps (n, `inputs`, `rows`, columns) to (n, 64, 1, columns / 2). Each is followed by batch norm and ReLU.
    """

    def __init__(self, inputs: int, rows: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, _FILTERS, (rows, 3), (1, 2), (0, 1), bias=False)
        self.bn1 = nn.BatchNorm2d(_FILTERS)
        self.conv2 = nn.Conv2d(_FILTERS, _FILTERS, (1, 3), 1, (0, 1), bias=False)
        self.bn2 = nn.BatchNorm2d(_FILTERS)
        self.conv3 = nn.Conv2d(_FILTERS, _FILTERS, (1, 3), 1, (0, 1), bias=False)
        self.bn3 = nn.BatchNorm2d(_FILTERS)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve."""
        x = self.dropout(functional.relu(self.bn1(self.conv1(x))))
        x = self.dropout(functional.relu(self.bn2(self.conv2(x))))
        return functional.relu(self.bn3(self.conv3(x)))


class DeepSense(nn.Module):
    """(batch, sensors, intervals, axes, features) measurements to (batch, `classes`) logits.

    `features` of an interval are what an axis measured in it: samples, or (in the paper) parts of their spectrum.
    """

    def __init__(self, cells: type[nn.GRU | nn.LSTM], shape: Shape, classes: int) -> None:
        super().__init__()
        self.count, self.intervals, self.axes, self.features = shape
        columns = (self.features + 1) // 2
        self.width = _FILTERS * ((columns + 1) // 2)
        self.sensors = nn.ModuleList(Convolutions(1, self.axes) for _ in range(self.count))
        self.merge = Convolutions(_FILTERS, self.count)
        self.rnn = cells(self.width, _CELLS, num_layers=2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(_CELLS, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        each = [
            sensor(x[:, i].reshape(-1, 1, self.axes, self.features)) for i, sensor in enumerate(self.sensors)
        ]  # (batch * intervals, 64, 1, columns)
        merged = self.merge(torch.cat(each, 2))
        states, _ = self.rnn(merged.reshape(-1, self.intervals, self.width))
        logits: torch.Tensor = self.head(states.mean(1))
        return logits


def build(name: str, classes: int, shape: Shape) -> nn.Module:
    """The network with the cells of that name, for measurements of that shape."""
    if len(shape) != 4 or min(shape) < 1:
        raise unusable_shape(name, shape, "(sensors, intervals, axes, features)")
    return DeepSense(_CELLS_OF[name], shape, classes)


def infer(name: str, shapes: Shapes) -> tuple[int, Shape]:  # noqa: ARG001 # the families' interface
    """How many classes a state dict is for, and inputs of which shape; it takes any number of intervals."""
    sensors = min(extent(shapes, "merge.conv1.weight", 2, 2), len(shapes))  # each has tensors of its own
    axes = extent(shapes, "sensors.0.conv1.weight", 2, 3)
    features = 4 * (extent(shapes, "rnn.weight_ih_l0", 1, 5 * _FILTERS) // _FILTERS)
    return extent(shapes, "head.weight", 0, 6), (sensors, _INTERVALS, axes, features)
