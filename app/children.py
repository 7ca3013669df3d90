"""The processes of the embedded service: started tied to this one, restarted when they die, stopped in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parent.parent
#: A log that is larger when its program starts is set aside, replacing the one before.
_MAX_LOG_BYTES = 20 << 20
#: Seconds before a program that died is started again: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: A program that lived longer than this has not failed to start: the pauses begin anew.
_STEADY_SECONDS = 60.0


def tethered(command: Sequence[str]) -> list[str]:
    """The command that runs `command` as a child of this process which dies with the calling thread."""
    tether = Path(__file__).with_name("tether.py")
    return [sys.executable, "-I", "-S", str(tether), str(os.getpid()), *command]


@dataclass(frozen=True)
class Program:
    """A command, the environment it runs in, and the descriptors that it inherits."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)  # may hold a password of the database
    descriptors: Sequence[int] = ()


@dataclass
class _Life:
    """A program and the process that runs it now."""

    program: Program
    process: subprocess.Popen[bytes]
    started: float
    pause: float = _FIRST_PAUSE
    restart_at: float | None = None


class Children:
    """All of them. Use it from the main thread: the kernel kills a child when the thread that started it ends."""

    def __init__(self, logs: Path, say: Callable[[str], None]) -> None:
        """`logs` is the folder of their logs; `say` tells the user when one had to be started again."""
        self._logs = logs
        self._say = say
        self._lives: dict[str, _Life] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self._logs / f"{name}.log"

    def start(self, program: Program) -> None:
        """Start a program; it is looked after from now on."""
        self._lives[program.name] = _Life(program, self._launch(program), time.monotonic())

    def dead(self) -> str | None:
        """The name of a program that does not run, if there is one."""
        return next((name for name, life in self._lives.items() if life.process.poll() is not None), None)

    def look_after(self) -> None:
        """Start again what has died, at growing intervals where it keeps dying."""
        for name, life in self._lives.items():
            status = life.process.poll()
            if status is None:
                continue
            now = time.monotonic()
            if life.restart_at is None:
                if now - life.started > _STEADY_SECONDS:
                    life.pause = _FIRST_PAUSE
                life.restart_at = now + life.pause
                life.pause = min(2 * life.pause, _LONGEST_PAUSE)
                self._say(f"{name} {_describe(status)} and is started again; its log is {self.log(name)}")
            elif now >= life.restart_at:
                life.process, life.started, life.restart_at = self._launch(life.program), now, None

    def stop(self, names: Sequence[str], patience: float) -> None:
        """Ask programs to end, and kill those that have not within `patience` seconds."""
        lives = [self._lives.pop(name) for name in names if name in self._lives]
        for life in lives:
            life.process.terminate()
        deadline = time.monotonic() + patience
        for life in lives:
            with contextlib.suppress(subprocess.TimeoutExpired):
                life.process.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):  # also what is left of its group
                os.killpg(life.process.pid, signal.SIGKILL)
            life.process.wait()

    def _launch(self, program: Program) -> subprocess.Popen[bytes]:
        log = self.log(program.name)
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own programs
                tethered(program.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=dict(program.environment),
                pass_fds=program.descriptors,
                start_new_session=True,  # an interrupt from the keyboard is for us alone; we stop them in order
            )


def _describe(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
