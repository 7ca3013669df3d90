"""The index: what is refused before anything is allocated, and what later versions may add."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest

import squeezer
from squeezer.artifact import layout, names
from squeezer.errors import ArtifactError, Code, ModelError
from tests import reference
from tests.artifact.building import File, deflated, varint


def refused(data: bytes, match: str, code: Code = Code.CORRUPT_ARTIFACT, **options: int) -> None:
    """That it is, for that reason, and without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=match) as error:
            squeezer.open(data, **options)
        assert tracemalloc.get_traced_memory()[1] < 1 << 28
    finally:
        tracemalloc.stop()
    assert error.value.code == code


def test_a_file_made_by_hand_is_read() -> None:
    data = File().build()
    assert np.array_equal(squeezer.load(data)["t"], np.zeros(4, np.uint8))
    assert reference.decode(data)[0]["t"].tobytes() == bytes(4)


def test_the_page_lists_the_dictionary() -> None:
    assert reference.dictionary() == names.DICTIONARY


def test_a_section_that_is_not_required_is_passed_over_and_still_checked() -> None:
    data = File(payloads=[b"\0" + bytes(4), b"a graph"], counts=(1, 0, 0, 1), numbers=[2 * 77]).build()
    assert list(squeezer.load(data)) == ["t"]
    squeezer.verify(data)
    with squeezer.open(data) as artifact:
        assert artifact.ledger() == {key: reference.decode(data)[2][key] for key in artifact.ledger()}
        assert sum(artifact.ledger().values()) == len(data)
    damaged = data.replace(b"a graph", b"a graaf")
    assert list(squeezer.load(damaged)) == ["t"]
    with pytest.raises(ArtifactError, match="section 77"):
        squeezer.verify(damaged)


def test_a_required_section_is_one_of_a_newer_program() -> None:
    data = File(payloads=[b"\0" + bytes(4), b"a graph"], counts=(1, 0, 0, 1), numbers=[2 * 77 + 1]).build()
    refused(data, "section 77.*upgrade", Code.NEWER_ARTIFACT)


def test_a_higher_version_is_one_of_a_newer_program() -> None:
    refused(File(head=b"SQZ" + bytes([reference.VERSION + 1])).build(), "upgrade", Code.NEWER_ARTIFACT)


@pytest.mark.parametrize(
    ("file", "match"),
    [
        (File(types=b"\xfd"), "type"),
        (File(stored=b"\x10"), "type"),
        (File(shapes=[[1] * 65]), "at most 64"),
        (File(shapes=[[2**40, 2**40]]), "larger than any memory"),
        (File(shapes=[[2**63 - 1] * 64]), "larger than any memory"),
        (File(counts=(2**40, 0, 0, 0)), "makes sense"),
        (File(counts=(1, 2**40, 0, 0)), "makes sense"),
        (File(counts=(1, 0, 2**40, 0)), "makes sense"),
        (File(counts=(1, 0, 0, 2**40)), "makes sense"),
        (File(counts=(0, 1, 0, 0), types=b"", stored=b"", shapes=[], numbers=[0], payloads=[]), "makes sense"),
        (File(names=b"\0t"), "does not end"),
        (File(names=b"\0t\xff\0u\xff"), "too many"),
        (File(names=b"\1t\xff"), "makes sense"),
        (File(names=b"\0\xc0\xff"), "UTF-8"),
        (File(names=b"\0" + b"n" * 70_000 + b"\xff"), "too long"),
        (File(names=b""), "left"),
        (File(table=b""), "left"),
        (File(table=bytes(1 << 27)), "too long"),
    ],
)
def test_what_makes_no_sense_is_refused(file: File, match: str) -> None:
    refused(file.build(), match)


def test_two_tensors_of_one_name_are_refused() -> None:
    payload = b"\0" + bytes(4)
    file = File([payload] * 2, (2, 0, 0, 0), b"\x0d" * 2, b"\x0d" * 2, [[4]] * 2, names=b"\0t\xff\1t\xff")
    refused(file.build(), "same name")


def test_few_bytes_do_not_become_gigabytes_of_names() -> None:
    count = 5000
    long = b"\0" + b"n." * 30_000 + b"\xff"
    table = b"".join(map(varint, (1, count, 0, 0))) + b"\x0d\x0d\1\4" + bytes(count) + varint(5)
    file = File(names=long + b"\1m\xff" * count, table=table)
    refused(file.build(), "too long")


@pytest.mark.parametrize("index", [b"", b"\xff" * 20, b"\5abcde", deflated(b"\0" * 4)[:-1]])
def test_an_index_that_is_none_is_refused(index: bytes) -> None:
    refused(File().with_index(index), "index")


def test_lengths_that_do_not_add_up_are_refused() -> None:
    whole = File()
    data = whole.build()
    refused(whole.head + b"\0" + data[4:], "add up")


def test_a_constant_takes_few_bytes_and_is_refused_where_it_is_too_large() -> None:
    constant = b"\x02\0\0"  # Huffman: 0 is the lowest integer of an alphabet of one
    step = np.float32(1).tobytes()
    small = File([step + constant], types=b"\x31", stored=b"\x09", shapes=[[1 << 10]])
    assert not squeezer.load(small.build())["t"].any()
    chunks = 1 << 10
    large = File([step + (b"\3" + constant) * chunks], types=b"\x31", stored=b"\x09", shapes=[[chunks, 1 << 20]])
    refused(large.build(), "max_bytes=4294967296", Code.ARTIFACT_TOO_LARGE)
    with squeezer.open(large.build(), max_bytes=1 << 32) as artifact:
        assert artifact.info("t").nbytes == 1 << 32
    refused(small.build(), "4095 are allowed", Code.ARTIFACT_TOO_LARGE, max_bytes=4095)


def test_a_file_that_unpacks_to_more_than_it_says_is_refused() -> None:
    payloads = [b"\0" + bytes(4), zlib.compress(bytes(1 << 20))]
    data = File(payloads, (1, 0, 1, 0), numbers=[1000], names=b"\0t\xff\1f\xff").build()
    with squeezer.open(data) as artifact, pytest.raises(ArtifactError, match="size"):
        artifact.read_file("f")


def test_the_writer_refuses_names_that_no_reader_takes() -> None:
    with pytest.raises(ModelError, match="names"):
        names.join_names(["n" * (names.MAX_NAME_BYTES + 1)])
    assert layout.MAX_DIMENSIONS == 64
