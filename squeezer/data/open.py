"""Opens a data set, whatever its format: told by content, checked throughout, split for good."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING

from squeezer.data import npz, scan
from squeezer.data.dataset import Dataset, Split
from squeezer.data.from_arrays import array_parts
from squeezer.data.from_images import image_parts
from squeezer.data.images import Store
from squeezer.data.rows import Rows, Share
from squeezer.data.tensors import SafetensorsArrays
from squeezer.errors import Code, DataError, ModelError
from squeezer.formats.detect import HEAD_BYTES, Format, identify, is_zip
from squeezer.formats.folder import is_clutter
from squeezer.formats.zipped import Archive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from squeezer.data.spec import DataSpec
    from squeezer.data.transform import Wanted
    from squeezer.graph import Input

TAKEN = "a data set is an .npz or .safetensors file of arrays, or a .zip of class folders of PNG, JPEG or BMP images"
_LOOKED_AT = 1000  # files of a zip, to tell what kind it is


def open_dataset(
    path: Path,
    spec: DataSpec,
    inputs: Sequence[Input],
    *,
    outputs: Wanted | None = None,
    scratch: Path | None = None,
) -> Dataset:
    """Open a data set, read it once to check it, and split it; the caller closes it.

    Args:
        path: the file.
        spec: the recipe's `data`.
        inputs: the network's, in its order.
        outputs: the shape of the network's output, (batch, ...), None for any extent. Targets are checked against it.
        scratch: a folder where large deflated arrays are unpacked; the system's temporary folder by default.

    Raises:
        DataError: the file is no data set, or does not fit; the sentence says what to do.
    """
    try:
        with ExitStack() as resources:
            parts = _parts(path, spec, inputs, outputs, scratch, resources)
            shares = _split(parts, spec)
            return Rows(shares, resources.pop_all())
    except ModelError as error:
        raise _of_data(error) from error


def _of_data(error: ModelError) -> DataError:
    """What a reader of model files found wrong with this file."""
    if error.code is Code.ARCHIVE_TOO_LARGE:
        return DataError(
            error.code,
            "The data set would unpack to far more bytes than it has, as a zip bomb does. Save it without compression "
            "(numpy.savez, or zip -0).",
        )
    return DataError(error.code, f"The data set: {error.detail}")


def _parts(
    path: Path, spec: DataSpec, inputs: Sequence[Input], outputs: Wanted | None, scratch: Path | None, stack: ExitStack
) -> dict[Split, scan.Part]:
    if not path.is_file():
        what = "a folder; zip it" if path.is_dir() else "missing; check the path"
        raise DataError(Code.UNKNOWN_DATA if path.is_dir() else Code.FILE_NOT_FOUND, f"The data set is {what}.")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not is_zip(head):
        _want_safetensors(head)
        tensors = SafetensorsArrays(path)
        stack.callback(tensors.close)
        return array_parts(tensors, spec, inputs, outputs)
    with Archive(path) as archive:
        images = None if _has_arrays(archive) else Store(archive, [p for p in archive.members if not is_clutter(p)])
    if images is None:
        arrays = npz.Npz(stack.enter_context(Archive(path)), scratch)
        stack.callback(arrays.close)
        return array_parts(arrays, spec, inputs, outputs)
    stack.callback(images.close)
    return image_parts(images, spec, inputs, outputs)


def _want_safetensors(head: bytes) -> None:
    try:
        known = identify(head) is Format.SAFETENSORS
    except ModelError as error:
        if error.code is Code.EMPTY_FILE:
            raise
        known = False
    if not known:
        what = "a single array; save it with numpy.savez" if head.startswith(npz.MAGIC) else "none that is known"
        raise DataError(Code.UNKNOWN_DATA, f"The file that was sent as the data set is {what}: {TAKEN}.")


def _has_arrays(archive: Archive) -> bool:
    for name in islice(archive.members, _LOOKED_AT):
        if name.endswith(".npy"):
            return next(archive.blocks(name), b"").startswith(npz.MAGIC)
    return False


def _split(parts: dict[Split, scan.Part], spec: DataSpec) -> dict[Split, Share]:
    """Read all parts once; divide TRAIN's rows among the splits that the file does not have itself."""
    own = set(parts) - {Split.TRAIN}
    train = parts[Split.TRAIN]
    draws = scan.check(train, draw=len(own) < 2)
    for split in own:
        scan.check(parts[split], draw=False)
    if train.meaning:
        train.meaning.conclude()
    shares = {split: Share(parts[split], None) for split in own}
    if len(own) == 2:
        shares[Split.TRAIN] = Share(train, None)
    else:
        shares |= {split: Share(train, rows) for split, rows in scan.assign(draws, own, spec).items()}
    shares = {split: shares[split] for split in Split}
    scan.check_sizes({split: share.size for split, share in shares.items()})
    return shares
