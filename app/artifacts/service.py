"""Finds the file of a job, and says how it is to be called on the user's disk."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from app import errors
from app.errors import Problem
from app.jobs.service import find
from app.jobs.states import FINISHED

if TYPE_CHECKING:
    from app.deps import Caller, Context
    from app.jobs.models import Job

#: Endings of models; the artifact's own takes their place.
_MODEL_ENDING = re.compile(r"\.(safetensors|pt|pth|bin|th|ckpt|pkl|zip|pt2|onnx)$", re.IGNORECASE)
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Download:
    """A file to send: where storage has it, its size in bytes, its digest (hexadecimal) and its name."""

    key: str
    bytes: int
    sha256: str
    file_name: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that describe the whole file, whatever part of it is sent."""
        digest = b64encode(bytes.fromhex(self.sha256)).decode()
        return {
            "Accept-Ranges": "bytes",
            "ETag": f'"{self.sha256}"',
            "Repr-Digest": f"sha-256=:{digest}:",
            "Content-Disposition": content_disposition(self.file_name),
            "Cache-Control": "private, no-cache",
        }


def find_artifact(context: Context, caller: Caller, job_id: str, wanted: str) -> Download:
    """The file of a job in one format.

    Raises:
        Problem: there is no such job, it has not finished, or it made no such file.
    """
    with context.sessions.begin() as session:
        job = find(session, caller, job_id)
        made = {artifact.format: artifact for artifact in job.artifacts}
        if not made:
            raise _nothing(job)
        if wanted not in made:
            raise Problem(
                errors.FORMAT_NOT_MADE,
                f"the job made {' and '.join(made)}; for another format, name it in the recipe's outputs",
            )
        artifact = made[wanted]
        name = f"{_MODEL_ENDING.sub('', job.file_name) or 'model'}.{wanted}"
        return Download(artifact.key, artifact.bytes, artifact.sha256, name)


def content_disposition(file_name: str) -> str:
    """The header for a download: a plain name for all, and the true one for clients that know RFC 8187."""
    plain = _NOT_PLAIN.sub("_", file_name)
    extended = "" if plain == file_name else f"; filename*=UTF-8''{quote(file_name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'


def _nothing(job: Job) -> Problem:
    if job.state in FINISHED:
        return Problem(errors.NO_ARTIFACT, f"the job has {job.state} without a result; its error and its state say why")
    return Problem(errors.NOT_READY_YET, f"the job is {job.state}; ask again when its state is succeeded")
