"""Takes in the body of `POST /jobs`: files go to storage while they are hashed, the spec is validated."""

from __future__ import annotations

import errno
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from app import errors
from app.errors import Problem
from app.storage import new_key
from app.uploads.multipart import FormStream, PartBegin, PartData
from app.uploads.parts import FILES, MAX_SPEC_BYTES, FilePart, SpecPart, StoredFile, too_large
from squeezer.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from app.storage import Storage
    from squeezer.recipe import Recipe

#: What a form may hold beside the files: the spec, headers and boundaries.
_FRAMING_BYTES = MAX_SPEC_BYTES + 64 * 1024


@dataclass(frozen=True)
class Upload:
    """A form that was taken in."""

    recipe: Recipe
    model: StoredFile
    dataset: StoredFile | None
    student: StoredFile | None

    @property
    def files(self) -> list[StoredFile]:
        """All files that lie in storage for it."""
        return [file for file in (self.model, self.dataset, self.student) if file]


async def receive(
    stream: AsyncIterator[bytes],
    *,
    content_type: str,
    content_length: int | None,
    storage: Storage,
    max_bytes: Mapping[str, int],
    check: Callable[[Recipe], object],
) -> Upload:
    """Read a form to its end. Whatever goes wrong, also that the client leaves, no file remains.

    `max_bytes` says how large each file may be, by the name of its part. `check` gets the recipe as soon as it is
    there, and may raise.

    Raises:
        Problem: the form, the spec or a size is wrong, or the disk is full.
    """
    limit = sum(max_bytes.values()) + _FRAMING_BYTES
    if content_length is not None and content_length > limit:
        too_large(max_bytes)
    form = FormStream(content_type)
    with storage_problems(), ExitStack() as open_files:
        intake = _Intake(storage, open_files, max_bytes, check)
        seen = 0
        async for chunk in stream:
            seen += len(chunk)
            if seen > limit:
                too_large(max_bytes)
            for event in form.feed(chunk):
                await intake.take(event)
        form.finish()
        recipe, files = intake.finish()
        await run_in_threadpool(_commit, files.values(), storage)
    stored = {name: file.stored() for name, file in files.items()}
    return Upload(recipe, stored["model"], stored.get("dataset"), stored.get("student"))


def _commit(files: Iterable[FilePart], storage: Storage) -> None:
    """Make all files durable, or none."""
    committed: list[str] = []
    try:
        for file in files:
            file.writer.commit()
            committed.append(file.key)
    except BaseException:
        for key in committed:
            storage.delete(key)
        raise


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


class _Intake:
    """Hands each part's bytes to what takes them in, and refuses what does not belong."""

    def __init__(
        self,
        storage: Storage,
        open_files: ExitStack,
        max_bytes: Mapping[str, int],
        check: Callable[[Recipe], object],
    ) -> None:
        """What is entered in `open_files` and not committed is discarded when that ends."""
        self._storage = storage
        self._open_files = open_files
        self._max_bytes = max_bytes
        self._check = check
        self._spec: SpecPart | None = None
        self._files: dict[str, FilePart] = {}
        self._current: SpecPart | FilePart | None = None

    async def take(self, event: object) -> None:
        if isinstance(event, PartBegin):
            self._current = await self._begin(event)
        elif self._current is not None:
            if isinstance(event, PartData):
                await self._current.data(event.data)
            else:
                await self._current.end()

    def finish(self) -> tuple[Recipe, dict[str, FilePart]]:
        """The recipe and the files, by the names of their parts. Nothing is committed yet."""
        if self._spec is None or self._spec.recipe is None:
            raise Problem(
                errors.SPEC_MISSING,
                'add a part named spec with the recipe as JSON, such as {"preset": "safe"}',
            )
        if "model" not in self._files:
            raise Problem(errors.MODEL_MISSING, "add a part named model with the file to compress")
        recipe = self._spec.recipe
        try:
            recipe.check_data(has_data="dataset" in self._files)
        except RecipeError as error:
            raise Problem(errors.DATASET_MISSING, error.detail) from None
        has_student = "student" in self._files
        try:
            recipe.check_student(has_student=has_student)
        except RecipeError as error:
            kind = errors.UNEXPECTED_PART if has_student else errors.STUDENT_MISSING
            raise Problem(kind, error.detail) from None
        return recipe, self._files

    async def _begin(self, part: PartBegin) -> SpecPart | FilePart:
        if part.name == "spec" and self._spec is None:
            self._spec = SpecPart(self._check)
            return self._spec
        if part.name in FILES and part.name not in self._files:
            key = new_key()
            writer = self._open_files.enter_context(await run_in_threadpool(self._storage.writer, key))
            file = FilePart(part.name, part.file_name, key, writer, self._max_bytes[part.name])
            self._files[part.name] = file
            return file
        reason = "came twice" if part.name in {"spec", *FILES} else "is unknown"
        raise Problem(
            errors.UNEXPECTED_PART,
            f"the part {part.name[:100]!r} {reason}; send one spec, one model and at most one dataset and one student",
        )
