"""Where a `.sqz` file's bytes come from: a file, a buffer, or a web server that is asked for ranges of them."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from squeezer.errors import ArtifactError, Code, SqueezerError
from squeezer.network import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a reader looks at first, in one piece: the end of the file, which usually holds the whole index.
TAIL_BYTES = 1 << 16
#: Seconds: to connect, and for the next bytes of an answer.
_CONNECT, _READ = 10.0, 60.0
#: Files are read from multiples of this on: bytes that lie in memory as they lie in the file are copied much faster.
_ALIGNED = 64
_CHANGED = "the file has changed since it was opened; open it again"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@runtime_checkable
class Source(Protocol):
    """Bytes that can be read anywhere. Threads may read at the same time."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """The bytes offset .. offset + length - 1, which lie within the size; fewer only where the source was cut."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


def as_source(origin: Any) -> Source:
    """The bytes of a path, a buffer, or an http(s) URL; a `Source` is taken as it is.

    Raises:
        FileNotFoundError: where there is no such file.
        SqueezerError: where a server does not answer, or not as it must.
    """
    if isinstance(origin, str) and origin.startswith(("http://", "https://")):
        return UrlSource(origin)
    if isinstance(origin, bytes | bytearray | memoryview):
        return BufferSource(origin)
    if isinstance(origin, str | os.PathLike):
        return FileSource(origin)
    if isinstance(origin, Source):
        return origin
    raise TypeError(f"a path, a buffer or a URL, not {type(origin).__name__}")


class FileSource:
    """A file on disk, kept open."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A pipe would be waited for.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ArtifactError("this is no regular file", os.fspath(path), Code.NOT_AN_ARTIFACT)
        self.size = status.st_size

    def read(self, offset: int, length: int) -> memoryview:
        """The bytes of that range."""
        # For large arrays numpy asks for large pages of memory, which are there sooner.
        before = offset % _ALIGNED
        buffer = np.empty(before + length, np.uint8).data
        done = 0
        # One call reads at most 2 GiB on Linux.
        while done < len(buffer) and (count := os.preadv(self._descriptor, [buffer[done:]], offset - before + done)):
            done += count
        return buffer[before:done]

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class BufferSource:
    """Bytes in memory, which must not change while they are read."""

    def __init__(self, buffer: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(buffer).cast("B")
        self.size = len(self._view)

    def read(self, offset: int, length: int) -> memoryview:
        """The bytes of that range, not copied."""
        return self._view[offset : offset + length]

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True)
class _Part:
    """A part of a file, as a server sent it; `tag` tells the file's state, where the server has one."""

    start: int
    content: bytearray
    size: int
    tag: str


class UrlSource:
    """A file on a web server: the first request fetches its end, each further one a range.

    The server must know `Range`, and the file must stay the same, which its entity tag and its size tell.
    """

    def __init__(self, url: str) -> None:
        """Fetch the end of the file.

        Raises:
            SqueezerError: where the server does not answer with that part of a file.
        """
        try:
            import httpx
        except ImportError:
            raise SqueezerError(Code.MISSING_DEPENDENCY, "reading from a URL needs httpx: pip install httpx") from None
        self._httpx = httpx
        self._url = url
        try:
            host = httpx.URL(url).host
        except httpx.InvalidURL as error:
            raise self._error(f"this is no URL: {error}") from None
        self._client = httpx.Client(
            follow_redirects=True,
            trust_env=not is_loopback(host),
            timeout=httpx.Timeout(_READ, connect=_CONNECT),
            # Ranges count the file's own bytes, and not those of a compressed one.
            headers={"Accept-Encoding": "identity"},
        )
        self._opened: _Part | None = None
        try:
            tail = self._fetch(f"bytes=-{TAIL_BYTES}", TAIL_BYTES)
            if tail.start + len(tail.content) != tail.size:
                raise self._error("the server does not send the end of the file")
        except BaseException:
            self.close()
            raise
        self._opened = tail
        self._tail = memoryview(tail.content)
        self.size = tail.size

    def read(self, offset: int, length: int) -> memoryview:
        """The bytes of that range: of the file's end without a request.

        Raises:
            SqueezerError: where the server does not answer with these bytes of the same file.
        """
        start = self.size - len(self._tail)
        if length == 0 or offset >= start:
            return self._tail[max(0, offset - start) :][:length]
        part = self._fetch(f"bytes={offset}-{offset + length - 1}", length)
        if part.start != offset or len(part.content) != length:
            raise self._error("the server sends another part of the file than it was asked for")
        return memoryview(part.content)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _fetch(self, wanted: str, most: int) -> _Part:
        """At most so many bytes of a range."""
        headers = {"Range": wanted}
        # A server may only compare strong tags; ours are compared below in any case.
        if self._opened and self._opened.tag and not self._opened.tag.startswith("W/"):
            headers["If-Range"] = self._opened.tag
        content = bytearray()
        try:
            with self._client.stream("GET", self._url, headers=headers) as response:
                start, end, size = self._check(response.status_code, response.headers)
                for piece in response.iter_raw():
                    content += piece
                    if len(content) > most:
                        raise self._error("the server sends more than it was asked for")
        except (self._httpx.TransportError, self._httpx.TooManyRedirects, self._httpx.InvalidURL) as error:
            raise self._error(f"the server cannot be reached: {error}") from None
        if start + len(content) != end:
            raise self._error("the server's answer breaks off; try again")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        part = _Part(start, content, size, tag)
        if self._opened and (size, tag) != (self._opened.size, self._opened.tag):
            raise self._error(_CHANGED)
        return part

    def _check(self, status: int, headers: Mapping[str, str]) -> tuple[int, int, int]:
        """First byte, end and size of the whole, where the answer is a part of a file."""
        if status == 200 and self._opened and self._opened.tag:
            raise self._error(_CHANGED)
        if status == 200:
            raise self._error("the server cannot send parts of a file (Range); download the file first")
        if status == 416:
            raise ArtifactError("this is not a .sqz file: it is empty", self._url, Code.NOT_AN_ARTIFACT)
        if status != 206:
            raise self._error(f"the server answers with status {status}")
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if not found or headers.get("Content-Encoding", "identity") != "identity":
            raise self._error("the server's answer is no plain part of a file")
        start, last, size = map(int, found.groups())
        return start, last + 1, size

    def _error(self, detail: str) -> ArtifactError:
        return ArtifactError(detail, self._url, Code.UNREADABLE_SOURCE)
