"""The clients of `benchmarks.chaos`: each posts models of its own until they are accepted."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import httpx
import numpy as np
from safetensors.numpy import save

import squeezer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CLIENTS = 4
#: A client thinks so long between two jobs, in seconds: posts go on while parts are killed.
_PAUSE = 3.0
_SHAPE = (300, 100)


@dataclass(frozen=True)
class Sent:
    """A job that was accepted: its id, the number that its model was made from, and how often it was posted."""

    job_id: str
    number: int
    tries: int

    def decodes(self, artifact: bytes) -> bool:
        """Whether an artifact holds the model that was sent, bit by bit."""
        decoded = squeezer.load(artifact)
        return decoded.keys() == {"weight"} and np.array_equal(decoded["weight"], model(self.number))


def model(number: int) -> NDArray[np.float32]:
    """The weights of a model; no two are alike, so that no job can pass with the result of another."""
    return np.random.default_rng(number).standard_normal(_SHAPE, dtype=np.float32)


class Clients:
    """Posts jobs from several threads for as long as the `with` block lasts."""

    def __init__(self, urls: Sequence[str], jobs: int) -> None:
        self.sent: list[Sent] = []
        self._urls = urls
        self._numbers = iter(range(jobs))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(_CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def all_sent(self) -> bool:
        """Whether every job was accepted."""
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, first: int) -> None:
        while (number := self._next()) is not None and not self._stop.is_set():
            self._post(number, first)
            self._stop.wait(_PAUSE)

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _post(self, number: int, first: int) -> None:
        """Post a job until it is accepted, now to this API process and now to that."""
        key, files = str(uuid4()), {"model": ("model.safetensors", save({"weight": model(number)}))}
        tries = 0
        while not self._stop.is_set():
            url = self._urls[(first + tries) % len(self._urls)]
            tries += 1
            job = _try(url, key, files)
            if job is not None:
                self.sent.append(Sent(job["id"], number, tries))
                return
            time.sleep(0.2)


def _try(url: str, key: str, files: dict[str, Any]) -> dict[str, Any] | None:
    """The job, or None where nobody could answer; what was refused for good raises."""
    data, headers = {"spec": json.dumps({"preset": "lossless"})}, {"Idempotency-Key": key}
    try:
        answer = httpx.post(f"{url}/jobs", data=data, files=files, headers=headers, timeout=30, trust_env=False)
    except httpx.TransportError:
        return None
    if answer.status_code in {409, 503}:  # the first try is still at work; the database is away
        return None
    answer.raise_for_status()
    return dict(answer.json())
