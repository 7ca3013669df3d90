"""One attempt at a job, in a process of its own: `python -m squeezer.child compress|verify|sandbox FOLDER`, or `warm`.

Before `compress` or `verify` begins, the process enters the sandbox (`squeezer/sandbox`); `SQUEEZER_SANDBOX` says what
is to happen where a part of that is missing: `required` (refuse), `best_effort` (go on without it) or `off`.
`sandbox FOLDER` tries whether it holds.

The folder holds `input/model`, `input/recipe.json`, maybe `input/dataset` and `input/student`, an empty `output/`, and
`checkpoints/` with what an earlier attempt may have left. `compress` writes `output/artifact.sqz`, `output/report.json`
and what else the recipe asks for; `verify`, in a clean process, reopens the artifact, compares what it decodes with the
report, and measures it into `output/evaluation.json` where there is data. Events go to standard output, one JSON object
a line; the last is `done` or `error`. The process ends when its parent does, or when standard input is closed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from squeezer import sandbox
from squeezer.errors import ArtifactError, Code, SqueezerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from squeezer.progress import Progress

    Emit = Callable[..., None]

_PR_SET_PDEATHSIG = 1
#: Progress events are no denser than this; the last one of a stage may be left out.
_SECONDS_BETWEEN_EVENTS = 0.1
_PIECE = 1 << 20


def main() -> NoReturn:
    """Run the command named by the arguments and end the process: with status 0, or 1 after an error."""
    _die_with_parent()
    # Nothing that a library prints may be taken for an event.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def emit(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")

    status = 0
    try:
        if len(sys.argv) > 2:
            _confine(Path(sys.argv[2]))
        # Not before: a thread that runs already would stay outside.
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        _COMMANDS[sys.argv[1]](*sys.argv[2:], emit=emit)
        emit(event="done")
    except Exception as error:
        emit(event="error", **_describe(error))
        status = 1
    sys.stderr.flush()
    # At once: a parent that has read the last event may close our standard input, which must not change the status.
    os._exit(status)


def _describe(error: Exception) -> dict[str, str]:
    """Code and detail of what went wrong; what is not the user's to mend is logged in full."""
    if isinstance(error, SqueezerError):
        return {"code": error.code, "detail": error.detail}
    traceback.print_exception(error)
    if _lacks_memory(error):
        detail = "the model needs more memory than this worker has; upload it in parts, or use a larger worker"
        return {"code": Code.OUT_OF_MEMORY, "detail": detail}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"code": Code.DISK_FULL, "detail": "the worker's disk is full; free some space, then try again"}
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        detail = "the work needs more scratch space than a job may use here (SQUEEZER_JOB_SCRATCH_BYTES)"
        return {"code": Code.DISK_FULL, "detail": detail}
    return {"code": Code.INTERNAL, "detail": "an error of ours, which the service's log describes"}


def _lacks_memory(error: Exception) -> bool:
    """PyTorch and ONNX Runtime have errors of their own for it, which only their words tell from others."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "out of memory", "bad_alloc"))


def compress(folder: str, *, emit: Emit) -> None:
    """Compress `input/model` by `input/recipe.json` into `output/`."""
    # Only now: a wrong call must not wait for the libraries to load.
    from squeezer import api
    from squeezer.recipe import Recipe

    source, target = Path(folder) / "input", Path(folder) / "output"
    recipe = Recipe.model_validate_json((source / "recipe.json").read_bytes())
    report = api.compress_only(
        source / "model",
        recipe,
        target / "artifact.sqz",
        data=_maybe(source / "dataset"),
        student=_maybe(source / "student"),
        checkpoints=Path(folder) / "checkpoints",
        progress=_throttled(emit),
        threads=_threads(),
    )
    for output in recipe.outputs:
        if output != "sqz":
            emit(event="progress", stage=f"write {output}", progress=1.0, eta_seconds=None, layer="")
            path = target / f"model.{output}"
            api.decompress(target / "artifact.sqz", path, max_bytes=report.tensor_bytes)
    (target / "report.json").write_text(json.dumps(report.to_json()), encoding="utf-8")


def verify(folder: str, *, emit: Emit) -> None:
    """Reopen `output/artifact.sqz`, decode it, and compare the digests of all records with `output/report.json`.

    Records are compared as they are stored, and weights as `load` decodes them, which goes another way.
    """
    from squeezer import api
    from squeezer.artifact import Artifact
    from squeezer.progress import Meter
    from squeezer.representations import digest

    source, target = Path(folder) / "input", Path(folder) / "output"
    report = json.loads((target / "report.json").read_bytes())
    expected: dict[str, str] = report["digests"]
    ledger: Counter[str] = Counter()
    # Our own file, whose size is no surprise.
    with Artifact(target / "artifact.sqz", max_bytes=report["tensor_bytes"]) as artifact:
        if artifact.names != list(expected):
            raise ArtifactError("it does not hold what was written", "index", Code.VERIFICATION_FAILED)
        artifact.check_head()
        meter = Meter(artifact.tensor_bytes, _throttled(emit))
        for name, stored, bytes_of in artifact.representations(_threads() or api.cores()):
            if digest(stored) != expected[name] or not _same_bits(stored.decode(), artifact[name]):
                raise ArtifactError("it decodes to something else", f"tensor {name!r}", Code.VERIFICATION_FAILED)
            ledger.update(bytes_of)
            del stored
            meter.advance("verify", name, artifact.info(name).nbytes)
        for path in artifact.files:
            artifact.read_file(path)
        if artifact.ledger(ledger) != report["ledger"]:
            raise ArtifactError("its bytes are not for what they were written", "ledger", Code.VERIFICATION_FAILED)
    if (data := _maybe(source / "dataset")) is not None:
        _evaluate(source, target, data, emit)


def _evaluate(source: Path, target: Path, data: Path, emit: Emit) -> None:
    """Measure original and artifact into `output/evaluation.json`, and judge by the recipe's `accept`."""
    from squeezer import api
    from squeezer.data.accept import judge
    from squeezer.recipe import Recipe

    recipe = Recipe.model_validate_json((source / "recipe.json").read_bytes())
    artifact = target / "artifact.sqz"
    evaluation = api.evaluate(source / "model", artifact, recipe, data, progress=_throttled(emit), threads=_threads())
    if evaluation is None:
        return
    (target / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    if reason := judge(evaluation, recipe.accept):
        raise SqueezerError(Code.NOT_ACCEPTED, reason)


def _maybe(path: Path) -> Path | None:
    return path if path.exists() else None


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes. In pieces, since they may be the largest in memory."""
    ours, theirs = (array.reshape(-1).view("u1") for array in (one, other))
    pieces = range(0, ours.size, _PIECE)
    return ours.size == theirs.size and all((ours[i : i + _PIECE] == theirs[i : i + _PIECE]).all() for i in pieces)


def warm(*, emit: Emit) -> None:
    """Compile every kernel once, so that later processes find them in the cache."""
    del emit
    from squeezer.warm import warm_up

    warm_up()


def prove(folder: str, *, emit: Emit) -> None:
    """Try to get out of the sandbox, so that a worker learns before its first job whether it holds."""
    del folder, emit
    sandbox.prove()


_COMMANDS: dict[str, Callable[..., None]] = {"compress": compress, "verify": verify, "sandbox": prove, "warm": warm}


def _die_with_parent() -> None:
    """Be killed when the parent dies, however it dies."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _end_with_stdin() -> NoReturn:
    """End when the parent closes our standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _confine(folder: Path) -> None:
    """Enter the sandbox, in which `folder` is all that is left of the disk to work in."""
    for name in ("checkpoints", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")
    mode = os.environ.get("SQUEEZER_SANDBOX", "required")
    if mode != "off":
        sandbox.enter(folder, required=mode == "required")


def _throttled(emit: Emit) -> Callable[[Progress], None]:
    last_time, last_stage = 0.0, ""

    def report(progress: Progress) -> None:
        nonlocal last_time, last_stage
        now = time.monotonic()
        if progress.stage != last_stage or now - last_time >= _SECONDS_BETWEEN_EVENTS:
            last_time, last_stage = now, progress.stage
            emit(event="progress", **asdict(progress))

    return report


def _threads() -> int | None:
    """As many as the supervisor allots; without it, one for each core."""
    return int(os.environ["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in os.environ else None


if __name__ == "__main__":
    main()
