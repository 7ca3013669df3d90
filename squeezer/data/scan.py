"""One pass over all rows before the first is used: are they sound, and which split does each belong to?

A row's split follows from a hash of its inputs. So it never changes, whatever order the rows are in, whatever rows are
beside it; and rows with equal inputs share a split, so that no test is ever among what was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.data.dataset import Split
from squeezer.data.targets import refuse
from squeezer.errors import Code, DataError
from squeezer.model import is_float

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from squeezer.data.sources import Source
    from squeezer.data.spec import DataSpec
    from squeezer.data.targets import Labels, Values
    from squeezer.data.transform import Preparation

_BLOCK_BYTES = 4 << 20
_DRAW_BYTES = 8  # for each of two choices: a test or not; if not, validation or not
_LEAST = 2  # rows in a split; one has no spread


@dataclass(frozen=True)
class Part:
    """Rows that the file keeps together: all of them, or one of the user's own splits."""

    inputs: tuple[Source, ...]
    preparations: tuple[Preparation, ...]  # of each input
    targets: Source | None
    meaning: Labels | Values | None  # of the targets

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.inputs[0].info.shape[0]


def check(part: Part, *, draw: bool) -> NDArray[np.uint64]:
    """Read everything once; `draw` if rows are to be hashed.

    Returns:
        If `draw`, two numbers for each row, equal for rows of equal inputs: (rows, 2); else nothing.

    Raises:
        DataError: names the first element that is unsound.
    """
    digests: list[bytes] = []
    for first, rows in _blocks(part):
        arrays = [source.take(rows) for source in part.inputs]
        for preparation, source, array in zip(part.preparations, part.inputs, arrays, strict=True):
            _check_inputs(preparation, array, first, source.info.name)
        if part.targets and part.meaning:
            part.meaning.observe(part.targets.take(rows), first, part.targets.info.name)
        if draw:
            digests.append(_digests(arrays))
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def assign(draws: NDArray[np.uint64], own: set[Split], spec: DataSpec) -> dict[Split, NDArray[np.int64]]:
    """The rows of TRAIN's part that each split gets; a split of the user's `own` gets none of them."""
    shares = draws.astype(np.float64) / 2.0 ** (8 * _DRAW_BYTES)
    nobody = np.zeros(len(draws), np.bool_)
    test = nobody if Split.TEST in own else shares[:, 0] < spec.test
    validation = nobody if Split.VALIDATION in own else ~test & (shares[:, 1] < spec.validation)
    masks = {Split.TRAIN: ~test & ~validation, Split.VALIDATION: validation, Split.TEST: test}
    return {split: np.flatnonzero(mask) for split, mask in masks.items() if split not in own}


def check_sizes(sizes: dict[Split, int]) -> None:
    """Refuse splits that are too small to mean anything.

    Raises:
        DataError: TOO_FEW_ROWS.
    """
    for split, size in sizes.items():
        if size < _LEAST:
            told = ", ".join(f"{other} {count}" for other, count in sizes.items())
            raise DataError(
                Code.TOO_FEW_ROWS,
                f"Too few rows of the data set are in the split {split}: of {sum(sizes.values())} rows the splits "
                f"get {told}, and each needs {_LEAST} or more. Send more rows, or change data.validation or data.test.",
            )


def _blocks(part: Part) -> Iterator[tuple[int, NDArray[np.int64]]]:
    sources = [*part.inputs, *([part.targets] if part.targets else [])]
    row_bytes = sum(source.info.nbytes // part.rows for source in sources)
    step = max(1, _BLOCK_BYTES // max(1, row_bytes))
    for first in range(0, part.rows, step):
        yield first, np.arange(first, min(first + step, part.rows), dtype=np.int64)


def _check_inputs(preparation: Preparation, array: NDArray[Any], first: int, name: str) -> None:
    if not preparation.is_float:
        _check_range(preparation.dtype, array, first, name)
        return
    if not is_float(array.dtype) and preparation.dtype.itemsize >= 4:
        return  # whole numbers stay finite, unless half precision has no room for them
    finite = np.isfinite(preparation(array)).reshape(len(array), -1).all(1)
    if not finite.all():
        if is_float(array.dtype):
            refuse(~np.isfinite(array), array, first, name, "inputs are finite numbers")
        raise DataError(
            Code.INVALID_DATA,
            f"{name}[{first + int(finite.argmin())}] of the data set goes beyond the range of {preparation.dtype}, "
            "which the network's input is. Change data.transform, or the numbers.",
        )


def _check_range(dtype: np.dtype[Any], array: NDArray[Any], first: int, name: str) -> None:
    if array.dtype == np.bool_ or array.dtype == dtype:
        return
    low, high = (0, 1) if dtype == np.bool_ else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if int(array.min()) < low or int(array.max()) > high:
        wrong = (array < low) | (array > high)
        refuse(wrong, array, first, name, f"the network's input takes {low} to {high} ({dtype})")


def _digests(arrays: list[NDArray[Any]]) -> bytes:
    raw = np.concatenate([array.reshape(len(array), -1).view(np.uint8) for array in arrays], axis=1)
    return b"".join([blake2b(row, digest_size=2 * _DRAW_BYTES).digest() for row in raw])
