from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from squeezer.data.dataset import Split
from squeezer.methods import Finetune, GradualPrune, MagnitudePrune
from squeezer.representations import Masked
from squeezer.training import loop
from squeezer.training.workbench import State
from tests.training.building import WEIGHTS, accuracy, bench, digests, digits, trained

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"epochs": 2, "batch_size": 64, "alpha": 0}


def run(step: GradualPrune, state: State | None = None, names=WEIGHTS, **work: object):
    state = state or trained()
    at = bench(trained(), digits(), **work)
    return step.run(state, set(names), at), at


def kept(state: State) -> dict[str, int]:
    return {name: int(state.tensors[name].mask.sum()) for name in WEIGHTS}


def test_the_cubic_schedule_by_its_formula():
    """Zhu and Gupta 2017, equation 1, with t0 = 0 and n dt = 60."""
    step = GradualPrune(sparsity=0.9, initial=0.2, until=0.6, every=7)
    due = [i for i in range(100) if step.is_due(i, 100)]
    assert due == [0, 7, 14, 21, 28, 35, 42, 49, 56, 60]
    wanted = [0.9 + (0.2 - 0.9) * (1 - t / 60) ** 3 for t in due]
    assert [step.sparsity_at(t, 100) for t in due] == pytest.approx(wanted)
    assert step.sparsity_at(0, 100) == pytest.approx(0.2)
    assert {step.sparsity_at(t, 100) for t in range(60, 100)} == {0.9}
    assert sum(GradualPrune(sparsity=0.9).is_due(i, 5000) for i in range(5000)) == 101


def test_rounds_keep_the_same_share_each():
    step = GradualPrune(sparsity=1 - 0.5**4, sparsity_schedule="iterative", rounds=4, until=0.6)
    due = [i for i in range(100) if step.is_due(i, 100)]
    assert due == [0, 20, 40, 60]
    assert [step.sparsity_at(t, 100) for t in due] == pytest.approx([1 - 0.5**r for r in (1, 2, 3, 4)])
    assert step.sparsity_at(19, 100) == step.sparsity_at(0, 100)
    once = GradualPrune(sparsity=0.9, sparsity_schedule="iterative", rounds=1)
    assert [i for i in range(100) if once.is_due(i, 100)] == [0]
    assert once.sparsity_at(0, 100) == 0.9


@pytest.mark.parametrize("total", [1, 2, 5])
@pytest.mark.parametrize("schedule", ["cubic", "iterative"])
def test_the_shortest_of_runs_reach_the_sparsity(total, schedule):
    step = GradualPrune(sparsity=0.9, until=1, sparsity_schedule=schedule)
    due = [i for i in range(total) if step.is_due(i, total)]
    assert step.sparsity_at(due[-1], total) == 0.9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"initial": 0.95}, "initial 0.95 is above sparsity 0.9"),
        ({"rounds": 3}, "rounds is of the sparsity_schedule iterative"),
        ({"every": 3, "sparsity_schedule": "iterative"}, "every is of the sparsity_schedule cubic"),
        ({"overrides": {"fc1*": {"sparsity": 0.5, "lr": 1.0}}}, "may not set lr"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        GradualPrune(sparsity=0.9, **settings)


def test_little_by_little_beats_all_at_once():
    """At 95 %, with the same number of epochs, and on average of two seeds."""
    settings = {"epochs": 8, "batch_size": 32, "lr": 0.01, "alpha": 0}
    at_once = {name: MagnitudePrune(sparsity=0.95).apply(name, trained().tensors[name], None, 0) for name in WEIGHTS}
    begun = replace(trained(), tensors={**trained().tensors, **at_once})
    gradual, one_shot = [], []
    for seed in (0, 1):
        result, _ = run(GradualPrune(sparsity=0.95, **settings), seed=seed)
        control = Finetune(**settings).run(begun, set(WEIGHTS), bench(trained(), digits(), seed=seed))
        assert kept(result) == kept(control)
        gradual.append(accuracy(result, digits()))
        one_shot.append(accuracy(control, digits()))
    assert np.mean(gradual) > np.mean(one_shot) + 0.01


def test_the_sparsity_is_exact_and_overrides_count():
    step = GradualPrune(sparsity=0.9, overrides={"fc1*": {"sparsity": 0.5}, "fc3*": {"initial": 0.9}}, **QUICK)
    result, work = run(step)
    assert kept(result) == {"fc1.weight": 9600, "fc2.weight": 3000, "fc3.weight": 100}
    assert not work.events
    assert not isinstance(result.tensors["fc1.bias"], Masked)
    for name in WEIGHTS:
        tensor = result.tensors[name]
        assert not tensor.decode()[~tensor.mask].any()
        assert tensor.decode()[tensor.mask].all()


def test_global_scope_takes_the_smallest_of_all():
    result, _ = run(GradualPrune(sparsity=0.9, scope="global", **QUICK))
    whole = sum(trained().tensors[name].decode().size for name in WEIGHTS)
    assert sum(kept(result).values()) == whole - round(0.9 * whole)
    shares = [kept(result)[name] / trained().tensors[name].decode().size for name in WEIGHTS]
    assert max(shares) > 2 * min(shares)  # the control: by layer they would be equal


def test_only_what_is_selected_is_pruned():
    result, _ = run(GradualPrune(sparsity=0.9, **QUICK), names=["fc2.weight"])
    assert [name for name in WEIGHTS if isinstance(result.tensors[name], Masked)] == ["fc2.weight"]


def test_what_was_pruned_before_stays_pruned_and_the_rest_may_return():
    """A weight that the step itself has pruned keeps its magnitude, and comes back when others become smaller."""
    before = MagnitudePrune(sparsity=0.3).apply("fc2.weight", trained().tensors["fc2.weight"], None, 0)
    begun = replace(trained(), tensors={**trained().tensors, "fc2.weight": before})
    step = GradualPrune(sparsity=0.8, every=1, **(QUICK | {"lr": 0.01}))
    masks = []
    train = loop.train

    def watched(*args, hook, **kwargs):
        def before_update(number, total, tensors):
            hook(number, total, tensors)
            masks.append(tensors["fc2.weight"].mask.numpy().copy())

        return train(*args, hook=before_update, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", watched)
        result, _ = run(step, begun, names=["fc2.weight"])
    assert masks[0].sum() == before.mask.sum()
    assert not any((mask & ~before.mask).any() for mask in masks)
    assert any((later & ~earlier).any() for earlier, later in pairwise(masks))
    counts = [int(mask.sum()) for mask in masks]
    assert counts == sorted(counts, reverse=True)
    assert result.tensors["fc2.weight"].mask.sum() == round(0.2 * 30000)


def test_training_that_blows_up_still_ends_at_the_full_sparsity():
    step = GradualPrune(sparsity=0.9, **(QUICK | {"lr": 1e30, "optimizer": "sgd", "clip": None}))
    result, work = run(step)
    names = [event["event"] for event in work.events]
    assert names == ["loss_not_finite"] * 4 + ["pruned_without_retraining"]
    assert all(one == round(0.1 * trained().tensors[name].decode().size) for name, one in kept(result).items())
    assert all(np.isfinite(tensor.decode()).all() for tensor in result.tensors.values())


def test_it_goes_on_where_it_was_cut_off(tmp_path):
    step = GradualPrune(sparsity=0.9, **QUICK)
    whole, _ = run(step)

    def cut(share, note=""):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(step, folder=tmp_path, tell=cut)
    assert (tmp_path / "training.pt").exists()
    resumed, _ = run(step, folder=tmp_path)
    assert digests(resumed) == digests(whole)


def test_data_is_as_long_as_the_schedules_think():
    assert digits().size(Split.TRAIN) // 64 == 19
