"""From the rows of an array to what the network wants: shape, scale, mean, deviation, element type."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.errors import Code, DataError
from squeezer.model import DTYPES, is_float

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from squeezer.data.spec import Transform
    from squeezer.graph import Input
    from squeezer.model import TensorInfo

Shape = tuple[int, ...]
Wanted = tuple[int | None, ...]


class Preparation:
    """What happens to the rows of one array on their way to one input of the network.

    Args:
        info: the array, (rows, ...).
        wanted: the network's input, (batch, ...).
        transform: by the recipe; of inputs of integers and booleans it is not asked.

    Raises:
        DataError: INVALID_DATA; names both shapes or both types.
    """

    def __init__(self, info: TensorInfo, wanted: Input, transform: Transform) -> None:
        self.name = info.name
        self.dtype = DTYPES[wanted.dtype]
        self.is_float = is_float(self.dtype)
        _check_types(info, wanted, self.dtype)
        target, moved = wanted.shape[1:], transform.channels == "last" and self.is_float
        self._unflattened = _with_channels_last(info.shape[1:], target) if moved else None
        shape = self._unflattened or info.shape[1:]
        self._moves = moved and (len(shape) == len(target) >= 2 or (len(target) == 1 and len(shape) >= 3))
        fitted = fit((shape[-1], *shape[:-1]) if self._moves else shape, target)
        if fitted is None:
            raise DataError(
                Code.INVALID_DATA,
                f"The array {info.name!r} of the data set has rows of the shape {shown(info.shape[1:])}, and the "
                f"network's input {wanted.name!r} wants {shown(target)}. Save it in that shape"
                + (", or say where its channels are with data.transform.channels." if len(target) > 1 else "."),
            )
        self.shape = fitted
        self._work: np.dtype[Any] = np.dtype(np.float64 if self.dtype == np.float64 else np.float32)
        self._scale = transform.scale
        self._mean, self._std = (self._by_channel(numbers) for numbers in (transform.mean, transform.std))
        self._plain = self._scale == 1 and not self._mean.any() and bool((self._std == 1).all())

    def _by_channel(self, numbers: Sequence[float]) -> NDArray[Any]:
        channels = self.shape[0] if self.shape else 1
        if self.is_float and len(numbers) not in (1, channels):
            raise DataError(
                Code.INVALID_DATA,
                f"data.transform has mean or std for {len(numbers)} channels, and the rows of {self.name!r} have "
                f"{channels}. Give one number, or one for each channel.",
            )
        return np.asarray(numbers, self._work).reshape(-1, *[1] * max(0, len(self.shape) - 1))

    @property
    def black(self) -> NDArray[Any]:
        """What becomes of 0: float32, one value or one for each channel."""
        return np.asarray((0 - self._mean) / self._std, np.float32).reshape(-1)

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows as the network wants them; the same array where nothing is to be done."""
        if self._unflattened:
            rows = rows.reshape(len(rows), *self._unflattened)
        if self._moves:
            rows = np.moveaxis(rows, -1, 1)
        rows = rows.reshape(len(rows), *self.shape)
        if not self.is_float:
            return np.ascontiguousarray(rows, self.dtype)
        with np.errstate(over="ignore"):  # what overflows is infinite then, and `scan.check` refuses it
            values = rows.astype(self._work, order="C", copy=not self._plain)
            if not self._plain:
                values *= self._work.type(self._scale)
                values -= self._mean
                values /= self._std
            return values.astype(self.dtype, copy=False)


def fit(shape: Shape, wanted: Wanted) -> Shape | None:
    """The shape in which a row of `shape` fits `wanted` (None: any extent), or None where it does not.

    Axes of extent 1 may be missing or too many, and all axes may be flattened into one or the other way round; nothing
    else is guessed.
    """
    if matches(shape, wanted):
        return shape
    solid = [extent for extent in shape if extent != 1]
    if matches(solid, [extent for extent in wanted if extent != 1]):
        rest = iter(solid)
        return tuple(1 if extent == 1 else next(rest) for extent in wanted)
    known = [extent for extent in wanted if extent is not None]
    if 1 in (len(shape), len(wanted)) and len(known) == len(wanted) and prod(known) == prod(shape):
        return tuple(known)
    return None


def matches(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether the extents are those wanted, where None stands for any."""
    return len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True))


def shown(shape: Sequence[int | None]) -> str:
    """A shape in a sentence."""
    return "(" + ", ".join("any" if extent is None else str(extent) for extent in shape) + ")"


def _with_channels_last(shape: Shape, wanted: Wanted) -> Shape | None:
    """The shape, channels last, of rows that are flat where the network wants them not so."""
    known = [extent for extent in wanted if extent is not None]
    if len(shape) == 1 < len(wanted) == len(known) and prod(known) == shape[0]:
        return (*known[1:], known[0])
    return None


def _check_types(info: TensorInfo, wanted: Input, dtype: np.dtype[Any]) -> None:
    if dtype.kind == "c":
        raise DataError(
            Code.UNSUPPORTED_DTYPE, f"The network's input {wanted.name!r} wants complex numbers, which no data set has."
        )
    if not is_float(dtype) and is_float(info.dtype):
        raise DataError(
            Code.INVALID_DATA,
            f"The network's input {wanted.name!r} wants whole numbers ({dtype}), and the array {info.name!r} of the "
            f"data set has {info.dtype}. Save it as {dtype}, or name another array in data.inputs.",
        )
