"""Images of a zip as the input of a network, with the numbers of their folders as labels."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from squeezer.data import sources
from squeezer.data.folders import arrange
from squeezer.data.images import Images, Store, is_image, open_image
from squeezer.data.scan import Part
from squeezer.data.sources import Held
from squeezer.data.targets import understand
from squeezer.data.transform import Preparation, shown
from squeezer.errors import Code, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from squeezer.data.dataset import Split
    from squeezer.data.spec import DataSpec
    from squeezer.data.transform import Wanted
    from squeezer.graph import Input

_IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".avif")


def image_parts(store: Store, spec: DataSpec, inputs: Sequence[Input], outputs: Wanted | None) -> dict[Split, Part]:
    """The images that the zip has for each split; see `open_dataset` for the arguments.

    Raises:
        DataError: there are none, or they do not fit the network, the loss or each other.
    """
    chosen = np.array([place for place in range(len(store.paths)) if _is_image(store, place)], np.int64)
    if not len(chosen):
        raise DataError(
            Code.UNKNOWN_DATA,
            "The zip that was sent as the data set has neither arrays (.npy) nor images (PNG, JPEG, BMP). Save arrays "
            "with numpy.savez, or zip one folder of images for each class.",
        )
    if len(inputs) != 1 or spec.inputs or spec.targets or spec.transforms:
        _no_arrays(inputs)
    transform = spec.transform.model_copy(update={"channels": "first"})
    first = open_image(store, int(chosen[0]))
    shape = _shape(transform.resize or (first.height, first.width), inputs[0])
    parts, memory = {}, sources.MEMORY_BYTES
    for split, (positions, labels) in arrange([store.paths[place] for place in chosen]).items():
        images = Images("images", store, chosen[positions], shape, resize=transform.resize is not None, memory=memory)
        memory -= images.kept_bytes
        targets = None if labels is None else Held("labels", labels)
        meaning = understand(targets.info, spec, outputs) if targets else None
        parts[split] = Part((images,), (Preparation(images.info, inputs[0], transform),), targets, meaning)
    return parts


def _is_image(store: Store, place: int) -> bool:
    if is_image(store.head(place)):
        return True
    if store.paths[place].lower().endswith(_IMAGE_NAMES):
        raise store.error(place, "is no PNG, JPEG or BMP; save it as one of these, or leave it out")
    return False


def _shape(size: tuple[int, int], wanted: Input) -> tuple[int, int, int]:
    """Channels, height, width for a network whose input is `wanted`."""
    rows, (height, width) = wanted.shape[1:], size
    if len(rows) == 3 and not (rows[1] in (None, height) and rows[2] in (None, width)):
        raise DataError(
            Code.INVALID_DATA,
            f"The images of the data set are {height} high and {width} wide, and the network's input {wanted.name!r} "
            f"wants {shown(rows)}. Set data.transform.resize to its height and width.",
        )
    known = [extent for extent in rows if extent is not None]
    channels = rows[0] if len(rows) == 3 else prod(known) // (height * width) if len(known) == len(rows) else 1
    channels = 3 if channels is None else channels
    if channels not in (1, 3):
        raise DataError(
            Code.INVALID_DATA,
            f"Images have 1 or 3 channels, and the network's input {wanted.name!r} wants {shown(rows)}. Send the data "
            "as an .npz file of arrays.",
        )
    return channels, height, width


def _no_arrays(inputs: Sequence[Input]) -> NoReturn:
    if len(inputs) != 1:
        told = f"the network has {len(inputs)} inputs. Send the data as an .npz file of arrays, one for each input"
    else:
        told = "data.inputs, data.targets and data.transforms name arrays. Leave them out: classes are folders"
    raise DataError(Code.INVALID_DATA, f"The data set is a zip of images, and {told}.")
