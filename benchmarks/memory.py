"""How much memory a model of 4 GB takes, in compression and in the service. `python -m benchmarks.memory`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import SQUEEZER, Goal, Outcome, at_most, end_cleanly, finish, parser, run, write_gaussian

if TYPE_CHECKING:
    from collections.abc import Iterator

_TENSORS, _SHAPE = 16, (8192, 8192)  # 256 MiB each, 4 GiB together
_COMPRESS_BYTES = 1.5e9
_GROWTH_BYTES = 64e6
_START_SECONDS = 60.0


@dataclass
class Watch:
    """Looks at a process while it runs: whether it maps a file, and how many bytes it has asked `read` calls for."""

    path: Path
    looks: int = 0
    mapped: bool = False
    read_bytes: int = 0

    def __call__(self, pid: int) -> None:
        """Look once."""
        with contextlib.suppress(OSError):  # it may just have ended
            maps = Path(f"/proc/{pid}/maps").read_text()
            self.looks += bool(maps)
            self.mapped |= str(self.path.resolve()) in maps
            counters = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
            self.read_bytes = max(self.read_bytes, int(counters["rchar"]))


def status_bytes(pid: int, key: str) -> int:
    """A size from /proc/PID/status, such as VmRSS, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{key}:"))
    return int(found.split()[1]) * 1024


def _compression(model: Path, nbytes: int, outcome: Outcome) -> None:
    watch = Watch(model)
    out = model.with_suffix(".sqz")
    options = ["--recipe", "deep-compression", "--json"]
    ended = run([*SQUEEZER, "compress", str(model), "-o", str(out), *options], sample=watch)
    bare = run([sys.executable, "-c", "import numba"])
    outcome.rows += [
        _row("squeezer compress", nbytes, ended.timing.wall, ended.peak_bytes),
        _row("baseline: python with numba loaded", 0, bare.timing.wall, bare.peak_bytes),
        _row("baseline: the whole model in memory", nbytes, None, nbytes),
    ]
    outcome.goals += [
        at_most("peak of squeezer compress", ended.peak_bytes, _COMPRESS_BYTES, "bytes"),
        Goal(
            "the file is read, not mapped",
            watch.looks > 0 and not watch.mapped and watch.read_bytes >= nbytes,
            f"{watch.read_bytes:,} bytes came from read calls; {watch.looks} looks at its maps saw the file "
            f"{'mapped' if watch.mapped else 'in none'}",
        ),
    ]
    out.unlink()


def _row(what: str, nbytes: int, seconds: float | None, peak: int) -> dict[str, Any]:
    return {"what": what, "bytes of the model": nbytes, "seconds": seconds, "resident MB": peak / 1e6}


@contextlib.contextmanager
def api(data_dir: Path) -> Iterator[tuple[str, int]]:
    """The service's API alone, in a process of its own over SQLite; yields its URL and process id."""
    from app.children import tethered
    from app.db import make_engine, upgrade
    from app.settings import Settings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = make_engine(Settings(mode="embedded", data_dir=data_dir))
    upgrade(engine)
    engine.dispose()
    place = {"SQUEEZER_MODE": "embedded", "SQUEEZER_DATA_DIR": str(data_dir), "SQUEEZER_PORT": str(port)}
    with (data_dir / "api.log").open("wb") as log:
        process = subprocess.Popen(
            tethered([sys.executable, "-m", "app.main"]), env=os.environ | place, stdout=log, stderr=log
        )
    try:
        _await(port, process)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the API does not start") from None
            time.sleep(0.1)
        else:
            return


def _upload(model: Path, nbytes: int, folder: Path, outcome: Outcome) -> None:
    from squeezer.client import Client

    data_dir = folder / "service"
    data_dir.mkdir()
    with api(data_dir) as (url, pid), Client(url) as client:
        before = status_bytes(pid, "VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # its peak begins anew
        started = time.perf_counter()
        job = client.submit(model, {"preset": "deep-compression"})
        seconds = time.perf_counter() - started
        peak = status_bytes(pid, "VmHWM")
    stored = sum(file.stat().st_size for file in (data_dir / "storage").rglob("*") if file.is_file())
    outcome.rows += [
        _row("API during the upload", nbytes, seconds, peak),
        _row("baseline: the API before it", 0, None, before),
    ]
    whole = job["state"] == "queued" and stored >= model.stat().st_size
    outcome.goals += [
        at_most("growth of the API during the upload", peak - before, _GROWTH_BYTES, "bytes"),
        Goal("the upload is whole", whole, f"job {job['state']}, {stored:,} bytes in storage"),
    ]


def main() -> int:
    """Measure, print, and give the exit status."""
    arguments = parser("Memory that a model of 4 GB takes. Needs 9 GB of disk, and the extra `service`.")
    arguments.add_argument("--scratch", type=Path, help="folder for the files, which are removed afterwards")
    given = arguments.parse_args()
    end_cleanly()
    outcome = Outcome("Memory for a model of 4 GiB, its largest tensor 256 MiB")
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        nbytes = write_gaussian(model, _TENSORS, _SHAPE, seed=0)
        _compression(model, nbytes, outcome)
        _upload(model, nbytes, folder, outcome)
    return finish(outcome, given)


if __name__ == "__main__":
    raise SystemExit(main())
