"""Scratch folders: one for each attempt, held by a lock as long as its supervisor lives, then swept up.

The lock is the kernel's (`flock`), so it is gone the moment the supervisor is, however it ended; whoever gets it
may remove the folder. The database has no say, which is why every machine can sweep its own folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING

from squeezer.errors import Code, SqueezerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Younger folders are left alone: their supervisor may not have locked them yet.
GRACE_SECONDS = 60.0
#: The folder beside those of the attempts that `workers.checkpoints` looks after.
CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def scratch_folder(root: Path, name: str) -> Iterator[Path]:
    """A new folder `root/name` with `input`, `output` and `tmp` in it, removed at the end."""
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for part in ("input", "output", "tmp"):
            (folder / part).mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path, grace: float = GRACE_SECONDS) -> list[Path]:
    """Remove the folders whose supervisor is dead; returns them."""
    if not root.is_dir():
        return []
    attempts = [folder for folder in root.iterdir() if folder.name != CHECKPOINTS]
    return [folder for folder in attempts if _is_old(folder, grace) and _remove_unlocked(folder)]


def _is_old(folder: Path, grace: float) -> bool:
    try:
        return time.time() - folder.stat(follow_symlinks=False).st_mtime >= grace
    except FileNotFoundError:
        return False


def _remove_unlocked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, or not a folder of ours
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def link_input(source: Path, target: Path) -> None:
    """Let `target` be the file `source` without a copy: a hard link, or a symbolic one across file systems."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        target.symlink_to(source)


def product(folder: Path, name: str) -> Path:
    """The file `output/name` that the child made.

    Raises:
        FileNotFoundError: there is none.
        SqueezerError: it is not a plain file in a plain folder. The child handles what strangers upload; were it
            ever taken over, a link in its output folder must not make us publish another file.
    """
    path = folder / "output" / name
    inside, itself = path.parent.lstat(), path.lstat()
    if not stat.S_ISDIR(inside.st_mode) or not stat.S_ISREG(itself.st_mode) or itself.st_nlink != 1:
        raise SqueezerError(Code.INTERNAL, f"what the child process left as {name} is not a plain file")
    return path
