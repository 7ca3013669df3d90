"""A small residual network on scikit-learn's digits, with a block that does nothing and a bottleneck planted in it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from squeezer.data.dataset import Split
from squeezer.graph import Graph, Input, Node, Value
from squeezer.representations import Dense, Representation
from squeezer.training.network import Network
from squeezer.training.workbench import State
from tests.training.building import digits

WIDTH, NECK = 32, 3
#: Layers by name: outputs and inputs.
LAYERS = {
    "stem": (WIDTH, 64),
    "one.a": (WIDTH, WIDTH),
    "one.b": (WIDTH, WIDTH),
    "idle.a": (WIDTH, WIDTH),
    "idle.b": (WIDTH, WIDTH),
    "neck": (NECK, WIDTH),
    "wide": (WIDTH, NECK),
    "head": (10, WIDTH),
}


def plain(name: str) -> str:
    return name.replace(".", "_")


def graph() -> Graph:
    """x, stem, two residual blocks, the bottleneck, head."""
    nodes: list[Node] = []

    def apply(operator: str, *arguments: str, to: str) -> str:
        nodes.append(Node(f"aten.{operator}", tuple(Value(plain(name)) for name in arguments), (plain(to),)))
        return to

    def layer(name: str, value: str) -> str:
        return apply("linear.default", value, f"{name}.weight", f"{name}.bias", to=f"{name}.out")

    value = apply("relu.default", layer("stem", "x"), to="h")
    for block in ("one", "idle"):
        inner = apply("relu.default", layer(f"{block}.a", value), to=f"{block}.h")
        value = apply("add.Tensor", layer(f"{block}.b", inner), value, to=f"{block}.sum")
    value = apply("relu.default", layer("wide", layer("neck", value)), to="w")
    layer("head", value)
    names = {f"{name}_{leaf}".replace(".", "_"): f"{name}.{leaf}" for name in LAYERS for leaf in ("weight", "bias")}
    return Graph((Input("x", (None, 64), "F32"),), names, frozenset(), tuple(nodes), (Value("head_out"),))


@cache
def trained() -> State:
    """The network after a second of training.

    What is planted keeps its start: the block `idle` gives a thousandth of what the others do, and the weights of
    `neck`, which everything must pass, are as large as each other.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (outputs, inputs) in LAYERS.items():
        start = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        if name == "neck":
            start = start.sign() * inputs**-0.5
        tensors[f"{name}.weight"] = start * (1e-3 if name == "idle.b" else 1.0)
        tensors[f"{name}.bias"] = torch.zeros(outputs)
    free = [tensor.requires_grad_() for name, tensor in tensors.items() if not name.startswith(("idle", "neck."))]
    data, network = digits(), Network(graph())
    inputs, targets = data.batch(Split.TRAIN, np.arange(data.size(Split.TRAIN)))
    assert targets is not None
    x, y = torch.from_numpy(inputs[0]), torch.from_numpy(targets)
    velocity = [torch.zeros_like(tensor) for tensor in free]
    for _ in range(200):
        outputs = network(tensors, [x])
        assert isinstance(outputs, torch.Tensor)
        # By hand, since torch takes seconds to import its optimisers.
        gradients = torch.autograd.grad(F.cross_entropy(outputs, y), free)
        with torch.no_grad():
            for tensor, speed, gradient in zip(free, velocity, gradients, strict=True):
                tensor -= 0.05 * speed.mul_(0.9).add_(gradient)
    stored: dict[str, Representation] = {
        name: Dense(tensor.detach().numpy().copy(), np.dtype(np.float32)) for name, tensor in tensors.items()
    }
    return State(graph(), stored)
