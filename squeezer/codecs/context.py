"""Integers by a context-adaptive binary arithmetic coder, for level `max` (after DeepCABAC: Wiedemann et al. 2020).

The first bin of an integer says whether it is the commonest one, the centre. For another one follow its sign, where
some of the lowest integers count as negative, and its size: as a *level* (length in bits, then the bits) or by a *tree*
of bins (highest bit first, a context for each node), whichever is smaller.

Contexts are the neighbours, and the averages of magnitude along the scan and down the column. The length of rows is one
of the parameters in the stream; it is found by correlation, so that the codec need not be told the tensor's shape.
DeepCABAC's contexts are the two previous integers alone, and it does not mix. For the codes of a trellis, which of the
two quantisers holds may be a context as well, as in Haase et al. 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from squeezer.codecs import context_kernels as kernels
from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, Meaning, varint, zigzag
from squeezer.codecs.trellis import BLOCK, NEXT, following

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from squeezer.codecs.base import Histogram

#: Alphabets up to this are decoded through a table of values, and may be coded by a tree.
MAX_TREE = 4096
#: The tree has classes of contexts up to this alphabet only: there would be too many to learn.
_MAX_CLASSED_TREE = 64
#: The longest row whose columns are followed.
MAX_COLUMNS = 1 << 20
#: Parameters are chosen by trial on so many integers from the middle of the array.
_SAMPLE = 1 << 16
_PIECE = 1 << 16
#: How many row lengths are tried.
_TRIALS = 3
#: A correlation of so many standard deviations is no accident.
_SIGNIFICANT = 4.0
#: The slow estimator's time is 2^3 times that of the fast one.
_SLOWER = 3
_FAST = range(4, 9)
_WINDOWS = range(2, 6)


@dataclass(frozen=True)
class Parameters:
    """How integers are coded; all of it stands before the stream.

    Attributes:
        low: the lowest integer.
        count: how many integers lie from the lowest to the highest.
        centre: the integer that has a bin for itself.
        split: how many of the other integers, the lowest ones, count as negative.
        tree: whether other integers are coded by a tree rather than as levels.
        by_class: whether contexts of the values depend on the average magnitude.
        window: the row's average covers about 2^window integers; 2 to 5.
        fast: the fast estimator covers about 2^fast bins, the slow one 8 times more; 4 to 8.
        columns: integers in a row; 0 where columns are not followed.
        quantiser: whether the trellis' quantiser is a context too.
    """

    low: int
    count: int
    centre: int
    split: int
    tree: bool = False
    by_class: bool = True
    window: int = 3
    fast: int = 6
    columns: int = 0
    quantiser: bool = False

    @property
    def depth(self) -> int:
        """Levels of the tree; at least one, and 0 where there is none."""
        return max(1, (max(self.split, self.count - 1 - self.split) - 1).bit_length()) if self.tree else 0

    @property
    def rows(self) -> int:
        """How many contexts there are."""
        classes = (kernels.CLASSES if self.by_class else 1) * (1 + self.quantiser)
        return kernels.VALUES + classes * (2 << self.depth if self.tree else kernels.MAX_BITS)

    def _learner(self) -> tuple[Any, ...]:
        """Contexts that have seen nothing, weights and shifts: what the kernels learn with."""
        model = np.full((self.rows, 4), kernels.ONE // 2, np.int32)
        model[:, 2:] = 0
        weights = np.full((kernels.MIXERS, 2), kernels.UNIT // 2, np.int64)
        return model, weights, self.fast, self.fast + _SLOWER

    def _following(self) -> NDArray[np.int64]:
        """The trellis' next state by state and parity of `integer - low`."""
        states = following(self.low) if self.quantiser else np.zeros_like(NEXT)
        return np.ascontiguousarray(states, np.int64)

    def numbers(self) -> bytes:
        """The parameters as they are written."""
        flags = self.tree | self.by_class << 1 | (self.window - _WINDOWS.start) << 2 | (self.fast - _FAST.start) << 4
        flags |= self.quantiser << 7
        unsigned = (self.count - 1, self.centre - self.low, self.split, self.columns)
        return bytes([flags]) + varint(zigzag(self.low)) + b"".join(map(varint, unsigned))

    @classmethod
    def read(cls, data: ByteReader) -> Parameters:
        """Read what `numbers` gives.

        Raises:
            CorruptStreamError: where a parameter is out of its range.
        """
        flags = data.byte()
        tree, by_class = bool(flags & 1), bool(flags & 2)
        window, fast = (flags >> 2 & 3) + _WINDOWS.start, (flags >> 4 & 7) + _FAST.start
        low = data.signed()
        count = data.varint(limit=MAX_TREE - 1 if tree else 2**32 - 1) + 1
        centre = low + data.varint(limit=count - 1)
        split = data.varint(limit=count - 1)
        columns = data.varint(limit=MAX_COLUMNS)
        if fast not in _FAST or abs(low) > 2**32 or (tree and by_class and count > _MAX_CLASSED_TREE):
            raise CorruptStreamError("a parameter out of its range")
        return cls(low, count, centre, split, tree, by_class, window, fast, columns, bool(flags >> 7))

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """The type of `integer - low` in the kernels: only two, so that little is compiled."""
        return np.dtype(np.uint16 if self.count <= MAX_TREE else np.uint32)

    def encode(self, integers: NDArray[Any]) -> bytes:
        """The coded stream."""
        kind = self.index_dtype
        # Modulo 2^16 or 2^32, which the differences are below.
        indices = integers.astype(kind) - kind.type(self.low % (int(np.iinfo(kind).max) + 1))
        words, low, span = kernels.encode(
            indices, self.centre - self.low, self.split, self.depth, self.by_class, self.window,
            *self._learner(), np.zeros((self.columns, 2), np.int64), self._following(),
        )  # fmt: skip
        return _terminated(words, int(low), int(span))

    def decode(self, stream: memoryview | bytes, size: int) -> NDArray[Any]:
        """So many `integer - low`.

        Raises:
            CorruptStreamError: where an integer is not in the alphabet, or the stream is not all there is to it.
        """
        padded = np.zeros((len(stream) + 3) // 4 * 4, np.uint8)
        padded[: len(stream)] = memoryview(stream)
        indices = np.empty(size, self.index_dtype)
        used = kernels.decode(
            padded.view(">u4").astype(np.uint32), self.count, self.centre - self.low, self.split, self.depth,
            self.by_class, self.window, *self._learner(), np.zeros((self.columns, 2), np.int64), self._following(),
            indices,
        )  # fmt: skip
        if used < 0:
            raise CorruptStreamError("an integer outside its alphabet")
        if len(stream) > 4 * used or (len(stream) and stream[-1] == 0):
            raise CorruptStreamError("a coded stream of the wrong length")
        return indices


@dataclass(frozen=True)
class _ContextPlan:
    parameters: Parameters
    stream: bytes

    @property
    def size(self) -> int:
        return len(self.parameters.numbers()) + len(self.stream)

    def write(self, out: ByteWriter) -> None:
        out.put(self.parameters.numbers(), Category.HEADER)
        out.put(self.stream, Category.VALUES)


class Context:
    """Adaptive binary arithmetic coding."""

    number: ClassVar[int] = 4
    name: ClassVar[str] = "context"
    widest: ClassVar[int] = 1 << 32

    def plan(self, integers: NDArray[Any], counted: Histogram | None, *, trellis: bool = False) -> _ContextPlan:
        """Choose the parameters by trial, and code. Without a histogram any range up to 2^32 will do."""
        parameters = _chosen(integers, counted, trellis=trellis)
        return _ContextPlan(parameters, parameters.encode(integers))

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean."""
        parameters = Parameters.read(data)
        # A row longer than the array has no second one, and takes memory.
        if parameters.columns > out.size:
            raise CorruptStreamError("rows longer than the array")
        stream = data.rest(Category.VALUES)
        meaning.check(parameters.low, parameters.count)
        narrow = parameters.count <= MAX_TREE
        if narrow:
            values = meaning.of_range(parameters.low, parameters.count)
        indices = parameters.decode(stream, out.size)
        # In pieces, since numpy widens indices to eight bytes before it uses them.
        for start in range(0, out.size, _PIECE):
            piece = indices[start : start + _PIECE]
            meant = values[piece] if narrow else meaning.of(piece.astype(np.int64) + parameters.low)
            out[start : start + _PIECE] = meant


def _chosen(integers: NDArray[Any], counted: Histogram | None, *, trellis: bool) -> Parameters:
    """The best parameters for a sample, one after the other."""
    if counted is None:
        low, high = int(integers.min()), int(integers.max())
        centre = min(max(low, 0), high)
        first = Parameters(low, high - low + 1, centre, centre - low)
    else:
        centre = int(counted.counts.argmax())
        first = Parameters(counted.low, counted.alphabet, counted.low + centre, centre)
    start = (integers.size - _SAMPLE) // 2 // BLOCK * BLOCK if integers.size > _SAMPLE else 0
    trials = _Trials(integers[start : start + _SAMPLE])
    best = trials.best(first, replace(first, split=(first.count - 1) // 2))
    lengths = _row_lengths(integers, first.centre)
    best = trials.best(best, *(replace(best, columns=columns) for columns in lengths))
    if best.count <= MAX_TREE:
        trees = [False, True] if best.count <= _MAX_CLASSED_TREE else [False]
        best = trials.best(best, *(replace(best, tree=True, by_class=by_class) for by_class in trees))
    best = trials.best(best, replace(best, by_class=False))
    if trellis:
        best = trials.best(best, replace(best, quantiser=True))
    best = trials.best(*(replace(best, fast=fast) for fast in _FAST))
    return trials.best(*(replace(best, window=window) for window in _WINDOWS))


class _Trials:
    """How many bytes a sample takes with some parameters; nothing is tried twice."""

    def __init__(self, sample: NDArray[Any]) -> None:
        self._sample = sample
        self._sizes: dict[Parameters, int] = {}

    def best(self, *candidates: Parameters) -> Parameters:
        """The first of the smallest."""
        return min(candidates, key=self._size)

    def _size(self, parameters: Parameters) -> int:
        if parameters not in self._sizes:
            self._sizes[parameters] = len(parameters.numbers()) + len(parameters.encode(self._sample))
        return self._sizes[parameters]


def _row_lengths(integers: NDArray[Any], centre: int) -> list[int]:
    """Divisors of the array's size at whose distance magnitudes are most alike: rows of a matrix, taps of a kernel."""
    size = integers.size
    lengths = [d for d in _divisors(size) if 1 < d <= min(size // 2, MAX_COLUMNS)]
    magnitudes = np.abs(integers[: 2 * _SAMPLE].astype(np.float32) - np.float32(centre))
    magnitudes = np.minimum(magnitudes, 4 * magnitudes.mean())
    magnitudes -= magnitudes.mean()
    power = float(np.dot(magnitudes, magnitudes))
    found: list[tuple[float, int]] = []
    for length in lengths:
        pairs = magnitudes.size - length
        if pairs > 0 and power > 0:
            together = float(np.dot(magnitudes[length:], magnitudes[:pairs]))
            found.append((together * magnitudes.size / power / pairs**0.5, length))
    likely = sorted((pair for pair in found if pair[0] > _SIGNIFICANT), reverse=True)
    # A multiple of the true length correlates as well, but has fewer rows to learn from.
    shortest = [min(length for score, length in likely if 2 * score > likely[0][0])] if likely else []
    return list(dict.fromkeys([length for _, length in likely[:_TRIALS]] + shortest))


def _divisors(number: int) -> Iterable[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _terminated(words: NDArray[np.uint32], low: int, span: int) -> bytes:
    """The words, and the shortest fraction that lies in the final interval, without zeros at its end.

    Past the end a decoder reads zeros. Of all numbers in [low, low + span) the one with most zero bits at its end is
    taken; it may carry into the words.
    """
    head = int.from_bytes(words.astype(">u4").tobytes(), "big")
    keep = next(shift for shift in range(64, -1, -8) if (-(-low >> shift) << shift) < low + span)
    value = (head << 64) + (-(-low >> keep) << keep)
    return value.to_bytes(4 * words.size + 8, "big").rstrip(b"\0")
