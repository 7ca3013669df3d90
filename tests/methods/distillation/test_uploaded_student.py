"""A network that the user sends as the student: from a class to a trained file, and what is refused."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import squeezer
from squeezer.errors import Code, ModelError, RecipeError, SqueezerError
from squeezer.torch import load_module
from tests.digits import digits, write_program, write_student
from tests.formats.pt2_files import Pt2, meta, node, symbol, tensor

STEP = {"method": "distill", "student": "uploaded", "epochs": 25, "batch_size": 64, "lr": 0.003}
#: What the student begins with is what it ends with.
STILL = STEP | {"epochs": 0.1, "lr": 1e-9}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Files:
    model: Path
    data: Path  # without labels
    student: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "digits.npz", x=digits()["x"])
    return Files(write_program(folder / "model.pt2"), folder / "digits.npz", write_student(folder / "student.pt2"))


def distilled(files: Files, out: Path, student: Path, *steps: dict[str, Any], **settings: Any) -> Any:
    recipe = {"steps": list(steps) or [STEP], "encoding": {"small_tensors": "exact"}, **settings}
    return squeezer.compress(files.model, recipe, out, data=files.data, student=student, threads=1)


def agreement(one: Path, other: Path) -> float:
    """How many of all images two files make the same of; not by what the report is made with."""
    images = torch.from_numpy(digits()["x"])
    with torch.no_grad():
        first, second = (load_module(path)(images).argmax(1) for path in (one, other))
    return float((first == second).double().mean())


def lossless(path: Path, out: Path) -> Path:
    squeezer.compress(path, "lossless", out, threads=1)
    return out


# What comes of it --------------------------------------------------------------------------------------------


def test_a_student_learns_from_the_original_without_labels(files: Files, tmp_path: Path) -> None:
    report = distilled(files, tmp_path / "out.sqz", files.student)
    original = lossless(files.model, tmp_path / "original.sqz")
    untrained = lossless(files.student, tmp_path / "untrained.sqz")
    assert report.evaluation["agreement"]["value"] > 0.9
    assert agreement(tmp_path / "out.sqz", original) > 0.9
    assert agreement(untrained, original) < 0.3  # the negative control
    trained, before = squeezer.load(tmp_path / "out.sqz"), squeezer.load(untrained)
    assert {name: array.shape for name, array in trained.items()} == {name: a.shape for name, a in before.items()}
    # Nothing of the student is compared with a tensor of the original.
    assert {layer.relative_error for layer in report.layers} == {None}
    assert report.tensor_bytes == sum(array.nbytes for array in before.values())


def test_training_starts_from_the_weights_that_the_student_has(files: Files, tmp_path: Path) -> None:
    good = write_program(tmp_path / "good.pt2")
    for student, low, high in ((good, 0.9, 1.0), (files.student, 0.0, 0.3)):
        report = distilled(files, tmp_path / "out.sqz", student, STILL)
        assert low <= report.evaluation["agreement"]["value"] <= high


def test_steps_before_and_after_it_take_their_own_networks_tensors(files: Files, tmp_path: Path) -> None:
    prune = {"method": "magnitude_prune", "sparsity": 0.5}
    tune = {"method": "finetune", "epochs": 1}
    share = {"method": "kmeans_share", "bits": 4}
    report = distilled(files, tmp_path / "out.sqz", files.student, tune, STEP, prune, tune, share)
    assert [(step.method, step.tensors) for step in report.steps][2:] == [
        ("magnitude_prune", 2),
        ("finetune", 2),
        ("kmeans_share", 2),
    ]
    loaded = squeezer.load(tmp_path / "out.sqz")
    assert sorted(loaded) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert np.mean(loaded["0.weight"] == 0) == pytest.approx(0.5, abs=0.01)
    assert report.evaluation["agreement"]["value"] > 0.85


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.again = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 20)
        self.again.weight = self.middle.weight
        self.last = nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.middle(torch.relu(self.first(x))))
        return self.last(torch.relu(self.again(hidden)))


def test_tied_weights_of_a_student_stay_tied(files: Files, tmp_path: Path) -> None:
    student = squeezer.export(Tied().eval(), torch.zeros(2, 64), tmp_path / "tied.pt2")
    distilled(files, tmp_path / "out.sqz", student, STEP | {"epochs": 0.5})
    module = load_module(tmp_path / "out.sqz")
    assert module.get_parameter("again.weight") is module.get_parameter("middle.weight")
    Tied().load_state_dict(module.state_dict())  # strictly: every name is there
    # The original's own names are not those of another student's.
    distilled(files, tmp_path / "other.sqz", student, STEP, {"method": "distill", "student": "lenet-300-100"})
    with squeezer.open(tmp_path / "other.sqz") as artifact:
        assert artifact.aliases == {}


# What is refused ---------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.fc(x + y)


class Numbers(nn.Module):
    """It gives the place of the largest number, which nothing can train."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).argsort(1)


@pytest.mark.parametrize(
    ("student", "examples", "words"),
    [
        pytest.param(nn.Linear(63, 10), [(2, 63)], ["takes F32 (any, 63)", "takes F32 (any, 64)"], id="columns"),
        pytest.param(nn.Linear(64, 10), [(2, 3, 64)], ["F32 (any, 3, 64)", "F32 (any, 64)"], id="axes"),
        pytest.param(nn.Linear(64, 10).double(), [(2, 64)], ["F64 (any, 64)", "F32 (any, 64)"], id="type"),
        pytest.param(Two(), [(2, 64)] * 2, ["F32 (any, 64) and F32 (any, 64), and"], id="inputs"),
        pytest.param(nn.Linear(64, 9), [(2, 64)], ["gives float32 (any, 9)", "gives float32 (any, 10)"], id="output"),
        pytest.param(
            nn.Sequential(nn.Linear(64, 10), nn.Unflatten(1, (1, 10))),
            [(2, 64)],
            ["gives float32 (any, 1, 10)", "gives float32 (any, 10)"],
            id="axes of the output",
        ),
        pytest.param(Numbers(), [(2, 64)], ["gives int64 (any, 10)", "float32 (any, 10)"], id="whole numbers"),
    ],
)
def test_a_student_that_cannot_take_the_place_is_refused_before_any_training(
    files: Files, tmp_path: Path, student: nn.Module, examples: Sequence[tuple[int, ...]], words: list[str]
) -> None:
    dtype = next(student.parameters()).dtype
    inputs = [torch.zeros(shape, dtype=dtype) for shape in examples]
    path = squeezer.export(student.eval(), inputs, tmp_path / "student.pt2")
    seen: list[str] = []
    steps = [{"method": "finetune", "epochs": 1}, STEP]
    with pytest.raises(ModelError) as refused:
        squeezer.compress(
            files.model,
            {"steps": steps},
            tmp_path / "out.sqz",
            data=files.data,
            student=path,
            progress=lambda progress: seen.append(progress.stage),
        )
    assert refused.value.code == Code.MISMATCHED_ARCHITECTURE
    for word in ("The student", *words):
        assert word in refused.value.detail
    assert seen == []
    assert not (tmp_path / "out.sqz").exists()


def test_a_student_for_batches_of_one_size_is_refused(files: Files, tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(64, 10).eval(), (torch.zeros(8, 64),))
    torch.export.save(program, tmp_path / "student.pt2")
    with pytest.raises(ModelError, match=r"takes F32 \(8, 64\), and the network takes F32 \(any, 64\)"):
        distilled(files, tmp_path / "out.sqz", tmp_path / "student.pt2")


def test_weights_alone_are_no_student(files: Files, tmp_path: Path) -> None:
    weights = nn.Linear(64, 10).state_dict()
    save_file(weights, tmp_path / "student.safetensors")
    torch.save(weights, tmp_path / "student.pt")
    for name in ("student.safetensors", "student.pt"):
        with pytest.raises(ModelError, match=r"The student must be a network.*squeezer\.export") as refused:
            distilled(files, tmp_path / "out.sqz", tmp_path / name)
        assert refused.value.code == Code.UNSUPPORTED_FORMAT


def test_a_student_that_is_missing_or_of_no_use_is_refused(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "out.sqz"
    with pytest.raises(RecipeError, match="distill needs the student"):
        squeezer.compress(files.model, {"steps": [STEP]}, out, data=files.data)
    for recipe in ("safe", {"steps": [STEP | {"student": "lenet-300-100"}]}):
        with pytest.raises(RecipeError, match="no step uses the student"):
            squeezer.compress(files.model, recipe, out, data=files.data, student=files.student)
    with pytest.raises(ModelError, match="The student: There is no file") as refused:
        distilled(files, out, tmp_path / "nowhere.pt2")
    assert refused.value.code == Code.FILE_NOT_FOUND
    assert list(tmp_path.iterdir()) == []


# Attacks -----------------------------------------------------------------------------------------------------


class Opening:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def _hostile(kind: str, path: Path, marker: Path) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Opening(marker)))
    elif kind == "checkpoint":
        torch.save({"weight": torch.zeros(2, 2), "evil": Opening(marker)}, path)
    elif kind == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is no longer developed
            torch.jit.save(torch.jit.script(nn.Linear(64, 10)), path)
    elif kind == "nothing":
        path.write_bytes(b"")
    elif kind == "operator":
        Pt2(nodes=[node("torch.ops.aten.from_file.default", tensor("x"))]).write(path)
    else:
        path.write_bytes(write_student(path).read_bytes()[:-5000])


def _code(action: Any) -> Code:
    with pytest.raises(SqueezerError) as refused:
        action()
    return refused.value.code


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("pickle", Code.UNSAFE_PICKLE),
        ("checkpoint", Code.UNSAFE_PICKLE),
        ("script", Code.UNSUPPORTED_FORMAT),
        ("nothing", Code.EMPTY_FILE),
        ("operator", Code.UNSUPPORTED_OPERATOR),
        ("cut off", Code.TRUNCATED_FILE),
    ],
)
def test_a_hostile_student_is_refused_as_such_a_model_would_be(
    files: Files, tmp_path: Path, kind: str, code: Code
) -> None:
    path, out, marker = tmp_path / "student", tmp_path / "out.sqz", tmp_path / "ran"
    _hostile(kind, path, marker)
    assert _code(lambda: distilled(files, out, path)) == code
    assert _code(lambda: squeezer.compress(path, "lossless", out)) == code
    assert not marker.exists()
    assert not out.exists()


def test_a_student_that_lies_about_its_inputs_is_refused(files: Files, tmp_path: Path) -> None:
    path = Pt2(values={"x": meta([symbol(), 64]), "y": meta([symbol(), 10])}).write(tmp_path / "student.pt2")
    with pytest.raises(ModelError, match=r"does not run on what the network takes, F32 \(any, 64\)") as refused:
        distilled(files, tmp_path / "out.sqz", path)
    assert refused.value.code == Code.MISMATCHED_ARCHITECTURE


def test_nothing_in_an_exported_student_runs(files: Files, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    examples = io.BytesIO()
    torch.save(Opening(marker), examples)
    path = Pt2(members={"data/sample_inputs/model.pt": examples.getvalue()}).write(tmp_path / "student.pt2")
    with pytest.raises(ModelError, match=r"the network takes F32 \(any, 64\)") as refused:  # it is read, and too small
        distilled(files, tmp_path / "out.sqz", path)
    assert refused.value.code == Code.MISMATCHED_ARCHITECTURE
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011  # the negative control, whatever it ends in
        torch.export.load(path)
    assert marker.exists()
