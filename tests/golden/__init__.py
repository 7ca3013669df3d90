"""Files of frozen formats, which every later version must read: never write them again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import squeezer
from squeezer.model import DTYPE_NAMES

FOLDER = Path(__file__).parent
MANIFEST = FOLDER / "manifest.json"


def tensor_state(array: np.ndarray[Any, Any]) -> list[Any]:
    """Type, shape, and SHA-256 of the bytes."""
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return [DTYPE_NAMES[array.dtype], list(array.shape), content]


def described(path: Path) -> dict[str, Any]:
    """What is in a file."""
    with squeezer.open(path) as artifact:
        return {
            "tensors": {name: tensor_state(artifact[name]) for name in artifact.names},
            "kinds": {name: artifact.entry(name).kind for name in artifact.names},
            "aliases": artifact.aliases,
            "files": {name: hashlib.sha256(artifact.read_file(name)).hexdigest() for name in artifact.files},
            "ledger": artifact.ledger(),
        }
