"""Where the fields of a protocol buffer lie in a file (https://protobuf.dev/programming-guides/encoding/).

So weights of a large file can be passed over, and read later, one at a time. Nothing that the file says of a length is
believed before it is compared with what is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from squeezer.codecs.base import varint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: More fields than any model has at the levels that are looked at; each costs a read.
_MOST_FIELDS = 1 << 20
#: Of a field: its number and kind, and a length.
_MOST_HEADER_BYTES = 20
_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


class MalformedError(ValueError):
    """The bytes are no protocol buffer; `cut` where they may only have been cut off."""

    def __init__(self, detail: str, *, cut: bool = False) -> None:
        super().__init__(detail)
        self.cut = cut


class Span(NamedTuple):
    """Some bytes of the file: begin .. end - 1."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.end - self.begin


class Field(NamedTuple):
    """A field of a message: `whole` includes number and length, `content` does not."""

    number: int
    kind: int
    whole: Span
    content: Span


class Scanner:
    """Finds fields in a file of `size` bytes. `read(position, size)` gives some of them."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self._count = 0

    def fields(self, message: Span) -> Iterator[Field]:
        """The fields of the message that lies there, in its order.

        Raises:
            MalformedError: these are not fields, or they are too many, or one reaches beyond the message.
        """
        position = message.begin
        while position < message.end:
            self._count += 1
            if self._count > _MOST_FIELDS:
                raise MalformedError("it has too many parts")
            field = self._field(position, message.end)
            yield field
            position = field.whole.end

    def _field(self, begin: int, limit: int) -> Field:
        head = self._read(begin, min(_MOST_HEADER_BYTES, limit - begin))
        tag, used = _varint(head, 0)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29 or kind not in (_VARINT, BYTES, *_FIXED):
            raise MalformedError(f"there is no part at byte {begin}")
        start = begin + used
        if kind == _VARINT:
            size = _varint(head, used)[1] - used
        elif kind == BYTES:
            size, used = _varint(head, used)
            start = begin + used
        else:
            size = _FIXED[kind]
        if size > limit - start:
            beyond = size - limit + start
            raise MalformedError(f"the part at byte {begin} is {beyond} bytes too long", cut=limit == self._size)
        return Field(number, kind, Span(begin, start + size), Span(start, start + size))


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number that begins there, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise MalformedError("it ends within a number", cut=True)
        value |= (data[position] & 0x7F) << shift
        position += 1
        if data[position - 1] < 0x80:
            return value, position
    raise MalformedError("a number is too long")


def prefix(number: int, size: int) -> bytes:
    """What stands before the `size` bytes of a field."""
    return varint(number << 3 | BYTES) + varint(size)
