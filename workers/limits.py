"""What one attempt may take of the machine: memory, scratch space, processor time, and what counts as too much.

The kernel holds the limits that it can hold for a single process. What it cannot (memory that is used, space that
several files take together) the parent looks at while it listens to the child.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from squeezer.errors import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How much more than `memory` a child may ask for, in bytes: stacks of threads and heaps that are not all used.
HEADROOM = 1 << 30
#: Files that a child may have open.
OPEN_FILES = 1024
#: How often the scratch folder is measured, in seconds.
SCRATCH_SECONDS = 0.5
#: The folders of an attempt that its child writes to.
WRITTEN = ("output", "tmp", "checkpoints")


@dataclass(frozen=True)
class Limits:
    """Of one child: `memory` and `scratch` in bytes, `cpu` in seconds of all its threads together."""

    memory: int
    scratch: int
    cpu: int

    def impose(self, pid: int) -> None:
        """Have the kernel hold a child that has just been started to what the kernel can see."""
        limits = {
            resource.RLIMIT_CPU: (self.cpu, self.cpu + 10),  # first a signal by which we know it
            resource.RLIMIT_FSIZE: (self.scratch, self.scratch),
            resource.RLIMIT_CORE: (0, 0),
        }
        if not has_gpu():
            # The address space would be the wrong thing to count: it holds what is only mapped or set aside.
            limits[resource.RLIMIT_DATA] = (self.memory + HEADROOM, self.memory + HEADROOM)
        with contextlib.suppress(ProcessLookupError):
            _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
            for kind, values in (limits | {resource.RLIMIT_NOFILE: (files, files)}).items():
                resource.prlimit(pid, kind, values)
        with contextlib.suppress(OSError):  # where memory runs out all the same, the kernel takes the child first
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


class Watch:
    """Looks at a child again and again; `overrun` is what it took too much of, as a code and a sentence."""

    def __init__(self, limits: Limits, pid: int, folder: Path) -> None:
        self.overrun: tuple[Code, str] | None = None
        self._limits = limits
        self._pid = pid
        self._folder = folder
        self._next_measure = 0.0

    def look(self) -> bool:
        """Whether the child has gone too far."""
        if memory_used(self._pid) > self._limits.memory:
            self.overrun = (
                Code.OUT_OF_MEMORY,
                f"the work needs more memory than the {self._limits.memory} bytes that a job may use here "
                "(SQUEEZER_JOB_MEMORY_BYTES); upload the model in parts, or use a larger worker",
            )
        elif time.monotonic() >= self._next_measure:
            self._next_measure = time.monotonic() + SCRATCH_SECONDS
            if scratch_used(self._folder) + deleted_but_open(self._pid) > self._limits.scratch:
                self.overrun = (
                    Code.DISK_FULL,
                    f"the work needs more scratch space than the {self._limits.scratch} bytes that a job may use here "
                    "(SQUEEZER_JOB_SCRATCH_BYTES); ask for fewer outputs, or use a larger worker",
                )
        return self.overrun is not None


def has_gpu() -> bool:
    """Whether there is a GPU, whose driver sets large parts of the address space aside."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def memory_used(pid: int) -> int:
    """Bytes in memory that are a process's own, less those of files that it maps; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(lines[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem") if name in lines)


def scratch_used(folder: Path) -> int:
    """Bytes on disk of what a child writes. What is not a plain file counts as nothing, and no link is followed."""
    sizes = 0
    for name in WRITTEN:
        for place, _, files in os.walk(folder / name):
            sizes += sum(_size(os.path.join(place, file)) for file in files)  # noqa: PTH118 - os.walk gives strings
    return sizes


def deleted_but_open(pid: int) -> int:
    """Bytes on disk of files that have no name any more, and that the process holds open."""
    return sum(_size(path, follow=True, links=0) for path in _descriptors(pid))


def _descriptors(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):  # it has ended
        yield from (entry.path for entry in os.scandir(f"/proc/{pid}/fd"))


def _size(path: str, *, follow: bool = False, links: int | None = None) -> int:
    try:
        status = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - of very many files
    except OSError:  # removed meanwhile
        return 0
    counts = stat.S_ISREG(status.st_mode) and links in (None, status.st_nlink)
    return status.st_blocks * 512 if counts else 0
