"""Gaps and values against plain Python, and their limits."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezer.codecs.base import ByteReader, ByteWriter, Category, Codebook, CorruptStreamError, Histogram, Itself
from squeezer.codecs.dense import LONG, Symbols
from squeezer.codecs.gaps import Gaps
from squeezer.codecs.huffman import MAX_ALPHABET
from squeezer.codecs.symbols import histogram
from squeezer.representations.base import entropy_bits


def written(integers: np.ndarray) -> bytes:
    counted = histogram(integers)
    assert counted is not None
    out = ByteWriter()
    plan = Gaps().plan(integers, counted)
    plan.write(out)
    assert plan.size == len(out.getvalue())
    return out.getvalue()


def sparse(count: int, sparsity: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.binomial(30, 0.5, count) - 15
    return np.where(random.random(count) < sparsity, 0, values).astype(np.int8)


def read(data: bytes, count: int, dtype: type = np.int8) -> np.ndarray:
    reader = ByteReader(data)
    out = np.full(count, 99).astype(dtype)
    Gaps().read(reader, out, Itself(np.dtype(dtype)))
    reader.finish()
    return out


def by_hand(kept: int, skips: int, gaps: list[int], values: list[int]) -> bytes:
    """What a plan would write that has these symbols."""
    out = ByteWriter()
    out.varint(kept)
    out.varint(skips)
    plans = [_symbols(gaps, Category.GAPS), _symbols(values, Category.VALUES)]
    out.varint(plans[0].size)
    for plan in plans:
        plan.write(out)
    return out.getvalue()


def _symbols(integers: list[int], category: Category) -> Symbols:
    array = np.array(integers, np.int32)
    low = int(array.min())
    return Symbols.of(array, Histogram(low, np.bincount(array - low)), category)


@settings(max_examples=100)
@given(
    st.sampled_from([1, 2, 511, 512, 513, 5000, LONG, 3 * LONG + 1]),
    st.sampled_from([0.0, 0.3, 0.9, 0.99, 0.999, 1.0]),
    st.integers(0, 10),
)
def test_integers_come_back(count: int, sparsity: float, seed: int) -> None:
    integers = sparse(count, sparsity, seed)
    assert np.array_equal(read(written(integers), count), integers)


@pytest.mark.parametrize("place", [0, 1, 511, 512, 4095, 4096, 8191, 199_999])
def test_a_single_value_comes_back_wherever_it_is(place: int) -> None:
    integers = np.zeros(200_000, np.int16)
    integers[place] = -700
    assert len(written(integers)) < 70
    assert np.array_equal(read(written(integers), integers.size, np.int16), integers)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_every_width_of_values_is_decoded(dtype: type) -> None:
    codes = (sparse(100_000, 0.9) % 16).astype(np.uint8)
    values = np.arange(100, 116).astype(dtype)
    out = np.zeros(codes.size, dtype)
    Gaps().read(ByteReader(written(codes)), out, Codebook(values))
    assert np.array_equal(out, values[codes])


def test_symbols_are_what_the_format_says() -> None:
    # Gaps 2, 0, 3 + 3 + 1, with 3 the skip; after the last value come zeros.
    expected = [0, 0, 5, -4, *[0] * 7, 5, 0, 0]
    assert read(by_hand(3, 2, [2, 0, 3, 3, 1], [5, -4, 5]), 14).tolist() == expected
    # Where there are no skips, the highest symbol is a gap like others.
    assert read(by_hand(3, 0, [2, 0, 3], [5, -4, 5]), 14).tolist() == [0, 0, 5, -4, 0, 0, 0, 5, *[0] * 6]


@pytest.mark.parametrize(
    ("kept", "skips", "gaps", "values", "word"),
    [
        (3, 0, [2, 0, 9], [5, -4, 5], "do not fit"),  # past the end
        (2, 1, [4, 0, 4], [5, -4], "do not fit"),  # two skips instead of one
        (2, 1, [0, 0, 0], [5, -4], "do not fit"),  # nothing but skips, of no zeros
        (1, 2, [9, 9, 0], [5], "do not fit"),  # skips past the end
        (2, 11, [1] * 12 + [0], [5, -4], "makes sense"),  # more skips than there are zeros
        (13, 0, [0] * 13, [5] * 13, "makes sense"),  # more values than there are elements
    ],
)
def test_gaps_that_do_not_fit_are_refused(kept: int, skips: int, gaps: list[int], values: list[int], word: str) -> None:
    with pytest.raises(CorruptStreamError, match=word):
        read(by_hand(kept, skips, gaps, values), 12)


def test_negative_gaps_are_refused() -> None:
    with pytest.raises(CorruptStreamError, match="cannot hold"):
        read(by_hand(3, 0, [2, -1, 3], [5, -4, 5]), 14)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_size_is_near_the_entropy(sparsity: float) -> None:
    integers = sparse(1 << 20, sparsity)
    bits = 8 * len(written(integers))
    # Where a distribution is as skewed as that of short gaps, a whole number of bits for each costs more.
    assert entropy_bits(integers) <= bits <= (1.012 if sparsity >= 0.9 else 1.025) * entropy_bits(integers)


def test_gaps_longer_than_any_alphabet_take_few_bytes() -> None:
    integers = np.zeros(1 << 20, np.int8)
    integers[:: MAX_ALPHABET * 3] = 1
    assert np.array_equal(read(written(integers), integers.size), integers)
    assert len(written(integers)) < 200


@settings(max_examples=400)
@given(st.data())
def test_changed_bytes_are_refused_or_decoded_within_the_array(data: st.DataObject) -> None:
    count, original = data.draw(st.sampled_from(_CODED))
    coded = bytearray(original)
    # Near the beginning are the counts, a table and entry points.
    limit = data.draw(st.sampled_from([5, 30, len(coded)]))
    for _ in range(data.draw(st.integers(1, 4))):
        coded[data.draw(st.integers(0, min(limit, len(coded)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del coded[data.draw(st.integers(0, len(coded) - 1)) :]
    held = np.full(count + 128, 77, np.int8)
    with suppress(CorruptStreamError):
        Gaps().read(ByteReader(coded), held[64:-64], Itself(np.dtype(np.int8)))
    assert (held[:64] == 77).all()
    assert (held[-64:] == 77).all()


_CODED = [
    (count, written(sparse(count, sparsity)))
    for count, sparsity in ((300, 0.7), (5000, 0.99), (2 * LONG, 0.3), (20_000, 0.999))
]
