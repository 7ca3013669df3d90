from __future__ import annotations

import base64
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.db import utc_now
from app.jobs import repository
from app.jobs.repository import ArtifactRecord
from app.storage import LocalStorage, new_key
from tests.app.conftest import MODEL, REPORT, SPEC, AddJob, Server, assert_problem, form

if TYPE_CHECKING:
    from uuid import UUID

    import httpx

Sessions = sessionmaker[Session]
UNKNOWN = "0b7e3f0e-3a52-4c57-9f0a-2f3f0d1c9a11"


def claim(sessions: Sessions) -> tuple[UUID, int]:
    with sessions.begin() as session:
        claimed = repository.claim(session, "cpu", "worker", 30)
    assert claimed is not None
    return claimed.job_id, claimed.token


def test_running_jobs_show_how_far_they_are(client: httpx.Client, sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    _, token = claim(sessions)
    with sessions.begin() as session:
        repository.progress(session, job_id, token, "magnitude_prune", 0.25, 12.5, "fc1.weight")
    job = client.get(f"/jobs/{job_id}").json()
    assert (job["state"], job["stage"], job["layer"]) == ("running", "magnitude_prune", "fc1.weight")
    assert (job["progress"], job["eta_seconds"], job["attempts"]) == (0.25, 12.5, 1)
    assert job["started_at"].endswith("Z")
    assert "artifact" not in job["links"]


def test_succeeded_jobs_show_their_report(client: httpx.Client, sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    _, token = claim(sessions)
    with sessions.begin() as session:
        repository.succeed(session, job_id, token, REPORT, [ArtifactRecord("sqz", new_key(), 7, "ab" * 32)])
    job = client.get(f"/jobs/{job_id}").json()
    assert job["metrics"] == {k: REPORT[k] for k in ("headline", "ratio", "steps")}
    assert (job["layers"], job["ledger"]) == (REPORT["layers"], REPORT["ledger"])
    href = f"/jobs/{job_id}/artifact?format=sqz"
    assert job["artifacts"] == [{"format": "sqz", "bytes": 7, "sha256": "ab" * 32, "href": href}]
    assert set(job["links"]) == {"self", "artifact"}


def test_a_result_that_is_not_accepted_is_shown_beside_the_error(
    client: httpx.Client, sessions: Sessions, add_job: AddJob
) -> None:
    job_id = add_job()
    _, token = claim(sessions)
    report = REPORT | {"evaluation": {"metric": "accuracy", "drop": {"value": 0.2}}}
    made = [ArtifactRecord("sqz", new_key(), 7, "ab" * 32)]
    with sessions.begin() as session:
        repository.fail(session, job_id, token, "not_accepted", "accuracy fell by 0.2", report, made)
    job = client.get(f"/jobs/{job_id}").json()
    assert (job["state"], job["error"]) == ("failed", {"code": "not_accepted", "detail": "accuracy fell by 0.2"})
    assert job["metrics"]["evaluation"] == report["evaluation"]
    assert (job["layers"], job["ledger"]) == (REPORT["layers"], REPORT["ledger"])
    assert [each["format"] for each in job["artifacts"]] == ["sqz"]
    assert set(job["links"]) == {"self", "artifact"}


def test_a_lost_attempt_shows_as_last_error_and_not_as_error(
    client: httpx.Client, sessions: Sessions, add_job: AddJob
) -> None:
    job_id = add_job(max_crashed_attempts=2)
    for expected in (None, {"code": "crashed", "detail": "signal 9"}):
        _, token = claim(sessions)
        with sessions.begin() as session:
            repository.give_back(session, job_id, token, "crashed", "signal 9")
        job = client.get(f"/jobs/{job_id}").json()
        assert job["error"] == expected
        assert job["last_error"] == {"code": "crashed", "detail": "signal 9"}
    assert job["state"] == "failed"


@pytest.mark.parametrize("job_id", [UNKNOWN, "x", "0", "%00", "....", "\u6a21", "1" * 5000])
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/artifact")])
def test_unknown_and_malformed_ids_are_404(client: httpx.Client, job_id: str, method: str, rest: str) -> None:
    assert_problem(client.request(method, f"/jobs/{job_id}{rest}"), 404, "job_not_found")


def test_pages(client: httpx.Client, sessions: Sessions, add_job: AddJob) -> None:
    now = utc_now()
    jobs = [str(add_job(created_at=now - timedelta(seconds=age))) for age in range(5)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/jobs", params={"limit": 2, **cursor}).json()
        seen += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        add_job()  # newer jobs do not move the pages that follow
        cursor = {"cursor": page["next_cursor"]}
    assert seen == jobs
    running, _ = claim(sessions)
    filtered = client.get("/jobs", params={"state": "running"}).json()
    assert [job["id"] for job in filtered["jobs"]] == [str(running)]
    assert "layers" not in filtered["jobs"][0]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "!!!", "\u6a21"]
    + [base64.urlsafe_b64encode(c).decode() for c in (b"[]", b"[1, 2]", b'["2024-01-01", "x"]', b"{}", b"[" * 5000)]
    + [base64.urlsafe_b64encode(f'["2024-01-01T00:00:00", "{UNKNOWN}"]'.encode()).decode()],
)
def test_a_wrong_cursor_is_refused(client: httpx.Client, cursor: str) -> None:
    assert_problem(client.get("/jobs", params={"cursor": cursor}), 422, "invalid_cursor")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "state=lost"])
def test_wrong_queries_are_refused(client: httpx.Client, query: str) -> None:
    problem = assert_problem(client.get(f"/jobs?{query}"), 422, "invalid_request")
    assert query.partition("=")[0] in problem["detail"]


def test_cancel(client: httpx.Client, sessions: Sessions, add_job: AddJob) -> None:
    running = add_job()
    claim(sessions)
    queued = add_job()
    for job_id, state in ((queued, "canceled"), (running, "canceling")):
        for _ in range(2):  # asking again changes nothing
            response = client.post(f"/jobs/{job_id}/cancel")
            assert (response.status_code, response.json()["state"]) == (200, state)


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_finished_job_cannot_be_canceled(client: httpx.Client, add_job: AddJob, state: str) -> None:
    problem = assert_problem(client.post(f"/jobs/{add_job(state=state)}/cancel"), 409, "already_finished")
    assert state in problem["detail"]


def test_delete_removes_row_and_files(server: Server, client: httpx.Client, sessions: Sessions) -> None:
    body, headers = form(SPEC, MODEL)
    kept = client.post("/jobs", content=body, headers=headers).json()["id"]
    job_id, token = claim(sessions)
    assert kept == str(job_id)
    storage, made = LocalStorage(server.settings.storage), new_key()
    with storage.writer(made) as writer:
        writer.write(b"made")
        writer.commit()
    assert len(server.files) == 2
    problem = assert_problem(client.delete(f"/jobs/{job_id}"), 409, "still_running")
    assert "cancel" in problem["detail"]
    with sessions.begin() as session:
        repository.succeed(session, job_id, token, REPORT, [ArtifactRecord("sqz", made, 4, "ab" * 32)])
    other = client.post("/jobs", content=body, headers=headers).json()["id"]
    response = client.delete(f"/jobs/{job_id}")
    assert (response.status_code, response.content) == (204, b"")
    assert len(server.files) == 1
    assert_problem(client.get(f"/jobs/{job_id}"), 404, "job_not_found")
    assert client.get(f"/jobs/{other}").status_code == 200
    assert client.delete(f"/jobs/{other}").status_code == 204
    assert server.files == []
