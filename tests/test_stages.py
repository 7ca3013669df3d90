"""Steps that need the whole network: in the pipeline, with checkpoints between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import squeezer
from squeezer import pipeline, stages
from squeezer.errors import ModelError, RecipeError
from squeezer.graph import Node, Value
from squeezer.graph.encoding import to_bytes
from squeezer.methods.finetune import Finetune
from squeezer.model import InMemoryModel
from squeezer.progress import Progress
from squeezer.recipe import Recipe, parse_recipe
from squeezer.report import Report
from tests.digits import write_data, write_student
from tests.training.building import mlp

PRUNE = {"method": "magnitude_prune", "sparsity": 0.8}
TUNE = {"method": "finetune", "epochs": 1, "batch_size": 256}
SHARE = {"method": "kmeans_share", "bits": 3}


class CutOff(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "digits.npz")


def model() -> InMemoryModel:
    state = mlp(64, 32, 10)
    return InMemoryModel({name: tensor.decode() for name, tensor in state.tensors.items()}, graph=state.graph)


def recipe(*steps: object, **settings: object) -> Recipe:
    return parse_recipe({"steps": list(steps), **settings})


def run(folder: Path, chosen: Recipe, data: Path | None, **options: object) -> Report:
    return pipeline.run(model(), chosen, folder / "m.sqz", data=data, **options)  # type: ignore[arg-type] # test helper


def test_representations_survive_retraining(tmp_path: Path, data: Path) -> None:
    report = run(tmp_path, recipe(PRUNE, TUNE, SHARE, TUNE), data)
    loaded = squeezer.load(tmp_path / "m.sqz")
    for name in ("fc1.weight", "fc2.weight"):
        assert (loaded[name] == 0).mean() == pytest.approx(0.8, abs=0.01)
        assert len(np.unique(loaded[name])) <= 9
    assert [layer.kind for layer in report.layers] == ["shared", "dense", "shared", "dense"]
    assert [(step.method, step.tensors) for step in report.steps] == [
        ("magnitude_prune", 2),
        ("finetune", 2),
        ("kmeans_share", 2),
        ("finetune", 2),
    ]
    assert sum(report.ledger.values()) == report.output_bytes
    with squeezer.open(tmp_path / "m.sqz") as artifact:
        assert to_bytes(artifact.graph()) == to_bytes(model().graph)


def test_the_file_may_go_without_its_graph(tmp_path: Path) -> None:
    report = run(tmp_path, recipe(PRUNE, encoding={"graph": False}), None)
    with squeezer.open(tmp_path / "m.sqz") as artifact:
        assert artifact.graph() is None
    other = run(tmp_path, recipe(PRUNE), None)
    assert other.output_bytes > report.output_bytes


def test_each_step_has_a_checkpoint_from_which_work_goes_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(PRUNE, TUNE, SHARE, TUNE | {"lr": 1e-4})
    undisturbed, cut = tmp_path / "undisturbed", tmp_path / "cut"
    undisturbed.mkdir()
    cut.mkdir()
    run(undisturbed, chosen, data)

    def die(progress: Progress) -> None:
        if progress.stage == "finetune" and progress.progress > 0.6:  # in the second one
            raise CutOff

    with pytest.raises(CutOff):
        run(cut, chosen, data, checkpoints=tmp_path / "checkpoints", progress=die)
    steps: list[float] = []
    original = Finetune.run

    def counted(self: Finetune, *arguments: object) -> object:
        steps.append(self.lr)
        return original(self, *arguments)  # type: ignore[arg-type] # handed on as they came

    monkeypatch.setattr(Finetune, "run", counted)
    run(cut, chosen, data, checkpoints=tmp_path / "checkpoints")
    assert steps == [1e-4]
    assert (cut / "m.sqz").read_bytes() == (undisturbed / "m.sqz").read_bytes()


def test_checkpoints_of_other_work_are_not_taken(tmp_path: Path, data: Path) -> None:
    other = tmp_path / "other.npz"
    with np.load(data) as arrays:
        np.savez(other, x=arrays["x"][::-1], y=arrays["y"][::-1])
    keys = {
        stages.key(stages.uploaded(model()), recipe(TUNE), data),
        stages.key(stages.uploaded(model()), recipe(TUNE, seed=1), data),
        stages.key(stages.uploaded(model()), recipe(TUNE), other),
        stages.key(stages.uploaded(model()), recipe(TUNE), None),
    }
    changed = model()
    changed.arrays["fc1.bias"][0] += 1
    keys.add(stages.key(stages.uploaded(changed), recipe(TUNE), data))
    other_network = model()
    assert other_network.graph is not None
    nodes = tuple(replace(node, target=node.target.replace("relu", "tanh")) for node in other_network.graph.nodes)
    other_network.graph = replace(other_network.graph, nodes=nodes)
    keys.add(stages.key(stages.uploaded(other_network), recipe(TUNE), data))
    assert len(keys) == 6
    assert stages.key(stages.uploaded(model()), recipe(TUNE), data) in keys


def test_a_tensor_is_read_twice(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all that needs the whole network, and once to be compared with what is stored."""
    reads: Counter[str] = Counter()
    read = InMemoryModel.read

    def counted(self: InMemoryModel, name: str) -> np.ndarray[Any, Any]:
        reads[name] += 1
        return read(self, name)

    monkeypatch.setattr(InMemoryModel, "read", counted)
    run(tmp_path, recipe(TUNE), data, checkpoints=tmp_path / "checkpoints")
    assert reads == dict.fromkeys(model().arrays, 2)


def test_a_damaged_checkpoint_costs_time_alone(tmp_path: Path, data: Path) -> None:
    chosen = recipe(PRUNE, TUNE)
    run(tmp_path, chosen, data, checkpoints=tmp_path / "checkpoints")
    expected = (tmp_path / "m.sqz").read_bytes()
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    run(tmp_path, chosen, data, checkpoints=tmp_path / "checkpoints")
    assert (tmp_path / "m.sqz").read_bytes() == expected


def test_progress_rises_over_all_steps(tmp_path: Path, data: Path) -> None:
    seen: list[Progress] = []
    run(tmp_path, recipe(PRUNE, TUNE, SHARE, TUNE), data, progress=seen.append)
    shares = [event.progress for event in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert [*dict.fromkeys(event.stage for event in seen)] == ["finetune", "encode"]


def test_what_is_missing_is_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(RecipeError, match="finetune needs a data set"):
        run(tmp_path, recipe(TUNE), None)
    weights = model()
    weights.graph = None
    with pytest.raises(RecipeError, match=r"finetune needs the network itself.*\.pt2"):
        pipeline.run(weights, recipe(TUNE), tmp_path / "m.sqz", data=data)
    with pytest.raises(RecipeError, match="the output onnx needs the network itself"):
        pipeline.run(weights, recipe(PRUNE, outputs=["onnx"]), tmp_path / "m.sqz")
    assert list(tmp_path.iterdir()) == []


def test_a_preset_runs_as_much_as_it_can(tmp_path: Path, data: Path) -> None:
    document = parse_recipe("deep-compression").model_dump()
    short = [step | {"epochs": 0.2, "min_updates": 0} if "epochs" in step else step for step in document["steps"]]
    preset = Recipe.model_validate(document | {"steps": short})
    with_data = run(tmp_path, preset, data)
    assert with_data.left_out == []
    assert [step.method for step in with_data.steps] == [step.method for step in preset.steps]
    without = run(tmp_path, preset, None)
    assert {item["method"] for item in without.left_out} == {"gradual_prune", "finetune"}
    assert all("data set" in item["reason"] for item in without.left_out)


def test_a_preset_of_which_nothing_is_left_is_refused(tmp_path: Path, data: Path) -> None:
    weights = model()
    weights.graph = None
    with pytest.raises(RecipeError, match=r"the preset distill rests on entropy_train: it needs the network itself"):
        pipeline.run(weights, parse_recipe("distill"), tmp_path / "m.sqz", data=data)
    with pytest.raises(RecipeError, match="entropy_train needs a data set"):
        run(tmp_path, parse_recipe("distill"), None)
    assert list(tmp_path.iterdir()) == []


STUDENT = {"method": "distill", "student": "lenet-300-100", "epochs": 0.2, "batch_size": 256}


def test_steps_after_a_student_take_its_tensors(tmp_path: Path, data: Path) -> None:
    original = model()
    original.aliases = {"fc3.bias": "fc1.bias"}  # what is tied in the original is not in the student
    chosen = recipe(TUNE, STUDENT, PRUNE | {"overrides": {"fc3.*": {"sparsity": 0.5}}}, TUNE, SHARE)
    folders = [tmp_path / name for name in ("whole", "resumed")]
    for folder in folders:  # the second one has only the sharing left to do
        folder.mkdir()
        report = pipeline.run(original, chosen, folder / "m.sqz", data=data, checkpoints=tmp_path / "checkpoints")
        assert [(step.method, step.tensors) for step in report.steps] == [
            ("finetune", 2),
            ("distill", 2),
            ("magnitude_prune", 3),
            ("finetune", 3),
            ("kmeans_share", 3),
        ]
        assert report.warnings == []
        # A bias of the student has nothing to do with the original's of the same name.
        assert {layer.relative_error for layer in report.layers} == {None}
        loaded = squeezer.load(folder / "m.sqz")
        assert {name: round(float((loaded[name] == 0).mean()), 1) for name in loaded if "weight" in name} == {
            "fc1.weight": 0.8,
            "fc2.weight": 0.8,
            "fc3.weight": 0.5,
        }
    assert (folders[0] / "m.sqz").read_bytes() == (folders[1] / "m.sqz").read_bytes()


@pytest.mark.parametrize("last", [[], [TUNE]], ids=["tensor by tensor", "in memory"])
def test_a_transition_that_makes_no_sense_in_a_student_is_refused(
    tmp_path: Path, data: Path, last: list[object]
) -> None:
    wrong = recipe(STUDENT, SHARE | {"include": ["fc3.*"]}, PRUNE | {"include": ["fc3.*"]}, *last)
    with pytest.raises(RecipeError, match=r"'fc3.weight': magnitude_prune cannot follow"):
        run(tmp_path, wrong, data)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "student.pt2")


UPLOADED = {"method": "distill", "student": "uploaded", "epochs": 2, "batch_size": 256}


def test_an_uploaded_student_goes_on_from_its_checkpoints(tmp_path: Path, data: Path, student: Path) -> None:
    chosen = recipe(TUNE, UPLOADED, SHARE, TUNE)
    undisturbed, cut, checkpoints = tmp_path / "undisturbed", tmp_path / "cut", tmp_path / "checkpoints"
    undisturbed.mkdir()
    cut.mkdir()
    run(undisturbed, chosen, data, student=student)
    for stage, share in (("distill", 0.4), ("finetune", 0.9)):  # within the student's training, and after it

        def die(progress: Progress, stage: str = stage, share: float = share) -> None:
            if progress.stage == stage and progress.progress > share:
                raise CutOff

        with pytest.raises(CutOff):
            run(cut, chosen, data, student=student, checkpoints=checkpoints, progress=die)
    seen: set[str] = set()
    run(cut, chosen, data, student=student, checkpoints=checkpoints, progress=lambda found: seen.add(found.stage))
    assert "distill" not in seen
    assert (cut / "m.sqz").read_bytes() == (undisturbed / "m.sqz").read_bytes()


def test_checkpoints_of_another_student_are_not_taken(tmp_path: Path, data: Path, student: Path) -> None:
    other = write_student(tmp_path / "other.pt2", seed=2)
    files = ((data, None), (data, student), (data, other), (None, student))
    keys = [stages.key(stages.uploaded(model()), recipe(UPLOADED), *pair) for pair in files]
    assert len({*keys, stages.key(stages.uploaded(model()), recipe(UPLOADED), student)}) == 5
    copy = tmp_path / "copy.pt2"
    copy.write_bytes(student.read_bytes())
    assert stages.key(stages.uploaded(model()), recipe(UPLOADED), data, copy) == keys[1]
    for path in (student, other):  # in one folder, and yet what each alone gives
        run(tmp_path, recipe(UPLOADED), data, student=path, checkpoints=tmp_path / "checkpoints")
        found = (tmp_path / "m.sqz").read_bytes()
        run(tmp_path, recipe(UPLOADED), data, student=path)
        assert (tmp_path / "m.sqz").read_bytes() == found


def test_a_student_must_be_in_the_file() -> None:
    with pytest.raises(RecipeError, match=r"distill.*encoding\.graph"):
        recipe(STUDENT, encoding={"graph": False})


def test_buffers_of_the_network_are_not_compressed(tmp_path: Path) -> None:
    """A table of positions, say: it is no weight, and nothing would train it again."""
    uploaded = model()
    uploaded.arrays["positions"] = np.ones((8, 64), np.float32)
    graph = uploaded.graph
    assert graph is not None
    add = Node("aten.add.Tensor", (Value("x"), Value("positions")), ("moved",))
    first = graph.nodes[0].renamed({"x": "moved"})
    uploaded.graph = replace(
        graph,
        tensors=graph.tensors | {"positions": "positions"},
        buffers=frozenset({"positions"}),
        nodes=(add, first, *graph.nodes[1:]),
    )
    report = pipeline.run(uploaded, recipe(PRUNE, SHARE), tmp_path / "m.sqz")
    assert [layer.name for layer in report.layers if layer.kind == "shared"] == ["fc1.weight", "fc2.weight"]
    with pytest.raises(ModelError, match="no tensor fits"):
        pipeline.run(uploaded, recipe(PRUNE | {"include": ["positions"]}), tmp_path / "m.sqz")
    uploaded.graph = None  # of weights alone nobody can tell
    report = pipeline.run(uploaded, recipe(PRUNE), tmp_path / "m.sqz")
    assert [layer.name for layer in report.layers if layer.kind == "masked"] == [
        "fc1.weight",
        "fc2.weight",
        "positions",
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_report_is_finite_where_a_mask_is_not(tmp_path: Path, data: Path, dtype: type[np.floating[Any]]) -> None:
    uploaded = model()
    uploaded.arrays["mask"] = np.array([[0.5, -np.inf], [np.nan, 0]], dtype)
    report = pipeline.run(uploaded, recipe(TUNE), tmp_path / "m.sqz", data=data)
    assert [layer.relative_error for layer in report.layers if layer.name == "mask"] == [0]
    np.testing.assert_array_equal(squeezer.load(tmp_path / "m.sqz")["mask"], uploaded.arrays["mask"])


def test_data_that_nothing_can_be_done_with_is_told(tmp_path: Path, data: Path) -> None:
    weights = model()
    weights.graph = None
    report = pipeline.run(weights, recipe(PRUNE), tmp_path / "m.sqz", data=data)
    assert len(report.warnings) == 1
    assert "data set was not used" in report.warnings[0]
    assert ".pt2" in report.warnings[0]
    assert run(tmp_path, recipe(PRUNE), data).warnings == []


def test_what_a_done_step_noted_does_not_stay(tmp_path: Path, data: Path) -> None:
    run(tmp_path, recipe(TUNE, SHARE, TUNE), data, checkpoints=tmp_path / "checkpoints")
    left = sorted(path.name for path in (tmp_path / "checkpoints").rglob("*") if path.is_file())
    assert left == ["stage-0.sqz", "stage-2.sqz"]
