"""Small valid files, and changes to them whose checksums are right."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squeezer.artifact import ArtifactWriter
from squeezer.artifact.writer import encode_tensor
from squeezer.representations import Dense, Masked, Representation, Shared, Uniform
from tests.fuzz.container import Container

if TYPE_CHECKING:
    from collections.abc import Callable

F32 = np.dtype(np.float32)
_KEPT = np.arange(200) % 3 == 0
_CODES = np.random.default_rng(0).integers(0, 15, 200)
#: One of each representation, of 200 elements, coded raw so that their bytes are known.
TENSORS: dict[str, Representation] = {
    "dense": Dense(np.linspace(-1, 1, 200, dtype=np.float32), F32),
    "flags": Dense(_KEPT, np.dtype(np.bool_)),
    "masked": Masked(np.linspace(1, 2, 200, dtype=np.float32), _KEPT),
    "shared": Shared(np.linspace(-1, 1, 16, dtype=np.float32), _CODES.astype(np.uint8), False, F32),
    "uniform": Uniform(np.float32(0.1), (_CODES - 7).astype(np.int8), F32),
}


@cache
def valid(coder: str = "raw") -> bytes:
    """A file with all of them, two aliases and two files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "valid.sqz"
        with ArtifactWriter(path) as writer:
            for name, tensor in TENSORS.items():
                writer.add(name, tensor, encode_tensor(tensor, coder))
            writer.add_alias("tied", "dense")
            writer.add_alias("tied too", "shared")
            writer.add_file("config.json", b"{}")
            writer.add_file("vocab.txt", b"word\n" * 100)
        return path.read_bytes()


def forged(change: Callable[[Container], object], coder: str = "raw", *, fit: bool = True) -> bytes:
    """The valid file after a change; with lengths and counts that fit it, unless these are what is attacked."""
    container = Container.of(valid(coder))
    change(container)
    if fit:
        container.fit()
    return container.pack()
