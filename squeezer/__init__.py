"""Squeezer: trained neural networks in small, proven files.

    squeezer.compress("model.safetensors", "safe", "model.sqz")
    weights = squeezer.load("model.sqz")  # {name: ndarray}

Importing this package loads nothing else; the first call does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squeezer.api import compress, decompress, load, open, verify  # noqa: A004 # the interface's name

__version__ = "0.1.0"
__all__ = ["compress", "decompress", "load", "open", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("squeezer.api"), name)
    raise AttributeError(f"module 'squeezer' has no attribute {name!r}")
