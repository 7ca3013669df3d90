"""Files, buffers and web servers: the same tensors, few requests, and servers that are not what they must be."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import squeezer
from squeezer.artifact import ArtifactWriter, Source
from squeezer.artifact.sources import TAIL_BYTES, BufferSource, FileSource, UrlSource
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import ArtifactError, Code, SqueezerError
from squeezer.representations import Dense

F32 = np.dtype(np.float32)


@dataclass
class Site:
    """A web server with one file, and the faults that it is told to have."""

    content: bytes
    tag: str = '"one"'
    url: str = ""
    faults: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, content = self.site, self.site.content
        wanted = self.headers.get("Range", "")
        site.asked.append(wanted)
        if self.path == "/moved":
            self._answer(302, b"", {"Location": "/file"})
            return
        if "error" in site.faults:
            self._answer(503, b"busy", {})
            return
        match = re.fullmatch(r"bytes=(\d*)-(\d+)", wanted)
        conditional = self.headers.get("If-Range", site.tag)
        if match is None or "no range" in site.faults or conditional != site.tag:
            self._answer(200, content, {})
            return
        if not content:
            self._answer(416, b"", {})
            return
        start = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
        end = min(int(match[2]) + 1, len(content)) if match[1] else len(content)
        if "other range" in site.faults:
            start, end = 0, end - start
        total = len(content) + ("wrong size" in site.faults)
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{total}"}
        if "gzip" in site.faults:
            headers["Content-Encoding"] = "gzip"
        if "no content range" in site.faults:
            headers = {}
        self._answer(206, content[start:end] + b"x" * ("more" in site.faults), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        if self.site.tag:
            self.send_header("ETag", self.site.tag)
        for name, value in headers.items():
            self.send_header(name, value)
        if "breaks off" in self.site.faults:
            body = body[: len(body) // 2]
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        # A client that has read enough hangs up.
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {f"layer{i}.weight": random.standard_normal((100, 100), np.float32) for i in range(6)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources") / "m.sqz"
    with ArtifactWriter(path) as writer:
        for name, array in tensors().items():
            writer.add(name, Dense(array, F32), encode_tensor(Dense(array, F32)))
        writer.add_file("config.json", b"{}")
    return path


@pytest.fixture
def site(written: Path) -> Iterator[Site]:
    site = Site(written.read_bytes())
    handler = type("OneSite", (Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_origin_gives_the_same_tensors(written: Path, site: Site) -> None:
    data = written.read_bytes()
    for origin in (written, str(written), data, bytearray(data), memoryview(data), BufferSource(data), site.url):
        loaded = squeezer.load(origin)
        assert all(np.array_equal(loaded[name], array) for name, array in tensors().items())
        squeezer.verify(origin)
        with squeezer.open(origin) as artifact:
            assert artifact.read_file("config.json") == b"{}"
            assert np.array_equal(artifact["layer2.weight"], loaded["layer2.weight"])
    with pytest.raises(TypeError, match="a path, a buffer or a URL"):
        squeezer.open(3)  # type: ignore[arg-type] # the mistake that is tested


def test_every_source_is_one(written: Path, site: Site) -> None:
    for source in (FileSource(written), BufferSource(written.read_bytes()), UrlSource(site.url)):
        assert isinstance(source, Source)
        assert source.size == len(site.content)
        for offset, length in [(0, 4), (0, source.size), (source.size - 5, 5), (10, 0), (source.size, 0)]:
            assert bytes(source.read(offset, length)) == site.content[offset : offset + length]
        source.close()


def test_one_request_opens_and_one_more_reads_a_tensor(site: Site) -> None:
    assert len(site.content) > TAIL_BYTES
    with squeezer.open(site.url) as artifact:
        assert site.asked == [f"bytes=-{TAIL_BYTES}"]
        entry = artifact.entry("layer0.weight")
        assert artifact["layer0.weight"].shape == (100, 100)
        assert site.asked[1:] == [f"bytes={entry.offset}-{entry.offset + entry.length - 1}"]
        # The last tensor lies in the tail.
        assert artifact["layer5.weight"].shape == (100, 100)
        assert len(site.asked) == 2


def test_redirections_are_followed(site: Site) -> None:
    assert len(squeezer.load(site.url.replace("/file", "/moved"))) == 6


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("no range", "cannot send parts"),
        ("error", "status 503"),
        ("gzip", "no plain part"),
        ("no content range", "no plain part"),
        ("other range", "does not send the end"),
        ("wrong size", "does not send the end"),
        ("more", "sends more"),
        ("breaks off", "breaks off"),
    ],
)
def test_a_server_that_cannot_do_it_is_refused(site: Site, fault: str, match: str) -> None:
    site.faults.add(fault)
    with pytest.raises(ArtifactError, match=match) as error:
        squeezer.open(site.url)
    assert error.value.code == Code.UNREADABLE_SOURCE


@pytest.mark.parametrize("tag", ['"one"', 'W/"one"', ""])
def test_a_file_that_changes_in_between_is_found(site: Site, tag: str) -> None:
    site.tag = tag
    with squeezer.open(site.url) as artifact:
        site.content = site.content[:-1]
        site.tag = tag.replace("one", "two")
        with pytest.raises(ArtifactError, match="has changed"):
            artifact["layer0.weight"]


def test_a_changed_file_of_the_same_size_is_found(site: Site) -> None:
    with squeezer.open(site.url) as artifact:
        site.tag = '"two"'
        with pytest.raises(ArtifactError, match="has changed"):
            artifact["layer0.weight"]
    site.tag = ""
    with squeezer.open(site.url) as artifact:
        site.content = bytes(len(site.content))
        with pytest.raises(ArtifactError, match=r"tensor 'layer0\.weight': its checksum"):
            artifact["layer0.weight"]


@pytest.mark.parametrize("fault", ["other range", "more", "breaks off", "error"])
def test_faults_that_come_later_are_found(site: Site, fault: str) -> None:
    with squeezer.open(site.url) as artifact:
        site.faults.add(fault)
        with pytest.raises(ArtifactError) as error:
            artifact["layer1.weight"]
        assert error.value.code == Code.UNREADABLE_SOURCE


def test_other_content_is_no_artifact(site: Site) -> None:
    site.content = b"<html>" * 20_000
    with pytest.raises(ArtifactError, match=r"not a \.sqz file") as error:
        squeezer.open(site.url)
    assert error.value.code == Code.NOT_AN_ARTIFACT
    site.content = b""
    with pytest.raises(ArtifactError, match="empty"):
        squeezer.open(site.url)


def test_where_nothing_answers(site: Site) -> None:
    for url in ("http://127.0.0.1:9/file", "http://no-such-host.invalid/", "http://[/"):
        with pytest.raises(SqueezerError) as error:
            squeezer.open(url)
        assert error.value.code == Code.UNREADABLE_SOURCE


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        squeezer.open(tmp_path / "none.sqz")
