from dataclasses import replace

import numpy as np
import pytest
import torch

from squeezer.data import DataSpec
from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError, ModelError
from squeezer.graph import Graph, Input, Node, Value
from squeezer.methods import Finetune
from squeezer.methods.network_step import TrainingStep
from squeezer.representations import Dense, Masked, Uniform
from squeezer.training.loop import train
from squeezer.training.workbench import State
from tests.training.building import ArrayDataset, accuracy, bench, cnn, digests, digits, mlp

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = Finetune(epochs=3, batch_size=64, lr=3e-3, alpha=0)


def test_a_network_learns_and_the_report_can_tell():
    state, told = mlp(64, 64, 10), []
    work = bench(state, digits(), tell=lambda share, note="": told.append((share, note)))
    trained = train(state, work, SETTINGS)
    assert accuracy(state, digits()) < 0.3
    assert accuracy(trained, digits()) > 0.85
    assert digests(state) == digests(mlp(64, 64, 10))  # what it began with is as it was
    history = work.findings["training"][0]["history"]
    assert [round(item["epoch"], 1) for item in history] == [0, 0.6, 1.3, 1.9, 2.5, 3]
    assert history[-1]["loss"] < history[1]["loss"]
    assert history[-1]["accuracy"] > history[0]["accuracy"]
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert told[-1][1].startswith("epoch 3 of 3, loss ")
    assert "accuracy 0." in told[-1][1]
    assert not work.events


def test_validation_alone_chooses():
    """Test rows with all labels wrong change nothing."""
    data = digits()
    wrong = data.but(targets=data.targets.copy())
    wrong.targets[data.rows[Split.TEST]] = (data.targets[data.rows[Split.TEST]] + 1) % 10
    state = mlp(64, 32, 10)
    first, second = (train(state, bench(state, one), SETTINGS) for one in (data, wrong))
    assert digests(first) == digests(second)


def test_the_best_network_is_kept_not_the_last():
    state = mlp(64, 32, 10)
    good = train(state, bench(state, digits()), SETTINGS)
    ruin = Finetune(epochs=1, batch_size=64, lr=3.0, clip=None, schedule="constant", optimizer="sgd", alpha=0)
    work = bench(good, digits())
    kept = train(good, work, ruin)
    assert accuracy(kept, digits()) >= accuracy(good, digits()) - 0.02
    # the control: where only the last may be chosen, it is as bad as that
    last = train(good, bench(good, digits()), ruin, ready=lambda done, total: done == total)
    assert accuracy(last, digits()) < accuracy(good, digits()) - 0.1


def test_the_seed_and_nothing_else_decides():
    state = mlp(64, 32, 10, dropout=0.3)
    settings = Finetune(epochs=1, batch_size=64)
    torch.manual_seed(1)
    first = train(state, bench(state, digits()), settings)
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    second = train(state, bench(state, digits()), settings)
    assert torch.equal(torch.rand(1), expected)  # nobody else's random numbers were drawn
    assert digests(first) == digests(second)
    assert digests(first) != digests(train(state, bench(state, digits(), seed=1), settings))


def test_dropout_drops_in_training():
    """With nearly everything dropped, nothing is learned."""
    results = [
        accuracy(train(state, bench(state, digits()), SETTINGS), digits())
        for state in (mlp(64, 32, 10), mlp(64, 32, 10, dropout=0.99))
    ]
    assert results[0] > results[1] + 0.3


def test_statistics_of_batch_norm_follow_the_data():
    data, state = digits(images=True), cnn()
    trained = train(state, bench(state, data), SETTINGS)
    assert trained.tensors["bn1.num_batches_tracked"].decode() == 3 * (data.size(Split.TRAIN) // 64)
    assert accuracy(trained, data) > 0.6
    assert not np.allclose(trained.tensors["bn1.running_mean"].decode(), 0)


def test_frozen_statistics_are_used_and_stay():
    data, state = digits(images=True), cnn()
    settled = train(state, bench(state, data), SETTINGS)
    frozen = SETTINGS.model_copy(update={"freeze_batch_norm": True, "epochs": 1})
    trained = train(settled, bench(settled, data), frozen)
    before, after = digests(settled), digests(trained)
    assert {name for name in before if after[name] == before[name]} == set(state.graph.buffers)
    assert accuracy(trained, data) > accuracy(settled, data) - 0.03


def test_labels_are_optional():
    state = mlp(64, 64, 10)
    teacher = train(state, bench(state, digits()), Finetune(epochs=6, batch_size=64, lr=3e-3, alpha=0))
    student = mlp(64, 32, 10, seed=3)
    work = bench(teacher, digits().without_targets())
    trained = train(student, work, Finetune(epochs=6, batch_size=64, lr=3e-3))
    assert accuracy(student, digits()) < 0.3
    assert accuracy(trained, digits()) > 0.8
    assert "divergence" in work.findings["training"][0]["history"][0]


def test_patience_ends_a_run_that_goes_nowhere():
    state = train(mlp(64, 32, 10), bench(mlp(64, 32, 10), digits()), SETTINGS)
    work = bench(state, digits())
    settings = Finetune(epochs=50, batch_size=64, lr=1e-12, alpha=0, patience=2)
    train(state, work, settings)
    assert [event["event"] for event in work.events] == ["stopped_early"]
    assert work.findings["training"][0]["history"][-1]["epoch"] <= 4


# -- a loss that blows up --------------------------------------------------------------------------------


def test_a_penalty_that_becomes_nan_ends_in_the_last_good_network():
    state = mlp(64, 32, 10)
    at = []

    def penalty(_):
        return torch.tensor(torch.nan if at[-1] == 40 else 0.0)

    work = bench(state, digits())
    trained = train(state, work, SETTINGS, penalty=penalty, hook=lambda step, total, _: at.append(step))
    assert [event["event"] for event in work.events] == ["loss_not_finite"] * 4
    assert {(event["step"], event["epoch"], event["batch"]) for event in work.events} == {(40, 2, 2)}
    assert work.events[0]["action"] == "went back to step 36 with a learning rate 2 times smaller"
    assert work.events[-1]["action"] == "ended with the best so far"
    undisturbed = train(state, bench(state, digits()), SETTINGS)
    assert 0.5 < accuracy(trained, digits()) < accuracy(undisturbed, digits()) + 0.02
    # it is what the first 36 updates made
    stopped = train(state, bench(state, digits()), SETTINGS, ready=lambda done, total: done == 36)
    assert digests(trained) == digests(stopped)


def test_a_learning_rate_beyond_all_bounds_gives_back_what_was_there():
    state = mlp(64, 32, 10)
    work = bench(state, digits())
    trained = train(state, work, Finetune(epochs=1, batch_size=64, lr=1e30, optimizer="sgd", clip=None, alpha=0))
    assert len(work.events) == 4
    assert digests(trained) == digests(state)


def test_half_the_learning_rate_can_be_enough():
    state = mlp(64, 32, 10)
    calls = []

    def penalty(_):
        calls.append(1)
        return torch.tensor(torch.inf if len(calls) == 30 else 0.0)

    work = bench(state, digits())
    trained = train(state, work, SETTINGS, penalty=penalty)
    assert [event["action"].split(" with ")[1] for event in work.events] == ["a learning rate 2 times smaller"]
    assert work.findings["training"][0]["updates"] == 57
    assert accuracy(trained, digits()) > 0.7


def test_a_loss_that_rises_far_above_the_start_counts_as_blown_up():
    state = train(mlp(64, 32, 10), bench(mlp(64, 32, 10), digits()), SETTINGS)
    work = bench(state, digits())
    trained = train(
        state, work, Finetune(epochs=5, batch_size=64, lr=30, optimizer="sgd", schedule="constant", clip=None, alpha=0)
    )
    assert "loss_diverged" in {event["event"] for event in work.events}
    assert accuracy(trained, digits()) >= accuracy(state, digits()) - 0.02


def test_what_is_not_finite_from_the_start_is_an_error():
    data = digits()
    spoilt = data.but(inputs=(data.inputs[0].copy(),))
    spoilt.inputs[0][data.rows[Split.TRAIN]] = np.nan
    state = mlp(64, 32, 10)
    with pytest.raises(ModelError, match="loss of the first batch is not finite") as refused:
        train(state, bench(state, spoilt), SETTINGS)
    assert refused.value.code == Code.NON_FINITE_LOSS
    broken = State(state.graph, {**state.tensors, "fc1.bias": Dense(np.full(32, np.nan, np.float32), np.dtype("f4"))})
    with pytest.raises(ModelError, match="validation loss is not finite"):
        train(broken, bench(broken, data), SETTINGS)


def test_fewer_rows_than_a_batch_are_refused():
    state = mlp(64, 32, 10)
    with pytest.raises(DataError, match="batch_size"):
        train(state, bench(state, digits()), Finetune(batch_size=4096))


# -- what it can be used for -----------------------------------------------------------------------------


def test_hook_and_parametrisations_of_the_caller():
    from squeezer.training.parametrisation import MaskedWeights

    state = mlp(64, 32, 10)
    own = MaskedWeights(Masked(state.tensors["fc1.weight"].decode(), np.ones((32, 64), bool)), "cpu")
    seen = []

    def hook(step, total, tensors):
        seen.append((step, total))
        assert tensors["fc1.weight"] is own
        if step == 10:
            own.renew(np.arange(32 * 64).reshape(32, 64) % 2 == 0)

    trained = train(state, bench(state, digits()), SETTINGS, parametrisations={"fc1.weight": own}, hook=hook)
    assert seen == [(i, 57) for i in range(57)]
    pruned = trained.tensors["fc1.weight"]
    assert isinstance(pruned, Masked)
    assert np.array_equal(pruned.decode().reshape(-1) != 0, np.arange(32 * 64) % 2 == 0)


def test_a_penalty_is_minimised_along_with_the_loss():
    state = mlp(64, 32, 10)

    def size(tensors):
        return 0.1 * tensors["fc1.weight"]().abs().sum()

    plain, small = (train(state, bench(state, digits()), SETTINGS, penalty=p) for p in (None, size))
    first, second = (np.abs(one.tensors["fc1.weight"].decode()).mean() for one in (plain, small))
    assert second < 0.5 * first
    assert accuracy(small, digits()) > 0.2


def test_a_tied_tensor_is_trained_once():
    """One weight in both layers: its gradient is the sum, and what comes back is one tensor."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    y = (x @ np.diag([1, 2, 3, 4, 5, 6])).astype(np.float32)
    weight = Dense(np.eye(6, dtype=np.float32), np.dtype(np.float32))
    nodes = (
        Node("aten.linear.default", (Value("x"), Value("encoder")), ("h",)),
        Node("aten.linear.default", (Value("h"), Value("decoder")), ("y",)),
    )
    graph = Graph((Input("x", (None, 6), "F32"),), {"encoder": "w", "decoder": "w"}, frozenset(), nodes, (Value("y"),))
    data = ArrayDataset((x,), y, np.array(["train"] * 160 + ["validation"] * 40))
    state = State(graph, {"w": weight})
    work = bench(state, data, spec=DataSpec(loss="mse"))
    trained = train(state, work, Finetune(epochs=60, batch_size=32, lr=0.05, alpha=0))
    root = trained.tensors["w"].decode()
    assert root @ root == pytest.approx(np.diag([1, 2, 3, 4, 5, 6]), abs=0.05)
    assert list(trained.tensors) == ["w"]
    assert work.findings["training"][0]["history"][-1]["mse"] < 0.01


def test_narrow_networks_are_trained_in_float32_and_rounded():
    state = mlp(64, 32, 10)
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16)
    narrow = State(
        Graph(
            (Input("x", (None, 64), "BF16"),),
            state.graph.tensors,
            frozenset(),
            state.graph.nodes,
            state.graph.outputs,
        ),
        {name: Dense(tensor.decode().astype(dtype), dtype) for name, tensor in state.tensors.items()},
    )
    cast = digits().but(inputs=(digits().inputs[0].astype(dtype),))
    settings = Finetune(epochs=5, batch_size=64, lr=4e-4, schedule="constant", alpha=0)

    def round_latent_weights(step, total, tensors):
        """The control: such small updates are lost on the larger weights."""
        for one in tensors.values():
            one.latent.data = one.latent.data.bfloat16().float()

    reached = []
    for hook in (None, round_latent_weights):
        work = bench(narrow, cast)
        trained = train(narrow, work, settings, hook=hook)
        assert trained.tensors["fc1.weight"].decode().dtype == dtype
        reached.append(work.findings["training"][0]["history"][-1]["accuracy"])
    assert reached[0] > reached[1] + 0.1


def test_autocast_can_be_asked_for():
    state = mlp(64, 32, 10)
    settings = [Finetune(epochs=1, batch_size=64, precision=p, alpha=0) for p in ("auto", "float32", "bfloat16")]
    first, second, half = (train(state, bench(state, digits()), one) for one in settings)
    assert digests(first) == digests(second)
    difference = np.abs(half.tensors["fc1.weight"].decode() - first.tensors["fc1.weight"].decode()).max()
    assert 0 < difference < 0.02


def test_overrides_hold_for_single_tensors_alone():
    with pytest.raises(ValueError, match="finetune has settings for single tensors: none"):
        Finetune(overrides={"fc*": {"lr": 0.1}})
    assert issubclass(Finetune, TrainingStep)


def test_levels_follow_the_loss():
    state = mlp(64, 32, 10)
    good = train(state, bench(state, digits()), Finetune(epochs=6, batch_size=64, lr=3e-3, alpha=0))
    coarse = {}
    for name in ("fc1.weight", "fc2.weight"):
        weights = good.tensors[name].decode()
        step = np.float32(np.abs(weights).max() / 1.6)
        coarse[name] = Uniform(step, np.round(weights / step).astype(np.int8), np.dtype(np.float32))
    rounded = State(good.graph, good.tensors | coarse)
    trained = train(rounded, bench(good, digits()), Finetune(epochs=4, batch_size=64, lr=3e-3))
    assert isinstance(trained.tensors["fc1.weight"], Uniform)
    assert trained.tensors["fc1.weight"].step == coarse["fc1.weight"].step
    assert accuracy(trained, digits()) > accuracy(rounded, digits()) + 0.05


def test_a_network_for_batches_of_one_size():
    """Training takes batches of that size, and validation fills its last one up."""
    state = mlp(64, 32, 10)
    first, *others = state.graph.nodes
    fixed = Node("aten.reshape.default", (Value("x"), (50, 64)), ("fixed",))
    nodes = (fixed, replace(first, args=(Value("fixed"), *first.args[1:])), *others)
    graph = replace(state.graph, inputs=(Input("x", (50, 64), "F32"),), nodes=nodes)
    work = bench(State(graph, state.tensors), digits())
    trained = train(State(graph, state.tensors), work, SETTINGS)
    assert work.findings["training"][0]["updates"] == 3 * (digits().size(Split.TRAIN) // 50)
    # the same as a network for any batch that is trained in batches of 50
    free = train(state, bench(state, digits()), Finetune(**SETTINGS.model_dump() | {"batch_size": 50}))
    assert digests(trained) == digests(free)


def test_several_inputs_and_several_outputs():
    """The first output is judged; the inputs come in the graph's order."""
    state = mlp(64, 32, 10)
    first, *others = state.graph.nodes
    halves = Node("aten.cat.default", ((Value("left"), Value("right")), 1), ("x",))
    inputs = (Input("left", (None, 40), "F32"), Input("right", (None, 24), "F32"))
    outputs = (Value("h2"), Value("r1"))
    graph = replace(state.graph, inputs=inputs, nodes=(halves, first, *others), outputs=outputs, single=False)
    data = digits()
    two = data.but(inputs=(data.inputs[0][:, :40], data.inputs[0][:, 40:]))
    several = State(graph, state.tensors)
    trained = train(several, bench(several, two), SETTINGS)
    assert digests(trained) == digests(train(state, bench(state, data), SETTINGS))
