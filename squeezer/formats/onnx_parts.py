"""The parts of an ONNX file: its initialisers, their data, and everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squeezer.errors import Code, ModelError
from squeezer.formats.protobuf import BYTES, Field, MalformedError, Scanner, Span, prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from squeezer.model import TensorInfo

#: The file of an artifact that holds an ONNX model without its initialisers' data. No other upload brings such a file.
SKELETON = "graph.onnx"
#: A graph without its weights; all of it is in memory at once.
_MAX_SKELETON_BYTES = 64 << 20
# Numbers of fields in `onnx.proto`.
_GRAPH = 7  # of a model
_INITIALIZER, _SPARSE_INITIALIZER = 5, 15  # of a graph
_FLOAT_DATA, _INT32_DATA, STRING_DATA, _INT64_DATA, RAW_DATA, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 6, 7, 9, 10, 11
_DATA = {_FLOAT_DATA, _INT32_DATA, STRING_DATA, _INT64_DATA, RAW_DATA, _DOUBLE_DATA, _UINT64_DATA}


def malformed(detail: str) -> ModelError:
    """The error for a file that contradicts itself."""
    return ModelError(Code.INVALID_ONNX, f"The ONNX file cannot be used: {detail}. Export it again.")


@dataclass(frozen=True)
class Initializer:
    """A weight: what is said of it (a `TensorProto` without data), and the fields in which its data lie."""

    stub: bytes
    data: tuple[Field, ...]

    @property
    def raw(self) -> Span | None:
        """Where its raw bytes lie, or None: it has numbers in a field for their type, or none at all."""
        return self.data[0].content if len(self.data) == 1 and self.data[0].number == RAW_DATA else None


@dataclass(frozen=True)
class Parts:
    """A file taken apart: the model's fields before and after the graph, and the graph's, in their order."""

    before: bytes
    graph: tuple[bytes | Initializer, ...]
    after: bytes

    @property
    def initializers(self) -> list[Initializer]:
        """The weights."""
        return [part for part in self.graph if isinstance(part, Initializer)]

    def skeleton(self) -> bytes:
        """The file without its initialisers' data."""
        graph = b"".join(
            part if isinstance(part, bytes) else prefix(_INITIALIZER, len(part.stub)) + part.stub for part in self.graph
        )
        return self.before + prefix(_GRAPH, len(graph)) + graph + self.after

    def filled(self, infos: Sequence[TensorInfo], read: Callable[[TensorInfo], NDArray[Any]]) -> Iterator[bytes]:
        """The file with these data, as raw bytes. `infos` are those of `initializers`."""
        waiting = iter(infos)
        heads = [part if isinstance(part, bytes) else _head(part, next(waiting)) for part in self.graph]
        size = sum(map(len, heads)) + sum(info.nbytes for info in infos)
        yield self.before + prefix(_GRAPH, size)
        waiting = iter(infos)
        for part, head in zip(self.graph, heads, strict=True):
            yield head
            if isinstance(part, Initializer):
                info = next(waiting)
                array = read(info)
                if array.shape != info.shape or array.dtype != info.dtype:
                    raise ValueError(f"{info.name}: {array.dtype}{array.shape} was read, not {info.dtype}{info.shape}")
                yield array.tobytes()
        yield self.after


def _head(part: Initializer, info: TensorInfo) -> bytes:
    """What stands before the raw bytes of a weight."""
    tensor = part.stub + prefix(RAW_DATA, info.nbytes)
    return prefix(_INITIALIZER, len(tensor) + info.nbytes) + tensor


def take_apart(read: Callable[[int, int], bytes], size: int) -> Parts:
    """The parts of a file of `size` bytes, of which `read(position, size)` gives some. No weight is read.

    Raises:
        MalformedError: it is no ONNX file, or damaged.
        ModelError: it has sparse initialisers.
    """
    scanner, kept = Scanner(read, size), _Kept(read)
    before: list[bytes] = []
    after: list[bytes] = []
    graph: Span | None = None
    for field in scanner.fields(Span(0, size)):
        if field.number != _GRAPH:
            (before if graph is None else after).append(kept.bytes_of(field))
        elif graph is not None or field.kind != BYTES:
            raise MalformedError("it has several graphs")
        else:
            graph = field.content
    if graph is None:
        raise MalformedError("it has no graph")
    parts = tuple(_graph_parts(scanner, kept, graph))
    return Parts(b"".join(before), parts, b"".join(after))


class _Kept:
    """Reads what goes into the skeleton, up to its limit."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._left = _MAX_SKELETON_BYTES

    def bytes_of(self, field: Field) -> bytes:
        """All of a field."""
        self._left -= field.whole.size
        if self._left < 0:
            raise MalformedError(
                f"without its initialisers it is larger than {_MAX_SKELETON_BYTES >> 20} MiB; "
                "weights in Constant nodes should be initialisers"
            )
        return self._read(field.whole.begin, field.whole.size)


def _graph_parts(scanner: Scanner, kept: _Kept, graph: Span) -> Iterator[bytes | Initializer]:
    for field in scanner.fields(graph):
        if field.number == _SPARSE_INITIALIZER:
            raise ModelError(
                Code.UNSUPPORTED_FORMAT, "The ONNX file has sparse initialisers. Make them dense and export it again."
            )
        if field.number != _INITIALIZER:
            yield kept.bytes_of(field)
        elif field.kind != BYTES:
            raise MalformedError("an initialiser is none")
        else:
            inner = list(scanner.fields(field.content))
            stub = b"".join(kept.bytes_of(each) for each in inner if each.number not in _DATA)
            yield Initializer(stub, tuple(each for each in inner if each.number in _DATA))
