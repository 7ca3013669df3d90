"""Exported programs: what PyTorch has written is read without it, and what is strange in them is dealt with."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from squeezer.errors import Code, ModelError
from squeezer.formats import open_model
from squeezer.formats.pt2 import Pt2Model
from squeezer.graph import ElementType, Graph, Input, MemoryFormat, Node, Value
from squeezer.graph.operators import CREATING
from squeezer.training.network import Network
from tests.formats.pt2_files import BIAS, WEIGHT, Pt2, meta, node, number, payload, symbol, tensor

X_VALUE = tensor("x")
X = np.array([[1, 2, 3, 4], [0, -1, 0, 5]], np.float32)


def opened(file: Pt2, path: Path) -> Pt2Model:
    return Pt2Model(file.write(path / "m.pt2"))


def graph_with(path: Path, *nodes: Any, **changes: Any) -> Graph:
    model = opened(Pt2(nodes=[*nodes], **changes), path)
    model.close()
    return model.graph


def test_a_file_by_hand_is_one_that_pytorch_takes(tmp_path: Path) -> None:
    """Else the attacks on such files would prove nothing."""
    examples = io.BytesIO()
    torch.save(((torch.from_numpy(X),), {}), examples)
    file = Pt2(members={"data/sample_inputs/model.pt": examples.getvalue()})
    program = torch.export.load(file.write(tmp_path / "m.pt2"))
    expected = torch.from_numpy(X @ WEIGHT.T + BIAS)
    torch.testing.assert_close(program.module()(torch.from_numpy(X)), expected)


def test_a_file_by_hand(tmp_path: Path) -> None:
    model = open_model(Pt2().write(tmp_path / "m.pt2"))
    assert model.format == "pt2"
    assert model.input_bytes == (tmp_path / "m.pt2").stat().st_size
    assert [(info.name, info.shape, info.dtype) for info in model.tensors] == [
        ("fc.weight", (3, 4), np.float32),
        ("fc.bias", (3,), np.float32),
    ]
    assert model.aliases == {}
    assert list(model.files) == []
    linear = Node("aten.linear.default", (Value("x"), Value("p_w"), Value("p_b")), ("y",))
    assert model.graph == Graph(
        (Input("x", (None, 4), "F32"),),
        {"p_w": "fc.weight", "p_b": "fc.bias"},
        frozenset(),
        (linear,),
        (Value("y"),),
    )
    np.testing.assert_array_equal(model.read("fc.weight"), WEIGHT)
    model.close()


def test_opening_loads_no_torch(tmp_path: Path) -> None:
    Pt2().write(tmp_path / "m.pt2")
    program = (
        "import sys; from pathlib import Path; from squeezer.formats import open_model;"
        f"m = open_model(Path({str(tmp_path / 'm.pt2')!r})); m.read('fc.bias');"
        "assert not {'torch', 'sympy', 'pickle5'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# -- what PyTorch writes -------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Tied weights, a transposed one, a name that is a keyword, buffers of both kinds, constants, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embedding.weight
        self.slanted = nn.Parameter(torch.randn(6, 4).t())
        self.heads = nn.ModuleDict({"class": nn.Linear(4, 4)})
        self.graph = nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("kept", torch.ones(4))
        self.register_buffer("not_kept", torch.full((4,), 2.0), persistent=False)
        self.constant = torch.tensor([1.0, 2, 3, 4])

    def forward(self, x: torch.Tensor, options: dict[str, torch.Tensor], *, scale: float = 1.0) -> Any:
        y = self.graph(self.heads["class"](self.embedding(x).mean(1))) * self.constant * scale
        y = y + self.not_kept + self.kept + torch.tensor([0.5, 0, 0, 0]) + options["shift"][:, None]
        return self.out(y), {"other": y @ self.slanted}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Everything, Path]:
    torch.manual_seed(0)
    module = Everything()
    batch = {0: torch.export.Dim.DYNAMIC}
    path = tmp_path_factory.mktemp("pt2") / "everything.pt2"
    program = torch.export.export(
        module,
        (torch.zeros(3, 5, dtype=torch.int64), {"shift": torch.zeros(3)}),
        {"scale": 2.0},
        dynamic_shapes={"x": batch, "options": {"shift": batch}, "scale": None},
    )
    torch.export.save(program, path)
    return module, path


def test_names_are_those_of_the_state_dict(everything: tuple[Everything, Path]) -> None:
    module, path = everything
    model = Pt2Model(path)
    stored = {info.name for info in model.tensors}
    state = module.state_dict()
    assert model.aliases == {"out.weight": "embedding.weight"}
    assert stored == (state.keys() - {"out.weight"}) | {"not_kept", "constant", "lifted_tensor_0"}
    for name, expected in state.items():
        np.testing.assert_array_equal(model.read(model.aliases.get(name, name)), expected)
    np.testing.assert_array_equal(model.read("constant"), module.constant)
    assert model.graph.buffers == {"kept", "not_kept", "constant", "lifted_tensor_0"}
    assert set(model.graph.tensors.values()) == stored  # each once, and unused ones, too
    assert len(model.graph.tensors) == len(stored)
    assert [item.name for item in model.dropped] == ["data/sample_inputs/model.pt"]


def test_it_computes_what_the_module_computes(everything: tuple[Everything, Path]) -> None:
    module, path = everything
    model = Pt2Model(path)
    assert model.graph.inputs == (Input("x", (None, 5), "I64"), Input("options_shift", (None,), "F32"))
    assert not model.graph.single
    tensors = {info.name: torch.from_numpy(model.read(info.name)) for info in model.tensors}
    x, shift = torch.randint(0, 10, (7, 5)), torch.randn(7)  # another batch than that of the export
    found = Network(model.graph)(tensors, (x, shift))
    logits, others = module(x, {"shift": shift}, scale=2.0)
    torch.testing.assert_close(found, (logits, others["other"]))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8", "uint16", "bool", "complex64"])
def test_element_types(tmp_path: Path, dtype: str) -> None:
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("data", torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(self.data.dtype)

    torch.export.save(torch.export.export(Typed(), (torch.zeros(2),)), tmp_path / "m.pt2")
    model = Pt2Model(tmp_path / "m.pt2")
    expected = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    array = model.read("data")
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


def test_decomposed_networks_are_switched_as_well(tmp_path: Path) -> None:
    """Functional graphs return new statistics; here batch norm writes them, and the counter counts in place."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).train()
    x = torch.randn(4, 1, 5, 5)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=batch).run_decompositions(), tmp_path / "m.pt2")
    model = Pt2Model(tmp_path / "m.pt2")
    assert [item.target for item in model.graph.nodes] == [
        "aten.convolution.default",
        "aten.batch_norm.default",
        "aten.add_.Tensor",
    ]
    network = Network(model.graph)
    tensors = {info.name: torch.from_numpy(model.read(info.name)) for info in model.tensors}
    torch.testing.assert_close(network(tensors, (x,)), module.eval()(x))
    assert int(tensors["1.num_batches_tracked"]) == 0
    torch.testing.assert_close(network(tensors, (x,), training=True), module.train()(x))
    for name, expected in module.state_dict().items():
        torch.testing.assert_close(tensors[name], expected)


def test_a_buffer_that_gets_another_value(tmp_path: Path) -> None:
    file = Pt2(nodes=[node("torch.ops.aten.add.Tensor", tensor("x"), tensor("p_w"))])
    file.input_specs[1] = {"buffer": {"arg": {"name": "p_b"}, "buffer_name": "fc.bias", "persistent": True}}
    file.output_specs.insert(0, {"buffer_mutation": {"arg": {"name": "y"}, "buffer_name": "fc.bias"}})
    written = opened(file, tmp_path).graph.nodes[-1]
    assert (written.target, written.args) == ("aten.copy_.default", (Value("p_b"), Value("y")))


def counter(*more: Any) -> Pt2:
    """A buffer that counts, in a functional graph: its new value is returned."""
    count = node("torch.ops.aten.add.Tensor", tensor("p_b"), {"as_int": 1}, outputs=[tensor("c")])
    file = Pt2(nodes=[count, node("torch.ops.aten.relu.default", tensor("x")), *more])
    file.input_specs[1] = {"buffer": {"arg": {"name": "p_b"}, "buffer_name": "fc.bias", "persistent": True}}
    file.output_specs.insert(0, {"buffer_mutation": {"arg": {"name": "c"}, "buffer_name": "fc.bias"}})
    return file


def test_a_count_that_is_used_is_no_mere_count(tmp_path: Path) -> None:
    assert [item.target for item in opened(counter(), tmp_path).graph.nodes] == [
        "aten.relu.default",
        "aten.add_.Tensor",
    ]
    use = node("torch.ops.aten.mul.Tensor", tensor("y"), tensor("c"), outputs=[tensor("z")])
    nodes = opened(counter(use), tmp_path).graph.nodes
    assert [item.target.split(".")[1] for item in nodes] == ["add", "relu", "mul", "copy_"]


def test_many_buffers_that_change_take_no_longer_for_it(tmp_path: Path) -> None:
    count = 10_000
    file = Pt2(nodes=[node("torch.ops.aten.relu.default", X_VALUE)])
    for i in range(count):
        file.weights[f"b{i}"] = payload("weight_1", meta([1], begin=0, strides=[i + 1]))
        file.input_specs.append({"buffer": {"arg": {"name": f"b_{i}"}, "buffer_name": f"b{i}", "persistent": True}})
        file.nodes.append(node("torch.ops.aten.add.Tensor", tensor(f"b_{i}"), {"as_int": 1}, outputs=[tensor(f"c{i}")]))
        file.output_specs.insert(0, {"buffer_mutation": {"arg": {"name": f"c{i}"}, "buffer_name": f"b{i}"}})
    path = file.write(tmp_path / "m.pt2")
    began = time.process_time()
    graph = Pt2Model(path).graph
    assert sum(item.target == "aten.add_.Tensor" for item in graph.nodes) == count
    assert time.process_time() - began < 6  # 0.6 s; with a search for each it was 20 s


def test_sparse_gradients_are_dense(tmp_path: Path) -> None:
    """Optimisers and parametrisations take none; the weights that come of them are the same."""
    false, true = {"as_bool": False}, {"as_bool": True}
    embedding = node("torch.ops.aten.embedding.default", tensor("p_w"), X_VALUE, number(-1), false, true)
    assert graph_with(tmp_path, embedding).nodes[0].args == (Value("p_w"), Value("x"), -1, False)


# -- views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "strides", "begin", "expected"),
    [
        ([3, 4], [4, 1], 0, WEIGHT),
        ([4, 3], [1, 4], 0, WEIGHT.T),
        ([2, 2], [8, 2], 1, WEIGHT[::2, 1::2]),
        ([3, 5], [4, 0], 3, np.repeat(WEIGHT[:, 3:], 5, 1)),
        ([], [], 7, WEIGHT[1, 3]),
        ([0, 4], [4, 1], 0, WEIGHT[:0]),
        ([4], [2], 4, WEIGHT.reshape(-1)[4::2]),
        ([1, 12], [999, 1], 0, WEIGHT.reshape(1, 12)),  # the stride of an extent of 1 means nothing
    ],
)
def test_views(tmp_path: Path, sizes: list[int], strides: list[int], begin: int, expected: np.ndarray) -> None:
    file = Pt2()
    file.weights["fc.weight"] = payload("weight_0", meta(sizes, strides=strides, begin=begin))
    model = opened(file, tmp_path)
    array = model.read("fc.weight")
    np.testing.assert_array_equal(array, expected)
    assert array.shape == tuple(sizes)
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_names_of_the_same_elements_are_tied_and_others_are_not(tmp_path: Path) -> None:
    file = Pt2()
    file.weights["again"] = payload("weight_0", meta([3, 4]))
    file.weights["turned"] = payload("weight_0", meta([4, 3], strides=[1, 4]))
    file.weights["void"] = payload("weight_0", meta([0]))
    file.weights["void too"] = payload("weight_0", meta([0]))
    model = opened(file, tmp_path)
    assert model.aliases == {"again": "fc.weight"}
    assert [info.name for info in model.tensors] == ["fc.weight", "fc.bias", "turned", "void", "void too"]


def test_a_damaged_record_is_found_out_by_those_who_read_a_part_of_it(tmp_path: Path) -> None:
    file = Pt2()
    file.weights["part"] = payload("weight_0", meta([4], begin=4))
    path = file.write(tmp_path / "m.pt2")
    np.testing.assert_array_equal(Pt2Model(path).read("part"), WEIGHT[1])
    data = path.read_bytes()
    at = data.index(WEIGHT.tobytes())
    path.write_bytes(data[: at + 20] + bytes([data[at + 20] ^ 1]) + data[at + 21 :])
    with pytest.raises(ModelError) as caught:
        Pt2Model(path).read("part")
    assert caught.value.code is Code.INVALID_ARCHIVE


def test_a_damaged_record_is_found_out(tmp_path: Path) -> None:
    path = Pt2().write(tmp_path / "m.pt2")
    data = bytearray(path.read_bytes())
    data[data.index(WEIGHT.tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="checksum") as caught:
        Pt2Model(path).read("fc.weight")
    assert caught.value.code is Code.INVALID_ARCHIVE


# -- the dialect -------------------------------------------------------------------------------------------

X_ = tensor("x")
ANY = {"as_device": {"type": "cuda", "index": 3}}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (
            node("torch.ops.aten.zeros.default", {"as_ints": [2, 3]}, dtype={"as_scalar_type": 6}, device=ANY),
            Node("aten.zeros.default", ((2, 3),), ("y",), {"dtype": ElementType("F16")}),
        ),
        (
            node("torch.ops.aten.empty.memory_format", {"as_ints": [2]}, memory_format={"as_memory_format": 1}),
            Node("aten.zeros.default", ((2,),), ("y",)),
        ),
        (
            node("torch.ops.aten.new_empty.default", X_, {"as_ints": []}),
            Node("aten.new_zeros.default", (Value("x"), ()), ("y",)),
        ),
        (
            node("torch.ops.aten.to.device", X_, ANY, {"as_scalar_type": 7}),
            Node("aten.to.dtype", (Value("x"), ElementType("F32")), ("y",)),
        ),
        (
            node("torch.ops.aten.contiguous.default", X_, memory_format={"as_memory_format": 2}),
            Node("aten.contiguous.default", (Value("x"),), ("y",), {"memory_format": MemoryFormat("channels_last")}),
        ),
        (
            node("torch.ops.aten.clamp.default", X_, {"as_none": True}, {"as_float": "Infinity"}),
            Node("aten.clamp.default", (Value("x"), None, float("inf")), ("y",)),
        ),
        (
            node("torch.ops.aten.index.Tensor", X_, {"as_optional_tensors": [{"as_none": True}, X_]}),
            Node("aten.index.Tensor", (Value("x"), (None, Value("x"))), ("y",)),
        ),
        (
            node("torch.ops.aten.chunk.default", X_, number(1), outputs=[{"as_tensors": [{"name": "y"}]}]),
            Node("aten.chunk.default", (Value("x"), 1), ("y",), several=True),
        ),
        (
            node("torch.ops.aten.max.dim", X_, number(1), outputs=[tensor("y"), {"as_none": True}]),
            Node("aten.max.dim", (Value("x"), 1), ("y", None)),
        ),
        (
            node("torch.ops.aten.view.default", X_, {"as_sym_ints": [number(2), number(-1)]}),
            Node("aten.view.default", (Value("x"), (2, -1)), ("y",)),
        ),
        (
            node(
                "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default",
                *(X_, X_, X_, {"as_float": 0.1}),
                outputs=[tensor("y"), tensor("z")],
                scale={"as_float": 2.0},
            ),
            Node(
                "aten.scaled_dot_product_attention.default",
                (Value("x"), Value("x"), Value("x"), None, 0.1, False),
                ("y",),
                {"scale": 2.0},
            ),
        ),
        (
            node(
                "torch.ops.aten._native_batch_norm_legit_no_training.default",
                *(X_, {"as_none": True}, {"as_none": True}, tensor("p_b"), tensor("p_b")),
                *({"as_float": 0.1}, {"as_float": 1e-5}),
                outputs=[tensor("y"), tensor("z"), tensor("q")],
            ),
            Node(
                "aten.batch_norm.default",
                (Value("x"), None, None, Value("p_b"), Value("p_b"), False, 0.1, 1e-5, False),
                ("y",),
            ),
        ),
    ],
    ids=lambda item: item["target"] if isinstance(item, dict) else "",
)
def test_operators_in_one_dialect(tmp_path: Path, written: dict[str, Any], read: Node) -> None:
    assert graph_with(tmp_path, written).nodes == (read,)


def test_sizes_are_what_operators_compute(tmp_path: Path) -> None:
    size = node("torch.ops.aten.sym_size.int", X_, number(0), outputs=[{"as_sym_int": {"as_name": "s"}}])
    twice = node(
        "_operator.mul", {"as_sym_int": {"as_name": "s"}}, number(2), outputs=[{"as_sym_int": {"as_name": "t"}}]
    )
    idle = node(
        "_operator.ge", {"as_sym_int": {"as_name": "t"}}, number(0), outputs=[{"as_sym_bool": {"as_name": "g"}}]
    )
    assertion = node("torch.ops.aten._assert_scalar.default", {"as_sym_bool": {"as_name": "g"}}, outputs=[])
    view = node("torch.ops.aten.view.default", X_, {"as_sym_ints": [{"as_name": "t"}, number(2)]})
    graph = graph_with(tmp_path, size, twice, idle, assertion, view)
    assert [item.target for item in graph.nodes] == ["aten.sym_size.int", "_operator.mul", "aten.view.default"]
    assert graph.nodes[-1].args == (Value("x"), (Value("t"), 2))


def test_constants_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    file = Pt2()
    file.input_specs += [
        {"constant_input": {"name": "scale", "value": {"as_float": 2.0}}},
        {"user_input": {"arg": {"as_none": True}}},
    ]
    assert [given.name for given in opened(file, tmp_path).graph.inputs] == ["x"]


def test_a_tuple_of_one_is_no_tensor(tmp_path: Path) -> None:
    leaf = '{"type": null, "context": null, "children_spec": []}'
    file = Pt2(
        out_spec='[1, {"type": "builtins.tuple", "context": "null", "children_spec": [LEAF]}]'.replace("LEAF", leaf)
    )
    assert not opened(file, tmp_path).graph.single


def test_later_minor_versions_are_read(tmp_path: Path) -> None:
    assert opened(Pt2(version={"major": 8, "minor": 99}), tmp_path).graph


@pytest.mark.parametrize("major", [7, 9])
def test_other_major_versions_are_not(tmp_path: Path, major: int) -> None:
    with pytest.raises(ModelError, match=f"version {major}.*squeezer.export"):
        opened(Pt2(version={"major": major, "minor": 0}), tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"input_specs": [{"custom_obj": {"arg": {}, "custom_obj_name": "c"}}]}, "kind 'custom_obj'"),
        ({"input_specs": [{"user_input": {"arg": {"as_sym_int": {"as_name": "n"}}}}]}, "input that is a number"),
        ({"output_specs": [{"user_output": {"arg": {"as_sym_int": {"as_name": "n"}}}}]}, "returns a number"),
        ({"output_specs": [{"parameter_mutation": {"arg": {"name": "y"}}}]}, "'parameter_mutation'"),
        ({"output_specs": [{"buffer_mutation": {"arg": {"name": "y"}, "buffer_name": "b"}}]}, "changes 'b'"),
        ({"output_specs": []}, "returns nothing"),
        ({"values": {}}, "'x' is missing"),
        ({"values": {"x": meta([symbol(), 4], dtype=11)}}, "element type"),
        ({"weights": {}}, "tensor 'fc.bias' is missing|tensor 'fc.weight' is missing|no tensors"),
        ({"constants": {"fc.bias": payload("weight_1", meta([3]))}}, "missing|weight and a constant"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        opened(Pt2(**change), tmp_path)


def test_an_archive_of_several_networks_and_of_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model, other") as caught:
        opened(Pt2(members={"models/other.json": b"{}"}), tmp_path)
    assert caught.value.code is Code.UNSUPPORTED_FORMAT
    file = io.BytesIO(Pt2().write(tmp_path / "m.pt2").read_bytes().replace(b"models/", b"module/"))
    (tmp_path / "none.pt2").write_bytes(file.getvalue())
    with pytest.raises(ModelError, match="no program"):
        open_model(tmp_path / "none.pt2")


def test_negative_control_the_device_is_dropped_for_a_reason(tmp_path: Path) -> None:
    """A network that was exported on a GPU runs here, and one that makes tensors makes them where its inputs are."""
    made = node("torch.ops.aten.ones.default", {"as_ints": [4]}, device=ANY, outputs=[tensor("o")])
    graph = graph_with(tmp_path, made, node("torch.ops.aten.add.Tensor", X_, tensor("o")))
    assert graph.nodes[0].target in CREATING
    x = torch.zeros(2, 4, device="meta")
    weights = {"fc.weight": torch.zeros(3, 4, device="meta"), "fc.bias": torch.zeros(3, device="meta")}
    result = Network(graph)(weights, (x,))
    assert isinstance(result, torch.Tensor)
    assert result.device.type == "meta"
