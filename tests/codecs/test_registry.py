"""Every codec writes what it reads, and `auto` takes the smallest."""

import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from squeezer import codecs
from squeezer.codecs import (
    ARRAY_CODECS,
    SYMBOL_CODECS,
    ByteReader,
    ByteWriter,
    Codebook,
    CorruptStreamError,
    read_array,
    read_integers,
    write_array,
    write_integers,
)
from squeezer.model import DTYPES
from squeezer.representations.base import entropy_bits

CODERS = ["auto", "huffman", "gaps", "rans", "context", "raw"]
INTEGERS = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32])


def write(array: np.ndarray, coder: str = "auto") -> ByteWriter:
    out = ByteWriter()
    write_integers(out, array, coder)
    return out


def read(data: bytes | bytearray, count: int, dtype: type, values: np.ndarray | None = None) -> np.ndarray:
    """The integers, or what they stand for; nothing must be left over."""
    kind = np.dtype(dtype)
    out = np.empty(count, kind if values is None else values.dtype)
    reader = ByteReader(data)
    read_integers(reader, out, kind, None if values is None else Codebook(values))
    reader.finish()
    return out


@settings(max_examples=200)
@given(
    INTEGERS.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=2, max_side=60))),
    st.sampled_from(CODERS),
    st.floats(0, 1),
)
def test_integers_come_back(array: np.ndarray, coder: str, sparsity: float) -> None:
    array[np.random.default_rng(0).random(array.shape) < sparsity] = 0
    out = write(array, coder)
    data = ByteReader(out.getvalue())
    decoded = np.empty(array.size, array.dtype)
    read_integers(data, decoded, array.dtype)
    data.finish()
    assert np.array_equal(decoded, array.reshape(-1))
    assert +data.tally == +out.tally
    assert sum(out.tally.values()) == len(out.getvalue())


@settings(max_examples=100)
@given(st.sampled_from(sorted(DTYPES)), st.integers(1, 300), st.sampled_from(["auto", "raw", "planes"]))
def test_numbers_of_every_type_come_back_bit_for_bit(dtype: str, count: int, coder: str) -> None:
    kind = DTYPES[dtype]
    bits = np.random.default_rng(count).integers(0, 256, count * kind.itemsize, dtype=np.uint8)
    array = (bits % 2).view(bool) if dtype == "BOOL" else bits.view(kind)
    out = ByteWriter()
    write_array(out, array, coder)
    data = ByteReader(out.getvalue())
    decoded = np.empty(count, kind)
    read_array(data, decoded)
    data.finish()
    assert decoded.tobytes() == array.tobytes()


@pytest.mark.parametrize("coder", CODERS)
def test_a_codebook_turns_integers_into_what_they_stand_for(coder: str) -> None:
    random = np.random.default_rng(0)
    codes = np.where(random.random(5000) < 0.9, 0, random.integers(1, 33, 5000)).astype(np.uint8)
    values = random.standard_normal(33).astype(np.float32)
    decoded = read(write(codes, coder).getvalue(), 5000, np.uint8, values)
    assert np.array_equal(decoded, values[codes])
    with pytest.raises(CorruptStreamError, match="codebook"):
        read(write(codes, coder).getvalue(), 5000, np.uint8, values[:32])


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 0.9999])
def test_auto_takes_the_smallest(sparsity: float) -> None:
    random = np.random.default_rng(1)
    codes = np.where(random.random(50_000) < sparsity, 0, random.binomial(30, 0.5, 50_000) + 1).astype(np.uint8)
    sizes = {coder: len(write(codes, coder).getvalue()) for coder in CODERS}
    # The context coder is tried at level `max` alone.
    assert sizes["auto"] == min(size for coder, size in sizes.items() if coder != "context")
    out = ByteWriter()
    write_integers(out, codes, level="max")
    assert len(out.getvalue()) == min(sizes.values())


@pytest.mark.parametrize(
    ("coder", "sparsity", "excess"),
    [("gaps", 0.9, 0.015), ("huffman", 0.0, 0.012), ("rans", 0.9, 0.003), ("rans", 0.0, 0.003)],
)
def test_size_is_near_the_entropy(coder: str, sparsity: float, excess: float) -> None:
    random = np.random.default_rng(2)
    levels = np.clip(np.round(random.standard_normal(400_000) * 5) + 16, 1, 31)
    codes = np.where(random.random(400_000) < sparsity, 0, levels).astype(np.uint8)
    bits = 8 * len(write(codes, coder).getvalue())
    assert entropy_bits(codes) <= bits <= (1 + excess) * entropy_bits(codes)


def test_exponents_are_found_in_floating_point_numbers() -> None:
    weights = np.random.default_rng(3).standard_normal(100_000).astype(np.float32) * 0.02
    out = ByteWriter()
    assert write_array(out, weights) == "planes"
    # The exponents of Gaussian numbers have 2.6 bits of entropy instead of 8; the other 24 bits are noise.
    assert weights.nbytes / len(out.getvalue()) == pytest.approx(32 / 26.6, rel=0.01)
    noise = ByteWriter()
    assert write_array(noise, np.random.default_rng(4).integers(0, 2**32, 1000, dtype=np.uint32)) == "raw"


def test_every_codec_is_registered_and_numbered_once() -> None:
    modules = [
        importlib.import_module(f"squeezer.codecs.{module.name}") for module in pkgutil.iter_modules(codecs.__path__)
    ]
    found = {
        cls.name
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__ and "number" in vars(cls)
    }
    registered = [*ARRAY_CODECS.values(), *SYMBOL_CODECS.values()]
    assert {codec.name for codec in registered} == found
    assert len({codec.number for codec in registered}) == len(registered)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([np.uint8, np.int16, np.int32]))
def test_arbitrary_bytes_are_refused_or_decoded(junk: bytes, dtype: type) -> None:
    for number in range(7):
        try:
            decoded = read(bytes([number]) + junk, 100, dtype)
        except CorruptStreamError:
            continue
        assert decoded.shape == (100,)


@settings(max_examples=300)
@given(st.data())
def test_changed_bytes_are_refused_or_decoded(data: st.DataObject) -> None:
    random = np.random.default_rng(5)
    codes = np.where(random.random(300) < 0.7, 0, random.integers(1, 9, 300)).astype(np.uint8)
    coded = bytearray(write(codes, data.draw(st.sampled_from(CODERS))).getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    values = np.arange(16, dtype=np.float32)
    try:
        decoded = read(coded, 300, np.uint8, values)
    except CorruptStreamError:
        return
    assert decoded.shape == (300,)
    assert np.isin(decoded, values).all()


@pytest.mark.parametrize("coder", ["huffman", "gaps"])
@pytest.mark.parametrize("count", [32_767, 32_768, 65_539, 200_001])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_long_streams_with_entry_points_come_back(coder: str, count: int, dtype: type) -> None:
    random = np.random.default_rng(count)
    codes = np.where(random.random(count) < 0.5, 0, random.geometric(0.2, count) % 60).astype(np.uint8)
    values = np.arange(64).astype(dtype)
    decoded = read(write(codes, coder).getvalue(), count, np.uint8, values)
    assert decoded.dtype == dtype
    assert np.array_equal(decoded, codes)


@settings(max_examples=200)
@given(st.data())
def test_changed_long_streams_are_refused_or_decoded(data: st.DataObject) -> None:
    coder = data.draw(st.sampled_from(["huffman", "gaps"]))
    coded = bytearray(_LONG_STREAMS[coder])
    # Near the beginning are the tables and the entry points.
    limit = data.draw(st.sampled_from([60, len(coded)]))
    for _ in range(data.draw(st.integers(1, 3))):
        coded[data.draw(st.integers(0, limit - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = read(coded, 80_000, np.uint8, np.arange(16, dtype=np.float32))
    except CorruptStreamError:
        return
    assert decoded.shape == (80_000,)
    assert np.isin(decoded, np.arange(16)).all()


def _long_codes() -> np.ndarray:
    random = np.random.default_rng(6)
    return np.where(random.random(80_000) < 0.5, 0, random.integers(1, 9, 80_000)).astype(np.uint8)


_LONG_STREAMS = {coder: write(_long_codes(), coder).getvalue() for coder in ("huffman", "gaps")}
