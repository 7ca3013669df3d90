"""Huffman codes against a textbook construction, and their limits."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeezer.codecs.base import ByteReader, ByteWriter, CorruptStreamError
from squeezer.codecs.huffman import MAX_LENGTH, HuffmanCode, decode, encode

COUNTS = st.lists(st.integers(0, 10**6), min_size=2, max_size=300).filter(any)


def textbook_cost(counts: list[int]) -> int:
    """Sum of the weights of all merges (Huffman 1952): the least number of bits without a limit of length."""
    heap = [count for count in counts if count]
    if len(heap) == 1:
        return 0
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


@given(COUNTS)
def test_as_short_as_the_textbook_code_where_the_limit_does_not_bind(counts: list[int]) -> None:
    code = HuffmanCode.from_counts(np.array(counts))
    cost = code.bits(np.array(counts))
    if code.max_length < 11:
        assert cost == textbook_cost(counts)
    assert cost >= textbook_cost(counts)


@pytest.mark.parametrize("counts", [[1, 1, 2, 4, 8, 16], [1, 1, 1, 1, 100, 200], [5, 5, 5, 5, 5, 6]])
def test_limited_lengths_are_optimal(counts: list[int]) -> None:
    from squeezer.codecs.huffman import _package_merge

    lengths = _package_merge(np.array(counts, np.int64), 4)
    assert lengths.max() <= 4
    assert int(np.dot(lengths.astype(int), counts)) == best_limited_cost(counts, 4)


def test_fibonacci_frequencies_meet_the_limit() -> None:
    counts = [1, 1]
    while len(counts) < 60:
        counts.append(counts[-1] + counts[-2])
    code = HuffmanCode.from_counts(np.array(counts))
    assert code.max_length <= MAX_LENGTH < 59  # without a limit the longest codeword has 59 bits
    assert sum(2.0 ** -int(length) for length in code.lengths) == 1


@given(COUNTS)
def test_no_codeword_begins_another(counts: list[int]) -> None:
    code = HuffmanCode.from_counts(np.array(counts))
    words = code.codewords()
    used = np.flatnonzero(code.lengths)
    written = sorted(f"{int(words[s]):0{code.lengths[s]}b}"[::-1] for s in used)
    assert all(not b.startswith(a) for a, b in itertools.pairwise(written))


@given(COUNTS)
def test_table_comes_back(counts: list[int]) -> None:
    code = HuffmanCode.from_counts(np.array(counts))
    out = ByteWriter()
    code.write(out)
    assert len(out.getvalue()) == code.written_size
    data = ByteReader(out.getvalue())
    assert np.array_equal(HuffmanCode.read(data, len(counts)).lengths, code.lengths)
    data.finish()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=500))
def test_stream_is_the_codewords_first_bit_lowest(symbols: list[int]) -> None:
    array = np.array(symbols, np.uint8)
    counts = np.bincount(array, minlength=41)
    code = HuffmanCode.from_counts(counts)
    stream, _ = encode(code, array, 0, code.bits(counts), [])
    if not code.is_constant:
        words = code.codewords()
        text = "".join(f"{int(words[s]):0{code.lengths[s]}b}"[::-1] for s in symbols)
        assert stream.tobytes() == np.packbits([int(bit) for bit in text], bitorder="little").tobytes()
    out = np.empty_like(array)
    decode(code, memoryview(stream), [], np.arange(41, dtype=np.uint8), out)
    assert np.array_equal(out, array)


@pytest.mark.parametrize(
    ("table", "alphabet", "word"),
    [
        (b"\x00", 2, "announced"),  # a run that the table ends before
        (b"\x10", 3, "overshoot|announced"),
        (b"\xf0", 16, "without symbols"),
        (b"\x33", 2, "no complete"),
        (b"\x11\x11", 4, "no complete"),
        (b"", 1, "announced"),
    ],
)
def test_bad_tables_are_refused(table: bytes, alphabet: int, word: str) -> None:
    with pytest.raises(CorruptStreamError, match=word):
        HuffmanCode.read(ByteReader(table), alphabet)


def test_stream_that_ends_early_or_late_is_refused() -> None:
    array = np.arange(16, dtype=np.uint8).repeat(8)
    counts = np.bincount(array)
    code = HuffmanCode.from_counts(counts)
    stream = encode(code, array, 0, code.bits(counts), [])[0].tobytes()
    out = np.empty_like(array)
    for wrong in (stream[:-1], stream + b"\0", b""):
        with pytest.raises(CorruptStreamError, match="bits in a stream"):
            decode(code, memoryview(wrong), [], np.arange(16, dtype=np.uint8), out)
