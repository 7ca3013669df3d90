"""An opened data set: rows of inputs, with or without targets, in three splits that never change."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from squeezer.errors import Code, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Split(StrEnum):
    """What a row may be used for."""

    TRAIN = "train"  # the optimiser sees it
    VALIDATION = "validation"  # every choice is made by it: which epoch, which setting, whether to go on
    TEST = "test"  # the report alone


class Batch(NamedTuple):
    """Some rows: an array for each input of the network, and the targets where there are any.

    `inputs` have the shapes and element types that the network wants. `targets` are int64 labels for cross-entropy,
    (b,) or (b, positions...), where -100 is a position to ignore; else float32, in the shape of the network's output
    where that was known when the data set was opened.
    """

    inputs: tuple[NDArray[Any], ...]
    targets: NDArray[Any] | None


class Dataset(Protocol):
    """Rows, read from disk as they are asked for, transformed as the recipe's `data` says."""

    @property
    def labelled(self) -> bool:
        """Whether there are targets."""
        ...

    @property
    def black(self) -> tuple[NDArray[Any], ...]:
        """What the transform makes of 0, for each input: float32, one value or one for each channel."""
        ...

    def size(self, split: Split) -> int:
        """The number of rows in a split."""
        ...

    def batch(self, split: Split, rows: NDArray[Any]) -> Batch:
        """The rows of a split with these positions (int64, 0 to size - 1, in any order).

        Raises:
            DataError: the file has changed or ends too early by now.
        """
        ...

    def close(self) -> None:
        """Release files."""
        ...


def check_batch(dataset: Dataset, batch_size: int) -> None:
    """Refuse to train in batches that are larger than the training split.

    Raises:
        DataError: TOO_FEW_ROWS; says how many rows there are and what to set.
    """
    rows = dataset.size(Split.TRAIN)
    if rows < batch_size:
        raise DataError(
            Code.TOO_FEW_ROWS,
            f"There are {rows} rows to train on and batch_size is {batch_size}; set batch_size to {rows} or less, "
            "or send more data.",
        )
