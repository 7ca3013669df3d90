from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import squeezer
from squeezer.errors import Code, ModelError, RecipeError
from squeezer.graph import Input
from squeezer.methods import Distill, Finetune
from squeezer.representations import Dense
from squeezer.training.workbench import State
from tests.digits import digits as images
from tests.digits import write_program
from tests.training.building import accuracy, bench, cnn, digests, digits, mlp, predictions, trained

pytestmark = pytest.mark.usefixtures("one_thread")

OMITTED = 3


def of_class(state: State, label: int) -> float:
    """The share of a class' test images that are recognised."""
    predicted, targets = predictions(state, digits())
    return float(np.mean(predicted[targets == label] == label))


def test_it_transfers_a_class_that_the_student_never_saw():
    """Hinton, Vinyals, Dean 2015, section 3: the omitted digit; here without any correction of the biases."""
    data, student = digits().without_class(OMITTED), mlp(64, 48, 10, seed=5)
    settings = {"epochs": 20, "batch_size": 64, "lr": 3e-3}
    soft = Distill(**settings, alpha=1, temperature=20).run(student, set(), bench(trained(), data))
    hard = Distill(**settings, alpha=0).run(student, set(), bench(trained(), data))
    assert of_class(trained(), OMITTED) > 0.9
    assert of_class(soft, OMITTED) >= 0.5
    assert of_class(hard, OMITTED) <= 0.05
    assert accuracy(hard, digits()) > 0.8  # it knows the others


def test_the_teacher_is_the_original_as_it_was():
    """A teacher that knows nothing teaches nothing; and training leaves it as it is."""
    student = mlp(64, 48, 10, seed=5)
    before = digests(trained())
    settings = Distill(epochs=4, batch_size=64, lr=3e-3, alpha=1)
    good = settings.run(student, set(), bench(trained(), digits()))
    bad = settings.run(student, set(), bench(mlp(64, 300, 100, 10, seed=8), digits()))
    assert accuracy(good, digits()) > 0.8
    assert accuracy(bad, digits()) < 0.4
    assert digests(trained()) == before


def test_a_student_of_the_zoo_takes_the_networks_place():
    state = cnn()
    data = digits(images=True)
    original = Finetune(epochs=5, batch_size=64, lr=0.01, alpha=0).run(state, set(), bench(state, data))
    step = Distill(student="lenet-300-100", epochs=4, batch_size=64, lr=3e-3)
    student = step.run(original, set(), bench(original, data))
    assert [name for name in student.tensors if name.endswith("weight")] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert student.graph != original.graph
    assert accuracy(student, data) > 0.8
    assert step.leaves("masked") == "dense"
    assert Distill().leaves("masked") == "masked"


def test_students_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match="no-such-network"):
        Distill(student="no-such-network").run(trained(), set(), bench(trained(), digits()))
    data = digits()
    x = np.repeat(data.inputs[0][:, None], 3, 1)
    tokens = data.but(inputs=(x,), targets=np.repeat(data.targets[:, None], 3, 1))
    with pytest.raises(ModelError, match="leave student out") as refused:
        Distill(student="lenet5").run(trained(), set(), bench(trained(), tokens))
    assert refused.value.code == Code.MISMATCHED_ARCHITECTURE
    wide = {n: Dense(t.values.astype(np.float64), np.dtype(np.float64)) for n, t in trained().tensors.items()}
    state = State(replace(trained().graph, inputs=(Input("x", (None, 64), "F64"),)), wide)
    numbers = data.but(inputs=(data.inputs[0].astype(np.float64),))
    with pytest.raises(ModelError, match=r"F32.*F64"):
        Distill(student="lenet-300-100").run(state, set(), bench(state, numbers))


def test_the_preset_keeps_predictions_without_labels(tmp_path: Path) -> None:
    """The control: the same steps for all weights, and no training."""
    model = write_program(tmp_path / "model.pt2")
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=images()["x"])
    coarse = {"method": "uniform_quantize", "relative_step": 1.2, "scope": "global"}
    found = {}
    for name, recipe in (
        ("preset", {"preset": "distill"}),
        ("control", {"steps": [{"method": "fold_batch_norm"}, coarse]}),
    ):
        report = squeezer.compress(
            model, recipe | {"data": {"inputs": ["x"]}}, tmp_path / "out.sqz", data=rows, threads=1
        )
        assert report.evaluation is not None
        found[name] = report.evaluation["agreement"]["value"], report.output_bytes
    assert found["preset"][0] > 0.98
    assert found["control"][0] < 0.96
    assert found["preset"][1] < 1.1 * found["control"][1]
