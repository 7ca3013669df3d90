"""The data set that `open_dataset` gives: parts of a file, and which rows of them each split has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from squeezer.data.dataset import Batch, Split

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from numpy.typing import NDArray

    from squeezer.data.scan import Part


class Share(NamedTuple):
    """A split: a part of the file, and which of its rows; all if None."""

    part: Part
    rows: NDArray[np.int64] | None

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.part.rows if self.rows is None else len(self.rows)


class Rows:
    """Implements `Dataset`; `resources` are released when it is closed."""

    def __init__(self, shares: Mapping[Split, Share], resources: ExitStack) -> None:
        self._shares, self._resources = shares, resources
        self._train = shares[Split.TRAIN].part

    @property
    def labelled(self) -> bool:
        """Whether there are targets."""
        return self._train.targets is not None

    @property
    def black(self) -> tuple[NDArray[Any], ...]:
        """What the transform makes of 0, for each input."""
        return tuple(preparation.black for preparation in self._train.preparations)

    def size(self, split: Split) -> int:
        """The number of rows in a split."""
        return self._shares[split].size

    def batch(self, split: Split, rows: NDArray[Any]) -> Batch:
        """The rows of a split with these positions, in this order."""
        share = self._shares[split]
        rows = np.asarray(rows, np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < share.size:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {share.size}")
        positions = rows if share.rows is None else share.rows[rows]
        part = share.part
        pairs = zip(part.preparations, part.inputs, strict=True)
        inputs = tuple(preparation(source.take(positions)) for preparation, source in pairs)
        targets = part.meaning.convert(part.targets.take(positions)) if part.meaning and part.targets else None
        return Batch(inputs, targets)

    def close(self) -> None:
        """Release files."""
        self._resources.close()
