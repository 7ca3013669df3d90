"""The context coder writes what it reads, agrees with the slow one, is small, and survives any bytes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezer.codecs import ByteReader, ByteWriter, Codebook, CorruptStreamError
from squeezer.codecs import context_kernels as kernels
from squeezer.codecs.base import Histogram, Itself, varint
from squeezer.codecs.context import Context, Parameters
from squeezer.codecs.symbols import histogram
from squeezer.representations.base import entropy_bits
from tests.codecs import context_reference as reference
from tests.codecs.trellis_codes import trellis_codes

DTYPES = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32])


def coded(integers: np.ndarray, counted: Histogram | None = None, *, trellis: bool = False) -> bytes:
    plan = Context().plan(integers, counted or histogram(integers), trellis=trellis)
    out = ByteWriter()
    plan.write(out)
    assert plan.size == len(out.getvalue()) == sum(out.tally.values())
    return out.getvalue()


def decoded(data: bytes, count: int, dtype: object) -> np.ndarray:
    reader = ByteReader(data)
    out = np.empty(count, dtype)
    Context().read(reader, out, Itself(out.dtype))
    reader.finish()
    return out


def walker(parameters: Parameters) -> reference.Walker:
    p = parameters
    return reference.Walker(
        p.low, p.count, p.centre - p.low, p.split, p.tree, p.by_class, p.window, p.fast, p.columns, p.quantiser
    )


@st.composite
def arrays(draw: st.DrawFn, largest: int = 3000) -> np.ndarray:
    """Integers of every type: narrow and wide, sparse and dense, constant, with and without structure."""
    dtype = draw(DTYPES)
    bounds = np.iinfo(dtype)
    low = draw(st.sampled_from([0, bounds.min, -1, -7]).filter(lambda value: value >= bounds.min))
    width = draw(st.sampled_from([0, 1, 2, 5, 31, 255, 4095, 2**32 - 1]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, largest))
    integers = random.integers(low, min(low + width, bounds.max) + 1, size)
    integers[random.random(size) < draw(st.sampled_from([0.0, 0.5, 0.95, 1.0]))] = max(low, 0)
    return integers.astype(dtype)


@settings(max_examples=150, deadline=None)
@given(arrays())
def test_integers_come_back(integers: np.ndarray) -> None:
    assert np.array_equal(decoded(coded(integers), integers.size, integers.dtype), integers)


@settings(max_examples=40, deadline=None)
@given(
    arrays(1500), st.tuples(*[st.booleans()] * 3), st.integers(2, 5), st.integers(4, 8), st.integers(0, 50), st.data()
)
def test_the_slow_coder_agrees(
    integers: np.ndarray,
    flags: tuple[bool, bool, bool],
    window: int,
    fast: int,
    columns: int,
    data: st.DataObject,
) -> None:
    tree, by_class, quantiser = flags
    low, count = int(integers.min()), int(integers.max()) - int(integers.min()) + 1
    centre, split = (data.draw(st.integers(0, count - 1)) for _ in range(2))
    tree = tree and count <= 4096
    chosen = Parameters(low, count, low + centre, split, tree, by_class, window, fast, columns, quantiser)
    stream = chosen.encode(integers)
    assert reference.encode(walker(chosen), integers.tolist()) == stream
    assert reference.decode(walker(chosen), integers.size, stream) == integers.tolist()
    assert np.array_equal(chosen.decode(stream, integers.size).astype(np.int64) + low, integers)
    # Negative control: with one bit changed it is the code of other integers.
    if len(stream) > 8:
        changed = bytes([stream[0] ^ 128]) + stream[1:]
        try:
            assert reference.decode(walker(chosen), integers.size, changed) != integers.tolist()
        except ValueError:
            return


def test_tables_are_exact() -> None:
    assert [reference.stretch(i) for i in range(4096)] == kernels.STRETCH.tolist()
    assert [reference.squash(odds) for odds in range(-kernels.LIMIT, kernels.LIMIT + 1)] == kernels.SQUASH.tolist()


@pytest.mark.parametrize(("value", "size"), [(0, 1), (7, 1000), (-3, 100_000), (2**31 - 1, 10), (-(2**31), 10)])
def test_a_constant_takes_no_stream(value: int, size: int) -> None:
    integers = np.full(size, value, np.int32)
    data = coded(integers)
    assert len(data) <= 12
    assert np.array_equal(decoded(data, size, np.int32), integers)


def test_carries_run_through_words_of_all_ones() -> None:
    # The words before an interval that straddles 1/2 are 0x7FFFFFFF FFFFFFFF ..., until a bin decides.
    words = np.array([1, 0xFFFFFFFF, 0xFFFFFFFF, 0], np.uint32)
    narrow = kernels._narrow.py_func
    with np.errstate(over="ignore"):
        low, span, at = narrow((np.uint64(2**64 - 2**32), np.uint64(2**33), np.int64(3)), words, True, 1)
    assert words.tolist()[:3] == [2, 0, 0]
    assert (at, int(span)) in {(4, 2**17 * 2**32), (3, 2**17)}
    assert int(low) >= 0


@pytest.mark.parametrize("kind", ["levels", "codes", "sparse"])
def test_size_is_near_the_entropy_of_independent_integers(kind: str) -> None:
    random = np.random.default_rng(2)
    size = 1_000_000
    if kind == "levels":
        integers = np.round(random.standard_normal(size) * 3).astype(np.int8)
    else:
        weights = random.dirichlet(np.full(32, 3.0))
        integers = random.choice(np.arange(1, 33, dtype=np.uint8), size, p=weights)
        integers[random.random(size) < (0.9 if kind == "sparse" else 0.0)] = 0
    entropy = entropy_bits(integers)
    assert entropy < 8 * len(coded(integers)) <= 1.005 * entropy


def correlated(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A sparse matrix whose columns differ in density, as the weights of border pixels do."""
    density = np.where(np.arange(columns) % 28 < 14, 0.01, 0.3)
    codes = random.integers(1, 33, (rows, columns), dtype=np.uint8)
    codes[random.random((rows, columns)) > density] = 0
    return codes.reshape(-1)


def test_structure_pays_and_shuffling_takes_it_away() -> None:
    random = np.random.default_rng(3)
    integers = correlated(random, 300, 784)
    assert 8 * len(coded(integers)) < 0.95 * entropy_bits(integers)
    random.shuffle(integers)
    assert 8 * len(coded(integers)) > entropy_bits(integers)


def test_the_length_of_rows_is_found() -> None:
    integers = correlated(np.random.default_rng(4), 100, 784)
    columns = Context().plan(integers, histogram(integers)).parameters.columns
    assert columns > 0
    assert columns % 28 == 0


def test_the_quantiser_is_a_context_where_it_says_something() -> None:
    codes = trellis_codes(20_000)
    data = coded(codes, trellis=True)
    assert data[0] >> 7
    assert np.array_equal(decoded(data, codes.size, np.int8), codes)
    assert len(data) < 0.95 * len(coded(codes))
    chosen = Context().plan(codes[:3000], histogram(codes[:3000]), trellis=True).parameters
    assert chosen.quantiser
    assert reference.encode(walker(chosen), codes[:3000].tolist()) == chosen.encode(codes[:3000])
    # Where it says nothing, it is none.
    assert not coded(np.random.default_rng(5).integers(-3, 4, 20_000).astype(np.int8), trellis=True)[0] >> 7


def test_a_codebook_turns_integers_into_what_they_stand_for() -> None:
    random = np.random.default_rng(0)
    codes = np.where(random.random(5000) < 0.9, 0, random.integers(1, 33, 5000)).astype(np.uint8)
    values = random.standard_normal(33).astype(np.float32)
    out = np.empty(5000, np.float32)
    Context().read(ByteReader(coded(codes)), out, Codebook(values))
    assert np.array_equal(out, values[codes])
    with pytest.raises(CorruptStreamError, match="codebook"):
        Context().read(ByteReader(coded(codes)), out, Codebook(values[:32]))


def test_what_no_encoder_writes_is_refused() -> None:
    integers = np.random.default_rng(5).integers(-9, 9, 500).astype(np.int16)
    data = coded(integers)
    plan = Context().plan(integers, histogram(integers))
    numbers = len(plan.parameters.numbers())
    longer = data[:numbers] + varint(len(plan.stream) + 9) + plan.stream + b"123456789"
    for broken in (b"", data[:-1], longer, b"\xf0" + data[1:]):
        with pytest.raises(CorruptStreamError):
            decoded(broken, 500, np.int16)
    with pytest.raises(CorruptStreamError, match="rows"):
        decoded(replace(plan.parameters, columns=501).numbers() + b"\0", 500, np.int16)
    with pytest.raises(CorruptStreamError, match="hold"):
        decoded(Parameters(-(2**31), 2**32, 0, 2**31).numbers() + b"\0", 500, np.int16)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), DTYPES)
def test_arbitrary_bytes_are_refused_or_decoded(junk: bytes, dtype: type) -> None:
    try:
        assert decoded(junk, 100, dtype).shape == (100,)
    except CorruptStreamError:
        return


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1), st.data())
def test_changed_bytes_are_refused_or_decoded(wide: int, data: st.DataObject) -> None:
    random = np.random.default_rng(6)
    codes = np.where(random.random(300) < 0.7, 0, random.integers(1, 9, 300) << 20 * wide).astype(np.int32)
    changed = bytearray(coded(codes))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    out = np.empty(302, np.float32 if not wide else np.int32)
    out[[0, -1]] = 77
    values = np.arange(16, dtype=np.float32)
    try:
        Context().read(ByteReader(changed), out[1:-1], Itself(out.dtype) if wide else Codebook(values))
    except CorruptStreamError:
        return
    finally:
        assert out[[0, -1]].tolist() == [77, 77]
    assert wide or np.isin(out[1:-1], values).all()
