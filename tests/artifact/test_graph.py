"""The graph as a section of a `.sqz` file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import squeezer
from squeezer.artifact import Artifact, ArtifactWriter
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import ArtifactError, Code
from squeezer.graph import Graph, Value
from squeezer.graph.canonical import canonical
from squeezer.graph.encoding import to_bytes
from squeezer.representations import Dense
from tests import reference
from tests.fuzz.container import Container, section
from tests.graph.networks import one, perceptron

F32 = np.dtype(np.float32)


def written(path: Path, graph: Graph | None, names: tuple[str, ...] | None = None) -> Path:
    """A file with the tensors of the perceptron, a further name, a file, and perhaps a graph."""
    with ArtifactWriter(path) as writer:
        for i, name in enumerate(names or tuple(perceptron().tensors.values())):
            tensor = Dense(np.full((2, 3), i, np.float32), F32)
            writer.add(name, tensor, encode_tensor(tensor))
        writer.add_alias("tied", "fc1.weight")
        writer.add_file("config.json", b"{}")
        if graph is not None:
            writer.add_graph(to_bytes(graph))
    assert sum(writer.ledger.values()) == path.stat().st_size
    return path


def test_a_graph_comes_back(tmp_path: Path) -> None:
    with Artifact(written(tmp_path / "m.sqz", perceptron())) as artifact:
        assert artifact.graph() == canonical(perceptron())
        assert artifact["tied"][0, 0] == 0
        assert artifact.read_file("config.json") == b"{}"
    squeezer.verify(tmp_path / "m.sqz")


def test_a_file_without_one_is_what_it_was(tmp_path: Path) -> None:
    with Artifact(written(tmp_path / "m.sqz", None)) as artifact:
        assert artifact.graph() is None
        assert "graph" not in artifact.ledger()
    reference.decode((tmp_path / "m.sqz").read_bytes())


def test_its_bytes_are_in_the_ledger_and_nothing_else_changes(tmp_path: Path) -> None:
    ledgers = []
    for graph in (None, perceptron()):
        path = written(tmp_path / "m.sqz", graph)
        with Artifact(path) as artifact:
            ledgers.append(artifact.ledger())
        assert {name: size for name, size in ledgers[-1].items() if size} == +reference.decode(path.read_bytes())[2]
    without, with_graph = ledgers
    assert with_graph.pop("graph") == len(to_bytes(perceptron()))
    grown = {name for name in without if without[name] != with_graph[name]}
    assert grown == {"header", "checks"}  # the table's two numbers, and one more check
    assert with_graph["checks"] == without["checks"] + 4
    assert with_graph["header"] <= without["header"] + 4


def test_the_graph_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "m.sqz", perceptron())
    data = path.read_bytes()
    at = data.index(to_bytes(perceptron()))
    damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    assert squeezer.load(damaged)["fc1.bias"][0, 0] == 1
    with Artifact(damaged) as artifact, pytest.raises(ArtifactError, match="graph: its checksum"):
        artifact.graph()
    with pytest.raises(ArtifactError, match="graph: its checksum"):
        squeezer.verify(damaged)


def test_a_graph_of_other_tensors_is_refused(tmp_path: Path) -> None:
    names = ("fc1.weight", "else")
    path = written(tmp_path / "m.sqz", perceptron(), names)
    with pytest.raises(ArtifactError, match=r"no tensor 'bn\.bias'"):
        squeezer.verify(path)


def test_a_graph_may_not_name_an_alias(tmp_path: Path) -> None:
    graph = replace(one("aten.relu.default", Value("w")), tensors={"w": "tied"})
    with pytest.raises(ArtifactError, match="no tensor 'tied'"):
        squeezer.verify(written(tmp_path / "m.sqz", graph))


def test_an_operator_of_a_later_version_is_named(tmp_path: Path) -> None:
    data = written(tmp_path / "m.sqz", one("aten.foo.default"), ("weight", "fc1.weight")).read_bytes()
    assert set(squeezer.load(data)) == {"weight", "fc1.weight", "tied"}  # the tensors are still readable
    with pytest.raises(ArtifactError, match=r"aten\.foo\.default") as caught:
        squeezer.verify(data)
    assert caught.value.code is Code.UNSUPPORTED_OPERATOR


def test_several_graphs_are_refused(tmp_path: Path) -> None:
    container = Container.of(written(tmp_path / "m.sqz", perceptron()).read_bytes())
    container.items.append(section(2 * 1, to_bytes(perceptron())))
    container.fit()
    with pytest.raises(ArtifactError, match="several"):
        squeezer.verify(container.pack())
