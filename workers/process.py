"""One child process: started in a session of its own, listened to line by line, and never left behind.

What the child says is not trusted: a line has a size limit, what is not an event is dropped, codes are looked up,
and texts are cut. Its descendants end with it, for its whole process group is killed before it is reaped.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, TYPE_CHECKING

from squeezer.errors import Code
from workers.limits import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from workers.limits import Limits

logger = logging.getLogger(__name__)

#: Longest line of events or of the log that is kept, in bytes.
MAX_LINE = 64 * 1024
#: Most of a child's stderr that reaches the worker's log, in bytes.
MAX_LOG = 256 * 1024
#: How much of the end of stderr is quoted when the child dies, in bytes.
TAIL = 1000
#: Longest text taken over from an event, in characters.
MAX_TEXT = 2000
#: How often a silent child's end and the caller's wish to stop are looked at, in seconds.
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a child has come: `progress` from 0 to 1, `eta_seconds` and `layer` where it knows them."""

    stage: str
    progress: float
    eta_seconds: float | None
    layer: str | None


class Ending(StrEnum):
    """How a child ended."""

    DONE = "done"
    ERROR = "error"
    DIED = "died"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """The end of a child: `code` and `detail` say why where it was not `DONE`."""

    ending: Ending
    code: Code = Code.INTERNAL
    detail: str = ""


class Lines:
    """Cuts a stream of bytes into lines; of a line longer than the limit, only its beginning is kept."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their line ends."""
        *complete, rest = data.split(b"\n")
        for part in complete:
            yield (self._pending + part)[: self._limit]
            self._pending = b""
        self._pending = (self._pending + rest)[: self._limit]


@dataclass
class _Listener:
    """What a child has said so far."""

    on_progress: Callable[[Progress], None]
    name: str
    final: Outcome | None = None
    tail: bytes = b""
    _events: Lines = field(default_factory=Lines)
    _log: Lines = field(default_factory=Lines)
    _log_left: int = MAX_LOG

    def stdout(self, data: bytes) -> None:
        for line in self._events.feed(data):
            self._event(line)

    def stderr(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-TAIL:]
        for line in self._log.feed(data):
            if self._log_left > 0:
                logger.info("%s: %s", self.name, line[: self._log_left].decode("utf-8", "replace"))
                self._log_left -= len(line) + 1
                if self._log_left <= 0:
                    logger.warning("%s: says too much; the rest of its log is dropped", self.name)

    def _event(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
            if kind == "progress":
                self.on_progress(_progress(event))
            elif kind == "done":
                self.final = Outcome(Ending.DONE)
            elif kind == "error":
                detail = str(event.get("detail", ""))[:MAX_TEXT]
                self.final = Outcome(Ending.ERROR, _code(event.get("code")), detail)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            logger.warning("%s: not an event: %r", self.name, line[:200])


def _progress(event: Mapping[str, object]) -> Progress:
    eta, layer = event.get("eta_seconds"), event.get("layer")
    return Progress(
        stage=str(event["stage"])[:100],
        progress=min(1.0, max(0.0, _number(event["progress"]))),
        eta_seconds=None if eta is None else max(0.0, _number(eta)),
        layer=None if layer is None else str(layer)[:MAX_TEXT],
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not abs(value) < 1e9:  # also refuses NaN
        raise ValueError(f"not a sensible number: {value!r}")
    return float(value)


def _code(value: object) -> Code:
    try:
        return Code(str(value))
    except ValueError:
        return Code.INTERNAL


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    limits: Limits | None = None,
    grace: float = 1.0,
) -> Outcome:
    """Run a child to its end, or until `stop` says so; nothing of its process group is alive afterwards.

    The child gets a pipe as stdin that stays open as long as this process lives, so it can notice that it was
    left alone. Call this from a thread that lives on: to the kernel, a "parent death" is the death of the thread
    that started the child.

    Args:
        command: the program and its arguments.
        env: the child's whole environment.
        cwd: its working directory.
        stop: asked every `POLL_SECONDS`.
        on_progress: called for every progress event, in this thread.
        limits: what it may take of the machine; a child that takes more is killed, and that is its outcome's error.
        grace: seconds between SIGTERM and SIGKILL for a child that is stopped.
    """
    process = subprocess.Popen(  # noqa: S603 - the command is ours, the upload is only ever a file it reads
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    listener = _Listener(on_progress, f"child {process.pid}")
    watch = Watch(limits, process.pid, cwd) if limits else None
    stopped = True  # also where `on_progress` raises
    try:
        if limits:
            limits.impose(process.pid)
        stopped = _follow(process, listener, lambda: stop() or (watch is not None and watch.look()))
    finally:
        _end_group(process, grace if stopped and not (watch and watch.overrun) else 0.0)
    if watch and watch.overrun:
        return Outcome(Ending.ERROR, *watch.overrun)
    if stopped:
        return Outcome(Ending.STOPPED)
    return _outcome(process.returncode, listener)


def _follow(process: subprocess.Popen[bytes], listener: _Listener, stop: Callable[[], bool]) -> bool:
    """Listen until the child has ended; True where it has not and is to be stopped."""
    assert process.stdout  # noqa: S101 - tells mypy what PIPE implies
    assert process.stderr  # noqa: S101 - likewise
    with selectors.DefaultSelector() as selector:
        for stream, hear in ((process.stdout, listener.stdout), (process.stderr, listener.stderr)):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, hear)
        while not stop():
            ended = _has_ended(process)
            for key, _ in selector.select(0 if ended else POLL_SECONDS):
                if not _read(key.fileobj, key.data, chunks=16 if ended else 1):  # type: ignore[arg-type] # our streams
                    selector.unregister(key.fileobj)
            if ended:
                return False
    return True


def _read(stream: IO[bytes], hear: Callable[[bytes], None], chunks: int) -> bool:
    """Hear what has arrived, at most so many chunks of it; False at the end of the stream."""
    for _ in range(chunks):
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        hear(data)
    return True


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # Looked at without reaping: as long as its leader is a zombie, nobody else can get the group's number.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    deadline = time.monotonic() + grace
    if not _has_ended(process):
        os.killpg(process.pid, signal.SIGTERM)
    while not _has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()


def _outcome(returncode: int, listener: _Listener) -> Outcome:
    final = listener.final
    if final and (final.ending, returncode) in {(Ending.DONE, 0), (Ending.ERROR, 1)}:
        return final
    if returncode == -signal.SIGXCPU:
        detail = "the work took more processor time than max_seconds allows its threads; raise it, or ask for less"
        return Outcome(Ending.ERROR, Code.DEADLINE_EXCEEDED, detail)
    said = " ".join(listener.tail.decode("utf-8", "replace").split())
    detail = _cause_of_death(returncode) + (f"; its last words: {said}" if said else "")
    return Outcome(Ending.DIED, Code.CRASHED, detail)


def _cause_of_death(returncode: int) -> str:
    if returncode == -signal.SIGKILL:
        return "the process was killed (SIGKILL), most likely because the machine ran out of memory"
    if returncode < 0:
        return f"the process died of {signal.Signals(-returncode).name}"
    return f"the process ended with status {returncode} without saying how it went"
