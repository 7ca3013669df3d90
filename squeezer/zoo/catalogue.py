"""Which networks there are. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from squeezer.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

    from squeezer.zoo.shapes import Shape, Shapes


class Family(Protocol):
    """What a module of networks has."""

    def build(self, name: str, classes: int, shape: Shape) -> nn.Module:
        """A network for inputs of that shape, without the batch."""
        ...

    def infer(self, name: str, shapes: Shapes) -> tuple[int, Shape]:
        """How many classes a state dict is for, and inputs of which shape; as published where it does not tell."""
        ...


@dataclass(frozen=True)
class Architecture:
    """A built-in network, as it is where nobody says otherwise."""

    name: str
    summary: str
    input_shape: tuple[int, ...]  # without the batch
    classes: int
    family: str  # the module of this package that builds it


_DIGITS, _IMAGES, _SENSORS = (1, 28, 28), (3, 32, 32), (2, 20, 3, 20)
_DEEPSENSE = "sensors: convolutions of each and of all, then two layers of"

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("lenet-300-100", "digits: two hidden layers of 300 and 100", _DIGITS, 10, "lenet"),
        Architecture("lenet5", "digits: two convolutions and two layers (Caffe's LeNet-5)", _DIGITS, 10, "lenet"),
        *(
            Architecture(
                f"resnet{layers}", f"small images: the ResNet for CIFAR of {layers} layers", _IMAGES, 10, "resnet"
            )
            for layers in (20, 32, 44, 56, 110)
        ),
        Architecture("squeezenet1_1", "images: SqueezeNet 1.1", (3, 224, 224), 1000, "squeezenet"),
        Architecture("deepsense-gru", f"{_DEEPSENSE} GRU cells (DeepSense)", _SENSORS, 6, "deepsense"),
        Architecture("deepsense-lstm", f"{_DEEPSENSE} LSTM cells", _SENSORS, 6, "deepsense"),
        Architecture(
            "vit-cifar", "small images: a transformer encoder of 6 layers over 4 x 4 patches", _IMAGES, 10, "vit"
        ),
    )
}


def find(name: str) -> Architecture:
    """The network of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in ARCHITECTURES:
        raise RecipeError(f"There is no built-in architecture {name!r}. There are: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def family_of(architecture: Architecture) -> Family:
    """The module that builds a network. It loads torch."""
    return cast("Family", import_module(f"squeezer.zoo.{architecture.family}"))
