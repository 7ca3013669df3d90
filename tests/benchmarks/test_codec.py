from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    codec,
    codec_coders,
    codec_data,
    codec_files,
    codec_lenet,
    codec_load,
    codec_lossless,
    codec_overhead,
    codec_rows,
    codec_symbols,
)
from benchmarks.codec_coders import Coded
from benchmarks.common import DATA_VARIABLE, Outcome
from benchmarks.nnc import Figures
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS
from squeezer.codecs.symbols import histogram
from squeezer.recipe import parse_recipe

COUNT = 20_000


@pytest.fixture(scope="module")
def drawn() -> codec_data.Symbols:
    return codec_data.pruned("pruned", COUNT, levels=31, sparsity=0.9)


def coded(coder: str, nbytes: int, seconds: float | None = 1.0) -> Coded:
    return Coded(coder, COUNT, nbytes, seconds, seconds, seconds, to_symbols=seconds)


def given(*words: str) -> argparse.Namespace:
    return codec.arguments().parse_args(words)


def test_pruned_weights_are_zero_and_levels_follow_the_values(drawn: codec_data.Symbols) -> None:
    assert 0.88 < np.mean(drawn.codes == 0) < 0.92
    assert drawn.codes.max() <= 31
    assert drawn.values[0] == 0
    assert drawn.levels[0] == 0
    assert sorted(drawn.levels[1:]) == list(drawn.levels[1:])
    assert 0 not in drawn.levels[1:]
    again = codec_data.pruned("pruned", COUNT, levels=31, sparsity=0.9)
    assert np.array_equal(drawn.codes, again.codes)


def test_levels_of_four_are_those_in_the_literature() -> None:
    # Max (1960), table I, N = 4.
    assert np.allclose(codec_data.lloyd_max(4), [-1.510, -0.4528, 0.4528, 1.510], atol=1e-3)


def test_every_gaussian_weight_takes_the_nearest_level() -> None:
    drawn = codec_data.gaussian("g", 2000, levels=16, seed=3)
    weights = np.random.default_rng(3).standard_normal(2000, np.float32)
    nearest = [min(range(16), key=lambda c: abs(float(w) - float(drawn.values[c]))) for w in weights]
    assert drawn.codes.tolist() == nearest


def test_levels_count_from_zero_in_order_of_value() -> None:
    codebook = np.array([0.5, -0.2, 0.1, -0.9], np.float32)
    assert codec_data.levels_of(codebook).tolist() == [0, 2, -1, 1, -2]


def test_entropy_is_that_of_the_formula() -> None:
    counted = histogram(np.array([0, 0, 0, 3, 3, 5], np.uint8))
    assert counted is not None
    bits = 3 * math.log2(2) + 2 * math.log2(3) + math.log2(6)
    assert codec_coders.entropy_bytes(counted) == pytest.approx(bits / 8)


def test_every_registered_coder_and_zstd_are_measured(drawn: codec_data.Symbols) -> None:
    group = list(codec_coders.symbol_coders(drawn.codes, drawn.values, runs=1))
    names = [found.coder for found in group]
    ours = [found.name for found in (*SYMBOL_CODECS.values(), *ARRAY_CODECS.values())]
    assert names[: len(ours)] == ours
    assert {"zstd -1", "zstd -3", "zstd -19"} <= set(names)
    assert all(found.count == COUNT and found.nbytes > 0 and found.decode for found in group)
    rows = codec_symbols.symbol_rows("pruned", group, entropy=1000.0)
    for line, found in zip(rows, group, strict=True):
        assert line["% above entropy"] == pytest.approx(found.nbytes / 10 - 100)
        assert line["bits/weight"] == pytest.approx(8 * found.nbytes / COUNT)
        assert line["ratio"] == pytest.approx(4 * COUNT / found.nbytes)


class _Forgetful:
    """A coder of integers that gives back the first value for all of them."""

    number, name = 99, "forgetful"

    def plan(self, integers: Any, counted: Any) -> Any:
        return next(iter(SYMBOL_CODECS.values())).plan(integers, counted)

    def read(self, data: Any, out: Any, meaning: Any) -> None:
        data.rest("values")
        out[:] = meaning.of_range(0, 1)[0]


def test_a_coder_that_loses_something_is_not_measured(drawn: codec_data.Symbols) -> None:
    with pytest.raises(RuntimeError, match="forgetful does not give back"):
        codec_coders.symbol_codec(_Forgetful(), drawn.codes, drawn.values, runs=1)


@pytest.mark.parametrize(("nbytes", "warm", "met"), [(101, 0.9, True), (102, 0.9, False), (101, 1.2, False)])
def test_goals_of_gaps_are_of_bytes_and_of_the_warm_buffer(nbytes: int, warm: float, met: bool) -> None:
    gaps = replace(coded("gaps", nbytes, 9.0), warm=warm)
    group = [gaps, coded("zstd -1", 200), coded("rans", 100)]
    goals = codec_symbols.symbol_goals("pruned 90 %, 31 levels", group, entropy=100.0, rival=COUNT)
    assert all(goal.met for goal in goals) == met


@pytest.mark.parametrize(("seconds", "met"), [(0.9, True), (1.1, False)])
def test_huffman_is_compared_with_zstd(seconds: float, met: bool) -> None:
    group = [coded("huffman", 101, seconds), coded("zstd -19", 90, 5.0), coded("zstd -1", 200, 1.0)]
    goals = codec_symbols.symbol_goals("Gaussian", group, entropy=100.0, rival=COUNT)[:3]
    assert [goal.met for goal in goals] == [True, met, met]
    assert f"{1 / seconds:.4g} times as fast" in goals[1].detail


def test_a_coder_that_is_not_there_falls_short() -> None:
    goal = codec_symbols.symbol_goals("Gaussian", [coded("zstd -1", 200)], entropy=100.0, rival=COUNT)[-1]
    assert (goal.name, goal.met) == ("Gaussian, rans", False)


def test_rans_has_goals_of_size_and_of_speed() -> None:
    group = [coded("huffman", 101), coded("zstd -1", 200), coded("rans", 101, 2.5)]
    above, speed = codec_symbols.symbol_goals("Gaussian", group, entropy=100.0, rival=COUNT)[3:]
    assert not above.met
    assert speed.met  # 0.4 of zstd -1's decode, where 500 / 1450 would do


@pytest.mark.parametrize(("best", "theirs", "met"), [(95, 95, [True, True]), (96, 95, [False, False])])
def test_lenet_is_compared_with_both_rivals(best: int, theirs: int, met: list[bool]) -> None:
    group = [coded("best of ours, max", best), coded("gaps", 100), coded("nncodec", theirs)]
    assert [goal.met for goal in codec_lenet.lenet_goals(group)] == met
    assert len(codec_lenet.lenet_goals(group[:2])) == 1


def test_the_best_of_ours_is_chosen_array_by_array(drawn: codec_data.Symbols) -> None:
    dense = codec_data.gaussian("g", COUNT, levels=16)
    integers = {"sparse": drawn.levels[drawn.codes], "dense": dense.levels[dense.codes]}
    group = {found.coder: found.nbytes for found in codec_lenet.integer_coders(integers)}
    alone = [codec_lenet.integer_coders({name: array}) for name, array in integers.items()]
    assert group["best of ours, max"] == sum(min(found.nbytes for found in one) for one in alone)
    assert group["best of ours, max"] < min(group["huffman"], group["gaps"])


def test_whole_files_of_small_tensors_and_their_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors: dict[str, Any] = {"w": random.standard_normal((30, 40), np.float32), "b": np.ones(3, np.float32)}
    ours, decoded = codec_files.whole_file("lossless", tensors, "lossless", tmp_path, runs=1)
    assert ours.nbytes == (tmp_path / "model.sqz").stat().st_size
    assert codec_files.squared_error(tensors, decoded) == (0.0, 0.0)
    # Neither the bias counts nor integers.
    after = {"w": tensors["w"] + np.float32(0.5), "b": tensors["b"] + 1, "i": np.ones((2, 2), np.int64)}
    error, relative = codec_files.squared_error(tensors | {"i": np.full((2, 2), 9)}, after)
    assert error == pytest.approx(1200 * 0.25, rel=1e-5)
    assert relative == pytest.approx(math.sqrt(error / float(np.square(tensors["w"]).sum())), rel=1e-5)


def test_lenet_is_pruned_to_the_shares_of_the_paper() -> None:
    prune, share = parse_recipe(codec_data.lenet_recipe()).steps
    assert {name: settings["sparsity"] for name, settings in prune.overrides.items()} == {
        "fc1.weight": pytest.approx(0.92),
        "fc2.weight": pytest.approx(0.91),
        "fc3.weight": pytest.approx(0.74),
    }
    assert share.model_dump()["bits"] == 5


def test_lenet_learns_from_a_few_images(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    random = np.random.default_rng(0)
    truth = random.integers(0, 10, 1000)
    images = np.zeros((1000, 28, 28), np.uint8)
    images[np.arange(1000), truth, :] = 255
    parts = {"x_train": images, "y_train": truth, "x_test": images[:200], "y_test": truth[:200]}
    np.savez(tmp_path / "mnist.npz", **parts)  # type: ignore[arg-type] # numpy's stubs take keywords for a flag
    tensors, accuracy = codec_data.trained_lenet(tmp_path, epochs=3)
    assert tensors["fc1.weight"].shape == (300, 784)
    assert accuracy > 90


class _Nncodec:
    """Stands for nncodec: four settings double a step, and it takes the one whose error is closest."""

    def model(self, arrays: Any, squared_error: float) -> Figures:
        errors = [sum(float(np.square(_error(array, qp)).sum()) for array in arrays.values()) for qp in range(-30, 0)]
        return Figures(1000, 2.0, 1.0, min(errors, key=lambda error: abs(math.log(error / squared_error))))


def _error(array: Any, qp: int) -> Any:
    step = 2.0 ** (qp / 4)
    return array.astype(np.float64) - np.rint(array.astype(np.float64) / step) * step


@pytest.mark.parametrize("parts", [1, 2])
def test_errors_are_made_equal(tmp_path: Path, parts: int) -> None:
    random = np.random.default_rng(0)
    tensors: dict[str, Any] = {name: random.standard_normal((60, 60), np.float32) for name in "ab"}
    ours, theirs = codec_files.at_equal_error(tensors, _Nncodec(), "balanced", tmp_path, 1, parts)  # type: ignore[arg-type] # a stand-in
    assert theirs.count == ours.count == 7200
    assert theirs.nbytes == 1000 * parts
    assert theirs.encode == 2.0 * parts
    error, relative = codec_files.squared_error(tensors, codec_files.squeezer.load(tmp_path / "model.sqz"))
    given = dict(list(tensors.items())[: 2 // parts])
    wanted = _Nncodec().model(given, error / parts).squared_error * parts
    assert error == pytest.approx(wanted, rel=0.005)
    assert ours.relative_error == theirs.relative_error == pytest.approx(relative)


def test_an_error_that_no_step_has_is_refused(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {"w": np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)}
    with pytest.raises(RuntimeError, match="no step has a squared error"):
        codec_files.equal_step(tensors, tensors, 1e9, tmp_path)


@pytest.mark.parametrize(("size", "encode", "met"), [(100, 15.0, [True, True]), (101, 14.0, [False, False])])
def test_files_are_compared_with_nncodec(size: int, encode: float, met: list[bool]) -> None:
    theirs = replace(coded("nncodec", 100), encode=encode)
    goals = codec_rows.beside_nncodec("x", coded("safe", size), theirs, lead=15)
    assert [goal.met for goal in goals] == met
    assert len(codec_rows.beside_nncodec("x", coded("safe", size), theirs)) == 1


def test_threads_are_judged_where_the_machine_has_two_cores() -> None:
    assert codec_load.thread_goal("fast", 1.0, machine=1.5) is None
    for lead, met in ((1.59, False), (1.61, True)):
        goal = codec_load.thread_goal("fast", lead, machine=1.9)
        assert goal is not None
        assert goal.met == met


def test_lossless_is_bit_for_bit_or_not() -> None:
    before = {"w": np.array([0.0, 1.0], np.float32)}
    assert codec_lossless.bit_for_bit("x", before, {"w": before["w"].copy()}).met
    for other in (np.array([-0.0, 1.0], np.float32), before["w"].astype(np.float64), before["w"].reshape(1, 2)):
        assert not codec_lossless.bit_for_bit("x", before, {"w": other}).met


def test_overhead_is_what_the_ledger_has_beside_coded_weights() -> None:
    ledger = {"values": 1000, "tables": 50, "names": 100, "header": 61}
    whole, beside = codec_overhead.overhead_goals("x", ledger, 1211)
    assert whole.met
    assert not beside.met
    assert not codec_overhead.overhead_goals("x", ledger, 1212)[0].met
    assert codec_overhead.overhead_goals("x", {**ledger, "header": 60}, 1210)[1].met


def test_the_overhead_of_a_real_file_is_measured() -> None:
    outcome = Outcome("x")
    codec_overhead.overhead(given(), None, outcome)
    assert outcome.goals[0].met
    assert {"values", "names"} <= {line["what"] for line in outcome.rows}


def test_what_is_not_here_is_left_out_with_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (DATA_VARIABLE, codec_files.MINILM_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    outcome = Outcome("x")
    codec_lenet.lenet(given(), None, outcome)
    found = [name for name, _ in codec_files.networks(given("--minilm", "/nowhere"), outcome)]
    assert "MiniLM-L6" not in found
    assert "ResNet-56" not in found
    assert any("LeNet-300-100" in note for note in outcome.notes)
    assert any("MiniLM-L6" in note for note in outcome.notes)


def test_every_part_is_described() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(codec.PARTS)


def test_tables_are_by_data_and_without_empty_columns() -> None:
    lines = [
        codec_rows.row("a", coded("x", 10), bytes_before=80, entropy=8.0, rival=2.0),
        codec_rows.row("b", coded("y", 20, None), bytes_before=80, entropy=None, rival=None),
        codec_rows.row("a", coded("z", 40), bytes_before=80, entropy=8.0, rival=2.0),
    ]
    first, second = codec.tables(Outcome("title", rows=lines))
    assert [line["coder"] for line in first.rows] == ["x", "z"]
    assert first.rows[0]["of zstd -1 decode"] == COUNT / 2
    assert list(second.rows[0]) == ["coder", "bytes", "ratio", "bits/weight"]
    json.dumps(lines)


def test_the_plot_shows_every_coder_and_stays_small(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.codec_plot import plot

    out = tmp_path / "codec.svg"
    plot({"pruned": [coded("gaps", 101), coded("zstd -1", 200)]}, {"pruned": 100.0}, {"gaps"}, out)
    text = out.read_text()
    assert re.search(">gaps<", text)
    assert re.search(">zstd -1<", text)
    assert out.stat().st_size < 60_000
