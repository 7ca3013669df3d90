"""multipart/form-data as a stream of events, so that no part is ever held whole."""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import BROKEN_MULTIPART, NOT_MULTIPART, Problem

_MAX_HEADERS = 16
_MAX_HEADER_BYTES = 8192


@dataclass(frozen=True)
class PartBegin:
    """A part begins; `file_name` is whatever the client wrote, or empty."""

    name: str
    file_name: str


@dataclass(frozen=True)
class PartData:
    """More of the current part."""

    data: bytes


class PartEnd:
    """The current part is complete."""


Event = PartBegin | PartData | PartEnd


class FormStream:
    """Turns chunks of a body into events.

    Raises:
        Problem: where the content type or the body is not what RFC 7578 describes.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise Problem(NOT_MULTIPART, "send multipart/form-data with a boundary and the parts spec and model")
        self._events: list[Event] = []
        self._headers: dict[str, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": lambda data, start, end: self._events.append(PartData(data[start:end])),
                    "on_part_end": lambda: self._events.append(PartEnd()),
                    "on_end": self._end,
                },
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _broken(str(error)) from None

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that a further chunk of the body completes."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _broken(str(error)) from None
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """Check, when the body has ended, that the form has ended too."""
        if not self._complete:
            raise _broken("the body ends before the closing boundary")

    def _end_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise _broken("a part has no Content-Disposition: form-data with a name")
        name, file_name = options[b"name"], options.get(b"filename", b"")
        self._events.append(PartBegin(name.decode("utf-8", "replace"), file_name.decode("utf-8", "replace")))

    def _end(self) -> None:
        self._complete = True


def _broken(detail: str) -> Problem:
    return Problem(BROKEN_MULTIPART, f"{detail}; send the form again with a client that encodes it")
