"""Huffman codes against a textbook construction, their streams against plain Python, and their limits."""

import heapq
import itertools
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezer.codecs.base import ByteReader, ByteWriter, Codebook, CorruptStreamError, Itself
from squeezer.codecs.bitstream import as_stream, bits_at, bits_at_end
from squeezer.codecs.dense import LONG, DenseHuffman
from squeezer.codecs.huffman import MAX_ALPHABET, MAX_LENGTH, HuffmanCode, decode, encode, lane_bounds
from squeezer.codecs.huffman_kernels import LANES, USUAL_LENGTH, package_merge
from squeezer.codecs.symbols import histogram

#: The first and the last symbol of an alphabet occur.
COUNTS = st.lists(st.integers(0, 10**6), min_size=0, max_size=300).map(lambda counts: [1, *counts, 2])


def textbook_cost(counts: list[int]) -> int:
    """Sum of the weights of all merges (Huffman 1952): the least number of bits without a limit of length."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    return cost


def best_limited_cost(counts: list[int], limit: int) -> int:
    """Least cost over all length vectors with Kraft sum 1, by trying them all."""
    best = None
    for lengths in itertools.product(range(1, limit + 1), repeat=len(counts)):
        if sum(2.0**-length for length in lengths) <= 1:
            cost = sum(map(int.__mul__, lengths, counts))
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


def fibonacci(count: int) -> list[int]:
    """Frequencies for which an unlimited Huffman code is as long as it can be; rotated, so that none is at an end."""
    counts = [1, 1]
    while len(counts) < count:
        counts.append(counts[-1] + counts[-2])
    return [*counts[3:], *counts[:3]]


def bits_of(code: HuffmanCode, symbols: list[int]) -> str:
    """The stream of symbols, in the order in which it is read."""
    words = [f"{int(word):0{length}b}"[::-1] for word, length in zip(code.codewords(), code.lengths, strict=True)]
    return "".join(words[symbol] for symbol in symbols)


def bytes_of(bits: str) -> bytes:
    return np.packbits(np.array([*bits], np.uint8), bitorder="little").tobytes()


@given(COUNTS)
def test_as_short_as_the_textbook_code_where_the_limit_does_not_bind(counts: list[int]) -> None:
    code = HuffmanCode.from_counts(np.array(counts))
    cost = code.bits(np.array(counts))
    if code.max_length < USUAL_LENGTH:
        assert cost == textbook_cost(counts)
    assert cost >= textbook_cost(counts)


@pytest.mark.parametrize("counts", [[1, 1, 2, 4, 8, 16], [1, 1, 1, 1, 100, 200], [5, 5, 5, 5, 5, 6]])
def test_limited_lengths_are_optimal(counts: list[int]) -> None:
    lengths = package_merge(np.array(counts, np.int64), 4)
    assert lengths.max() <= 4
    assert int(np.dot(lengths.astype(int), counts)) == best_limited_cost(counts, 4)


@pytest.mark.parametrize(
    ("alphabet", "limit"), [(60, USUAL_LENGTH), (256, USUAL_LENGTH), (257, 12), (4096, MAX_LENGTH)]
)
def test_fibonacci_frequencies_meet_the_limit(alphabet: int, limit: int) -> None:
    counts = [*fibonacci(60), *[1] * (alphabet - 60)]
    code = HuffmanCode.from_counts(np.array(counts))
    assert code.max_length == limit < 59  # without a limit the longest codeword has 59 bits
    assert sum(Fraction(1, 1 << int(length)) for length in code.lengths) == 1


@given(COUNTS)
def test_codewords_are_canonical_and_none_begins_another(counts: list[int]) -> None:
    code = HuffmanCode.from_counts(np.array(counts))
    used = sorted(np.flatnonzero(code.lengths).tolist(), key=lambda symbol: (code.lengths[symbol], symbol))
    written = [bits_of(code, [symbol]) for symbol in used]
    assert written == sorted(written)
    assert all(not b.startswith(a) for a, b in itertools.pairwise(written))
    assert set(written[0]) == {"0"}


@given(st.lists(st.integers(0, 6), max_size=300), st.lists(st.integers(20, 600), max_size=3), st.data())
def test_table_comes_back(exponents: list[int], runs: list[int], data: st.DataObject) -> None:
    counts = [1 << 2 * exponent >> 2 for exponent in exponents]
    for run in runs:
        at = data.draw(st.integers(0, len(counts)))
        counts[at:at] = [0] * run
    code = HuffmanCode.from_counts(np.array([1, *counts, 2]))
    out = ByteWriter()
    code.write(out)
    read = ByteReader(out.getvalue())
    assert np.array_equal(HuffmanCode.read(read, code.lengths.size).lengths, code.lengths)
    read.finish()


def test_table_of_likely_lengths_is_short() -> None:
    weights = np.random.default_rng(0).standard_normal(100_000)
    counted = histogram(np.rint(weights * 5).astype(np.int8))
    assert counted is not None
    code = HuffmanCode.from_counts(counted.counts)
    assert 8 * code.table.size < 2.5 * counted.alphabet


@pytest.mark.parametrize(
    ("bits", "alphabet", "word"),
    [
        ("110" + "10" + "0", 2, "complete"),  # no symbol at all
        ("110" + "110" + "11" + "0", 7, "complete"),  # a run that overshoots
        ("110" + "1" * 15 + "0" * 16, 40, "complete"),  # a run without end
        ("0" + "0", 2, "complete"),  # lengths 6 and 6
        ("111" + "1000" + "0" + "0", 3, "complete"),  # lengths 1, 1 and 1
        ("111" + "1000" + "100" + "0", 2, "complete"),  # length 0
        ("111" + "0111" + "101", 2, "complete"),  # length 15
        ("111" + "0000" + "0", 2, "complete"),
        ("", 2, "complete"),
        ("111" + "0100" + "0" + "0", 4, "announced"),  # ends in the middle, where zeros would make it complete
    ],
)
def test_bad_tables_are_refused(bits: str, alphabet: int, word: str) -> None:
    table = bytes_of(bits)
    if word == "announced":
        table = table[:1]
    with pytest.raises(CorruptStreamError, match=word):
        HuffmanCode.read(ByteReader(table), alphabet)


@settings(max_examples=500)
@given(st.binary(max_size=40), st.integers(2, MAX_ALPHABET))
def test_arbitrary_tables_are_refused_or_complete(table: bytes, alphabet: int) -> None:
    try:
        code = HuffmanCode.read(ByteReader(table), alphabet)
    except CorruptStreamError:
        return
    assert sum(Fraction(1, 1 << int(length)) for length in code.lengths if length) == 1


@given(st.binary(min_size=1, max_size=40), st.data())
def test_windows_hold_the_next_bits(data: bytes, draw: st.DataObject) -> None:
    stream = as_stream(memoryview(data))
    number = int.from_bytes(data, "little")
    position = draw.draw(st.integers(0, 8 * len(data) + 100))
    mask = (1 << 57) - 1
    assert int(bits_at_end(stream, np.uint64(position))) & mask == number >> position & mask
    if position + 64 <= 8 * len(data):
        assert int(bits_at(stream, np.uint64(position))) & mask == number >> position & mask


@given(st.lists(st.integers(0, 80), min_size=1, max_size=500), st.integers(0, 100), st.sampled_from([70, 4096]))
def test_stream_is_the_codewords_first_bit_lowest(symbols: list[int], low: int, alphabet: int) -> None:
    symbols = [0, alphabet - 1, *symbols]
    array = np.array(symbols, np.int16) % alphabet
    code = HuffmanCode.from_counts(np.bincount(array, minlength=alphabet))
    bits = bits_of(code, array.tolist())
    middle = array.size // 3
    bounds = np.array([0, middle, array.size])
    stream, parts = encode(code, array - np.int16(low), -low, len(bits), bounds)
    assert stream.tobytes() == bytes_of(bits)
    assert parts == [0, len(bits_of(code, array[:middle].tolist()))]
    out = np.empty_like(array)
    decode(code, memoryview(stream), [0], np.arange(alphabet, dtype=np.int16), out)
    assert np.array_equal(out, array)


def test_stream_that_ends_early_or_late_is_refused() -> None:
    array = np.arange(16, dtype=np.uint8).repeat(8)
    counts = np.bincount(array)
    code = HuffmanCode.from_counts(counts)
    stream = encode(code, array, 0, code.bits(counts), np.array([0, array.size]))[0].tobytes()
    out = np.empty_like(array)
    for wrong in (stream[:-1], stream + b"\0", b""):
        with pytest.raises(CorruptStreamError, match="bits in a stream"):
            decode(code, memoryview(wrong), [0], np.arange(16, dtype=np.uint8), out)


def test_lanes_that_do_not_meet_are_refused() -> None:
    array = np.random.default_rng(0).binomial(30, 0.5, LONG).astype(np.uint8)
    counts = np.bincount(array)
    code = HuffmanCode.from_counts(np.maximum(counts, 1))
    bits = code.bits(counts)
    stream, lanes = encode(code, array, 0, bits, lane_bounds(LONG))
    values = np.arange(counts.size, dtype=np.uint8)
    out = np.empty_like(array)
    decode(code, memoryview(stream), lanes, values, out)
    assert np.array_equal(out, array)
    for lane in range(1, LANES):
        for other in (0, lanes[lane] - 1, lanes[lane] + 1, 8 * stream.size):
            wrong = [*lanes[:lane], other, *lanes[lane + 1 :]]
            with pytest.raises(CorruptStreamError, match=r"part of a stream|bits in a stream"):
                decode(code, memoryview(stream), wrong, values, out)


def written(integers: np.ndarray) -> bytes:
    counted = histogram(integers)
    assert counted is not None
    out = ByteWriter()
    plan = DenseHuffman().plan(integers, counted)
    plan.write(out)
    assert plan.size == len(out.getvalue())
    return out.getvalue()


@settings(max_examples=60)
@given(
    st.sampled_from([1, 2, 5, LONG - 1, LONG, LONG + 3, 3 * LONG + 2]),
    st.sampled_from([1, 2, 3, 16, 64, 65, 256, 257, 4096]),
    st.sampled_from([np.int8, np.uint8, np.int16, np.int32, np.uint64]),
    st.integers(-300, 300),
    st.floats(0.01, 20),
)
def test_integers_of_every_kind_come_back(count: int, alphabet: int, dtype: type, low: int, spread: float) -> None:
    bounds = np.iinfo(dtype)
    alphabet = min(alphabet, bounds.max - bounds.min + 1, MAX_ALPHABET)
    low = min(max(low, int(bounds.min)), int(bounds.max) - alphabet + 1)
    random = np.random.default_rng(count + alphabet)
    # Unlike quarters: the lanes are not done at the same time.
    scale = np.repeat([spread, spread / 9, spread, 3 * spread], -(-count // 4))[:count]
    symbols = np.floor(np.abs(random.standard_normal(count)) * scale).astype(np.int64) % alphabet
    integers = (symbols + low).astype(dtype)
    data = ByteReader(written(integers))
    out = np.empty_like(integers)
    DenseHuffman().read(data, out, Itself(np.dtype(dtype)))
    data.finish()
    assert np.array_equal(out, integers)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_every_width_of_values_is_decoded(dtype: type) -> None:
    codes = np.random.default_rng(1).binomial(60, 0.4, 100_000).astype(np.uint8)
    values = np.random.default_rng(2).integers(0, 200, 61).astype(dtype)
    out = np.empty(codes.size, dtype)
    DenseHuffman().read(ByteReader(written(codes)), out, Codebook(values))
    assert np.array_equal(out, values[codes])


def test_a_single_integer_takes_no_stream() -> None:
    for count in (1, 1 << 17):
        assert len(written(np.full(count, -5, np.int8))) == 2


@settings(max_examples=400)
@given(st.data())
def test_changed_bytes_are_refused_or_decoded_within_the_array(data: st.DataObject) -> None:
    coded = bytearray(data.draw(st.sampled_from(_CODED)))
    size = data.draw(st.sampled_from([LONG, len(coded)])) if len(coded) > LONG else LONG
    # Near the beginning are the table and the entry points.
    limit = data.draw(st.sampled_from([4, 24, 40, len(coded)]))
    for _ in range(data.draw(st.integers(1, 4))):
        coded[data.draw(st.integers(0, min(limit, len(coded)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del coded[data.draw(st.integers(0, len(coded) - 1)) :]
    held = np.full(size + 128, 77, np.uint8)
    with suppress(CorruptStreamError):
        DenseHuffman().read(ByteReader(coded), held[64:-64], Itself(np.dtype(np.uint8)))
    assert (held[:64] == 77).all()
    assert (held[-64:] == 77).all()


_RANDOM = np.random.default_rng(3)
_CODED = [
    written(_RANDOM.binomial(30, 0.5, LONG).astype(np.uint8)),
    written(_RANDOM.geometric(0.6, LONG).astype(np.uint8)),
    written(_RANDOM.integers(0, 256, LONG).astype(np.uint8)),
    written((_RANDOM.random(LONG) < 0.01).astype(np.uint8)),
]
