"""Patches are what outputs are made of, and moments are those of their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from squeezer.graph import Graph, Input, Node, Value
from squeezer.graph.layers import Geometry, layers
from squeezer.representations import Dense
from squeezer.training.lockstep import Lockstep, shapes
from squeezer.training.moments import gather, patches
from squeezer.training.workbench import State

V = Value


@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        ((3, 3), Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 1)),
        ((3, 2), Geometry((2, 1), ((0, 0), (2, 2)), (1, 3), 2)),
        ((1, 1), Geometry((3, 3), ((0, 0), (0, 0)), (1, 1), 1)),
        ((3,), Geometry((2,), ((1, 1),), (2,), 4)),
        ((2, 2, 2), Geometry((1, 2, 1), ((0, 0), (1, 1), (0, 0)), (1, 1, 2), 1)),
    ],
)
def test_products_of_patches_and_weights_are_the_convolution(kernel: tuple[int, ...], geometry: Geometry) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, *(7 + i for i in range(len(kernel))), generator=generator)
    weights = torch.randn(8, 4 // geometry.groups, *kernel, generator=generator)
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(kernel)]
    padding = [before for before, _ in geometry.padding]
    expected = convolve(x, weights, None, geometry.stride, padding, geometry.dilation, geometry.groups)
    [found] = patches([x], kernel, geometry, 10**6, np.random.default_rng(0))
    rows = weights.reshape(geometry.groups, 8 // geometry.groups, -1)
    products = found @ rows.mT  # groups, patches, outputs
    outputs = products.permute(1, 0, 2).reshape(3, -1, 8).mT.reshape(expected.shape)
    assert torch.allclose(outputs, expected, atol=1e-5)


def test_fewer_places_are_some_of_all_and_the_same_ones_of_both_networks() -> None:
    x = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    geometry = Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    [every] = patches([x], (3, 3), geometry, 10**6, np.random.default_rng(0))
    some, doubled = patches([x, 2 * x], (3, 3), geometry, 16, np.random.default_rng(0))
    assert some.shape == (1, 3 * 16, 36)
    assert torch.equal(doubled, 2 * some)
    known = {tuple(row) for row in every[0].tolist()}
    assert all(tuple(row) in known for row in some[0].tolist())


def test_padding_of_different_widths() -> None:
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    [found] = patches([x], (2, 2), Geometry((1, 1), ((0, 1), (0, 1)), (1, 1), 1), 10**6, np.random.default_rng(0))
    expected = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), weights)
    assert torch.allclose((found[0] @ weights.reshape(-1)).reshape(expected.shape), expected, atol=1e-6)


def chain(first: torch.Tensor, second: torch.Tensor) -> State:
    """Two linear layers with a ReLU between them."""
    nodes = (
        Node("aten.linear.default", (V("x"), V("a")), ("h",)),
        Node("aten.relu.default", (V("h"),), ("r",)),
        Node("aten.linear.default", (V("r"), V("b")), ("y",)),
    )
    graph = Graph((Input("x", (None, 5), "F32"),), {"a": "a.w", "b": "b.w"}, frozenset(), nodes, (V("y"),))
    tensors = {name: Dense(t.numpy(), np.dtype(np.float32)) for name, t in (("a.w", first), ("b.w", second))}
    return State(graph, {**tensors})


@pytest.mark.parametrize("centred", [False, True])
def test_moments_are_those_of_the_definition(centred: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, x = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (4, 6), (200, 5)))
    worse = a + 0.3 * torch.randn(6, 5, generator=generator)
    both = Lockstep(chain(a, b).graph, chain(a, b), chain(worse, b), [(x[:150].numpy(),), (x[150:].numpy(),)], "cpu")
    layer = layers(chain(a, b).graph, shapes(chain(a, b)))[1]
    found = []

    def before(position: int) -> None:
        if position == layer.position:
            found.append(gather(both, layer, b, 0, centred=centred))

    both.run(before, lambda _: None)
    given, lacking = (x @ worse.T).relu().double(), ((x @ a.T).relu() - (x @ worse.T).relu()).double() @ b.T.double()
    if centred:
        given, lacking = given - given.mean(0), lacking - lacking.mean(0)
    assert found[0].patches == 200
    assert found[0].inputs[0] == pytest.approx((given.T @ given / 200).numpy(), abs=1e-5)
    assert found[0].missing == pytest.approx((lacking.T @ given / 200).numpy(), abs=1e-5)
