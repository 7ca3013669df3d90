from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import squeezer
from benchmarks import presets
from benchmarks.common import Outcome
from squeezer import pipeline
from squeezer.model import InMemoryModel
from squeezer.recipe import parse_recipe

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "conv.weight": RANDOM.standard_normal((16, 8, 3, 3)).astype(np.float32),
    "linear.weight": RANDOM.standard_normal((10, 64)).astype(np.float32),
    "linear.bias": RANDOM.standard_normal(10).astype(np.float32),
    "batches": np.array(7),
}


def test_lossless_is_judged_by_name_type_shape_and_bytes() -> None:
    assert presets.same_bits(WEIGHTS, {name: array.copy() for name, array in reversed(WEIGHTS.items())})
    changed = WEIGHTS["linear.bias"].copy()
    changed[0] = np.nextafter(changed[0], np.float32(9))
    assert not presets.same_bits(WEIGHTS, WEIGHTS | {"linear.bias": changed})
    assert not presets.same_bits(WEIGHTS, WEIGHTS | {"batches": np.array([7])})
    assert not presets.same_bits(WEIGHTS, {name: a for name, a in WEIGHTS.items() if name != "batches"})


def test_the_preset_prunes_exactly_the_random_mask(tmp_path: Path) -> None:
    masked = presets.randomly_masked(WEIGHTS, 0.7, seed=0)
    assert np.array_equal(masked["linear.bias"], WEIGHTS["linear.bias"])
    assert np.count_nonzero(masked["linear.weight"] == 0) == round(0.7 * 640)
    pipeline.run(InMemoryModel(masked), parse_recipe("deep-compression"), tmp_path / "m.sqz")
    decoded = squeezer.load(tmp_path / "m.sqz")
    for name in ("conv.weight", "linear.weight"):
        assert np.array_equal(decoded[name] == 0, masked[name] == 0)
        assert not np.array_equal(decoded[name], masked[name])  # what is left is shared all the same


def test_the_bisection_finds_the_finest_step_that_fits() -> None:
    assert presets.finest_step(lambda step: int(1000 / step), 2000, 0.01, 10) == pytest.approx(0.5, rel=1e-3)
    with pytest.raises(ValueError, match="still makes more than 50 bytes"):
        presets.finest_step(lambda step: int(1000 / step), 50, 0.01, 10)


@pytest.fixture
def subject(tmp_path: Path) -> presets.Subject:
    path = tmp_path / "model.pth"
    state = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    torch.save({"state_dict": state, "epoch": 3}, path)

    def measure(weights: dict[str, np.ndarray]) -> float:
        """Falls with the distance from the true weights."""
        return 100 - float(np.abs(weights["conv.weight"] - WEIGHTS["conv.weight"]).mean()) * 100

    return presets.Subject("toy", path, measure)


def test_a_network_is_measured_whole(subject: presets.Subject, tmp_path: Path) -> None:
    outcome = Outcome("t")
    presets._measure(subject, tmp_path, outcome)
    rows = {row["what"]: row for row in outcome.rows}
    assert len({tuple(row) for row in outcome.rows}) == 1
    assert rows["lossless"]["accuracy after"] == 100
    assert rows["safe"]["accuracy after"] > rows["deep-compression"]["accuracy after"]
    uniform = next(row for what, row in rows.items() if what.startswith("uniform_quantize"))
    assert 0.98 < uniform["bytes"] / rows["deep-compression"]["bytes"] <= 1
    assert rows["baseline: float16"]["bytes"] == sum(a.size for a in WEIGHTS.values()) * 2 - 2 + 8
    assert {goal.name: goal.met for goal in outcome.goals}["toy, lossless is bit for bit"]
    assert "equal file size" in outcome.notes[0]


def test_without_a_measure_there_is_no_accuracy(subject: presets.Subject, tmp_path: Path) -> None:
    outcome = Outcome("t")
    presets._measure(presets.Subject("toy", subject.path, None), tmp_path, outcome)
    assert {row["accuracy after"] for row in outcome.rows} == {None}
    assert "not measured" in outcome.notes[0]


def test_int8_is_within_half_a_scale(subject: presets.Subject) -> None:
    size, rounded = presets._as_int8(subject.weights)
    assert size == 16 * 72 + 4 + 640 + 4 + 40 + 8
    array = WEIGHTS["conv.weight"]
    assert np.abs(rounded["conv.weight"] - array).max() <= np.abs(array).max() / 127 / 2 * 1.0001
