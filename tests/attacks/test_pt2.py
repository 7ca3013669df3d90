"""Exported programs that would run code, fill the memory, or show what they should not: none does.

Each that runs code does so under `torch.export.load`, where that is easily shown; else the test would prove little.
"""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeezer.errors import Code, ModelError
from squeezer.formats import open_model
from squeezer.formats.pt2 import Pt2Model
from squeezer.graph.operators import OPERATORS
from squeezer.training.network import Network
from tests.formats.pt2_files import BIAS, WEIGHT, Pt2, meta, node, number, payload, symbol, tensor

X = tensor("x")


class Opening:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def refused(file: Pt2, path: Path, match: str, code: Code) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        Pt2Model(file.write(path / "m.pt2"))
    assert caught.value.code is code


# -- code --------------------------------------------------------------------------------------------------


def test_pickled_example_inputs_are_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    examples = io.BytesIO()
    torch.save(Opening(marker), examples)
    path = Pt2(members={"data/sample_inputs/model.pt": examples.getvalue()}).write(tmp_path / "m.pt2")
    model = open_model(path)
    np.testing.assert_array_equal(model.read("fc.weight"), WEIGHT)
    assert [item.name for item in model.dropped] == ["data/sample_inputs/model.pt"]
    assert "never opened" in model.dropped[0].reason
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011  # the negative control, whatever it ends in
        torch.export.load(path)
    assert marker.exists()


@pytest.mark.parametrize("place", ["weights", "constants"])
def test_pickled_tensors_are_refused(tmp_path: Path, place: str) -> None:
    marker = tmp_path / "ran"
    file = Pt2(records={"data/weights/weight_0": WEIGHT, "data/weights/weight_1": BIAS})
    file.records[f"data/{place}/evil"] = pickle.dumps(Opening(marker))
    getattr(file, place)["evil"] = payload("evil", meta([1]), use_pickle=True)
    refused(file, tmp_path, "'evil' is kept as a pickle", Code.UNSAFE_PICKLE)
    assert not marker.exists()


def test_weights_of_older_versions_are_pickles_and_are_refused(tmp_path: Path) -> None:
    path = Pt2().write(tmp_path / "m.pt2")
    path.write_bytes(path.read_bytes().replace(b"model_weights_config.json", b"model_weights_config.pick"))
    with pytest.raises(ModelError, match="older PyTorch") as caught:
        Pt2Model(path)
    assert caught.value.code is Code.UNSAFE_PICKLE


def test_expressions_and_guards_are_not_evaluated(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    file = Pt2(guards=[code], values={"x": meta([symbol(code), 4]), "y": meta([symbol(code), 3])})
    file.weights["extra"] = payload("weight_1", meta([3]))
    model = open_model(file.write(tmp_path / "m.pt2"))
    assert model.graph is not None
    assert model.graph.inputs[0].shape == (None, 4)
    file.weights["fc.bias"] = payload("weight_1", meta([symbol(code)], strides=[1]))
    refused(file, tmp_path, "the shape of 'fc.bias'", Code.INVALID_GRAPH)
    assert not marker.exists()
    eval(code)  # noqa: S307  # the negative control: this is what is not done
    assert marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.as_strided.default",
        "torch.ops.prim.Print.default",
        "torch.ops.my_library.run.default",
        "torch.ops.aten.nonzero.default",
        "torch.ops.aten.bernoulli.p",
        "torch.ops.higher_order.cond",
        "torch.ops.higher_order.run_with_rng_state",
        "torch.load",
        "torch.ops.load_library",
        "torch.classes.load_library",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "_operator.getitem",
        "math.prod",
        "os.system",
        "builtins.eval",
        "#extension.os.system",
        "",
    ],
)
def test_operators_beyond_the_list_are_named(tmp_path: Path, target: str) -> None:
    short = target.removeprefix("torch.ops.")
    refused(Pt2(nodes=[node(target, X)]), tmp_path, f"operator '{short}'", Code.UNSUPPORTED_OPERATOR)


@pytest.mark.parametrize(
    "argument",
    [
        {"as_graph": {"name": "true_graph", "graph": {}}},
        {"as_operator": "os.system"},
        {"as_custom_obj": {"name": "c", "class_fqn": "os.system"}},
    ],
)
def test_graphs_operators_and_objects_are_no_arguments(tmp_path: Path, argument: dict[str, Any]) -> None:
    file = Pt2(nodes=[node("torch.ops.aten.relu.default", argument)])
    refused(file, tmp_path, "aten.relu.default", Code.UNSUPPORTED_OPERATOR)


def test_no_name_of_the_file_becomes_code(tmp_path: Path) -> None:
    """torch.fx writes names of tensors into the source of a function; here they are not even in it."""
    marker = tmp_path / "ran"
    evil = f"""training"), exec(bytes({list(f"open({str(marker)!r}, 'w')".encode())})), getattr(self, "training"""
    file = Pt2()
    file.weights[evil] = file.weights.pop("fc.weight")
    file.input_specs[0]["parameter"]["parameter_name"] = evil
    model = Pt2Model(file.write(tmp_path / "m.pt2"))
    x = torch.ones(2, 4)
    tensors = {info.name: torch.from_numpy(model.read(info.name)) for info in model.tensors}
    torch.testing.assert_close(
        Network(model.graph)(tensors, (x,)), x @ torch.from_numpy(WEIGHT).T + torch.from_numpy(BIAS)
    )
    assert not marker.exists()
    tracer = torch.fx.Graph()  # the negative control
    tracer.output(tracer.get_attr(evil))
    torch.fx.GraphModule({evil: torch.ones(1)}, tracer)()
    assert marker.exists()


def test_torchscript_is_refused_with_the_command_that_exports_instead(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"script/{name}", pickle.dumps(Opening(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"squeezer\.export\(module, example_inputs, 'model\.pt2'\)") as caught:
        open_model(tmp_path / "script.pt")
    assert caught.value.code is Code.UNSUPPORTED_FORMAT
    assert not (tmp_path / "ran").exists()


def test_programs_of_older_versions_are_refused_likewise(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(ModelError, match=r"older PyTorch.*squeezer\.export"):
        open_model(tmp_path / "old.pt2")


# -- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description",
    [
        meta([3, 5]),
        meta([3, 4], begin=1),
        meta([3, 4], begin=2**62),
        meta([2**40, 2**40]),
        meta([3, 4], strides=[2**62, 2**62]),
        meta([3, 4], strides=[5, 1]),
        meta([2**63 - 1]),
        meta([10**12], strides=[1]),
    ],
)
def test_views_beyond_their_record(tmp_path: Path, description: dict[str, Any]) -> None:
    file = Pt2()
    file.weights["fc.weight"] = payload("weight_0", description)
    refused(file, tmp_path, "beyond the 48 bytes", Code.INVALID_GRAPH)


@pytest.mark.parametrize(
    "description",
    [
        meta([-1, 4]),
        meta([3, 4], begin=-1),
        meta([3, 4], strides=[-4, 1]),
        meta([3, 4], strides=[1]),
        meta([2**64]),
        meta([1] * 65),
        meta([3, 4]) | {"sizes": [number(3), {"as_int": True}]},
        meta([3, 4]) | {"sizes": [{"as_int": 3, "as_name": "x"}, number(4)]},
        meta([3, 4]) | {"sizes": "34"},
        meta([3, 4]) | {"storage_offset": None},
        meta([3, 4]) | {"dtype": "7"},
        meta([3, 4]) | {"dtype": True},
        meta([3, 4]) | {"layout": None},
    ],
)
def test_shapes_that_are_none(tmp_path: Path, description: dict[str, Any]) -> None:
    file = Pt2()
    file.weights["fc.weight"] = payload("weight_0", description)
    refused(file, tmp_path, "shape of 'fc.weight'|wrong kind|choice", Code.INVALID_GRAPH)


def test_a_view_of_many_elements_on_one(tmp_path: Path) -> None:
    file = Pt2()
    file.weights["fc.weight"] = payload("weight_0", meta([10**6, 10**6], strides=[0, 0]))
    refused(file, tmp_path, "would unpack", Code.ARCHIVE_TOO_LARGE)


def test_views_of_many_elements_together(tmp_path: Path) -> None:
    file = Pt2()
    for i in range(1000):
        file.weights[f"w{i}"] = payload("weight_0", meta([2**18, i + 1], strides=[0, 0]))
    refused(file, tmp_path, "would unpack", Code.ARCHIVE_TOO_LARGE)


def test_records_outside_of_the_archive_are_not_read(tmp_path: Path) -> None:
    for record in ("../../models/model.json", "/etc/passwd", "weight_9", ""):
        file = Pt2()
        file.weights["fc.weight"] = payload(record, meta([3, 4]))
        refused(file, tmp_path, "record of 'fc.weight' is missing", Code.INVALID_GRAPH)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED])
def test_compressed_records_are_refused(tmp_path: Path, method: int) -> None:
    refused(Pt2(compression=method), tmp_path, "is compressed", Code.INVALID_GRAPH)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = Pt2(compression=zipfile.ZIP_DEFLATED)
    file.records["data/weights/weight_0"] = bytes(200 << 20)
    refused(file, tmp_path, "would unpack", Code.ARCHIVE_TOO_LARGE)


def test_a_length_that_lies(tmp_path: Path) -> None:
    path = Pt2().write(tmp_path / "m.pt2")
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"data/weights/weight_0"))
    for at in (20, 24):  # compressed and plain size in the central directory
        data[entry + at : entry + at + 4] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        Pt2Model(path)
    assert caught.value.code in (Code.INVALID_ARCHIVE, Code.ARCHIVE_TOO_LARGE)


def test_a_truncated_file(tmp_path: Path) -> None:
    data = Pt2().write(tmp_path / "m.pt2").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "cut.pt2").write_bytes(data[:length])
        with pytest.raises(ModelError):
            open_model(tmp_path / "cut.pt2")


def test_other_byte_orders(tmp_path: Path) -> None:
    refused(Pt2(members={"byteorder": b"big"}), tmp_path, "little-endian", Code.INVALID_GRAPH)


# -- JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b"1" * 100_000,
        b'{"schema_version": {"major": 8}}',
        b'{"schema_version": {"major": true}}',
        b'{"schema_version": {"major": 8}, "graph_module": {"graph": {}, "signature": {}}}',
    ],
)
@pytest.mark.parametrize("member", ["models/model.json", "data/weights/model_weights_config.json"])
def test_documents_that_are_none(tmp_path: Path, text: bytes, member: str) -> None:
    with pytest.raises(ModelError) as caught:
        Pt2Model(Pt2(members={member: text}).write(tmp_path / "m.pt2"))
    assert caught.value.code in (Code.INVALID_GRAPH, Code.NO_TENSORS)


@pytest.mark.parametrize(
    "argument",
    [
        {},
        {"as_int": 1, "as_none": True},
        {"as_int": 1.5},
        {"as_int": "1"},
        {"as_int": 2**63},
        {"as_int": 10**4000},
        {"as_float": "nan"},
        {"as_float": 10**400},
        {"as_float": None},
        {"as_bool": 1},
        {"as_string": 1},
        {"as_string": "a" * 5000},
        {"as_ints": 3},
        {"as_ints": [True]},
        {"as_ints": [[1]]},
        {"as_ints": {"0": 1}},
        {"as_tensor": "x"},
        {"as_tensor": {"name": 3}},
        {"as_tensor": {"name": "later"}},
        {"as_tensors": [{}]},
        {"as_sym_int": {"as_name": "later"}},
        {"as_sym_int": {"as_name": ["x"]}},
        {"as_sym_ints": [3]},
        {"as_optional_tensor": {"as_optional_tensor": {"as_none": True}}, "x": 1},
        {"as_scalar_type": 0},
        {"as_scalar_type": [7]},
        {"as_memory_format": 0},
        {"as_memory_format": [1]},
        {"as_memory_format": True},
        {"as_complex": {"real": 1.0, "imag": 0.0}},
        {"as_nested_tensors": [[{"name": "x"}]]},
        {"as_string_to_argument": {}},
        {"__class__": "x"},
        "as_none",
        None,
        3,
    ],
)
def test_arguments_that_are_none(tmp_path: Path, argument: Any) -> None:
    file = Pt2(nodes=[node("torch.ops.aten.add.Tensor", X, argument)])
    with pytest.raises(ModelError) as caught:
        Pt2Model(file.write(tmp_path / "m.pt2"))
    assert caught.value.code in (Code.INVALID_GRAPH, Code.UNSUPPORTED_DTYPE)


def test_deep_choices_do_not_overflow_the_stack(tmp_path: Path) -> None:
    argument: dict[str, Any] = {"as_none": True}
    for _ in range(300):
        argument = {"as_optional_tensor": argument}
    file = Pt2(nodes=[node("torch.ops.aten.relu.default", argument)])
    refused(file, tmp_path, "kind", Code.INVALID_GRAPH)


@pytest.mark.parametrize("name", ["a b", "a-b", "class", "1x", "x" * 300, "", "__import__('os')", "x\n", "é"])
def test_names_of_values_that_are_none(tmp_path: Path, name: str) -> None:
    for file in (
        Pt2(nodes=[node("torch.ops.aten.relu.default", X, outputs=[tensor(name)])]),
        Pt2(input_specs=[{"user_input": {"arg": tensor(name)}}], values={name: meta([4])}),
    ):
        refused(file, tmp_path, "no name of a value", Code.INVALID_GRAPH)


def test_memory_stays_small_with_lists_of_lists(tmp_path: Path) -> None:
    """Empty lists are about the most objects that a text of JSON can hold: at most 64 MiB of it are read."""
    text = b'{"schema_version":{"major":8,"minor":0},"x":[' + b"[]," * (4 << 20) + b"[]]}"
    Pt2(members={"models/model.json": text}).write(tmp_path / "m.pt2")
    program = (
        "from pathlib import Path; from squeezer.formats.pt2 import Pt2Model;"
        "from squeezer.errors import ModelError\n"
        f"try: Pt2Model(Path({str(tmp_path / 'm.pt2')!r}))\n"
        "except ModelError: print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 600 << 10  # KiB
    refused(Pt2(members={"models/model.json": bytes((64 << 20) + 1)}), tmp_path, "64 MiB", Code.ARCHIVE_TOO_LARGE)


# -- anything --------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each part of a document."""
    children = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_a_document_ends_in_a_model_or_an_error(tmp_path: Path, data: st.DataObject) -> None:
    file = Pt2()
    whole = {"models/model.json": file.document(), "data/weights/model_weights_config.json": {"config": file.weights}}
    member = data.draw(st.sampled_from(sorted(whole)))
    way = data.draw(st.sampled_from(places(whole[member])[1:]))
    parent: Any = whole[member]
    for key in way[:-1]:
        parent = parent[key]
    if isinstance(parent, dict) and data.draw(st.booleans()):
        del parent[way[-1]]
    else:
        parent[way[-1]] = data.draw(json_values)
    file.members[member] = json.dumps(whole[member]).encode()
    try:
        model = Pt2Model(file.write(tmp_path / "m.pt2"))
    except ModelError:
        return
    assert {item.target for item in model.graph.nodes} <= OPERATORS
    for info in model.tensors:
        assert model.read(info.name).shape == info.shape
