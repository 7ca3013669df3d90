from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from app.artifacts.service import content_disposition
from app.jobs import repository
from app.jobs.repository import ArtifactRecord
from app.storage import LocalStorage, new_key
from tests.app.conftest import REPORT, AddJob, Server, assert_problem

if TYPE_CHECKING:
    import httpx
    from sqlalchemy.orm import Session, sessionmaker

CONTENT = os.urandom(700_000)  # several chunks
DIGEST = hashlib.sha256(CONTENT)


@pytest.fixture(params=["succeeded", "not accepted"])
def path(request: pytest.FixtureRequest, server: Server, sessions: sessionmaker[Session], add_job: AddJob) -> str:
    """The path of a finished job's artifact."""
    job_id = add_job(file_name='m\u00f6del, "v1.5".pth')
    storage, key = LocalStorage(server.settings.storage), new_key()
    with storage.writer(key) as writer:
        writer.write(CONTENT)
        writer.commit()
    made = [ArtifactRecord("sqz", key, len(CONTENT), DIGEST.hexdigest())]
    with sessions.begin() as session:
        claimed = repository.claim(session, "cpu", "worker", 30)
        assert claimed is not None
        if request.param == "succeeded":
            assert repository.succeed(session, job_id, claimed.token, REPORT, made)
        else:
            assert repository.fail(session, job_id, claimed.token, "not_accepted", "it fell", REPORT, made)
    return f"/jobs/{job_id}/artifact"


@pytest.mark.parametrize("query", ["", "?format=sqz"])
def test_the_file_comes_with_its_digest_and_name(client: httpx.Client, path: str, query: str) -> None:
    response = client.get(path + query)
    assert (response.status_code, response.content == CONTENT) == (200, True)
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.headers["etag"] == f'"{DIGEST.hexdigest()}"'
    assert response.headers["repr-digest"] == f"sha-256=:{b64encode(DIGEST.digest()).decode()}:"
    assert response.headers["accept-ranges"] == "bytes"
    plain, _, extended = response.headers["content-disposition"].partition("; filename*=UTF-8''")
    assert plain == 'attachment; filename="m_del___v1.5_.sqz"'
    assert unquote(extended) == 'm\u00f6del, "v1.5".sqz'


def test_head_says_the_same_without_the_file(client: httpx.Client, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "etag", "repr-digest", "content-disposition", "content-type"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299999", 100, 300_000),
        ("bytes=699999-", 699_999, 700_000),
        ("bytes=-5", 699_995, 700_000),
        ("bytes=0-99999999", 0, 700_000),
    ],
)
def test_parts(client: httpx.Client, path: str, wanted: str, start: int, stop: int) -> None:
    response = client.get(path, headers={"Range": wanted})
    assert response.status_code == 206
    assert response.content == CONTENT[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    assert response.headers["content-length"] == str(stop - start)


def test_a_range_outside_is_416(client: httpx.Client, path: str) -> None:
    response = client.get(path, headers={"Range": "bytes=700000-"})
    assert_problem(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"] == "bytes */700000"


def test_a_download_is_resumed_only_of_the_same_file(client: httpx.Client, path: str) -> None:
    etag = client.head(path).headers["etag"]
    for if_range, status in ((etag, 206), ('"other"', 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)):
        response = client.get(path, headers={"Range": "bytes=5-", "If-Range": if_range})
        assert response.status_code == status
        assert response.content == CONTENT[5 if status == 206 else 0 :]


def test_a_client_that_has_the_file_is_told_so(client: httpx.Client, path: str) -> None:
    etag = client.head(path).headers["etag"]
    for method in ("GET", "HEAD"):
        for value, status in ((etag, 304), (f'"a", W/{etag}', 304), ("*", 304), ('"other"', 200)):
            response = client.request(method, path, headers={"If-None-Match": value})
            assert response.status_code == status
            assert response.headers["etag"] == etag
            assert bool(response.content) is (status == 200 and method == "GET")


def test_a_format_that_was_not_asked_for_is_404(client: httpx.Client, path: str) -> None:
    problem = assert_problem(client.get(f"{path}?format=safetensors"), 404, "format_not_made")
    assert "sqz" in problem["detail"]
    assert_problem(client.get(f"{path}?format=zip"), 422, "invalid_request")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("queued", "artifact_not_ready"),
        ("running", "artifact_not_ready"),
        ("canceling", "artifact_not_ready"),
        ("failed", "no_artifact"),
        ("canceled", "no_artifact"),
    ],
)
def test_without_an_artifact_it_is_409(client: httpx.Client, add_job: AddJob, state: str, code: str) -> None:
    problem = assert_problem(client.get(f"/jobs/{add_job(state=state)}/artifact"), 409, code)
    assert state in problem["detail"]


def test_a_file_that_vanished_is_404(server: Server, client: httpx.Client, path: str) -> None:
    for file in server.files:
        file.unlink()
    assert_problem(client.get(path), 404, "job_not_found")


def test_a_client_that_stops_reading_does_no_harm(server: Server, client: httpx.Client, path: str) -> None:
    with client.stream("GET", path) as response:
        next(response.iter_raw())
    assert client.get(path).content == CONTENT


@pytest.mark.parametrize(
    "name", ["a.sqz", "a b.sqz", 'a"b.sqz', "a\r\nX-Evil: 1.sqz", "\u6a21\u578b.sqz", "\U0001f600.sqz"]
)
def test_names_cannot_break_out_of_the_header(name: str) -> None:
    header = content_disposition(name)
    header.encode("ascii")
    assert "\r" not in header
    assert "\n" not in header
    assert header.count('"') == 2
    plain = header.split('"')[1]
    assert plain == name or unquote(header.split("''")[1]) == name
