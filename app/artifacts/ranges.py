"""The `Range` header (RFC 9110, section 14) for one range of bytes."""

from __future__ import annotations

import re
from typing import NamedTuple

_ONE_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII | re.IGNORECASE)


class UnsatisfiableError(Exception):
    """The range is well formed and lies outside the file."""


class ByteRange(NamedTuple):
    """Bytes `start` to `stop - 1`."""

    start: int
    stop: int


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The range that a header asks for, or None for the whole file.

    A header that is malformed, or asks for several ranges, is ignored, as the RFC allows.

    Raises:
        UnsatisfiableError: no byte of the range exists.
    """
    match = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise UnsatisfiableError
        return ByteRange(size - length, size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise UnsatisfiableError
    return ByteRange(start, min(int(last) + 1, size) if last else size)
