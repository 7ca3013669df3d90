"""The service while its parts are killed: `python -m benchmarks.chaos [--jobs 200] [--kills 30]`.

Two API processes, three workers, a sweeper, a PostgreSQL and a Redis of its own. While clients post jobs, one part
after the other dies by SIGKILL at a random moment and is started again. Then every job that was accepted must have
succeeded once, every artifact must decode to the model that was sent, and after one sweep the storage must hold nothing
that no row names. PostgreSQL commits synchronously and does not sync its files: it is the process that dies, not the
machine.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.chaos_clients import Clients, Sent
from benchmarks.chaos_parts import KILLS, Parts
from benchmarks.common import Goal, Outcome, at_least, at_most, finish, parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

#: Between two kills, in seconds: at least, and on average that much more.
_PAUSE, _MORE = 2.0, 4.0
#: Jobs may take so long after the last kill, in seconds, each.
_PATIENCE = 15.0
#: Between two looks at the jobs that are left, in seconds.
_LOOK = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    given = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="squeezer-chaos-") as folder, Parts(Path(folder)) as parts:
        outcome = run(parts, given.jobs, given.kills, random.Random(given.seed))  # noqa: S311 - not a secret
    return finish(outcome, given)


def _parser() -> argparse.ArgumentParser:
    result = parser(__doc__ or "")
    result.add_argument("--jobs", type=int, default=200, metavar="N", help="jobs that are posted")
    result.add_argument("--kills", type=int, default=30, metavar="N", help="parts that are killed meanwhile")
    result.add_argument("--seed", type=int, default=0, metavar="N", help="decides what is killed when")
    return result


def run(parts: Parts, jobs: int, kills: int, chance: random.Random) -> Outcome:
    """Post jobs and kill parts, wait for the jobs, and look at what is left."""
    began = time.monotonic()
    with Clients(parts.urls, jobs) as clients:
        killed = _kill(parts, clients, _order(kills, chance), chance)
        while not clients.all_sent:
            parts.look_after()
    sent = clients.sent
    deadline = time.monotonic() + _PATIENCE * jobs
    while (waiting := parts.unfinished()) and time.monotonic() < deadline:
        _say(f"{len(sent) - waiting} of {len(sent)} jobs have ended")
        parts.look_after(_LOOK)
    return _outcome(parts, sent, jobs, kills, killed, time.monotonic() - began)


def _order(kills: int, chance: random.Random) -> Iterator[str]:
    """Every kind of kill as often as every other, in random order."""
    rounds = chain.from_iterable(chance.sample(list(KILLS), len(KILLS)) for _ in repeat(None))
    return (next(rounds) for _ in range(kills))


def _kill(parts: Parts, clients: Clients, order: Iterator[str], chance: random.Random) -> Counter[str]:
    killed: Counter[str] = Counter()
    for kind in order:
        parts.look_after(_PAUSE + chance.expovariate(1 / _MORE))
        # Between two jobs there is no process of a job to be killed.
        while not parts.kill(kind, chance):
            parts.look_after()
        killed[kind] += 1
        _say(f"{len(clients.sent)} jobs accepted, {killed.total()} kills: {kind}")
    return killed


def _outcome(parts: Parts, sent: list[Sent], jobs: int, kills: int, killed: Counter[str], seconds: float) -> Outcome:
    found = parts.jobs()
    states = Counter(job["state"] for job in found.values())
    verified = sum(_is_right(parts, each, found[each.job_id]) for each in sent if each.job_id in found)
    left = parts.leftovers()
    counts: dict[str, Any] = {
        "jobs posted": jobs,
        "accepted": len(sent),
        "in the database": len(found),
        **{state: states[state] for state in ("succeeded", "failed", "canceled", "queued", "running")},
        "attempts": sum(job["attempts"] for job in found.values()),
        "artifacts that decode to what was sent": verified,
        "kills": killed.total(),
        "repeated posts": sum(each.tries - 1 for each in sent),
        "left over": len(left),
        "seconds": round(seconds, 1),
    }
    rows = [{"what": what, "count": count} for what, count in counts.items()]
    notes = [", ".join(f"{count} times {kind}" for kind, count in sorted(killed.items())), *left[:10]]
    notes += [f"job {key}: {job['error']}" for key, job in found.items() if job["state"] != "succeeded"][:10]
    goals = [
        at_least("accepted", len(sent), jobs, "jobs"),
        Goal("one row for each", set(found) == {each.job_id for each in sent}, f"{len(found)} rows"),
        at_least("succeeded", states["succeeded"], jobs, "jobs"),
        at_least("verified", verified, jobs, "artifacts"),
        at_least("kills", killed.total(), kills, "kills"),
        at_most("left over after one sweep", len(left), 0, "files"),
    ]
    return Outcome("Jobs while parts of the service are killed", rows, notes, goals)


def _is_right(parts: Parts, sent: Sent, job: dict[str, Any]) -> bool:
    """Whether a job has one artifact, and that decodes to what was sent."""
    return len(job["artifacts"]) == 1 and sent.decodes(parts.download(job))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
