"""The sandbox of every process that opens an upload: what it cannot do any more once it has entered.

- *No new privileges, no capabilities*: nothing makes this process more than it is.
- *Landlock*: the job's own folder, Python and the libraries; no other file of the machine (`landlock.py`, `paths.py`).
- *A filter of system calls*: no sockets, no other programs or processes, no signals to others (`seccomp.py`).

Linux on x86_64 and aarch64, without a dependency and without being root. Limits of memory, time and files are the
parent's to set. `docs/security.md` describes all of it.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from squeezer.errors import Code, SqueezerError
from squeezer.sandbox import kernel, landlock, paths, seccomp
from squeezer.sandbox.syscalls import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class SandboxError(SqueezerError):
    """The sandbox does not hold, so nothing that a stranger sent may be opened."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(
            Code.INTERNAL,
            f"the sandbox for uploads is not complete on this machine: {'; '.join(reasons)}. Mend that, or set "
            "SQUEEZER_SANDBOX=best_effort to go on with what is left, or =off where all uploads are your own",
        )


def missing() -> list[str]:
    """The layers that this machine does not have, in words; none where the sandbox can be entered whole."""
    machine = kernel.architecture()
    reasons = []
    if machine not in ARCHITECTURES:
        reasons.append(f"there is no filter of system calls for {machine}, only for {' and '.join(ARCHITECTURES)}")
    elif not seccomp.available(machine):
        reasons.append("the kernel takes no filter of system calls (seccomp)")
    if not landlock.version():
        reasons.append(
            "the kernel offers no Landlock (it needs Linux 5.19, CONFIG_SECURITY_LANDLOCK, landlock in the boot option "
            "lsm=, and a container whose own filter lets the calls through)"
        )
    return reasons


def enter(folder: Path, *, required: bool = True) -> None:
    """Confine this process, for good, to the job in `folder`. Call it before there is a second thread.

    In `folder`, `input` may be read, and `output`, `checkpoints` and `tmp` be written.

    Args:
        folder: the job's.
        required: refuse where a layer is missing; else enter what there is.

    Raises:
        SandboxError: a layer is missing and `required`, or the kernel refuses one.
    """
    if required and (reasons := missing()):
        raise SandboxError(reasons)
    if kernel.threads() > 1:
        raise SandboxError(["a thread was started before, and Landlock would leave it outside"])
    machine = kernel.architecture()
    try:
        kernel.forbid_new_privileges()
        kernel.drop_capabilities()
        if abi := landlock.version():
            landlock.restrict(paths.allowed(folder), abi)
        if machine in ARCHITECTURES and seccomp.available(machine):
            seccomp.install(machine)
    except OSError as error:
        raise SandboxError([f"the kernel refused a part of it ({error.strerror})"]) from error


def prove() -> None:
    """Try to get out of the sandbox that this process has entered.

    Raises:
        SandboxError: with what was possible.
    """
    attempts: dict[str, Callable[[], object]] = {
        "read files of the machine": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
        "see other processes": lambda: os.close(os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY)),
        "signal other processes": lambda: os.kill(os.getppid(), 0),
        "start processes": lambda: os.fork() or os._exit(0),
        "open sockets": lambda: socket.socket().close(),
    }
    if possible := [what for what, attempt in attempts.items() if not _is_refused(attempt)]:
        raise SandboxError([f"a process in it can {what}" for what in possible])


def _is_refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False
