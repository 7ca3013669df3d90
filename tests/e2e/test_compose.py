"""The compose file and the Dockerfile, without an engine: what they say, and their own commands as processes.

Each of our services is started with the command and the environment that the files give it. Only addresses
are replaced: those of PostgreSQL, Redis and the shared folder, and the port that the API listens on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
import yaml
from sqlalchemy.engine import make_url

import squeezer
from app.settings import Settings
from tests.servers import KEEPER, RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
GIVEN = {"POSTGRES_PASSWORD": "pw1", "REDIS_PASSWORD": "pw2", "SQUEEZER_GPU_WORKERS": "true"}
THEIRS = {"postgres", "redis"}


def source() -> str:
    return (ROOT / "docker-compose.yml").read_text("utf-8")


def services() -> dict[str, dict[str, Any]]:
    """The services, variables put in as `docker compose` would with GIVEN in `.env`."""

    result: dict[str, dict[str, Any]] = put_in(yaml.safe_load(source()))["services"]
    return result


def put_in(node: Any) -> Any:
    """A node of the file with variables replaced in its strings."""
    if isinstance(node, dict):
        return {key: put_in(value) for key, value in node.items()}
    if isinstance(node, list):
        return [put_in(value) for value in node]
    return VARIABLE.sub(value_of, node) if isinstance(node, str) else node


def value_of(variable: re.Match[str]) -> str:
    """A variable's value: the given one, or its default."""
    name, kind, rest = variable.groups()
    assert name in GIVEN or kind == "-", f"{name} must be set"
    return GIVEN.get(name, rest)


def instructions(word: str) -> list[str]:
    """What follows a word in the Dockerfile, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    return [rest.strip() for rest in re.findall(rf"^{word} (.*)$", text, re.MULTILINE)]


def command(service: dict[str, Any]) -> list[str]:
    """A service's command: its own, or the image's."""
    result: list[str] = service.get("command") or json.loads(instructions("CMD")[-1])
    return result


def test_secrets_have_no_defaults_and_the_example_names_every_variable() -> None:
    variables = VARIABLE.findall(source())
    assert {kind for name, kind, _ in variables if "PASSWORD" in name} == {"?"}
    example = (ROOT / ".env.example").read_text("utf-8")
    assert {name for name, _, _ in variables} == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    assert re.findall(r"^\w*PASSWORD=(.+)$", example, re.MULTILINE) == []


def test_ports_are_published_on_loopback_alone() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}
    assert instructions("EXPOSE") == ["8000"]
    assert command(services()["api"])[-2:] == ["--port", "8000"]


def test_addresses_are_those_of_the_other_services() -> None:
    everything = services()
    database = everything["postgres"]["environment"]
    for name in everything.keys() - THEIRS:
        environment = everything[name]["environment"]
        url = make_url(environment["SQUEEZER_DATABASE_URL"])
        assert (url.host, url.username) == ("postgres", database["POSTGRES_USER"])
        assert (url.password, url.database) == (database["POSTGRES_PASSWORD"], database["POSTGRES_DB"])
        url = make_url(environment["SQUEEZER_REDIS_URL"])
        assert url.host == "redis"
        assert ["--requirepass", url.password] == everything["redis"]["command"][-2:]
        assert "data:/data" in everything[name]["volumes"]
        assert environment["SQUEEZER_STORAGE"].startswith("/data/")


def test_settings_are_settings() -> None:
    """A misspelt variable would be passed over in silence."""
    known = {f"SQUEEZER_{field.upper()}" for field in Settings.model_fields}
    everything = services()
    for name in everything.keys() - THEIRS:
        assert everything[name]["environment"].keys() <= known


def test_the_gpu_worker_waits_for_its_profile_and_reserves_a_device() -> None:
    worker = services()["worker-gpu"]
    assert worker["profiles"] == ["gpu"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert command(worker)[command(worker).index("-Q") + 1] == "gpu"


def test_the_image_copies_what_there_is_and_runs_as_nobody_special() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = [name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]]
    assert sorted(set(copied)) == sorted(sent)
    for name in copied:
        assert (ROOT / name).exists()
        assert not any(fnmatch(name, pattern) for pattern in ignored if pattern not in {"*", f"!{name}"})
    assert instructions("USER") == ["squeezer"]


class Stack:
    """Our services as processes, with the compose file's commands and environment."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._replaced = {"SQUEEZER_DATABASE_URL": database_url, "SQUEEZER_REDIS_URL": redis_url}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service under a keeper, which ends it with the tests; stdin is the keeper's."""
        service = services()[name]
        folder = str(self._folder)
        environment = {key: value.replace("/data", folder) for key, value in service["environment"].items()}
        environment |= self._replaced
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        replaced = {"0.0.0.0": "127.0.0.1", "8000": str(self.port)}  # noqa: S104 - it is what is replaced
        words = [replaced.get(word, word) for word in command(service)]
        keeper = [sys.executable, "-I", str(KEEPER), str(int(signal.SIGTERM)), "-", "-", "--"]
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*keeper, *words],
                cwd=ROOT,
                env={"PATH": path, "HOME": str(self._folder), "PYTHONPATH": str(ROOT)} | environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )
        return self._running[name]

    def run(self, name: str) -> int:
        """Run a service that ends by itself; returns its exit status."""
        with self.start(name) as process:
            del self._running[name]
            return process.wait(60)

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self._folder / f"{name}.log"

    def wait_until_ready(self) -> None:
        """Wait for `/readyz`; raise with the logs where a service ends instead."""
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            dead = [name for name, process in self._running.items() if process.poll() is not None]
            assert not dead, self.log(dead[0]).read_text("utf-8")
            assert time.monotonic() < deadline, self.log("api").read_text("utf-8")
            time.sleep(0.1)

    def stop(self) -> dict[str, int]:
        """Stop all as `docker compose down` does; returns how each ended."""
        for process in self._running.values():
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"t")  # type: ignore[union-attr] # it is a pipe
        statuses = {name: process.wait(30) for name, process in self._running.items()}
        for process in self._running.values():
            process.stdin.close()  # type: ignore[union-attr] # it is a pipe
        self._running.clear()
        return statuses


@pytest.fixture
def stack(tmp_path: Path, new_database: Callable[[], str], redis_server: RedisServer) -> Iterator[Stack]:
    stack = Stack(tmp_path, new_database(), redis_server.url)
    assert stack.run("migrate") == 0, stack.log("migrate").read_text("utf-8")
    yield stack
    stack.stop()


def test_the_services_commands_see_jobs_through(stack: Stack, tmp_path: Path) -> None:
    ours = services().keys() - THEIRS - {"migrate"}
    for name in ours:
        stack.start(name)
    stack.wait_until_ready()
    weights = np.random.default_rng(0).normal(size=(128, 256)).astype(np.float32)
    model = safetensors.numpy.save({"layer.weight": weights})
    for device in ("auto", "cuda"):  # the second goes to the worker with the GPU
        spec = json.dumps({"preset": "lossless", "device": device})
        posted = httpx.post(f"{stack.url}/jobs", files={"spec": (None, spec), "model": ("m.safetensors", model)})
        assert posted.status_code == 202, posted.text
        job = finished(f"{stack.url}{posted.headers['location']}")
        assert job["state"] == "succeeded", job["error"]
        artifact = tmp_path / f"{device}.sqz"
        artifact.write_bytes(httpx.get(f"{stack.url}/jobs/{job['id']}/artifact").raise_for_status().content)
        np.testing.assert_array_equal(squeezer.load(artifact)["layer.weight"], weights)
    assert set(stack.stop().values()) <= {0, 128 + signal.SIGTERM}


def finished(url: str) -> dict[str, Any]:
    """The job, as soon as nothing happens to it any more."""
    deadline = time.monotonic() + 120
    while True:
        job: dict[str, Any] = httpx.get(url).raise_for_status().json()
        if job["state"] not in {"queued", "running"}:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
