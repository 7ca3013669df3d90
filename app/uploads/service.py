"""Takes in the body of `POST /jobs`: the model goes to storage while it is hashed, the spec is validated."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from starlette.concurrency import run_in_threadpool

from app import errors
from app.errors import Problem
from app.storage import new_key
from app.uploads.multipart import FormStream, PartBegin, PartData
from squeezer.errors import RecipeError
from squeezer.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from app.storage import Storage, Writer

MAX_SPEC_BYTES = 1_000_000
#: What a form may hold beside the model: the spec, headers and boundaries.
_FRAMING_BYTES = MAX_SPEC_BYTES + 64 * 1024
#: Bytes that are collected before a thread hashes and writes them.
_BLOCK_BYTES = 1 << 20
_MAX_FILE_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Upload:
    """A form that was taken in: the recipe, and the model that now lies in storage under `key`."""

    recipe: Recipe
    file_name: str
    key: str
    bytes: int
    sha256: str


async def receive(
    stream: AsyncIterator[bytes],
    *,
    content_type: str,
    content_length: int | None,
    storage: Storage,
    max_bytes: int,
    check: Callable[[Recipe], object],
) -> Upload:
    """Read a form to its end. Whatever goes wrong, also that the client leaves, no file remains.

    `check` gets the recipe as soon as it is there, and may raise.

    Raises:
        Problem: the form, the spec or the size is wrong, or the disk is full.
    """
    limit = max_bytes + _FRAMING_BYTES
    if content_length is not None and content_length > limit:
        _too_large(max_bytes)
    form = FormStream(content_type)
    with storage_problems():
        writer = await run_in_threadpool(storage.writer, key := new_key())
        with writer:
            intake = _Intake(writer, max_bytes, check)
            seen = 0
            async for chunk in stream:
                seen += len(chunk)
                if seen > limit:
                    _too_large(max_bytes)
                for event in form.feed(chunk):
                    await intake.take(event)
            form.finish()
            recipe, model = await intake.finish()
            await run_in_threadpool(writer.commit)
    return Upload(recipe, model.file_name, key, model.bytes, model.digest.hexdigest())


@contextmanager
def storage_problems() -> Iterator[None]:
    """Turn a full disk into its problem."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Problem(
                errors.STORAGE_FULL,
                "the server has no room for this file; try again later, or ask its operator",
            ) from error
        raise


class _Model:
    """The part `model`: written and hashed in blocks, by a thread."""

    def __init__(self, writer: Writer, file_name: str, max_bytes: int) -> None:
        self.file_name = _display_name(file_name)
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._writer = writer
        self._max_bytes = max_bytes
        self._block = bytearray()

    async def data(self, data: bytes) -> None:
        self.bytes += len(data)
        if self.bytes > self._max_bytes:
            _too_large(self._max_bytes)
        self._block += data
        if len(self._block) >= _BLOCK_BYTES:
            await self._flush()

    async def end(self) -> None:
        if self.bytes == 0:
            raise Problem(errors.EMPTY_FILE, "the model file is empty; check that the upload read the right file")
        await self._flush()

    async def _flush(self) -> None:
        await run_in_threadpool(self._store, self._block)
        self._block.clear()

    def _store(self, block: bytearray) -> None:
        self.digest.update(block)
        self._writer.write(block)


class _Spec:
    """The part `spec`: small, kept, and validated when it is complete."""

    def __init__(self, check: Callable[[Recipe], object]) -> None:
        self.recipe: Recipe | None = None
        self._check = check
        self._text = bytearray()

    async def data(self, data: bytes) -> None:
        self._text += data
        if len(self._text) > MAX_SPEC_BYTES:
            raise Problem(errors.SPEC_TOO_LARGE, f"the spec may have {MAX_SPEC_BYTES} bytes; shorten it with globs")

    async def end(self) -> None:
        self.recipe = parse_spec(bytes(self._text))
        self._check(self.recipe)


class _Intake:
    """Hands each part's bytes to what takes them in, and refuses what does not belong."""

    def __init__(self, writer: Writer, max_bytes: int, check: Callable[[Recipe], object]) -> None:
        self._writer = writer
        self._max_bytes = max_bytes
        self._check = check
        self._spec: _Spec | None = None
        self._model: _Model | None = None
        self._current: _Spec | _Model | None = None

    async def take(self, event: object) -> None:
        if isinstance(event, PartBegin):
            self._current = self._begin(event)
        elif self._current is not None:
            if isinstance(event, PartData):
                await self._current.data(event.data)
            else:
                await self._current.end()

    async def finish(self) -> tuple[Recipe, _Model]:
        if self._spec is None or self._spec.recipe is None:
            raise Problem(
                errors.SPEC_MISSING,
                'add a part named spec with the recipe as JSON, such as {"preset": "safe"}',
            )
        if self._model is None:
            raise Problem(errors.MODEL_MISSING, "add a part named model with the file to compress")
        return self._spec.recipe, self._model

    def _begin(self, part: PartBegin) -> _Spec | _Model:
        if part.name == "spec" and self._spec is None:
            self._spec = _Spec(self._check)
            return self._spec
        if part.name == "model" and self._model is None:
            self._model = _Model(self._writer, part.file_name, self._max_bytes)
            return self._model
        reason = "came twice" if part.name in {"spec", "model"} else "is unknown"
        raise Problem(errors.UNEXPECTED_PART, f"the part {part.name[:100]!r} {reason}; send one spec and one model")


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
    """A name to show and to suggest for downloads: no folders, nothing invisible, not too long."""
    base = re.split(r"[/\\]", file_name)[-1]
    return _CONTROL.sub("", base).strip(" .")[-_MAX_FILE_NAME:] or "model"


def _too_large(max_bytes: int) -> NoReturn:
    raise Problem(errors.UPLOAD_TOO_LARGE, f"the model may have {max_bytes} bytes; send a smaller file")
