"""All codecs, and the choice among them: the smallest, whose exact size is known before anything is coded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.codecs.base import (
    ArrayCodec,
    ByteReader,
    ByteWriter,
    Category,
    CorruptStreamError,
    Itself,
    Meaning,
    Plan,
    SymbolCodec,
)
from squeezer.codecs.context import Context
from squeezer.codecs.dense import DenseHuffman
from squeezer.codecs.gaps import Gaps
from squeezer.codecs.planes import Planes
from squeezer.codecs.raw import Raw
from squeezer.codecs.symbols import histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The registration: a new codec is a new file and one entry here.
_ARRAY: tuple[ArrayCodec, ...] = (Raw(), Planes())
_SYMBOL: tuple[SymbolCodec, ...] = (DenseHuffman(), Gaps(), Context())
#: By the numbers that stand for them in a file.
ARRAY_CODECS: dict[int, ArrayCodec] = {codec.number: codec for codec in _ARRAY}
SYMBOL_CODECS: dict[int, SymbolCodec] = {codec.number: codec for codec in _SYMBOL}


def write_array(out: ByteWriter, array: NDArray[Any], coder: str = "auto") -> str:
    """Append any array bit for bit, preceded by its codec's number; returns the codec's name.

    `coder` is `auto` or the name of a codec, which is taken where it can write the array.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    return _write_best(out, _array_plans(flat), coder)


def write_integers(out: ByteWriter, array: NDArray[Any], coder: str = "auto", level: str = "balanced") -> str:
    """Append integers (or booleans), preceded by their codec's number; returns the codec's name.

    At level `max`, `auto` also tries the context coder, which is the smallest and by far the slowest.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "b":
        flat = flat.view(np.uint8)
    counted = histogram(flat) if flat.size else None
    if counted is None:
        return _write_best(out, _array_plans(flat), coder)
    zeros = counted.counts[-counted.low] if 0 <= -counted.low < counted.alphabet else 0
    plans: list[tuple[int, str, Plan]] = []
    for number, codec in SYMBOL_CODECS.items():
        worthwhile = {
            # Where zeros are rare, gaps cannot win, and looking for them would double the time.
            Gaps.name: 2 * zeros > flat.size,
            # Its plan is as slow as coding.
            Context.name: level == "max" and coder == "auto",
        }
        if coder == codec.name or worthwhile.get(codec.name, True):
            plans.append((number, codec.name, codec.plan(flat, counted)))
    raw = ARRAY_CODECS[Raw.number]
    return _write_best(out, [*plans, (raw.number, raw.name, raw.plan(flat))], coder)


def read_array(data: ByteReader, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read `count` numbers of that type.

    Raises:
        CorruptStreamError: where the bytes are not what `write_array` writes.
    """
    codec = ARRAY_CODECS.get(data.byte())
    if codec is None:
        raise CorruptStreamError("a codec that this version does not know")
    out = np.empty(count, dtype)
    codec.read(data, out)
    return out


def read_integers(data: ByteReader, count: int, dtype: np.dtype[Any], meaning: Meaning | None = None) -> NDArray[Any]:
    """Read `count` integers of that type; with a meaning, the values that they stand for.

    Raises:
        CorruptStreamError: where the bytes are not what `write_integers` writes.
    """
    meaning = meaning or Itself(dtype)
    number = data.byte()
    if number in ARRAY_CODECS:
        integers = np.empty(count, dtype)
        ARRAY_CODECS[number].read(data, integers)
        return meaning.of(integers)
    if number not in SYMBOL_CODECS:
        raise CorruptStreamError("a codec that this version does not know")
    out = np.empty(count, meaning.dtype)
    SYMBOL_CODECS[number].read(data, out, meaning)
    return out


def _array_plans(flat: NDArray[Any]) -> list[tuple[int, str, Plan]]:
    codecs = ARRAY_CODECS.values() if flat.size else [ARRAY_CODECS[Raw.number]]
    return [(codec.number, codec.name, codec.plan(flat)) for codec in codecs]


def _write_best(out: ByteWriter, plans: list[tuple[int, str, Plan]], coder: str) -> str:
    wanted = [plan for plan in plans if plan[1] == coder] or plans
    number, name, plan = min(wanted, key=lambda item: item[2].size)
    out.put(bytes([number]), Category.HEADER)
    plan.write(out)
    return name
