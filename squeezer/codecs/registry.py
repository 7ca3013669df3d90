"""All codecs, and the choice among them: the smallest, whose exact size is known before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.codecs.base import (
    ArrayCodec,
    ByteReader,
    ByteWriter,
    Category,
    CorruptStreamError,
    Histogram,
    Itself,
    Level,
    Meaning,
    Plan,
    SymbolCodec,
)
from squeezer.codecs.context import Context
from squeezer.codecs.dense import DenseHuffman
from squeezer.codecs.gaps import Gaps
from squeezer.codecs.planes import Planes
from squeezer.codecs.rans import Rans
from squeezer.codecs.raw import Raw
from squeezer.codecs.symbols import histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Biases and norms of small layers are shorter.
_LEAST_FOR_RANS = 256
#: The registration: a new codec is a new file and one entry here, with the first level at which `auto` tries it.
_SYMBOL: tuple[tuple[SymbolCodec, Level], ...] = (
    (DenseHuffman(), Level.FAST),
    (Gaps(), Level.FAST),
    (Rans(), Level.BALANCED),
    (Context(), Level.MAX),
)
#: By the numbers that stand for them in a file.
SYMBOL_CODECS: dict[int, SymbolCodec] = {codec.number: codec for codec, _ in _SYMBOL}


def _symbol_plans(
    integers: NDArray[Any], counted: Histogram, level: Level, *, trellis: bool = False
) -> Iterator[tuple[SymbolCodec, Plan]]:
    """What `auto` compares."""
    zeros = counted.counts[-counted.low] if 0 <= -counted.low < counted.alphabet else 0
    hopeless = {
        # Where zeros are rare, gaps cannot win, and looking for them would double the time.
        Gaps.name: 2 * zeros <= integers.size,
        # So few save less than a state and finer tables take, and the search for these takes a millisecond.
        Rans.name: integers.size < _LEAST_FOR_RANS,
    }
    for codec, first in _SYMBOL:
        if level.allows(first) and not hopeless.get(codec.name, False) and counted.alphabet <= codec.widest:
            yield codec, codec.plan(integers, counted, trellis=trellis)


_ARRAY: tuple[ArrayCodec, ...] = (Raw(), Planes(_symbol_plans, SYMBOL_CODECS))
ARRAY_CODECS: dict[int, ArrayCodec] = {codec.number: codec for codec in _ARRAY}


def write_array(out: ByteWriter, array: NDArray[Any], coder: str = "auto", level: str = "balanced") -> str:
    """Append any array of at least one element bit for bit, preceded by its codec's number; returns the codec's name.

    `coder` is `auto` or the name of a codec, which is taken where it can write the array.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    return _write_best(out, _array_plans(flat, Level(level)), coder)


def write_integers(
    out: ByteWriter, array: NDArray[Any], coder: str = "auto", level: str = "balanced", *, trellis: bool = False
) -> str:
    """Append at least one integer (or boolean), preceded by their codec's number; returns the codec's name.

    Args:
        out: where to.
        array: the integers.
        coder: `auto`, or the name of a codec, which is taken where it can write them.
        level: which codecs `auto` tries: see `Level`.
        trellis: whether these are codes of a trellis, which some codecs can make use of.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "b":
        flat = flat.view(np.uint8)
    counted = histogram(flat)
    if counted is None:
        return _write_best(out, _array_plans(flat, Level(level)), coder)
    named = [codec for codec in SYMBOL_CODECS.values() if codec.name == coder and counted.alphabet <= codec.widest]
    if named:
        plans = [(codec, codec.plan(flat, counted, trellis=trellis)) for codec in named]
    else:
        plans = list(_symbol_plans(flat, counted, Level(level), trellis=trellis))
    # Planes take a pass over the integers, and only pay where these are too many for one Huffman code.
    arrays = ARRAY_CODECS.values() if counted.alphabet > DenseHuffman.widest else [ARRAY_CODECS[Raw.number]]
    return _write_best(out, [*plans, *((codec, codec.plan(flat, Level(level))) for codec in arrays)], coder)


def read_array(data: ByteReader, out: NDArray[Any]) -> None:
    """Fill `out`, one-dimensional and of at least one element, with what `write_array` wrote.

    Raises:
        CorruptStreamError: where the bytes are not what it writes.
    """
    codec = ARRAY_CODECS.get(data.byte())
    if codec is None:
        raise CorruptStreamError("a codec that this version does not know")
    codec.read(data, out)
    _check_booleans(out)


def read_integers(data: ByteReader, out: NDArray[Any], dtype: np.dtype[Any], meaning: Meaning | None = None) -> None:
    """Fill `out`, one-dimensional and of at least one element, with integers that `write_integers` wrote.

    Args:
        data: where from.
        out: of the integers' type; with a meaning, of its type.
        dtype: the integers' type.
        meaning: where given, `out` receives the values that the integers stand for.

    Raises:
        CorruptStreamError: where the bytes are not what `write_integers` writes.
    """
    meaning = meaning or Itself(dtype)
    number = data.byte()
    if number in ARRAY_CODECS:
        integers = np.empty(out.size, dtype)
        ARRAY_CODECS[number].read(data, integers)
        _check_booleans(integers)
        out[:] = meaning.of(integers)
        return
    if number not in SYMBOL_CODECS:
        raise CorruptStreamError("a codec that this version does not know")
    SYMBOL_CODECS[number].read(data, out, meaning)


def _check_booleans(array: NDArray[Any]) -> None:
    # Whoever computes with another byte gets what no C compiler promises.
    if array.dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise CorruptStreamError("a boolean that is neither 0 nor 1")


def _array_plans(flat: NDArray[Any], level: Level) -> list[tuple[ArrayCodec, Plan]]:
    return [(codec, codec.plan(flat, level)) for codec in ARRAY_CODECS.values()]


def _write_best(out: ByteWriter, plans: list[tuple[Any, Plan]], coder: str) -> str:
    wanted = [plan for plan in plans if plan[0].name == coder] or plans
    codec, plan = min(wanted, key=lambda item: item[1].size)
    out.put(bytes([codec.number]), Category.HEADER)
    plan.write(out)
    return str(codec.name)
