"""The states of a job and the one table of its transitions; `docs/api.md` shows the same table."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Transition(NamedTuple):
    """One allowed step from state to state, and what causes it."""

    source: State
    target: State
    cause: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition(State.QUEUED, State.RUNNING, "a worker claims the job"),
    Transition(State.QUEUED, State.CANCELED, "the user cancels it before it starts"),
    Transition(State.RUNNING, State.SUCCEEDED, "the artifact is verified and stored"),
    Transition(
        State.RUNNING,
        State.FAILED,
        "the work ends with an error or a result that is not accepted, or attempts are used up",
    ),
    Transition(State.RUNNING, State.QUEUED, "the attempt is lost or crashes, and is tried again"),
    Transition(State.RUNNING, State.CANCELING, "the user cancels it while it runs"),
    Transition(State.CANCELING, State.CANCELED, "the worker stops"),
    Transition(State.CANCELING, State.SUCCEEDED, "the work was finished before the worker heard of it"),
)

#: A worker holds a lease on jobs in these states.
ACTIVE = frozenset({State.RUNNING, State.CANCELING})
#: Nothing happens any more to jobs in these states.
FINISHED = frozenset(State) - {transition.source for transition in TRANSITIONS}


def sources(target: State) -> frozenset[State]:
    """The states from which `target` may be entered."""
    return frozenset(transition.source for transition in TRANSITIONS if transition.target == target)


def allowed(source: State, target: State) -> bool:
    """Whether the table has that transition."""
    return source in sources(target)
