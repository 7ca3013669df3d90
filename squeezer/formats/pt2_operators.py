"""From the dialects of `torch.export` to one: what exports and decompositions write in several ways is written in one.

So training IR and decomposed (functional) IR give the same graph, where it can be, and training-mode batch norm is one
operator that can be switched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from squeezer.graph import Node, Value
from squeezer.graph.operators import SYMBOLIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from squeezer.graph import Argument

#: Operators that only make sure of something, and give nothing.
ASSERTIONS = frozenset(
    {
        "aten._assert_tensor_metadata.default",
        "aten._assert_scalar.default",
        "aten._assert_async.msg",
        "aten.sym_constrain_range.default",
        "aten.sym_constrain_range_for_size.default",
    }
)
#: What leaves memory as it was gets zeros: nobody is to see what was there.
_SAME_ARGUMENTS = {
    "aten.empty_like.default": "aten.zeros_like.default",
    "aten.new_empty.default": "aten.new_zeros.default",
    "aten.detach_.default": "aten.detach.default",
}
_BATCH_NORM = "aten.batch_norm.default"
#: Batch norm as decompositions write it, with training or without.
_NATIVE_NORMS = {
    "aten._native_batch_norm_legit.default": None,
    "aten._native_batch_norm_legit_functional.default": None,
    "aten.native_batch_norm.default": None,
    "aten._native_batch_norm_legit_no_training.default": False,
    "aten._batch_norm_with_update_functional.default": True,
    "aten._batch_norm_with_update.default": True,
    "aten._batch_norm_no_update.default": False,
}


def plain(node: Node) -> Node:
    """The node, in the dialect that `squeezer.graph.operators` lists."""
    if node.target in _SAME_ARGUMENTS:
        return replace(node, target=_SAME_ARGUMENTS[node.target])
    if node.target == "aten.empty.memory_format":
        kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
        return replace(node, target="aten.zeros.default", kwargs=kwargs)
    if node.target == "aten.to.device":  # (tensor, device, dtype, ...)
        return replace(node, target="aten.to.dtype", args=node.args[:1] + node.args[2:])
    if node.target == "aten.embedding.default":  # (weight, indices, padding_idx, scale_grad_by_freq, sparse)
        return replace(node, args=node.args[:4])  # sparse gradients give the same weights, where they are taken at all
    if node.target == "aten._scaled_dot_product_flash_attention_for_cpu.default":
        return _attention(node)
    if node.target == "aten._native_batch_norm_legit.no_stats" and len(node.args) == 6:
        tensor, weight, bias, training, momentum, eps = node.args
        return _norm(node, (tensor, weight, bias, None, None, training, momentum, eps))
    if node.target in _NATIVE_NORMS:
        training = _NATIVE_NORMS[node.target]
        args = node.args if training is None else (*node.args[:5], training, *node.args[5:])
        return _norm(node, args) if len(args) == 8 else node
    return node


def _norm(node: Node, args: tuple[Argument, ...]) -> Node:
    """Batch norm with its first result. The new statistics, further results, are written by `mutation`."""
    return Node(_BATCH_NORM, (*args, False), node.outputs)


def _attention(node: Node) -> Node:
    """(query, key, value, dropout_p=0, is_causal=False, *, attn_mask=None, scale=None) and two results."""
    query, key, value, *rest = node.args
    defaults: list[Argument] = [0.0, False]
    args = (query, key, value, node.kwargs.get("attn_mask"), *rest, *defaults[len(rest) :])
    kwargs = {"scale": node.kwargs["scale"]} if node.kwargs.get("scale") is not None else {}
    return Node("aten.scaled_dot_product_attention.default", args, node.outputs, kwargs)


def written(nodes: Sequence[Node], changes: Mapping[str, str]) -> list[Node]:
    """The nodes with some that in the end give buffers their new values, as functional graphs ask for.

    Batch norm writes its statistics itself, and what only counts is counted in place, so that evaluation can leave it
    out.

    Args:
        nodes: the network.
        changes: the values of buffers, each with that of what it becomes.
    """
    makers = {name: node for node in nodes for name in node.outputs}
    used = {value.name for node in nodes for value in node.values()}
    counted: list[Node] = []
    copied: list[Node] = []
    for buffer, value in changes.items():
        maker = makers.get(value)
        if maker is None:
            copied.append(_copy(buffer, value))
        elif maker.target == "aten.add.Tensor" and maker.args == (Value(buffer), 1) and value not in used:
            counted.append(maker)
        elif maker.target != _BATCH_NORM or value == maker.outputs[0]:
            copied.append(_copy(buffer, value))
    apart = set(map(id, counted))
    return [
        *(node for node in nodes if id(node) not in apart),
        *(replace(node, target="aten.add_.Tensor") for node in counted),
        *copied,
    ]


def _copy(buffer: str, value: str) -> Node:
    return Node("aten.copy_.default", (Value(buffer), Value(value)), (f"{buffer}_written",))


def tidy(nodes: Iterable[Node], outputs: Iterable[Value]) -> tuple[Node, ...]:
    """Nodes without arithmetic on sizes that nobody uses, and without second results of what has one by now."""
    used = {value.name for value in outputs}
    kept = []
    for node in reversed([*nodes]):
        node = _with_one_result(node)
        if node.target in SYMBOLIC and not used.intersection(node.outputs):
            continue
        used.update(value.name for value in node.values())
        kept.append(node)
    return tuple(reversed(kept))


def _with_one_result(node: Node) -> Node:
    if node.target in (_BATCH_NORM, "aten.scaled_dot_product_attention.default"):
        return replace(node, outputs=node.outputs[:1])
    return node
