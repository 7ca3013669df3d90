"""A folder of files, wherever it lies: on disk, or (`zipped.py`) in a zip."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Protocol

from squeezer.errors import Code, ModelError
from squeezer.model import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: A folder of one model has some dozens of files; more are a mistake or an attack.
MAX_FILES = 10_000


class Folder(Protocol):
    """Files by relative path (with `/`, always safe to join)."""

    @property
    def input_bytes(self) -> int:
        """The size of the upload."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Each file's size in bytes."""
        ...

    @property
    def dropped(self) -> list[Dropped]:
        """What lies in the folder and is no file of the model."""
        ...

    def locate(self, path: str) -> tuple[Path, int, int]:
        """Where a file's bytes can be read: a file on disk, the position in it, and the length."""
        ...

    def as_file(self, path: str) -> Path:
        """The file as one of its own on disk."""
        ...

    def read_file(self, path: str) -> bytes:
        """The whole content of a (small) file."""
        ...

    def close(self) -> None:
        """Release files, and remove what was unpacked."""
        ...


class LocalFolder:
    """A folder on disk, or only the files `names` of it.

    Links to files are followed: the cache of Hugging Face is made of them.
    """

    def __init__(self, root: Path, names: list[str] | None = None) -> None:
        self._root = root
        self.dropped: list[Dropped] = []
        self.sizes: dict[str, int] = {}
        for name in _walk(root) if names is None else names:
            self._add(name)
        self.input_bytes = sum(self.sizes.values())

    def _add(self, name: str) -> None:
        path = self._root / name
        if is_clutter(name):
            self.dropped.append(Dropped(name, CLUTTER))
        elif flaw := path_flaw(name):
            self.dropped.append(Dropped(repr(name), f"its path {flaw}"))
        elif not path.is_file():
            self.dropped.append(Dropped(name, "not a file"))
        else:
            self.sizes[name] = path.stat().st_size
        if len(self.sizes) + len(self.dropped) > MAX_FILES:
            raise too_many_files()

    def locate(self, path: str) -> tuple[Path, int, int]:
        """The file itself."""
        return self.as_file(path), 0, self.sizes[path]

    def as_file(self, path: str) -> Path:
        """The file itself."""
        if path not in self.sizes:
            raise KeyError(path)
        return self._root / path

    def read_file(self, path: str) -> bytes:
        """The file's content."""
        return self.as_file(path).read_bytes()

    def close(self) -> None:
        """Nothing to release."""


CLUTTER = "not part of a model"


def is_clutter(path: str) -> bool:
    """Whether this is something that version control, caches or desktops leave in folders."""
    return any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in path.split("/"))


def path_flaw(path: str) -> str | None:
    """Why joining this relative path to a folder could be unsafe, or None."""
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute"
    if "\\" in path:
        return "contains a backslash"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not Unicode"
    if re.search(r"[\x00-\x1f\x7f]", path):
        return "contains control characters"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "contains '..', '.' or an empty part"
    if len(encoded) > 1024 or max(len(part.encode()) for part in path.split("/")) > 255:
        return "is too long"
    return None


def too_many_files() -> ModelError:
    """The error for a folder that cannot be one model."""
    return ModelError(
        Code.INVALID_ARCHIVE,
        f"There are more than {MAX_FILES} files in this folder; give the folder of one model.",
    )


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all files, sorted; folders that are clutter are named and not entered."""
    for folder, folders, files in os.walk(root):
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        yield from (prefix + name for name in sorted([*files, *filter(is_clutter, folders)]))
        folders[:] = sorted(name for name in folders if not is_clutter(name))
