from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import speed
from benchmarks.common import Timing
from squeezer import pipeline
from squeezer.model import InMemoryModel
from squeezer.recipe import parse_recipe


def test_the_codes_are_those_of_the_file(tmp_path: Path) -> None:
    weights = {"w": np.repeat(np.float32([0, 1, -2]), [70, 15, 15]).reshape(10, 10), "b": np.ones(3, np.float32)}
    pipeline.run(InMemoryModel(weights), parse_recipe("deep-compression"), tmp_path / "m.sqz")
    codes = np.frombuffer(speed.shared_codes(tmp_path / "m.sqz"), np.uint8)
    assert np.array_equal(codes, np.repeat([0, 2, 1], [70, 15, 15]))


def test_speeds_count_four_bytes_and_one_symbol_a_weight() -> None:
    row = speed.speed_row("x", Timing(0.5, 0.4), weights=25_000_000, rival=200e6)
    assert row["MB/s of float32"] == 200
    assert row["M weights/s"] == 50
    assert row["share of zstd -1 decode"] == 0.25


@pytest.mark.parametrize(("seconds", "rival", "met"), [(1.0, 1e9, True), (2.0, 1e9, False), (2.0, 1e8, True)])
def test_a_slow_machine_is_judged_by_its_zstd(seconds: float, rival: float, met: bool) -> None:
    row = speed.speed_row("x", Timing(seconds, seconds), weights=25_000_000, rival=rival)
    assert speed._speed_goal(row, 60, 0.12).met == met
