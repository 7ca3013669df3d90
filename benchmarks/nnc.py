"""nncodec, the reference coder of the NNC standard (ISO/IEC 15938-17), run by an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

VARIABLE = "SQUEEZER_BENCH_NNCODEC"
_WORKER = Path(__file__).with_name("nncodec_worker.py")
#: Least seconds: the clock may not have moved.
_TICK = 1e-9


@dataclass(frozen=True)
class Figures:
    """What nncodec did with arrays: bytes of the bitstream, seconds of processor time, and the squared error.

    The error is summed over the arrays of two or more dimensions.
    """

    nbytes: int
    encode: float
    decode: float
    squared_error: float


@dataclass(frozen=True)
class Setting:
    """What nncodec made of arrays at one `qp`; `matrix_bytes` are of those of two or more dimensions alone."""

    nbytes: int
    matrix_bytes: int
    decoded: dict[str, NDArray[np.float32]]


class Nncodec:
    """An interpreter that has nncodec."""

    def __init__(self, interpreter: str) -> None:
        self._interpreter = interpreter

    @classmethod
    def found(cls, given: str | None) -> Nncodec | None:
        """The one that the argument names, else the environment; None where neither does."""
        interpreter = given or os.environ.get(VARIABLE)
        return cls(interpreter) if interpreter else None

    def integers(self, arrays: Mapping[str, NDArray[Any]]) -> Figures:
        """Lossless coding of integer arrays."""
        return _figures(self._run("integers", arrays))

    def model(self, arrays: Mapping[str, NDArray[Any]], squared_error: float) -> Figures:
        """Coding of float32 arrays at the setting whose squared error comes closest to the given one."""
        return _figures(self._run("model", arrays, "--squared-error", str(squared_error)))

    def settings(self, arrays: Mapping[str, NDArray[Any]], qps: Sequence[int], folder: Path) -> dict[int, Setting]:
        """Coding of float32 arrays at each `qp`.

        Args:
            arrays: all of a network's.
            qps: nncodec's measure of a step: four more double it.
            folder: keeps the results; what is there already is not coded again.
        """
        missing = [qp for qp in qps if not _kept(folder, qp).is_file()]
        if missing:
            # Its name alone says that a file is whole.
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                self._run("settings", arrays, "--out", fresh, "--qps", *map(str, missing))
                for qp in missing:
                    _kept(Path(fresh), qp).replace(_kept(folder, qp))
        return {qp: _setting(_kept(folder, qp), arrays) for qp in qps}

    def _run(self, what: str, arrays: Mapping[str, NDArray[Any]], *options: str) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "arrays.npz"
            np.savez(file, **{_name(name): array for name, array in arrays.items()})  # type: ignore[arg-type] # numpy's stubs take keywords for `allow_pickle`
            command = [self._interpreter, str(_WORKER), what, str(file), *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"nncodec failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def add_nncodec(arguments: argparse.ArgumentParser) -> None:
    """Add `--nncodec`."""
    arguments.add_argument("--nncodec", metavar="PYTHON", help=f"an interpreter with nncodec; by default ${VARIABLE}")


def _name(name: str) -> str:
    """As nncodec takes it: it reserves names with these endings for factors."""
    return name.replace("_G", "_g").replace("_H", "_h")


def _figures(found: dict[str, Any]) -> Figures:
    encode, decode = (max(found[f"{what}_processor"], _TICK) for what in ("encode", "decode"))
    return Figures(found["bytes"], encode, decode, found.get("squared_error", 0.0))


def _kept(folder: Path, qp: int) -> Path:
    return folder / f"qp{qp}.npz"


def _setting(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Setting:
    with np.load(path) as archive:
        # The lengths lie under names that no tensor has.
        nbytes, matrix_bytes = int(archive["/bytes"]), int(archive["/matrix_bytes"])
        return Setting(nbytes, matrix_bytes, {name: archive[_name(name)] for name in arrays})
