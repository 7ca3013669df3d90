from __future__ import annotations

import threading
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from app.db import utc_now
from app.jobs import repository
from app.jobs.models import Artifact, Job, JobStep
from app.jobs.repository import ArtifactRecord, Beat, Claim
from app.jobs.states import State
from app.storage import new_key
from app.tenants.models import LOCAL
from tests.app.conftest import REPORT, AddJob

Sessions = sessionmaker[Session]
LEASE = 30.0


def claim(sessions: Sessions, owner: str = "worker", queue: str = "cpu") -> Claim:
    with sessions.begin() as session:
        claimed = repository.claim(session, queue, owner, LEASE)
    assert claimed is not None
    return claimed


def read(sessions: Sessions, job_id: UUID) -> Job:
    with sessions(expire_on_commit=False) as session:
        job = session.get_one(Job, job_id)
        assert job.steps is not None
        return job


def cancel(sessions: Sessions, job_id: UUID) -> bool:
    with sessions.begin() as session:
        job = repository.get(session, LOCAL, job_id, lock=True)
        assert job is not None
        return repository.cancel(session, job)


def succeed(session: Session, claimed: Claim, token: int | None = None) -> bool:
    made = [ArtifactRecord("sqz", new_key(), 7, "ab" * 32)]
    return repository.succeed(session, claimed.job_id, token or claimed.token, REPORT, made)


def lose(sessions: Sessions) -> list[UUID]:
    with sessions.begin() as session:
        return repository.sweep(session, utc_now() + timedelta(seconds=LEASE + 1))


def test_claim_takes_the_oldest_and_holds_it(sessions: Sessions, add_job: AddJob) -> None:
    now = utc_now()
    newer, older = add_job(created_at=now), add_job(created_at=now - timedelta(minutes=1))
    first, second = claim(sessions, "one"), claim(sessions, "two")
    assert (first.job_id, second.job_id) == (older, newer)
    assert (first.token, first.max_seconds) == (1, 60)
    job = read(sessions, older)
    assert (job.state, job.lease_owner, job.fencing_token) == (State.RUNNING, "one", 1)
    assert job.lease_expires_at is not None
    assert timedelta(0) < job.lease_expires_at - now < timedelta(seconds=LEASE + 10)
    assert job.started_at is not None
    assert job.started_at >= now


def test_claim_leaves_other_queues_and_newer_recipes(sessions: Sessions, add_job: AddJob) -> None:
    add_job(queue="gpu")
    add_job(recipe_version=repository.RECIPE_VERSION + 1)
    with sessions.begin() as session:
        assert repository.claim(session, "cpu", "worker", LEASE) is None
    assert claim(sessions, queue="gpu")


def test_claims_at_once_get_different_jobs(sessions: Sessions, add_job: AddJob) -> None:
    jobs = {add_job() for _ in range(8)}
    barrier = threading.Barrier(8)
    claimed: list[UUID] = []

    def work() -> None:
        barrier.wait()
        claimed.append(claim(sessions).job_id)

    threads = [threading.Thread(target=work) for _ in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 8
    assert set(claimed) == jobs


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_claim_does_not_wait_for_another_one(sessions: Sessions, add_job: AddJob) -> None:
    add_job(), add_job()
    with sessions.begin() as one, sessions.begin() as two:
        first = repository.claim(one, "cpu", "one", LEASE)
        second = repository.claim(two, "cpu", "two", LEASE)  # would hit lock_timeout without SKIP LOCKED
        with sessions.begin() as three:
            assert repository.claim(three, "cpu", "three", LEASE) is None
    assert first is not None
    assert second is not None
    assert first.job_id != second.job_id


def test_a_stale_token_cannot_write(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    stale = claim(sessions, "one")
    assert lose(sessions) == [job_id]
    fresh = claim(sessions, "two")
    assert (fresh.job_id, fresh.token) == (job_id, 2)
    with sessions.begin() as session:
        assert repository.heartbeat(session, job_id, stale.token, LEASE) == Beat.LOST
        assert not repository.progress(session, job_id, stale.token, "prune", 0.5, 1.0, "fc")
        assert not succeed(session, stale)
        assert not repository.fail(session, job_id, stale.token, "crashed", "no")
        assert not repository.cancel_done(session, job_id, stale.token)
        assert repository.give_back(session, job_id, stale.token, "crashed", "no") is None
    job = read(sessions, job_id)
    assert (job.state, job.lease_owner, job.progress, job.artifacts) == (State.RUNNING, "two", 0.0, [])
    with sessions.begin() as session:
        assert repository.heartbeat(session, job_id, fresh.token, LEASE) == Beat.OK
        assert succeed(session, fresh)


def test_nothing_is_written_to_a_finished_job(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    with sessions.begin() as session:
        assert succeed(session, claimed)
    with sessions.begin() as session:
        assert not succeed(session, claimed)
        assert not repository.fail(session, job_id, claimed.token, "crashed", "no")
        assert repository.heartbeat(session, job_id, claimed.token, LEASE) == Beat.LOST
        assert repository.give_back(session, job_id, claimed.token, "lost", "no") is None
    job = read(sessions, job_id)
    assert (job.state, len(job.artifacts), len(job.steps)) == (State.SUCCEEDED, 1, 1)


def test_success_keeps_the_report(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    with sessions.begin() as session:
        assert repository.progress(session, job_id, claimed.token, "code", 0.9, 2.0, "fc")
        assert succeed(session, claimed)
    job = read(sessions, job_id)
    assert job.metrics == {"headline": "4 times smaller", "ratio": 4.0}
    assert (job.layers, job.ledger) == (REPORT["layers"], REPORT["ledger"])
    assert [(s.method, s.metrics) for s in job.steps] == [("magnitude_prune", {"tensors": 2, "seconds": 0.5})]
    assert (job.progress, job.eta_seconds, job.layer, job.lease_owner) == (1.0, None, None, None)
    assert job.finished_at is not None


def test_heartbeat_renews_the_lease(sessions: Sessions, add_job: AddJob) -> None:
    add_job()
    claimed = claim(sessions)
    with sessions.begin() as session:
        assert repository.heartbeat(session, claimed.job_id, claimed.token, 1000) == Beat.OK
    assert lose(sessions) == []
    with sessions.begin() as session:
        assert repository.sweep(session, utc_now() + timedelta(seconds=1001)) == [claimed.job_id]


def test_progress_is_kept_within_bounds(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    with sessions.begin() as session:
        assert repository.progress(session, job_id, claimed.token, "pr\0une", 1.5, None, "l\ud800")
    job = read(sessions, job_id)
    assert (job.progress, job.stage, job.layer) == (1.0, "pr\N{REPLACEMENT CHARACTER}une", "l?")


def test_an_expired_lease_is_swept_and_the_job_waits_again(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claim(sessions, "gone")
    with sessions.begin() as session:
        assert repository.sweep(session, utc_now()) == []  # the lease still holds
        assert repository.waiting_queues(session) == set()
    assert lose(sessions) == [job_id]
    job = read(sessions, job_id)
    assert (job.state, job.lost_attempts, job.error_code) == (State.QUEUED, 1, "lost")
    assert "gone" in (job.error_detail or "")
    with sessions.begin() as session:
        assert repository.waiting_queues(session) == {"cpu"}


@pytest.mark.parametrize(("reason", "cap"), [("crashed", 2), ("lost", 5)])
def test_when_attempts_are_used_up_the_last_error_stays(
    sessions: Sessions, add_job: AddJob, reason: str, cap: int
) -> None:
    job_id = add_job()
    for attempt in range(1, cap + 1):
        claimed = claim(sessions)
        with sessions.begin() as session:
            state = repository.give_back(session, job_id, claimed.token, reason, f"attempt {attempt}")
        assert state == (State.QUEUED if attempt < cap else State.FAILED)
    job = read(sessions, job_id)
    assert (job.state, job.error_code, job.error_detail) == (State.FAILED, reason, f"attempt {cap}")
    assert job.finished_at is not None


def test_a_worker_that_is_shut_down_uses_no_attempt_up(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job(max_crashed_attempts=1, max_lost_attempts=1)
    for _ in range(3):
        claimed = claim(sessions)
        with sessions.begin() as session:
            state = repository.give_back(session, job_id, claimed.token, "returned", "x")
        assert state == State.QUEUED
    job = read(sessions, job_id)
    assert (job.crashed_attempts, job.lost_attempts, job.error_code) == (0, 0, None)


def test_the_two_caps_are_counted_apart(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job(max_crashed_attempts=2, max_lost_attempts=2)
    for reason in ("crashed", "lost"):
        claimed = claim(sessions)
        with sessions.begin() as session:
            assert repository.give_back(session, job_id, claimed.token, reason, "x") == State.QUEUED


def test_a_queued_job_is_canceled_at_once(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    assert cancel(sessions, job_id)
    assert cancel(sessions, job_id)
    assert read(sessions, job_id).state == State.CANCELED
    with sessions.begin() as session:
        assert repository.claim(session, "cpu", "worker", LEASE) is None


@pytest.mark.parametrize("ending", ["cancel_done", "fail", "give_back", "sweep"])
def test_a_running_job_is_canceled_by_its_worker(sessions: Sessions, add_job: AddJob, ending: str) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    with sessions.begin() as session:
        assert not repository.cancel_done(session, job_id, claimed.token)  # nobody has asked
    assert cancel(sessions, job_id)
    with sessions.begin() as session:
        assert repository.heartbeat(session, job_id, claimed.token, LEASE) == Beat.CANCEL
        if ending == "cancel_done":
            assert repository.cancel_done(session, job_id, claimed.token)
        elif ending == "fail":
            assert repository.fail(session, job_id, claimed.token, "truncated_file", "no")
        elif ending == "give_back":
            assert repository.give_back(session, job_id, claimed.token, "crashed", "no") == State.CANCELED
        else:
            assert repository.sweep(session, utc_now() + timedelta(seconds=LEASE + 1)) == [job_id]
    job = read(sessions, job_id)
    assert job.state == State.CANCELED
    assert job.finished_at is not None


def test_work_that_was_finished_wins_over_the_request_to_cancel(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    assert cancel(sessions, job_id)
    with sessions.begin() as session:
        assert succeed(session, claimed)
    assert read(sessions, job_id).state == State.SUCCEEDED
    assert not cancel(sessions, job_id)


def test_a_cancel_that_meets_an_open_success_waits_and_is_refused(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    outcome: list[bool] = []
    with sessions.begin() as session:
        assert succeed(session, claimed)
        thread = threading.Thread(target=lambda: outcome.append(cancel(sessions, job_id)))
        thread.start()
        thread.join(0.2)
        assert outcome == []
    thread.join(10)
    assert outcome == [False]
    assert read(sessions, job_id).state == State.SUCCEEDED


def test_failure_keeps_code_and_detail(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    with sessions.begin() as session:
        assert repository.fail(session, job_id, claimed.token, "truncated_file", "x" * 10_000)
    job = read(sessions, job_id)
    assert (job.state, job.error_code, len(job.error_detail or "")) == (State.FAILED, "truncated_file", 4000)


def test_a_failure_may_keep_its_result(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    made = [ArtifactRecord("sqz", new_key(), 7, "ab" * 32)]
    with sessions.begin() as session:
        state = repository.fail(session, job_id, claimed.token, "not_accepted", "fell by 0.2", REPORT, made)
    assert state == State.FAILED
    job = read(sessions, job_id)
    assert (job.state, job.error_code, job.error_detail) == (State.FAILED, "not_accepted", "fell by 0.2")
    assert job.metrics == {"headline": "4 times smaller", "ratio": 4.0}
    assert (job.layers, job.ledger) == (REPORT["layers"], REPORT["ledger"])
    assert [(each.method, each.metrics["tensors"]) for each in job.steps] == [("magnitude_prune", 2)]
    assert [each.key for each in job.artifacts] == [made[0].key]


@pytest.mark.parametrize("how", ["canceled", "stale"])
def test_a_result_that_comes_too_late_with_a_failure_is_not_kept(sessions: Sessions, add_job: AddJob, how: str) -> None:
    job_id = add_job()
    claimed = claim(sessions)
    made = [ArtifactRecord("sqz", new_key(), 7, "ab" * 32)]
    if how == "canceled":
        cancel(sessions, job_id)
    else:
        lose(sessions)
    with sessions.begin() as session:
        state = repository.fail(session, job_id, claimed.token, "not_accepted", "x", REPORT, made)
    job = read(sessions, job_id)
    expected = (State.CANCELED, State.CANCELED) if how == "canceled" else (None, State.QUEUED)
    assert (state, job.state) == expected
    assert (job.artifacts, job.steps, job.metrics, job.layers) == ([], [], None, None)


def test_the_states_of_the_jobs_that_there_are(sessions: Sessions, add_job: AddJob) -> None:
    first, second = add_job(), add_job()
    claimed = claim(sessions).job_id
    with sessions() as session:
        states = repository.states(session, [first, second, uuid4()])
        assert repository.states(session, []) == {}
    assert states == dict.fromkeys([first, second], State.QUEUED) | {claimed: State.RUNNING}


def test_pages_are_complete_and_newest_first(sessions: Sessions, add_job: AddJob) -> None:
    now = utc_now()
    # Jobs of the same moment are told apart by their ids.
    jobs = [add_job(created_at=now - timedelta(seconds=second // 2)) for second in range(7)]
    seen: list[Job] = []
    with sessions() as session:
        while page := repository.page(
            session, LOCAL, limit=3, before=(seen[-1].created_at, seen[-1].id) if seen else None
        ):
            seen += page
        assert {job.id for job in seen} == set(jobs)
        assert len(seen) == 7
        moments = [job.created_at for job in seen]
        assert moments == sorted(moments, reverse=True)
        assert repository.page(session, LOCAL, limit=3, state=State.FAILED) == []


def test_removing_a_job_removes_what_hangs_on_it(sessions: Sessions, add_job: AddJob) -> None:
    job_id = add_job(model_key="1" * 32, dataset_key="3" * 32, student_key="4" * 32)
    other = add_job(model_key="2" * 32)
    claimed = claim(sessions)
    assert (claimed.job_id, claimed.dataset_key, claimed.student_key) == (job_id, "3" * 32, "4" * 32)
    with sessions.begin() as session:
        assert succeed(session, claimed)
    with sessions.begin() as session:
        job = repository.get(session, LOCAL, claimed.job_id, lock=True)
        assert job is not None
        made = job.artifacts[0].key
        keys = repository.keys_in_use(session)
        assert keys == {"1" * 32, "2" * 32, "3" * 32, "4" * 32, made}
        assert set(repository.remove(session, job)) == {"1" * 32, "3" * 32, "4" * 32, made}
    with sessions.begin() as session:
        for table in (Artifact, JobStep):
            assert session.scalar(select(func.count()).select_from(table)) == 0
        left = session.get_one(Job, other)
        assert repository.keys_in_use(session) == {left.model_key}
        assert repository.get(session, LOCAL, uuid4()) is None


def test_what_one_tenant_owns_does_not_exist_for_another(sessions: sessionmaker[Session], add_job: AddJob) -> None:
    one, other = uuid4(), uuid4()
    theirs, ours = add_job(tenant_id=one), add_job(tenant_id=other)
    with sessions() as session:
        assert [job.id for job in repository.page(session, one, limit=9)] == [theirs]
        assert repository.get(session, one, theirs) is not None
        assert repository.get(session, one, ours) is None
        assert repository.get(session, LOCAL, theirs, lock=True) is None
