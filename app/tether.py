"""Ties a program to its parent: `python -I -S tether.py PARENT_PID PROGRAM ARGUMENTS...`

It becomes PROGRAM, which the kernel then kills when its parent dies, also by `kill -9`.

To the kernel the parent is the *thread* that started the program, so start it from one that lives on. Processes
that PROGRAM starts are not tied; Celery ties its pool processes itself, and they tie theirs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, make sure that the parent has not died just before, and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        os.execvp(program[0], program)  # noqa: S606 - becoming that program is the point


if __name__ == "__main__":
    main()
