"""Operators of PyTorch that believe their arguments: what would read beyond a tensor is refused before it runs.

Found with arrays that end at a page which cannot be read (PyTorch 2.13, CPU): with sizes that do not fit one another,
attention, recurrent layers and `_weight_norm` read other memory of the process, and give it back as a result. So does
`embedding_bag` with offsets below zero.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from squeezer.errors import Code, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Arguments = dict[str, Any]  # by their names in PyTorch's schema

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _require(what: str, *conditions: bool) -> None:
    if not all(conditions):
        raise ModelError(Code.INVALID_GRAPH, f"The network cannot be run: {what} do not fit together. Export it again.")


def _check_attention(given: Arguments) -> None:
    """Query (..., l, e), key (..., s, e) and value (..., s, v)."""
    query, key, value = (given[name].shape for name in ("query", "key", "value"))
    what = "the shapes of an attention's query, key and value"
    _require(what, min(map(len, (query, key, value))) >= 2)
    _require(what, key[:-1] == value[:-1], query[-1] == key[-1])


def _check_weight_norm(given: Arguments) -> None:
    """A magnitude for each index of `dim`, or (-1) for all together."""
    shape, dim = given["v"].shape, given.get("dim", 0)
    fits = dim == -1 or (0 <= dim < len(shape) and given["g"].numel() == shape[dim])
    _require("a weight's direction and magnitude", fits)


def _check_recurrent(gates: int, given: Arguments) -> None:
    """Input (time, batch, ...), states (layers * directions, batch, ...), and the weights of each layer and direction.

    What a layer gives has as many numbers as the first state: those of its cells, or of a projection of them (LSTM).
    """
    states = [given["hx"]] if isinstance(given["hx"], torch.Tensor) else list(given["hx"])
    layers, directions = given["num_layers"], 2 if given["bidirectional"] else 1
    found = [tuple(weight.shape) for weight in given["params"]]
    what = "the shapes of a recurrent layer's input, states and weights"
    _require(what, len(states) == (2 if gates == _GATES["lstm"] else 1), 0 < layers <= len(found))
    _require(what, *(tensor.ndim == 3 for tensor in (given["input"], *states)))
    batch, features = given["input"].shape[0 if given["batch_first"] else 1], given["input"].shape[2]
    _require(what, *(state.shape[:2] == (layers * directions, batch) for state in states))
    shown, rows = states[0].shape[2], gates * states[-1].shape[2]
    expected: list[tuple[Any, ...]] = []
    for layer in range(layers):
        each: list[tuple[Any, ...]] = [(rows, shown * directions if layer else features), (rows, shown)]
        each += [(rows,), (rows,)] if given["has_biases"] else []
        each += [(shown, states[-1].shape[2])] if shown != states[-1].shape[2] else []
        expected += each * directions
    _require(what, found == expected)


def _embedding_bag(weight: Tensor, indices: Tensor, offsets: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The operator with offsets that lie within the indices; their values cannot be looked at while it is traced."""
    within = offsets.clamp(0, indices.numel())
    return torch.ops.aten.embedding_bag.padding_idx(weight, indices, within, *args, **kwargs)


def _guarded(operator: Callable[..., Any], check: Callable[[Arguments], None]) -> Callable[..., Any]:
    names = [argument.name for argument in operator._schema.arguments]  # type: ignore[attr-defined] # of torch._ops

    def run(*args: Any, **kwargs: Any) -> Any:
        check(dict(zip(names, args, strict=False)) | kwargs)
        return operator(*args, **kwargs)

    return run


GUARDED: dict[str, Callable[..., Any]] = {
    "aten.scaled_dot_product_attention.default": _guarded(
        torch.ops.aten.scaled_dot_product_attention.default, _check_attention
    ),
    "aten.embedding_bag.padding_idx": _embedding_bag,
    "aten._weight_norm.default": _guarded(torch.ops.aten._weight_norm.default, _check_weight_norm),
    **{
        f"aten.{name}.input": _guarded(getattr(torch.ops.aten, name).input, partial(_check_recurrent, gates))
        for name, gates in _GATES.items()
    },
}
