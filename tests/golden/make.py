"""Writes golden files for a format that is about to be frozen: `python -m tests.golden.make`.

A file that is there is never written again: it is what users have. A later format gets files of its own.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.artifact import ArtifactWriter
from squeezer.artifact.layout import VERSION
from squeezer.artifact.writer import encode_tensor
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS, Level
from squeezer.codecs.context import Context
from squeezer.codecs.planes import Planes
from squeezer.methods.quantization.uniform_quantize import UniformQuantize
from squeezer.model import DTYPES, is_float
from squeezer.representations import Dense, Masked, Representation, Shared, Uniform
from tests.golden import FOLDER, MANIFEST, described

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_BF16, _F32 = DTYPES["BF16"], DTYPES["F32"]


def weights(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Numbers like a network's: rows differ in scale, neighbours are alike."""
    random = np.random.default_rng([seed, *shape])
    noise = random.standard_normal(shape)
    noise[..., 1:] += 0.7 * noise[..., :-1]
    scale = np.exp(random.standard_normal((shape[0],) + (1,) * (len(shape) - 1)))
    return (0.05 * scale * noise).astype(np.float32)


def tensors(long: NDArray[np.float32]) -> dict[str, Representation]:
    """Every representation, short and long, dense and sparse."""
    kernels, matrix = weights(12, 8, 3, 3), weights(24, 40)
    sparse = np.abs(long) > np.quantile(np.abs(long), 0.93)
    book = np.linspace(-0.4, 0.4, 16).astype(np.float16)
    nearest = np.abs(matrix[..., None] - book.astype(np.float32)).argmin(axis=-1).astype(np.uint8)
    levels = np.rint(long / 0.04).astype(np.int16)
    trellis = UniformQuantize(relative_step=0.5, trellis=True, error_feedback=True)
    return {
        "dense.float32": Dense(matrix, _F32),
        "dense.as_float16": Dense(matrix.astype(np.float16), _F32),
        "dense.bfloat16": Dense(matrix.astype(_BF16), _BF16),
        "masked": Masked(matrix, np.abs(matrix) > 0.1),
        "shared.16": Shared(book, nearest, False, _F32),
        "shared.sparse": Shared(book, np.where(sparse, nearest[0, 0] + 1, 0).astype(np.uint8), True, _BF16),
        "shared.300": Shared(np.linspace(-1, 1, 300).astype(_F32), (nearest * 18).astype(np.uint16), False, _F32),
        "uniform.kernels": Uniform(np.float32(0.03), np.rint(kernels / 0.03).astype(np.int8), _F32),
        "uniform.long": Uniform(np.float32(0.04), levels, _F32),
        "uniform.sparse": Uniform(np.float32(0.04), np.where(sparse, levels, 0).astype(np.int16), _F32),
        "uniform.wide": Uniform(np.float32(1e-4), np.rint(matrix / 1e-4).astype(np.int32), _F32),
        "uniform.constant": Uniform(np.float32(0.5), np.full((7, 9), -3, np.int8), _F32),
        "trellis.kernels": trellis.apply("", Dense(kernels, _F32), None, 0),
        "trellis.long": trellis.apply("", Dense(long, _F32), None, 0),
        "trellis.sparse": trellis.apply("", Masked(long, sparse), None, 0),
    }


def types() -> dict[str, Representation]:
    """Dense tensors of every element type, with the values that are rare; no dimensions, and no elements."""
    random = np.random.default_rng(1)
    found: dict[str, Representation] = {}
    for name, dtype in DTYPES.items():
        noise = random.integers(0, 256, (6, 5 * dtype.itemsize), np.uint8)
        array = (noise % 2).view(np.bool_) if dtype.kind == "b" else noise.view(dtype)
        found[f"{name}.noise"] = Dense(array, dtype)
        if is_float(dtype):
            found[f"{name}.rare"] = Dense(
                np.array([0, -0.0, np.inf, -np.inf, np.nan, 1], np.float32).astype(dtype), dtype
            )
    found["scalar"] = Dense(np.array(2.5, _F32), _F32)
    found["empty"] = Dense(np.empty((3, 0, 2), _F32), _F32)
    return found


def chunked() -> dict[str, Representation]:
    """More elements than a chunk has, most of them zero."""
    codes = np.zeros((1 << 20) + 5000, np.int8)
    codes[::9973] = 3
    codes[-7:] = -1
    mask = codes != 0
    return {
        "uniform": Uniform(np.float32(0.25), codes, _F32),
        "shared": Shared(np.array([-1, 2], np.float32), np.abs(codes) % 3, True, _F32),
        "masked": Masked(codes.astype(np.int8), mask),
    }


def _write(name: str, make: Callable[[ArtifactWriter], None]) -> None:
    path = FOLDER / name
    if path.exists():
        return
    with ArtifactWriter(path) as writer:
        make(writer)
    manifest: dict[str, Any] = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    manifest[name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **described(path)}
    MANIFEST.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    print(f"{name}: {path.stat().st_size} bytes")


def _add(writer: ArtifactWriter, found: dict[str, Representation], coder: str, level: str) -> None:
    for name, tensor in found.items():
        writer.add(name, tensor, encode_tensor(tensor, coder, level))


def _with_extras(writer: ArtifactWriter) -> None:
    _add(writer, types(), "auto", "balanced")
    writer.add("Ünï.码.weight", Dense(weights(2, 3), _F32), encode_tensor(Dense(weights(2, 3), _F32)))
    writer.add_alias("tied", "scalar")
    writer.add_alias("tied.too", "F32.noise")
    writer.add_file("config.json", b'{"layers": 2}')
    writer.add_file("sub/vocab.txt", b"word\n" * 50)


def main() -> None:
    """Write the files that are missing."""
    version = f"format{VERSION}"
    lanes, slow = tensors(weights(160, 250)), tensors(weights(30, 50))  # as the context coder is, in plain Python
    for codec in (*ARRAY_CODECS.values(), *SYMBOL_CODECS.values()):
        found = slow if codec.name in (Context.name, Planes.name) else lanes
        _write(f"{version}-{codec.name}.sqz", partial(_add, found=found, coder=codec.name, level="max"))
    for level in Level:
        found = slow if level is Level.MAX else lanes
        _write(f"{version}-{level}.sqz", partial(_add, found=found, coder="auto", level=level))
    _write(f"{version}-types.sqz", _with_extras)
    _write(f"{version}-chunks.sqz", partial(_add, found=chunked(), coder="auto", level="max"))
    _write(f"{version}-nothing.sqz", lambda writer: None)


if __name__ == "__main__":
    main()
