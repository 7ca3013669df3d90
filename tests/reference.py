"""A slow decoder in plain Python, written from docs/format.md alone: what the real one is compared with."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate, takewhile
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from tests.codecs import context_reference, rans_reference

TYPES = [
    np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8, np.bool_, np.complex64,
]  # fmt: skip
KINDS = ["dense", "masked", "shared", "uniform", "trellis"]
VERSION = 1


class Bytes:
    """A cursor that books every byte under a category."""

    def __init__(self, data: bytes, ledger: Counter[str]) -> None:
        self.data, self.at, self.ledger = data, 0, ledger

    def take(self, n: int, category: str) -> bytes:
        assert self.at + n <= len(self.data)
        self.at += n
        self.ledger[category] += n
        return self.data[self.at - n : self.at]

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def part(self, n: int) -> Bytes:
        """A cursor over the next n bytes."""
        assert n <= self.left
        self.at += n
        return Bytes(self.data[self.at - n : self.at], self.ledger)

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


def dictionary() -> bytes:
    """The names that docs/format.md lists, as it says that names are written."""
    listed = (Path(__file__).parents[1] / "docs" / "format.md").read_text().split("### The dictionary")[1]
    lines = listed.split("```")[1].strip().splitlines()
    return b"".join(bytes([int(dropped)]) + rest.encode() + b"\xff" for dropped, rest in map(str.split, lines))


def decode(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, bytes], Counter[str]]:
    """All tensors (aliases too), all files, and the ledger of a `.sqz` file."""
    ledger: Counter[str] = Counter()
    head = Bytes(data, ledger)
    assert head.take(3, "header") == b"SQZ"
    assert head.u8() == VERSION
    tail = Bytes(data[-8:], ledger)
    length = tail.u32("header")
    check = tail.u32("checks")
    raw_index = data[len(data) - 8 - length : -8]
    assert zlib.crc32(data[:4] + raw_index + data[-8:-4]) == check
    index = Bytes(raw_index, ledger)
    table = Bytes(zlib.decompress(index.take(index.varint(), "header"), -15), Counter())
    inflater = zlib.decompressobj(-15, zdict=dictionary())
    names = _names(inflater.decompress(index.take(index.varint("names"), "names")))

    tensors, aliases, files, sections = (table.varint() for _ in range(4))
    assert len(names) == tensors + aliases + files
    types = [table.u8() for _ in range(tensors)]
    stored = [table.u8() for _ in range(tensors)]
    dimensions = [table.varint() for _ in range(tensors)]
    shapes = [[table.varint() for _ in range(count)] for count in dimensions]
    targets = [table.varint() for _ in range(aliases)]
    sizes = [table.varint() for _ in range(files)]
    kinds = [table.varint() for _ in range(sections)]
    assert not any(kind % 2 for kind in kinds)
    lengths = [table.varint() for _ in range(tensors + files + sections)]
    assert table.at == len(table.data)
    checks = [index.u32("checks") for _ in lengths]
    assert index.at == length

    payloads = []
    at = 4
    for size, crc in zip(lengths, checks, strict=True):
        payloads.append(data[at : at + size])
        assert zlib.crc32(payloads[-1]) == crc
        at += size
    assert at == len(data) - 8 - length
    for i, size in enumerate(lengths[tensors:]):
        is_graph = i >= files and kinds[i - files] == 2 * 1  # number 1, not required
        ledger["graph" if is_graph else "files"] += size
    weights: dict[str, np.ndarray] = {}
    for i in range(tensors):
        payload = Bytes(payloads[i], ledger)
        weights[names[i]] = _tensor(payload, KINDS[types[i] >> 4], shapes[i], _type(types[i] & 15), _type(stored[i]))
        assert payload.at == len(payload.data)
    for name, target in zip(names[tensors:], targets, strict=False):
        weights[name] = weights[names[target]]
    contents = {}
    for path, size, packed in zip(names[tensors + aliases :], sizes, payloads[tensors : tensors + files], strict=True):
        contents[path] = zlib.decompress(packed)
        assert len(contents[path]) == size
    return weights, contents, ledger


def _type(number: int) -> np.dtype:
    return np.dtype(TYPES[number])


def _names(data: bytes) -> list[str]:
    parts: list[bytes] = []
    names = []
    at = 0
    while at < len(data):
        cursor = Bytes(data[at:], Counter())
        dropped = cursor.varint()
        end = data.index(255, at + cursor.at)
        parts = parts[: len(parts) - dropped] + data[at + cursor.at : end].split(b".")
        names.append(b".".join(parts).decode("utf-8", "surrogatepass"))
        at = end + 1
    return names


def _tensor(data: Bytes, kind: str, shape: list[int], dtype: np.dtype, stored: np.dtype) -> np.ndarray:
    n = prod(shape)
    head = _head(data, kind, stored)
    chunks = [min(1 << 20, n - start) for start in range(0, n, 1 << 20)]
    weights = []
    for m in chunks:
        chunk = data.part(data.varint() if len(chunks) > 1 else data.left)
        weights.append(_chunk(chunk, kind, m, dtype, stored, head))
        assert chunk.left == 0
    return np.concatenate([np.empty(0, dtype), *weights]).astype(dtype).reshape(shape)


def _head(data: Bytes, kind: str, stored: np.dtype):  # what _chunk needs of it
    if kind == "shared":
        entries, sparse = divmod(data.varint(), 2)
        return np.frombuffer(data.take(entries * stored.itemsize, "codebooks"), stored), sparse
    if kind in ("uniform", "trellis"):
        return np.frombuffer(data.take(4, "codebooks"), "<f4")[0]
    return None


def _chunk(data: Bytes, kind: str, m: int, dtype: np.dtype, stored: np.dtype, head) -> np.ndarray:
    if kind == "dense":
        return _array(data, m, stored).astype(dtype)
    if kind == "masked":
        mask = _integers(data.part(data.varint()), m, np.dtype(np.bool_), range(2))
        kept = sum(map(bool, mask))
        values = iter(_array(data, kept, dtype) if kept else ())
        return np.array([next(values) if keep else 0 for keep in mask], dtype)
    if kind == "shared":
        book, sparse = head[0].astype(dtype), head[1]
        kind_of_code = np.dtype(np.uint8 if len(book) + sparse <= 256 else np.uint16)
        codes = _integers(data, m, kind_of_code, range(len(book) + sparse))
        zero = np.zeros((), dtype)
        return np.array([(book[c - 1] if c else zero) if sparse else book[c] for c in codes], dtype)
    levels = _integers(data, m, stored, range(np.iinfo(stored).min, np.iinfo(stored).max + 1))
    if kind == "trellis":
        levels = trellis_levels(levels)
    return np.array([np.float32(level) * head for level in levels], np.float32).astype(dtype)


def trellis_levels(codes: list[int]) -> list[int]:
    """The level of every code of a trellis, from the beginning of a block on."""
    levels = []
    for i, code in enumerate(codes):
        if i % 1024 == 0:
            bits = [0, 0, 0]
        q = bits[-2]
        levels.append(2 * code - q * ((code > 0) - (code < 0)))
        bits = [*bits[-2:], (code + sum(bits)) % 2]
    return levels


def _array(data: Bytes, n: int, dtype: np.dtype) -> np.ndarray:
    return _array_by(data.u8(), data, n, dtype)


def _array_by(codec: int, data: Bytes, n: int, dtype: np.dtype) -> np.ndarray:
    if codec == 0:
        return np.frombuffer(data.take(n * dtype.itemsize, "values"), dtype)
    assert codec == 1
    blocks = [_planes(data, min(1 << 17, n - start), dtype) for start in range(0, n, 1 << 17)]
    return np.concatenate(blocks)


def _planes(data: Bytes, n: int, dtype: np.dtype) -> np.ndarray:
    width = dtype.itemsize
    nibbles = [nibble for byte in data.take((width + 1) // 2, "header") for nibble in (byte & 15, byte >> 4)]
    planes = []
    for codec in nibbles[:width]:
        if codec == 0:
            planes.append(list(data.take(n, "values")))
        else:
            planes.append(_integers_by(codec, data.part(data.varint()), n, range(256)))
    numbers = [sum(planes[i][j] << 8 * i for i in range(width)) for j in range(n)]
    if dtype.kind not in "iub":
        top = 8 * width - 1
        numbers = [(v >> 1) | ((v & 1) << top) for v in numbers]
    return np.frombuffer(b"".join(v.to_bytes(width, "little") for v in numbers), dtype)


def _integers(data: Bytes, n: int, dtype: np.dtype, allowed: range) -> list[int]:
    codec = data.u8()
    if codec < 2:
        integers = [int(v) for v in _array_by(codec, data, n, dtype)]
        assert all(integer in allowed for integer in integers)
        return integers
    return _integers_by(codec, data, n, allowed)


def _integers_by(codec: int, data: Bytes, n: int, allowed: range) -> list[int]:
    if codec == 2:
        return _huffman(data, n, allowed)[0]
    if codec == 4:
        return _context(data, n, allowed)
    if codec == 5:
        return rans_reference.decode(data, n, allowed)
    assert codec == 3
    assert 0 in allowed
    kept = data.varint()
    integers = [0] * n
    if kept == 0:
        return integers
    skips = data.varint()
    gaps, skip = _huffman(data.part(data.varint()), kept + skips, range(1 << 16), "gaps")
    values = iter(_huffman(data, kept, allowed)[0])
    at = 0
    for gap in gaps:
        at += gap
        if skips and gap == skip:
            continue
        integers[at] = next(values)
        at += 1
    assert not skips or gaps.count(skip) == skips
    assert next(values, None) is None
    return integers


def _huffman(data: Bytes, n: int, allowed: range, category: str = "values") -> tuple[list[int], int]:
    """The symbols, and the highest integer of their alphabet."""
    low, alphabet = data.signed(), data.varint() + 1
    high = low + alphabet - 1
    assert low in allowed
    assert high in allowed
    if alphabet == 1:
        return [low] * n, high
    lengths = _table(data, alphabet)
    width = (len(f"{8 * data.left:b}") + 7) // 8
    entries = [int.from_bytes(data.take(width, "header"), "little") for _ in range(3 if n >= 32768 else 0)]
    stream = data.take(data.left, category)
    symbols = _symbols(lengths, stream, n)
    taken = [0, *accumulate(lengths[symbol] for symbol in symbols)]
    assert entries in ([], [taken[quarter * (n // 4)] for quarter in (1, 2, 3)])
    assert (taken[-1] + 7) // 8 == len(stream)
    return [low + symbol for symbol in symbols], high


def _context(data: Bytes, n: int, allowed: range) -> list[int]:
    flags, low, count = data.u8(), data.signed(), data.varint() + 1
    assert low in allowed
    assert low + count - 1 in allowed
    centre, split, columns = data.varint(), data.varint(), data.varint()
    tree, by_class, window, fast = bool(flags & 1), bool(flags & 2), (flags >> 2 & 3) + 2, (flags >> 4 & 7) + 4
    walker = context_reference.Walker(
        low, count, centre, split, tree, by_class, window, fast, columns, bool(flags >> 7)
    )
    return context_reference.decode(walker, n, data.take(data.left, "values"))


def _table(data: Bytes, alphabet: int) -> list[int]:
    bits = _bits(data)
    lengths: list[int] = []
    last = 6
    while len(lengths) < alphabet:
        if next(bits) == 0:
            lengths.append(last)
        elif next(bits) == 0:
            last += 1 if next(bits) else -1
            lengths.append(last)
        elif next(bits):
            last = sum(next(bits) << i for i in range(4))
            lengths.append(last)
        else:
            digits = len([*takewhile(bool, bits)])
            lengths += [0] * (2**digits + sum(next(bits) << i for i in range(digits)))
    assert len(lengths) == alphabet
    assert all(length <= 14 for length in lengths)
    assert sum(Fraction(1, 2**length) for length in lengths if length) == 1
    return lengths


def _bits(data: Bytes) -> Iterator[int]:
    while True:
        byte = data.u8("tables")
        for i in range(8):
            yield byte >> i & 1


def _symbols(lengths: list[int], stream: bytes, n: int) -> list[int]:
    iterator = _symbol_iterator(lengths, stream)
    return [next(iterator) for _ in range(n)]


def _symbol_iterator(lengths: list[int], stream: bytes):  # a generator of ints
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
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
