"""Networks out of graphs, against the modules that they came from: outputs, gradients and buffers, in both modes."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from squeezer.errors import Code, ModelError
from squeezer.formats.pt2 import Pt2Model
from squeezer.graph import Graph, Input, Node, Value, scaled_dropout
from squeezer.training.module import build, put
from squeezer.training.network import Network
from squeezer.training.tensors import to_torch
from tests.graph.networks import one, perceptron
from tests.training.networks import examples, outputs_of

X = Value("x")


@dataclass
class Pair:
    """A module, the graph of its export, its tensors, and a larger batch than that of the export."""

    module: nn.Module
    graph: Graph
    tensors: dict[str, torch.Tensor]
    aliases: dict[str, str]
    batch: torch.Tensor


def exported(module: nn.Module, x: torch.Tensor, path: Path) -> Pair:
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)
    model = Pt2Model(path)
    tensors = {info.name: to_torch(model.read(info.name)) for info in model.tensors}
    return Pair(module, model.graph, tensors, model.aliases, torch.cat([x, x.flip(0), x[:1]]))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Pair]:
    """By kind, and by whether it was exported in training."""
    folder = tmp_path_factory.mktemp("pairs")
    return {
        (kind, mode): exported(module.train(mode), x, folder / f"{kind}-{mode}.pt2")
        for mode in (True, False)
        for kind, (module, x) in examples().items()
    }


KINDS = list(examples())


def trained(pair: Pair) -> dict[str, torch.Tensor]:
    """Copies of the tensors, of which all but buffers ask for gradients."""
    return {
        name: tensor.clone().requires_grad_(name not in pair.graph.buffers) for name, tensor in pair.tensors.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exported_in_training", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_buffers_are_the_module_s(
    pairs: dict[tuple[str, bool], Pair], kind: str, exported_in_training: bool, training: bool
) -> None:
    if kind == "transformer" and training and not exported_in_training:
        pytest.skip("an export in evaluation does not say how much attention drops")
    pair = pairs[kind, exported_in_training]
    module, tensors = copy.deepcopy(pair.module).train(training), trained(pair)
    torch.manual_seed(5)
    expected = outputs_of(module(pair.batch))
    torch.manual_seed(5)
    found = outputs_of(Network(pair.graph)(tensors, (pair.batch,), training=training))
    assert all(map(torch.equal, found, expected))  # bit for bit, and the same numbers were drawn
    for outputs in (found, expected):
        sum((output.double() ** 2).sum() for output in outputs).backward()  # type: ignore[union-attr]
    for name, parameter in module.named_parameters():
        ours = tensors[pair.aliases.get(name, name)]
        assert parameter.grad is not None
        torch.testing.assert_close(ours.grad, parameter.grad, msg=name)
    for name, buffer in module.named_buffers():
        if exported_in_training or "num_batches" not in name:  # only an export in training counts batches
            torch.testing.assert_close(tensors[name], buffer, msg=name)


def test_negative_control_dropout_draws_something_else(pairs: dict[tuple[str, bool], Pair]) -> None:
    pair = pairs["convolutions", True]
    network, tensors = Network(pair.graph), trained(pair)
    torch.manual_seed(5)
    first = network(tensors, (pair.batch,), training=True)
    torch.manual_seed(6)
    second = network(tensors, (pair.batch,), training=True)
    assert not torch.equal(outputs_of(first)[0], outputs_of(second)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_changes_no_buffer_and_draws_no_numbers(pairs: dict[tuple[str, bool], Pair], kind: str) -> None:
    pair = pairs[kind, True]
    tensors = {name: tensor.clone() for name, tensor in pair.tensors.items()}
    state, batch = torch.get_rng_state(), pair.batch.clone()
    Network(pair.graph)(tensors, (batch,))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batch, pair.batch)
    assert all(torch.equal(tensors[name], pair.tensors[name]) for name in tensors)


@pytest.mark.parametrize("training", [True, False])
def test_inputs_are_not_written_over(training: bool) -> None:
    """A network whose first layer works in place: teacher and student see the same batch."""
    view = Node("aten.view.default", (X, (-1,)), ("v",))
    graph = Graph(
        (Input("x", (None, 4), "F32"),),
        {},
        frozenset(),
        (view, Node("aten.relu_.default", (Value("v"),), ("y",))),
        (Value("y"),),
    )
    x = -torch.ones(2, 4)
    assert torch.equal(outputs_of(Network(graph)({}, (x,), training=training))[0], torch.zeros(8))
    assert torch.equal(x, -torch.ones(2, 4))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "views",
    [
        [Node("aten.view.default", (Value("w"), (-1,)), ("v",))],
        [Node("aten.dropout.default", (Value("w"), 0.0, False), ("v",))],
        [Node("aten.t.default", (Value("w"),), ("u",)), Node("aten.positive.default", (Value("u"),), ("v",))],
        [Node("aten.einsum.default", ("ij->ji", (Value("w"),)), ("v",))],
        [Node("aten.chunk.default", (Value("w"), 2), ("u", "v"))],
    ],
)
def test_weights_are_not_written_over_through_views(views: list[Node], training: bool) -> None:
    written = Node("aten.add_.Tensor", (Value("v"), 1), ("z",))
    graph = replace(
        one("aten.relu.default", X), nodes=(*views, written, Node("aten.sum.default", (Value("z"),), ("y",)))
    )
    weight = torch.zeros(2, 2)
    with torch.no_grad():
        for _ in range(2):
            found = outputs_of(Network(graph)({"weight": weight}, (weight,), training=training))[0]
            assert float(found) in (2.0, 4.0)
    assert torch.equal(weight, torch.zeros(2, 2))


@pytest.mark.parametrize("named", [True, False])
def test_statistics_that_are_weights_or_inputs_are_not_written_over(named: bool) -> None:
    """Batch norm works in place in training, which its schema does not say."""
    given = (X, None, None) if named else (X, None, None, Value("w"), X)
    rest = {"training": True, "momentum": 0.5, "eps": 1e-5, "cudnn_enabled": False}
    stats = {"running_mean": Value("w"), "running_var": X} if named else {}
    weight, x = torch.zeros(2), torch.tensor([[1.0, 2.0]])
    graph = replace(one("aten.batch_norm.default", *given, **stats, **rest), inputs=(Input("x", (2,), "F32"),))
    pair = Node("aten.stack.default", ((X, X),), ("two",))
    norm = replace(graph.nodes[0].renamed({"x": "x"}), args=(Value("two"), *graph.nodes[0].args[1:]))
    graph = replace(graph, nodes=(pair, norm))
    with torch.no_grad():
        Network(graph)({"weight": weight}, (x[0],), training=True)
    assert torch.equal(weight, torch.zeros(2))
    assert torch.equal(x, torch.tensor([[1.0, 2.0]]))


def test_lists_and_tensors_are_no_sizes() -> None:
    """`*` makes a list longer, and forty additions of one to itself would fill the memory."""
    for maker in (Node("aten.chunk.default", (X, 2, 1), ("s",)), Node("aten.relu.default", (X,), ("s",))):
        nodes = (maker, Node("_operator.mul", (Value("s"), 2), ("t",)), Node("aten.relu.default", (X,), ("y",)))
        with pytest.raises(ModelError, match="no number"):
            Network(replace(one("aten.relu.default", X), nodes=nodes))({"weight": torch.ones(1)}, (torch.ones(1, 4),))


def test_tensors_are_parameters_and_buffers_under_their_names() -> None:
    module = build(perceptron())
    names = set(perceptron().tensors.values())
    assert {name for name, _ in module.named_buffers()} == perceptron().buffers
    assert {name for name, _ in module.named_parameters()} == names - perceptron().buffers
    assert module.training
    assert all(tensor.is_meta for tensor in module.state_dict().values())


def test_a_missing_tensor_is_an_error_and_another_one_is_none() -> None:
    network, x = Network(one("aten.linear.default", X, Value("w"))), torch.ones(1, 4)
    weight = torch.ones(2, 4)
    assert torch.equal(outputs_of(network({"weight": weight, "more": x}, (x,)))[0], torch.full((1, 2), 4.0))
    with pytest.raises(KeyError):
        network({}, (x,))


def test_inputs_by_name_copies_and_pickles() -> None:
    module = build(one("aten.linear.default", X, Value("w")))
    put(module, "weight", torch.ones(2, 4), buffer=False)
    x = torch.ones(1, 4)
    assert torch.equal(module(x=x), module(x))
    for wrong, named in (((), {}), ((x, x), {}), ((x,), {"x": x}), ((), {"y": x})):
        with pytest.raises(TypeError, match="takes the inputs x"):
            module(*wrong, **named)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        put(other, "weight", torch.zeros(2, 4), buffer=False)
        assert torch.equal(other(x), torch.zeros(1, 2))
    assert torch.equal(module(x), torch.full((1, 2), 4.0))


@pytest.mark.parametrize(
    "name",
    ["forward", "training.weight", "_parameters", "train", "parameters.x", "a.forward", "_NetworkModule__places"],
)
def test_names_that_no_module_can_have(name: str) -> None:
    graph = replace(one("aten.linear.default", X, Value("w")), tensors={"w": name})
    with pytest.raises(ModelError) as caught:
        build(graph)
    assert caught.value.code is Code.INVALID_GRAPH


def test_operators_beyond_the_list_are_not_looked_up() -> None:
    with pytest.raises(ModelError) as caught:
        build(one("aten.from_file.default", "/etc/passwd"))
    assert caught.value.code is Code.UNSUPPORTED_OPERATOR


def test_sizes_cannot_grow_without_end() -> None:
    nodes = [Node("aten.sym_size.int", (X, 1), ("s0",))]
    nodes += [Node("_operator.mul", (Value(f"s{i}"), Value(f"s{i}")), (f"s{i + 1}",)) for i in range(60)]
    nodes += [Node("aten.mul.Scalar", (X, Value("s60")), ("y",))]
    network = Network(replace(one("aten.relu.default", X), nodes=tuple(nodes), tensors={}))
    with pytest.raises(ModelError, match="64 bits"):
        network({}, (torch.ones(1, 4),))
    power = Node("_operator.pow", (10, 10**9), ("s",))
    network = Network(
        replace(one("aten.relu.default", X), nodes=(power, replace(nodes[-1], args=(X, Value("s")))), tensors={})
    )
    with pytest.raises(ModelError, match="64 bits"):
        network({}, (torch.ones(1, 4),))


def test_scaled_dropout_drops_so_much() -> None:
    graph = one("aten.dropout.default", X, 0.8, True)
    x = torch.ones(1, 100_000)
    torch.manual_seed(0)
    for factor in (1.0, 0.5, 0.0):
        network = Network(scaled_dropout(graph, lambda _, factor=factor: factor))  # type: ignore[misc]
        kept = outputs_of(network({"weight": x}, (x,), training=True))[0]
        assert (kept == 0).double().mean() == pytest.approx(0.8 * factor, abs=0.01)


def test_new_tensors_lie_where_the_inputs_do() -> None:
    ones = Node("aten.ones.default", ((4,),), ("o",))
    graph = replace(one("aten.add.Tensor", X, Value("o")), tensors={})
    graph = replace(graph, nodes=(ones, *graph.nodes))
    assert outputs_of(Network(graph)({}, (torch.zeros(2, 4, device="meta"),)))[0].is_meta
