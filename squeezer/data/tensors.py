"""Arrays in a safetensors file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from squeezer.data.sources import Held, OnDisk, Source, check_type
from squeezer.formats.safetensors import SafetensorsModel

if TYPE_CHECKING:
    from pathlib import Path

    from squeezer.model import TensorInfo


class _Tensors(SafetensorsModel):
    """Tells, in addition, where in the file a tensor lies."""

    def begin(self, name: str) -> int:
        """The position of a tensor's first byte."""
        return self._data + self._entries[name].begin


class SafetensorsArrays:
    """An opened safetensors file.

    Raises:
        ModelError: the header is wrong, or the file ends too early.
    """

    def __init__(self, path: Path) -> None:
        self._file = _Tensors(path)
        self._infos = {info.name: info for info in self._file.tensors}
        self._fd = os.open(path, os.O_RDONLY)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._infos)

    def info(self, name: str) -> TensorInfo:
        """Shape and type by the header."""
        info = self._infos[name]
        check_type(name, info.dtype)
        return info

    def held(self, name: str) -> Source:
        """The tensor in memory."""
        return Held(name, self._file.read(name))

    def on_disk(self, name: str) -> Source:
        """The tensor where it lies."""
        return OnDisk(self._infos[name], self._fd, self._file.begin(name))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
