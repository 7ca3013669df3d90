"""Attempts at jobs with a data set: what the child gets, what it may go on from, and results that are not accepted."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import repository
from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage
from tests.workers.conftest import (
    GOOD,
    KILLED,
    SCRIPTED_CHILD,
    GetJob,
    Meanwhile,
    Submit,
    cancel,
    eventually,
    left_in_scratch,
    objects,
)
from workers import checkpoints
from workers.supervisor import Supervisor

EVALUATION = {"headline": "accuracy fell", "metric": "accuracy", "drop": {"value": 0.2}}
NOT_ACCEPTED = f"""
if MODE == 'compress':
    compress()
else:
    evaluate({EVALUATION!r})
    error('not_accepted', 'accuracy fell by 0.2')
"""
#: Ends in the report what an earlier attempt left; `{}` is what happens to the attempt.
RESUMING = """
if MODE == 'verify': done()
before = resume()
{}
compress(report=REPORT | {{'headline': before}})
"""


@pytest.mark.parametrize("part", ["dataset", "student"])
def test_the_child_finds_its_data_set_and_its_student(
    part: str, supervisor: Supervisor, submit: Submit, job: GetJob
) -> None:
    seen = f"(FOLDER / 'input' / '{part}').read_text()"
    script = f"compress(report=REPORT | {{'headline': {seen}}}) if MODE == 'compress' else None"
    job_id = submit(script, dataset=b"dataset", student=b"student")
    supervisor.work("cpu")
    assert (job(job_id).metrics or {})["headline"] == part


def test_without_one_there_is_none(supervisor: Supervisor, submit: Submit, job: GetJob) -> None:
    script = f"assert sorted(os.listdir(FOLDER / 'input')) == ['model', 'recipe.json']\n{GOOD}"
    job_id = submit(script)
    supervisor.work("cpu")
    assert job(job_id).state == "succeeded"


@pytest.mark.parametrize("gone", ["model", "dataset", "student"])
def test_an_upload_gone_from_storage_fails_the_job(
    gone: str, supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage
) -> None:
    job_id = submit(GOOD, dataset=b"d", student=b"s")
    storage.delete(getattr(job(job_id), f"{gone}_key"))
    supervisor.work("cpu")
    failed = job(job_id)
    assert (failed.state, failed.error_code) == ("failed", "file_not_found")
    assert f"uploaded {gone} " in (failed.error_detail or "")


def test_the_evaluation_is_among_the_metrics(supervisor: Supervisor, submit: Submit, job: GetJob) -> None:
    job_id = submit(f"compress() if MODE == 'compress' else evaluate({EVALUATION!r})", dataset=b"d")
    supervisor.work("cpu")
    done = job(job_id)
    assert done.state == "succeeded"
    assert done.metrics is not None
    assert (done.metrics["evaluation"], done.metrics["ratio"]) == (EVALUATION, 2.0)
    assert done.metrics["headline"] == "accuracy fell"  # no longer that it was not measured


@pytest.mark.parametrize("evaluation", ["[]", "float('nan')", "{'x': float('inf')}"])
def test_a_useless_evaluation_fails_the_job(
    evaluation: str, supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage
) -> None:
    job_id = submit(f"compress() if MODE == 'compress' else evaluate({evaluation})")
    supervisor.work("cpu")
    assert (job(job_id).state, job(job_id).error_code) == ("failed", "internal")
    assert objects(storage) == {job(job_id).model_key}


# Checkpoints ------------------------------------------------------------------


def test_an_attempt_goes_on_from_what_the_one_before_left(
    supervisor: Supervisor, submit: Submit, job: GetJob, settings: Settings
) -> None:
    job_id = submit(RESUMING.format(f"if FOLDER.name.endswith('-1'): {KILLED}"))
    assert supervisor.work("cpu") == 2
    done = job(job_id)
    assert (done.state, done.crashed_attempts) == ("succeeded", 1)
    assert (done.metrics or {})["headline"] == " 1"
    assert left_in_scratch(settings) == []


def test_an_undisturbed_attempt_finds_none(supervisor: Supervisor, submit: Submit, job: GetJob) -> None:
    """The negative control."""
    job_id = submit(RESUMING.format(""))
    supervisor.work("cpu")
    assert (job(job_id).metrics or {})["headline"] == ""


def test_both_children_of_an_attempt_see_the_same_folder(supervisor: Supervisor, submit: Submit, job: GetJob) -> None:
    job_id = submit("assert resume() == ('' if MODE == 'compress' else ' 1')\n" + GOOD)
    supervisor.work("cpu")
    assert job(job_id).state == "succeeded"


@pytest.mark.parametrize("end", [KILLED, "error('truncated_file', 'x')", "compress(); error('not_accepted', 'x')"])
def test_checkpoints_go_when_the_job_has_failed(
    end: str, supervisor: Supervisor, submit: Submit, job: GetJob, settings: Settings
) -> None:
    job_id = submit(f"resume()\n{end}")
    supervisor.work("cpu")
    assert job(job_id).state == "failed"
    assert left_in_scratch(settings) == []


def test_checkpoints_stay_while_a_handed_back_job_waits_and_go_when_it_is_canceled(
    settings: Settings,
    sessions: sessionmaker[Session],
    storage: LocalStorage,
    submit: Submit,
    job: GetJob,
    supervisor: Supervisor,
) -> None:
    root = settings.data_dir / "scratch" / "checkpoints"
    draining = lambda: any(root.rglob("done"))  # noqa: E731 - a name for the condition
    draining_supervisor = Supervisor(settings, sessions, storage, child=SCRIPTED_CHILD, draining=draining)
    job_id = submit("resume()\nwait()")
    draining_supervisor.work("cpu")
    assert job(job_id).state == "queued"
    assert (root / str(job_id) / "1" / "done").read_text() == " 1"
    cancel(sessions, job_id)
    submit(GOOD)  # the next attempt on this machine, at another job, looks after what is left
    supervisor.work("cpu")
    assert left_in_scratch(settings) == []


def test_an_attempt_that_lost_its_job_leaves_the_other_one_s_checkpoints_alone(
    supervisor: Supervisor,
    submit: Submit,
    sessions: sessionmaker[Session],
    settings: Settings,
    meanwhile: Meanwhile,
) -> None:
    """The other attempt runs on the same machine, where the lease of the first ran out while it still worked."""
    root = settings.data_dir / "scratch" / "checkpoints"
    # It tries again and again to write another checkpoint, as a child that nobody has stopped yet would.
    job_id = submit(
        "resume()\n"
        "refused = Path(os.environ['HOME'], 'refused')\n"
        "while True:\n"
        " time.sleep(0.02)\n"
        " try: (FOLDER / 'checkpoints' / 'done').write_text('stale')\n"
        " except OSError as error: refused.exists() or refused.write_text(type(error).__name__)\n"
    )
    refused = settings.data_dir.parent / "refused"

    def take_over() -> None:
        eventually((root / str(job_id) / "1" / "done").exists)
        taken = checkpoints.take(root, job_id, 2)
        (taken / "done").write_text("fresh")
        eventually(lambda: refused.exists() and refused.read_text())
        with sessions.begin() as session:
            other = session.get_one(Job, job_id)
            other.fencing_token, other.lease_owner = 2, "another"

    meanwhile(take_over)
    supervisor.work("cpu")
    assert refused.read_text() == "FileNotFoundError"
    assert [path.name for path in (root / str(job_id)).iterdir()] == ["2"]
    assert (root / str(job_id) / "2" / "done").read_text() == "fresh"


# Results that are not accepted ------------------------------------------------


def test_a_result_that_is_not_accepted_fails_the_job_and_is_kept(
    supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage, settings: Settings
) -> None:
    job_id = submit(NOT_ACCEPTED, dataset=b"d", outputs=("sqz", "safetensors"))
    assert supervisor.work("cpu") == 1
    failed = job(job_id)
    assert (failed.state, failed.error_code, failed.error_detail) == ("failed", "not_accepted", "accuracy fell by 0.2")
    assert failed.crashed_attempts == 0
    assert failed.metrics is not None
    assert (failed.metrics["evaluation"], failed.metrics["ratio"]) == (EVALUATION, 2.0)
    contents = {made.format: storage.open(made.key).read() for made in failed.artifacts}
    assert contents == {"sqz": b"small", "safetensors": b"safetensors"}
    assert left_in_scratch(settings) == []


def test_only_the_verifying_child_may_say_so_of_a_result(
    supervisor: Supervisor, submit: Submit, job: GetJob, storage: LocalStorage
) -> None:
    """Before there is a result there is nothing that could be kept."""
    job_id = submit("error('not_accepted', 'x')")
    supervisor.work("cpu")
    failed = job(job_id)
    assert failed.state == "failed"
    assert failed.artifacts == []
    assert objects(storage) == {failed.model_key}


@pytest.mark.parametrize("how", ["canceled", "lost", "report"])
def test_a_result_that_cannot_be_kept_leaves_no_file(
    how: str,
    supervisor: Supervisor,
    submit: Submit,
    job: GetJob,
    storage: LocalStorage,
    sessions: sessionmaker[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = NOT_ACCEPTED if how != "report" else NOT_ACCEPTED.replace("compress()", "compress(report={'layers': []})")
    job_id = submit(script)
    with sessions.begin() as session:
        claim = repository.claim(session, "cpu", "me", 30)
        assert claim
    store = LocalStorage.put_file

    def put_file(self: LocalStorage, key: str, path: object) -> None:
        """At the last moment before the verdict is written down."""
        store(self, key, path)  # type: ignore[arg-type] # as it came
        with sessions.begin() as session:
            found = session.get_one(Job, job_id)
            if how == "lost":
                found.fencing_token += 1
            elif how == "canceled":
                repository.cancel(session, found)

    monkeypatch.setattr(LocalStorage, "put_file", put_file)
    supervisor.attempt(claim)
    assert objects(storage) == {job(job_id).model_key}
    assert job(job_id).artifacts == []
    expected = {"canceled": ("canceled", None), "lost": ("running", None), "report": ("failed", "internal")}[how]
    assert (job(job_id).state, job(job_id).error_code) == expected
