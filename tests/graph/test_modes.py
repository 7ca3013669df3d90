"""Training and evaluation, as rewriting of arguments."""

from __future__ import annotations

from dataclasses import replace

import pytest

from squeezer.graph import Graph, Node, Value, dropout_of, in_mode, scaled_dropout
from tests.graph.networks import one, perceptron

X, W = Value("x"), Value("w")


def node(graph: Graph, operator: str) -> Node:
    return next(item for item in graph.nodes if operator in item.target)


def test_batch_norm_and_dropout_switch_both_ways() -> None:
    for start in (perceptron(), in_mode(perceptron(), training=False)):
        for training in (True, False):
            graph = in_mode(start, training=training)
            assert node(graph, "batch_norm").args[5] is training
            assert node(graph, ".dropout").args[1:] == (0.25, training)


def test_the_counter_counts_in_training_alone() -> None:
    training, evaluation = (in_mode(perceptron(), training=mode) for mode in (True, False))
    assert "aten.add_.Tensor" in [item.target for item in training.nodes]
    assert "aten.add_.Tensor" not in [item.target for item in evaluation.nodes]
    assert len(evaluation.nodes) == len(training.nodes) - 1


def test_frozen_norms_are_in_evaluation_and_dropout_is_not() -> None:
    graph = in_mode(perceptron(), training=True, frozen=True)
    assert node(graph, "batch_norm").args[5] is False
    assert node(graph, ".dropout").args[1:] == (0.25, True)
    assert "aten.add_.Tensor" not in [item.target for item in graph.nodes]


@pytest.mark.parametrize("read", ["count", "counted"])
def test_a_buffer_that_is_read_is_written_in_evaluation_too(read: str) -> None:
    graph = perceptron()
    graph = replace(graph, outputs=(*graph.outputs, Value(read)), single=False)
    assert "aten.add_.Tensor" in [item.target for item in in_mode(graph, training=False).nodes]


def test_in_place_work_on_what_was_computed_stays() -> None:
    graph = one("aten.relu.default", X)
    graph = replace(graph, nodes=(*graph.nodes, Node("aten.relu_.default", (Value("y"),), ("z",))))
    assert in_mode(graph, training=False) == graph


def test_batch_norm_without_statistics_always_uses_those_of_the_batch() -> None:
    graph = one("aten.batch_norm.default", X, None, None, None, None, True, 0.1, 1e-5, False)
    assert in_mode(graph, training=False) == graph


def test_attention_drops_in_training_alone() -> None:
    graph = one("aten.scaled_dot_product_attention.default", X, X, X, None, 0.1, True)
    assert in_mode(graph, training=False).nodes[0].args == (X, X, X, None, 0.0, True)
    assert in_mode(graph, training=True) == graph
    named = one("aten.scaled_dot_product_attention.default", X, X, X, dropout_p=0.1)
    assert in_mode(named, training=False).nodes[0].kwargs == {"dropout_p": 0.0}


def test_recurrent_layers() -> None:
    graph = one("aten.gru.input", X, X, (W, W), True, 2, 0.3, False, False, True, outputs=("y", None))
    assert in_mode(graph, training=True).nodes[0].args[5:7] == (0.3, True)


def test_a_flag_that_the_node_leaves_out_is_named() -> None:
    graph = one("aten.rrelu.default", X)
    assert in_mode(graph, training=True).nodes[0].kwargs == {"training": True}


def test_scaled_dropout() -> None:
    graph = perceptron()
    assert node(scaled_dropout(graph, lambda _: 0.5), ".dropout").args[1] == 0.125
    assert node(scaled_dropout(graph, lambda _: 9), ".dropout").args[1] == 1.0
    seen: list[str] = []
    unchanged = scaled_dropout(graph, lambda item: seen.append(item.target) or 1.0)  # type: ignore[func-returns-value]
    assert unchanged == graph
    assert seen == ["aten.dropout.default"]  # nothing else is asked about


def test_the_probability_of_a_node() -> None:
    assert [dropout_of(item) for item in perceptron().nodes] == [None] * 5 + [0.25] + [None]
    assert dropout_of(one("aten.scaled_dot_product_attention.default", X, X, X).nodes[0]) == 0.0
