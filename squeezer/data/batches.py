"""Which rows come next, and how images are moved and mirrored on their way: the same for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.errors import Code, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def generator(*key: int) -> np.random.Generator:
    """Random numbers of their own for each key, such as (seed, epoch, batch): whole numbers from 0."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def order(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch takes the rows 0 to size - 1, each once."""
    return generator(seed, epoch).permutation(np.int64(size)).astype(np.int64, copy=False)


def augment(
    inputs: NDArray[Any], rng: np.random.Generator, shift: int, flip: bool, black: NDArray[Any] | float = 0.0
) -> NDArray[Any]:
    """Images, each moved by up to `shift` pixels each way and, if `flip`, half of them mirrored left to right.

    Args:
        inputs: (b, c, h, w); left as they are.
        rng: what the draws come from: first the moves, then the mirrors.
        shift: the largest move in pixels, down or up and right or left.
        flip: whether to mirror.
        black: what comes in from outside: one value or one for each channel, which is what the transform makes of 0
            (`Dataset.black`).

    Returns:
        A new array of the same shape and element type.

    Raises:
        DataError: INVALID_DATA, where the inputs are not images.
    """
    if inputs.ndim != 4:
        raise DataError(
            Code.INVALID_DATA,
            f"shift and flip are for images, (rows, channels, height, width), and this input has the shape "
            f"{inputs.shape}; set shift to 0 and flip to false.",
        )
    moved = _shifted(inputs, rng, shift, black) if shift else inputs.copy()
    if flip:
        mirrored = rng.random(len(moved)) < 0.5
        moved[mirrored] = moved[mirrored, :, :, ::-1]
    return moved


def _shifted(inputs: NDArray[Any], rng: np.random.Generator, shift: int, black: NDArray[Any] | float) -> NDArray[Any]:
    rows, channels, height, width = inputs.shape
    padded = np.empty((rows, channels, height + 2 * shift, width + 2 * shift), inputs.dtype)
    padded[...] = np.reshape(black, (-1, 1, 1))
    padded[:, :, shift : shift + height, shift : shift + width] = inputs
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    down, right = rng.integers(0, 2 * shift + 1, (2, rows))
    result: NDArray[Any] = windows[np.arange(rows), :, down, right]
    return result
