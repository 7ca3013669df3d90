"""Groups of weights on residual branches, in graphs made by hand."""

from __future__ import annotations

from squeezer.graph import Graph, Input, Node, Value
from squeezer.graph.branches import branches
from squeezer.graph.head import gives_probabilities


class Maker:
    """Writes nodes one after the other."""

    def __init__(self, *inputs: str) -> None:
        self.inputs = tuple(Input(name, (None, 8), "F32") for name in inputs)
        self.nodes: list[Node] = []
        self.names: dict[str, str] = {}

    def op(self, operator: str, *values: str | int) -> str:
        name = f"v{len(self.nodes)}"
        arguments = tuple(Value(value) if isinstance(value, str) else value for value in values)
        self.nodes.append(Node(f"aten.{operator}", arguments, (name,)))
        return name

    def layer(self, name: str, value: str) -> str:
        self.names[f"p_{name}"] = name
        return self.op("linear.default", value, f"p_{name}")

    def found(self, *without: str) -> list[tuple[str, ...]]:
        graph = Graph(self.inputs, self.names, frozenset(), tuple(self.nodes), (Value(f"v{len(self.nodes) - 1}"),))
        return branches(graph, set(self.names.values()) - set(without))


def block(make: Maker, name: str, value: str, add: str = "add.Tensor") -> str:
    inner = make.op("relu.default", make.layer(f"{name}a", value))
    return make.op("relu.default", make.op(add, make.layer(f"{name}b", inner), value))


def test_each_block_is_a_group_and_the_trunk_is_none() -> None:
    make = Maker("x")
    value = make.layer("stem", "x")
    for name in ("one", "two"):
        value = block(make, name, value)
    make.layer("head", value)
    assert make.found() == [("onea", "oneb"), ("twoa", "twob")]


def test_addition_in_place() -> None:
    make = Maker("x")
    value = make.layer("stem", "x")
    for name in ("one", "two"):
        value = block(make, name, value, "add_.Tensor")
    assert make.found() == [("onea", "oneb"), ("twoa", "twob")]


def test_a_shortcut_with_one_weight_is_no_group() -> None:
    make = Maker("x")
    stem = make.layer("stem", "x")
    inner = make.layer("b", make.op("relu.default", make.layer("a", stem)))
    make.op("add.Tensor", inner, make.layer("down", stem))
    assert make.found() == [("a", "b")]


def test_no_group_without_a_partner() -> None:
    make = Maker("x")
    block(make, "one", make.layer("stem", "x"))
    assert make.found("onea") == []


def test_of_branches_within_branches_the_inner_ones_count() -> None:
    make = Maker("x")
    stem = make.layer("stem", "x")
    inner = block(make, "in", make.layer("before", stem))
    make.op("add.Tensor", make.layer("after", inner), stem)
    assert make.found() == [("ina", "inb")]


def test_a_chain_has_no_branches() -> None:
    make = Maker("x")
    make.layer("b", make.op("relu.default", make.layer("a", "x")))
    assert make.found() == []


def test_two_networks_that_meet_are_no_fork() -> None:
    make = Maker("x", "z")
    ends = [make.layer(f"{name}2", make.layer(f"{name}1", name)) for name in ("x", "z")]
    make.op("add.Tensor", *ends)
    assert make.found() == []


def test_a_mask_is_no_branch() -> None:
    """Attention scores get a mask that is made of the same input; the layers before them are not coupled by it."""
    make = Maker("x")
    scores = make.layer("k", make.layer("q", "x"))
    mask = make.op("mul.Scalar", make.op("eq.Scalar", "x", 0), -1000)
    make.op("add.Tensor", scores, mask)
    assert make.found() == []


def test_a_constant_added_is_no_branch() -> None:
    make = Maker("x")
    value = make.layer("b", make.layer("a", "x"))
    make.names["p_c"] = "c"
    make.op("add.Tensor", value, "p_c")
    make.op("add.Tensor", value, 1)
    assert make.found() == []


def test_weights_used_elsewhere_are_left_out() -> None:
    make = Maker("x")
    stem = make.layer("stem", "x")
    inner = make.layer("tied", make.layer("a", make.layer("b", stem)))
    make.layer("tied", make.op("add.Tensor", inner, stem))
    assert make.found() == [("b", "a")]


def test_weights_that_are_transposed_first() -> None:
    make = Maker("x")
    stem = make.layer("stem", "x")
    value = stem
    for name in ("a", "b"):
        make.names[f"p_{name}"] = name
        value = make.op("matmul.default", value, make.op("t.default", f"p_{name}"))
    make.op("add.Tensor", value, stem)
    assert make.found() == [("a", "b")]


def head(*operators: str) -> bool:
    make = Maker("x")
    value = make.layer("fc", "x")
    for operator in operators:
        value = make.op(operator, value, -1)
    return gives_probabilities(Graph(make.inputs, make.names, frozenset(), tuple(make.nodes), (Value(value),)))


def test_what_comes_out_of_a_softmax_is_known() -> None:
    assert head("softmax.int")
    assert head("sigmoid.default", "squeeze.dim")
    assert not head()
    assert not head("log_softmax.int")
    assert not head("softmax.int", "mul.Scalar")
    assert not head("squeeze.dim")
