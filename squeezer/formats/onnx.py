"""Reads ONNX files, and writes them back with other weights (`docs/IR.md` and `onnx.proto` of github.com/onnx/onnx).

The initialisers of the main graph are the model's tensors; they stay in the file until they are read. What is left
without them, the *skeleton*, travels along as the file `SKELETON`, and tells where each of them belongs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.errors import ArtifactError, Code, ModelError
from squeezer.formats.onnx_model import parse_skeleton
from squeezer.formats.onnx_parts import SKELETON, malformed, take_apart
from squeezer.formats.onnx_tensors import decode_typed, describe
from squeezer.formats.output import whole_file
from squeezer.formats.protobuf import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from squeezer.artifact import Artifact
    from squeezer.formats.onnx_parts import Initializer, Parts
    from squeezer.formats.protobuf import Span
    from squeezer.graph import Graph
    from squeezer.model import Dropped, TensorInfo

#: What a protocol buffer can be long.
MAX_BYTES = (1 << 31) - 1
_MAX_READ = 1 << 30  # Linux reads at most 2 GiB - 4 KiB at once


class OnnxModel:
    """An opened ONNX file.

    Raises:
        ModelError: INVALID_ONNX, TRUNCATED_FILE, UNSUPPORTED_DTYPE, UNSUPPORTED_FORMAT (external data, sparse
            initialisers) or NO_TENSORS.
    """

    format = "onnx"

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        try:
            self.input_bytes = os.fstat(self._fd).st_size
            if self.input_bytes > MAX_BYTES:
                raise malformed("it is larger than 2 GiB, which ONNX does not allow")
            self._parts = _take_apart(self._read, self.input_bytes)
            self._skeleton = self._parts.skeleton()
            parse_skeleton(self._skeleton)
            self._initializers = self._check_initializers()
        except BaseException:
            os.close(self._fd)
            raise
        self.aliases: dict[str, str] = {}
        self.dropped: list[Dropped] = []
        self.files = {SKELETON: len(self._skeleton)}
        self.graph: Graph | None = None  # ONNX's operators are run by ONNX Runtime alone

    def _check_initializers(self) -> dict[str, tuple[TensorInfo, Initializer]]:
        found: dict[str, tuple[TensorInfo, Initializer]] = {}
        for initializer in self._parts.initializers:
            info = describe(initializer)
            if info.name in found:
                raise malformed(f"the initialiser {info.name!r} appears twice")
            found[info.name] = info, initializer
            if initializer.raw is None:
                self._decode(info, initializer)  # how many numbers there are is only seen when they are read
        if not found:
            raise ModelError(
                Code.NO_TENSORS,
                "The ONNX file has no initialisers; there is nothing to compress. Weights in Constant nodes become "
                "initialisers when the model passes through onnxsim or onnxscript.optimizer.",
            )
        return found

    @property
    def tensors(self) -> list[TensorInfo]:
        """All initialisers of the main graph, in the file's order."""
        return [info for info, _ in self._initializers.values()]

    def read(self, name: str) -> NDArray[Any]:
        """The initialiser of that name, read from the file now."""
        return self._decode(*self._initializers[name])

    def read_file(self, path: str) -> bytes:
        """The skeleton."""
        if path != SKELETON:
            raise KeyError(path)
        return self._skeleton

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _decode(self, info: TensorInfo, initializer: Initializer) -> NDArray[Any]:
        if initializer.raw is None:
            return decode_typed(info, b"".join(self._load(field.whole).tobytes() for field in initializer.data))
        flat = self._load(initializer.raw)
        if info.dtype == np.bool_ and flat.max(initial=0) > 1:
            raise malformed(f"the boolean tensor {info.name!r} holds other bytes than 0 and 1")
        return flat.view(info.dtype).reshape(info.shape)

    def _read(self, position: int, size: int) -> bytes:
        return os.pread(self._fd, size, position)

    def _load(self, span: Span) -> NDArray[np.uint8]:
        array = np.empty(span.size, np.uint8)
        rest, position = array.data, span.begin
        while rest:
            count = os.preadv(self._fd, [rest[:_MAX_READ]], position)
            if count == 0:
                raise ModelError(Code.TRUNCATED_FILE, "The file ends in the middle of a tensor; upload it again.")
            rest, position = rest[count:], position + count
        return array


def _take_apart(read: Callable[[int, int], bytes], size: int) -> Parts:
    try:
        return take_apart(read, size)
    except MalformedError as error:
        if error.cut:
            raise ModelError(Code.TRUNCATED_FILE, f"The ONNX file ends too early: {error}. Upload it again.") from error
        raise malformed(str(error)) from error


def assemble(skeleton: bytes, read: Callable[[TensorInfo], NDArray[Any]]) -> Iterator[bytes]:
    """The bytes of an ONNX file, piece by piece: the skeleton, and each initialiser's data in it.

    Args:
        skeleton: what `OnnxModel` gives as the file `SKELETON`.
        read: the array of the tensor that is described.

    Raises:
        ModelError: this is no skeleton, or the file would be too large.
        ValueError: `read` gave another shape or element type.
    """
    parts = _take_apart(lambda position, size: skeleton[position : position + size], len(skeleton))
    infos = [describe(initializer, hollow=True) for initializer in parts.initializers]
    if len(skeleton) + sum(info.nbytes + 32 for info in infos) > MAX_BYTES:
        raise malformed("with its weights it is larger than 2 GiB, which ONNX does not allow")
    yield from parts.filled(infos, read)


def write(artifact: Artifact, out: Path) -> None:
    """Write the artifact of an ONNX model as an ONNX file, atomically, with one tensor in memory at a time.

    Raises:
        ArtifactError: the artifact was not made from an ONNX file, or its skeleton does not fit its tensors.
        OSError: the disk is full, or the folder cannot be written.
    """
    if SKELETON not in artifact.files:
        raise ModelError(
            Code.UNSUPPORTED_FORMAT,
            "The .sqz file was not made from an ONNX model and carries no graph. Write .safetensors instead.",
        )

    def read(info: TensorInfo) -> NDArray[Any]:
        if info.name not in artifact or artifact.info(info.name) != info:
            raise ArtifactError(f"{info.name!r} is not the tensor that it wants", f"file {SKELETON!r}")
        return artifact[info.name]

    skeleton = artifact.read_file(SKELETON)
    try:
        parse_skeleton(skeleton)
        with whole_file(out) as file:
            file.writelines(assemble(skeleton, read))
    except ModelError as error:
        raise ArtifactError(error.detail, f"file {SKELETON!r}") from error
