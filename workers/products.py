"""What the children of an attempt leave in its output folder: the report, and the files that go into the storage."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from app.jobs.repository import ArtifactRecord
from app.storage import new_key
from squeezer.errors import Code, SqueezerError
from workers import scratch
from workers.verdict import Result

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from app.storage import Storage

logger = logging.getLogger(__name__)

#: The files that a child may leave, by the output of the recipe that asks for them.
FILES = {"sqz": "artifact.sqz", "safetensors": "model.safetensors", "onnx": "model.onnx", "pt2": "model.pt2"}
#: Larger reports are no reports.
MAX_REPORT_BYTES = 64 << 20


def store(folder: Path, outputs: Iterable[str], storage: Storage) -> Result:
    """Put the files of an attempt into the storage; nothing stays there where that fails.

    Args:
        folder: the attempt's scratch folder.
        outputs: those of the recipe; the `.sqz` file is always among them.
        storage: where the files go.

    Raises:
        FileNotFoundError: a file is missing.
        SqueezerError: a file is not plain, or a report cannot be read.
    """
    report = read_report(scratch.product(folder, "report.json"))
    with suppress(FileNotFoundError):  # there is one where there was data and a network to run
        evaluation = read_report(scratch.product(folder, "evaluation.json"))
        report |= {"evaluation": evaluation, "headline": evaluation.get("headline", report.get("headline"))}
    artifacts: list[ArtifactRecord] = []
    try:
        for output in dict.fromkeys(["sqz", *outputs]):
            path = scratch.product(folder, FILES[output])
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            record = ArtifactRecord(output, new_key(), path.stat().st_size, digest)
            artifacts.append(record)
            storage.put_file(record.key, path)
    except BaseException:
        delete(artifacts, storage)
        raise
    return Result(report, artifacts)


def delete(artifacts: Iterable[ArtifactRecord], storage: Storage) -> None:
    """Delete stored files that no job will name."""
    for record in artifacts:
        try:
            storage.delete(record.key)
        except OSError as error:  # the sweeper finds it later
            logger.warning("cannot delete %s from the storage: %s", record.key, error)


def read_report(path: Path) -> dict[str, Any]:
    """The child's report, or its evaluation.

    Raises:
        SqueezerError: it is no JSON object of a sensible size.
    """
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise ValueError("too large")
        report = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        if not isinstance(report, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise SqueezerError(Code.INTERNAL, f"the report of the work cannot be read: {error}") from None
    return report


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
