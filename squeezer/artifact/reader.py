"""Reading a `.sqz` file: everything is checked before it is believed, and tensors are decoded one by one."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from squeezer.artifact.layout import (
    CHECK_BYTES,
    GRAPH_SECTION,
    HEAD,
    MAGIC,
    TRAILER_BYTES,
    Entry,
    Index,
    Span,
    ledger_of,
)
from squeezer.artifact.sources import TAIL_BYTES, as_source
from squeezer.artifact.tensor import Decoding, decode_tensor, decode_weights
from squeezer.codecs import ByteReader, Category, CorruptStreamError
from squeezer.errors import ArtifactError, Code, ModelError
from squeezer.graph.encoding import from_bytes
from squeezer.model import TensorInfo

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from squeezer.artifact.sources import Source
    from squeezer.graph import Graph
    from squeezer.representations import Representation

    Origin = str | os.PathLike[str] | bytes | bytearray | memoryview | Source
    Decode = Callable[[ByteReader, Entry], Decoding["_T"]]

_T = TypeVar("_T")
_GRAPH = "graph"
#: How much larger than the file its tensors may be, and how large in any case, unless a caller says otherwise.
_MOST_EXPANSION = 1 << 10
_ALWAYS_ALLOWED = 1 << 30
#: Deflated data is at most so many times smaller.
_MOST_DEFLATION = 1032


class Artifact(Mapping[str, "NDArray[Any]"]):
    """An opened `.sqz` file: a mapping from names to tensors, each decoded when it is asked for.

    Tied tensors appear under each of their names. The source is kept open; close it, or use `with`.
    """

    def __init__(self, origin: Origin, *, max_bytes: int | None = None) -> None:
        """Open a file and check its index.

        Args:
            origin: a path, the file's bytes, or an http(s) URL.
            max_bytes: how large all tensors together may be when decoded. By default 1 GiB, or 1024 times the file's
                size where that is more.

        Raises:
            SqueezerError: where it is not a `.sqz` file, comes from a later version, is damaged or too large, or where
                a server does not send it.
            FileNotFoundError: where there is none.
        """
        self._source = as_source(origin)
        try:
            self._size = self._source.size
            self._tally: Counter[str] = Counter()
            self._index = self._read_index()
            self._entries = {entry.name: entry for entry in self._index.entries}
            self._aliases = dict(self._index.aliases)
            self._files = {entry.path: entry for entry in self._index.files}
            self._check_index(max(_MOST_EXPANSION * self._size, _ALWAYS_ALLOWED) if max_bytes is None else max_bytes)
        except BaseException:
            self.close()
            raise

    # -- what is inside ------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The whole file's size in bytes."""
        return self._size

    @property
    def names(self) -> list[str]:
        """Names of the stored tensors, in the file's order, without aliases."""
        return list(self._entries)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all stored tensors when decoded."""
        return sum(entry.nbytes for entry in self._entries.values())

    @property
    def aliases(self) -> dict[str, str]:
        """Further names of stored tensors: alias to stored name."""
        return dict(self._aliases)

    @property
    def files(self) -> dict[str, int]:
        """Files that came with the model: relative path to size."""
        return {path: entry.size for path, entry in self._files.items()}

    def info(self, name: str) -> TensorInfo:
        """Name, shape and type of a tensor."""
        entry = self._entry(name)
        return TensorInfo(name, entry.shape, entry.dtype)

    def entry(self, name: str) -> Entry:
        """What the index says of a tensor: its representation, its length in the file..."""
        return self._entry(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from self._aliases

    def __len__(self) -> int:
        return len(self._entries) + len(self._aliases)

    # -- decoding ------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The tensor of that name: a fresh, writable array.

        Raises:
            ArtifactError: where its bytes are damaged.
        """
        return self._decode(self._entry(name), decode_weights)[0]

    def representation(self, name: str) -> Representation:
        """What is stored for a tensor."""
        return self._decode(self._entry(name), decode_tensor)[0]

    def weights(self, threads: int = 1) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and decoded tensor of all that are stored, in the file's order, several decoded at a time."""
        for entry, tensor, _ in self._decode_all(decode_weights, threads, self.tensor_bytes):
            yield entry.name, tensor

    def representations(self, threads: int = 1) -> Iterator[tuple[str, Representation, dict[str, int]]]:
        """What is stored for each tensor, in the file's order, with the ledger of its bytes.

        Tensors that are decoded at the same time are together no larger than the largest, as long as each one is
        dropped before the next one is asked for.
        """
        largest = max((entry.nbytes for entry in self._entries.values()), default=0)
        for entry, tensor, tally in self._decode_all(decode_tensor, threads, largest):
            yield entry.name, tensor, dict(tally)
            del tensor

    def read_file(self, path: str) -> bytes:
        """The content of one of `files`."""
        entry = self._files[path]
        where = f"file {path!r}"
        if entry.size > _MOST_DEFLATION * entry.length:
            raise ArtifactError("its size is not the one announced", where)
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(self._checked(where, entry), entry.size + 1)
        except zlib.error as error:
            raise ArtifactError(str(error), where) from None
        if len(content) != entry.size or not unpacker.eof or unpacker.unused_data:
            raise ArtifactError("its size is not the one announced", where)
        return content

    def graph(self) -> Graph | None:
        """The network that the tensors belong to, where the file carries it; read and checked now.

        Raises:
            ArtifactError: it is damaged, has operators that this version does not run, or belongs to other tensors.
        """
        found = [section for section in self._index.sections if section.number == GRAPH_SECTION]
        if not found:
            return None
        if len(found) > 1:
            raise ArtifactError("there are several", _GRAPH)
        try:
            graph = from_bytes(self._checked(_GRAPH, found[0]))
        except ModelError as error:
            raise ArtifactError(error.detail, _GRAPH, error.code) from None
        if missing := sorted(set(graph.tensors.values()) - self._entries.keys()):
            raise ArtifactError(f"the file has no tensor {missing[0]!r}", _GRAPH)
        return graph

    def check_head(self) -> None:
        """Check the first bytes, which opening has not looked at.

        Raises:
            ArtifactError: where they are damaged.
        """
        self._check_head(self._source.read(0, len(HEAD)))

    def check_sections(self) -> None:
        """Check the graph, and what a later version has added, which this one passes over.

        Raises:
            ArtifactError: where it is damaged.
        """
        for section in self._index.sections:
            if section.number != GRAPH_SECTION:
                self._checked(f"section {section.number}", section)
        self.graph()

    def ledger(self, tensors: Mapping[str, int] | None = None) -> dict[str, int]:
        """Bytes by category, which sum to the file's size.

        Args:
            tensors: the sum of the ledgers of all `representations`; found by decoding them, where it is not given.
        """
        tally = Counter(self._tally)
        if tensors is None:
            for _, _, decoded in self.representations():
                tally.update(decoded)
        else:
            tally.update(tensors)
        tally[Category.FILES] += sum(file.length for file in self._index.files)
        for section in self._index.sections:
            tally[Category.GRAPH if section.number == GRAPH_SECTION else Category.FILES] += section.length
        return ledger_of(tally)

    def close(self) -> None:
        """Release the source."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- decoding, in detail ---------------------------------------------------------------------------------

    def _entry(self, name: str) -> Entry:
        return self._entries[self._aliases.get(name, name)]

    def _decode(self, entry: Entry, decode: Decode[_T]) -> tuple[_T, Counter[str]]:
        decoding = self._prepare(entry, decode)
        return self._collect(entry, decoding, (task() for task in decoding.tasks))

    def _decode_all(self, decode: Decode[_T], threads: int, budget: int) -> Iterator[tuple[Entry, _T, Counter[str]]]:
        """Decode all tensors, their chunks side by side; those under way are together no larger than the budget.

        Only this thread waits, and tasks never do: so one pool serves tensors and chunks alike.
        """
        if threads == 1:
            for entry in self._entries.values():
                yield entry, *self._decode(entry, decode)
            return
        waiting: deque[tuple[Entry, Decoding[_T], list[Future[Counter[str]]]]] = deque()
        unfinished: set[Future[Counter[str]]] = set()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for entry in self._entries.values():
                    while waiting and entry.nbytes + sum(item[0].nbytes for item in waiting) > budget:
                        yield self._finish(*waiting.popleft())
                    # Payloads that are read long before a thread is free would fill the memory.
                    while len(unfinished) > 2 * threads:
                        unfinished = wait(unfinished, return_when=FIRST_COMPLETED).not_done
                    decoding = self._prepare(entry, decode)
                    futures = [pool.submit(task) for task in decoding.tasks]
                    unfinished.update(futures)
                    waiting.append((entry, decoding, futures))
                    while waiting and all(future.done() for future in waiting[0][2]):
                        yield self._finish(*waiting.popleft())
                while waiting:
                    yield self._finish(*waiting.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _finish(
        self, entry: Entry, decoding: Decoding[_T], futures: list[Future[Counter[str]]]
    ) -> tuple[Entry, _T, Counter[str]]:
        return entry, *self._collect(entry, decoding, (future.result() for future in futures))

    def _prepare(self, entry: Entry, decode: Decode[_T]) -> Decoding[_T]:
        """What is to be done for a tensor. The first task checks its bytes, while others decode them already."""
        where = f"tensor {entry.name!r}"
        data = self._read(where, entry)

        def check() -> Counter[str]:
            _check(where, data, entry)
            return Counter()

        try:
            decoding = decode(ByteReader(data), entry)
            return replace(decoding, tasks=[check, *decoding.tasks])
        except CorruptStreamError as error:
            check()
            raise ArtifactError(str(error), where) from None
        except MemoryError:
            raise ArtifactError(f"its shape {entry.shape} does not fit into memory", where) from None

    def _collect(self, entry: Entry, decoding: Decoding[_T], done: Iterable[Counter[str]]) -> tuple[_T, Counter[str]]:
        """What tasks have decoded, and the ledger of the whole payload."""
        try:
            tally = sum(done, decoding.tally)
            return decoding.result(), tally
        except CorruptStreamError as error:
            raise ArtifactError(str(error), f"tensor {entry.name!r}") from None
        except MemoryError:
            raise ArtifactError(f"its shape {entry.shape} does not fit into memory", f"tensor {entry.name!r}") from None

    # -- bytes ---------------------------------------------------------------------------------------------

    def _checked(self, where: str, span: Span) -> bytes | memoryview:
        data = self._read(where, span)
        _check(where, data, span)
        return data

    def _read(self, where: str, span: Span) -> bytes | memoryview:
        data = self._source.read(span.offset, span.length)
        if len(data) != span.length:
            raise ArtifactError("the file is truncated", where)
        return data

    def _read_index(self) -> Index:
        tail = self._source.read(max(0, self._size - TAIL_BYTES), min(self._size, TAIL_BYTES))
        trailer = bytes(tail[-TRAILER_BYTES:])
        length = int.from_bytes(trailer[:4], "little")
        start = self._size - TRAILER_BYTES - length
        if self._size < len(HEAD) + TRAILER_BYTES or start < len(HEAD):
            raise self._not_whole()
        at = start - (self._size - len(tail))
        index = bytes(tail[at:-TRAILER_BYTES]) if at >= 0 else bytes(self._source.read(start, length))
        if zlib.crc32(HEAD + index + trailer[:4]) != int.from_bytes(trailer[4:], "little"):
            raise self._not_whole()
        data = ByteReader(index, self._tally)
        try:
            read = Index.read(data, len(HEAD), start)
        except CorruptStreamError as error:
            raise ArtifactError(str(error), "index") from None
        if len(HEAD) + sum(span.length for span in read.spans) != start:
            raise ArtifactError("its lengths do not add up to the file's size", "index")
        self._tally[Category.HEADER] += len(HEAD) + TRAILER_BYTES - CHECK_BYTES
        self._tally[Category.CHECKS] += CHECK_BYTES
        return read

    def _not_whole(self) -> ArtifactError:
        """Why a file has no index that its check fits: the head, which is read only now, may tell."""
        self._check_head(self._source.read(0, min(self._size, len(HEAD))))
        return ArtifactError("its checksum does not match; the file is truncated or damaged, fetch it again", "index")

    def _check_head(self, head: bytes | memoryview) -> None:
        if head[: len(MAGIC)] != MAGIC:
            raise ArtifactError("this is not a .sqz file", "magic", Code.NOT_AN_ARTIFACT)
        if len(head) < len(HEAD):
            raise ArtifactError("the file is truncated; fetch it again", "version")
        if head[-1] > HEAD[-1]:
            raise ArtifactError(
                f"format {head[-1]} where this version reads format {HEAD[-1]}; upgrade squeezer",
                "version",
                Code.NEWER_ARTIFACT,
            )
        if head != HEAD:
            raise ArtifactError("the file is damaged; fetch it again", "version")

    def _check_index(self, max_bytes: int) -> None:
        names = [entry.name for entry in self._index.entries] + [name for name, _ in self._index.aliases]
        if len(set(names)) != len(names):
            raise ArtifactError("two tensors have the same name", "index")
        if len(self._files) != len(self._index.files):
            raise ArtifactError("two files have the same name", "index")
        required = [section.number for section in self._index.sections if section.required]
        if required:
            raise ArtifactError(
                f"this version does not know section {required[0]}; upgrade squeezer", "index", Code.NEWER_ARTIFACT
            )
        if self.tensor_bytes > max_bytes:
            raise ArtifactError(
                f"its tensors take {self.tensor_bytes} bytes, and {max_bytes} are allowed; "
                f"if you trust the file, open it with max_bytes={self.tensor_bytes} (--max-bytes {self.tensor_bytes})",
                "index",
                Code.ARTIFACT_TOO_LARGE,
            )


def _check(where: str, data: bytes | memoryview, span: Span) -> None:
    if zlib.crc32(data) != span.check:
        raise ArtifactError("its checksum does not match; the file is damaged, fetch it again", where)
