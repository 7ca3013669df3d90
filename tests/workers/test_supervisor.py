from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import repository
from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage
from squeezer.errors import SqueezerError
from tests.workers.conftest import (
    GOOD,
    KILLED,
    SCRIPTED_CHILD,
    GetJob,
    Meanwhile,
    Submit,
    cancel,
    left_in_scratch,
    objects,
)
from workers.products import read_report
from workers.supervisor import Supervisor, child_environment


def test_a_job_runs_to_its_artifacts(
    supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage, settings: Settings
) -> None:
    job_id = submit(GOOD, outputs=("sqz", "safetensors", "onnx", "pt2"))
    assert supervisor.work("cpu") == 1
    done = job(job_id)
    assert (done.state, done.progress, done.error_code) == ("succeeded", 1.0, None)
    contents = {made.format: storage.open(made.key).read() for made in done.artifacts}
    assert contents == {"sqz": b"small", "safetensors": b"safetensors", "onnx": b"onnx", "pt2": b"pt2"}
    assert [made.sha256 for made in done.artifacts if made.format == "sqz"] == [hashlib.sha256(b"small").hexdigest()]
    assert done.metrics is not None
    assert done.metrics["ratio"] == 2.0
    assert left_in_scratch(settings) == []


def test_outputs_not_asked_for_are_not_stored(supervisor: Supervisor, submit: Submit, job: GetJob) -> None:
    job_id = submit(GOOD)
    supervisor.work("cpu")
    assert [made.format for made in job(job_id).artifacts] == ["sqz"]


def test_all_jobs_of_the_queue_run_and_no_others(supervisor: Supervisor, submit: Submit, job: GetJob) -> None:
    mine, others = [submit(GOOD), submit(GOOD)], submit(GOOD, queue="gpu")
    assert supervisor.work("cpu") == 2
    assert {job(each).state for each in mine} == {"succeeded"}
    assert job(others).state == "queued"


def test_bad_content_fails_at_once_with_its_code(
    supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage
) -> None:
    job_id = submit("error('truncated_file', 'the file ends early')")
    assert supervisor.work("cpu") == 1
    failed = job(job_id)
    assert (failed.state, failed.error_code, failed.error_detail) == ("failed", "truncated_file", "the file ends early")
    assert failed.crashed_attempts == 0
    assert objects(storage) == {failed.model_key}


def test_an_artifact_that_does_not_verify_is_never_stored(
    supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage
) -> None:
    job_id = submit("compress() if MODE == 'compress' else error('verification_failed', 'fc1')")
    supervisor.work("cpu")
    failed = job(job_id)
    assert (failed.state, failed.error_code) == ("failed", "verification_failed")
    assert objects(storage) == {failed.model_key}


def test_a_child_killed_once_is_given_a_second_attempt(supervisor: Supervisor, submit: Submit, job: GetJob) -> None:
    job_id = submit(f"if FOLDER.name.endswith('-1'): {KILLED}\n{GOOD}")
    assert supervisor.work("cpu") == 2
    done = job(job_id)
    assert (done.state, done.crashed_attempts, done.fencing_token) == ("succeeded", 1, 2)


def test_a_child_killed_twice_fails_the_job_and_its_cause_is_kept(
    supervisor: Supervisor, submit: Submit, job: GetJob
) -> None:
    job_id = submit(KILLED)
    assert supervisor.work("cpu") == 2
    failed = job(job_id)
    assert (failed.state, failed.error_code, failed.crashed_attempts) == ("failed", "crashed", 2)
    assert "ran out of memory" in (failed.error_detail or "")


def test_a_deadline_ends_the_child(
    supervisor: Supervisor, submit: Submit, job: GetJob, child_pid: Callable[[], int]
) -> None:
    job_id = submit("wait()", max_seconds=1)
    started = time.monotonic()
    supervisor.work("cpu")
    assert time.monotonic() - started < 5
    failed = job(job_id)
    assert (failed.state, failed.error_code) == ("failed", "deadline_exceeded")
    assert not psutil.pid_exists(child_pid())


def test_cancel_ends_the_child_within_five_seconds(
    supervisor: Supervisor,
    submit: Submit,
    job: GetJob,
    sessions: sessionmaker[Session],
    child_pid: Callable[[], int],
    meanwhile: Meanwhile,
) -> None:
    job_id = submit("wait()")
    asked: list[float] = []

    def ask() -> None:
        child_pid()
        cancel(sessions, job_id)
        asked.append(time.monotonic())

    meanwhile(ask)
    supervisor.work("cpu")
    assert time.monotonic() - asked[0] < 5
    assert job(job_id).state == "canceled"
    assert not psutil.pid_exists(child_pid())


def test_a_job_lost_to_another_worker_is_left_alone(
    supervisor: Supervisor,
    submit: Submit,
    job: GetJob,
    sessions: sessionmaker[Session],
    child_pid: Callable[[], int],
    meanwhile: Meanwhile,
) -> None:
    job_id = submit("wait()")

    def take_over() -> None:
        child_pid()
        with sessions.begin() as session:
            other = session.get_one(Job, job_id)
            other.fencing_token += 1
            other.lease_owner = "another"

    meanwhile(take_over)
    supervisor.work("cpu")
    assert (job(job_id).state, job(job_id).lease_owner) == ("running", "another")
    assert not psutil.pid_exists(child_pid())


def test_the_files_of_an_attempt_that_comes_too_late_are_deleted(
    supervisor: Supervisor, submit: Submit, job: GetJob, sessions: sessionmaker[Session], storage: LocalStorage
) -> None:
    job_id = submit(GOOD)
    with sessions.begin() as session:
        claim = repository.claim(session, "cpu", "me", 30)
        assert claim
        session.get_one(Job, job_id).fencing_token += 1
    supervisor.attempt(claim)
    assert job(job_id).artifacts == []
    assert objects(storage) == {claim.model_key}


def test_a_deleted_job_ends_the_child(
    supervisor: Supervisor,
    submit: Submit,
    sessions: sessionmaker[Session],
    child_pid: Callable[[], int],
    meanwhile: Meanwhile,
) -> None:
    job_id = submit("wait()")

    def delete() -> None:
        child_pid()
        with sessions.begin() as session:
            session.delete(session.get_one(Job, job_id))

    meanwhile(delete)
    assert supervisor.work("cpu") == 1


def test_a_draining_worker_hands_its_job_back(
    settings: Settings,
    sessions: sessionmaker[Session],
    storage: LocalStorage,
    submit: Submit,
    job: GetJob,
    tmp_path: Path,
    child_pid: Callable[[], int],
) -> None:
    draining = (tmp_path / "child.pid").exists
    supervisor = Supervisor(settings, sessions, storage, child=SCRIPTED_CHILD, draining=draining)
    job_id, untouched = submit("wait()"), submit(GOOD)
    started = time.monotonic()
    assert supervisor.work("cpu") == 1
    assert time.monotonic() - started < 5
    assert [job(each).state for each in (job_id, untouched)] == ["queued", "queued"]
    assert (job(job_id).crashed_attempts, job(job_id).lost_attempts) == (0, 0)
    assert not psutil.pid_exists(child_pid())


def test_progress_of_both_children_makes_one_whole(
    supervisor: Supervisor,
    submit: Submit,
    job: GetJob,
    meanwhile: Meanwhile,
) -> None:
    job_id = submit(
        "progress('prune' if MODE == 'compress' else 'verify', 0.5); time.sleep(1.2); " + GOOD,
    )
    seen: set[tuple[str | None, float]] = set()

    def look() -> None:
        while (now := job(job_id)).state in {"queued", "running"}:
            seen.add((now.stage, round(now.progress, 3)))
            time.sleep(0.05)

    meanwhile(look)
    supervisor.work("cpu")
    assert {("prune", 0.45), ("verify", 0.95)} <= seen


def test_a_flood_of_progress_is_thinned(
    supervisor: Supervisor, submit: Submit, job: GetJob, sessions: sessionmaker[Session]
) -> None:
    writes: list[str] = []
    event.listen(
        sessions.kw["bind"],
        "before_cursor_execute",
        lambda *arguments: writes.append(arguments[2]) if "progress" in arguments[2] else None,
    )
    job_id = submit("for i in range(20_000): progress(f's{i}', i / 20_000)\ntime.sleep(0.6)\n" + GOOD)
    supervisor.work("cpu")
    assert job(job_id).state == "succeeded"
    assert 1 <= sum(statement.startswith("UPDATE") for statement in writes) < 20


def test_a_child_sees_no_secrets(
    supervisor: Supervisor, submit: Submit, job: GetJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEEZER_DATABASE_URL", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    job_id = submit("error('internal', ' '.join(f'{k}={v}' for k, v in os.environ.items()))")
    supervisor.work("cpu")
    shown = job(job_id).error_detail or ""
    assert "OMP_NUM_THREADS=3" in shown
    assert "OMP_WAIT_POLICY=PASSIVE" in shown
    assert "hunter2" not in shown
    assert "SQUEEZER" not in shown


def test_a_child_cannot_import_what_lies_in_its_folder(tmp_path: Path) -> None:
    from workers import process
    from workers.supervisor import CHILD

    (tmp_path / "squeezer").mkdir()
    (tmp_path / "squeezer" / "__init__.py").write_text("open('taken', 'w')")
    process.run([*CHILD, "verify", str(tmp_path)], env=child_environment(tmp_path), cwd=tmp_path)
    assert not (tmp_path / "taken").exists()


class FullStorage(LocalStorage):
    """Stands for a disk that fills up, which needs root and a file system to have for real."""

    def put_file(self, key: str, path: Path) -> None:
        if path.name == "model.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().put_file(key, path)


def test_a_full_disk_fails_the_job_and_leaves_nothing(
    settings: Settings, sessions: sessionmaker[Session], submit: Submit, job: GetJob
) -> None:
    storage = FullStorage(settings.storage)
    supervisor = Supervisor(settings, sessions, storage, child=SCRIPTED_CHILD)
    job_id = submit(GOOD, outputs=("sqz", "safetensors"))
    supervisor.work("cpu")
    failed = job(job_id)
    assert (failed.state, failed.error_code) == ("failed", "disk_full")
    assert objects(storage) == {failed.model_key}


def test_a_link_in_the_output_folder_is_not_published(
    supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage
) -> None:
    job_id = submit("if MODE == 'compress':\n compress(); (OUTPUT / 'artifact.sqz').unlink()\n"
                    " (OUTPUT / 'artifact.sqz').symlink_to('/etc/hostname')")  # fmt: skip
    supervisor.work("cpu")
    assert (job(job_id).state, job(job_id).error_code) == ("failed", "internal")
    assert objects(storage) == {job(job_id).model_key}


@pytest.mark.parametrize("report", ["{'layers': []}", "[]", "{'x': float('nan')}"])
def test_a_useless_report_fails_the_job(
    report: str, supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage
) -> None:
    job_id = submit(f"compress(report={report}) if MODE == 'compress' else None")
    supervisor.work("cpu")
    assert (job(job_id).state, job(job_id).error_code) == ("failed", "internal")
    assert objects(storage) == {job(job_id).model_key}


def test_a_report_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SqueezerError, match="too large"):
        read_report(path)


def test_the_end_of_an_attempt_waits_for_a_database_that_is_away(
    supervisor: Supervisor, submit: Submit, job: GetJob, sessions: sessionmaker[Session], storage: LocalStorage
) -> None:
    """Also where the commit arrived and only its answer did not: then the stored files must stay."""
    job_id = submit(GOOD)
    with sessions.begin() as session:
        claim = repository.claim(session, "cpu", "me", 30)
    assert claim
    cut = {"before_commit", "after_commit"}

    def cut_off(moment: str) -> None:
        if threading.current_thread() is threading.main_thread() and moment in cut:  # not the heartbeat's
            cut.remove(moment)
            raise OperationalError("COMMIT", {}, Exception("the connection is gone"))

    for moment in sorted(cut):
        event.listen(sessions, moment, lambda _, moment=moment: cut_off(moment))
    supervisor.attempt(claim)
    done = job(job_id)
    assert not cut
    assert done.state == "succeeded"
    assert {made.key for made in done.artifacts} < objects(storage)
