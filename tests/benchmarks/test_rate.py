from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import squeezer
from benchmarks import nnc, rate, rate_points, resnet
from benchmarks.nnc import Setting
from benchmarks.rate import Curves
from benchmarks.rate_curves import Point, average, merged, size_at, value_at_loss
from benchmarks.rate_points import Family, Judge, Rival, Verdict, compare, curve
from squeezer.recipe import parse_recipe
from squeezer.zoo.resnet import CifarResNet

RANDOM = np.random.default_rng(0)


def point(nbytes: float, disagreement: float, lost: float = 0.0) -> Point:
    return Point(nbytes, disagreement, disagreement / 100, lost)


def test_points_are_averaged_and_bytes_geometrically() -> None:
    assert average([Point(100, 1, 0.1, 0.5), Point(400, 3, 0.3, -0.1)]) == Point(
        pytest.approx(200), pytest.approx(2), pytest.approx(0.2), pytest.approx(0.2)
    )


def test_sizes_between_rungs_are_interpolated_in_logarithms() -> None:
    rungs = [point(800, 1), point(200, 4)]
    assert size_at(rungs, "disagreement", 2) == pytest.approx(400)
    assert size_at(rungs, "divergence", 0.02) == pytest.approx(400)
    assert size_at(rungs, "disagreement", 1) == pytest.approx(800)
    assert size_at(rungs, "disagreement", 4) == pytest.approx(200)


def test_sizes_beyond_the_ends_of_a_curve_are_not_known() -> None:
    rungs = [point(800, 1), point(200, 4)]
    assert size_at(rungs, "disagreement", 0.99) is None
    assert size_at(rungs, "disagreement", 4.01) is None


def test_rungs_out_of_order_are_averaged() -> None:
    rungs = [point(1000, 0.5), point(800, 2.5), point(200, 1.5), point(100, 4)]
    found = merged(rungs, lambda rung: rung.disagreement)
    assert [rung.disagreement for rung in found] == pytest.approx([0.5, 2, 4])
    assert size_at(rungs, "disagreement", 2) == pytest.approx(400)


def test_merging_is_isotonic_regression() -> None:
    values = RANDOM.standard_normal(40) + np.linspace(0, 2, 40)
    found = merged([point(1, value) for value in values], lambda rung: rung.disagreement)
    # The formula of isotonic regression: the largest over all starts of the least over all ends of a mean.
    expected = [
        max(min(values[start:end].mean() for end in range(k + 1, 41)) for start in range(k + 1)) for k in range(40)
    ]
    assert sorted({round(rung.disagreement, 9) for rung in found}) == sorted({round(v, 9) for v in expected})


def test_a_loss_is_found_between_the_rungs_of_all_curves() -> None:
    rungs = [point(1, 8, 1.0), point(1, 2, -0.1), point(1, 4, 0.2)]
    assert value_at_loss(rungs, "disagreement", 0.6) == pytest.approx(6)
    assert value_at_loss(rungs, "disagreement", 0.1) == pytest.approx(2)  # half-way from nothing lost to 0.2 at 4
    assert value_at_loss(rungs, "divergence", 0.6) == pytest.approx(0.06)
    assert value_at_loss(rungs, "disagreement", 1.01) is None
    assert value_at_loss([], "disagreement", 0.1) is None


def curves(factor: float) -> Curves:
    """Ours are `factor` times as large as nncodec's, whose helped files are a tenth smaller."""
    theirs = [point(1000 / d, d, d / 4) for d in (0.1, 0.2, 0.5, 1, 2, 4, 8)]
    ours = [point(factor * p.nbytes, p.disagreement, p.lost) for p in theirs]
    return Curves(ours, theirs, [point(0.9 * p.nbytes, p.disagreement, p.lost) for p in theirs])


@pytest.mark.parametrize(("factor", "met"), [(0.84, [True, True]), (0.88, [True, False]), (0.91, [False, False])])
def test_goals_are_of_the_mean_over_the_range(factor: float, met: list[bool]) -> None:
    found = rate.rows("x", curves(factor))
    assert len(found) == 2 * len(rate.LOST)
    assert all(row["of nncodec"] == pytest.approx(factor) for row in found)
    assert rate.smaller(found, "divergence", "nncodec + fp16") == pytest.approx(100 * (1 - factor / 0.9))
    assert [goal.met for goal in rate.goals("x", found)] == met
    assert len(rate.notes("x", found)) == 4
    json.dumps(found)


def test_a_curve_that_ends_early_meets_no_goal() -> None:
    whole = curves(0.5)
    found = rate.rows("x", Curves(whole.ours, whole.alone[4:], whole.helped))
    first = rate.goals("x", found)[0]
    assert not first.met
    assert "does not reach" in first.detail
    assert rate.goals("x", found)[1].met


def test_ladders_have_offsets_between_rungs_of_half_an_octave() -> None:
    steps = [step for rung in rate.ladder(3) for step in rung]
    assert np.diff(np.log2(steps)) == pytest.approx(1 / 6)
    assert [rung[0] for rung in rate.ladder(3)] == [rung[0] for rung in rate.ladder(1)]


def test_nncodec_has_two_settings_in_half_an_octave() -> None:
    assert rate.nncodec_ladder(3)[:2] == rate.nncodec_ladder(2)[:2] == [[-32, -31], [-30, -29]]
    assert rate.nncodec_ladder(1)[:2] == [[-32], [-30]]


def test_a_curve_averages_its_rungs_and_ends_where_enough_is_lost() -> None:
    asked = []

    def sample(step: float) -> tuple[int, Any]:
        asked.append(step)
        return int(1000 / step), {"w": np.array(step)}

    def judge(weights: Any) -> Verdict:
        return Verdict(float(weights["w"]), float(weights["w"]) / 10, float(weights["w"]))

    found = curve([(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)], sample, judge, enough=3.0)
    assert asked == [1, 2, 3, 4]
    assert found == [
        Point(pytest.approx(math.sqrt(1000 * 500)), 1.5, pytest.approx(0.15), 1.5),
        Point(pytest.approx(math.sqrt(333 * 250)), 3.5, pytest.approx(0.35), 3.5),
    ]


def test_verdicts_are_those_of_the_formulas() -> None:
    before = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]], np.float32)
    after = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 0.0]], np.float32)
    verdict = compare(before, after, np.array([0, 1, 0, 0]))
    p = math.e / (1 + math.e)
    assert verdict.disagreement == 25
    assert verdict.divergence == pytest.approx((p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)) / 4)
    assert verdict.lost == 25
    assert compare(before, before, np.array([0, 1, 0, 0])) == Verdict(0, 0, 0)
    # A constant added to all logits changes nothing, however large.
    assert compare(before, after + np.float32(500), np.array([0, 1, 0, 0])).divergence == pytest.approx(
        verdict.divergence, abs=1e-6
    )


@pytest.fixture(scope="module")
def network() -> dict[str, Any]:
    torch.manual_seed(0)
    state = {name: tensor.numpy() for name, tensor in CifarResNet(8).state_dict().items()}
    # As they are first, norms are all alike.
    norms = {name: 1 + RANDOM.random(a.shape, np.float32) for name, a in state.items() if a.ndim == 1}
    return state | norms


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return resnet.images(RANDOM.integers(0, 256, (8, 32, 32, 3), np.uint8))


def test_verdicts_are_kept(tmp_path: Path, network: Any, inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros(8, np.int64)
    other = {**network, "linear.weight": np.roll(network["linear.weight"], 1, axis=0)}
    verdict = Judge(8, network, inputs, labels, tmp_path)(other)
    assert verdict.divergence > 0
    assert Judge(8, network, inputs, labels, tmp_path)(network) == Verdict(0, 0, 0)
    monkeypatch.setattr(resnet, "logits", None)  # a second look would fail
    assert Judge(8, network, inputs, labels, tmp_path)(other) == verdict
    with pytest.raises(TypeError):
        Judge(8, network, inputs + 1, labels, tmp_path)(other)


def test_digests_tell_names_types_shapes_and_values_apart() -> None:
    weights = {"a": np.zeros((2, 2), np.float32), "b": np.ones(2, np.float32)}
    others = [
        {"a": weights["a"], "c": weights["b"]},
        {**weights, "a": np.zeros(4, np.float32)},
        {**weights, "b": weights["b"].view(np.int32)},
        {**weights, "b": np.array([1, 2], np.float32)},
    ]
    digests = {rate_points.digest(found) for found in (weights, *others)}
    assert len(digests) == 5
    assert rate_points.digest(dict(reversed(weights.items()))) == rate_points.digest(weights)


def test_a_family_is_safe_at_another_step() -> None:
    recipe = parse_recipe(Family("max", {"rate_weight": 0.05}).recipe(0.7))
    step = recipe.steps[0].model_dump()
    assert (step["relative_step"], step["rate_weight"], step["error_feedback"]) == (0.7, 0.05, True)
    assert recipe.encoding.level == "max"
    assert recipe.encoding.small_tensors == "float16"


def test_files_shrink_with_the_step_and_decode(tmp_path: Path, network: Any) -> None:
    family = Family("balanced", {})
    fine, coarse = (family.sample(network, step, tmp_path) for step in (0.2, 0.8))
    assert coarse[0] < fine[0]
    assert coarse[0] == (tmp_path / "model.sqz").stat().st_size
    assert coarse[1].keys() == network.keys()
    loaded = squeezer.load(tmp_path / "model.sqz")
    assert all(np.array_equal(coarse[1][name], loaded[name]) for name in network)


class _Nncodec:
    """Stands for nncodec: adds `qp` to every value, and asks for a byte for each."""

    def settings(self, arrays: Any, qps: Any, folder: Path) -> dict[int, Setting]:
        count = sum(array.size for array in arrays.values())
        matrices = sum(array.size for array in arrays.values() if array.ndim >= 2)
        return {qp: Setting(count, matrices, {name: a + np.float32(qp) for name, a in arrays.items()}) for qp in qps}


def test_nncodec_is_measured_alone_and_with_our_small_tensors(tmp_path: Path, network: Any) -> None:
    small = rate_points.small_tensors(network, Family("balanced", {}), 0.5, tmp_path)
    assert all(array.ndim < 2 for array in small[1].values())
    count = sum(array.size for array in network.values() if array.ndim == 1)
    assert 0.5 * 2 * count < small[0] < 2 * count + 50 * len(small[1])
    rival = Rival(_Nncodec(), network, small, tmp_path)  # type: ignore[arg-type] # a stand-in

    floats = {name: a for name, a in network.items() if a.dtype == np.float32}
    nbytes, weights = rival.alone(-3.0)
    assert nbytes == sum(array.size for array in floats.values())
    assert all(np.array_equal(weights[name], a - np.float32(3)) for name, a in floats.items())
    assert weights["bn1.num_batches_tracked"] == network["bn1.num_batches_tracked"]

    nbytes, weights = rival.helped(-3.0)
    assert nbytes == small[0] + sum(a.size for a in floats.values() if a.ndim >= 2)
    assert np.array_equal(weights["conv1.weight"], network["conv1.weight"] - np.float32(3))
    halved = network["bn1.weight"].astype(np.float16).astype(np.float32)
    assert np.array_equal(weights["bn1.weight"], halved)


def test_arguments_name_the_family() -> None:
    given = rate.arguments().parse_args(["--level", "balanced", "--set", "error_feedback=false", "rate_weight=0.1"])
    assert rate.family(given) == Family("balanced", {"error_feedback": False, "rate_weight": 0.1})


def test_the_plot_shows_all_curves_and_stays_small(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.rate_plot import plot

    out = tmp_path / "rate.svg"
    plot({"resnet20": curves(0.8), "resnet56": curves(0.9)}, out)
    text = out.read_text()
    for words in ("resnet20", "resnet56", "squeezer", "nncodec"):
        assert re.search(f">{words}<", text), words
    assert out.stat().st_size < 60_000


def test_without_nncodec_there_is_nothing_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nnc.VARIABLE, raising=False)
    monkeypatch.setattr("sys.argv", ["rate"])
    with pytest.raises(SystemExit, match="--nncodec"):
        rate.main()
    monkeypatch.setattr("sys.argv", ["rate", "--nncodec", "python", "--networks", "resnet20,vgg"])
    with pytest.raises(SystemExit, match="no such network: vgg; there are resnet20, resnet56"):
        rate.main()
