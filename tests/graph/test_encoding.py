"""The graph section: what was encoded comes back, in few bytes, and damage is found out."""

from __future__ import annotations

import json
import math
import random
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeezer.errors import Code, ModelError
from squeezer.graph import ElementType, Graph, Input, MemoryFormat, Node, Value, check
from squeezer.graph.canonical import canonical
from squeezer.graph.encoding import from_bytes, to_bytes
from tests.graph.networks import one, perceptron

X = Value("x")


def packed(document: Any, *, schema: int = 1) -> bytes:
    """A section with any document."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return bytes([schema]) + deflater.compress(text) + deflater.flush()


def reference(data: bytes) -> Any:
    """The network written by docs/format.md alone: targets, and of every value what it is."""
    assert data[0] == 1
    inputs, names, kinds, nodes, outputs, single = json.loads(zlib.decompress(data[1:], -15))
    computed: list[str] = []
    used = 0

    def value(text: str) -> str:
        nonlocal used
        if text == "t":
            used += 1
            return f"tensor {names[used - 1]}"
        if text[0] == "t":
            return f"tensor {names[int(text[1:])]}"
        return f"input {inputs[int(text[1:])][0]}" if text[0] == "i" else computed[-int(text)]

    def argument(item: Any) -> Any:
        if isinstance(item, list):
            return [argument(part) for part in item]
        if not isinstance(item, str) or item[0] in "'=@#":
            return item
        return value(item)

    read = []
    for i, (name, args, *rest) in enumerate(nodes):
        named = rest[0] if rest else {}
        results = rest[1] if len(rest) > 1 else "1"
        read.append((name, [argument(item) for item in args], {key: argument(named[key]) for key in named}, results))
        computed += [f"result {i}.{k}" for k, mark in enumerate(results) if mark in "1*"]
    return inputs, dict(zip(names, kinds, strict=True)), read, [value(text) for text in outputs], single


def described(graph: Graph) -> Any:
    """A graph as `reference` reads it."""
    values = {given.name: f"input {given.name}" for given in graph.inputs}
    values |= {value: f"tensor {name}" for value, name in graph.tensors.items()}

    def argument(item: Any) -> Any:
        match item:
            case Value():
                return values[item.name]
            case tuple():
                return [argument(part) for part in item]
            case ElementType():
                return f"={item.name}"
            case MemoryFormat():
                return f"@{item.name}"
            case str():
                return f"'{item}"
            case float() if not math.isfinite(item):
                return f"#{item}"
            case _:
                return item

    read = []
    for i, node in enumerate(graph.nodes):
        name = node.target
        if name.startswith("aten."):
            name = name[5:-8] if name.endswith(".default") else name[5:]
        results = "*" if node.several else "".join("0" if output is None else "1" for output in node.outputs)
        read.append((name, argument(node.args), {key: argument(node.kwargs[key]) for key in node.kwargs}, results))
        values |= {output: f"result {i}.{k}" for k, output in enumerate(node.outputs) if output is not None}
    return (
        [[given.name, given.dtype, list(given.shape)] for given in graph.inputs],
        {name: "1" if name in graph.buffers else "0" for name in graph.tensors.values()},
        read,
        [values[value.name] for value in graph.outputs],
        int(graph.single),
    )


def rich() -> Graph:
    """Every kind of argument and result."""
    nodes = (
        Node("aten.sym_size.int", (X, 0), ("n",)),
        Node("_operator.mul", (Value("n"), 2), ("m",)),
        Node("torch.sym_max", (Value("m"), 3), ("k",)),
        Node("aten.zeros.default", ((Value("n"), 4),), ("o",), {"dtype": ElementType("BF16")}),
        Node("aten.clone.default", (X,), ("c",), {"memory_format": MemoryFormat("channels_last")}),
        Node("aten.clamp.default", (Value("c"), float("-inf"), float("inf")), ("d",)),
        Node("aten.full_like.default", (Value("d"), float("nan")), ("e",)),
        Node("aten.gelu.default", (Value("e"),), ("f",), {"approximate": "tanh"}),
        Node("aten.chunk.default", (Value("f"), 1), ("g",), several=True),
        Node("aten.topk.default", (Value("g"), 2, -1, True, False), (None, "h")),
        Node("aten.index.Tensor", (Value("o"), (None, Value("h"))), ("i",)),
        Node("aten.lstm.input", (X, (X, X), (Value("w"), Value("v"), Value("w")), True), ("p", None, "q")),
        Node("aten.add.Tensor", (Value("p"), Value("u")), ("r",), {"alpha": 1}),
    )
    return Graph(
        (Input("x", (None, 4), "F32"), Input("v3", (), "I64")),
        {"u": "z.last", "v": "b.weight", "w": "a.weight", "idle": "c.idle"},
        frozenset({"z.last"}),
        nodes,
        (Value("r"), Value("v"), Value("v3"), Value("k")),
        single=False,
    )


@pytest.mark.parametrize("graph", [perceptron(), rich(), one("aten.relu.default", X)])
def test_there_and_back(graph: Graph) -> None:
    check(graph)
    data = to_bytes(graph)
    back = from_bytes(data)
    # As texts, since NaN is not equal to itself.
    assert repr(replace(back, buffers=frozenset())) == repr(replace(canonical(graph), buffers=frozenset()))
    assert to_bytes(back) == data
    assert repr(reference(data)) == repr(described(canonical(graph)))
    assert [node.target for node in back.nodes] == [node.target for node in graph.nodes]
    assert set(back.tensors.values()) == set(graph.tensors.values())
    assert (back.buffers, back.single, back.inputs) == (graph.buffers, graph.single, graph.inputs)


def test_names_and_order_make_no_difference() -> None:
    graph = perceptron()
    names = {name: f"other_{name}" for name in [*graph.tensors, *(item.outputs[0] or "" for item in graph.nodes)]}
    renamed = replace(
        graph,
        tensors={names[value]: name for value, name in reversed(graph.tensors.items())},
        nodes=tuple(replace(n.renamed(names), outputs=(names[n.outputs[0] or ""],)) for n in graph.nodes),
        outputs=(Value(names["logits"]),),
    )
    assert renamed != graph
    assert to_bytes(renamed) == to_bytes(graph)


def test_named_arguments_have_one_order() -> None:
    def layer(*names: str) -> Graph:
        values = {"weight": Value("w"), "bias": Value("b"), "a": Value("c")}
        graph = one("aten.linear.default", X, **{name: values[name] for name in names})
        return replace(graph, tensors={"w": "w", "b": "b", "c": "c"})

    one_way, other = to_bytes(layer("weight", "bias", "a")), to_bytes(layer("a", "bias", "weight"))
    assert one_way == other
    assert to_bytes(from_bytes(one_way)) == one_way


def test_what_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeezer.graph.encoding._MAX_INFLATED", 100)
    with pytest.raises(ModelError, match="leave it out"):
        to_bytes(perceptron())


def test_negative_control_another_network_has_other_bytes() -> None:
    graph = perceptron()
    swapped = replace(graph, tensors=graph.tensors | {"w1": "fc2.weight", "w2": "fc1.weight"})
    assert to_bytes(swapped) != to_bytes(graph)


def test_a_tensor_with_two_values_comes_back_with_one() -> None:
    graph = one("aten.add.Tensor", Value("w"), Value("again"))
    back = from_bytes(to_bytes(replace(graph, tensors={"w": "weight", "again": "weight"})))
    assert back.nodes[0].args == (Value("v0"), Value("v0"))
    assert back.tensors == {"v0": "weight"}


def test_layers_that_are_alike_cost_little() -> None:
    def deep(layers: int) -> Graph:
        tensors, nodes, last = {}, [], "x"
        for i in range(layers):
            tensors |= {f"w{i}": f"layers.{i}.weight", f"b{i}": f"layers.{i}.bias"}
            nodes.append(Node("aten.linear.default", (Value(last), Value(f"w{i}"), Value(f"b{i}")), (f"l{i}",)))
            nodes.append(Node("aten.relu.default", (Value(f"l{i}"),), (last := f"r{i}",)))
        return Graph((Input("x", (None, 8), "F32"),), tensors, frozenset(), tuple(nodes), (Value(last),))

    sizes = [len(to_bytes(deep(layers))) for layers in (3, 100)]
    assert sizes[0] <= 130
    assert sizes[1] - sizes[0] <= 97 * 5  # nearly all for the numbers in the names


# -- damage ------------------------------------------------------------------------------------------------

GOOD = [[["x", "F32", [None, 4]]], ["w"], "0", [["linear", ["i0", "t"]]], ["1"], 1]


def refused(data: bytes, match: str, code: Code = Code.INVALID_GRAPH) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        from_bytes(data)
    assert caught.value.code is code


def test_the_document_that_the_damaged_ones_come_from_is_good() -> None:
    assert from_bytes(packed(GOOD)).nodes[0].target == "aten.linear.default"


@pytest.mark.parametrize(
    ("place", "content", "match"),
    [
        (0, [["x", "F32"]], "three parts"),
        (0, [[3, "F32", [4]]], "text is none"),
        (0, [["x", "F32", 4]], "list is none"),
        (0, [["x", "F32", [-4]]], "shape of input"),
        (0, [["x", "F32", [True]]], "shape of input"),
        (0, [["x", "F33", [4]]], "unknown type"),
        (0, [["a b", "F32", [4]]], "no name of a value"),
        (0, [["x", "F32", [4]]] * 2, "defined twice"),
        (1, ["w", "w"], "buffers|twice"),
        (1, [""], "no name of a tensor"),
        (1, [3], "text is none"),
        (1, ["a", "a.b"], "buffers"),
        (2, "", "buffers"),
        (2, "2", "buffers"),
        (2, 0, "buffers"),
        (3, [["linear"]], "two to four"),
        (3, [["linear", [], {}, "1", 0]], "two to four"),
        (3, [[3, []]], "text is none"),
        (3, ["linear"], "list is none"),
        (3, [["linear", "i0"]], "list is none"),
        (3, [["linear", ["i0", "t"], []]], "no map"),
        (3, [["linear", ["i0", "t"], {}, "2"]], "0 and 1"),
        (3, [["linear", ["i0", "t"], {}, 1]], "text is none"),
        (3, [["linear", ["i0", "t"], {}, ""]], "a value is used that there is not"),
        (3, [["linear", ["i1", "t"]]], "a value is used that there is not"),
        (3, [["linear", ["i-1", "t"]]], "no value"),
        (3, [["linear", ["i0", "t", "t"]]], "a value is used that there is not"),
        (3, [["linear", ["i0", "t7"]]], "a value is used that there is not"),
        (3, [["linear", ["1", "t"]]], "a value is used that there is not"),
        (3, [["linear", ["0", "t"]]], "a value is used that there is not"),
        (3, [["linear", ["99999999999", "t"]]], "no value"),
        (3, [["linear", ["²", "t"]]], "no value"),
        (3, [["linear", ["", "t"]]], "no value"),
        (3, [["linear", [{}, "t"]]], "no known kind"),
        (3, [["linear", [[[[["i0"]]]], "t"]]], "no known kind"),
        (3, [["linear", ["=F33", "t"]]], "type or format"),
        (3, [["linear", ["@x", "t"]]], "type or format"),
        (3, [["linear", [2**63, "t"]]], "64 bits"),
        (4, ["2"], "a value is used that there is not"),
        (4, [], "returns nothing"),
        (4, ["1", "1"], "returns one tensor"),
        (4, [1], "text is none"),
        (5, 2, "outputs"),
        (5, None, "outputs"),
    ],
)
def test_documents_that_are_wrong_in_one_place(place: int, content: Any, match: str) -> None:
    refused(packed([*GOOD[:place], content, *GOOD[place + 1 :]]), match)


@pytest.mark.parametrize("name", ["from_file", "relu.default.default", "_operator.attrgetter", "torch.load", "x.y"])
def test_operators_beyond_the_list_are_named(name: str) -> None:
    document = [*GOOD[:3], [[name, ["i0"]]], *GOOD[4:]]
    refused(packed(document), name, Code.UNSUPPORTED_OPERATOR)


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", b"[1,2,3,4,5,6]", b"\xff", b"[NaN]", b"[Infinity]", b"[" * 100_000, b"1" * 10_000, b"[[],[],"],
)
def test_texts_that_are_no_document(text: bytes) -> None:
    refused(packed(text), "damaged")


def test_sections_that_are_none() -> None:
    refused(b"", "empty")
    refused(packed(GOOD, schema=0), "version is 0")
    refused(packed(GOOD, schema=2), "upgrade", Code.NEWER_ARTIFACT)
    refused(packed(GOOD) + b"\0", "does not end")
    refused(packed(GOOD)[:-1], "does not end")
    refused(b"\1garbage", "damaged")


def test_a_bomb_is_cut_short() -> None:
    refused(packed(b" " * (1 << 25)), "too long")


def test_huge_numbers_of_things() -> None:
    many = [["relu", ["i0"], {}, "0"]] * 100_001
    refused(packed([*GOOD[:3], many, ["i0"], 1]), "100001 operators")
    refused(packed([*GOOD[:3], [["cat", [["i0"] * 500_001]]], ["1"], 1]), "arguments")


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_any_damage_of_bytes_ends_in_a_graph_or_an_error(seed: int, changes: int) -> None:
    chance = random.Random(seed)
    data = bytearray(to_bytes(rich()))
    for _ in range(changes):
        data[chance.randrange(len(data))] = chance.randrange(256)
    try:
        graph = from_bytes(bytes(data))
    except ModelError:
        return
    check(graph)


_values = st.recursive(
    st.sampled_from([None, True, 0, 1, -1, 2**70, 0.5, "", "t", "t0", "i0", "1", "2", "'", "=F32", "@x", "#nan", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(_values, min_size=6, max_size=6), st.integers(0, 63))
def test_any_document_ends_in_a_graph_or_an_error(parts: list[Any], mask: int) -> None:
    document = [parts[i] if mask >> i & 1 else GOOD[i] for i in range(6)]
    try:
        graph = from_bytes(packed(document))
    except ModelError:
        return
    check(graph)
    assert to_bytes(from_bytes(to_bytes(graph))) == to_bytes(graph)
