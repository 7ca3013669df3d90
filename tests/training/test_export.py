"""Networks written as .pt2 and .onnx against the modules that they came from, and ONNX Runtime as a network."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import squeezer
from squeezer import zoo
from squeezer.errors import Code, ModelError
from squeezer.formats.onnx import SKELETON, OnnxModel
from squeezer.formats.pt2 import Pt2Model
from squeezer.graph import Graph, Input, Node, Value
from squeezer.torch import graph_of
from squeezer.training import export
from squeezer.training.export import write_onnx, write_pt2
from squeezer.training.onnx_runtime import OnnxNetwork

if TYPE_CHECKING:
    from pathlib import Path

    Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("one_thread")


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(image).mean((2, 3)))
        return logits


class Words(nn.Module):
    """Token numbers of any length, and a mask: several inputs and outputs, and a recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, tokens: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, last = self.rnn(self.embedding(tokens) * weight[:, :, None])
        return self.head(states), last[0]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        heads = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        logits: torch.Tensor = self.head(heads[:, 0].mean(1))
        return logits


def settled(module: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics that matter."""
    for name, tensor in module.state_dict().items():
        if "running" in name:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module.eval()


def cases() -> dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    return {
        "images": (settled(Images()), (torch.randn(2, 1, 6, 6),)),
        "words": (settled(Words()), (torch.randint(0, 10, (2, 5)), torch.rand(2, 5))),
        "attention": (settled(Attention()), (torch.randn(2, 4, 8),)),
    }


def more_rows(inputs: tuple[torch.Tensor, ...], rows: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat([tensor] * rows)[:rows] for tensor in inputs)


def as_tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def opened(path: Path) -> OnnxNetwork:
    model = OnnxModel(path)
    network = OnnxNetwork(model.read_file(SKELETON), {info.name: model.read(info.name) for info in model.tensors})
    model.close()
    return network


@pytest.mark.parametrize("name", ["images", "words", "attention"])
def test_a_pt2_is_the_network_for_torch_and_for_our_reader(tmp_path: Path, name: str) -> None:
    module, inputs = cases()[name]
    graph, tensors = graph_of(module, inputs)
    write_pt2(graph, tensors, tmp_path / "out.pt2")
    assert [each.name for each in tmp_path.iterdir()] == ["out.pt2"]
    program = torch.export.load(tmp_path / "out.pt2").module()
    for rows in (1, 2, 5):
        given = more_rows(inputs, rows)
        for expected, found in zip(as_tuple(module(*given)), as_tuple(program(*given)), strict=True):
            torch.testing.assert_close(found, expected)
    again = Pt2Model(tmp_path / "out.pt2")
    assert again.graph.inputs == graph.inputs
    assert again.graph.buffers == graph.buffers
    for info in again.tensors:
        np.testing.assert_array_equal(again.read(info.name), tensors[info.name])
    assert {info.name for info in again.tensors} == set(tensors)
    again.close()


def test_a_pt2_names_nothing_of_this_machine(tmp_path: Path) -> None:
    module, inputs = cases()["images"]
    write_pt2(*graph_of(module, inputs), tmp_path / "out.pt2")
    content = (tmp_path / "out.pt2").read_bytes()
    assert __file__.encode() not in content
    assert export.__file__.rpartition("/")[0].encode() not in content


@pytest.mark.parametrize("name", ["images", "words", "attention"])
def test_an_onnx_file_gives_what_torch_gives_at_any_size_of_batch(tmp_path: Path, name: str) -> None:
    module, inputs = cases()[name]
    graph, tensors = graph_of(module, inputs)
    write_onnx(graph, tensors, tmp_path / "out.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    assert b"/squeezer/" not in (tmp_path / "out.onnx").read_bytes()
    network = opened(tmp_path / "out.onnx")
    assert network.inputs == graph.inputs
    for rows in (1, 7):
        given = more_rows(inputs, rows)
        found = network([tensor.numpy() for tensor in given])
        for expected, output in zip(as_tuple(module(*given)), as_tuple(found), strict=True):
            np.testing.assert_allclose(output, expected.detach(), atol=1e-4)


def test_half_precision_is_compared_with_its_own_precision(tmp_path: Path) -> None:
    module = cases()["images"][0].half()
    inputs = (torch.randn(2, 1, 6, 6).half(),)
    write_onnx(*graph_of(module, inputs), tmp_path / "out.onnx")
    found = opened(tmp_path / "out.onnx")([inputs[0].numpy()])
    np.testing.assert_allclose(found, module(*inputs).detach(), atol=2e-2)


def test_an_onnx_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, inputs = cases()["images"]
    graph, tensors = graph_of(module, inputs)
    write = export._as_onnx

    def spoiled(program: Any) -> onnx.ModelProto:
        model = write(program)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
        bias.raw_data = (numpy_helper.to_array(bias) + np.float32(1e-3)).tobytes()
        return model

    monkeypatch.setattr(export, "_as_onnx", spoiled)
    with pytest.raises(ModelError, match="something else") as caught:
        write_onnx(graph, tensors, tmp_path / "out.onnx")
    assert caught.value.code == Code.EXPORT_FAILED
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_run_is_refused(tmp_path: Path) -> None:
    """A matrix product of shapes that never fit."""
    graph = Graph(
        (Input("x", (None, 3), "F32"),),
        {"p_w": "w"},
        frozenset(),
        (Node("aten.mm.default", (Value("x"), Value("p_w")), ("y",)),),
        (Value("y"),),
    )
    for write in (write_pt2, write_onnx):
        with pytest.raises(ModelError) as caught:
            write(graph, {"w": np.zeros((4, 4), np.float32)}, tmp_path / "out")
        assert caught.value.code == Code.EXPORT_FAILED
    assert not list(tmp_path.iterdir())


def test_an_operator_without_a_counterpart_is_named(tmp_path: Path) -> None:
    graph = Graph(
        (Input("x", (None, 3), "F32"),),
        {"p_w": "w"},
        frozenset(),
        (
            Node("aten.mul.Tensor", (Value("x"), Value("p_w")), ("scaled",)),
            Node("aten.cummax.default", (Value("scaled"), 1), ("values", None)),
        ),
        (Value("values"),),
    )
    with pytest.raises(ModelError, match="cummax") as caught:
        write_onnx(graph, {"w": np.ones(3, np.float32)}, tmp_path / "out.onnx")
    assert caught.value.code == Code.EXPORT_FAILED


def test_an_artifact_becomes_programs_with_its_decoded_weights(tmp_path: Path) -> None:
    """Weights of a network of the zoo, quantised to 4 bits, from the file alone."""
    torch.manual_seed(0)
    module = zoo.build("lenet-300-100", 5, (1, 8, 8)).eval()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    recipe = {"version": 1, "steps": [{"method": "uniform_quantize", "bits": 4}], "architecture": "lenet-300-100"}
    squeezer.compress(tmp_path / "w.pt", recipe, tmp_path / "m.sqz")
    x = torch.randn(3, 1, 8, 8)
    uploaded = module(x).detach()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in squeezer.load(tmp_path / "m.sqz").items()})
    expected = module(x).detach()
    assert (uploaded - expected).abs().max() > 1e-3  # the control
    for suffix in ("pt2", "onnx"):
        squeezer.decompress(tmp_path / "m.sqz", tmp_path / f"m.{suffix}")
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x), expected)
    np.testing.assert_allclose(opened(tmp_path / "m.onnx")([x.numpy()]), expected, atol=1e-4)


# -- ONNX Runtime ----------------------------------------------------------------------------------------------


def small(batch: int | str, last: str = "Identity", shape: tuple[int, int] = (3, 2)) -> tuple[bytes, dict[str, Array]]:
    """y = last(x w) as a skeleton, and its weights."""
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stub = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node(last, ["xw"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])
    graph = helper.make_graph(nodes, "small", [x], [y], initializer=[stub])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString(), {"w": weights}


@pytest.mark.parametrize("batch", [4, "batch"])
def test_a_fixed_batch_is_filled_up_and_cut_again(batch: int | str) -> None:
    skeleton, weights = small(batch)
    network = OnnxNetwork(skeleton, weights)
    assert network.fixed == (4 if batch == 4 else None)
    assert not network.probabilities
    for rows in (1, 3, 4):
        x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
        found = network([x])
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, x @ weights["w"], rtol=1e-5, atol=1e-6)


def test_it_says_whether_outputs_are_probabilities() -> None:
    assert OnnxNetwork(*small("n", "Softmax")).probabilities
    assert OnnxNetwork(*small("n", "Sigmoid")).probabilities
    assert not OnnxNetwork(*small("n", "Relu")).probabilities


@pytest.mark.parametrize(("last", "expected"), [("Flatten", True), ("Relu", False)])
def test_what_only_reshapes_leaves_them_probabilities(last: str, expected: bool) -> None:
    skeleton, weights = small("n", "Softmax")
    model = onnx.ModelProto.FromString(skeleton)
    model.graph.node.append(helper.make_node(last, ["y"], ["z"]))
    model.graph.output[0].name = "z"
    assert OnnxNetwork(model.SerializeToString(), weights).probabilities is expected


def test_a_pt2_needs_no_package_of_onnx(tmp_path: Path) -> None:
    module, inputs = cases()["images"]
    path = squeezer.export(module, inputs, tmp_path / "m.pt2")
    squeezer.compress(path, "lossless", tmp_path / "m.sqz")
    program = (
        "import sys, squeezer\n"
        "for name in ('onnx', 'onnxruntime', 'onnxscript'): sys.modules[name] = None\n"
        "squeezer.decompress('m.sqz', 'out.pt2')\n"
        "try: squeezer.decompress('m.sqz', 'out.onnx')\n"
        "except squeezer.errors.ModelError as error: print(error.code, error)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert (tmp_path / "out.pt2").exists()
    assert done.stdout.startswith("missing_dependency")
    assert "pip install 'squeezer[onnx]'" in done.stdout


def test_what_onnx_runtime_refuses_is_told() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime") as caught:
        OnnxNetwork(*small("n", "NoSuchOperator"))
    assert caught.value.code == Code.INVALID_ONNX
    with pytest.raises(ModelError, match="ONNX Runtime"):
        OnnxNetwork(*small("n", shape=(4, 2)))
    with pytest.raises(ModelError, match="ONNX Runtime"):
        OnnxNetwork(*small("n"))([np.zeros((1, 5), np.float32)])
