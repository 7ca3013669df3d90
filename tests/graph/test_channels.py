"""Moments of channels: against numerical integration, and against drawn numbers through a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats

from squeezer.graph import Graph, Input, Node, Value
from squeezer.graph.channels import _CURVES, Moments, bent, channels, clipped

V = Value
GAIN, BIAS = np.array([1.0, 0.5, 2.0]), np.array([0.3, -1.0, 0.0])
TENSORS = {"bn.weight": GAIN, "bn.bias": BIAS}


def integrated(curve: Callable[[float], float], mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of curve(x), by adaptive quadrature."""
    normal = stats.norm(mean, variance**0.5)
    reach = 12 * variance**0.5
    ends = (mean - reach, mean + reach)
    kinks = [point for point in (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0) if ends[0] < point < ends[1]]
    first, second = (
        integrate.quad(lambda x, p=power: curve(x) ** p * normal.pdf(x), *ends, points=kinks, limit=200)[0]
        for power in (1, 2)
    )
    return first, second - first**2


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, 3.0)])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (-1.5, 0.5), (2.0, 4.0), (-6.0, 1.0), (7.0, 0.1)])
def test_a_clipped_normal_distribution(low: float, high: float, mean: float, variance: float) -> None:
    expected = integrated(lambda x: min(max(x, low), high), mean, variance)
    found = clipped(np.array([mean]), np.array([variance]), low, high)
    assert [float(x[0]) for x in found] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", _CURVES)
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (-1.5, 0.5), (2.0, 4.0)])
def test_a_bent_normal_distribution(name: str, mean: float, variance: float) -> None:
    curve = _CURVES[name]
    expected = integrated(lambda x: float(curve(np.array([x]))[0]), mean, variance)
    found = bent(np.array([mean]), np.array([variance]), curve)
    assert [float(x[0]) for x in found] == pytest.approx(expected, abs=1e-3)  # some have kinks


def test_no_variance_is_a_number() -> None:
    mean, variance = clipped(np.array([-1.0, 2.0]), np.zeros(2), 0.0, np.inf)
    assert mean == pytest.approx([0, 2])
    assert variance == pytest.approx([0, 0])


def norm(value: str, output: str) -> Node:
    tensors = tuple(V(f"bn_{leaf}") for leaf in ("weight", "bias", "mean", "var"))
    return Node("aten.batch_norm.default", (V(value), *tensors, False, 0.1, 1e-5, True), (output,))


def known(*nodes: Node, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Moments]:
    """What is known behind a norm `b` and these nodes; values have the shape (2, 3, 4, 4) unless said otherwise."""
    names = {f"bn_{leaf}": f"bn.{leaf}" for leaf in ("weight", "bias", "mean", "var")}
    every = (norm("x", "b"), *nodes)
    extents: dict[str, tuple[int, ...]] = {"x": (2, 3, 4, 4)}
    extents |= {name: (2, 3, 4, 4) for node in every for name in node.outputs if name is not None}
    graph = Graph((Input("x", (None, 3, 4, 4), "F32"),), names, frozenset(), every, (V("b"),))
    return channels(graph, extents | (shapes or {}), TENSORS)


def op(target: str, *args: object, to: str = "y") -> Node:
    return Node(f"aten.{target}", tuple(V(arg) if isinstance(arg, str) else arg for arg in args), (to,))  # type: ignore[arg-type] # tests write plain values


def test_a_norm_says_it_all_and_relu_clips() -> None:
    found = known(op("relu.default", "b"))
    assert (found["b"].mean == BIAS).all()
    assert (found["b"].variance == GAIN**2).all()
    draws = BIAS + GAIN * np.random.default_rng(0).standard_normal((400_000, 3))
    assert found["y"].mean == pytest.approx(np.maximum(draws, 0).mean(0), abs=0.01)
    assert found["y"].variance == pytest.approx(np.maximum(draws, 0).var(0), abs=0.02)


def test_work_in_place_changes_what_was_there() -> None:
    found = known(op("relu_.default", "b"))
    assert (found["b"].mean == found["y"].mean).all()
    assert (found["b"].mean > BIAS).all()


def test_a_sum_of_channels() -> None:
    found = known(op("relu.default", "b", to="r"), op("add.Tensor", "r", "b"))
    assert found["y"].mean == pytest.approx(found["r"].mean + BIAS)
    assert found["y"].variance == pytest.approx(found["r"].variance + GAIN**2)
    assert "y" not in known(op("add.Tensor", "x", "b"))
    assert "y" not in known(op("add.Tensor", "b", 1.0))


def test_padded_channels_are_zero() -> None:
    shapes = {"y": (2, 6, 4, 4)}
    found = known(op("pad.default", "b", (0, 0, 0, 0, 1, 2)), shapes=shapes)
    assert found["y"].mean == pytest.approx([0, *BIAS, 0, 0])
    assert "y" not in known(op("pad.default", "b", (0, 0, 0, 0, 1, 2), "constant", 1.0), shapes=shapes)


def test_places_become_features_and_means_keep_means() -> None:
    flat = known(op("flatten.using_ints", "b", 1), shapes={"y": (2, 48)})
    assert (flat["y"].mean == np.repeat(BIAS, 16)).all()
    pooled = known(op("mean.dim", "b", (2, 3)), shapes={"y": (2, 3)})
    assert (pooled["y"].mean == BIAS).all()
    assert pooled["y"].variance is None
    pooled = known(op("adaptive_avg_pool2d.default", "b", (1, 1)), shapes={"y": (2, 3, 1, 1)})
    assert (pooled["y"].mean == BIAS).all()
    assert "y" not in known(op("mean.dim", "b", (1,)), shapes={"y": (2, 4, 4)})


def test_channels_one_behind_another() -> None:
    node = Node("aten.cat.default", ((V("b"), V("b")), 1), ("y",))
    assert (known(node, shapes={"y": (2, 6, 4, 4)})["y"].mean == [*BIAS, *BIAS]).all()
    along = Node("aten.cat.default", ((V("b"), V("b")), 2), ("y",))
    assert "y" not in known(along, shapes={"y": (2, 3, 8, 4)})


def test_what_is_not_understood_is_not_known() -> None:
    assert "y" not in known(op("max_pool2d.default", "b", (2, 2)))
    assert "y" not in known(op("mul.Tensor", "b", "b"))
    assert "y" not in known(op("permute.default", "b", (0, 2, 3, 1)), shapes={"y": (2, 4, 4, 3)})
    assert "z" not in known(op("mul.Tensor", "b", "b"), op("relu.default", "y", to="z"))


def test_negative_control_channels_are_not_taken_for_standard_ones() -> None:
    standard: tuple[NDArray[np.float64], NDArray[np.float64]] = clipped(np.zeros(3), np.ones(3), 0.0, np.inf)
    assert known(op("relu.default", "b"))["y"].mean != pytest.approx(standard[0], abs=0.1)
