"""`POST /jobs` with a data set beside the model."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage
from tests.app.conftest import MODEL, SPEC, Server, assert_problem, count, form, post, spec, wait_for

Sessions = sessionmaker[Session]

DATASET = ("dataset", "digits.npz", b"some bytes of a data set")
NEEDS_DATA = spec({"steps": [{"method": "finetune"}]})
GUARDED = spec({"steps": [], "accept": {"max_drop": 0.01}})


@pytest.mark.parametrize("parts", list(itertools.permutations([NEEDS_DATA, MODEL, DATASET])))
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_parts_may_come_in_any_order(client: httpx.Client, server: Server, sessions: Sessions, parts: Any) -> None:
    response = post(client, *parts)
    assert response.status_code == 202, response.text
    with sessions() as session:
        row = session.get_one(Job, UUID(response.json()["id"]))
        assert row.dataset_key is not None
        storage = LocalStorage(server.settings.storage)
        assert storage.open(row.model_key).read() == MODEL[2]
        assert storage.open(row.dataset_key).read() == DATASET[2]
    assert len(server.files) == 2


def test_a_job_shows_its_data_set_and_takes_it_along_when_deleted(
    client: httpx.Client, server: Server, sessions: Sessions
) -> None:
    job = post(client, SPEC, MODEL, DATASET).json()
    digest = hashlib.sha256(DATASET[2]).hexdigest()
    assert job["dataset"] == {"file_name": "digits.npz", "bytes": len(DATASET[2]), "sha256": digest}
    assert (job["file_name"], job["input_sha256"]) == (MODEL[1], hashlib.sha256(MODEL[2]).hexdigest())
    assert client.get(job["links"]["self"]).json() == job
    assert client.post(job["links"]["cancel"]).status_code == 200
    assert client.delete(job["links"]["self"]).status_code == 204
    assert server.files == []
    assert count(sessions) == 0


def test_without_one_there_is_none(client: httpx.Client) -> None:
    assert post(client, SPEC, MODEL).json()["dataset"] is None


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        pytest.param((NEEDS_DATA, MODEL), 422, "dataset_missing", id="none, and a step needs it"),
        pytest.param((MODEL, NEEDS_DATA), 422, "dataset_missing", id="none, and the spec comes last"),
        pytest.param((GUARDED, MODEL), 422, "dataset_missing", id="none to judge by"),
        pytest.param((NEEDS_DATA, DATASET), 422, "model_missing", id="no model"),
        pytest.param((MODEL, DATASET), 422, "spec_missing", id="no spec"),
        pytest.param((NEEDS_DATA, DATASET, DATASET, MODEL), 422, "unexpected_part", id="two"),
        pytest.param((NEEDS_DATA, DATASET, MODEL, DATASET), 422, "unexpected_part", id="two, the model between"),
        pytest.param((NEEDS_DATA, MODEL, ("dataset", "d.npz", b"")), 422, "empty_file", id="empty"),
        pytest.param((DATASET, MODEL, ("spec", None, b"{")), 422, "spec_not_json", id="wrong spec comes last"),
        pytest.param((DATASET, MODEL, spec({"preset": "no"})), 422, "invalid_recipe", id="wrong recipe comes last"),
    ],
)
def test_wrong_forms_leave_nothing(
    client: httpx.Client, nothing_remains: None, parts: Any, status: int, code: str
) -> None:
    assert_problem(post(client, *parts), status, code)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_preset_runs_without_data_what_needs_none(client: httpx.Client) -> None:
    """The negative control: only what the user asked for is refused."""
    assert post(client, spec({"preset": "deep-compression"}), MODEL).status_code == 202


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_problems_name_the_step_and_the_file(client: httpx.Client) -> None:
    missing = post(client, NEEDS_DATA, MODEL).json()["detail"]
    assert "finetune" in missing
    assert "`dataset`" in missing
    assert "the data set is empty" in post(client, NEEDS_DATA, ("dataset", "d", b"")).json()["detail"]
    assert "the model is empty" in post(client, NEEDS_DATA, ("model", "m", b"")).json()["detail"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_each_file_has_its_own_cap(settings: Settings, sessions: Sessions) -> None:
    server = Server(settings.model_copy(update={"max_upload_bytes": 1000, "max_dataset_bytes": 2000})).start()
    try:
        with httpx.Client(base_url=server.url) as client:
            for part, size in (("model", 1000), ("dataset", 2000)):
                other = MODEL if part == "dataset" else DATASET
                too_large = post(client, SPEC, other, (part, "f", b"x" * (size + 1)))
                problem = assert_problem(too_large, 413, "upload_too_large")
                assert str(size) in problem["detail"]
                assert server.files == []
                assert count(sessions) == 0
            both = post(client, SPEC, ("dataset", "d", b"x" * 2000), ("model", "m", b"x" * 1000))
            assert both.status_code == 202
    finally:
        server.stop()


def test_a_client_that_leaves_in_the_second_file_leaves_nothing(server: Server, nothing_remains: None) -> None:
    body, headers = form(SPEC, MODEL, DATASET)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(["POST /jobs HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 1000000000", *lines, "", ""])
    connection = server.connect()
    connection.sendall(head.encode() + body[:-30] + b"x" * 3_000_000)
    wait_for(lambda: len(server.files) == 2 and any(path.stat().st_size > 1_000_000 for path in server.files))
    connection.close()
    wait_for(lambda: server.files == [])


class FullStorage(LocalStorage):
    """A folder whose disk is full from the second file on: the kernel's own full device."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._writers = 0

    def writer(self, key: str) -> Any:
        writer = super().writer(key)
        self._writers += 1
        if self._writers == 2:
            writer._file.close()
            writer._file = Path("/dev/full").open("wb")  # noqa: SIM115 - the writer closes it
        return writer


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_disk_that_is_full_for_the_second_file_keeps_neither(settings: Settings, sessions: Sessions) -> None:
    """A small file meets the full disk when it is committed, which is when the first one has been."""
    server = Server(settings)
    server.app.state.context = replace(server.app.state.context, storage=FullStorage(settings.storage))
    server.start()
    try:
        with httpx.Client(base_url=server.url) as client:
            assert_problem(post(client, SPEC, MODEL, DATASET), 507, "storage_full")
    finally:
        server.stop()
    assert server.files == []
    assert count(sessions) == 0


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_description_of_the_interface_has_the_part(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(body["properties"]) == {"spec", "model", "dataset", "student"}
    assert body["required"] == ["spec", "model"]
    assert "dataset_missing" in json.dumps(document["paths"]["/jobs"]["post"]["responses"]["422"])
