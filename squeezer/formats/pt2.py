"""Reads exported programs (.pt2, from `torch.export.save`) without PyTorch: a zip of JSON and raw records.

What `torch.export.load` would run is not even opened: pickled example inputs, pickled weights, expressions, guards.
The graph may have known operators alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from squeezer.errors import Code, ModelError
from squeezer.formats.pt2_graph import parse
from squeezer.formats.pt2_json import malformed
from squeezer.formats.pt2_weights import Stored, read, read_config, read_json
from squeezer.formats.zipped import Archive, check_expansion
from squeezer.model import Dropped

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from squeezer.graph import Graph

_MODEL = re.compile(r"(?P<root>(?:[^/]+/)?)models/(?P<name>[^/]+)\.json")
_OURS = re.compile(r"models/|data/weights/|data/constants/|archive_format$|archive_version$|byteorder$|\.data/")
_EXAMPLES = "data/sample_inputs/"
_OLD = "It was saved by an older PyTorch. Export it with PyTorch 2.9 or a later one"


class Pt2Model:
    """An opened exported program: its tensors, by the names of its state dict, and its graph.

    Constants and buffers that a state dict leaves out come along as tensors; the network needs them.

    Raises:
        ModelError: INVALID_GRAPH, UNSUPPORTED_OPERATOR, UNSAFE_PICKLE, UNSUPPORTED_DTYPE, NO_TENSORS, or what is wrong
            with the archive.
    """

    format = "pt2"

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)
        try:
            self._open()
        except BaseException:
            self._archive.close()
            raise

    def _open(self) -> None:
        archive = self._archive
        self.input_bytes = archive.size
        self.files: dict[str, int] = {}
        document, root, name = _find(archive)
        everything = _read_tensors(archive, root, name)
        self.aliases = _find_aliases(everything)
        self._stored = {name: stored for name, stored in everything.items() if name not in self.aliases}
        self.tensors = [stored.info for stored in self._stored.values()]
        if not self.tensors:
            raise ModelError(Code.NO_TENSORS, "The exported program has no tensors; there is nothing to compress.")
        check_expansion(sum(info.nbytes for info in self.tensors), self.input_bytes)
        self.dropped = list(_passengers(archive, root))
        self.graph: Graph = parse(read_json(archive, document), self.aliases)
        for stored in self.graph.tensors.values():
            if stored not in self._stored:
                raise malformed(f"the tensor {stored[:100]!r} is missing")

    def read(self, name: str) -> NDArray[Any]:
        """The tensor of that stored name."""
        return read(self._archive, self._stored[name])

    def read_file(self, path: str) -> bytes:
        """An exported program has no other files with it."""
        raise KeyError(path)

    def close(self) -> None:
        """Close the file."""
        self._archive.close()


def _find(archive: Archive) -> tuple[str, str, str]:
    """The member that describes the program, the folder of all members, and the program's name."""
    for name in archive.members:
        if not archive.is_stored(name):
            raise malformed(f"the record {name[:100]!r} is compressed, which torch.export.save never does")
    found = [match for name in archive.members if (match := _MODEL.fullmatch(name))]
    if not found:
        raise ModelError(Code.INVALID_GRAPH, f"There is no program in the .pt2 file. {_OLD}.")
    if len(found) > 1:
        names = ", ".join(sorted(match["name"] for match in found))[:200]
        raise ModelError(
            Code.UNSUPPORTED_FORMAT, f"There are several programs in the file ({names}). Upload one alone."
        )
    root = found[0]["root"]
    order = f"{root}byteorder"
    if order in archive.members and b"".join(archive.blocks(order)).strip() != b"little":
        raise malformed("its numbers are not little-endian")
    return found[0][0], root, found[0]["name"]


def _read_tensors(archive: Archive, root: str, name: str) -> dict[str, Stored]:
    weights = f"{root}data/weights/{name}_weights_config.json"
    constants = f"{root}data/constants/{name}_constants_config.json"
    if weights not in archive.members:
        raise ModelError(
            Code.UNSAFE_PICKLE, f"The weights in the .pt2 file are a pickle, which was not opened. {_OLD}."
        )
    everything = read_config(archive, weights, f"{root}data/weights/")
    if constants in archive.members:
        others = read_config(archive, constants, f"{root}data/constants/")
        if both := everything.keys() & others.keys():
            raise malformed(f"{min(both)[:100]!r} is a weight and a constant")
        everything |= others
    return everything


def _find_aliases(everything: dict[str, Stored]) -> dict[str, str]:
    """Names of tied tensors, each with the first name."""
    first: dict[tuple[Any, ...], str] = {}
    named = {name: first.setdefault(stored.key, name) for name, stored in everything.items() if stored.info.size}
    return {name: source for name, source in named.items() if name != source}


def _passengers(archive: Archive, root: str) -> list[Dropped]:
    """What else is in the archive."""
    names = [name.removeprefix(root) for name in archive.members]
    return [
        Dropped(
            name, "example inputs, a pickle that is never opened" if name.startswith(_EXAMPLES) else "not the network"
        )
        for name in names
        if not _OURS.match(name)
    ]
