from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import repository
from app.jobs.models import Job
from app.jobs.states import State
from tests.workers.conftest import Submit
from workers import checkpoints

Sessions = sessionmaker[Session]
DAY = 24 * 3600


def set_state(sessions: Sessions, job_id: UUID, state: State) -> None:
    with sessions.begin() as session:
        session.get_one(Job, job_id).state = state


def test_the_next_attempt_has_what_the_last_one_left(tmp_path: Path) -> None:
    job_id = uuid4()
    first = checkpoints.take(tmp_path, job_id, 1)
    assert list(first.iterdir()) == []
    (first / "0-finetune").mkdir()
    (first / "0-finetune" / "state").write_text("epoch 3")
    second = checkpoints.take(tmp_path, job_id, 4)
    assert (second / "0-finetune" / "state").read_text() == "epoch 3"
    assert list(checkpoints.take(tmp_path, uuid4(), 5).iterdir()) == []  # another job's


def test_a_stale_attempt_neither_disturbs_nor_takes_back(tmp_path: Path) -> None:
    job_id = uuid4()
    stale = checkpoints.take(tmp_path, job_id, 1)
    (stale / "state").write_text("1")
    fresh = checkpoints.take(tmp_path, job_id, 2)
    with pytest.raises(FileNotFoundError):
        (stale / "state").write_text("too late")
    # One that claimed earlier, was stopped right then, and only now gets to its checkpoints.
    assert list(checkpoints.take(tmp_path, job_id, 1).iterdir()) == []
    assert (fresh / "state").read_text() == "1"


def test_of_several_only_the_newest_before_is_kept(tmp_path: Path) -> None:
    job_id = uuid4()
    for token in (9, 10):
        folder = tmp_path / str(job_id) / str(token)
        folder.mkdir(parents=True)
        (folder / "state").write_text(str(token))
    mine = checkpoints.take(tmp_path, job_id, 11)
    assert (mine / "state").read_text() == "10"
    assert list((tmp_path / str(job_id)).iterdir()) == [mine]


def test_a_link_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    job_id, elsewhere = uuid4(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("of somebody else")
    (tmp_path / "root" / str(job_id)).mkdir(parents=True)
    (tmp_path / "root" / str(job_id) / "1").symlink_to(elsewhere)
    assert list(checkpoints.take(tmp_path / "root", job_id, 2).iterdir()) == []
    checkpoints.remove(tmp_path / "root", job_id)
    assert (elsewhere / "secret").exists()
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize(
    ("state", "age", "kept"),
    [
        (State.QUEUED, 0, True),
        (State.QUEUED, DAY + 60, False),
        (State.RUNNING, 0, True),
        (State.RUNNING, DAY + 60, True),  # a long step
        (State.CANCELING, DAY + 60, True),
        (State.SUCCEEDED, 0, False),
        (State.FAILED, 0, False),
        (State.CANCELED, 0, False),
        (None, 0, False),
    ],
)
def test_sweep(tmp_path: Path, sessions: Sessions, submit: Submit, state: State | None, age: int, kept: bool) -> None:
    job_id = uuid4() if state is None else submit("")
    if state is not None:
        set_state(sessions, job_id, state)
    folder = checkpoints.take(tmp_path, job_id, 1)
    (folder / "deep").mkdir()
    (folder / "deep" / "state").touch()
    then = time.time() - age
    for path in (folder / "deep" / "state", folder / "deep", folder, folder.parent):
        os.utime(path, (then, then))
    assert checkpoints.sweep(tmp_path, sessions) == ([] if kept else [job_id])
    assert folder.exists() is kept


def test_the_age_is_that_of_the_newest_file(tmp_path: Path, sessions: Sessions, submit: Submit) -> None:
    job_id = submit("")
    folder = checkpoints.take(tmp_path, job_id, 1)
    (folder / "deep").mkdir()
    for path in (folder / "deep", folder, folder.parent):
        os.utime(path, (0, 0))
    (folder / "deep" / "state").touch()
    os.utime(folder / "deep", (0, 0))
    assert checkpoints.sweep(tmp_path, sessions) == []


def test_sweeping_what_is_not_there_or_not_ours(tmp_path: Path, sessions: Sessions) -> None:
    assert checkpoints.sweep(tmp_path / "never", sessions) == []
    (tmp_path / "notes").mkdir()
    assert checkpoints.sweep(tmp_path, sessions) == []
    assert (tmp_path / "notes").exists()


def test_what_an_attempt_takes_while_it_is_swept_stays_whole(
    tmp_path: Path, sessions: Sessions, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep sees an old checkpoint of a job that waits, and just then an attempt claims the job."""
    job_id = submit("")
    (checkpoints.take(tmp_path, job_id, 1) / "state").write_text("1")
    for path in (tmp_path / str(job_id)).rglob("*"):
        os.utime(path, (0, 0))
    os.utime(tmp_path / str(job_id), (0, 0))
    found: list[str] = []

    def attempt() -> None:
        with sessions.begin() as session:
            assert repository.claim(session, "cpu", "me", 30)
        found.extend(path.name for path in checkpoints.take(tmp_path, job_id, 2).iterdir())

    thread = threading.Thread(target=attempt)
    judge = checkpoints._is_done

    def slowly(folder: Path, state: State | None) -> bool:
        thread.start()
        time.sleep(0.3)  # the attempt has claimed, and waits for the lock
        return judge(folder, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_is_done", slowly)
        assert checkpoints.sweep(tmp_path, sessions) == [job_id]
    thread.join(10)
    assert found == []
    assert (tmp_path / str(job_id) / "2").is_dir()  # which the sweep has not taken from under it
    assert checkpoints.sweep(tmp_path, sessions) == []
