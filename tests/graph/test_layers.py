"""Which layers are found, what stands behind them, and how a convolution goes over its input."""

from __future__ import annotations

from dataclasses import replace

import pytest

from squeezer.graph import Argument, Graph, Input, Node, Value
from squeezer.graph.layers import Geometry, Layer, layers

V = Value
SHAPES = {"x": (2, 4, 9, 9), "w": (6, 4, 3, 3), "b": (6,), "c": (2, 6, 9, 9), "n": (2, 6, 9, 9)}


def convolution(*rest: Argument, target: str = "conv2d.default", **named: Argument) -> Node:
    return Node(f"aten.{target}", (V("x"), V("w"), *rest), ("c",), named)


def norm(value: str = "c") -> Node:
    return Node(
        "aten.batch_norm.default",
        (V(value), *(V(f"bn_{leaf}") for leaf in ("gain", "bias", "mean", "var")), False, 0.1, 1e-3, True),
        ("n",),
    )


def graph(*nodes: Node, output: str = "n") -> Graph:
    tensors = {"w": "conv.weight", "b": "conv.bias", **{f"bn_{x}": f"bn.{x}" for x in ("gain", "bias", "mean", "var")}}
    return Graph((Input("x", (None, 4, 9, 9), "F32"),), tensors, frozenset(), nodes, (V(output),))


def only(found: list[Layer]) -> Layer:
    [layer] = found
    return layer


def geometry(node: Node) -> Geometry | None:
    return only(layers(graph(node, output="c"), SHAPES)).geometry


def test_a_convolution_and_its_norm() -> None:
    layer = only(layers(graph(convolution(V("b")), norm()), SHAPES))
    assert (layer.weight, layer.bias, layer.input, layer.axis) == ("conv.weight", "conv.bias", "x", 1)
    assert layer.norm is not None
    assert (layer.norm.gain, layer.norm.variance, layer.norm.eps) == ("bn.gain", "bn.var", 1e-3)
    assert layer.corrected == "bn.bias"
    assert layer.shown == (1, "n")


def test_without_a_norm_the_bias_is_its_own() -> None:
    layer = only(layers(graph(convolution(V("b")), output="c"), SHAPES))
    assert layer.norm is None
    assert (layer.corrected, layer.shown) == ("conv.bias", (0, "c"))
    assert only(layers(graph(convolution(), output="c"), SHAPES)).corrected is None


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (convolution(), Geometry((1, 1), ((0, 0), (0, 0)), (1, 1), 1)),
        (convolution(None, (2, 1), (1, 0), (3,), 2), Geometry((2, 1), ((1, 1), (0, 0)), (3, 3), 2)),
        (convolution(padding=1, dilation=2), Geometry((1, 1), ((1, 1), (1, 1)), (2, 2), 1)),
        (
            convolution(None, 1, "same", (1, 2), target="conv2d.padding"),
            Geometry((1, 1), ((1, 1), (2, 2)), (1, 2), 1),
        ),
        (convolution(None, 1, "valid", target="conv2d.padding"), Geometry((1, 1), ((0, 0), (0, 0)), (1, 1), 1)),
        (
            convolution(None, (1, 1), (1, 1), (1, 1), False, (0, 0), 2, target="convolution.default"),
            Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 2),
        ),
    ],
)
def test_geometry(node: Node, expected: Geometry) -> None:
    assert geometry(node) == expected


def test_transposed_convolutions_are_none() -> None:
    node = convolution(None, (1, 1), (0, 0), (1, 1), True, (0, 0), 1, target="convolution.default")
    assert layers(graph(node, output="c"), SHAPES) == []


def test_a_size_that_is_computed_is_not_guessed() -> None:
    assert layers(graph(convolution(None, (V("x"), 1)), output="c"), SHAPES) == []


def test_a_convolution_of_one_example_is_none() -> None:
    assert layers(graph(convolution(), output="c"), SHAPES | {"x": (4, 9, 9), "c": (6, 9, 9)}) == []


def test_weights_that_others_use_are_passed_over() -> None:
    twice = replace(convolution(), outputs=("d",))
    assert layers(graph(convolution(), twice, output="d"), SHAPES | {"d": SHAPES["c"]}) == []


def test_a_norm_is_not_the_layers_where_others_see_what_it_sees() -> None:
    both = Node("aten.add.Tensor", (V("n"), V("c")), ("s",))
    assert only(layers(graph(convolution(), norm(), both, output="s"), SHAPES)).norm is None
    seen = replace(graph(convolution(), norm()), outputs=(V("n"), V("c")), single=False)
    assert only(layers(seen, SHAPES)).norm is None


def test_a_norm_behind_sequences_is_not_of_the_outputs() -> None:
    linear = Node("aten.linear.default", (V("x"), V("w")), ("c",))
    along = {"x": (2, 6, 4), "w": (6, 4), "c": (2, 6, 6), "n": (2, 6, 6)}
    assert only(layers(graph(linear, norm()), along)).norm is None
    flat = {"x": (2, 4), "w": (6, 4), "c": (2, 6), "n": (2, 6)}
    assert only(layers(graph(linear, norm()), flat)).norm is not None


def test_without_shapes_nothing_is_claimed() -> None:
    assert layers(graph(convolution(), norm()), {}) == []
