"""Squeezer: trained neural networks in small, proven files.

    squeezer.compress("model.safetensors", "safe", "model.sqz")
    weights = squeezer.load("model.sqz")  # {name: ndarray}
    squeezer.export(module, example_inputs, "model.pt2")  # a torch module, to be retrained
    network = squeezer.torch.load_module("model.sqz")  # a torch module again

Importing this package loads nothing else; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squeezer import torch as torch
    from squeezer import zoo as zoo
    from squeezer.api import compress, decompress, load, open, verify  # noqa: A004 # the interface's name
    from squeezer.torch import export

__version__ = "0.1.0"
__all__ = ["compress", "decompress", "export", "load", "open", "verify"]

_MODULES = frozenset({"torch", "zoo"})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"squeezer.{name}")
    if name in __all__:
        return getattr(import_module("squeezer.torch" if name == "export" else "squeezer.api"), name)
    raise AttributeError(f"module 'squeezer' has no attribute {name!r}")
