"""Class folders: which images a zip has, in which split, and of which class."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SPLITS = {"train": Split.TRAIN, "validation": Split.VALIDATION, "val": Split.VALIDATION, "test": Split.TEST}


class Group(NamedTuple):
    """The images of one split: positions in the list of paths, and the numbers of their classes if there are any."""

    positions: NDArray[np.int64]
    labels: NDArray[np.int64] | None


def arrange(paths: Sequence[str]) -> dict[Split, Group]:
    """Read splits and classes out of the paths of images; TRAIN is always there.

    `cat/1.png`: the class is the folder, its number the place of its name among all, sorted. `train/cat/1.png`: folders
    train, validation (or val) and test are the user's own splits. Images that lie in no class folder have no labels. A
    folder around everything does not count.

    Raises:
        DataError: INVALID_DATA, where some images have a class and others have none.
    """
    parts = _unwrapped([path.split("/")[:-1] for path in paths])
    firsts = {folders[0] if folders else "" for folders in parts}
    split = "train" in firsts and firsts <= _SPLITS.keys()
    splits = [_SPLITS[folders[0]] if split else Split.TRAIN for folders in parts]
    classes = [folders[split] if len(folders) > split else None for folders in parts]
    numbers = {name: number for number, name in enumerate(sorted({name for name in classes if name is not None}))}
    if numbers and None in classes:
        raise DataError(
            Code.INVALID_DATA,
            f"The image {paths[classes.index(None)]!r} of the data set lies in no class folder, and others do. "
            "Move it into the folder of its class.",
        )
    groups = {}
    for which in dict.fromkeys(Split):
        positions = np.array([place for place, own in enumerate(splits) if own is which], np.int64)
        if len(positions):
            labels = np.array([numbers[classes[place] or ""] for place in positions], np.int64) if numbers else None
            groups[which] = Group(positions, labels)
    return groups


def _unwrapped(parts: list[list[str]]) -> list[list[str]]:
    """Without folders that hold everything, as long as folders are left."""
    while min(map(len, parts)) > 1 and len({folders[0] for folders in parts}) == 1:
        parts = [folders[1:] for folders in parts]
    return parts
