"""Reads PyTorch checkpoints of state dicts (`.pt .pth .bin .th`), in zip and in legacy containers.

They are pickles, read by `torch.load(weights_only=True)`: tensors and plain containers, and no calls.
"""

from __future__ import annotations

import argparse
import pickle  # for the exception's type; nothing is unpickled here
import pickletools
import re
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezer.errors import Code, ModelError

try:
    import torch
except ImportError as error:
    raise ModelError(
        Code.MISSING_DEPENDENCY,
        "Reading a PyTorch checkpoint needs PyTorch. Run pip install 'squeezer[torch]', or give a .safetensors file.",
    ) from error

from squeezer.formats.state_dict import choose_state_dict
from squeezer.formats.zipped import Archive, check_expansion
from squeezer.model import DTYPES, Dropped, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

_DTYPES: dict[torch.dtype, np.dtype[np.generic]] = {
    torch.float64: DTYPES["F64"],
    torch.float32: DTYPES["F32"],
    torch.float16: DTYPES["F16"],
    torch.bfloat16: DTYPES["BF16"],
    torch.float8_e4m3fn: DTYPES["F8_E4M3"],
    torch.float8_e5m2: DTYPES["F8_E5M2"],
    torch.int64: DTYPES["I64"],
    torch.int32: DTYPES["I32"],
    torch.int16: DTYPES["I16"],
    torch.int8: DTYPES["I8"],
    torch.uint64: DTYPES["U64"],
    torch.uint32: DTYPES["U32"],
    torch.uint16: DTYPES["U16"],
    torch.uint8: DTYPES["U8"],
    torch.bool: DTYPES["BOOL"],
    torch.complex64: DTYPES["C64"],
}
#: The pickle holds structure alone, some 100 bytes a tensor; its objects are many times larger.
_MAX_PICKLE_BYTES = 256 << 20
_SAVE_STATE_DICT = "Save the weights alone: torch.save(model.state_dict(), 'weights.pt')"
_RESAVE = (
    "On your own machine, if you trust the file: "
    "torch.save(torch.load('model.pt', weights_only=False)['state_dict'], 'weights.pt'), "
    "with the key that holds the weights"
)


class PytorchModel:
    """An opened checkpoint. Tensors of a zip container stay in the (mapped) file until they are read.

    Raises:
        ModelError: UNSAFE_PICKLE, INVALID_CHECKPOINT, TRUNCATED_FILE, INVALID_ARCHIVE, ARCHIVE_TOO_LARGE,
            UNSUPPORTED_DTYPE, NO_TENSORS or OUT_OF_MEMORY.
    """

    format = "pytorch"
    graph = None  # weights alone

    def __init__(self, path: Path, *, zipped: bool) -> None:
        self.input_bytes = path.stat().st_size
        record_sizes = _check_container(path) if zipped else None
        choice = choose_state_dict(_load(path, mapped=zipped))
        self.dropped: list[Dropped] = choice.dropped
        self.aliases = _find_aliases(choice.tensors)
        self._tensors = {name: tensor for name, tensor in choice.tensors.items() if name not in self.aliases}
        self.tensors = [_describe(name, tensor, record_sizes) for name, tensor in self._tensors.items()]
        self.files: dict[str, int] = {}
        check_expansion(sum(info.nbytes for info in self.tensors), self.input_bytes)

    def read(self, name: str) -> NDArray[np.generic]:
        """A contiguous copy of the tensor of that stored name."""
        tensor = self._tensors[name]
        copy = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        raw = copy.reshape(-1).view(torch.uint8).numpy()
        return raw.view(_DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))

    def read_file(self, path: str) -> bytes:
        """A checkpoint has no other files with it."""
        raise KeyError(path)

    def close(self) -> None:
        """Let go of the tensors, and so of the mapped file."""
        self._tensors.clear()


def _check_container(path: Path) -> set[int]:
    """Check a zip container before torch sees it; the sizes of its records."""
    with Archive(path) as archive:
        for name, info in archive.members.items():
            if not archive.is_stored(name):
                raise ModelError(
                    Code.INVALID_CHECKPOINT,
                    f"The record {name!r} is compressed, which torch.save never does. {_SAVE_STATE_DICT}.",
                )
            if name.endswith("data.pkl") and info.file_size > _MAX_PICKLE_BYTES:
                raise ModelError(
                    Code.ARCHIVE_TOO_LARGE, f"The checkpoint's structure is too large. {_SAVE_STATE_DICT}."
                )
        return {info.file_size for info in archive.members.values()}


def _load(path: Path, *, mapped: bool) -> Any:
    """What the checkpoint holds; its code is never run.

    Of classes outside PyTorch only `argparse.Namespace` is allowed, a bag of attributes in which many
    training scripts keep their arguments.
    """
    with (
        warnings.catch_warnings(),
        torch.serialization.safe_globals([argparse.Namespace]),
        _named_plainly(path) as plain,
    ):
        warnings.simplefilter("ignore")  # about deprecated storages, which the user cannot change
        try:
            return torch.load(plain, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # a damaged pickle can raise anything from within torch
            if not mapped and _is_cut_off(path):
                raise _cut_off() from error
            raise _translate(error) from error


@contextmanager
def _named_plainly(path: Path) -> Iterator[Path]:
    """The file by another name where `torch.load` would take it for what its name says."""
    if path.suffix != ".safetensors":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="squeezer-") as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(path.resolve())
        yield link


def _is_cut_off(path: Path) -> bool:
    """Whether a legacy container ends within its pickles (magic number, version, system, document, storage keys).

    Asked once torch has failed, which might have blamed half a name. `genops` runs nothing.
    """
    with path.open("rb") as file:
        try:
            for _ in range(5):
                for _ in pickletools.genops(file):
                    pass
        except ValueError:
            return not file.read(1)
    return False


def _cut_off() -> ModelError:
    return ModelError(Code.TRUNCATED_FILE, "The checkpoint ends too early; upload it again.")


def _translate(error: Exception) -> ModelError:
    text = str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return ModelError(Code.OUT_OF_MEMORY, "The checkpoint needs more memory than there is, or is damaged.")
    if isinstance(error, EOFError) or "unexpected EOF" in text:
        return _cut_off()
    if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" in text:
        return ModelError(
            Code.INVALID_CHECKPOINT,
            f"The checkpoint is damaged, or was saved with an unusual pickle_protocol. {_SAVE_STATE_DICT}.",
        )
    if isinstance(error, pickle.UnpicklingError):
        return _unsafe(text)
    return ModelError(
        Code.INVALID_CHECKPOINT,
        f"The checkpoint is damaged: {text[:200] or type(error).__name__}. {_SAVE_STATE_DICT}.",
    )


def _unsafe(text: str) -> ModelError:
    """The refusal of a pickle that wants something called; names what it wants where torch says so."""
    found = re.search(r"GLOBAL (\S+)", text)
    name = found[1][:100] if found else "code"
    if name.startswith("numpy."):
        return ModelError(Code.UNSAFE_PICKLE, f"The checkpoint holds a NumPy object ({name}), no tensor. {_RESAVE}.")
    why = f"The checkpoint asks for {name}, which is no tensor and could run code, so nothing was loaded."
    return ModelError(Code.UNSAFE_PICKLE, f"{why} {_SAVE_STATE_DICT}.")


def _find_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names of tied tensors (same storage, offset, shape, strides and type), each with the first name."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        if not _is_plain(tensor) or tensor.numel() == 0:
            continue
        view = (
            tensor.data_ptr(),
            tensor.untyped_storage().data_ptr(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
        )
        stored = first.setdefault((*view, tensor.is_conj(), tensor.is_neg()), name)
        if stored != name:
            aliases[name] = stored
    return aliases


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor is a strided view of bytes in memory."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
    )


def _describe(name: str, tensor: torch.Tensor, record_sizes: set[int] | None) -> TensorInfo:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ModelError(Code.INVALID_CHECKPOINT, f"The name {name!r} is not Unicode; rename the tensor.") from error
    if not _is_plain(tensor) or tensor.dtype not in _DTYPES:
        kind = "meta (without values)" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}".replace("torch.", "")
        raise ModelError(
            Code.UNSUPPORTED_DTYPE,
            f"Tensor {name!r} is {kind}, which Squeezer cannot store. "
            f"It takes dense tensors of {', '.join(DTYPES)}; convert the tensor.",
        )
    size = tensor.untyped_storage().nbytes()
    if record_sizes is not None and size and size not in record_sizes:
        # torch would show a part of the record, or bytes of the next one, instead of the tensor
        raise ModelError(
            Code.INVALID_CHECKPOINT,
            f"The size of tensor {name!r} is not that of its record. {_SAVE_STATE_DICT}.",
        )
    return TensorInfo(name, tuple(tensor.shape), _DTYPES[tensor.dtype])
