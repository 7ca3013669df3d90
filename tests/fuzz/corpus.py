"""Valid inputs to damage: what every registered codec writes, and files with every representation.

Nothing here names a codec, and only the fields of representations are known by name; so what is registered is fuzzed.
What a codec or a representation does not take is found by trying, and left out; `Corpus.made` complains where nothing
was left.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

import squeezer
from squeezer.artifact import ArtifactWriter
from squeezer.artifact.writer import encode_tensor
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS, ByteWriter, write_array, write_integers
from squeezer.errors import SqueezerError
from squeezer.model import DTYPES
from squeezer.representations import REPRESENTATIONS, Representation, digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Enough for streams with entry points.
LONG = 40_000
#: Enough for more than one chunk.
CHUNKED = (1 << 20) + 300
_SHAPES: tuple[tuple[int, ...], ...] = ((12, 25), (3, 4, 5), (), (0, 3))
_BOOKS = ((16, "F32"), (16, "BF16"), (300, "F32"))
_EXTRA = {"config.json": b'{"layers": 2}', "sub/vocab.txt": b"word\n" * 300}


class CorpusError(AssertionError):
    """Something that is registered has no example."""


@dataclass(frozen=True)
class Coded:
    """What a codec wrote of `count` elements of a type, without its number."""

    codec: str
    number: int
    symbols: bool
    payload: bytes
    count: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class File:
    """A whole `.sqz` file; `elements` in all its tensors."""

    name: str
    data: bytes
    elements: int


@dataclass(frozen=True)
class Corpus:
    """All valid inputs."""

    coded: list[Coded]
    files: list[File]

    @classmethod
    def made(cls) -> Corpus:
        """The same at every call, but for changes of the library."""
        with tempfile.TemporaryDirectory() as folder:
            return cls(list(_coded()), list(_files(Path(folder))))

    def any_coded(self, random: Random) -> Coded:
        """One of what codecs wrote; each codec as often as the others."""
        codec = random.choice(sorted({case.codec for case in self.coded}))
        return _weighted(random, [(case, case.count) for case in self.coded if case.codec == codec])

    def any_file(self, random: Random) -> File:
        """One of the files."""
        return _weighted(random, [(file, file.elements) for file in self.files])


def _weighted(random: Random, cases: list[tuple[Any, int]]) -> Any:
    """Large ones take time, and are taken less often."""
    return random.choices([case for case, _ in cases], [1 / max(1.0, size / 2000) for _, size in cases])[0]


# -- codecs ----------------------------------------------------------------------------------------------------------


def integer_arrays() -> Iterator[NDArray[Any]]:
    """Integers as the codecs meet them: narrow, wide, sparse, constant, ordered; short and long."""
    random = np.random.default_rng(0)
    for size in (1, 2, 65, 700, LONG):
        levels = np.round(random.standard_normal(size) * 4)
        sparse = random.random(size) < 0.9
        yield np.where(sparse, 0, levels).astype(np.int8)
        yield levels.astype(np.int16)
        yield (np.abs(levels) + np.tile([0, 9], size)[:size]).astype(np.uint8)
        yield np.full(size, 7, np.uint8)
        yield np.zeros(size, np.int8)
        yield (random.random(size) < 0.3).astype(np.bool_)
    yield random.integers(0, 3000, 700).astype(np.uint16)
    yield np.where(random.random(900) < 0.97, 0, random.integers(-2000, 2000, 900)).astype(np.int16)
    yield random.integers(-(2**31), 2**31, 400).astype(np.int32)
    yield trellis_codes(LONG)
    # Long gaps, and rows that are alike.
    yield np.where(np.arange(9000) % 4000 == 3999, 5, 0).astype(np.int8)
    yield np.tile(random.integers(-3, 4, 50), 20).astype(np.int8)


def trellis_codes(size: int) -> NDArray[Any]:
    """Codes that depend on the state of the trellis, as docs/format.md has it: zeros where q is 1."""
    random = np.random.default_rng(4).integers(1, 4, size)
    codes = np.zeros(size, np.int8)
    for i in range(size):
        if i % 1024 == 0:
            before = [0, 0, 0]
        codes[i] = 0 if before[1] else random[i]
        before = [(int(codes[i]) + sum(before)) % 2, *before[:2]]
    return codes


def number_arrays() -> Iterator[NDArray[Any]]:
    """Numbers of every type: noise, and weights."""
    random = np.random.default_rng(1)
    for dtype in DTYPES.values():
        for size in (1, 300):
            noise = random.integers(0, 256, size * dtype.itemsize, dtype=np.uint8)
            yield (noise % 2).view(np.bool_) if dtype.kind == "b" else noise.view(dtype)
        yield (0.02 * random.standard_normal(2000)).astype(dtype)
    yield random.standard_normal(LONG).astype(np.float32)


def _coded() -> Iterator[Coded]:
    writers = (write_integers, partial(write_integers, trellis=True))
    for symbols, registry, arrays, writes in (
        (False, ARRAY_CODECS, list(number_arrays()), (write_array,)),
        (True, SYMBOL_CODECS, list(integer_arrays()), writers),
    ):
        for number, codec in registry.items():
            cases = (_written(write, codec.name, number, symbols, array) for write in writes for array in arrays)
            written = list(dict.fromkeys(case for case in cases if case))
            if len(written) < 5:
                raise CorpusError(f"codec {codec.name} takes {len(written)} of the examples: add some that it takes")
            yield from written


def _written(write: Any, name: str, number: int, symbols: bool, array: NDArray[Any]) -> Coded | None:
    out = ByteWriter()
    write(out, array, name)
    data = out.getvalue()
    # A codec that does not take the array leaves it to another one.
    return Coded(name, number, symbols, data[1:], array.size, array.dtype) if data[0] == number else None


# -- files -----------------------------------------------------------------------------------------------------------


def _fields(shape: tuple[int, ...], random: np.random.Generator) -> dict[str, list[Any]]:
    """Values for the fields of representations, by name."""
    size = int(np.prod(shape))
    weights = random.standard_normal(size).reshape(shape)
    kept = np.abs(weights) > 1
    some = random.integers(0, 15, size).reshape(shape)
    levels = np.round(weights * 5)
    noise = [dtype for dtype in DTYPES.values() if dtype.kind not in "cb"]
    return {
        "values": [(weights * 9).astype(dtype) for dtype in noise] + [kept, (weights + 1j).astype(np.complex64)],
        "mask": [kept, np.zeros(shape, np.bool_)],
        "codebook": [np.linspace(-1, 1, size).astype(DTYPES[name]) for size, name in _BOOKS],
        "codes": [
            some.astype(np.uint8),
            np.where(kept, some, 0).astype(np.uint8),
            (some * 20).astype(np.uint16),
            levels.astype(np.int8),
            np.where(kept, levels, 0).astype(np.int8),
            (levels * 99).astype(np.int16),
            (levels * 1e7).astype(np.int32),
        ],
        "sparse": [False, True],
        "step": [np.float32(0.05)],
        "dtype": [DTYPES["F32"], DTYPES["BF16"], DTYPES["F64"]],
    }


def representations(folder: Path) -> dict[str, list[Representation]]:
    """Examples of every registered representation: those that come back from a file as they were."""
    found: dict[str, list[Representation]] = {kind: [] for kind in REPRESENTATIONS}
    random = np.random.default_rng(2)
    for shape in _SHAPES:
        options = _fields(shape, random)
        for kind, cls in REPRESENTATIONS.items():
            names = [field.name for field in fields(cls)]
            if unknown := set(names) - set(options):
                raise CorpusError(f"{kind} has fields without examples: add {sorted(unknown)} to _fields")
            made = (cls(**dict(zip(names, values, strict=True))) for values in product(*map(options.get, names)))
            found[kind] += [tensor for tensor in made if _comes_back(folder / "one.sqz", tensor)]
    if missing := [kind for kind, examples in found.items() if len(examples) < 5]:
        raise CorpusError(f"too few fields go together in {missing}")
    return found


def _comes_back(path: Path, tensor: Representation) -> bool:
    try:
        write(path, {"a": tensor}, level="fast")
        with squeezer.open(path) as artifact:
            return digest(artifact.representation("a")) == digest(tensor)
    except (SqueezerError, IndexError, KeyError, ValueError):
        return False  # fields that do not go together


def write(
    path: Path, tensors: dict[str, Representation], coder: str = "auto", level: str = "max", extra: bool = False
) -> None:
    """Write a file; with aliases and files that came with the model where `extra`."""
    with ArtifactWriter(path) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor, encode_tensor(tensor, coder, level))
        if extra:
            writer.add_alias("tied.weight", next(iter(tensors)))
            for name, content in _EXTRA.items():
                writer.add_file(name, content)


def _files(folder: Path) -> Iterator[File]:
    random = Random(3)
    examples = representations(folder)
    matrices = {kind: [tensor for tensor in found if tensor.shape == _SHAPES[0]] for kind, found in examples.items()}
    path = folder / "some.sqz"

    def file(
        name: str, tensors: list[Representation], coder: str = "auto", level: str = "max", extra: bool = True
    ) -> File:
        named = {f"layer{i // 2}.{'weight' if i % 2 else 'bias'}": tensor for i, tensor in enumerate(tensors)}
        write(path, named, coder, level, extra)
        return File(name, path.read_bytes(), sum(int(np.prod(tensor.shape)) for tensor in tensors))

    for codec in (*ARRAY_CODECS.values(), *SYMBOL_CODECS.values()):
        for kind, tensors in examples.items():
            some = random.choices(tensors, [5 if np.prod(tensor.shape) > 1 else 1 for tensor in tensors], k=3)
            yield file(f"{codec.name} {kind}", some, codec.name, extra=random.random() < 0.5)
        large = [random.choice(matrices[kind]) for kind in random.sample(sorted(matrices), k=2)]
        yield file(f"{codec.name} long", [enlarged(tensor, (LONG // 200, 200)) for tensor in large], codec.name)
    everything = [tensor for tensors in examples.values() for tensor in random.choices(tensors, k=6)]
    yield file("everything", everything)
    yield file("no tensors", [], extra=False)
    for kind, tensors in matrices.items():
        yield file(f"chunks {kind}", [enlarged(random.choice(tensors), (CHUNKED,))], level="fast")


def enlarged(tensor: Representation, shape: tuple[int, ...]) -> Representation:
    """The same elements over and over."""
    arrays = {field.name: getattr(tensor, field.name) for field in fields(tensor)}
    whole = {name: array for name, array in arrays.items() if getattr(array, "shape", None) == tensor.shape}
    return replace(tensor, **{name: np.resize(array, shape) for name, array in whole.items()})
