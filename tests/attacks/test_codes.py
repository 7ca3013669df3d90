"""Coded integers that no encoder writes, made by hand from docs/format.md."""

from __future__ import annotations

import numpy as np
import pytest

from squeezer.artifact.tensor import _Grid
from squeezer.codecs import SYMBOL_CODECS, ByteReader, ByteWriter, Codebook, CorruptStreamError, Itself, Meaning
from squeezer.codecs.base import Histogram, SymbolCodec
from squeezer.codecs.symbols import histogram
from tests.fuzz.mutate import varint

N = 100
U8, I32 = np.dtype(np.uint8), np.dtype(np.int32)
#: A codebook that is large enough for all that is coded here.
VALUES = Codebook(np.arange(4096, dtype=np.float32))


def zigzag(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def table(*lengths: int) -> bytes:
    """Lengths of codewords, each written out; -k stands for k absent symbols."""
    bits = ""
    for length in lengths:
        if length < 0:
            digits = (-length).bit_length() - 1
            bits += "110" + "1" * digits + "0" + f"{-length:b}"[1:][::-1]
        else:
            bits += "111" + f"{length:04b}"[::-1]
    return int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")


def alphabet(*lengths: int, low: int = 0, size: int | None = None) -> bytes:
    """What is before a stream of symbols, or before entry points. Without lengths, there is a single symbol."""
    if not lengths:
        return zigzag(low) + varint(0)
    symbols = sum(-length if length < 0 else 1 for length in lengths)
    return zigzag(low) + varint((size or symbols) - 1) + table(*lengths)


def gaps(kept: int, skips: int, distances: bytes, values: bytes, length: int | None = None) -> bytes:
    """Sparse integers, of two series of symbols."""
    return varint(kept) + varint(skips) + varint(len(distances) if length is None else length) + distances + values


def read(codec: str, data: bytes, count: int = N, meaning: Meaning = VALUES) -> np.ndarray:
    """Decode all of it."""
    reader = ByteReader(data)
    out = np.empty(count, meaning.dtype)
    next(c for c in SYMBOL_CODECS.values() if c.name == codec).read(reader, out, meaning)
    reader.finish()
    return out


def refused(codec: str, data: bytes, match: str, count: int = N, meaning: Meaning = VALUES) -> None:
    with pytest.raises(CorruptStreamError, match=match):
        read(codec, data, count, meaning)


#: Two symbols of one bit each, and N bits.
TWO = alphabet(1, 1)
BITS = bytes(13)


def test_what_is_attacked_here_is_right_without_the_attack() -> None:
    assert not read("huffman", TWO + BITS).any()
    assert read("huffman", TWO + b"\xff" * 12 + b"\x0f").all()
    assert read("huffman", alphabet(low=7)).tolist() == [7] * N
    # Two values, behind gaps of 1 and 3.
    sparse = gaps(2, 0, alphabet(-1, 1, -1, 2, -3, 2) + b"\x02", alphabet(low=5))
    assert np.flatnonzero(read("gaps", sparse)).tolist() == [1, 5]
    assert not read("gaps", varint(0)).any()


@pytest.mark.parametrize(
    "lengths",
    [
        (1, 1, 1),  # oversubscribed
        (1, 2),  # a codeword that means nothing
        (14, 14),
        (1, 15),
        (0, 1, 1),
        (1, *[14] * 200),
        (-2,),
        (-1, 14),
        (1, -16),  # longer than the alphabet
        (1, -16384),
    ],
)
def test_lengths_that_are_no_prefix_code(lengths: tuple[int, ...]) -> None:
    size = 2 if lengths[-1] <= -16 else None
    refused("huffman", alphabet(*lengths, size=size) + BITS, "complete")


def test_a_table_that_ends_too_soon() -> None:
    # 4096 codewords of 12 bits take 4095 zeros after the first one.
    assert read("huffman", alphabet(12, size=4096) + bytes(512) + bytes(150)).any() == 0
    refused("huffman", alphabet(12, size=4096) + bytes(40), "announced")


@pytest.mark.parametrize("size", [4097, 2**20, 2**32, 2**62])
def test_an_alphabet_that_is_too_large(size: int) -> None:
    refused("huffman", zigzag(0) + varint(size - 1) + table(1, 1) + BITS, "makes sense")


@pytest.mark.parametrize("low", [-1, 4095, 2**31, 2**62 - 1, -(2**61), -(2**62)])
def test_integers_that_stand_for_nothing(low: int) -> None:
    refused("huffman", alphabet(1, 1, low=low) + BITS, "codebook")
    refused("gaps", gaps(1, 0, TWO + b"\0", alphabet(1, 1, low=low) + b"\0"), "codebook")


@pytest.mark.parametrize("low", [-1, 255, 2**31, 2**62 - 1, -(2**62)])
def test_integers_that_the_type_cannot_hold(low: int) -> None:
    refused("huffman", alphabet(1, 1, low=low) + BITS, "cannot hold", meaning=Itself(U8))


def test_a_stream_behind_an_alphabet_of_one_symbol() -> None:
    refused("huffman", alphabet() + b"\0", "too many")


@pytest.mark.parametrize("data", [b"", bytes(12), bytes(14), bytes(1000)])
def test_a_stream_of_the_wrong_length(data: bytes) -> None:
    refused("huffman", TWO + data, "bits in a stream of")


@pytest.mark.parametrize("length", [len(TWO) + 20, 2**31, 2**32, 2**61, 2**63 - 1])
def test_a_length_past_the_end(length: int) -> None:
    refused("gaps", gaps(1, 0, TWO + b"\0", TWO + b"\0", length), "announced")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**69])
def test_a_length_of_more_than_63_bits(length: int) -> None:
    refused("gaps", gaps(1, 0, TWO + b"\0", TWO + b"\0", length), "makes sense|does not end")


@pytest.mark.parametrize(
    "entries",
    [(0, 0, 0), (8192, 16384, 24577), (8193, 16384, 24576), (65535,) * 3, (40000, 16384, 24576), (24576, 16384, 8192)],
)
def test_entry_points_where_no_part_begins(entries: tuple[int, ...]) -> None:
    count = 1 << 15
    points = b"".join(entry.to_bytes(2, "little") for entry in entries)
    right = b"".join(entry.to_bytes(2, "little") for entry in (8192, 16384, 24576))
    assert not read("huffman", TWO + right + bytes(4096), count).any()
    refused("huffman", TWO + points + bytes(4096), "entry point|next one begins", count)


@pytest.mark.parametrize("kept", [N + 1, 2**20, 2**40, 2**63 - 1])
def test_more_values_than_elements(kept: int) -> None:
    refused("gaps", gaps(kept, 0, TWO + bytes(13), TWO + bytes(13)), "makes sense")


@pytest.mark.parametrize("skips", [N, 2**20, 2**40, 2**63 - 1])
def test_more_skips_than_zeros(skips: int) -> None:
    refused("gaps", gaps(1, skips, TWO + bytes(13), TWO + bytes(13)), "makes sense")


def test_values_that_have_no_place_left() -> None:
    # Each gap is 49 zeros: the third value would lie behind the end.
    refused("gaps", gaps(3, 0, alphabet(low=49), TWO + b"\0"), "do not fit")


@pytest.mark.parametrize("skip", [0, 7, 60])
def test_gaps_that_only_pass_over(skip: int) -> None:
    # The only symbol of the code is the one after which another follows.
    refused("gaps", gaps(1, 2, alphabet(low=skip), TWO + b"\0"), "do not fit")


@pytest.mark.parametrize("low", [-1, -5, 2**16 - 1, 2**62])
def test_gaps_outside_their_alphabet(low: int) -> None:
    refused("gaps", gaps(1, 0, alphabet(1, 1, low=low) + b"\0", TWO + b"\0"), "cannot hold|makes sense")


#: Parameters of the context coder: flags, lowest integer, count less one, centre, split, columns.
CONTEXT = (0b0010_0110, 0, 3, 0, 0, 0)


def context(**changes: int) -> bytes:
    names = ("flags", "low", "count", "centre", "split", "columns")
    values = dict(zip(names, CONTEXT, strict=True)) | changes
    return bytes([values.pop("flags")]) + zigzag(values.pop("low")) + b"".join(map(varint, values.values()))


def test_context_parameters_without_the_attack() -> None:
    assert not read("context", context()).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": 0b0101_0110},
        {"count": 2**32},
        {"count": 2**62},
        {"flags": 0b0010_0101, "count": 4096},
        {"flags": 0b0010_0111, "count": 64},
        {"centre": 4},
        {"split": 4},
        {"columns": N + 1},
        {"columns": 2**20 + 1},
        {"columns": 2**63 - 1},
        {"low": 2**40},
        {"low": -(2**62)},
        {"low": 4093},
    ],
)
def test_context_parameters_out_of_range(changes: dict[str, int]) -> None:
    refused("context", context(**changes), "range|makes sense|rows|codebook|announced")


def test_a_wide_context_alphabet_for_a_narrow_type() -> None:
    refused("context", context(count=2**32 - 1), "cannot hold", meaning=Itself(I32))
    grid = _Grid(np.float32(0.5), np.dtype(np.int8), np.dtype(np.float32))
    refused("context", context(count=5000), "cannot hold", meaning=grid)


@pytest.mark.parametrize("data", [b"\0", b"\1\0", b"\xff" * 40, b"\1" * 4000])
def test_a_context_stream_of_the_wrong_length(data: bytes) -> None:
    refused("context", context() + data, "wrong length|outside its alphabet")


@pytest.mark.parametrize("codec", SYMBOL_CODECS.values(), ids=lambda codec: codec.name)
@pytest.mark.parametrize("meaning", [Codebook(np.zeros(4, np.float32)), Itself(U8, 4)], ids=["values", "codes"])
def test_an_alphabet_has_no_integer_beyond_the_codebook_used_or_not(codec: SymbolCodec, meaning: Meaning) -> None:
    integers = (np.arange(N) % 4).astype(np.uint8)
    for unused in (0, 1):
        counts = np.append(np.bincount(integers), np.zeros(unused, np.int64))
        out = ByteWriter()
        codec.plan(integers, Histogram(0, counts)).write(out)
        if unused and alphabet_size(codec, out.getvalue()) > 4:
            refused(codec.name, out.getvalue(), "codebook does not have", meaning=meaning)
        else:
            read(codec.name, out.getvalue(), meaning=meaning)


def alphabet_size(codec: SymbolCodec, data: bytes) -> int:
    """How many integers codes 0, 1, 2, 3 and perhaps 4 are said to be of; gaps trim theirs."""
    if codec.name == "gaps":
        return 4
    reader = ByteReader(data)
    if codec.name != "huffman":
        reader.byte()
    reader.signed()
    return reader.varint() + 1


@pytest.mark.parametrize("codec", SYMBOL_CODECS.values(), ids=lambda codec: codec.name)
def test_a_boolean_is_0_or_1_by_any_codec(codec: SymbolCodec) -> None:
    for two in (1, 2):
        integers = np.where(np.arange(N) % 3 == 0, two, 0).astype(np.uint8)
        counted = histogram(integers)
        assert counted is not None
        out = ByteWriter()
        codec.plan(integers, counted).write(out)
        if two == 2:
            refused(codec.name, out.getvalue(), "cannot hold", meaning=Itself(np.dtype(np.bool_)))
        else:
            assert read(codec.name, out.getvalue(), meaning=Itself(np.dtype(np.bool_))).sum() == integers.sum()
