"""Payloads that no encoder writes, in files whose checksums are right."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

import squeezer
from squeezer.artifact.tensor import CHUNK
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS
from squeezer.errors import ArtifactError, Code
from tests.attacks.forge import TENSORS, forged, valid
from tests.fuzz.container import Container, Item
from tests.fuzz.mutate import varint

if TYPE_CHECKING:
    from collections.abc import Callable

RAW = b"\0"
UNKNOWN = [number for number in range(256) if number not in {*ARRAY_CODECS, *SYMBOL_CODECS}]


def item(container: Container, name: str) -> Item:
    return next(item for item in container.items if item.name == name.encode())


def payload(name: str) -> bytes:
    return item(Container.of(valid()), name).payload


def with_payload(name: str, data: bytes, **numbers: int) -> bytes:
    """The valid file with another payload, and other numbers in the index."""

    def change(container: Container) -> None:
        item(container, name).payload = data
        for column, value in numbers.items():
            item(container, name).set(column, value)

    return forged(change)


def refused(data: bytes, name: str, match: str = "") -> None:
    """The tensor is, by both ways to read it, and no other one is."""
    with squeezer.open(data) as artifact:
        for read in (artifact.__getitem__, artifact.representation):
            with pytest.raises(ArtifactError, match=f"tensor '{name}': .*(?:{match})") as error:
                read(name)
            assert error.value.code is Code.CORRUPT_ARTIFACT
            assert not isinstance(error.value.__context__, MemoryError)
        for other in set(TENSORS) - {name}:
            assert artifact[other].shape == (200,)
    for function in (squeezer.load, squeezer.verify):
        with pytest.raises(ArtifactError, match=f"tensor '{name}'"):
            function(data)


@pytest.mark.parametrize("name", TENSORS)
def test_the_payload_itself_is_taken(name: str) -> None:
    assert squeezer.load(with_payload(name, payload(name)))[name].tobytes() == TENSORS[name].decode().tobytes()


@pytest.mark.parametrize("name", TENSORS)
def test_more_or_less_of_it_is_not(name: str) -> None:
    for data in (b"", payload(name)[:-1], payload(name) + b"\0", 2 * payload(name)):
        refused(with_payload(name, data), name)


@pytest.mark.parametrize("number", UNKNOWN[:4] + UNKNOWN[-1:])
def test_unknown_codecs(number: int) -> None:
    for name in ("dense", "flags"):
        refused(with_payload(name, bytes([number]) + payload(name)[1:]), name, "codec")


@pytest.mark.parametrize("number", SYMBOL_CODECS)
def test_codecs_of_integers_for_other_numbers(number: int) -> None:
    refused(with_payload("dense", bytes([number]) + payload("dense")[1:]), "dense", "codec")


@pytest.mark.parametrize("byte", [2, 3, 128, 255])
def test_booleans_that_are_neither_true_nor_false(byte: int) -> None:
    refused(with_payload("flags", RAW + bytes([0, 1, byte]) + bytes(197)), "flags", "neither")
    masked = payload("masked")
    size = masked[:2]
    assert size == varint(201)
    refused(with_payload("masked", size + RAW + bytes([byte]) * 200 + masked[203:]), "masked", "neither")


@pytest.mark.parametrize("step", [0.0, -0.0, -0.1, np.inf, -np.inf, np.nan, -np.nan])
def test_steps_that_are_no_positive_number(step: float) -> None:
    refused(with_payload("uniform", struct.pack("<f", step) + payload("uniform")[4:]), "uniform", "step")


@pytest.mark.parametrize("step", [1e-45, 3.4028234e38])
def test_steps_of_every_size(step: float) -> None:
    with np.errstate(over="ignore"):
        weights = squeezer.load(with_payload("uniform", struct.pack("<f", step) + payload("uniform")[4:]))["uniform"]
        assert weights.tobytes() == (TENSORS["uniform"].codes.astype(np.float32) * np.float32(step)).tobytes()


def test_codes_that_the_codebook_does_not_have() -> None:
    book, codes = payload("shared")[:65], payload("shared")[65:]
    assert (book[0], codes[:1]) == (32, RAW)
    for code in (16, 17, 255):
        refused(with_payload("shared", book + RAW + codes[1:-1] + bytes([code])), "shared", "codebook")
    # A sparse tensor has one code more.
    sparse = bytes([33]) + book[1:] + RAW + codes[1:-1]
    assert squeezer.load(with_payload("shared", sparse + bytes([16])))["shared"][-1] == 1
    refused(with_payload("shared", sparse + bytes([17])), "shared", "codebook")


@pytest.mark.parametrize("entries", [0, 15, 17, 2**15, 2**16 + 1, 2**31, 2**62])
def test_codebooks_of_another_size(entries: int) -> None:
    refused(with_payload("shared", varint(2 * entries) + payload("shared")[1:]), "shared")


def test_a_mask_and_its_values_disagree() -> None:
    mask, values = payload("masked")[:203], payload("masked")[203:]
    assert mask[:3] == varint(201) + RAW
    more, fewer = (mask[:3] + bytes([bit]) * 200 for bit in (1, 0))
    for first in (more, fewer):
        refused(with_payload("masked", first + values), "masked")


@pytest.mark.parametrize("length", [0, 1, 200, 202, 2**31, 2**62])
def test_a_mask_of_another_length(length: int) -> None:
    refused(with_payload("masked", varint(length) + payload("masked")[2:]), "masked")


# -- chunks ----------------------------------------------------------------------------------------------------------

#: Two chunks of nothing but zeros, coded as gaps without a value.
ZEROS = b"\x03\0"
LENGTHS = varint(2)


def chunked(*parts: bytes, extent: int = CHUNK + 1) -> bytes:
    """The uniform tensor, larger; its codes in these parts."""
    return with_payload("uniform", payload("uniform")[:4] + b"".join(parts), extents=extent)


def test_chunks_without_an_attack() -> None:
    weights = squeezer.load(chunked(LENGTHS, ZEROS, LENGTHS, ZEROS))["uniform"]
    assert weights.shape == (CHUNK + 1,)
    assert not weights.any()


@pytest.mark.parametrize(
    "parts",
    [
        (LENGTHS, ZEROS),  # one too few
        (ZEROS, ZEROS),  # no lengths
        (LENGTHS, ZEROS, LENGTHS, ZEROS, LENGTHS, ZEROS),  # one too many
        (LENGTHS, ZEROS, varint(3), ZEROS),
        (LENGTHS, ZEROS, varint(1), ZEROS),
        (varint(4), ZEROS, LENGTHS, ZEROS),
        (varint(0), ZEROS, LENGTHS, ZEROS),
        (varint(2**32), ZEROS, LENGTHS, ZEROS),
        (varint(2**63 - 1), ZEROS, LENGTHS, ZEROS),
        (varint(2**64), ZEROS, LENGTHS, ZEROS),
        (LENGTHS, ZEROS, LENGTHS, b"\x03\1"),
        (LENGTHS, b"\xfe\0", LENGTHS, ZEROS),
    ],
)
def test_chunks_that_are_not_what_they_should_be(parts: tuple[bytes, ...]) -> None:
    refused(chunked(*parts), "uniform")


@pytest.mark.parametrize("chunks", [3, 1000])
def test_more_chunks_than_there_are_bytes(chunks: int) -> None:
    data = chunked(LENGTHS, ZEROS, LENGTHS, ZEROS, extent=chunks * CHUNK)
    with pytest.raises(ArtifactError) as error:
        squeezer.load(data, max_bytes=1 << 46)
    assert error.value.code is Code.CORRUPT_ARTIFACT


# -- files -----------------------------------------------------------------------------------------------------------


def read(data: bytes) -> bytes:
    with squeezer.open(data) as artifact:
        return artifact.read_file("vocab.txt")


def test_files_come_back() -> None:
    assert read(with_payload("vocab.txt", zlib.compress(b"word\n" * 100))) == b"word\n" * 100


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain",
        zlib.compress(b"word\n" * 100)[:-1],
        zlib.compress(b"word\n" * 100)[:-5],
        zlib.compress(b"word\n" * 100) + b"\0",
        zlib.compress(b"word\n" * 101),
        zlib.compress(b"word\n" * 99),
        zlib.compress(b"word\n" * 100)[:-4] + b"\0\0\0\0",
    ],
)
def test_files_that_are_not_what_they_should_be(content: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"vocab\.txt") as error:
        read(with_payload("vocab.txt", content))
    assert error.value.code is Code.CORRUPT_ARTIFACT


def test_a_file_that_inflates_for_ever() -> None:
    bomb: Callable[[int], bytes] = lambda size: zlib.compress(bytes(size), 9)  # noqa: E731 # two sizes of one thing
    with pytest.raises(ArtifactError, match="announced"):
        read(with_payload("vocab.txt", bomb(1 << 26), size=500))
    with pytest.raises(ArtifactError, match="announced"):
        read(with_payload("vocab.txt", bomb(1 << 20), size=1 << 40))
