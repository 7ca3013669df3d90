"""The client against the real service, and against servers that misbehave as ours does not."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import squeezer
from squeezer.client import Client, ServiceError

CONTENT = b"0123456789" * 50_000
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"
Answer = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server whose every request is answered by a function of the request and its number, from 0."""
    count = iter(range(1000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, next(count))

        do_POST = do_GET  # noqa: N815 - the base class's spelling

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


# The real service ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", 'qu"ote; name="spec".bin', "Größe 模型.pt"])
def test_a_job_from_upload_to_download(service: str, model: Path, tmp_path: Path, name: str) -> None:
    model = model.rename(tmp_path / name)
    sent, got, seen = [], [], []
    with Client(service) as client:
        job = client.submit(model, {"preset": "safe"}, lambda *progress: sent.append(progress))
        assert job["file_name"] == name.replace('"', "%22")
        done = client.wait(job["id"], lambda job: seen.append(job["state"]))
        client.download(job["id"], tmp_path / "out.sqz", progress=lambda *progress: got.append(progress))
    size = model.stat().st_size
    assert done["input_bytes"] == size
    assert sent[-1] == (size, size)
    assert seen[-1] == done["state"] == "succeeded"
    assert got[-1] == ((tmp_path / "out.sqz").stat().st_size,) * 2
    squeezer.compress(model, "safe", tmp_path / "local.sqz")
    assert (tmp_path / "out.sqz").read_bytes() == (tmp_path / "local.sqz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {name, "out.sqz", "local.sqz"}


def test_a_wrong_recipe_is_refused_with_the_service_s_words(service: str, large_model: Path) -> None:
    # The refusal comes while the upload is under way.
    with Client(service) as client, pytest.raises(ServiceError, match="magnitude_prune") as error:
        client.submit(large_model, {"steps": [{"method": "magnitude_brune"}]})
    assert error.value.code == "invalid_recipe"


def test_an_unknown_job(service: str) -> None:
    with Client(service) as client, pytest.raises(ServiceError) as error:
        client.job("no-such-job")
    assert error.value.code == "job_not_found"


def test_cancel(service: str, large_model: Path) -> None:
    with Client(service) as client:
        job = client.submit(large_model, {"preset": "deep-compression"})
        assert client.cancel(job["id"])["state"] in {"canceling", "canceled"}
        assert client.wait(job["id"])["state"] == "canceled"


def test_what_has_finished_cannot_be_cancelled(service: str, model: Path) -> None:
    with Client(service) as client:
        job = client.wait(client.submit(model, {"preset": "safe"})["id"])
        with pytest.raises(ServiceError) as error:
            client.cancel(job["id"])
    assert error.value.code == "already_finished"


# Servers that misbehave ---------------------------------------------------------


def test_reading_is_repeated_until_the_service_is_back() -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            request.connection.close()  # the connection breaks
        elif number == 1:
            reply(request, 503, b'{"code": "database_unavailable", "detail": "try again later"}')
        else:
            reply(request, 200, b'{"id": "x"}')

    with answering(answer) as url, Client(url) as client:
        assert client.job("x") == {"id": "x"}


def test_patience_ends() -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        reply(request, 503, b'{"code": "database_unavailable", "detail": "try again later"}')

    with answering(answer) as url, Client(url, patience=0.5) as client:
        started = time.monotonic()
        with pytest.raises(ServiceError) as error:
            client.job("x")
    assert error.value.code == "database_unavailable"
    assert time.monotonic() - started < 5


def test_a_download_that_breaks_off_is_begun_again(tmp_path: Path) -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        body = CONTENT if number else CONTENT[:1000]
        reply(request, 200, body, Content_Length=str(len(CONTENT)), Repr_Digest=DIGEST)

    with answering(answer) as url, Client(url) as client:
        client.download("x", tmp_path / "out.sqz")
    assert (tmp_path / "out.sqz").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["out.sqz"]


@pytest.mark.parametrize("stated", [{"Repr_Digest": DIGEST.replace("=:", "=:AA", 1)}, {}], ids=["other", "none"])
def test_a_download_without_the_right_digest_leaves_what_was_there(tmp_path: Path, stated: dict[str, str]) -> None:
    (tmp_path / "out.sqz").write_bytes(b"old")
    with (
        answering(lambda request, _: reply(request, 200, CONTENT, **stated)) as url,
        Client(url) as client,
        pytest.raises(ServiceError) as error,
    ):
        client.download("x", tmp_path / "out.sqz")
    assert error.value.code == "bad_download"
    assert (tmp_path / "out.sqz").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.sqz"]


def test_what_is_not_squeezer_is_told_so(model: Path) -> None:
    with (
        answering(lambda request, _: reply(request, 200, b"<html>")) as url,
        Client(url) as client,
        pytest.raises(ServiceError, match="is not Squeezer"),
    ):
        client.job("x")


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://127.0.0.1:1", "ftp://127.0.0.1", "http://[::"])
def test_nothing_there(url: str, model: Path) -> None:
    with pytest.raises(ServiceError) as error, Client(url) as client:
        client.submit(model, {"preset": "safe"})
    assert error.value.code == "service_unreachable"


def test_a_large_upload_takes_no_memory(tmp_path: Path) -> None:
    size = 400_000_000
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(size)
    received = []

    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        left = int(request.headers["Content-Length"])
        while left:
            left -= len(request.rfile.read(min(left, 1 << 20)))
        received.append(int(request.headers["Content-Length"]))
        reply(request, 202, b'{"id": "x"}')

    program = """if True:
        import pathlib, resource, sys
        from squeezer.client import Client
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Client(sys.argv[1]) as client:
            before = peak()
            client.submit(pathlib.Path(sys.argv[2]), {"preset": "safe"})
            print(peak() - before)"""
    with answering(answer) as url:
        command = [sys.executable, "-c", program, url, str(tmp_path / "model.bin")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert received[0] > size
    assert int(done.stdout) < 20_000  # kB
