"""A slow decoder in plain Python, written from docs/format.md alone: what the real one is compared with."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from fractions import Fraction
from math import prod

import ml_dtypes
import numpy as np

from tests.codecs import context_reference

TYPES = [
    np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8, np.bool_, np.complex64,
]  # fmt: skip
KINDS = ["dense", "masked", "shared", "uniform"]


class Bytes:
    """A cursor that books every byte under a category."""

    def __init__(self, data: bytes, ledger: Counter[str]) -> None:
        self.data, self.at, self.ledger = data, 0, ledger

    def take(self, n: int, category: str) -> bytes:
        assert self.at + n <= len(self.data)
        self.at += n
        self.ledger[category] += n
        return self.data[self.at - n : self.at]

    def u8(self, category: str = "header") -> int:
        return self.take(1, category)[0]

    def u32(self, category: str) -> int:
        return int(struct.unpack("<I", self.take(4, category))[0])

    def varint(self, category: str = "header") -> int:
        value = shift = 0
        while True:
            byte = self.u8(category)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def signed(self) -> int:
        v = self.varint()
        return v // 2 if v % 2 == 0 else -(v + 1) // 2


def decode(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, bytes], Counter[str]]:
    """All tensors (aliases too), all files, and the ledger of a `.sqz` file."""
    ledger: Counter[str] = Counter()
    head = Bytes(data, ledger)
    assert head.take(3, "header") == b"SQZ"
    assert head.u8() == 0
    tail = Bytes(data[-8:], ledger)
    length = tail.u32("header")
    check = tail.u32("checks")
    raw_index = data[len(data) - 8 - length : -8]
    assert zlib.crc32(data[:4] + raw_index + data[-8:-4]) == check
    index = Bytes(raw_index, ledger)
    previous = b""

    def name() -> str:
        nonlocal previous
        shared = index.varint("names")
        previous = previous[:shared] + index.take(index.varint("names"), "names")
        return previous.decode("utf-8", "surrogatepass")

    entries = []
    for _ in range(index.varint()):
        title = name()
        types = index.u8()
        shape = [index.varint() for _ in range(index.varint())]
        entries.append((title, types & 15, types >> 4, shape, index.varint(), index.u32("checks")))
    aliases = [(name(), index.varint()) for _ in range(index.varint())]
    files = [(name(), index.varint(), index.varint(), index.u32("checks")) for _ in range(index.varint())]
    assert index.at == length

    tensors: dict[str, np.ndarray] = {}
    at = 4
    for title, dtype, kind, shape, size, crc in entries:
        assert zlib.crc32(data[at : at + size]) == crc
        payload = Bytes(data[at : at + size], ledger)
        tensors[title] = _tensor(payload, KINDS[kind], shape, np.dtype(TYPES[dtype]))
        assert payload.at == size
        at += size
    for alias, position in aliases:
        tensors[alias] = tensors[entries[position][0]]
    contents = {}
    for path, size, packed, crc in files:
        assert zlib.crc32(data[at : at + packed]) == crc
        contents[path] = zlib.decompress(Bytes(data[at:], ledger).take(packed, "files"))
        assert len(contents[path]) == size
        at += packed
    assert at == len(data) - 8 - length
    return tensors, contents, ledger


def _tensor(data: Bytes, kind: str, shape: list[int], dtype: np.dtype) -> np.ndarray:
    n = prod(shape)
    if kind == "dense":
        weights = _array(data, n, np.dtype(TYPES[data.u8()])).astype(dtype)
    elif kind == "masked":
        mask = _integers(data, n, np.dtype(np.bool_))
        kept = iter(_array(data, sum(map(bool, mask)), dtype))
        weights = np.array([next(kept) if keep else 0 for keep in mask], dtype)
    elif kind == "shared":
        entry_type = np.dtype(TYPES[data.u8()])
        entries, sparse = divmod(data.varint(), 2)
        book = np.frombuffer(data.take(entries * entry_type.itemsize, "codebooks"), entry_type).astype(dtype)
        codes = _integers(data, n, np.dtype(np.uint8 if entries + sparse <= 256 else np.uint16))
        zero = np.zeros((), dtype)
        weights = np.array([(book[c - 1] if c else zero) if sparse else book[c] for c in codes], dtype)
    else:
        step = np.frombuffer(data.take(4, "codebooks"), "<f4")[0]
        levels = _integers(data, n, np.dtype(TYPES[data.u8()]))
        weights = np.array([np.float32(level) * step for level in levels], np.float32).astype(dtype)
    return weights.reshape(shape)


def _array(data: Bytes, n: int, dtype: np.dtype) -> np.ndarray:
    return _array_by(data.u8(), data, n, dtype)


def _array_by(codec: int, data: Bytes, n: int, dtype: np.dtype) -> np.ndarray:
    width = dtype.itemsize
    if codec == 0:
        return np.frombuffer(data.take(n * width, "values"), dtype)
    assert codec == 1
    coded = data.u8()
    planes = []
    for i in range(width):
        if coded >> i & 1:
            planes.append(_huffman(data, n))
        else:
            planes.append(list(data.take(n, "values")))
    numbers = [sum(planes[i][j] << 8 * i for i in range(width)) for j in range(n)]
    if dtype.kind not in "iub":
        top = 8 * width - 1
        numbers = [(v >> 1) | ((v & 1) << top) for v in numbers]
    return np.frombuffer(b"".join(v.to_bytes(width, "little") for v in numbers), dtype)


def _integers(data: Bytes, n: int, dtype: np.dtype) -> list[int]:
    codec = data.u8()
    if codec < 2:
        return [int(v) for v in _array_by(codec, data, n, dtype)]
    if codec == 2:
        return _huffman(data, n)
    if codec == 4:
        return _context(data, n)
    assert codec == 3
    kept = data.varint()
    integers = [0] * n
    if kept == 0:
        return integers
    gap_low, gap_lengths = _alphabet(data)
    low, lengths = _alphabet(data)
    entries = [int.from_bytes(data.take(5, "header"), "little") for _ in range(3 if kept >= 32768 else 0)]
    gap_stream = data.take(data.varint(), "gaps")
    stream = data.take(data.varint(), "values")
    values = [low + s for s in _symbols(lengths, stream, kept)]
    gaps = _symbol_iterator(gap_lengths, gap_stream)
    skip = gap_low + len(gap_lengths) - 1
    at = 0
    for done, value in enumerate(values, 1):
        while (gap := gap_low + next(gaps)) == skip:
            at += skip
        at += gap
        integers[at] = value
        at += 1
        if entries and done == kept // 2:
            assert at == entries[0]
    return integers


def _huffman(data: Bytes, n: int) -> list[int]:
    low, lengths = _alphabet(data)
    entries = [int.from_bytes(data.take(5, "header"), "little") for _ in range(3 if n >= 32768 else 0)]
    stream = data.take(data.varint(), "values")
    symbols = _symbols(lengths, stream, n)
    if entries and sum(map(bool, lengths)) > 1:
        for quarter, bits in enumerate(entries):
            part = symbols[quarter * (n // 4) : (quarter + 1) * (n // 4)]
            assert sum(lengths[s] for s in part) == bits
    return [low + s for s in symbols]


def _context(data: Bytes, n: int) -> list[int]:
    flags, low, count = data.u8(), data.signed(), data.varint() + 1
    centre, split, columns = data.varint(), data.varint(), data.varint()
    tree, by_class, window, fast = bool(flags & 1), bool(flags & 2), (flags >> 2 & 3) + 2, (flags >> 4) + 4
    walker = context_reference.Walker(low, count, centre, split, tree, by_class, window, fast, columns)
    return context_reference.decode(walker, n, data.take(data.varint(), "values"))


def _alphabet(data: Bytes) -> tuple[int, list[int]]:
    low = data.signed()
    return low, _table(data, data.varint() + 1)


def _table(data: Bytes, alphabet: int) -> list[int]:
    lengths: list[int] = []
    nibbles: list[int] = []
    while len(lengths) < alphabet:
        if not nibbles:
            byte = data.u8("tables")
            nibbles = [byte & 15, byte >> 4]
        nibble = nibbles.pop(0)
        if nibble:
            lengths.append(nibble)
            continue
        if not nibbles:
            byte = data.u8("tables")
            nibbles = [byte & 15, byte >> 4]
        lengths += [0] * (nibbles.pop(0) + 1)
    assert len(lengths) == alphabet
    used = [length for length in lengths if length]
    assert len(used) == 1 or sum(Fraction(1, 2**length) for length in used) == 1
    return lengths


def _symbols(lengths: list[int], stream: bytes, n: int) -> list[int]:
    iterator = _symbol_iterator(lengths, stream)
    return [next(iterator) for _ in range(n)]


def _symbol_iterator(lengths: list[int], stream: bytes):  # a generator of ints
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(used) == 1:
        while True:
            yield used[0][1]
    book: dict[tuple[int, int], int] = {}
    code, before = 0, 0
    for length, symbol in used:
        code <<= length - before
        book[length, code] = symbol
        code, before = code + 1, length
    word = size = 0
    for i in range(8 * len(stream)):
        word = word << 1 | (stream[i // 8] >> i % 8 & 1)
        size += 1
        if (size, word) in book:
            yield book[size, word]
            word = size = 0
