"""A client of the HTTP service: streamed uploads and downloads in constant memory, and patience.

Requests that only read are repeated for a while when the service does not answer; uploads are not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import time
from contextlib import ExitStack, contextmanager
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

import httpx

from squeezer import __version__
from squeezer.network import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_T = TypeVar("_T")
_CHUNK_BYTES = 1 << 20
#: Seconds: to connect, and for an answer. After the last byte of an upload the service has to make it safe.
_CONNECT, _READ, _READ_UPLOAD = 10.0, 60.0, 600.0
#: For how long a request that reads is repeated, and the pauses in between, in seconds.
PATIENCE = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
#: Pauses between two looks at a job: they grow, so that a long job costs little and a short one no time.
_FIRST_LOOK, _LAST_LOOK, _GROWTH = 0.05, 2.0, 1.25
_AWAY = {502, 503, 504}
FINISHED = frozenset({"succeeded", "failed", "canceled"})


class ServiceError(Exception):
    """The service refused a request, or a job failed, or nothing answers; like `SqueezerError`, from afar.

    `code` is the service's own and stable, or one of `service_unreachable` and `bad_download`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Client:
    """Talks to one service. Use it in a `with` block."""

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        """Connect to the service at `url` when it is needed.

        Args:
            url: such as `http://127.0.0.1:8000`; without a scheme, `http://` is meant.
            patience: for how many seconds reading requests are repeated while nothing answers.
        """
        self._url = url if "://" in url else f"http://{url}"
        self._patience = patience
        try:
            self._http = httpx.Client(
                base_url=self._url,
                timeout=httpx.Timeout(_READ, connect=_CONNECT),
                headers={"User-Agent": f"squeezer/{__version__}"},
                # A proxy cannot reach this machine's own loopback.
                trust_env=not is_loopback(httpx.URL(self._url).host),
            )
        except httpx.InvalidURL as error:
            raise self._unreachable(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def submit(
        self,
        model: Path,
        spec: Mapping[str, Any],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        *,
        dataset: Path | None = None,
        student: Path | None = None,
    ) -> dict[str, Any]:
        """Upload a model, and maybe a data set and a student, and queue a job for it; the job.

        Args:
            model: the file to upload; it is read piece by piece.
            spec: the recipe document.
            progress: called with the bytes of files that were sent and their total.
            dataset: what the model is to be retrained and measured with; it is read piece by piece, too.
            student: the network that is trained in the model's place, likewise.

        Raises:
            ServiceError: the service refuses it, or cannot be reached.
            OSError: a file cannot be read.
        """
        named = {"dataset": dataset, "student": student, "model": model}
        paths = {part: path for part, path in named.items() if path is not None}
        with ExitStack() as stack:
            files = [(part, path.name, stack.enter_context(path.open("rb"))) for part, path in paths.items()]
            form = _Form(files, spec, progress)
            try:
                response = self._http.post(
                    "/jobs",
                    content=form.body(),
                    headers=form.headers,
                    timeout=httpx.Timeout(_READ_UPLOAD, connect=_CONNECT),
                )
            except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
                raise self._unreachable(error) from None
        return self._document(response)

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as it stands."""
        return self._document(self._get(f"/jobs/{job_id}"))

    def wait(self, job_id: str, progress: Callable[[Mapping[str, Any]], None] = lambda _job: None) -> dict[str, Any]:
        """Wait until a job has finished, however it ends; the job. `progress` gets it after every look."""
        pause = _FIRST_LOOK
        while True:
            job = self.job(job_id)
            progress(job)
            if job["state"] in FINISHED:
                return job
            time.sleep(pause)
            pause = min(pause * _GROWTH, _LAST_LOOK)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job; it may be `canceling` for a moment."""
        try:
            return self._document(self._http.post(f"/jobs/{job_id}/cancel"))
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def download(
        self,
        job_id: str,
        out: Path,
        file_format: str = "sqz",
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """Download one of a job's files; `out` appears when all of it has come and its digest is right.

        Raises:
            ServiceError: there is no such file, the digest is wrong, or the service cannot be reached.
            OSError: the file cannot be written.
        """
        self._patiently(lambda: self._download(job_id, out, file_format, progress))

    def _download(self, job_id: str, out: Path, file_format: str, progress: Callable[[int, int], None]) -> None:
        path, query = f"/jobs/{job_id}/artifact", {"format": file_format}
        # As it is stored: a digest is of the bytes, and they are compressed already.
        headers = {"Accept-Encoding": "identity"}
        with self._http.stream("GET", path, params=query, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise _refusal(response)
            total = int(response.headers.get("Content-Length", 0))
            digest, done = hashlib.sha256(), 0
            with _replacing(out) as file:
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    progress(done, total)
                _check_digest(response, digest.digest())

    def _get(self, path: str) -> httpx.Response:
        return self._patiently(lambda: self._once(path))

    def _once(self, path: str) -> httpx.Response:
        response = self._http.get(path)
        if not response.is_success:
            raise _refusal(response)
        return response

    def _patiently(self, request: Callable[[], _T]) -> _T:
        """Make a request that reads, again and again while the service is away."""
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return request()
            except httpx.TransportError as error:
                failure = self._unreachable(error)
            except _AwayError as error:
                failure = error
            if time.monotonic() + pause > deadline:
                raise failure
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _document(self, response: httpx.Response) -> dict[str, Any]:
        if not response.is_success:
            raise _refusal(response)
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ServiceError("service_unreachable", f"what answers at {self._url} is not Squeezer; check the URL")
        return document

    def _unreachable(self, error: Exception) -> ServiceError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            detail = f"no service answers at {self._url}; start one with `squeezer serve`, or give its URL with --url"
        elif isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            detail = f"{self._url} is no URL of a service ({error}); it looks like http://127.0.0.1:8000"
        else:
            detail = f"the connection to {self._url} broke ({error or type(error).__name__}); try again"
        return ServiceError("service_unreachable", detail)


class _AwayError(ServiceError):
    """The service, or what stands before it, is not ready; it may be soon."""


def _refusal(response: httpx.Response) -> ServiceError:
    """The error that a problem document, or any other refusal, stands for."""
    try:
        document = response.json()
        code, detail = str(document["code"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        code, detail = "service_unreachable", f"{response.url} answered {response.status_code} {response.reason_phrase}"
    return (_AwayError if response.status_code in _AWAY else ServiceError)(code, detail)


class _Form:
    """The multipart body of a job: the spec, so that a mistake in it is found at once, and then the files."""

    def __init__(
        self,
        files: Sequence[tuple[str, str, IO[bytes]]],
        spec: Mapping[str, Any],
        progress: Callable[[int, int], None],
    ) -> None:
        """`files` are the names of the parts, the names of the files, and the open files."""
        boundary = secrets.token_hex(16)
        self._progress = progress
        self._files = [
            (_head(boundary, part, name), file, os.fstat(file.fileno()).st_size) for part, name, file in files
        ]
        self._total = sum(size for _, _, size in self._files)
        self._spec = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="spec"\r\nContent-Type: application/json\r\n\r\n'
            f"{json.dumps(spec)}"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        framing = len(self._spec) + sum(len(head) for head, _, _ in self._files) + len(self._tail)
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(framing + self._total),
        }

    def body(self) -> Iterator[bytes]:
        """The body's bytes, piece by piece."""
        yield self._spec
        done = 0
        for head, file, size in self._files:
            yield head
            for chunk in _pieces(file, size):
                yield chunk
                done += len(chunk)
                self._progress(done, self._total)
        yield self._tail


def _head(boundary: str, part: str, name: str) -> bytes:
    """What comes before the bytes of a file; its name is escaped as browsers do."""
    escaped = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    return (
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="{part}"; filename="{escaped}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode("utf-8", "surrogateescape")


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = file.read(min(_CHUNK_BYTES, size))
        if not chunk:
            raise OSError(f"{file.name} became shorter while it was sent; let nothing write to it")
        yield chunk
        size -= len(chunk)


def _check_digest(response: httpx.Response, digest: bytes) -> None:
    expected = f"sha-256=:{base64.b64encode(digest).decode()}:"
    stated = [item.strip() for item in response.headers.get("Repr-Digest", "").split(",")]
    if expected not in stated:
        raise ServiceError(
            "bad_download", "what came is not what the service sent (its digest differs); download it again"
        )


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, which takes its place when the block ends well and vanishes otherwise."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # A temporary file is private; the result gets the rights of any new file.
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
            os.replace(file.name, path)  # noqa: PTH105 - atomic by contract
        except BaseException:
            os.unlink(file.name)  # noqa: PTH108 - a name, not a Path
            raise
