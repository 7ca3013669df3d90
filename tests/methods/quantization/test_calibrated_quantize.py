"""Calibration keeps outputs nearer than steps alone, reaches every kind of network, and refuses what it cannot do."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

import squeezer
from squeezer.data.dataset import Split
from squeezer.errors import DataError
from squeezer.formats import open_model
from squeezer.methods import CalibratedQuantize, CorrectChannels, FoldBatchNorm, MagnitudePrune, UniformQuantize
from squeezer.methods.quantization.calibration import nearest_weights
from squeezer.pipeline import run
from squeezer.recipe import parse_recipe
from squeezer.representations import Trellis
from squeezer.training.lockstep import Lockstep, calibration, shapes
from squeezer.training.moments import Gathered
from squeezer.training.workbench import State, Workbench
from tests.methods.quantization.networks import Mixed, exported, lived_in, outputs, rows_of, weights_of
from tests.training.building import ArrayDataset, bench, digests
from tests.training.networks import examples

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATOR = torch.Generator().manual_seed(1)
#: Images whose places resemble each other, for calibration and for judging.
X, UNSEEN = (nn.functional.avg_pool2d(torch.randn(400, 3, 12, 12, generator=GENERATOR), 4, 1) * 4 for _ in range(2))
STEP = 1.0


@cache
def _mixed(folder: Path) -> State:
    torch.manual_seed(0)
    state = exported(lived_in(Mixed(), X), X, folder)
    return FoldBatchNorm().run(state, weights_of(state), bench(state, rows_of(X)))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> State:
    return _mixed(tmp_path_factory.mktemp("mixed"))


def around(state: State, data: ArrayDataset) -> Workbench:
    return bench(state, data)


def uniform(state: State) -> State:
    """The same levels without data."""
    step = UniformQuantize(relative_step=STEP, scope="global", error_feedback=True, trellis=True)
    names = weights_of(state)
    surveyed = step.survey(lambda: [(name, state.tensors[name]) for name in state.tensors if name in names])
    changed = {name: step.apply(name, state.tensors[name], surveyed, 0) for name in names}
    return State(state.graph, state.tensors | changed)


def calibrated(state: State, data: ArrayDataset | None = None, **settings: Any) -> State:
    work = around(state, rows_of(X) if data is None else data)
    return CalibratedQuantize(relative_step=STEP, **settings).run(state, weights_of(state), work)


def error(state: State, found: State, x: torch.Tensor = UNSEEN) -> float:
    return float(np.square(outputs(found, x) - outputs(state, x)).mean())


def nbytes(state: State) -> float:
    return sum(tensor.cost_bits() for tensor in state.tensors.values() if isinstance(tensor, Trellis)) / 8


def test_outputs_are_nearer_than_without_data_at_the_same_steps(mixed: State) -> None:
    found, plain = calibrated(mixed), uniform(mixed)
    corrected = CorrectChannels().run(plain, weights_of(mixed), around(mixed, rows_of(X)))
    assert error(mixed, found) < 0.6 * error(mixed, corrected)
    assert error(mixed, found) < 0.3 * error(mixed, plain)
    assert nbytes(found) < 1.05 * nbytes(plain)
    for name in weights_of(mixed):
        first, second = found.tensors[name], plain.tensors[name]
        assert isinstance(first, Trellis)
        assert isinstance(second, Trellis)
        assert first.step == second.step


def test_negative_control_other_data_do_worse(mixed: State) -> None:
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(9)) * 3 - 5
    assert error(mixed, calibrated(mixed, rows_of(noise))) > 1.5 * error(mixed, calibrated(mixed))


def test_the_same_seed_gives_the_same_bytes(mixed: State) -> None:
    first, second = calibrated(mixed, rows=100), calibrated(mixed, rows=100)
    assert digests(first) == digests(second)


def test_pruned_weights_stay_pruned_and_are_made_good(mixed: State) -> None:
    prune = MagnitudePrune(sparsity=0.5)
    masked = {name: prune.apply(name, mixed.tensors[name], None, 0) for name in weights_of(mixed)}
    pruned = State(mixed.graph, mixed.tensors | masked)
    found = calibrated(pruned)
    for name, tensor in masked.items():
        assert not found.tensors[name].decode()[~tensor.mask].any()
    assert error(pruned, found) < error(pruned, uniform(pruned))


def test_only_selected_tensors_change(mixed: State) -> None:
    found = CalibratedQuantize(relative_step=STEP).run(mixed, {"point.weight"}, around(mixed, rows_of(X)))
    changed = {name for name, tensor in mixed.tensors.items() if found.tensors[name] is not tensor}
    assert changed == {"point.weight", "norm3.bias"}


def test_findings_and_steps_of_single_tensors(mixed: State) -> None:
    work = around(mixed, rows_of(X))
    step = CalibratedQuantize(relative_step=STEP, scope="tensor", rows=50, overrides={"out*": {"relative_step": 0.1}})
    found = step.run(mixed, weights_of(mixed), work)
    findings = work.findings["calibrated_quantize"]
    assert findings["rows"] == 50
    assert set(findings["calibrated"]) == weights_of(mixed)
    assert findings["without_data"] == []
    out = found.tensors["out.weight"]
    assert isinstance(out, Trellis)
    own = float(np.square(mixed.tensors["out.weight"].decode()).mean()) ** 0.5
    assert float(out.step) == pytest.approx(0.05 * own, rel=1e-4)


@pytest.mark.parametrize("kind", examples())
def test_every_kind_of_network(kind: str, tmp_path: Path) -> None:
    module, x = examples()[kind]
    state = exported(module.eval(), x, tmp_path)
    tokens = x.dtype == torch.int64
    generator = torch.Generator().manual_seed(2)
    shape = (48, *x.shape[1:])
    rows = torch.randint(0, 10, shape, generator=generator) if tokens else torch.randn(shape, generator=generator)
    work = around(state, rows_of(rows))
    found = CalibratedQuantize(relative_step=0.3).run(state, weights_of(state), work)
    assert all(isinstance(found.tensors[name], Trellis) for name in weights_of(state))
    findings = work.findings["calibrated_quantize"]
    assert set(findings["calibrated"]) | set(findings["without_data"]) == weights_of(state)
    assert findings["calibrated"]
    CorrectChannels().run(found, weights_of(state), work)


def test_the_nearest_weights_are_those_of_least_squares() -> None:
    random = np.random.default_rng(0)
    x, weights = random.standard_normal((300, 6)), random.standard_normal((4, 6))
    seen = x + 0.5 * random.standard_normal(x.shape) + 0.3 * x[:, ::-1]
    wanted = x @ weights.T
    moments = Gathered((seen.T @ seen)[None] / 300, (wanted - seen @ weights.T).T @ seen / 300, 300)
    expected = np.linalg.lstsq(seen, wanted, rcond=None)[0].T
    assert nearest_weights(weights, moments, 1e-12) == pytest.approx(expected, abs=1e-5)
    still = nearest_weights(weights, moments, 1e9)
    assert still == pytest.approx(weights, abs=1e-5)


def test_both_networks_of_a_lockstep_compute_what_they_do_alone(mixed: State) -> None:
    other = uniform(mixed)
    both = Lockstep(mixed.graph, mixed, other, [(X[:40].numpy(),), (X[40:60].numpy(),)], "cpu")
    seen: list[tuple[NDArray[Any], NDArray[Any]]] = []
    last = mixed.graph.outputs[0].name

    def after(_: int) -> None:
        if last in both.pairs[0].first:
            seen[:] = [(pair.first[last].numpy(), pair.second[last].numpy()) for pair in both.pairs]  # type: ignore[misc]

    both.run(lambda _: None, after)
    for side, state in enumerate((mixed, other)):
        found = np.concatenate([pair[side] for pair in seen])
        assert found == pytest.approx(outputs(state, X[:60]), abs=1e-5)


def test_rows_are_limited_by_memory(mixed: State, monkeypatch: pytest.MonkeyPatch) -> None:
    from squeezer.training import lockstep

    extents = shapes(mixed)
    whole = list(calibration(rows_of(X), mixed.graph, extents, 300, 0))
    assert sum(len(batch[0]) for batch in whole) == 300
    monkeypatch.setattr(lockstep, "_MEMORY", 1 << 16)
    few = list(calibration(rows_of(X), mixed.graph, extents, 300, 0))
    assert 1 <= sum(len(batch[0]) for batch in few) < 60


def test_without_training_rows_it_says_so(mixed: State) -> None:
    with pytest.raises(DataError, match="send more"):
        calibrated(mixed, ArrayDataset((X.numpy(),), None, np.full(len(X), Split.TEST.value)))


def test_overrides_set_steps_alone() -> None:
    with pytest.raises(ValidationError, match="relative_step alone"):
        CalibratedQuantize(overrides={"fc*": {"damping": 0.5}})


@pytest.mark.parametrize("with_data", [False, True])
def test_from_a_pt2_to_a_file_that_loads_into_the_users_class(tmp_path: Path, with_data: bool) -> None:
    torch.manual_seed(0)
    module = lived_in(Mixed(), X)
    model = open_model(squeezer.export(module, X[:2], tmp_path / "model.pt2"))
    np.savez(tmp_path / "rows.npz", x=X.numpy())
    step = {"relative_step": 0.1, "scope": "global"}
    plain = {"method": "uniform_quantize", "trellis": True, "error_feedback": True, **step}
    steps = [{"method": "calibrated_quantize", **step}] if with_data else [plain, {"method": "correct_channels"}]
    recipe = parse_recipe({"steps": [{"method": "fold_batch_norm"}, *steps]})
    report = run(model, recipe, tmp_path / "model.sqz", data=tmp_path / "rows.npz" if with_data else None)
    assert [step.method for step in report.steps] == [one["method"] for one in [{"method": "fold_batch_norm"}, *steps]]
    with torch.no_grad():
        before = module(UNSEEN)
        decoded = squeezer.load(tmp_path / "model.sqz")
        module.load_state_dict({name: torch.from_numpy(array) for name, array in decoded.items()})
        after = module(UNSEEN)
    assert float((after - before).square().mean()) < 0.01 * float(before.var())
    assert report.tensor_bytes > 2 * sum(layer.stored_bytes for layer in report.layers)
