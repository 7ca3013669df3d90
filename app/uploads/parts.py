"""The parts of the form of `POST /jobs`, and what takes each in: files into storage, the spec into memory."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from starlette.concurrency import run_in_threadpool

from app import errors
from app.errors import Problem
from squeezer.errors import RecipeError
from squeezer.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.storage import Writer

#: The parts that are files, and how a sentence calls them.
FILES = {"model": "the model", "dataset": "the data set", "student": "the student"}
MAX_SPEC_BYTES = 1_000_000
#: Bytes of a file that are collected before a thread hashes and writes them.
_BLOCK_BYTES = 1 << 20
_MAX_FILE_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class StoredFile:
    """A file that was taken in and now lies in storage under `key`; `file_name` is only to be shown."""

    file_name: str
    key: str
    bytes: int
    sha256: str


class FilePart:
    """The part of a file: written and hashed in blocks, by a thread."""

    def __init__(self, name: str, file_name: str, key: str, writer: Writer, max_bytes: int) -> None:
        self.key = key
        self.writer = writer
        self._name = name
        self._file_name = _display_name(file_name) or name
        self._bytes = 0
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._block = bytearray()

    async def data(self, data: bytes) -> None:
        """Take more of it in."""
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            too_large({self._name: self._max_bytes})
        self._block += data
        if len(self._block) >= _BLOCK_BYTES:
            await self._flush()

    async def end(self) -> None:
        """Hash and write what is left."""
        if self._bytes == 0:
            raise Problem(errors.EMPTY_FILE, f"{FILES[self._name]} is empty; check that the upload read the right file")
        await self._flush()

    def stored(self) -> StoredFile:
        """The file as it lies in storage once the writer has committed."""
        return StoredFile(self._file_name, self.key, self._bytes, self._digest.hexdigest())

    async def _flush(self) -> None:
        await run_in_threadpool(self._store, self._block)
        self._block.clear()

    def _store(self, block: bytearray) -> None:
        self._digest.update(block)
        self.writer.write(block)


class SpecPart:
    """The part `spec`: small, kept, and validated when it is complete."""

    def __init__(self, check: Callable[[Recipe], object]) -> None:
        self.recipe: Recipe | None = None
        self._check = check
        self._text = bytearray()

    async def data(self, data: bytes) -> None:
        """Take more of it in."""
        self._text += data
        if len(self._text) > MAX_SPEC_BYTES:
            raise Problem(errors.SPEC_TOO_LARGE, f"the spec may have {MAX_SPEC_BYTES} bytes; shorten it with globs")

    async def end(self) -> None:
        """Validate it."""
        self.recipe = parse_spec(bytes(self._text))
        self._check(self.recipe)


def parse_spec(text: bytes) -> Recipe:
    """The recipe that a spec is.

    Raises:
        Problem: it is not JSON, or not a recipe.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant)
        # A lone surrogate passes as JSON and can be neither stored nor sent.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Problem(errors.SPEC_NOT_JSON, f"the spec is not valid JSON: {error}; correct it") from None
    try:
        return parse_recipe(document)
    except RecipeError as error:
        raise Problem(errors.INVALID_RECIPE, error.detail) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _display_name(file_name: str) -> str:
    """A name to show and to suggest for downloads: no folders, nothing invisible, not too long; it may be empty."""
    base = re.split(r"[/\\]", file_name)[-1]
    return _CONTROL.sub("", base).strip(" .")[-_MAX_FILE_NAME:]


def too_large(max_bytes: Mapping[str, int]) -> NoReturn:
    """Refuse what is larger than the files, by the names of their parts, may be."""
    limits = " and ".join(f"{FILES[name]} may have {size} bytes" for name, size in max_bytes.items())
    raise Problem(errors.UPLOAD_TOO_LARGE, f"{limits}; send a smaller file")
