"""Our reader and writer of ONNX against the packages onnx and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

import squeezer
from squeezer.artifact import Artifact
from squeezer.errors import ArtifactError, Code, ModelError
from squeezer.formats import onnx as ours
from squeezer.formats import onnx_parts, open_model, protobuf
from squeezer.formats.onnx import SKELETON, OnnxModel
from squeezer.formats.onnx_model import inputs_of, parse_skeleton
from squeezer.formats.onnx_tensors import TYPES
from squeezer.graph import Input
from squeezer.model import DTYPES
from squeezer.representations import Dense

RANDOM = np.random.default_rng(0)


def weights() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "w": RANDOM.normal(size=(8, 16)).astype(np.float32),
        "b": RANDOM.normal(size=16).astype(np.float32),
        "shape": np.array([-1, 4, 4], np.int64),
    }


def network(tensors: list[TensorProto], **extra: Any) -> ModelProto:
    """y = reshape(x w + b), and a Constant that stays where it is."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["xw"]),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2), "two")),
        helper.make_node("Mul", ["xw", "two"], ["doubled"]),
        helper.make_node("Reshape", ["doubled", "shape"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4, 4])
    graph = helper.make_graph(nodes, "network", [x], [y], initializer=tensors, **extra)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def ordinary() -> ModelProto:
    return network([numpy_helper.from_array(array, name) for name, array in weights().items()])


def save(tmp_path: Path, model: ModelProto | bytes) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def error_of(tmp_path: Path, model: ModelProto | bytes) -> ModelError:
    path = save(tmp_path, model)
    with pytest.raises(ModelError) as caught:
        open_model(path)
    assert len(caught.value.detail) > 20
    return caught.value


def run(model: bytes, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


# -- reading -----------------------------------------------------------------------------------------------


def test_initialisers_are_the_tensors_and_the_rest_is_a_file(tmp_path: Path) -> None:
    model = ordinary()
    path = save(tmp_path, model)
    opened = open_model(path)
    assert isinstance(opened, OnnxModel)
    assert opened.format == "onnx"
    assert opened.input_bytes == path.stat().st_size
    assert [info.name for info in opened.tensors] == ["w", "b", "shape"]
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(opened.read(tensor.name), numpy_helper.to_array(tensor))
        tensor.ClearField("raw_data")
    content = opened.read_file(SKELETON)
    assert ModelProto.FromString(content) == model
    assert opened.files == {SKELETON: len(content)}
    opened.close()


def test_a_file_of_an_exporter_comes_back_byte_for_byte(tmp_path: Path) -> None:
    path = save(tmp_path, ordinary())
    squeezer.compress(path, "lossless", tmp_path / "m.sqz")
    with Artifact(tmp_path / "m.sqz") as artifact:
        ours.write(artifact, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == path.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["back.onnx", "m.sqz", "model.onnx"]


def test_decoded_weights_run(tmp_path: Path) -> None:
    """Weights that were quantised: ONNX Runtime computes with what `load` gives."""
    recipe = {"version": 1, "steps": [{"method": "uniform_quantize", "bits": 4}]}
    squeezer.compress(save(tmp_path, ordinary()), recipe, tmp_path / "m.sqz")
    with Artifact(tmp_path / "m.sqz") as artifact:
        ours.write(artifact, tmp_path / "back.onnx")
    decoded = squeezer.load(tmp_path / "m.sqz")
    assert len(np.unique(decoded["w"])) <= 16
    x = RANDOM.normal(size=(3, 8)).astype(np.float32)
    expected = (2 * (x @ decoded["w"] + decoded["b"])).reshape(-1, 4, 4)
    np.testing.assert_allclose(run((tmp_path / "back.onnx").read_bytes(), x), expected, rtol=1e-5, atol=1e-5)
    original = run((tmp_path / "model.onnx").read_bytes(), x)
    assert np.abs(original - expected).max() > 1e-3  # the control: other weights give something else


@pytest.mark.parametrize("name", [name for name in TYPES.values() if name not in ("BOOL",)])
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_comes_back_bit_for_bit(tmp_path: Path, name: str, raw: bool) -> None:
    number = next(number for number, known in TYPES.items() if known == name)
    bits = RANDOM.integers(0, 256, 12 * DTYPES[name].itemsize, np.uint8)
    if not raw and name in ("F32", "C64", "F64"):  # NaNs may change on their way through Python's numbers
        bits = RANDOM.normal(size=12 * (2 if name == "C64" else 1)).astype(np.float32 if name != "F64" else np.float64)
    array = bits.view(DTYPES[name]).reshape(3, 4)
    tensor = helper.make_tensor("t", number, (3, 4), array.tobytes() if raw else array.reshape(-1), raw=raw)
    assert tensor.HasField("raw_data") == raw
    opened = OnnxModel(save(tmp_path, network([tensor])))
    read = opened.read("t")
    assert read.dtype == DTYPES[name]
    assert read.shape == (3, 4)
    assert read.tobytes() == array.tobytes()
    assert read.flags.writeable
    opened.close()


@pytest.mark.parametrize("raw", [True, False])
def test_booleans_come_back_and_are_checked(tmp_path: Path, raw: bool) -> None:
    values = [True, False, True]
    data = bytes(map(int, values)) if raw else values
    tensor = helper.make_tensor("t", TensorProto.BOOL, (3,), data, raw=raw)
    opened = OnnxModel(save(tmp_path, network([tensor])))
    np.testing.assert_array_equal(opened.read("t"), values)
    opened.close()
    if raw:
        tensor.raw_data = b"\x01\x02\x00"
    else:
        tensor.int32_data[1] = 2
    with pytest.raises(ModelError) as caught:  # raw bytes are only seen when they are read
        OnnxModel(save(tmp_path, network([tensor]))).read("t")
    assert caught.value.code == Code.INVALID_ONNX


def test_special_floats_come_back_from_raw_bytes(tmp_path: Path) -> None:
    array = np.array([np.nan, -np.inf, -0.0, 1e-45], np.float32)
    opened = OnnxModel(save(tmp_path, network([numpy_helper.from_array(array, "t")])))
    assert opened.read("t").tobytes() == array.tobytes()
    opened.close()


def test_scalars_and_empty_tensors_come_back(tmp_path: Path) -> None:
    tensors = [
        numpy_helper.from_array(np.float32(3), "scalar"),
        numpy_helper.from_array(np.empty((0, 3), np.int64), "empty"),
        TensorProto(name="hollow", data_type=TensorProto.FLOAT, dims=[2, 0]),
    ]
    opened = OnnxModel(save(tmp_path, network(tensors)))
    assert [info.shape for info in opened.tensors] == [(), (0, 3), (2, 0)]
    assert opened.read("scalar") == 3
    assert opened.read("empty").shape == (0, 3)
    assert opened.read("hollow").shape == (2, 0)
    opened.close()


def test_data_behind_a_comment_and_in_unpacked_numbers_are_found(tmp_path: Path) -> None:
    """A `TensorProto` in an order, and with a list, that no current exporter writes."""
    numbers = b"".join(b"\x25" + np.float32(value).tobytes() for value in (1, 2, 3))
    tensor = b"\x62\x02hi" + numbers[:5] + b"\x42\x01t" + b"\x10\x01" + numbers[5:] + b"\x08\x03"
    parsed = TensorProto.FromString(tensor)
    assert list(parsed.float_data) == [1, 2, 3]
    graph = network([]).graph.SerializeToString() + onnx_parts.prefix(5, len(tensor)) + tensor
    whole = b"\x08\x09\x42\x02\x10\x12" + onnx_parts.prefix(7, len(graph)) + graph
    opened = OnnxModel(save(tmp_path, whole))
    assert opened.read("t").tolist() == [1, 2, 3]
    skeleton = ModelProto.FromString(opened.read_file(SKELETON))
    assert skeleton.graph.initializer[0].doc_string == "hi"
    opened.close()


def test_reading_needs_little_memory(tmp_path: Path) -> None:
    """Opening reads no weights, and the largest of them is in memory by itself."""
    import tracemalloc

    tensors = [numpy_helper.from_array(np.full((512, 1024), i, np.float32), f"t{i}") for i in range(8)]
    path = save(tmp_path, network(tensors))
    tracemalloc.start()
    opened = OnnxModel(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    for i in range(8):
        assert opened.read(f"t{i}")[0, 0] == i
    assert tracemalloc.get_traced_memory()[1] < 1.5 * 512 * 1024 * 4
    tracemalloc.stop()
    opened.close()


def test_the_inputs_are_described_without_the_initialisers() -> None:
    model = ordinary()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 16]))  # as before IR version 4
    assert inputs_of(model) == (Input("x", (None, 8), "F32"),)
    model.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    with pytest.raises(ModelError, match="'s'"):
        inputs_of(model)


# -- attacks -----------------------------------------------------------------------------------------------


def external() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def test_data_in_other_files_are_refused_wherever_they_are_named(tmp_path: Path) -> None:
    tensor = external()
    only_named = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8))
    only_named.external_data.add(key="location", value="/etc/passwd")
    good = weights()["w"]
    constant = ordinary()
    constant.graph.node[1].attribute[0].t.CopyFrom(tensor)
    nested = ordinary()
    branch = GraphProto(name="branch", initializer=[tensor])
    nested.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    function = ordinary()
    inner = helper.make_node("Constant", [], ["z"], value=tensor)
    function.functions.append(helper.make_function("local", "f", [], ["z"], [inner], [helper.make_opsetid("", 18)]))
    training = ordinary()
    training.training_info.add().initialization.initializer.append(tensor)
    for model in (network([tensor]), network([only_named]), constant, nested, function, training):
        error = error_of(tmp_path, model)
        assert error.code == Code.UNSUPPORTED_FORMAT
        assert "another file" in error.detail
    assert OnnxModel(save(tmp_path, network([numpy_helper.from_array(good, "w")]))).tensors  # the control


def test_sparse_initialisers_are_refused(tmp_path: Path) -> None:
    model = ordinary()
    model.graph.sparse_initializer.add().dims.append(3)
    assert error_of(tmp_path, model).code == Code.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "dims",
    [[3, 16], [8, 17], [2**62], [2**40, 2**40], [-1, 8], [-8, -16], [2**63 - 1, 2], [1] * 65, [], [128, 0], [2**62, 0]],
)
@pytest.mark.parametrize("raw", [True, False])
def test_dimensions_that_lie_are_refused(tmp_path: Path, dims: list[int], raw: bool) -> None:
    array = weights()["w"]
    tensor = helper.make_tensor("w", 1, array.shape, array.tobytes() if raw else array.reshape(-1), raw=raw)
    tensor.ClearField("dims")
    tensor.dims.extend(dims)
    assert error_of(tmp_path, network([tensor])).code == Code.INVALID_ONNX


def test_data_that_do_not_fit_their_type_are_refused(tmp_path: Path) -> None:
    def tensor(kind: int, **data: Any) -> TensorProto:
        return TensorProto(name="w", data_type=kind, dims=[2], **data)

    for wrong in (
        tensor(TensorProto.FLOAT),
        tensor(TensorProto.FLOAT, int32_data=[1, 2]),
        tensor(TensorProto.FLOAT, float_data=[1, 2], raw_data=bytes(8)),
        tensor(TensorProto.FLOAT, raw_data=bytes(7)),
        tensor(TensorProto.FLOAT, float_data=[1, 2, 3]),
        tensor(TensorProto.FLOAT, string_data=[b"abcd", b"efgh"]),
        tensor(TensorProto.UINT8, int32_data=[1, 256]),
        tensor(TensorProto.INT8, int32_data=[1, -129]),
        tensor(TensorProto.FLOAT16, int32_data=[1, 1 << 16]),
        tensor(TensorProto.BFLOAT16, int32_data=[1, -1]),
        tensor(TensorProto.UINT32, uint64_data=[1, 1 << 32]),
        tensor(TensorProto.COMPLEX64, float_data=[1, 2]),
        TensorProto(data_type=1, dims=[2], float_data=[1, 2]),
    ):
        assert error_of(tmp_path, network([wrong])).code == Code.INVALID_ONNX
    for unknown in (TensorProto.STRING, TensorProto.COMPLEX128, TensorProto.INT4, TensorProto.UNDEFINED, 999):
        error = error_of(tmp_path, network([tensor(unknown, raw_data=bytes(8))]))
        assert error.code == Code.UNSUPPORTED_DTYPE
        assert "'w'" in error.detail


def test_twice_the_same_name_is_refused(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(weights()["w"], "w")
    assert error_of(tmp_path, network([tensor, tensor])).code == Code.INVALID_ONNX


def test_a_model_without_initialisers_has_nothing_to_compress(tmp_path: Path) -> None:
    assert error_of(tmp_path, network([])).code == Code.NO_TENSORS


def test_a_file_that_was_cut_off_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = ordinary().SerializeToString()
    codes = {error_of(tmp_path, whole[:length]).code for length in range(8, len(whole), 7)}
    assert codes <= {Code.TRUNCATED_FILE, Code.INVALID_ONNX}
    assert error_of(tmp_path, whole[: len(whole) // 2]).code == Code.TRUNCATED_FILE


def test_two_graphs_are_refused(tmp_path: Path) -> None:
    """A parser would merge them; the second could change what the first was checked for."""
    whole = ordinary().SerializeToString()
    graph = external().SerializeToString()
    second = onnx_parts.prefix(5, len(graph)) + graph
    assert error_of(tmp_path, whole + onnx_parts.prefix(7, len(second)) + second).code == Code.INVALID_ONNX


def test_a_graph_of_any_size_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_parts, "_MAX_SKELETON_BYTES", 1000)
    model = ordinary()
    OnnxModel(save(tmp_path, model)).close()
    model.graph.doc_string = "x" * 1000
    error = error_of(tmp_path, model)
    assert error.code == Code.INVALID_ONNX
    assert "Constant" in error.detail


def test_a_flood_of_tiny_parts_is_refused_before_they_become_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with a hundred thousand attributes of two bytes each: a hundred times that in memory."""
    monkeypatch.setattr(protobuf, "_MOST_FIELDS", 50_000)
    flood = b"\x2a\x00" * 100_000
    graph = ordinary().graph.SerializeToString() + onnx_parts.prefix(1, len(flood)) + flood
    whole = b"\x08\x09\x42\x02\x10\x12" + onnx_parts.prefix(7, len(graph)) + graph
    assert len(ModelProto.FromString(whole).graph.node[-1].attribute) == 100_000
    assert error_of(tmp_path, whole).code == Code.INVALID_ONNX
    OnnxModel(save(tmp_path, ordinary())).close()


def test_a_file_beyond_two_gibibytes_is_refused_unread(tmp_path: Path) -> None:
    path = save(tmp_path, ordinary())
    with path.open("r+b") as file:
        file.truncate((1 << 31) + 5)  # a hole, which takes no room
    with pytest.raises(ModelError, match="2 GiB"):
        OnnxModel(path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    """A graph in an attribute of a node of a graph, and so on: what would exhaust a stack."""
    content = b""
    for _ in range(10_000):
        for number in (6, 5, 1):  # graph of an attribute, attribute of a node, node of a graph
            content = onnx_parts.prefix(number, len(content)) + content
    whole = ordinary().SerializeToString()
    graph = ordinary().graph.SerializeToString() + content
    assert error_of(tmp_path, b"\x08\x09\x42\x02\x10\x12" + onnx_parts.prefix(7, len(graph)) + graph).code == (
        Code.INVALID_ONNX
    )
    assert OnnxModel(save(tmp_path, whole)).tensors


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_as_announced(tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(ordinary().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        opened = OnnxModel(save(tmp_path, bytes(damaged)))
    except ModelError:
        return
    for info in opened.tensors:
        array = opened.read(info.name)
        assert (array.shape, array.dtype) == (info.shape, info.dtype)
    opened.close()


# -- writing -----------------------------------------------------------------------------------------------


def artifact_of(tmp_path: Path, skeleton: bytes, arrays: dict[str, np.ndarray[Any, Any]]) -> Path:
    from squeezer.artifact import ArtifactWriter
    from squeezer.artifact.writer import encode_tensor

    path = tmp_path / "m.sqz"
    with ArtifactWriter(path) as writer:
        for name, array in arrays.items():
            tensor = Dense(array, array.dtype)
            writer.add(name, tensor, encode_tensor(tensor))
        writer.add_file(SKELETON, skeleton)
    return path


def skeleton_of(tmp_path: Path, model: ModelProto) -> bytes:
    opened = OnnxModel(save(tmp_path, model))
    opened.close()
    return opened.read_file(SKELETON)


def test_a_skeleton_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    arrays = weights()
    good = skeleton_of(tmp_path, ordinary())
    full = network([numpy_helper.from_array(arrays["w"], "w")]).SerializeToString()
    outside = network([external()]).SerializeToString()
    wider = arrays | {"b": arrays["b"].astype(np.float64)}
    longer = arrays | {"b": np.zeros(17, np.float32)}
    fewer = {name: array for name, array in arrays.items() if name != "b"}
    for skeleton, tensors in (
        (good, wider),
        (good, longer),
        (good, fewer),
        (full, arrays),
        (outside, arrays),
        (good[:-3], arrays),
        (b"", arrays),
    ):
        with Artifact(artifact_of(tmp_path, skeleton, tensors)) as artifact, pytest.raises(ArtifactError):
            ours.write(artifact, tmp_path / "out.onnx")
        assert not [each for each in tmp_path.iterdir() if each.name not in ("m.sqz", "model.onnx")]
    with Artifact(artifact_of(tmp_path, good, arrays)) as artifact:
        ours.write(artifact, tmp_path / "out.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)


def test_an_artifact_of_something_else_cannot_become_onnx(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": weights()["w"]}, tmp_path / "m.safetensors")
    squeezer.compress(tmp_path / "m.safetensors", "safe", tmp_path / "m.sqz")
    with Artifact(tmp_path / "m.sqz") as artifact, pytest.raises(ModelError, match="not made from an ONNX"):
        ours.write(artifact, tmp_path / "out.onnx")


def test_numbers_of_other_fields_are_written_as_raw_bytes(tmp_path: Path) -> None:
    values = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    tensor = helper.make_tensor("t", TensorProto.BFLOAT16, (2, 3), values.reshape(-1))
    assert not tensor.HasField("raw_data")
    opened = OnnxModel(save(tmp_path, network([tensor])))
    skeleton = opened.read_file(SKELETON)
    written = ModelProto.FromString(b"".join(ours.assemble(skeleton, lambda info: opened.read(info.name))))
    opened.close()
    np.testing.assert_array_equal(numpy_helper.to_array(written.graph.initializer[0]), values)
    parse_skeleton(skeleton)
    with pytest.raises(ValueError, match="was read"):
        list(ours.assemble(skeleton, lambda info: np.zeros(info.shape, np.float32)))
