"""The file from which a training that was cut off goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from squeezer.representations import digest

if TYPE_CHECKING:
    from pathlib import Path

    from squeezer.representations import Representation
    from squeezer.training.settings import Settings

#: The most work that a kill can cost, in seconds.
SECONDS = 60.0
#: Of the time, at most one part in so many goes into writing.
_SHARE = 20
_NAME = "training.pt"
_FORMAT = 1
_DAMAGED = (OSError, EOFError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError)


class Checkpoint:
    """One file in the folder of a step; it belongs to one training, which `identity` names.

    Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._path = None if folder is None else folder / _NAME
        self._identity = identity
        self._written, self._took = time.monotonic(), 0.0

    def due(self, *, wanted: bool) -> bool:
        """Whether it is time to save: after a minute, or where it is `wanted` and does not slow the work down."""
        if self._path is None:
            return False
        passed = time.monotonic() - self._written
        return passed >= max(0.0 if wanted else SECONDS, _SHARE * self._took)

    def save(self, content: dict[str, Any]) -> None:
        """Replace the file; at any moment there is a whole one.

        Args:
            content: dicts, lists, numbers, strings and tensors.
        """
        if self._path is None:
            return
        started = time.monotonic()
        draft = self._path.with_suffix(".draft")
        with draft.open("wb") as file:
            torch.save({"format": _FORMAT, "identity": self._identity, "content": content}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        _sync(self._path.parent)
        self._written = time.monotonic()
        self._took = self._written - started

    def load(self) -> dict[str, Any] | None:
        """What was saved; None where nothing was, or by another training.

        Raises:
            ValueError: the file is damaged.
        """
        if self._path is None or not self._path.is_file():
            return None
        try:
            with zipfile.ZipFile(self._path) as archive:  # PyTorch checks no checksums
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
            found = torch.load(self._path, map_location="cpu", weights_only=True)
            if (found["format"], found["identity"]) != (_FORMAT, self._identity):
                return None
            content: dict[str, Any] = found["content"]
        except _DAMAGED as error:
            raise ValueError(str(error)) from error
        return content


def identity(settings: Settings, seed: int, tensors: dict[str, Representation], *others: object) -> str:
    """What a checkpoint must have been made for: settings, seed, what the training began with, and `others`."""
    state = hashlib.sha256(f"{settings.model_dump_json()} {seed} {others} {torch.__version__}".encode())
    for name, tensor in tensors.items():
        state.update(f"|{name} {digest(tensor)}".encode())
    return state.hexdigest()


def _sync(folder: Path) -> None:
    """Make sure that the folder's new entry survives a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
