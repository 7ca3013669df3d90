"""`POST /jobs` with a student beside the model and the data set."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage
from tests.app.conftest import MODEL, SPEC, Server, assert_problem, count, post, spec
from tests.app.test_create_job_with_data import DATASET

Sessions = sessionmaker[Session]

STUDENT = ("student", "small.pt2", b"some bytes of a student")
DISTILL = spec({"steps": [{"method": "distill", "student": "uploaded"}]})
OF_THE_ZOO = spec({"steps": [{"method": "distill", "student": "lenet-300-100"}]})


@pytest.mark.parametrize("parts", list(itertools.permutations([DISTILL, MODEL, DATASET, STUDENT])))
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_parts_may_come_in_any_order(client: httpx.Client, server: Server, sessions: Sessions, parts: Any) -> None:
    response = post(client, *parts)
    assert response.status_code == 202, response.text
    with sessions() as session:
        row = session.get_one(Job, UUID(response.json()["id"]))
        assert row.dataset_key is not None
        assert row.student_key is not None
        storage = LocalStorage(server.settings.storage)
        assert storage.open(row.model_key).read() == MODEL[2]
        assert storage.open(row.dataset_key).read() == DATASET[2]
        assert storage.open(row.student_key).read() == STUDENT[2]
    assert len(server.files) == 3


def test_a_job_shows_its_student_and_takes_it_along_when_deleted(
    client: httpx.Client, server: Server, sessions: Sessions
) -> None:
    job = post(client, DISTILL, MODEL, DATASET, STUDENT).json()
    digest = hashlib.sha256(STUDENT[2]).hexdigest()
    assert job["student"] == {"file_name": "small.pt2", "bytes": len(STUDENT[2]), "sha256": digest}
    assert (job["file_name"], job["dataset"]["file_name"]) == (MODEL[1], DATASET[1])
    assert client.get(job["links"]["self"]).json() == job
    assert len(server.files) == 3
    assert client.post(job["links"]["cancel"]).status_code == 200
    assert client.delete(job["links"]["self"]).status_code == 204
    assert server.files == []
    assert count(sessions) == 0


def test_without_one_there_is_none(client: httpx.Client) -> None:
    assert post(client, OF_THE_ZOO, MODEL, DATASET).json()["student"] is None


@pytest.mark.parametrize(
    ("parts", "code", "words"),
    [
        pytest.param((DISTILL, MODEL, DATASET), "student_missing", "distill needs the student", id="none"),
        pytest.param((MODEL, DATASET, DISTILL), "student_missing", "`student`", id="none, and the spec comes last"),
        pytest.param((DISTILL, MODEL, STUDENT), "dataset_missing", "`dataset`", id="no data"),
        pytest.param((SPEC, MODEL, STUDENT), "unexpected_part", "no step uses the student", id="a preset"),
        pytest.param((OF_THE_ZOO, MODEL, DATASET, STUDENT), "unexpected_part", "no step uses", id="another student"),
        pytest.param((DISTILL, STUDENT, MODEL, DATASET, STUDENT), "unexpected_part", "came twice", id="two"),
        pytest.param(
            (DISTILL, MODEL, DATASET, ("student", "s", b"")), "empty_file", "the student is empty", id="empty"
        ),
        pytest.param((DISTILL, DATASET, STUDENT), "model_missing", "model", id="no model"),
    ],
)
def test_wrong_forms_leave_nothing(
    client: httpx.Client, nothing_remains: None, parts: Any, code: str, words: str
) -> None:
    assert words in assert_problem(post(client, *parts), 422, code)["detail"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_it_may_be_as_large_as_a_model(settings: Settings, sessions: Sessions) -> None:
    server = Server(settings.model_copy(update={"max_upload_bytes": 1000})).start()
    try:
        with httpx.Client(base_url=server.url) as client:
            too_large = post(client, DISTILL, MODEL, DATASET, ("student", "s", b"x" * 1001))
            assert "the student may have 1000 bytes" in assert_problem(too_large, 413, "upload_too_large")["detail"]
            assert server.files == []
            assert count(sessions) == 0
            assert post(client, DISTILL, MODEL, DATASET, ("student", "s", b"x" * 1000)).status_code == 202
    finally:
        server.stop()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_description_of_the_interface_has_the_part(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["properties"]["student"]["format"] == "binary"
    assert body["required"] == ["spec", "model"]
    assert "student_missing" in json.dumps(document["paths"]["/jobs"]["post"]["responses"]["422"])
