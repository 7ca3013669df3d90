"""How a worker that is to shut down tells its pool processes, so that they hand back what they are at.

A pipe made before the pool forks: the main process writes one byte that nobody reads, so every pool process
finds the pipe readable from then on. (Signals are Celery's own, and a shared event can be left locked by a process
that is killed.)
"""

from __future__ import annotations

import os
import select

_READ, _WRITE = os.pipe()


def start() -> None:
    """Begin to drain; safe in a signal handler, and once is enough."""
    os.write(_WRITE, b"!")


def draining() -> bool:
    """Whether this worker is to shut down."""
    return bool(select.select([_READ], [], [], 0)[0])
