"""The rANS coder writes what it reads, agrees with the slow one, is small, and survives any bytes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezer.codecs import ByteReader, ByteWriter, Codebook, CorruptStreamError, rans, rans_search, rans_tables
from squeezer.codecs import rans_kernels as kernels
from squeezer.codecs.base import Itself, varint, zigzag
from squeezer.codecs.rans import Rans
from squeezer.codecs.symbols import histogram
from squeezer.representations.base import entropy_bits
from tests.codecs import rans_reference
from tests.codecs.trellis_codes import trellis_codes
from tests.reference import Bytes

DTYPES = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32])
#: Sizes at which lanes and blocks end.
SIZES = st.one_of(
    st.integers(1, 50), st.integers(1000, 1100), st.integers(4090, 4110), st.sampled_from([8192, 9 * 1024 + 1, 12_345])
)


def coded(integers: np.ndarray, *, trellis: bool = False) -> bytes:
    plan = Rans().plan(integers, histogram(integers), trellis=trellis)
    out = ByteWriter()
    plan.write(out)
    assert plan.size == len(out.getvalue()) == sum(out.tally.values())
    return out.getvalue()


def coded_with_contexts(integers: np.ndarray, **changes: object) -> bytes:
    """Coded in contexts, even where those do not pay."""
    counted = histogram(integers)
    contexts = replace(rans_search._first_contexts(counted, trellis=False), **changes)
    plan = rans._contextual_plan(integers, rans_search.Surveyed.of(integers, contexts, [contexts]))
    out = ByteWriter()
    plan.write(out)
    assert plan.size == len(out.getvalue())
    return out.getvalue()


def decoded(data: bytes | bytearray, count: int, dtype: object) -> np.ndarray:
    reader = ByteReader(data)
    out = np.empty(count, dtype)
    Rans().read(reader, out, Itself(out.dtype))
    reader.finish()
    return out


def slowly_decoded(data: bytes, count: int) -> list[int]:
    cursor = Bytes(data, Counter())
    integers = rans_reference.decode(cursor, count, range(-(1 << 31), 1 << 32))
    assert cursor.left == 0
    return integers


def has_contexts(data: bytes) -> bool:
    return bool(data[0] & 1)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Integers of every type: narrow and wide, sparse and dense, constant, with and without structure."""
    dtype, size = draw(DTYPES), draw(SIZES)
    bounds = np.iinfo(dtype)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0, 0.3, 2.0, 30.0, 600.0, 6000.0]))
    noise = random.standard_t(3, size) if draw(st.booleans()) else random.standard_normal(size)
    waves = np.exp(np.sin(np.arange(size) / draw(st.sampled_from([3, 40, 1000])))) if draw(st.booleans()) else 1
    offset = draw(st.sampled_from([0, bounds.min, bounds.max, -7, 100]))
    reach = draw(st.sampled_from([2000, 16_000]))
    values = np.clip(offset + np.round(scale * noise * waves), offset - reach, offset + reach)
    values[random.random(size) < draw(st.sampled_from([0.0, 0.6, 0.99]))] = offset
    return np.clip(values, bounds.min, bounds.max).astype(dtype)


@settings(max_examples=100, deadline=None)
@given(arrays(), st.booleans())
def test_integers_come_back(integers: np.ndarray, trellis: bool) -> None:
    data = coded(integers, trellis=trellis)
    assert np.array_equal(decoded(data, integers.size, integers.dtype), integers)


@settings(max_examples=60, deadline=None)
@given(arrays(), st.booleans(), st.integers(0, 3), st.integers(1, 16), st.integers(1, 4), st.integers(0, 255))
def test_the_slow_decoder_agrees(
    integers: np.ndarray, quantiser: bool, signs: int, lag: int, window: int, reach: int
) -> None:
    streams = [coded(integers, trellis=True)]
    if integers.min() < integers.max():
        ways = {"signs": signs, "quantiser": quantiser, "lag": lag, "window": window, "reach": reach}
        streams.append(coded_with_contexts(integers, **ways))
    for data in streams:
        assert np.array_equal(decoded(data, integers.size, integers.dtype), integers)
        assert slowly_decoded(data, integers.size) == integers.tolist()
        # Negative control: with one bit of a state changed, it is another stream.
        states = len(data) - 2 if len(data) % 2 else len(data) - 1
        changed = bytearray(data)
        changed[states] ^= 16
        with pytest.raises((StopIteration, RuntimeError, AssertionError, IndexError)):
            assert slowly_decoded(bytes(changed), integers.size) == integers.tolist()
        with pytest.raises((CorruptStreamError, AssertionError)):
            assert np.array_equal(decoded(changed, integers.size, integers.dtype), integers)


def test_tables_are_exact() -> None:
    assert [rans_reference.power(j) for j in range(16)] == rans_tables.POWERS.tolist()
    assert kernels.CLASS_BOUNDS.tolist() == rans_reference.CLASSES


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=300), st.sampled_from([2, 4, 8, 16]), st.integers(11, 14))
def test_depths_come_back_and_give_every_symbol_a_share(counts: list[int], fineness: int, bits: int) -> None:
    counts[0] += 1
    counts[-1] += 1
    depths = rans_tables.chosen_depths(np.array(counts), fineness)
    out = rans_tables.BitWriter()
    rans_tables.write_runs(out, [1, 7, 12])
    rans_tables.write_depths(out, depths, fineness)
    reader = rans_tables.BitReader(memoryview(out.getvalue()))
    assert reader.runs(20) == [1, 7, 12]
    assert np.array_equal(reader.depths(1, len(counts), fineness)[0], depths)
    reader.finish()
    shares = rans_tables.frequencies(depths[None], fineness, bits, (1 << bits) - 1)[0]
    assert shares.sum() == 1 << bits
    assert np.all(shares[np.array(counts) > 0] > 0)


@pytest.mark.parametrize(("value", "size"), [(0, 1), (7, 1000), (-3, 100_000), (2**31 - 1, 10), (-(2**31), 5000)])
def test_a_constant_takes_states_alone(value: int, size: int) -> None:
    integers = np.full(size, value, np.int32)
    data = coded(integers)
    assert len(data) <= 12 + 4 * (8 if size >= 4096 else 1)
    assert np.array_equal(decoded(data, size, np.int32), integers)


@pytest.mark.parametrize("levels", [16, 32])
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_size_is_near_the_entropy_of_independent_integers(levels: int, sparsity: float) -> None:
    random = np.random.default_rng(2)
    size = 1 << 20
    integers = np.clip(np.round(random.standard_normal(size) * levels / 6 + levels / 2), 1, levels).astype(np.uint8)
    integers[random.random(size) < sparsity] = 0
    data = coded(integers)
    assert not has_contexts(data)
    entropy = entropy_bits(integers)
    assert entropy < 8 * len(data) <= 1.003 * entropy


def kernels_of_a_convolution(random: np.random.Generator, channels: int) -> np.ndarray:
    """Smooth 3x3 kernels whose scales differ: what contexts are for."""
    kernels_ = random.standard_normal((channels, channels, 5, 5))
    smooth = sum(kernels_[:, :, i : i + 3, j : j + 3] for i in range(3) for j in range(3))
    scales = np.exp(random.standard_normal((channels, channels, 1, 1)) / 2)
    return np.round(smooth * scales / 2).astype(np.int8).reshape(-1)


def test_structure_pays_and_shuffling_takes_it_away() -> None:
    random = np.random.default_rng(3)
    integers = kernels_of_a_convolution(random, 64)
    data = coded(integers)
    assert has_contexts(data)
    assert 8 * len(data) < 0.9 * entropy_bits(integers)
    random.shuffle(integers)
    shuffled = coded(integers)
    assert not has_contexts(shuffled)
    assert 8 * len(shuffled) > entropy_bits(integers)


def test_the_width_of_a_kernel_is_found() -> None:
    integers = kernels_of_a_convolution(np.random.default_rng(4), 48)
    surveyed = rans_search.Surveyed.best(integers, histogram(integers), trellis=False)
    assert surveyed is not None
    assert surveyed.contexts.lag == 3


def test_the_quantiser_is_a_context_where_it_says_something() -> None:
    codes = trellis_codes(60_000)
    data = coded(codes, trellis=True)
    assert data[0] & 2
    assert np.array_equal(decoded(data, codes.size, np.int8), codes)
    assert len(data) < 0.95 * len(coded(codes))


def test_seldom_and_wide_levels_lie_in_buckets() -> None:
    random = np.random.default_rng(6)
    integers = np.round(random.laplace(0, 2, 50_000) * np.repeat(random.integers(1, 4, 50), 1000)).astype(np.int16)
    integers[::500] = random.integers(-4000, 4000, 100)
    data = coded(integers)
    assert np.array_equal(decoded(data, integers.size, np.int16), integers)
    assert slowly_decoded(data, integers.size) == integers.tolist()
    usual = np.clip(integers, -40, 40)
    assert 8 * len(data) < 1.01 * entropy_bits(usual) + 100 * 20


def test_noise_of_a_wide_range_takes_little_more_than_its_bits() -> None:
    integers = np.random.default_rng(7).integers(0, 1 << 15, 20_000).astype(np.uint16)
    data = coded(integers)
    assert np.array_equal(decoded(data, integers.size, np.uint16), integers)
    assert 8 * len(data) < 1.05 * 15 * integers.size


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("structured", [False, True])
def test_a_codebook_turns_integers_into_what_they_stand_for(dtype: type, structured: bool) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 33, 9000).astype(np.uint8)
    if structured:
        codes = np.clip(kernels_of_a_convolution(random, 32)[:9000].astype(np.int64) + 16, 0, 32).astype(np.uint8)
    data = coded(codes)
    assert has_contexts(data) == structured
    values = random.integers(0, 256, 33).astype(dtype)
    out = np.empty(codes.size, dtype)
    Rans().read(ByteReader(data), out, Codebook(values))
    assert np.array_equal(out, values[codes])
    with pytest.raises(CorruptStreamError, match="codebook"):
        Rans().read(ByteReader(data), out, Codebook(values[:32]))


def test_what_no_encoder_writes_is_refused() -> None:
    integers = np.random.default_rng(7).integers(-9, 9, 5000).astype(np.int16)
    good = coded(integers)
    head = bytes([0]) + varint(zigzag(0)) + varint(1)  # two symbols, 11 bits, fineness 2
    table = rans_tables.BitWriter()
    rans_tables.write_depths(table, np.array([2, 2]), 2)
    tables = varint(len(table.getvalue())) + table.getvalue()
    states = (1 << 16).to_bytes(4, "little")
    broken = {
        "": "are left",
        good[:-1]: "no encoder",
        good[:-2]: "end with",
        good + b"12": "end with",
        bytes([2]) + head[1:] + tables + states: "no meaning",
        head + varint(1) + b"\x00" + states: "complete",
        head + varint(2) + table.getvalue() + b"\x00" + states: "beyond",
        head + varint(1) + bytes([table.getvalue()[0] | 128]) + states: "beyond",
        head + varint(2) + b"\xff\x10" + states: "add up",
        head + tables + (65535).to_bytes(4, "little"): "no encoder",
        bytes([1 | 3 << 2]) + head[1:] + bytes(4) + tables: "range",
        bytes([1]) + head[1:] + bytes([0, 1, 0, 121]) + tables: "range",
        bytes([1]) + head[1:] + bytes([0, 1, 64, 0]) + tables: "range",
        bytes([1]) + head[1:] + bytes([0, 1, 0, 0]) + varint(2) + bytes(2): "add up",
        head[:-1] + varint(4096): "makes sense",
        bytes([1]) + head[1:-1] + varint(32768): "makes sense",
    }
    for data, message in broken.items():
        with pytest.raises(CorruptStreamError, match=message):
            decoded(data or b"", 5000 if len(data) > 1000 else 10, np.int16)
    with pytest.raises(CorruptStreamError, match="hold"):
        decoded(coded(np.array([0, 300], np.int16)), 2, np.int8)


def test_an_integer_outside_its_alphabet_is_refused() -> None:
    # Levels -3 .. 1: where the sum of neighbours is negative, a mirrored table also has a level 3.
    random = np.random.default_rng(8)
    integers = random.choice(np.array([-3, -1, 0, 0, 1], np.int8), 6000)
    data = bytearray(coded_with_contexts(integers, signs=1, lag=1))
    refused = set()
    for at in range(len(data) - 200, len(data)):
        changed = data.copy()
        changed[at] ^= 85
        with pytest.raises(CorruptStreamError) as error:
            decoded(changed, integers.size, np.int8)
        refused.add(str(error.value))
    assert "an integer outside its alphabet" in refused


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), DTYPES)
def test_arbitrary_bytes_are_refused_or_decoded(junk: bytes, dtype: type) -> None:
    try:
        assert decoded(junk, 100, dtype).shape == (100,)
    except CorruptStreamError:
        return


def _streams() -> list[tuple[int, bytes]]:
    random = np.random.default_rng(9)
    dense = np.where(random.random(5000) < 0.7, 0, random.integers(1, 9, 5000)).astype(np.int8)
    kernels_ = np.clip(kernels_of_a_convolution(random, 24), 0, 15)
    few = kernels_[:700]
    made = [dense, dense[:300], kernels_]
    streams = [(one.size, coded(one)) for one in made]
    streams += [(one.size, coded_with_contexts(one, reach=3, quantiser=q)) for one in (kernels_, few) for q in (0, 1)]
    return streams


_STREAMS = _streams()


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(range(len(_STREAMS))), st.data())
def test_changed_bytes_are_refused_or_decoded(number: int, data: st.DataObject) -> None:
    count, stream = _STREAMS[number]
    changed = bytearray(stream)
    # Near the beginning are the parameters and the tables.
    limit = data.draw(st.sampled_from([8, 60, len(changed)]))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, min(limit, len(changed)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    out = np.full(count + 2, 77, np.float32)
    values = np.arange(16, dtype=np.float32)
    try:
        Rans().read(ByteReader(changed), out[1:-1], Codebook(values))
    except CorruptStreamError:
        return
    finally:
        assert out[[0, -1]].tolist() == [77, 77]
    assert np.isin(out[1:-1], values).all()
