"""From a module to a file that Squeezer takes, and from a `.sqz` file to a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import squeezer
from squeezer.artifact import ArtifactWriter
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import ArtifactError, Code, ModelError
from squeezer.formats import open_model
from squeezer.graph import Input, Value
from squeezer.graph.encoding import to_bytes
from squeezer.representations import Dense
from squeezer.torch import graph_of, load_module
from tests.graph.networks import one
from tests.training.networks import Convolutions, Tied, Transformer, examples, outputs_of


def artifact_of(pt2: Path, out: Path, *, graph: bool = True) -> Path:
    """The file of a model, with its tensors as they are."""
    model = open_model(pt2)
    assert model.graph is not None
    with ArtifactWriter(out) as writer:
        for info in model.tensors:
            tensor = Dense(model.read(info.name), info.dtype)
            writer.add(info.name, tensor, encode_tensor(tensor))
        for alias, name in model.aliases.items():
            writer.add_alias(alias, name)
        if graph:
            writer.add_graph(to_bytes(model.graph))
    model.close()
    return out


@pytest.mark.parametrize("kind", ["convolutions", "lstm", "transformer", "tied"])
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    module, x = examples()[kind]
    path = squeezer.export(module.train(), x, tmp_path / "m.pt2")
    assert path == tmp_path / "m.pt2"
    assert module.training
    loaded = load_module(artifact_of(path, tmp_path / "m.sqz"))
    assert not loaded.training
    batch = torch.cat([x, x])
    assert all(map(torch.equal, outputs_of(loaded(batch)), outputs_of(module.eval()(batch))))
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_what_is_loaded_can_be_trained(tmp_path: Path) -> None:
    module, x = examples()["tied"]
    loaded = load_module(artifact_of(squeezer.export(module, x, tmp_path / "m.pt2"), tmp_path / "m.sqz"))
    assert loaded.get_parameter("out.weight") is loaded.get_parameter("embedding.weight")
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in module.named_parameters()}
    assert {name for name, _ in loaded.named_buffers()} == {"shift", "lifted_tensor_0"}
    loaded.train()(x).sum().backward()
    assert loaded.get_parameter("graph.weight").grad is not None


@pytest.mark.parametrize("alias", ["forward", "a." * 300 + "b", "__deepcopy__", "weight.more"])
def test_names_that_no_module_can_have(tmp_path: Path, alias: str) -> None:
    """Those of the graph are checked with it; there are others in a file."""
    weight = Dense(np.ones((2, 4), np.float32), np.dtype(np.float32))
    with ArtifactWriter(tmp_path / "m.sqz") as writer:
        writer.add("weight", weight, encode_tensor(weight))
        writer.add_alias(alias, "weight")
        writer.add_graph(to_bytes(one("aten.linear.default", Value("x"), Value("w"))))
    with pytest.raises(ArtifactError) as caught:
        load_module(tmp_path / "m.sqz")
    assert caught.value.code is Code.INVALID_GRAPH


def test_it_needs_nothing_but_the_file(tmp_path: Path) -> None:
    """Neither the code of whoever made the network, nor what can load their programs."""
    module, x = examples()["convolutions"]
    artifact_of(squeezer.export(module, x, tmp_path / "m.pt2"), tmp_path / "m.sqz")
    torch.save((x, module.eval()(x)), tmp_path / "xy.pt")
    program = (
        "import sys, torch, squeezer\n"
        f"x, y = torch.load({str(tmp_path / 'xy.pt')!r})\n"
        f"assert torch.equal(squeezer.torch.load_module({str(tmp_path / 'm.sqz')!r})(x), y)\n"
        "assert not {'torch._export.serde.serialize', 'tests'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_file_of_tensors_alone_has_no_module(tmp_path: Path) -> None:
    module, x = examples()["rnn"]
    path = artifact_of(squeezer.export(module, x, tmp_path / "m.pt2"), tmp_path / "m.sqz", graph=False)
    with pytest.raises(ArtifactError, match=r"squeezer\.load") as caught:
        load_module(path)
    assert caught.value.code is Code.NO_GRAPH


# -- exporting ---------------------------------------------------------------------------------------------


def test_the_export_says_all_that_training_needs(tmp_path: Path) -> None:
    """Dropout within attention and counters are in the graph, even where the module was in evaluation mode."""
    graph, _ = graph_of(Transformer().eval(), torch.zeros(2, 5, dtype=torch.int64))
    attention = [node for node in graph.nodes if "scaled_dot_product" in node.target]
    assert [0.1 in node.args or 0.1 in node.kwargs.values() for node in attention] == [True, True]
    module = Convolutions().eval()
    module.features[0].train()
    graph, tensors = graph_of(module, torch.zeros(2, 1, 9, 9))
    assert "aten.add_.Tensor" in [node.target for node in graph.nodes]
    assert module.features[0].training  # every part has its mode back
    assert not module.training
    state = module.state_dict()
    assert tensors.keys() == state.keys()
    assert all(np.array_equal(tensors[name], state[name]) for name in state)


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor, y: Any = None, *, mask: torch.Tensor, scale: float = 1.0) -> Any:
        return ((self.a(x) + self.b(y["q"])) * mask[:, None] * scale,)


class Starred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = sum(self.a(x) for x in inputs)  # type: ignore[assignment]
        return result


def test_several_inputs_by_place_and_by_name(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 3), {"q": torch.randn(1, 5)})  # a batch of one is made one of two
    graph, _ = graph_of(Keywords(), inputs, kwargs={"scale": 3.0, "mask": torch.ones(1)})
    assert graph.inputs == (
        Input("x", (None, 3), "F32"),
        Input("y_q", (None, 5), "F32"),
        Input("mask", (None,), "F32"),
    )
    assert not graph.single
    graph, _ = graph_of(Starred(), (torch.randn(2, 3), torch.randn(2, 3)))
    assert [given.shape for given in graph.inputs] == [(None, 3), (None, 3)]


class OtherInTraining(nn.Module):
    """Two outputs in training, and random depth: what torch.export sees depends on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.dropout = nn.Linear(3, 3), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.dropout(self.a(x))
        return (y * torch.bernoulli(torch.full((len(x), 1), 0.5)), y) if self.training else y


def test_a_module_that_is_another_one_in_training() -> None:
    graph, _ = graph_of(OtherInTraining().train(), torch.randn(2, 3))
    assert [node.target for node in graph.nodes] == ["aten.linear.default", "aten.dropout.default"]
    assert graph.single


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(4, 6).sum(1)


class Restless(nn.Module):
    """Something else in each call."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Chance(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(3)


class WithWeight(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.gain = inner, nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x * self.gain)


@pytest.mark.parametrize(
    ("module", "match", "code"),
    [
        (Fixed(), "one size of batch.*shape", Code.EXPORT_FAILED),
        (Restless(), "something else", Code.EXPORT_FAILED),
        (Branching(), "cannot trace", Code.EXPORT_FAILED),
        (Chance(), r"aten\.randn\.default", Code.UNSUPPORTED_OPERATOR),
    ],
)
def test_what_cannot_be_exported_is_said(tmp_path: Path, module: nn.Module, match: str, code: Code) -> None:
    with pytest.raises(ModelError, match=f"(?s){match}") as caught:
        squeezer.export(
            WithWeight(module),
            torch.randn(4, 6) if isinstance(module, Fixed) else torch.randn(4, 3),
            tmp_path / "m.pt2",
        )
    assert caught.value.code is code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inputs", [(), (3,), torch.tensor(1.0), torch.zeros(0, 3)])
def test_examples_that_are_none(tmp_path: Path, inputs: Any) -> None:
    with pytest.raises(ModelError, match="first dimension is the batch"):
        squeezer.export(nn.Linear(3, 2), inputs, tmp_path / "m.pt2")


def test_the_file_tells_nothing_of_its_maker(tmp_path: Path) -> None:
    path = squeezer.export(Tied(), torch.full((2, 5), 7), tmp_path / "m.pt2")
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parent).encode() not in content
    assert torch.full((2, 5), 7).numpy().tobytes() not in content


def test_the_file_is_one_that_pytorch_takes(tmp_path: Path) -> None:
    module, x = examples()["lstm"]
    program = torch.export.load(squeezer.export(module, x, tmp_path / "m.pt2"))
    torch.testing.assert_close(program.module()(x).shape, module(x).shape)
