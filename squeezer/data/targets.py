"""Targets: labels, or numbers of the output's shape. Both are checked before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.data.spec import IGNORED
from squeezer.data.transform import fit, matches, shown
from squeezer.errors import Code, DataError
from squeezer.model import is_float

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.data.spec import DataSpec
    from squeezer.data.transform import Wanted
    from squeezer.model import TensorInfo

_MOST_CLASSES = 1 << 24  # where the network does not say; the largest vocabularies have some hundred thousand words


def understand(info: TensorInfo, spec: DataSpec, outputs: Wanted | None) -> Labels | Values:
    """What the array of targets means to the recipe's loss, for a network whose output has that shape.

    Raises:
        DataError: INVALID_DATA; names both shapes.
    """
    if spec.loss == "cross_entropy":
        return Labels(info, outputs)
    return Values(info, outputs, probabilities=spec.loss == "binary_cross_entropy")


def class_axis(outputs: Wanted, labels: Wanted) -> int | None:
    """The axis of an output (b, ...) that its classes are on, for labels (b, ...); None where neither fits.

    (b, classes) for labels (b,). With positions the classes are the last axis, as in transformers, or axis 1, as
    PyTorch's losses want them. Where the extents allow both: the last of three axes, else axis 1.
    """
    if len(outputs) != len(labels) + 1 or len(outputs) < 2:
        return None
    last, first = len(outputs) - 1, 1
    for axis in (last, first) if len(outputs) == 3 else (first, last):
        positions = outputs[1:axis] + outputs[axis + 1 :]
        if all(None in pair or pair[0] == pair[1] for pair in zip(positions, labels[1:], strict=True)):
            return axis
    return None


class Labels:
    """Whole numbers from 0: (n,), or (n, positions...), where -100 is a position that does not count."""

    def __init__(self, info: TensorInfo, outputs: Wanted | None) -> None:
        shape = info.shape[1:]
        if shape[:1] == (1,) and len(shape) == (1 if outputs is None else len(outputs) - 1):
            shape = shape[1:]  # (n, 1) for labels, (n, 1, h, w) for those of pixels
        self.shape, self.limit = shape, None
        if outputs is not None:
            axis = class_axis(outputs, (None, *shape))
            if axis is None:
                raise DataError(Code.INVALID_DATA, _misfit(info, outputs))
            self.limit = outputs[axis]
        self.lowest: int | None = None
        self.highest = -1
        self._name = info.name

    def convert(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Labels as int64, one for each row or position."""
        return rows.reshape(len(rows), *self.shape).astype(np.int64)

    def observe(self, rows: NDArray[Any], first: int, array: str) -> None:
        """Look for labels that are no classes in rows of `array`, the first of which is its row `first`."""
        numbers = rows.astype(np.float64) if is_float(rows.dtype) else rows
        if is_float(rows.dtype):
            refuse(~np.isfinite(numbers), numbers, first, array, "no label is NaN or infinite")
            refuse(numbers != np.floor(numbers), numbers, first, array, "labels are whole numbers from 0")
        valid = np.ones(numbers.shape, np.bool_)
        if self.shape and numbers.dtype.kind in "if":
            valid = numbers != IGNORED
        if numbers.dtype.kind in "if":
            hint = f" ({IGNORED} marks a position to ignore)" if self.shape else ""
            refuse(valid & (numbers < 0), numbers, first, array, f"labels are whole numbers from 0{hint}")
        told = f"the network has {self.limit} classes, so labels are 0 to {(self.limit or 0) - 1}"
        most = _MOST_CLASSES if self.limit is None else self.limit
        refuse(
            valid & (numbers >= most), numbers, first, array, told if self.limit else "labels are numbers of classes"
        )
        if valid.any():
            seen = numbers[valid]
            lowest, self.highest = int(seen.min()), max(self.highest, int(seen.max()))
            self.lowest = lowest if self.lowest is None else min(self.lowest, lowest)

    def conclude(self) -> None:
        """Once all rows have been seen: one class alone teaches nothing."""
        if self.lowest is None or self.lowest == self.highest:
            what = "no label that counts" if self.lowest is None else f"one class alone, {self.lowest}"
            raise DataError(
                Code.INVALID_DATA,
                f"The labels {self._name!r} of the data set hold {what}. Send rows of at least two classes; or leave "
                "the labels out, and agreement with the original is what counts.",
            )


class Values:
    """Numbers of the output's shape; from 0 to 1 if they are `probabilities`."""

    def __init__(self, info: TensorInfo, outputs: Wanted | None, *, probabilities: bool) -> None:
        fitted = info.shape[1:] if outputs is None else fit(info.shape[1:], outputs[1:])
        if fitted is None or (outputs is not None and not matches(fitted, outputs[1:])):
            raise DataError(Code.INVALID_DATA, _misfit(info, outputs or ()))
        self.shape, self._probabilities, self._name = fitted, probabilities, info.name
        self._range: tuple[float, float] | None = None

    def convert(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Targets as float32, in the output's shape."""
        return rows.reshape(len(rows), *self.shape).astype(np.float32)

    def observe(self, rows: NDArray[Any], first: int, array: str) -> None:
        """Look for numbers that are no targets in rows of `array`, the first of which is its row `first`."""
        with np.errstate(over="ignore"):
            numbers = rows.astype(np.float32)
        refuse(~np.isfinite(numbers), rows, first, array, "targets are finite numbers of type float32")
        if self._probabilities:
            refuse((numbers < 0) | (numbers > 1), rows, first, array, "binary_cross_entropy wants targets from 0 to 1")
        low, high = self._range or (np.inf, -np.inf)
        self._range = min(low, float(numbers.min())), max(high, float(numbers.max()))

    def conclude(self) -> None:
        """Once all rows have been seen: one class alone teaches nothing."""
        if self._probabilities and self._range and self._range[0] == self._range[1]:
            raise DataError(
                Code.INVALID_DATA,
                f"The targets {self._name!r} of the data set are all {self._range[0]:g}, which is one class alone. "
                "Send rows of both; or leave the targets out, and agreement with the original is what counts.",
            )


def refuse(wrong: NDArray[np.bool_], rows: NDArray[Any], first: int, array: str, told: str) -> None:
    """Raise INVALID_DATA for the first element that is wrong; `rows[0]` is the array's row `first`."""
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), wrong.shape)
        index = ", ".join(str(int(position) + (first if axis == 0 else 0)) for axis, position in enumerate(place))
        raise DataError(
            Code.INVALID_DATA,
            f"{array}[{index}] of the data set is {rows[place]}, but {told}. Repair it and send the data again.",
        )


def _misfit(info: TensorInfo, outputs: Wanted) -> str:
    sentence = (
        f"The targets {info.name!r} of the data set have the shape {shown((None, *info.shape[1:]))}, and the network's "
        f"output has {shown((None, *outputs[1:]))}"
    )
    if len(info.shape) == len(outputs) == 2 and info.shape[1] == outputs[1]:
        return f"{sentence}. Cross-entropy wants the number of a class for each row: save {info.name}.argmax(1)."
    return f"{sentence}, which do not go together. Name another array in data.targets, or another data.loss."
