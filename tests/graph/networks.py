"""Graphs made by hand, without PyTorch."""

from __future__ import annotations

from squeezer.graph import Graph, Input, Node, Value


def perceptron() -> Graph:
    """Flatten, linear, batch norm, ReLU, dropout, linear: one output."""
    nodes = (
        Node("aten.flatten.using_ints", (Value("x"), 1), ("flat",)),
        Node("aten.linear.default", (Value("flat"), Value("w1"), Value("b1")), ("hidden",)),
        Node("aten.add_.Tensor", (Value("count"), 1), ("counted",)),
        Node(
            "aten.batch_norm.default",
            (*map(Value, ("hidden", "gain", "shift", "mean", "var")), True, 0.1, 1e-5, False),
            ("normed",),
        ),
        Node("aten.relu.default", (Value("normed"),), ("active",)),
        Node("aten.dropout.default", (Value("active"), 0.25, True), ("dropped",)),
        Node("aten.linear.default", (Value("dropped"), Value("w2")), ("logits",), {"bias": Value("b2")}),
    )
    tensors = {
        "w1": "fc1.weight",
        "b1": "fc1.bias",
        "gain": "bn.weight",
        "shift": "bn.bias",
        "mean": "bn.running_mean",
        "var": "bn.running_var",
        "count": "bn.num_batches_tracked",
        "w2": "fc2.weight",
        "b2": "fc2.bias",
    }
    buffers = frozenset({"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"})
    return Graph((Input("x", (None, 2, 3), "F32"),), tensors, buffers, nodes, (Value("logits"),))


def one(target: str, *args: object, outputs: tuple[str | None, ...] = ("y",), **kwargs: object) -> Graph:
    """A network of one operator on the input `x` and the weight `w`."""
    node = Node(target, args, outputs, kwargs)  # type: ignore[arg-type]  # tests pass what they want to
    return Graph((Input("x", (None, 4), "F32"),), {"w": "weight"}, frozenset(), (node,), (Value("y"),))
