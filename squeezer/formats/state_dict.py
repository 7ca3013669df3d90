"""Finds the model in a checkpoint: which of its nested dicts is the state dict, and what else there is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from squeezer.errors import Code, ModelError
from squeezer.model import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_DEPTH = 32
#: Keys under which training scripts keep the model.
_WELL_KNOWN = frozenset(
    {
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "module",
        "net",
        "network",
        "params",
        "weights",
    }
)
_TRAINING = re.compile(r"optim|sched|scaler|rng|random|gradient|^opts?$", re.IGNORECASE)
#: Second copies of the model, taken only where there is no first.
_COPY = re.compile(r"(^|[^a-z])(ema|swa|avg|averaged?|teacher|shadow)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """The chosen state dict's tensors by name, in its order, and everything else in the checkpoint."""

    tensors: dict[str, torch.Tensor]
    dropped: list[Dropped]


@dataclass(frozen=True)
class _Candidate:
    path: tuple[str, ...]
    nodes: tuple[Any, ...]  # from the root to the state dict
    tensors: dict[str, torch.Tensor]

    def rank(self) -> tuple[bool, bool, int]:
        """Smaller is better: no copy of another model, a well-known key, more bytes."""
        known = bool(self.path) and self.path[-1].lower() in _WELL_KNOWN
        is_copy = any(_COPY.search(key) for key in self.path)
        return (
            is_copy,
            not known,
            -sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values()),
        )


def choose_state_dict(document: Any) -> Choice:
    """The model's tensors out of whatever `torch.load` returned.

    A state dict is a dict with tensors under texts as keys. Among several outside of optimizer state, a first
    copy goes before an average of it, then one under a well-known key, then the largest in bytes, then the
    first. Names stay as they are.

    Raises:
        ModelError: NO_TENSORS where there is none.
    """
    candidates = list(_candidates(document, (), (), set()))
    if not candidates:
        raise ModelError(
            Code.NO_TENSORS,
            "The checkpoint holds no named model tensors; there is nothing to compress. "
            "Save a state dict: torch.save(model.state_dict(), 'weights.pt').",
        )
    chosen = min(candidates, key=_Candidate.rank)  # the first of equals
    return Choice(chosen.tensors, list(_rest(chosen)))


def _candidates(node: Any, path: tuple[str, ...], above: tuple[Any, ...], seen: set[int]) -> Iterator[_Candidate]:
    """State dicts at and below a node, in order; containers may be shared, or even contain themselves."""
    if id(node) in seen or len(path) > _MAX_DEPTH or _is_training_state(path, node):
        return
    seen.add(id(node))
    nodes = (*above, node)
    if isinstance(node, dict):
        tensors = {
            key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, torch.Tensor)
        }
        if tensors:
            yield _Candidate(path, nodes, tensors)
    for key, child in _children(node):
        yield from _candidates(child, (*path, key), nodes, seen)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from ((_label(key), value) for key, value in node.items())
    elif isinstance(node, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(node))


def _label(key: Any) -> str:
    """A key as text; keys may be numbers of a million digits, or deeply nested tuples."""
    if isinstance(key, str):
        return key
    return str(key) if isinstance(key, int) and abs(key) < 2**64 else f"<{type(key).__name__}>"


def _is_training_state(path: tuple[str, ...], node: Any) -> bool:
    if isinstance(node, dict) and "param_groups" in node:
        return True
    return bool(path) and bool(_TRAINING.search(path[-1]))


def _rest(chosen: _Candidate) -> Iterator[Dropped]:
    """Everything beside the way to the chosen dict, and in it what is no tensor."""
    label = ".".join(chosen.path) or "the top level"
    for depth, node in enumerate(chosen.nodes):
        is_last = depth == len(chosen.path)
        for key, child in _children(node):
            if is_last and chosen.tensors.get(key) is child:
                continue
            if is_last or key != chosen.path[depth]:
                path = (*chosen.path[:depth], key)
                yield Dropped(".".join(path), _reason(path, child, label))


def _reason(path: tuple[str, ...], node: Any, chosen: str) -> str:
    count = _count_tensors(node)
    if count and _is_training_state(path, node):
        return f"optimizer or other training state ({count} tensors)"
    if isinstance(node, torch.Tensor):
        return f"a tensor outside of the state dict, which is {chosen}"
    if count:
        return f"another set of tensors ({count}); the model was taken from {chosen}"
    return f"not a tensor ({type(node).__name__})"


def _count_tensors(node: Any) -> int:
    """Tensors at and below a node, each container once; without recursion, as anything may be down there."""
    count, waiting, seen = 0, [node], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, torch.Tensor):
            count += 1
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            waiting += [child for _, child in _children(node)]
    return count
