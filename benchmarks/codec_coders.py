"""Coders of symbols and of whole networks, ours and others, behind one interface: bytes, and seconds each way."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zstandard

from benchmarks.common import time_calls
from squeezer.artifact.tensor import CHUNK
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS, ByteReader, ByteWriter, Codebook, Itself, Level
from squeezer.codecs.symbols import histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from numpy.typing import NDArray

    from benchmarks.nnc import Figures
    from squeezer.codecs.base import ArrayCodec, Histogram, SymbolCodec

_Result = TypeVar("_Result")

#: Calls longer than this are not repeated.
_LONG_SECONDS = 3.0
#: Symbols that every coder codes once before it is timed, so that its code is compiled.
_WARM_UP = 4096
#: Least seconds: the clock may not have moved.
_TICK = 1e-9
_ZSTD_LEVELS = 1, 3, 19


@dataclass(frozen=True)
class Coded:
    """What a coder did with `count` symbols: bytes, and seconds of processor time.

    `fresh` is decoding into memory that nobody has touched, `warm` into memory that was written before; None where
    the coder's interface cannot do it. Ours decode to float32; `to_symbols` is decoding to symbols of one byte, as the
    others do, into memory that was written before.
    """

    coder: str
    count: int
    nbytes: int
    encode: float | None
    fresh: float | None
    warm: float | None
    relative_error: float | None = None
    to_symbols: float | None = None

    @property
    def decode(self) -> float | None:
        """The faster of both ways to decode, in seconds."""
        known = [seconds for seconds in (self.fresh, self.warm) if seconds is not None]
        return min(known, default=None)

    def scaled(self, factor: float) -> Coded:
        """The figures of `factor` times as many symbols of the same kind."""
        encode, fresh, warm = (s and s * factor for s in (self.encode, self.fresh, self.warm))
        count, nbytes = round(self.count * factor), round(self.nbytes * factor)
        return replace(self, count=count, nbytes=nbytes, encode=encode, fresh=fresh, warm=warm)


def by_nncodec(name: str, count: int, figures: Figures) -> Coded:
    """nncodec's figures of so many weights."""
    return Coded(name, count, figures.nbytes, figures.encode, figures.decode, None)


def named(group: Iterable[Coded], name: str) -> Coded | None:
    """The coder of that name."""
    return next((coded for coded in group if coded.coder == name), None)


def module(name: str) -> ModuleType | None:
    """An optional package, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def seconds(work: Callable[[], object], runs: int) -> float:
    """Median processor seconds of a few calls; of one, where that takes long."""
    first = time_calls(work, 1)
    timing = first if runs == 1 or first.wall > _LONG_SECONDS else time_calls(work, runs)
    return max(timing.processor, _TICK)


def timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    """Processor seconds of one call, and what it returns."""
    started = time.process_time()
    result = work()
    return max(time.process_time() - started, _TICK), result


def _demand_equal(coder: str, found: NDArray[Any], expected: NDArray[Any]) -> None:
    if found.tobytes() != expected.tobytes():
        raise RuntimeError(f"{coder} does not give back what it was given")


def symbol_coders(codes: NDArray[np.uint8], values: NDArray[np.float32], runs: int) -> Iterator[Coded]:
    """Every coder that Squeezer registers, decoding to float32, then the others, decoding to symbols.

    Args:
        codes: one-dimensional.
        values: what each code stands for.
        runs: how many runs the median is of.

    Raises:
        RuntimeError: a coder is not lossless.
    """
    for symbols in SYMBOL_CODECS.values():
        yield symbol_codec(symbols, codes, values, runs)
    for arrays in ARRAY_CODECS.values():
        yield array_codec(arrays, codes, values, runs)
    for level in _ZSTD_LEVELS:
        yield zstd(codes, level, runs)
    if package := module("constriction"):
        yield ans(package, codes, runs)


def symbol_codec(codec: SymbolCodec, codes: NDArray[Any], values: NDArray[np.float32], runs: int) -> Coded:
    """A coder of integers; counting them is part of encoding."""

    def encode(part: NDArray[Any], out: ByteWriter) -> None:
        counted = histogram(part)
        if counted is None:
            raise RuntimeError("a range of integers that no coder takes")
        codec.plan(part, counted).write(out)

    def decode(data: ByteReader, out: NDArray[Any]) -> None:
        codec.read(data, out, Codebook(values) if out.dtype == values.dtype else Itself(out.dtype))

    return _ours(codec.name, encode, decode, codes, values, runs)


def array_codec(codec: ArrayCodec, codes: NDArray[Any], values: NDArray[np.float32], runs: int) -> Coded:
    """A coder of any array; what the codes stand for is looked up afterwards."""

    def encode(part: NDArray[Any], out: ByteWriter) -> None:
        codec.plan(part, Level.BALANCED).write(out)

    def decode(data: ByteReader, out: NDArray[Any]) -> None:
        integers = np.empty(out.size, codes.dtype) if out.dtype == values.dtype else out
        codec.read(data, integers)
        if integers is not out:
            np.take(values, integers, out=out)

    return _ours(codec.name, encode, decode, codes, values, runs)


def _ours(
    name: str,
    encode: Callable[[NDArray[Any], ByteWriter], None],
    decode: Callable[[ByteReader, NDArray[Any]], None],
    codes: NDArray[Any],
    values: NDArray[np.float32],
    runs: int,
) -> Coded:
    """Figures of a coder that works chunk by chunk, each with a table of its own and its length, as in a file."""

    def encode_all(part: NDArray[Any]) -> bytes:
        out = ByteWriter()
        for start in range(0, part.size, CHUNK):
            chunk = ByteWriter()
            encode(part[start : start + CHUNK], chunk)
            out.varint(sum(map(len, chunk.parts)))
            out.parts += chunk.parts
        return out.getvalue()

    def decode_all(data: bytes, out: NDArray[Any]) -> None:
        reader = ByteReader(data)
        for start in range(0, out.size, CHUNK):
            chunk = reader.part(reader.varint())
            decode(chunk, out[start : start + CHUNK])
            chunk.finish()

    few = codes[:_WARM_UP]
    for kind in (np.dtype(np.float32), codes.dtype):
        decode_all(encode_all(few), np.empty(few.size, kind))
    data = encode_all(codes)
    encoding = seconds(partial(encode_all, codes), runs)
    fresh = seconds(lambda: decode_all(data, np.empty(codes.size, np.float32)), runs)
    out = np.zeros(codes.size, np.float32)
    warm = seconds(partial(decode_all, data, out), runs)
    _demand_equal(name, out, values[codes])
    symbols = np.zeros_like(codes)
    to_symbols = seconds(partial(decode_all, data, symbols), runs)
    _demand_equal(name, symbols, codes)
    return Coded(name, codes.size, len(data), encoding, fresh, warm, to_symbols=to_symbols)


def zstd(codes: NDArray[np.uint8], level: int, runs: int) -> Coded:
    """Zstandard, on one thread."""
    compressor = zstandard.ZstdCompressor(level=level)
    decompressor = zstandard.ZstdDecompressor()
    once, data = timed(partial(compressor.compress, codes.data))
    # The highest levels take long: one run is enough for a figure that no goal asks for.
    encode = once if level > _ZSTD_LEVELS[1] else seconds(partial(compressor.compress, codes.data), runs)
    out = np.zeros(codes.size, np.uint8)

    def read_into() -> None:
        with decompressor.stream_reader(data) as reader:
            done = 0
            while done < out.size and (count := reader.readinto(out.data[done:])):
                done += count

    fresh = seconds(partial(decompressor.decompress, data), runs)
    warm = seconds(read_into, runs)
    _demand_equal(f"zstd -{level}", out, codes)
    return Coded(f"zstd -{level}", codes.size, len(data), encode, fresh, warm)


def ans(package: ModuleType, codes: NDArray[np.uint8], runs: int) -> Coded:
    """constriction's asymmetric numeral system, with the shares of the symbols as its model.

    The model is not among the bytes. Symbols are widened to the type that it takes before the clock starts.
    """
    wide = codes.astype(np.int32)
    shares = np.bincount(codes) / codes.size
    model = package.stream.model.Categorical(shares.astype(np.float32), perfect=False)

    def encode() -> NDArray[np.uint32]:
        coder = package.stream.stack.AnsCoder()
        coder.encode_reverse(wide, model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return words

    words = encode()

    def decode() -> NDArray[np.int32]:
        symbols: NDArray[np.int32] = package.stream.stack.AnsCoder(words).decode(model, wide.size)
        return symbols

    _demand_equal("constriction", decode(), wide)
    return Coded("constriction ANS", codes.size, words.nbytes, seconds(encode, runs), seconds(decode, runs), None)


def zipnn(package: ModuleType, data: bytes, dtype: str, runs: int) -> Coded:
    """ZipNN on the bytes of floating-point numbers, on one thread. Seconds include copies of the bytes.

    Args:
        package: the module `zipnn`.
        data: little-endian numbers.
        dtype: `float32`, `bfloat16` or `float16`.
        runs: how many runs the median is of.
    """

    # It changes the bytes that it is given, hence the copies.
    def encode() -> bytes:
        return bytes(package.ZipNN(bytearray_dtype=dtype, threads=1).compress(bytearray(data)))

    packed = encode()

    def decode() -> bytes:
        return bytes(package.ZipNN(bytearray_dtype=dtype, threads=1).decompress(bytearray(packed)))

    if decode() != data:
        raise RuntimeError("zipnn does not give back what it was given")
    count = len(data) // (4 if dtype == "float32" else 2)
    return Coded("zipnn", count, len(packed), seconds(encode, runs), seconds(decode, runs), None)


def entropy_bytes(counted: Histogram) -> float:
    """Bytes that the symbols need at their order-0 entropy."""
    counts = counted.counts[counted.counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8
