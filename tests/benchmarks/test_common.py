from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from benchmarks import common
from benchmarks.common import Goal, Outcome, Timing, at_least, at_most, either

OUTCOME = Outcome(
    "A title",
    rows=[{"what": "ours", "MB/s": 1234.5, "same": True}, {"what": "baseline", "MB/s": None, "same": False}],
    notes=["A remark."],
    goals=[Goal("fast", True, "9 of 8"), Goal("small", False, "7 of 8")],
)


def given(*words: str) -> argparse.Namespace:
    return common.parser("x").parse_args(words)


def test_goals_hold_at_their_bounds_and_not_beyond() -> None:
    assert at_least("a", 2.0, 2.0, "x").met
    assert not at_least("a", 1.99, 2.0, "x").met
    assert at_most("a", 2.0, 2.0, "x").met
    assert not at_most("a", 2.01, 2.0, "x").met
    assert not at_least("a", float("nan"), 0.0, "x").met


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (False, False)])
def test_either_needs_one_and_names_both_figures(first: bool, second: bool) -> None:
    goal = either(Goal("a", first, "1 of 2"), Goal("b", second, "3 of 4"))
    assert goal == Goal("a", first or second, "1 of 2; or b: 3 of 4")


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert common.finish(OUTCOME, given("--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == OUTCOME.rows
    assert document["goals"][1] == {"name": "small", "met": False, "detail": "7 of 8"}


def test_check_names_what_falls_short_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert common.finish(OUTCOME, given("--json", "--check")) == 1
    assert capsys.readouterr().err == "falls short: small: 7 of 8\n"
    assert common.finish(Outcome("t", goals=OUTCOME.goals[:1]), given("--json", "--check")) == 0
    assert capsys.readouterr().err == ""


def test_the_table_shows_rows_remarks_and_goals(capsys: pytest.CaptureFixture[str]) -> None:
    common.finish(OUTCOME, given())
    shown = capsys.readouterr().out
    for words in ("A title", "1,234", "yes", "–", "baseline", "A remark.", "falls short small: 7 of 8"):
        assert words in shown


def test_the_data_folder_is_the_argument_or_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(common.DATA_VARIABLE, raising=False)
    with pytest.raises(SystemExit, match="--data DIR or SQUEEZER_BENCH_DATA"):
        common.data_folder(None)
    monkeypatch.setenv(common.DATA_VARIABLE, str(tmp_path))
    assert common.data_folder(None) == tmp_path
    other = tmp_path / "other"
    with pytest.raises(SystemExit, match="there is no folder"):
        common.data_folder(other)
    other.mkdir()
    assert common.data_folder(other) == other


def test_medians_are_of_each_kind_of_seconds() -> None:
    assert common.median_timing([Timing(1, 30), Timing(2, 10), Timing(9, 20)]) == Timing(2, 20)


def test_calls_are_timed() -> None:
    timing = common.time_calls(lambda: time.sleep(0.02), 3)
    assert timing.wall >= 0.02
    assert timing.processor < timing.wall


def test_a_child_is_measured_and_its_output_kept() -> None:
    looked_at = set[int]()
    script = "import time; data = b'x' * 300_000_000; time.sleep(0.05); print(len(data))"
    ended = common.run([sys.executable, "-c", script], sample=looked_at.add)
    assert ended.output == "300000000\n"
    assert 300e6 < ended.peak_bytes < 300e6 + _own_peak() + 100e6
    assert ended.timing.wall >= 0.05
    assert len(looked_at) == 1


def _own_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="status 3: no luck"):
        common.run([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])


def test_a_child_gets_the_variables() -> None:
    script = "import os; print(os.environ['A'], os.environ['PATH'])"
    assert common.run([sys.executable, "-c", script], environment={"A": "b"}).output == f"b {os.environ['PATH']}\n"


def test_written_models_are_normal_seeded_and_readable(tmp_path: Path) -> None:
    path, again, other = (tmp_path / name for name in "abc")
    assert common.write_gaussian(path, 3, (1000, 700), seed=1) == 3 * 1000 * 700 * 4
    common.write_gaussian(again, 3, (1000, 700), seed=1)
    common.write_gaussian(other, 3, (1000, 700), seed=2)
    tensors = safetensors.numpy.load_file(path)
    assert [tensor.shape for tensor in tensors.values()] == [(1000, 700)] * 3
    everything = np.concatenate([tensor.ravel() for tensor in tensors.values()])
    assert everything.dtype == np.float32
    assert abs(everything.std() / 0.02 - 1) < 0.01
    assert len(np.unique(everything[:10000])) > 9900
    assert path.read_bytes() == again.read_bytes()
    assert path.read_bytes() != other.read_bytes()


def test_a_benchmark_that_is_terminated_removes_its_files(tmp_path: Path) -> None:
    script = (
        "import os, tempfile\n"
        "from benchmarks.common import end_cleanly\n"
        "end_cleanly()\n"
        f"with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "    os.kill(os.getpid(), 15)\n"
    )
    with pytest.raises(RuntimeError, match="status 143"):
        common.run([sys.executable, "-c", script])
    assert list(tmp_path.iterdir()) == []
