"""Models of several files: a Hugging Face folder, on disk or zipped, and sharded weights with an index."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from squeezer.errors import Code, ModelError
from squeezer.formats.detect import HEAD_BYTES, MAX_HEADER_BYTES, TAKEN, Format, detect, identify, is_zip
from squeezer.formats.folder import LocalFolder, path_flaw
from squeezer.model import Dropped, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from squeezer.formats.folder import Folder
    from squeezer.model import Model

#: Files that come along with the weights may have this size together; they are handled in memory.
MAX_FILES_BYTES = 256 << 20

#: Suffixes of weights that can be read, and the names that Transformers looks for first.
_READABLE: tuple[tuple[tuple[str, ...], str], ...] = (
    ((".safetensors",), "model.safetensors"),
    ((".bin", ".pt", ".pth", ".th", ".ckpt"), "pytorch_model.bin"),
)
_TRAINING_STATE = re.compile(r"(optimizer|scheduler|scaler|rng_state|random_states|training_args)[^/]*\.(bin|pt|pth)$")
_OTHER_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|th|ckpt|h5|keras|msgpack|gguf|onnx|onnx_data|ot|npz|tflite|mlmodel|pb|pkl|pickle)$"
)
_INDEX = re.compile(r"\.(safetensors|bin|h5)\.index\.json$")
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)$")


def open_folder(folder: Folder) -> Model:
    """Open the model in a folder: its weights, and the files beside them. Closing it closes the folder.

    Raises:
        ModelError: there are no weights (NO_TENSORS), several models (UNSUPPORTED_FORMAT), or bad weights.
    """
    try:
        return MultiFileModel(folder, *choose_weights(folder))
    except BaseException:
        folder.close()
        raise


def open_index(path: Path) -> Model:
    """Open sharded weights by their index, beside which the shards lie.

    Raises:
        ModelError: it is no index (UNKNOWN_FORMAT), a shard is missing (FILE_NOT_FOUND), or bad weights.
    """
    if path.stat().st_size > MAX_HEADER_BYTES:
        raise ModelError(Code.UNKNOWN_FORMAT, f"The file is JSON and too long for an index of shards. {TAKEN}.")
    weight_map = _parse_index(path.read_bytes(), path.name)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not (path.parent / shard).is_file():
            raise ModelError(
                Code.FILE_NOT_FOUND,
                f"The index names the shard {shard!r}, which is not beside it. "
                "Give the whole folder, or zip it for an upload.",
            )
    folder = LocalFolder(path.parent, [path.name, *shards])
    return MultiFileModel(folder, shards, weight_map)


class MultiFileModel:
    """The weights `parts` of a folder, read as one model, and the files beside them.

    Every tensor that `weight_map` (name -> file name) lists, where there is an index, must be there.
    """

    format = "huggingface"
    graph = None  # weights alone

    def __init__(self, folder: Folder, parts: list[str], weight_map: Mapping[str, str] | None) -> None:
        self._folder = folder
        self.input_bytes = folder.input_bytes
        self.tensors: list[TensorInfo] = []
        self.aliases: dict[str, str] = {}
        self.dropped: list[Dropped] = list(folder.dropped)
        self._home: dict[str, Model] = {}
        self._parts: list[Model] = []
        try:
            for path in parts:
                self._add(path, is_only=len(parts) == 1)
            self._check_index({} if weight_map is None else weight_map)
        except BaseException:
            for part in self._parts:
                part.close()
            raise
        self._paths = self._choose_files(parts)
        self.files = {name: folder.sizes[path] for name, path in self._paths.items()}

    def _add(self, path: str, *, is_only: bool) -> None:
        part = _open_part(self._folder, path)
        self._parts.append(part)
        for name in [*(info.name for info in part.tensors), *part.aliases]:
            if name in self._home:
                raise ModelError(Code.INVALID_ARCHIVE, f"Tensor {name!r} is in two shards; save the model again.")
            self._home[name] = part
        self.tensors += part.tensors
        self.aliases |= part.aliases
        self.dropped += [
            Dropped(item.name if is_only else f"{path}: {item.name}", item.reason) for item in part.dropped
        ]

    def _check_index(self, weight_map: Mapping[str, str]) -> None:
        for name, shard in weight_map.items():
            if name not in self._home:
                raise ModelError(
                    Code.INVALID_ARCHIVE,
                    f"The index says that {name!r} is in {shard!r}, and it is not; save the model again.",
                )

    def _choose_files(self, parts: list[str]) -> dict[str, str]:
        """The files that come back, by the path that they get: beside the weights, which lie at the top."""
        kept, total = [], 0
        for path, size in self._folder.sizes.items():
            if path in parts:
                continue
            total += size
            if reason := _why_dropped(path, total):
                self.dropped.append(Dropped(path, reason))
                total -= size
            else:
                kept.append(path)
        home = parts[0].rpartition("/")[0]
        prefix = f"{home}/" if home and all(path.startswith(f"{home}/") for path in kept) else ""
        return {path.removeprefix(prefix): path for path in kept}

    def read(self, name: str) -> NDArray[np.generic]:
        """The tensor of that stored name."""
        return self._home[name].read(name)

    def read_file(self, path: str) -> bytes:
        """The content of one of `files`."""
        return self._folder.read_file(self._paths[path])

    def close(self) -> None:
        """Close all files, and remove what was unpacked."""
        for part in self._parts:
            part.close()
        self._folder.close()


def _why_dropped(path: str, total: int) -> str | None:
    if _TRAINING_STATE.search(path):
        return "training state"
    if _OTHER_WEIGHTS.search(path):
        return "other weights, or the same in another form"
    if _INDEX.search(path):
        return "an index of shards; the weights come back as one file"
    if total > MAX_FILES_BYTES:
        return f"the files beside the weights may have {MAX_FILES_BYTES >> 20} MiB together"
    return None


def _open_part(folder: Folder, path: str) -> Model:
    """One file of weights; its errors name it."""
    try:
        place, offset, length = folder.locate(path)
        head = _read_head(place, offset, length)
        if not is_zip(head) and identify(head) is Format.SAFETENSORS:
            from squeezer.formats.safetensors import SafetensorsModel

            return SafetensorsModel(place, offset, length)
        whole = folder.as_file(path)
        container = detect(whole)
        if container not in (Format.TORCH_ZIP, Format.TORCH_LEGACY):
            raise ModelError(Code.UNKNOWN_FORMAT, f"This is no file of weights. {TAKEN}.")
        from squeezer.formats.pytorch import PytorchModel

        return PytorchModel(whole, zipped=container is Format.TORCH_ZIP)
    except ModelError as error:
        raise ModelError(error.code, f"{path}: {error.detail}") from error


def _read_head(place: Path, offset: int, length: int) -> bytes:
    fd = os.open(place, os.O_RDONLY)
    try:
        return os.pread(fd, min(length, HEAD_BYTES), offset)
    finally:
        os.close(fd)


def choose_weights(folder: Folder) -> tuple[list[str], dict[str, str] | None]:
    """The files that hold the model, and the index's map where there is one.

    safetensors before pickles, the top folder before others; there, as Transformers does, the file of the
    usual name, then the index; else the only file, or a complete set of numbered shards.

    Raises:
        ModelError: NO_TENSORS, UNSUPPORTED_FORMAT (several models), INVALID_ARCHIVE, FILE_NOT_FOUND (shards).
    """
    for suffixes, usual in _READABLE:
        found = [path for path in folder.sizes if path.endswith(suffixes) and not _TRAINING_STATE.search(path)]
        if found:
            depth = min(path.count("/") for path in found)
            return _choose_among([path for path in found if path.count("/") == depth], usual, folder)
    raise ModelError(Code.NO_TENSORS, f"There are no weights in this folder (.safetensors or .bin). {TAKEN}.")


def _choose_among(found: list[str], usual: str, folder: Folder) -> tuple[list[str], dict[str, str] | None]:
    homes = sorted({path.rpartition("/")[0] for path in found})
    if len(homes) == 1:
        home = f"{homes[0]}/" if homes[0] else ""
        if home + usual in found:
            return [home + usual], None
        if (index := f"{home}{usual}.index.json") in folder.sizes:
            return _choose_indexed(index, home, folder)
        if shards := _numbered_shards(found):
            return shards, None
        if len(found) == 1:
            return found, None
    names = ", ".join(sorted(found)[:8]) + (", ..." if len(found) > 8 else "")
    raise ModelError(
        Code.UNSUPPORTED_FORMAT,
        f"There are several models in this folder ({names}). Upload one of them alone.",
    )


def _choose_indexed(index: str, home: str, folder: Folder) -> tuple[list[str], dict[str, str]]:
    if folder.sizes[index] > MAX_HEADER_BYTES:
        raise ModelError(Code.INVALID_ARCHIVE, f"{index} is too long for an index of shards; save the model again.")
    weight_map = _parse_index(folder.read_file(index), index)
    shards = sorted({home + shard for shard in weight_map.values()})
    _need(shards, folder.sizes)
    return shards, weight_map


def _numbered_shards(found: list[str]) -> list[str] | None:
    """All shards of a set like `model-00001-of-00003.safetensors`; None if this is something else."""
    matches = [_SHARD.fullmatch(path) for path in found]
    sets = {(match[1], match[3], match[4]) for match in matches if match}
    if None in matches or len(sets) != 1:
        return None
    stem, count, suffix = sets.pop()
    shards = [f"{stem}-{number:05}-of-{count}{suffix}" for number in range(1, int(count) + 1)]
    _need(shards, found)
    return shards


def _need(shards: Iterable[str], there: Iterable[str]) -> None:
    if missing := sorted(set(shards) - set(there)):
        raise ModelError(Code.FILE_NOT_FOUND, f"The shard {missing[0]!r} is missing in the folder; add it.")


def _parse_index(content: bytes, name: str) -> dict[str, str]:
    """The index's map of tensor name to file name, every file name a plain one."""
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(Code.UNKNOWN_FORMAT, f"{name}: the file is text, but no index of shards. {TAKEN}.") from error
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(Code.UNKNOWN_FORMAT, f"{name}: the file is JSON, but no index of shards. {TAKEN}.")
    for shard in weight_map.values():
        if not isinstance(shard, str) or path_flaw(shard) or "/" in shard:
            raise ModelError(
                Code.INVALID_ARCHIVE,
                f"{name}: {str(shard)[:200]!r} is not the name of a file beside the index.",
            )
    return weight_map
