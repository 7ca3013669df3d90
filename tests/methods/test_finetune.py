from dataclasses import replace

import numpy as np
import pytest

from squeezer.graph import Node, Value, dropout_of
from squeezer.methods import Finetune, KmeansShare, MagnitudePrune
from squeezer.representations import Masked, Shared
from squeezer.training.dropout import adjusted
from squeezer.training.loop import train
from squeezer.training.parametrisation import Constant
from squeezer.training.workbench import State
from tests.training.building import WEIGHTS, accuracy, bench, digits, mlp, trained

pytestmark = pytest.mark.usefixtures("one_thread")


def after(step: MagnitudePrune | KmeansShare, state: State) -> State:
    changed = {name: step.apply(name, state.tensors[name], None, 0) for name in WEIGHTS}
    return replace(state, tensors={**state.tensors, **changed})


def retrained(state: State, epochs: float, lr: float) -> State:
    settings = Finetune(epochs=epochs, batch_size=64, lr=lr, alpha=0)
    return settings.run(state, set(WEIGHTS), bench(trained(), digits()))


def test_pruning_by_magnitude_beats_pruning_at_random():
    """At 95 %, with the same retraining: by ten points or more."""
    by_magnitude = after(MagnitudePrune(sparsity=0.95), trained())
    at_random = dict(by_magnitude.tensors)
    rng = np.random.default_rng(0)
    for name in WEIGHTS:
        pruned = by_magnitude.tensors[name]
        assert isinstance(pruned, Masked)
        mask = rng.permutation(pruned.mask.reshape(-1)).reshape(pruned.shape)
        at_random[name] = Masked(pruned.values, mask)
    first = retrained(by_magnitude, 5, 1e-3)
    second = retrained(replace(by_magnitude, tensors=at_random), 5, 1e-3)
    assert accuracy(first, digits()) >= accuracy(second, digits()) + 0.1
    assert accuracy(first, digits()) >= accuracy(by_magnitude, digits()) + 0.1


def test_pruned_weights_stay_pruned():
    pruned = after(MagnitudePrune(sparsity=0.9), trained())
    result = retrained(pruned, 1, 1e-3)
    for name in WEIGHTS:
        before, now = pruned.tensors[name], result.tensors[name]
        assert isinstance(before, Masked)
        assert isinstance(now, Masked)
        assert np.array_equal(now.mask, before.mask)
        assert np.array_equal(now.decode() != 0, before.mask)
        assert not np.array_equal(now.decode(), before.decode())


@pytest.mark.parametrize(("sparsity", "bits", "gain"), [(0.0, 1, 0.03), (0.8, 2, 0.05)])
def test_trained_centroids_beat_untrained_ones_of_the_same_bytes(sparsity, bits, gain):
    """With all else held as it is: nothing but the centroids can have done it."""
    pruned = after(MagnitudePrune(sparsity=sparsity), trained()) if sparsity else trained()
    shared = after(KmeansShare(bits=bits), pruned)
    held = {name: Constant(tensor, "cpu") for name, tensor in shared.tensors.items() if name not in WEIGHTS}
    settings = Finetune(epochs=5, batch_size=64, lr=3e-3, alpha=0)
    result = train(shared, bench(trained(), digits()), settings, parametrisations=held)
    for name in WEIGHTS:
        before, now = shared.tensors[name], result.tensors[name]
        assert isinstance(before, Shared)
        assert isinstance(now, Shared)
        assert now.sparse == bool(sparsity)
        assert np.array_equal(now.codes, before.codes)
        assert now.codebook.nbytes == before.codebook.nbytes
        assert not np.array_equal(now.codebook, before.codebook)
    assert accuracy(result, digits()) >= accuracy(shared, digits()) + gain
    # the control: moved as far, but not by the gradient
    rng, shuffled = np.random.default_rng(0), dict(result.tensors)
    for name in WEIGHTS:
        before, now = shared.tensors[name], result.tensors[name]
        moves = rng.permutation(now.codebook - before.codebook) * rng.choice([-1, 1], now.codebook.size)
        shuffled[name] = replace(now, codebook=(before.codebook + moves).astype(np.float32))
    assert accuracy(replace(result, tensors=shuffled), digits()) < accuracy(result, digits())


# -- dropout adjusted ------------------------------------------------------------------------------------


def rates(state: State) -> list[float]:
    return [rate for node in state.graph.nodes if (rate := dropout_of(node)) is not None]


def test_dropout_is_adjusted_by_the_connections_that_are_left():
    """Han et al. 2015, equation 2: D_r = D_o sqrt(C_ir / C_io), of the layer whose inputs are dropped."""
    state = mlp(64, 40, 30, 10, dropout=0.5)
    pruned = dict(state.tensors)
    for name, sparsity in (("fc1.weight", 0.99), ("fc2.weight", 0.75), ("fc3.weight", 0.9)):
        pruned[name] = MagnitudePrune(sparsity=sparsity).apply(name, state.tensors[name], None, 0)
    graph = adjusted(replace(state, tensors=pruned), state)
    assert rates(replace(state, graph=graph)) == pytest.approx([0.5 * 0.25**0.5, 0.5 * 0.1**0.5], rel=1e-3)
    assert rates(replace(state, graph=adjusted(state, state))) == [0.5, 0.5]


def test_dropout_behind_the_last_layer_belongs_to_that():
    state = mlp(64, 40, 10)
    last = Node("aten.dropout.default", (Value("h2"), 0.4, True), ("d",))
    state = replace(state, graph=replace(state.graph, nodes=(*state.graph.nodes, last), outputs=(Value("d"),)))
    pruned = MagnitudePrune(sparsity=0.75).apply("fc2.weight", state.tensors["fc2.weight"], None, 0)
    graph = adjusted(replace(state, tensors={**state.tensors, "fc2.weight": pruned}), state)
    assert rates(replace(state, graph=graph)) == pytest.approx([0.2])


def test_the_graph_that_comes_back_is_the_one_that_went_in():
    state = mlp(64, 40, 10, dropout=0.5)
    pruned = MagnitudePrune(sparsity=0.9).apply("fc2.weight", state.tensors["fc2.weight"], None, 0)
    begun = replace(state, tensors={**state.tensors, "fc2.weight": pruned})
    results = [
        Finetune(epochs=1, batch_size=64, dropout_adjust=adjust).run(begun, set(), bench(state, digits()))
        for adjust in (False, True)
    ]
    assert results[0].graph == results[1].graph == state.graph
    weights = [result.tensors["fc1.weight"].decode() for result in results]
    assert not np.array_equal(*weights)  # it did make a difference
