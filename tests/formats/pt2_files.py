"""Exported programs put together by hand, as `torch.export.save` writes them, so that they can be wrong."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
BIAS = np.array([1, -1, 0.5], np.float32)


def number(value: int) -> dict[str, int]:
    return {"as_int": value}


def symbol(expression: str = "Symbol('s77', positive=True, integer=True)") -> dict[str, Any]:
    return {"as_expr": {"expr_str": expression, "hint": number(2)}}


def meta(sizes: list[Any], *, strides: list[Any] | None = None, begin: int = 0, dtype: int = 7) -> dict[str, Any]:
    """The description of a tensor; strides are those of row-major order unless they are given."""
    if strides is None:
        strides, step = [], 1
        for size in reversed(sizes):
            strides.insert(0, step)
            step *= size if isinstance(size, int) else 1
    return {
        "dtype": dtype,
        "sizes": [number(size) if isinstance(size, int) else size for size in sizes],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [number(step) if isinstance(step, int) else step for step in strides],
        "storage_offset": number(begin),
        "layout": 7,
    }


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def node(target: str, *args: dict[str, Any], outputs: list[Any] | None = None, **kwargs: Any) -> dict[str, Any]:
    """An operator; its results are `[{"as_tensor": ...}]`, by default `y`."""
    given = [{"name": f"a{i}", "arg": arg, "kind": 1} for i, arg in enumerate(args)]
    given += [{"name": name, "arg": arg, "kind": 2} for name, arg in kwargs.items()]
    return {
        "target": target,
        "inputs": given,
        "outputs": [tensor("y")] if outputs is None else outputs,
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": "y",
    }


def linear() -> dict[str, Any]:
    """x times the weight, plus the bias. Only PyTorch itself looks at the names of positional arguments."""
    whole = node("torch.ops.aten.linear.default", tensor("x"), tensor("p_w"), tensor("p_b"))
    for given, name in zip(whole["inputs"], ("input", "weight", "bias"), strict=True):
        given["name"] = name
    return whole


def payload(record: str, description: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"path_name": record, "is_param": True, "use_pickle": False, "tensor_meta": description} | changes


@dataclass
class Pt2:
    """A linear layer of four inputs and three outputs, all of whose parts can be changed before `write`."""

    nodes: list[Any] = field(default_factory=lambda: [linear()])
    input_specs: list[Any] = field(
        default_factory=lambda: [
            {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "fc.weight"}},
            {"parameter": {"arg": {"name": "p_b"}, "parameter_name": "fc.bias"}},
            {"user_input": {"arg": tensor("x")}},
        ]
    )
    output_specs: list[Any] = field(default_factory=lambda: [{"user_output": {"arg": tensor("y")}}])
    values: dict[str, Any] = field(default_factory=lambda: {"x": meta([symbol(), 4]), "y": meta([symbol(), 3])})
    weights: dict[str, Any] = field(
        default_factory=lambda: {
            "fc.weight": payload("weight_0", meta([3, 4])),
            "fc.bias": payload("weight_1", meta([3])),
        }
    )
    constants: dict[str, Any] = field(default_factory=dict)
    records: dict[str, NDArray[Any] | bytes] = field(
        default_factory=lambda: {"data/weights/weight_0": WEIGHT, "data/weights/weight_1": BIAS}
    )
    version: dict[str, int] = field(default_factory=lambda: {"major": 8, "minor": 20})
    guards: list[str] = field(default_factory=list)
    out_spec: str = '[1, {"type": null, "context": null, "children_spec": []}]'
    members: dict[str, bytes] = field(default_factory=dict)  # further ones, or others in place of the usual
    compression: int = zipfile.ZIP_STORED

    def document(self) -> dict[str, Any]:
        """What is in `models/model.json`."""
        leaf = '{"type": null, "context": null, "children_spec": []}'
        tuple_of = '{"type": "builtins.tuple", "context": "null", "children_spec": [%s]}'
        inputs = tuple_of % (tuple_of % leaf + ', {"type": "builtins.dict", "context": "[]", "children_spec": []}')
        graph = {
            "inputs": [tensor(name) for name in ("p_w", "p_b", "x")],
            "outputs": [tensor("y")],
            "nodes": self.nodes,
            "tensor_values": {"p_w": meta([3, 4]), "p_b": meta([3])} | self.values,
            "sym_int_values": {},
            "sym_bool_values": {},
            "is_single_tensor_return": False,
            "custom_obj_values": {},
            "sym_float_values": {},
        }
        call = {
            "inputs": [],
            "outputs": [],
            "in_spec": f"[1, {inputs}]",
            "out_spec": self.out_spec,
            "forward_arg_names": ["x"],
        }
        return {
            "graph_module": {
                "graph": graph,
                "signature": {"input_specs": self.input_specs, "output_specs": self.output_specs},
                "module_call_graph": [{"fqn": "", "signature": call}],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {"aten": 10},
            "range_constraints": {"s77": {"min_val": 0, "max_val": None}},
            "schema_version": self.version,
            "verifiers": ["TRAINING"],
            "torch_version": "2.13.0",
            "guards_code": self.guards,
        }

    def write(self, path: Path) -> Path:
        """Write the archive."""
        members: dict[str, bytes] = {
            name: record if isinstance(record, bytes) else record.tobytes() for name, record in self.records.items()
        }
        members |= {
            "data/weights/model_weights_config.json": json.dumps({"config": self.weights}).encode(),
            "data/constants/model_constants_config.json": json.dumps({"config": self.constants}).encode(),
            "models/model.json": json.dumps(self.document()).encode(),
            "archive_format": b"pt2",
            "archive_version": b"0",
            "byteorder": b"little",
            ".data/version": b"3\n",
        } | self.members
        with zipfile.ZipFile(path, "w", self.compression) as archive:
            for name, content in members.items():
                archive.writestr(f"model/{name}", content)
        return path
