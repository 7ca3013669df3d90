from __future__ import annotations

import re
from pathlib import Path

from app.jobs.states import ACTIVE, FINISHED, TRANSITIONS, State, allowed, sources

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_docs_show_the_same_table() -> None:
    row = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (.+) \|$", re.MULTILINE)
    documented = row.findall(DOCS.read_text("utf-8").partition("## States")[2].partition("\n## ")[0])
    assert documented == [(source.value, target.value, cause) for source, target, cause in TRANSITIONS]


def test_finished_states_lead_nowhere() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELED} == FINISHED
    assert not ACTIVE & FINISHED


def test_every_state_can_be_reached_from_queued() -> None:
    reached = {State.QUEUED}
    for _ in State:
        reached |= {t.target for t in TRANSITIONS if t.source in reached}
    assert reached == set(State)


def test_a_running_job_must_pass_canceling() -> None:
    assert not allowed(State.RUNNING, State.CANCELED)
    assert sources(State.CANCELED) == {State.QUEUED, State.CANCELING}
