"""Readers and writers of foreign files. `open_model` tells the format by content, never by suffix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.formats.detect import Format, detect

if TYPE_CHECKING:
    from pathlib import Path

    from squeezer.model import Model

__all__ = ["open_model"]


def open_model(path: Path) -> Model:
    """Open a model, whatever its format; the caller closes it.

    `path` is a safetensors file, a PyTorch checkpoint, an exported program (.pt2), an ONNX model, a Hugging Face
    folder, such a folder zipped, or the `*.safetensors.index.json` of a sharded model beside its shards. The readers
    are imported here, one at a time, because only checkpoints need torch.

    Raises:
        ModelError: the file cannot be read; its code names the cause.
    """
    match detect(path):
        case Format.SAFETENSORS:
            from squeezer.formats.safetensors import SafetensorsModel

            return SafetensorsModel(path)
        case Format.TORCH_ZIP | Format.TORCH_LEGACY as container:
            from squeezer.formats.pytorch import PytorchModel

            return PytorchModel(path, zipped=container is Format.TORCH_ZIP)
        case Format.FOLDER:
            from squeezer.formats.folder import LocalFolder
            from squeezer.formats.huggingface import open_folder

            return open_folder(LocalFolder(path))
        case Format.FOLDER_ZIP:
            from squeezer.formats.huggingface import open_folder
            from squeezer.formats.zipped import ZipFolder

            return open_folder(ZipFolder(path))
        case Format.SHARD_INDEX:
            from squeezer.formats.huggingface import open_index

            return open_index(path)
        case Format.PT2:
            from squeezer.formats.pt2 import Pt2Model

            return Pt2Model(path)
        case Format.ONNX:
            from squeezer.formats.onnx import OnnxModel

            return OnnxModel(path)
