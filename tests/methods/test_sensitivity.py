"""The step finds what was planted, leaves the network as it is, and its figures are those of zeroing by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.special import softmax

from squeezer.data import DataSpec
from squeezer.data.dataset import Split
from squeezer.errors import DataError
from squeezer.methods import Sensitivity
from squeezer.representations import Dense, Masked, digest
from squeezer.training.network import Network
from squeezer.training.sensitivity import survey
from squeezer.training.trial import zero_levels
from squeezer.training.workbench import State
from tests.methods.residual import LAYERS, trained
from tests.training.building import ArrayDataset, bench, digits

WEIGHTS = {f"{layer}.weight" for layer in LAYERS}
IDLE = ["idle.a.weight", "idle.b.weight"]


def found(data: ArrayDataset | None = None, state: State | None = None, **settings: Any) -> dict[str, Any]:
    around = bench(trained(), data or digits())
    Sensitivity(**settings).run(state or trained(), WEIGHTS, around)
    findings: dict[str, Any] = around.findings["sensitivity"]
    json.dumps(findings, allow_nan=False)
    return findings


def by_name(findings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in findings["tensors"]}


def outputs(tensors: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Of the validation rows."""
    data = digits()
    inputs, _ = data.batch(Split.VALIDATION, np.arange(data.size(Split.VALIDATION)))
    given = {name: torch.from_numpy(array) for name, array in tensors.items()}
    result = Network(trained().graph)(given, [torch.from_numpy(array) for array in inputs])
    assert isinstance(result, torch.Tensor)
    return result.numpy()


def by_hand(changed: dict[str, NDArray[Any]]) -> tuple[float, float]:
    """Divergence and agreement where these tensors take others' place."""
    tensors = {name: tensor.decode() for name, tensor in trained().tensors.items()}
    before, after = outputs(tensors), outputs(tensors | changed)
    p, q = (softmax(x.astype(np.float64), 1) for x in (before, after))
    return float((p * np.log(p / q)).sum(1).mean()), float(np.mean(before.argmax(1) == after.argmax(1)))


def pruned(name: str, share: float) -> NDArray[Any]:
    weights = trained().tensors[name].decode()
    flat = weights.reshape(-1)
    flat[np.argsort(np.abs(flat), kind="stable")[: round(share * flat.size)]] = 0
    return weights


# What it finds --------------------------------------------------------------------------------------------


def test_the_planted_bottleneck_matters_most_and_the_idle_block_least() -> None:
    findings = found()
    ranked = [row["name"] for row in findings["tensors"]]
    assert ranked[0] == "neck.weight"
    assert sorted(ranked[-2:]) == IDLE
    rows = by_name(findings)
    assert rows["neck.weight"]["sensitivity"] > 100 * rows["idle.a.weight"]["sensitivity"]
    assert rows["neck.weight"]["suggested"] == 0.0
    assert rows["idle.a.weight"]["suggested"] == 1.0


def test_the_idle_block_can_go_and_the_other_cannot() -> None:
    findings = found()
    assert findings["removable"] == [IDLE]
    assert findings["removed"]["divergence"] < 1e-3
    assert [group["names"] for group in findings["groups"]] == [["one.a.weight", "one.b.weight"], IDLE]


def test_figures_are_those_of_zeroing_by_hand() -> None:
    findings = found(sparsities=(0.3, 0.9))
    row = by_name(findings)["stem.weight"]
    for i, share in enumerate((0.3, 0.9)):
        divergence, agreement = by_hand({"stem.weight": pruned("stem.weight", share)})
        assert row["divergence"][i] == pytest.approx(divergence, rel=1e-4)
        assert row["agreement"][i] == pytest.approx(agreement)
    group = findings["groups"][0]
    divergence, _ = by_hand({name: pruned(name, 0.9) for name in group["names"]})
    assert group["divergence"][1] == pytest.approx(divergence, rel=1e-4)
    assert group["divergence"][1] != pytest.approx(by_name(findings)["one.a.weight"]["divergence"][1], rel=0.01)


def test_suggestions_are_measured_together() -> None:
    findings = found(sparsities=(0.1, 0.3, 0.5), max_divergence=0.02)
    suggested = {row["name"]: row["suggested"] for row in findings["tensors"]}
    assert any(0 < share < 0.5 for share in suggested.values())
    divergence, agreement = by_hand({name: pruned(name, share) for name, share in suggested.items() if share})
    assert findings["together"]["divergence"] == pytest.approx(divergence, rel=1e-3)
    assert findings["together"]["agreement"] == pytest.approx(agreement)
    sizes = {name: trained().tensors[name].decode().size for name in suggested}
    wanted = sum(suggested[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert findings["together"]["sparsity"] == pytest.approx(wanted)


def test_a_tolerance_of_agreement_limits_suggestions_too() -> None:
    loose, strict = (
        sum(row["suggested"] for row in found(sparsities=(0.2, 0.4), max_divergence=0.2, **more)["tensors"])
        for more in ({}, {"min_agreement": 0.985})
    )
    assert strict < loose


def twins() -> State:
    """Each weight of the block `one` is half of itself and can be spared alone, since the other half is in `idle`."""
    tensors = dict(trained().tensors)
    for leaf in ("a.weight", "a.bias", "b.weight", "b.bias"):
        values = tensors[f"one.{leaf}"].decode()
        for block in ("one", "idle"):
            tensors[f"{block}.{leaf}"] = Dense(values * (0.1 if leaf[0] == "b" else 1), np.dtype(np.float32))
    return State(trained().graph, tensors)


def test_what_can_go_is_judged_together() -> None:
    """Either of two alike blocks is cheap; both are dear, and so only one is called free."""
    state = twins()
    around = bench(state, digits())
    Sensitivity(sparsities=(1.0,)).run(state, WEIGHTS, around)
    each = [group["divergence"][0] for group in around.findings["sensitivity"]["groups"]]
    around = bench(state, digits())
    Sensitivity(sparsities=(1.0,), max_divergence=1.01 * max(each)).run(state, WEIGHTS, around)
    findings = around.findings["sensitivity"]
    assert len(findings["removable"]) == 1
    around = bench(state, digits())
    Sensitivity(sparsities=(1.0,), max_divergence=10 * max(each)).run(state, WEIGHTS, around)
    assert len(around.findings["sensitivity"]["removable"]) >= 2  # the negative control


def test_a_layer_of_a_group_is_never_called_free_by_itself() -> None:
    """`one.b` hardly matters here, since what it adds is small; its partner is what would be counted again."""
    findings = found(sparsities=(1.0,), max_divergence=50)
    free = [names for names in findings["removable"] if "one.a.weight" in names or "one.b.weight" in names]
    assert free in ([["one.a.weight", "one.b.weight"]], [])
    assert all(len(names) == 2 or names[0].split(".")[0] not in ("one", "idle") for names in findings["removable"])


# What it leaves alone -------------------------------------------------------------------------------------


def test_the_network_is_left_bit_identical() -> None:
    state = trained()
    before = {name: digest(tensor) for name, tensor in state.tensors.items()}
    around = bench(state, digits())
    after = Sensitivity().run(state, WEIGHTS, around)
    assert after.graph == state.graph
    assert {name: digest(tensor) for name, tensor in after.tensors.items()} == before
    # and the digests would tell
    weights = state.tensors["neck.weight"].decode()
    weights[0, 0] = np.nextafter(weights[0, 0], 1)
    assert digest(Dense(weights, weights.dtype)) != before["neck.weight"]


def test_a_pruned_network_is_compared_with_the_original() -> None:
    tensors = dict(trained().tensors)
    stem = pruned("stem.weight", 0.5)
    tensors["stem.weight"] = Masked(stem, stem != 0)
    findings = found(state=State(trained().graph, tensors), sparsities=(0.4, 0.5))
    divergence, _ = by_hand({"stem.weight": stem})
    assert findings["unchanged"]["divergence"] == pytest.approx(divergence, rel=1e-4)
    # The zeros that are there count.
    assert by_name(findings)["stem.weight"]["divergence"] == pytest.approx([divergence] * 2, rel=1e-4)


# What must not matter -------------------------------------------------------------------------------------


def test_the_batch_size_changes_nothing() -> None:
    step = Sensitivity(sparsities=(0.5, 1.0))
    one, other = (survey(step, trained(), WEIGHTS, bench(trained(), digits()), size) for size in (7, 180))
    for a, b in zip(one["tensors"], other["tensors"], strict=True):
        assert a["name"] == b["name"]
        assert a["divergence"] == pytest.approx(b["divergence"], rel=1e-4, abs=1e-7)
        assert a["agreement"] == b["agreement"]
        assert a["metric"] == b["metric"]


def shuffled() -> ArrayDataset:
    """The digits with labels that mean nothing."""
    targets = digits().targets
    assert targets is not None
    return digits().but(targets=np.random.default_rng(0).permutation(targets))


def test_labels_that_mean_nothing_change_the_metric_alone() -> None:
    true, false, none = found(), found(shuffled()), found(digits().without_targets())
    for name, row in by_name(true).items():
        for other in (by_name(false)[name], by_name(none)[name]):
            assert other["divergence"] == row["divergence"]
            assert other["agreement"] == row["agreement"]
            assert other["suggested"] == row["suggested"]
    # The metric would rank nothing: it is chance, whatever is zeroed.
    spread = [value for row in false["tensors"] for value in row["metric"]]
    assert max(spread) < 0.25 < 0.9 < true["unchanged"]["metric"]
    assert none["metric"] is none["unchanged"]["metric"] is none["tensors"][0]["metric"][0] is None


def test_rows_are_a_part_of_the_validation_split() -> None:
    findings = found(rows=50)
    assert findings["rows"] == 50
    assert found(rows=10_000)["rows"] == digits().size(Split.VALIDATION)


def test_networks_that_give_values() -> None:
    """Divergence is the squared deviation over twice the squared spread, and ranks in the same way."""
    wanted = np.random.default_rng(0).normal(size=(len(digits().inputs[0]), 10)).astype(np.float32)
    around = bench(trained(), digits().but(targets=wanted), spec=DataSpec(loss="mse"))
    Sensitivity(sparsities=(0.5,)).run(trained(), WEIGHTS, around)
    findings = around.findings["sensitivity"]
    row = by_name(findings)["stem.weight"]
    tensors = {name: tensor.decode() for name, tensor in trained().tensors.items()}
    before = outputs(tensors).astype(np.float64)
    after = outputs(tensors | {"stem.weight": pruned("stem.weight", 0.5)})
    assert row["divergence"][0] == pytest.approx(np.mean((after - before) ** 2) / (2 * before.var(0).mean()), rel=1e-4)
    assert row["agreement"] == [None]
    assert findings["tensors"][0]["name"] == "neck.weight"


def test_weights_that_are_no_numbers_are_never_free() -> None:
    tensors = dict(trained().tensors)
    tensors["idle.a.bias"] = Dense(np.full(32, np.nan, np.float32), np.dtype(np.float32))
    findings = found(state=State(trained().graph, tensors), sparsities=(1.0,))
    assert findings["removable"] == []
    assert findings["unchanged"]["divergence"] is None
    assert findings["tensors"][0]["sensitivity"] == 1.0


def test_progress_is_told_to_the_end() -> None:
    told: list[float] = []
    around = bench(trained(), digits(), tell=lambda share, note="": told.append(share))
    Sensitivity(sparsities=(0.5, 1.0)).run(trained(), WEIGHTS, around)
    assert told == sorted(told)
    assert told[-1] == 1.0


# Small parts ----------------------------------------------------------------------------------------------


def test_levels_say_from_which_share_on_a_weight_is_zero() -> None:
    weights = np.array([[0.5, -0.1], [0.1, -2.0], [0.0, 1.0]], np.float32)
    assert zero_levels(weights, (1 / 6, 0.5, 1.0)).tolist() == [[3, 2], [2, 3], [1, 3]]
    assert zero_levels(weights, (0.5,)).tolist() == [[2, 1], [1, 2], [1, 2]]


@pytest.mark.parametrize("sparsities", [(), (0.0, 0.5), (0.5, 0.5), (0.9, 0.5), (0.5, 1.1)])
def test_sparsities_that_make_no_sense(sparsities: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        Sensitivity(sparsities=sparsities)


def test_overrides_are_refused() -> None:
    with pytest.raises(ValidationError, match="no overrides"):
        Sensitivity(overrides={"fc*": {"rows": 5}})


def test_no_validation_rows() -> None:
    data = ArrayDataset((np.zeros((3, 64), np.float32),), None, np.full(3, "train"))
    with pytest.raises(DataError, match="no validation rows"):
        found(data)
