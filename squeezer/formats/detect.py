"""Tells a file's format by its content."""

from __future__ import annotations

import re
import struct
from enum import StrEnum
from typing import TYPE_CHECKING

from squeezer.errors import Code, ModelError

if TYPE_CHECKING:
    from pathlib import Path

#: The longest safetensors header that is read; the limit of the reference implementation.
MAX_HEADER_BYTES = 100_000_000
#: How much of a file's beginning `identify` wants to see.
HEAD_BYTES = 512

TAKEN = (
    "Upload a .safetensors file, a PyTorch checkpoint of a state dict (.pt, .pth, .bin), an exported program (.pt2), "
    "an ONNX model, or a Hugging Face folder as a .zip"
)

_LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # torch.serialization.MAGIC_NUMBER, pickled

#: Beginnings of files that people upload by mistake: (bytes, offset, what it is, what to do).
_FOREIGN: tuple[tuple[bytes, int, str, str], ...] = (
    (b"SQZ", 0, "a .sqz file, which Squeezer has made", "Read it with `squeezer decompress`"),
    (
        b"version https://git-lfs",
        0,
        "a Git LFS pointer and not the model itself",
        "Run `git lfs pull` and upload the real file",
    ),
    (b"\x89HDF\r\n", 0, "an HDF5 file (Keras)", "Save the weights as safetensors"),
    (b"GGUF", 0, "a GGUF file", "Upload the model from which it was converted"),
    (b"TFL3", 4, "a TensorFlow Lite file", "Upload the model from which it was converted"),
    (b"\x93NUMPY", 0, "a single NumPy array", TAKEN),
    (b"\x1f\x8b", 0, "a gzip archive", "Unpack it, or pack the folder as a .zip"),
    (b"\xfd7zXZ", 0, "an xz archive", "Unpack it, or pack the folder as a .zip"),
    (b"7z\xbc\xaf", 0, "a 7z archive", "Unpack it, or pack the folder as a .zip"),
    (b"\x28\xb5\x2f\xfd", 0, "a Zstandard archive", "Unpack it, or pack the folder as a .zip"),
    (b"ustar", 257, "a tar archive", "Unpack it, or pack the folder as a .zip"),
    (b"\x89PNG", 0, "an image", TAKEN),
    (b"\xff\xd8\xff", 0, "an image", TAKEN),
    (b"GIF8", 0, "an image", TAKEN),
    (b"%PDF", 0, "a PDF", TAKEN),
    (b"<!DOCTYPE", 0, "a web page; perhaps a download that asked for a log-in", TAKEN),
    (b"<html", 0, "a web page; perhaps a download that asked for a log-in", TAKEN),
)


class Format(StrEnum):
    """What `open_model` can be given."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch_zip"
    TORCH_LEGACY = "torch_legacy"
    FOLDER = "folder"
    FOLDER_ZIP = "folder_zip"
    SHARD_INDEX = "shard_index"
    ONNX = "onnx"
    PT2 = "pt2"


def detect(path: Path) -> Format:
    """The format of the file or folder at `path`.

    Raises:
        ModelError: there is nothing to read (FILE_NOT_FOUND, EMPTY_FILE), or nothing that Squeezer reads
            (UNKNOWN_FORMAT, UNSUPPORTED_FORMAT, UNSAFE_PICKLE), or a broken zip.
    """
    if path.is_dir():
        return Format.FOLDER
    if not path.is_file():
        raise ModelError(Code.FILE_NOT_FOUND, f"There is no file {path.name!r}; check the path.")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return _inside_zip(path) if is_zip(head) else identify(head)


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with `head` is a zip: a folder, or a PyTorch checkpoint."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def identify(head: bytes) -> Format:
    """The format of a file, no zip, that begins with `head` (`HEAD_BYTES` of it, or all).

    Raises:
        ModelError: it is empty, or nothing that Squeezer reads.
    """
    if not head:
        raise ModelError(Code.EMPTY_FILE, "The file is empty; upload it again, or check how it was made.")
    if head.startswith(_LEGACY_TORCH):
        return Format.TORCH_LEGACY
    if _is_safetensors(head):
        return Format.SAFETENSORS
    if head.lstrip().startswith(b"{") and _is_text(head):
        return Format.SHARD_INDEX
    if len(head) > 2 and _is_onnx(head):
        return Format.ONNX
    raise _refusal(head)


def _inside_zip(path: Path) -> Format:
    """A PyTorch checkpoint is a zip with a `data.pkl`; programs of PyTorch are zips, too."""
    from squeezer.formats.zipped import Archive  # here, because most uploads are no zips

    with Archive(path) as archive:
        inner = {re.sub(r"^[^/]*/", "", name) for name in archive.members}
        if "constants.pkl" in inner and "data.pkl" in inner:
            raise ModelError(
                Code.UNSUPPORTED_FORMAT,
                "This is a TorchScript program, whose code would run when it is loaded. Export the original module "
                "instead: squeezer.export(module, example_inputs, 'model.pt2'). Or save its weights alone: "
                "torch.save(torch.jit.load('model.pt').state_dict(), 'weights.pt').",
            )
        if "serialized_exported_program.json" in inner | archive.members.keys():
            raise ModelError(
                Code.UNSUPPORTED_FORMAT,
                "This is an exported program of an older PyTorch. Export it with PyTorch 2.9 or a later one: "
                "squeezer.export(module, example_inputs, 'model.pt2').",
            )
        if "archive_format" in inner:
            return Format.PT2
        if "data.pkl" in inner:
            return Format.TORCH_ZIP
        if archive.members and all(name.endswith(".npy") for name in archive.members):
            raise ModelError(Code.UNKNOWN_FORMAT, f"This is a NumPy archive (.npz), not a model. {TAKEN}.")
    return Format.FOLDER_ZIP


def _is_safetensors(head: bytes) -> bool:
    """A header's length (64 bits, little-endian) and the brace that opens its JSON.

    A length beyond the limit is still taken for a lying header, and refused as such, unless it is text.
    """
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return length <= MAX_HEADER_BYTES or not _is_text(head[:8])


def _is_text(head: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", head)


def _is_onnx(head: bytes) -> bool:
    """A protobuf ModelProto: field 1 (ir_version, a small number), then another of its fields."""
    return (
        head[:1] == b"\x08"
        and 0 < head[1] < 32
        and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")
    )


def _refusal(head: bytes) -> ModelError:
    for magic, offset, what, remedy in _FOREIGN:
        if head[offset:].startswith(magic):
            return ModelError(Code.UNKNOWN_FORMAT, f"The file is {what}. {remedy}.")
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return ModelError(
            Code.UNSAFE_PICKLE,
            "This is a bare pickle, which can run any code when it is loaded, so it was not opened. "
            "Save the tensors with torch.save(state_dict, 'model.pt') or as safetensors.",
        )
    kind = "text" if _is_text(head) else "no model that Squeezer knows"
    return ModelError(Code.UNKNOWN_FORMAT, f"The file is {kind}. {TAKEN}.")
