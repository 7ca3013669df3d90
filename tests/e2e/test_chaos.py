"""What happens to jobs when processes are killed and servers go away; distributed mode, real processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from app.queue import make_celery, ring
from app.settings import Settings
from tests.e2e.deployment import Deployment, alive, descendants, eventually, is_job_process

SLOW = {"preset": "lossless"}
QUICK = {"preset": "safe"}


@pytest.fixture
def service(distributed: Deployment) -> Deployment:
    distributed.ensure_worker()
    return distributed


def assert_second_attempt_succeeds(service: Deployment, path: str) -> None:
    job = service.client.finished(path)
    assert (job["state"], job["attempts"], job["error"]) == ("succeeded", 2, None), job
    assert [made["format"] for made in job["artifacts"]] == ["sqz"]
    answer = service.client.http.get(job["links"]["artifact"])
    assert len(answer.content) == job["artifacts"][0]["bytes"]


def test_the_workers_process_group_is_killed(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    child = service.in_mid_job(path)
    service.kill_worker()
    eventually(lambda: not alive(child), seconds=3)
    service.ensure_worker()
    assert_second_attempt_succeeds(service, path)


def test_the_supervisor_alone_is_killed(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    child = service.in_mid_job(path)
    supervisor = child.parent()
    assert supervisor is not None
    assert service.worker is not None
    assert supervisor.pid != service.worker.pid
    supervisor.kill()
    eventually(lambda: not alive(child), seconds=3)
    assert_second_attempt_succeeds(service, path)


def test_only_the_main_process_of_the_worker_is_killed(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    service.in_mid_job(path)
    assert service.worker is not None
    left = descendants(service.worker.pid)
    service.worker.kill()
    eventually(lambda: not any(map(alive, left)), seconds=3)
    eventually(lambda: service.worker is None)
    service.ensure_worker()
    assert_second_attempt_succeeds(service, path)


def test_the_child_is_killed_once(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    service.in_mid_job(path).kill()
    assert_second_attempt_succeeds(service, path)


def test_the_child_is_killed_twice(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    first = service.in_mid_job(path)
    first.kill()
    second: psutil.Process = eventually(lambda: (found := service.job_process()) and found != first and found)
    second.kill()
    job = service.client.finished(path)
    assert (job["state"], job["attempts"], job["error"]["code"]) == ("failed", 2, "crashed")
    assert "out of memory" in job["error"]["detail"]


def test_a_running_job_is_canceled(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    child = service.in_mid_job(path)
    asked = time.monotonic()
    assert service.client.http.post(path + "/cancel").is_success
    job = service.client.finished(path)
    assert job["state"] == "canceled"
    eventually(lambda: not alive(child), seconds=1)
    assert time.monotonic() - asked < 5


def test_a_worker_that_is_stopped_hands_its_job_back(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    child = service.in_mid_job(path)
    assert service.stop_worker() < 10
    assert not alive(child)
    assert service.client.job(path)["state"] == "queued"
    service.ensure_worker()
    assert_second_attempt_succeeds(service, path)


def test_doubled_rings_run_one_attempt(service: Deployment, large_model: Path) -> None:
    service.stop_worker()
    service.ensure_worker(concurrency=2)
    celery = make_celery(
        Settings(mode="distributed", database_url="sqlite://", redis_url=service.redis.url)
    )  # fmt: skip
    path = service.client.submit(large_model, QUICK)
    assert all(ring("cpu", celery) for _ in range(5))
    seen: set[int] = set()
    while service.client.job(path)["state"] in {"queued", "running"}:
        assert service.worker is not None
        now = {each.pid for each in filter(is_job_process, descendants(service.worker.pid))}
        assert len(now) <= 1
        seen |= now
    job = service.client.job(path)
    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    assert 1 <= len(seen) <= 2  # compress and verify
    service.stop_worker()


def test_redis_is_down_while_jobs_are_posted(service: Deployment, small_model: Path) -> None:
    service.client.http.get("/healthz")  # connected
    service.redis.kill()
    paths = []
    with small_model.open("rb") as file:
        for _ in range(3):
            file.seek(0)
            started = time.monotonic()
            answer = service.client.http.post("/jobs", data={"spec": json.dumps(QUICK)}, files={"model": file})
            assert answer.status_code == 202
            assert time.monotonic() - started < 1
            paths.append(answer.headers["location"])
    time.sleep(1)
    assert {service.client.job(path)["state"] for path in paths} == {"queued"}
    service.redis.start()
    assert {service.client.finished(path)["state"] for path in paths} == {"succeeded"}


def test_redis_goes_away_in_mid_job(service: Deployment, large_model: Path, small_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    service.in_mid_job(path)
    service.redis.kill()
    job = service.client.finished(path)
    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    service.redis.start()
    assert service.client.finished(service.client.submit(small_model, QUICK))["state"] == "succeeded"


def test_a_worker_is_stopped_while_redis_is_away(service: Deployment, large_model: Path) -> None:
    path = service.client.submit(large_model, SLOW)
    service.in_mid_job(path)
    service.redis.kill()
    assert service.stop_worker() < 10
    assert service.client.job(path)["state"] == "queued"
    service.redis.start()
    service.ensure_worker()
    assert_second_attempt_succeeds(service, path)


def test_nothing_is_left_in_the_scratch_folder(service: Deployment) -> None:
    """After all the killing above: what a dead supervisor leaves is removed once it is old enough."""
    scratch = service.folder / "data" / "scratch"
    for folder in scratch.iterdir():
        os.utime(folder, (0, 0))
    # `os.walk` passes over what is removed as it goes; `rglob` fails there.
    eventually(lambda: {name for _, *found in os.walk(scratch) for names in found for name in names} <= {"checkpoints"})
