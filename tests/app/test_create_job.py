from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage
from app.uploads.parts import MAX_SPEC_BYTES
from tests.app.conftest import MODEL, SPEC, Server, assert_problem, count, form, post, spec, wait_for

Sessions = sessionmaker[Session]


@pytest.mark.parametrize("spec_file_name", [None, "spec.json"])
@pytest.mark.parametrize("spec_first", [True, False])
def test_a_job_is_queued(
    client: httpx.Client, server: Server, sessions: Sessions, spec_first: bool, spec_file_name: str | None
) -> None:
    recipe = (
        "spec",
        spec_file_name,
        b'{"preset": "deep-compression", "outputs": ["sqz", "safetensors"], "seed": 7}',
    )
    parts = (recipe, MODEL) if spec_first else (MODEL, recipe)
    response = post(client, *parts)
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert (job["state"], job["progress"], job["attempts"], job["error"]) == ("queued", 0.0, 0, None)
    assert (job["file_name"], job["input_bytes"]) == ("model.safetensors", len(MODEL[2]))
    assert job["input_sha256"] == hashlib.sha256(MODEL[2]).hexdigest()
    assert job["recipe"]["seed"] == 7
    assert job["recipe"]["steps"][0]["method"] == "magnitude_prune"
    assert client.get(response.headers["location"]).json() == job
    with sessions() as session:
        row = session.get_one(Job, UUID(job["id"]))
        stored = LocalStorage(server.settings.storage).path(row.model_key)
        assert (row.queue, row.max_crashed_attempts, row.max_lost_attempts) == ("cpu", 2, 5)
    assert server.files == [stored]
    assert stored.read_bytes() == MODEL[2]


def test_httpx_and_its_own_encoding(client: httpx.Client) -> None:
    files = {
        "spec": (None, '{"preset": "lossless"}'),
        "model": ("m\u00f6del \u6a21\u578b.pt", b"x" * 3_000_000),
    }
    response = client.post("/jobs", files=files)
    assert response.status_code == 202
    assert response.json()["file_name"] == "m\u00f6del \u6a21\u578b.pt"
    assert response.json()["input_bytes"] == 3_000_000


def test_an_empty_spec_is_the_default_recipe(client: httpx.Client) -> None:
    assert post(client, ("spec", None, b"{}"), MODEL).json()["recipe"]["preset"] == "safe"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\models\\net.pt", "net.pt"),
        ("/", "model"),
        ("..", "model"),
        ("", "model"),
        ("a\u202egnp.pt", "agnp.pt"),
        ("x" * 400 + ".pt", "x" * 252 + ".pt"),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_file_names_are_only_data(client: httpx.Client, server: Server, sent: str, kept: str) -> None:
    response = post(client, SPEC, ("model", sent, b"x"))
    assert response.json()["file_name"] == kept
    assert all(re.fullmatch(r"[0-9a-f]{32}", path.name) for path in server.files)


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        pytest.param((MODEL,), 422, "spec_missing", id="spec missing"),
        pytest.param((SPEC,), 422, "model_missing", id="model missing"),
        pytest.param((), 422, "spec_missing", id="no parts"),
        pytest.param((SPEC, ("model", "m.pt", b"")), 422, "empty_file", id="empty model"),
        pytest.param((SPEC, MODEL, MODEL), 422, "unexpected_part", id="two models"),
        pytest.param((SPEC, SPEC, MODEL), 422, "unexpected_part", id="two specs"),
        pytest.param((SPEC, ("extra", None, b"1"), MODEL), 422, "unexpected_part", id="unknown part"),
        pytest.param((MODEL, ("spec", None, b"not json")), 422, "spec_not_json", id="not JSON"),
        pytest.param((MODEL, ("spec", None, b"")), 422, "spec_not_json", id="empty spec"),
        pytest.param((MODEL, ("spec", None, b"\xff\xfe\x00")), 422, "spec_not_json", id="not text"),
        pytest.param((MODEL, ("spec", None, b"[" * 900_000)), 422, "spec_not_json", id="nested too deep"),
        pytest.param((MODEL, ("spec", None, b'{"seed": NaN}')), 422, "spec_not_json", id="NaN"),
        pytest.param((MODEL, ("spec", None, b'"\\ud800"')), 422, "spec_not_json", id="lone surrogate"),
        pytest.param((MODEL, ("spec", None, b"1" * 5000)), 422, "spec_not_json", id="endless number"),
        pytest.param((MODEL, spec([])), 422, "invalid_recipe", id="a list"),
        pytest.param((MODEL, spec({"preset": []})), 422, "invalid_recipe", id="a list as preset"),
        pytest.param((MODEL, spec({"steps": [{"method": {}}]})), 422, "invalid_recipe", id="an object as method"),
        pytest.param((MODEL, ("spec", None, b" " * (MAX_SPEC_BYTES + 1))), 413, "spec_too_large", id="spec too large"),
        pytest.param((spec({"preset": "safe", "device": "cuda"}), MODEL), 422, "queue_unavailable", id="no GPU"),
    ],
)
def test_wrong_forms_leave_nothing(
    client: httpx.Client, nothing_remains: None, parts: Any, status: int, code: str
) -> None:
    assert_problem(post(client, *parts), status, code)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"preset": "unknown"}, ["unknown", "safe", "lossless", "deep-compression"]),
        ({"steps": [{"method": "shrink"}]}, ["shrink", "magnitude_prune", "kmeans_share"]),
        ({"steps": [{"method": "magnitude_prune", "sparsity": 1.5}]}, ["sparsity", "steps[0]"]),
        (
            {"steps": [{"method": "magnitude_prune", "sparsity": 0.5, "colour": 1}]},
            ["colour", "scope", "steps[0]"],
        ),
        ({"steps": [], "colour": 1}, ["colour", "encoding", "max_seconds"]),
        ({"version": 2, "steps": []}, ["version"]),
        ({"preset": "safe", "max_seconds": 0}, ["max_seconds"]),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(
    client: httpx.Client, nothing_remains: None, document: dict[str, Any], named: list[str]
) -> None:
    problem = assert_problem(post(client, spec(document), MODEL), 422, "invalid_recipe")
    for name in named:
        assert name in problem["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{}", 415, "not_multipart"),
        ("", b"", 415, "not_multipart"),
        ("multipart/form-data", b"--x--", 415, "not_multipart"),
        ("multipart/form-data; boundary=b", b"", 400, "broken_multipart"),
        ("multipart/form-data; boundary=b", b"nonsense", 400, "broken_multipart"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nhalf a mod',
            400,
            "broken_multipart",
        ),
    ],
)
def test_other_bodies_are_refused(
    client: httpx.Client, nothing_remains: None, content_type: str, body: bytes, status: int, code: str
) -> None:
    assert_problem(client.post("/jobs", content=body, headers={"Content-Type": content_type}), status, code)


@pytest.fixture
def small_server(settings: Settings) -> Iterator[Server]:
    server = Server(settings.model_copy(update={"max_upload_bytes": 1000, "max_dataset_bytes": 1000})).start()
    yield server
    server.stop()


def test_the_cap_is_exact_and_on_the_model(small_server: Server, sessions: Sessions) -> None:
    with httpx.Client(base_url=small_server.url) as client:
        problem = assert_problem(post(client, SPEC, ("model", "m", b"x" * 1001)), 413, "upload_too_large")
        assert "1000" in problem["detail"]
        assert count(sessions) == 0
        assert small_server.files == []
        assert post(client, SPEC, ("model", "m", b"x" * 1000)).status_code == 202


def test_the_cap_holds_for_bodies_of_unknown_length(small_server: Server, sessions: Sessions) -> None:
    """Chunked bodies carry no Content-Length; an epilogue belongs to no part and counts as well."""

    def endless(start: bytes) -> Iterator[bytes]:
        yield start
        for _ in range(4000):
            yield b"x" * 1000

    complete, headers = form(SPEC, ("model", "m", b"x"))
    with httpx.Client(base_url=small_server.url) as client:
        for start in (complete[: -len("\r\n--xxBOUNDARYxx--\r\n")], complete):
            response = client.post("/jobs", content=endless(start), headers=headers)
            assert_problem(response, 413, "upload_too_large")
    assert count(sessions) == 0
    assert small_server.files == []


def answer_to(connection: socket.socket) -> bytes:
    """What the server says, up to the end of the problem document."""
    answer = b""
    while not answer.endswith(b"}"):
        received = connection.recv(65536)
        assert received, answer
        answer += received
    return answer


def head(headers: dict[str, str], length: int) -> bytes:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["POST /jobs HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *lines, "", ""]).encode()


def test_a_length_beyond_the_cap_is_refused_before_the_body(server: Server, nothing_remains: None) -> None:
    _, headers = form(SPEC, MODEL)
    with server.connect() as connection:
        connection.sendall(head(headers, 10**13))
        assert answer_to(connection).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("document", [{"preset": "nonsense"}, {"preset": "safe", "device": "cuda"}])
def test_an_invalid_spec_is_refused_before_the_model_comes(
    server: Server, nothing_remains: None, document: dict[str, str]
) -> None:
    body, headers = form(spec(document), ("model", "m", b""))
    with server.connect() as connection:
        # The next boundary ends the spec; of the model nothing is sent.
        connection.sendall(head(headers, 10**9) + body[: body.index(b'name="model"')])
        assert answer_to(connection).startswith(b"HTTP/1.1 422")


def test_a_client_that_leaves_half_way_leaves_nothing(server: Server, nothing_remains: None) -> None:
    body, headers = form(SPEC, MODEL)
    connection = server.connect()
    connection.sendall(head(headers, 10**9) + body[:-30] + b"x" * 3_000_000)
    wait_for(lambda: any(path.stat().st_size > 1_000_000 for path in server.files))
    connection.close()
    wait_for(lambda: server.files == [])


class FullStorage(LocalStorage):
    """A folder on a full disk: the kernel's own."""

    def writer(self, key: str) -> Any:
        writer = super().writer(key)
        writer._file.close()
        writer._file = Path("/dev/full").open("wb")  # noqa: SIM115 - the writer closes it
        return writer


def test_a_full_disk_is_507(settings: Settings, nothing_remains: None) -> None:
    server = Server(settings)
    server.app.state.context = replace(server.app.state.context, storage=FullStorage(settings.storage))
    server.start()
    try:
        with httpx.Client(base_url=server.url) as client:
            # A small file meets the full disk when it is committed, a large one while it is written.
            for size in (10, 5_000_000):
                assert_problem(post(client, SPEC, ("model", "m", b"x" * size)), 507, "storage_full")
    finally:
        server.stop()


def test_a_database_that_is_down_is_503_and_leaves_no_file(tmp_path: Path) -> None:
    nowhere = Settings(
        mode="distributed",
        data_dir=tmp_path,
        database_url="postgresql+psycopg://nobody:hunter2@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
    )
    server = Server(nowhere).start()
    try:
        with httpx.Client(base_url=server.url) as client:
            response = post(client, SPEC, MODEL)
            assert_problem(response, 503, "database_unavailable")
            assert "hunter2" not in response.text
        assert server.files == []
    finally:
        server.stop()


@pytest.mark.parametrize("state", ["refuses", "hangs"])
def test_202_within_a_second_while_the_broker_is_down(settings: Settings, state: str, sessions: Sessions) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if state == "hangs":
            listener.listen()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        server = Server(settings.model_copy(update={"redis_url": url})).start()
        try:
            with httpx.Client(base_url=server.url) as client:
                client.get("/healthz")
                for _ in range(3):
                    begin = time.perf_counter()
                    assert post(client, SPEC, MODEL).status_code == 202
                    assert time.perf_counter() - begin < 1
                    client.get("/healthz")  # the same connection goes on
        finally:
            server.stop()
    assert count(sessions) == 3


def test_the_doorbell_rings_after_the_commit(settings: Settings, redis_url: str) -> None:
    server = Server(settings.model_copy(update={"redis_url": redis_url, "gpu_workers": True})).start()
    try:
        with redis.Redis.from_url(redis_url) as broker, httpx.Client(base_url=server.url) as client:
            for device, queue in (("auto", "cpu"), ("cuda", "gpu")):
                broker.delete(queue)
                assert post(client, spec({"preset": "safe", "device": device}), MODEL).status_code == 202
                wait_for(lambda queue=queue: broker.llen(queue) == 1)
                broker.delete(queue)
    finally:
        server.stop()
