"""A graph that is wrong in one way is refused, and the error says in which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from squeezer.errors import Code, ModelError
from squeezer.graph import ElementType, Graph, Input, MemoryFormat, Node, Value, check
from squeezer.graph.checks import MAX_ARGUMENTS, MAX_NESTING, MAX_NODES, MAX_PARTS, check_names
from tests.graph.networks import one, perceptron

X, W = Value("x"), Value("w")


def refused(graph: Graph, match: str, code: Code = Code.INVALID_GRAPH) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        check(graph)
    assert caught.value.code is code


def test_good_graphs_pass() -> None:
    check(perceptron())
    check(one("aten.to.dtype", X, ElementType("F16")))
    check(one("aten.clone.default", X, memory_format=MemoryFormat("channels_last")))
    check(one("aten.zeros.default", (2, 3), dtype=ElementType("F32")))
    check(one("aten.scalar_tensor.default", float("-inf")))
    check(one("aten.arange.start", 100_000, 900_000))


@pytest.mark.parametrize(
    "target",
    [
        "aten.from_file.default",
        "aten.bernoulli.default",
        "aten.relu",
        "aten.relu.default.default",
        "relu",
        "higher_order.cond",
        "mylib.custom.default",
        "_operator.attrgetter",
        "math.gamma",
        "torch.load",
        "os.system",
        "aten.__class__.default",
        "",
    ],
)
def test_unknown_operators_are_named(target: str) -> None:
    refused(one(target, X), f"operator '{target}'", Code.UNSUPPORTED_OPERATOR)


def test_the_remedy_of_an_operator_that_people_meet() -> None:
    refused(one("aten.item.default", X), "compute with the tensor itself", Code.UNSUPPORTED_OPERATOR)


@pytest.mark.parametrize(
    ("graph", "match"),
    [
        (one("aten.relu.default", Value("later")), "'later' is used before"),
        (one("aten.relu.default", X, outputs=("z",)), "'y' is used before"),
        (one("aten.relu.default", X, outputs=("x",)), "'x' is defined twice"),
        (one("aten.relu.default", X, outputs=("w",)), "'w' is defined twice"),
        (one("aten.relu.default", X, outputs=("a b",)), "'a b' is no name"),
        (one("aten.relu.default", X, outputs=("class",)), "'class' is no name"),
        (one("aten.relu.default", X, outputs=()), "no name for its result"),
        (one("aten.add.Tensor", X, 2**63), "beyond 64 bits"),
        (one("aten.add.Tensor", X, -(2**63) - 1), "beyond 64 bits"),
        (one("aten.add.Tensor", X, 1j), "argument of type complex"),
        (one("aten.add.Tensor", X, [1]), "argument of type list"),
        (one("aten.einsum.default", "a" * 1001, (X,)), "too long"),
        (one("aten.einsum.default", "\x00", (X,)), "not plain"),
        (one("aten.einsum.default", "é", (X,)), "not plain"),
        (one("aten.to.dtype", X, ElementType("F128")), "F128"),
        (one("aten.clone.default", X, memory_format=MemoryFormat("os")), "format 'os'"),
        (one("aten.relu.default", ((((X,),),),)), "nested"),
        (one("aten.relu.default", X, **{"in place": True}), "'in place' is no name of an argument"),
        (one("aten.relu.default", X, **{"lambda": True}), "'lambda' is no name of an argument"),
        (one("aten.zeros_like.default", X, device="cuda"), "'device' is no name of an argument"),
        (one("aten.zeros_like.default", X, pin_memory=True), "'pin_memory' is no name of an argument"),
        (one("_operator.mul", "a", 2**40), "for numbers alone"),
        (one("_operator.mul", (1, 2), 2**40), "for numbers alone"),
        (one("_operator.mod", "%1000000000d", 1), "for numbers alone"),
        (one("_operator.add", None, 1), "for numbers alone"),
        (one("torch.sym_ite", True, ElementType("F32"), 1), "for numbers alone"),
        (one("math.floor", x=1.5), "for numbers alone"),
        (one("aten.relu_.default", W), "writes over a weight"),
        (one("aten.relu_.default", 3), "writes over a weight"),
        (one("aten.zeros.default", (10**6, 10**6)), "1000000000000 elements"),
        (one("aten.full.default", (2**40,), 1.0), "makes a tensor"),
        (one("aten.eye.m", 2**20, 2**20), "makes a tensor"),
        (one("aten.arange.start_step", 0, 10**12, 1), "makes a tensor"),
        (one("aten.arange.default", float("nan")), "makes a tensor"),
        (one("aten.linspace.default", 0, 1, 10**12), "makes a tensor"),
        (one("aten.one_hot.default", X), "number of classes"),
        (one("aten.one_hot.default", X, -1), "number of classes"),
        (one("aten.one_hot.default", X, W), "number of classes"),
    ],
)
def test_what_an_operator_cannot_have(graph: Graph, match: str) -> None:
    refused(graph, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"inputs": (Input("x", (-1,), "F32"),)}, "shape of input"),
        ({"inputs": (Input("x", (True,), "F32"),)}, "shape of input"),
        ({"inputs": (Input("x", (2**63,), "F32"),)}, "shape of input"),
        ({"inputs": (Input("x", (1,) * 65, "F32"),)}, "shape of input"),
        ({"inputs": (Input("x", (1,), "float"),)}, "unknown type 'float'"),
        ({"inputs": (Input("x", (1,), "F32"), Input("x", (1,), "F32"))}, "defined twice"),
        ({"tensors": {"w": ""}}, "no name of a tensor"),
        ({"tensors": {"w": "a..b"}}, "no name of a tensor"),
        ({"tensors": {"w": "n" * 1001}}, "no name of a tensor"),
        ({"tensors": {"w": "a", "v": "a.b"}}, "'a' is a tensor, and a part"),
        ({"tensors": {"w": "a.b", "v": "a-b", "u": "a"}}, "'a' is a tensor, and a part that holds 'a.b'"),
        ({"tensors": {"w": "a." * 64 + "b"}}, "no name of a tensor"),
        ({"tensors": {"w": "a.__deepcopy__"}}, "no name of a tensor"),
        ({"tensors": {"w": "__class__"}}, "no name of a tensor"),
        ({"tensors": {"x": "a"}}, "defined twice"),
        ({"inputs": (Input("x", (None, 2**16, 2**16), "F32"),)}, "one row of input 'x'"),
        ({"buffers": frozenset({"other"})}, "'other' is none of its tensors"),
        ({"outputs": ()}, "returns nothing"),
        ({"outputs": (Value("y"), Value("x"))}, "returns one tensor, and names 2"),
        ({"outputs": (Value("nowhere"),)}, "'nowhere' is used before"),
    ],
)
def test_what_a_graph_cannot_be(change: dict[str, Any], match: str) -> None:
    refused(replace(one("aten.relu.default", X), **change), match)


def test_too_many_nodes_and_arguments() -> None:
    graph = one("aten.relu.default", X)
    refused(replace(graph, nodes=(graph.nodes[0],) * (MAX_NODES + 1)), "operators")
    refused(one("aten.cat.default", (X,) * MAX_ARGUMENTS), "arguments")


def test_a_buffer_may_be_written_and_several_outputs_returned() -> None:
    graph = one("aten.add_.Tensor", W, 1)
    check(replace(graph, buffers=frozenset({"weight"})))
    check(replace(one("aten.relu.default", X), outputs=(Value("y"), Value("x")), single=False))


def test_a_list_of_one() -> None:
    node = Node("aten.chunk.default", (X, 1), ("y",), several=True)
    check(replace(one("aten.relu.default", X), nodes=(node,)))
    refused(replace(one("aten.relu.default", X), nodes=(replace(node, outputs=("y", "z")),)), "list of one")


def test_names_may_not_make_a_network_of_modules() -> None:
    """Each part of a name is a module of two kilobytes: a hundred thousand short names could fill the memory."""
    deep = ".".join("abcdefgh" * 8)[: 2 * MAX_NESTING - 1]
    count = MAX_PARTS // (MAX_NESTING - 1)
    check_names(f"{i}.{deep[2:]}" for i in range(count))
    with pytest.raises(ModelError, match="parts"):
        check_names(f"{i}.{deep[2:]}" for i in range(count + 1))
    check_names(f"layers.{i}.weight" for i in range(MAX_PARTS - 1))  # what they share is counted once
    check_names(f"layer.{i}" for i in range(2 * MAX_PARTS))
    check_names(["a", "ab", "a-b", "b.a", "ab1.c"])
