"""Where fields lie, against the reference implementation of protocol buffers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from squeezer.codecs.base import varint
from squeezer.formats import protobuf
from squeezer.formats.protobuf import MalformedError, Scanner, Span, prefix


def scan(data: bytes) -> list[tuple[int, bytes]]:
    scanner = Scanner(lambda position, size: data[position : position + size], len(data))
    return [
        (field.number, data[field.content.begin : field.content.end]) for field in scanner.fields(Span(0, len(data)))
    ]


@given(st.text(max_size=300), st.lists(st.integers(0, 2**63 - 1)), st.lists(st.floats(width=32)), st.binary())
@settings(deadline=None)
def test_fields_are_where_the_reference_put_them(name: str, dims: list[int], floats: list[float], raw: bytes) -> None:
    message = TensorProto(name=name, dims=dims, float_data=floats, raw_data=raw, data_type=1)
    found = scan(message.SerializeToString())
    assert dict(found)[8] == name.encode()
    assert dict(found)[9] == raw
    assert [content for number, content in found if number == 1] == [varint(size) for size in dims]
    assert len(dict(found).get(4, b"")) == 4 * len(floats)
    assert b"".join(TensorProto.FromString(prefix(9, len(c)) + c).raw_data for n, c in found if n == 9) == raw


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (b"\x0a\x05abc", True),  # five bytes are announced, three are there
        (b"\x0a", True),
        (b"\x08\x80", True),
        (b"\x09\x00\x00", True),  # eight bytes, always
        (b"\x0d\x00", True),
        (b"\x08" + b"\xff" * 10, False),  # a number of more than 64 bits
        (b"\x0b\x0c", False),  # a group, which no ONNX file has
        (b"\x0e", False),
        (b"\x02\x00", False),  # field 0
        (b"\x00" * 9, False),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, cut: bool) -> None:
    with pytest.raises(MalformedError) as caught:
        scan(data)
    assert caught.value.cut == cut


def test_a_part_that_reaches_out_of_its_message_is_no_cut_off_file() -> None:
    data = b"\x0a\x05abcde"
    scanner = Scanner(lambda position, size: data[position : position + size], len(data))
    with pytest.raises(MalformedError) as caught:
        list(scanner.fields(Span(0, 4)))
    assert not caught.value.cut


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_end(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert sum(len(content) for _, content in scan(data)) <= len(data)


def test_the_number_of_parts_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "_MOST_FIELDS", 1000)
    assert len(scan(b"\x08\x00" * 1000)) == 1000
    with pytest.raises(MalformedError, match="too many"):
        scan(b"\x08\x00" * 1001)


@given(st.integers(0, 2**64 - 1))
def test_numbers_come_back(value: int) -> None:
    assert scan(b"\x08" + varint(value)) == [(1, varint(value))]
