from dataclasses import replace

import numpy as np
import pytest
import torch

from squeezer.data.dataset import Batch
from squeezer.errors import DataError
from squeezer.graph import Node, Value
from squeezer.methods import Finetune
from squeezer.training import runner
from squeezer.training.parametrisation import Parametrisation, parametrise
from squeezer.training.runner import Runner, Teacher, moved
from squeezer.training.workbench import State
from tests.training.building import cnn, mlp

IMAGES = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 1, 8, 8)).astype(np.float32))


def trained(state: State) -> dict[str, Parametrisation]:
    return {
        name: parametrise(tensor, "cpu", buffer=name in state.graph.buffers) for name, tensor in state.tensors.items()
    }


def outcome(state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output in training, gradient of the first filters, and the running mean after it."""
    tensors = trained(state)
    outputs = Runner(state.graph, "cross_entropy", "cpu")(tensors, [IMAGES], training=True)
    outputs.square().sum().backward()
    return outputs.detach(), tensors["conv1.weight"].latent.grad, tensors["bn1.running_mean"].value


@pytest.mark.parametrize("view", [False, True])
def test_channels_last_differ_by_rounding_alone(view, monkeypatch):
    state = cnn(view=view)
    last = outcome(state)
    monkeypatch.setattr(runner, "_filters", lambda _: frozenset())
    first = outcome(state)
    for one, other in zip(last, first, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())
    # the control: other filters, another result
    assert not torch.allclose(last[0], outcome(cnn(seed=1))[0], rtol=0.1)


def test_channels_really_are_last(monkeypatch):
    seen = []
    network = runner.Network

    class Spy(network):
        def __call__(self, tensors, inputs, *, training=False):
            seen.append((tensors["conv2.weight"], inputs[0]))
            return super().__call__(tensors, inputs, training=training)

    monkeypatch.setattr(runner, "Network", Spy)
    state = cnn()
    Runner(state.graph, "cross_entropy", "cpu")(trained(state), [IMAGES.expand(16, 1, 8, 8)])
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen[0])


def test_a_view_that_is_written_to_stays_a_view():
    state = cnn(view=True)
    nodes = list(state.graph.nodes)
    nodes.insert(-1, Node("aten.relu_.default", (Value("f"),), ("g",)))
    nodes[-1] = replace(nodes[-1], args=(Value("p2"), *nodes[-1].args[1:]))
    # p2 has the wrong shape for the last layer; what matters is that the graph keeps its view
    graph = replace(state.graph, nodes=tuple(nodes))
    assert runner._writes_views(graph)
    assert not runner._writes_views(state.graph)


def test_training_updates_statistics_and_the_teacher_keeps_its_own():
    state = cnn()
    tensors, teacher = trained(state), Teacher(state, "cross_entropy", "cpu")
    before = teacher([IMAGES])
    run = Runner(state.graph, "cross_entropy", "cpu")
    run(tensors, [IMAGES])
    assert tensors["bn1.num_batches_tracked"].freeze().values == 0
    run(tensors, [IMAGES], training=True)
    assert tensors["bn1.num_batches_tracked"].freeze().values == 1
    assert not np.array_equal(tensors["bn1.running_mean"].freeze().decode(), state.tensors["bn1.running_mean"].decode())
    assert torch.equal(teacher([IMAGES]), before)
    assert not before.requires_grad


def test_probabilities_are_taken_back_to_logits():
    state = mlp(4, 3)
    softmax = Node("aten.softmax.int", (Value("h1"), -1), ("p",))
    graph = replace(state.graph, nodes=(*state.graph.nodes, softmax), outputs=(Value("p"),))
    x = [torch.ones(2, 4)]
    scores = Runner(state.graph, "cross_entropy", "cpu")(trained(state), x)
    again = Runner(graph, "cross_entropy", "cpu")(trained(state), x)
    assert torch.allclose(again, scores.log_softmax(-1), atol=1e-5)
    assert torch.allclose(Runner(graph, "mse", "cpu")(trained(state), x), scores.softmax(-1))


def batch(*shapes: tuple[int, ...], targets: np.ndarray | None = None) -> Batch:
    rng = np.random.default_rng(1)
    return Batch(tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes), targets)


def test_pixels_labels_move_with_their_images():
    labels = np.random.default_rng(2).integers(0, 5, (6, 8, 8))
    given = batch((6, 2, 8, 8), (6, 3), targets=labels)
    given.inputs[0][:, 0] = labels
    after = moved(given, Finetune(shift=2, flip=True), [np.full(1, -100.0), 0.0], (0, 1, 2))
    assert np.array_equal(after.inputs[0][:, 0], after.targets)
    assert not np.array_equal(after.targets, labels)
    assert (after.targets == -100).any()
    assert np.array_equal(after.inputs[1], given.inputs[1])
    again = moved(given, Finetune(shift=2, flip=True), [np.full(1, -100.0), 0.0], (0, 1, 2))
    assert np.array_equal(again.inputs[0], after.inputs[0])
    other = moved(given, Finetune(shift=2, flip=True), [np.full(1, -100.0), 0.0], (0, 1, 3))
    assert not np.array_equal(other.inputs[0], after.inputs[0])
    assert moved(given, Finetune(), [0.0, 0.0], (0,)) is given


def test_what_cannot_be_moved_is_refused():
    with pytest.raises(DataError, match="for images"):
        moved(batch((6, 3)), Finetune(shift=1), [0.0], (0,))
    for maps in (np.zeros((6, 1, 8, 8), np.float32), np.zeros((6, 64), np.int64)):
        with pytest.raises(DataError, match="set shift to 0"):
            moved(batch((6, 1, 8, 8), targets=maps), Finetune(shift=1), [0.0], (0,))
    words = np.zeros((6, 5), np.int64)  # a caption says what it said
    assert moved(batch((6, 1, 8, 8), targets=words), Finetune(shift=1), [0.0], (0,)).targets is words
