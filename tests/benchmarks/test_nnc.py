from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import nnc, nncodec_worker
from benchmarks.nnc import Nncodec


class _Rounding:
    """Stands for `nncodec.nnc`: rounds to steps of 2 ** (qp / 4); its stream tells how coarse the step was."""

    def compress(self, arrays: Any, *, qp: int, quantize_only: bool = False, **settings: Any) -> Any:
        step = 2.0 ** (qp / 4)
        self.rounded = {name: np.rint(array / step) * step for name, array in arrays.items()}
        return self.rounded if quantize_only else bytearray(100 * len(arrays) - qp)

    def decompress(self, stream: bytearray) -> Any:
        return self.rounded


ARRAYS = {"w": np.random.default_rng(0).standard_normal((50, 50), np.float32), "b": np.ones(5, np.float32)}


def test_the_worker_finds_the_setting_of_the_closest_error() -> None:
    found = nncodec_worker.model(_Rounding(), ARRAYS, wanted=2.0)
    errors = {
        qp: nncodec_worker.squared_error(ARRAYS, _Rounding().compress(ARRAYS, qp=qp, quantize_only=True))
        for qp in range(-40, 0)
    }
    assert found["qp"] == min(errors, key=lambda qp: abs(np.log(errors[qp] / 2.0)))
    assert found["squared_error"] == pytest.approx(errors[found["qp"]])
    assert found["bytes"] == 200 - found["qp"]


def test_the_worker_codes_each_setting_whole_and_without_small_arrays(tmp_path: Path) -> None:
    nncodec_worker.settings(_Rounding(), ARRAYS, [-20, -8], tmp_path)
    with np.load(tmp_path / "qp-8.npz") as archive:
        assert archive["/bytes"] == 208
        assert archive["/matrix_bytes"] == 108
        assert np.array_equal(archive["b"], ARRAYS["b"])
        assert np.array_equal(archive["w"], np.rint(ARRAYS["w"] * 4) / 4)


def test_the_worker_refuses_what_does_not_come_back() -> None:
    arrays = {"w": np.arange(6).reshape(2, 3)}
    assert nncodec_worker.integers(_Rounding(), arrays)["bytes"] > 0

    class Lossy(_Rounding):
        def decompress(self, stream: bytearray) -> Any:
            return {"w": np.zeros((2, 3), np.int32)}

    with pytest.raises(SystemExit, match="does not give back w"):
        nncodec_worker.integers(Lossy(), arrays)


class _Counting(Nncodec):
    """Runs the worker's code in this process, and counts what is coded. Like nncodec, it takes no name with `_G`."""

    def __init__(self) -> None:
        super().__init__("")
        self.coded: list[int] = []

    def _run(self, what: str, arrays: Any, *options: str) -> Any:
        qps = [int(word) for word in options[3:]]
        given = {name.replace("_G", "_g"): array for name, array in arrays.items()}
        self.coded += qps
        return nncodec_worker.settings(_Rounding(), given, qps, Path(options[1]))


def test_settings_are_kept_and_not_coded_again(tmp_path: Path) -> None:
    arrays = {"w_G": ARRAYS["w"], "b": ARRAYS["b"]}
    nncodec = _Counting()
    first = nncodec.settings(arrays, [-8, -4], tmp_path)
    again = nncodec.settings(arrays, [-8, -12], tmp_path)
    assert nncodec.coded == [-8, -4, -12]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qp-12.npz", "qp-4.npz", "qp-8.npz"]
    assert first[-8].nbytes == again[-8].nbytes == 208
    assert first[-8].matrix_bytes == 108
    assert again[-8].decoded.keys() == arrays.keys()
    assert np.array_equal(first[-4].decoded["w_G"], np.rint(ARRAYS["w"] * 2) / 2)


def test_an_interpreter_without_nncodec_says_so() -> None:
    with pytest.raises(RuntimeError, match="No module named 'nncodec'"):
        Nncodec(sys.executable).integers({"w": np.arange(6).reshape(2, 3)})


def test_nncodec_is_found_by_argument_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nnc.VARIABLE, raising=False)
    assert Nncodec.found(None) is None
    monkeypatch.setenv(nnc.VARIABLE, "python")
    assert Nncodec.found(None) is not None
