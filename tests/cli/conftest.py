"""The real executable, a few models, and a service for the commands that need one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.embedded import running_service

EXECUTABLE = str(Path(sys.executable).with_name("squeezer"))


def environment() -> dict[str, str]:
    """Ours, without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SQUEEZER_")}
    # One thread trains: several would wait for each other, and for whatever else runs on the machine.
    return kept | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"}


def squeezer(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the executable to its end."""
    command = [EXECUTABLE, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the executable in a process group of its own, as a shell does; the group ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
        command, pipe = [EXECUTABLE, *map(str, arguments)], subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers, a bias, and names that look like markup."""
    random = np.random.default_rng(0)
    path = tmp_path / "model.safetensors"
    tensors = {
        "fc1.weight": random.standard_normal((64, 48)).astype(np.float32),
        "fc1.bias": random.standard_normal(64).astype(np.float32),
        "[red]fc2:smile:.weight": random.standard_normal((10, 64)).astype(np.float32),
        "steps": np.array(7, np.int64),
    }
    save_file(tensors, path)
    return path


@pytest.fixture
def sick_model(tmp_path: Path) -> Path:
    """A model that a step refuses: one weight is not a number."""
    weights = np.ones((8, 8), np.float32)
    weights[3, 4] = np.nan
    path = tmp_path / "sick.safetensors"
    save_file({"w": weights}, path)
    return path


@pytest.fixture(scope="session")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes seconds: 256 MB in 64 tensors."""
    weights = np.random.default_rng(0).standard_normal((1000, 1000)).astype(np.float32)
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    save_file({f"w{i}": weights + np.float32(i) for i in range(64)}, path)
    return path


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    """The URL of a real service."""
    with running_service() as url:
        yield url
