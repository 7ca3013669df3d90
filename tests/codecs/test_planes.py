"""Byte planes: bit for bit, against planes taken apart in plain Python; each coded by what suits it."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS, ByteReader, ByteWriter, CorruptStreamError, Level, planes
from squeezer.model import DTYPES
from tests import reference

PLANES = ARRAY_CODECS[planes.Planes.number]


def written(array: np.ndarray, level: Level = Level.BALANCED) -> ByteWriter:
    plan = PLANES.plan(array, level)
    out = ByteWriter()
    plan.write(out)
    assert len(out.getvalue()) == plan.size == sum(out.tally.values())
    return out


def read(data: bytes, count: int, dtype: np.dtype) -> np.ndarray:
    out = np.empty(count, dtype)
    reader = ByteReader(data)
    PLANES.read(reader, out)
    reader.finish()
    return out


def heads(data: bytes, width: int) -> list[int]:
    """The codecs of the first block's planes."""
    return [data[i // 2] >> i % 2 * 4 & 15 for i in range(width)]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.integers(1, 5000), st.integers(0, 8), st.sampled_from(list(Level)[:2]))
def test_every_type_comes_back_and_the_reference_agrees(dtype: str, count: int, noise: int, level: Level) -> None:
    kind = DTYPES[dtype]
    random = np.random.default_rng(count)
    bits = random.integers(0, 2**noise, count * kind.itemsize, dtype=np.uint16).astype(np.uint8)
    array = (bits % 2).view(bool) if dtype == "BOOL" else bits.view(kind)
    out = written(array, level)
    assert read(out.getvalue(), count, kind).tobytes() == array.tobytes()
    data = reference.Bytes(b"\1" + out.getvalue(), type(out.tally)())
    assert reference._array(data, count, kind).tobytes() == array.tobytes()
    assert data.left == 0
    assert +data.ledger - reference.Counter(header=1) == +out.tally


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("dtype", ["F32", "F16", "U8", "C64"])
def test_blocks_come_back(dtype: str, extra: int) -> None:
    count = 2 * planes.BLOCK + extra
    kind = DTYPES[dtype]
    array = np.random.default_rng(0).standard_normal(count, np.float32)
    array = (array + 1j).astype(kind) if dtype == "C64" else (9 * np.abs(array)).astype(kind)
    assert read(written(array).getvalue(), count, kind).tobytes() == array.tobytes()


def test_a_plane_of_noise_stays_raw_and_exponents_are_coded() -> None:
    weights = np.random.default_rng(0).standard_normal(planes.BLOCK, np.float32)
    low, middle, high, exponent = heads(written(weights).getvalue(), 4)
    assert (low, middle, high) == (0, 0, 0)
    assert exponent in SYMBOL_CODECS


def test_blocks_have_codes_of_their_own() -> None:
    random = np.random.default_rng(0)
    parts = [random.integers(0, 4, planes.BLOCK), random.integers(0, 4, planes.BLOCK) + 77]
    each = sum(len(written(part.astype(np.uint8)).getvalue()) for part in parts)
    together = np.concatenate(parts).astype(np.uint8)
    assert len(written(together).getvalue()) == each < together.size / 3


def test_zeros_in_pruned_weights_cost_little() -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal(planes.BLOCK, np.float32) * (random.random(planes.BLOCK) < 0.05)
    assert (
        len(written(weights.astype(np.float32), Level.FAST).getvalue()) < 0.05 * 1.6 * weights.nbytes + planes.BLOCK / 4
    )


def test_the_context_coder_waits_for_level_max() -> None:
    # A walk, whose steps are small: only contexts see that.
    walk = np.cumsum(np.random.default_rng(0).integers(-1, 2, 20_000)).astype(np.int16)
    assert heads(written(walk, Level.BALANCED).getvalue(), 2)[1] != 4
    assert len(written(walk, Level.MAX).getvalue()) < len(written(walk, Level.BALANCED).getvalue())


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x10" + bytes(9), "more planes"),
        (b"\x0f" + bytes(9), "codec"),
        (b"\x01" + bytes(9), "codec"),
        (b"\x02\x0b" + bytes(9), "left"),
        (b"\x02\x04\0\0\0\0", "too many|left|end"),
        (b"\x00" + bytes(8), "left"),
        (b"\x00" + bytes(10), "too many"),
        (b"", "left"),
    ],
)
def test_what_makes_no_sense_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(CorruptStreamError, match=match):
        read(data, 9, np.dtype(np.uint8))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(sorted(DTYPES)), st.integers(1, 40))
def test_arbitrary_bytes_are_refused_or_decoded(data: bytes, dtype: str, count: int) -> None:
    with suppress(CorruptStreamError):
        assert read(data, count, DTYPES[dtype]).size == count
