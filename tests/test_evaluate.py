"""Uploads and what they became, measured from their files: ONNX as PyTorch does it, weights with and without a name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from safetensors.torch import save_file

import squeezer
from squeezer import zoo
from squeezer.data import DataSpec
from squeezer.data.dataset import Split
from squeezer.data.open import open_dataset
from squeezer.errors import Code, DataError, ModelError, RecipeError
from squeezer.formats.pt2 import Pt2Model
from squeezer.graph import Input
from squeezer.training.export import write_onnx
from squeezer.training.runnable import OfOnnx
from tests.cli.conftest import squeezer as command
from tests.digits import digits, write_data, write_program

pytestmark = pytest.mark.usefixtures("one_thread")

COARSE = {"steps": [{"method": "uniform_quantize", "bits": 2}]}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Files:
    pt2: Path
    onnx: Path
    data: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One trained network in two formats, and its data set."""
    folder = tmp_path_factory.mktemp("digits")
    program = write_program(folder / "m.pt2")
    model = Pt2Model(program)
    write_onnx(model.graph, {info.name: model.read(info.name) for info in model.tensors}, folder / "m.onnx")
    model.close()
    return Files(program, folder / "m.onnx", write_data(folder / "data.npz"))


def measured(model: Path, data: Path, out: Path, recipe: Any = COARSE) -> dict[str, Any]:
    report = squeezer.compress(model, recipe, out, data=data)
    assert report.evaluation is not None
    assert report.headline == report.evaluation["headline"]
    return report.evaluation


def run(model: Path, x: Array) -> Array:
    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


# ONNX -----------------------------------------------------------------------------------------------------


def test_an_onnx_upload_is_measured_as_onnx_runtime_runs_it(files: Files, tmp_path: Path) -> None:
    found = measured(files.onnx, files.data, tmp_path / "m.sqz")
    squeezer.decompress(tmp_path / "m.sqz", tmp_path / "back.onnx")
    data = open_dataset(files.data, DataSpec(), (Input("x", (None, 64), "F32"),))
    (x,), labels = data.batch(Split.TEST, np.arange(data.size(Split.TEST)))
    data.close()
    before, after = (run(path, x).argmax(1) for path in (files.onnx, tmp_path / "back.onnx"))
    assert found["rows"] == len(x)
    assert found["original"]["value"] == np.mean(before == labels)
    assert found["result"]["value"] == np.mean(after == labels)
    assert found["flips"]["count"] == np.count_nonzero(before != after) > 10  # the control: 2 bits are not enough


def test_it_measures_what_pytorch_measures(files: Files, tmp_path: Path) -> None:
    """All figures of one network in two formats. The exporter folds batch norm into `fc1`, so that one stays exact."""
    step = {"method": "uniform_quantize", "bits": 2, "include": ["fc2.weight"]}
    recipe = {"steps": [step], "encoding": {"small_tensors": "exact"}}
    ours, theirs = (measured(path, files.data, tmp_path / "m.sqz", recipe) for path in (files.onnx, files.pt2))
    for name in ("metric", "rows", "original", "result", "drop", "test", "flips", "agreement"):
        assert ours[name] == theirs[name], name
    assert ours["flips"]["count"] > 0
    assert ours["divergence"] == pytest.approx(theirs["divergence"], rel=1e-4)
    assert ours["calibration_error"] == pytest.approx(theirs["calibration_error"], abs=1e-5)


@pytest.mark.parametrize("change", ["probabilities", "a batch of 50"])
def test_probabilities_and_a_fixed_batch_change_no_figure(files: Files, tmp_path: Path, change: str) -> None:
    model = onnx.load(files.onnx)
    if change == "probabilities":
        _append(model, "Softmax", "Identity")
    else:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 50
        del model.graph.value_info[:]
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(model.SerializeToString())
    found, plain = (measured(path, files.data, tmp_path / "m.sqz") for path in (changed, files.onnx))
    assert found["rows"] % 50  # the last batch is not whole
    assert found["flips"] == plain["flips"]
    assert found["calibration_error"] == pytest.approx(plain["calibration_error"], abs=1e-4)
    assert found["divergence"] == pytest.approx(plain["divergence"], rel=1e-2)


def _append(model: ModelProto, *operators: str) -> None:
    for operator in operators:
        name = model.graph.output[0].name
        model.graph.node.append(helper.make_node(operator, [name], [f"{name}_{operator}"]))
        model.graph.output[0].name = f"{name}_{operator}"


def test_the_command_measures_it_and_writes_the_file_back(files: Files, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(COARSE | {"outputs": ["sqz", "onnx"], "accept": {"max_drop": 0.001}}))
    done = command("compress", files.onnx, "--data", files.data, "-r", recipe, "-o", tmp_path / "m.sqz", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["error"]["code"] == "not_accepted"
    assert report["evaluation"]["original"]["value"] > 0.9
    assert report["evaluation"]["drop"]["value"] > 0.001
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)


def test_a_folder_gets_the_whole_onnx_file(files: Files, tmp_path: Path) -> None:
    squeezer.compress(files.onnx, "lossless", tmp_path / "m.sqz")
    written = squeezer.decompress(tmp_path / "m.sqz", tmp_path / "folder")
    assert [path.name for path in written] == ["model.safetensors", "model.onnx"]
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["model.onnx", "model.safetensors"]
    assert (tmp_path / "folder" / "model.onnx").read_bytes() == files.onnx.read_bytes()


def test_labels_are_checked_against_its_output(files: Files, tmp_path: Path) -> None:
    rows = digits()
    np.savez(tmp_path / "data.npz", x=rows["x"], y=np.where(rows["y"] == 9, 10, rows["y"]))
    with pytest.raises(DataError, match="10") as caught:
        measured(files.onnx, tmp_path / "data.npz", tmp_path / "m.sqz")
    assert caught.value.code is Code.INVALID_DATA


def test_what_needs_the_network_is_refused_by_its_own_sentence(files: Files, tmp_path: Path) -> None:
    retrain = {"steps": [{"method": "finetune", "epochs": 1}]}
    for recipe in (retrain, COARSE | {"outputs": ["pt2"]}):
        with pytest.raises(RecipeError, match="ONNX file, which is only measured"):
            measured(files.onnx, files.data, tmp_path / "m.sqz", recipe)


def test_an_output_that_is_no_tensor_cannot_be_measured() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "sequence", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ModelError, match="no tensor of numbers") as caught:
        OfOnnx(model.SerializeToString(), {}, "cross_entropy")([torch.zeros(2, 3)])
    assert caught.value.code is Code.UNSUPPORTED_FORMAT


# Weights --------------------------------------------------------------------------------------------------


def test_weights_with_the_name_of_their_network_are_measured(tmp_path: Path) -> None:
    """An old checkpoint of several GPUs, without the counters of batch norm; what its module says is the reference."""
    torch.manual_seed(0)
    module = zoo.build("resnet20", 10, (1, 32, 32)).eval()
    images = np.kron(digits()["x"][:300].reshape(-1, 1, 8, 8), np.ones((4, 4), np.float32))
    with torch.no_grad():
        module.get_parameter("linear.bias").sub_(module(torch.from_numpy(images)).mean(0))  # or one class takes all
        likeliest = module(torch.from_numpy(images)).argmax(1).numpy()
    state = {f"module.{n}": t for n, t in module.state_dict().items() if "num_batches" not in n}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "w.th")
    np.savez(tmp_path / "data.npz", x=images, y=likeliest)
    recipe = {"steps": [{"method": "uniform_quantize", "bits": 8}], "architecture": "resnet20"}
    found = measured(tmp_path / "w.th", tmp_path / "data.npz", tmp_path / "m.sqz", recipe)
    assert found["original"]["value"] == 1.0
    assert found["agreement"]["value"] == found["result"]["value"] > 0.8


def test_weights_alone_are_not_measured_and_cannot_be_judged(tmp_path: Path) -> None:
    save_file({"w": torch.randn(8, 8)}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "data.npz", **digits())
    files = tmp_path / "w.safetensors", COARSE, tmp_path / "m.sqz"
    assert squeezer.compress(*files, data=tmp_path / "data.npz").evaluation is None
    with pytest.raises(RecipeError, match=r"accept needs the network itself.*weights alone"):
        squeezer.compress(files[0], COARSE | {"accept": {"max_drop": 0.1}}, files[2], data=tmp_path / "data.npz")
