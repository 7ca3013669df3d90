"""Opens a data set for a network, whose outputs are tried out first, so that targets can be checked against them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.data.accept import mismatch
from squeezer.data.open import open_dataset
from squeezer.errors import Code, DataError, ModelError
from squeezer.model import DTYPES
from squeezer.training.tensors import share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from squeezer.data import DataSpec
    from squeezer.data.accept import Accept
    from squeezer.data.dataset import Dataset
    from squeezer.graph import Input
    from squeezer.training.runnable import Runnable

#: What an open extent is where none is given: with one row a network may be another one, for extents of 1 are dropped
#: here and there.
ROWS = 2


def open_data(path: Path, spec: DataSpec, accept: Accept | None, network: Runnable, device: str) -> Dataset:
    """The data set at `path`, checked against what is asked of it and the network; the caller closes it.

    Args:
        path: the file.
        spec: the recipe's `data`.
        accept: what will be asked of the result.
        network: the original, which wants its inputs on `device`.
        device: "cpu" or "cuda".

    Raises:
        DataError: it cannot be read, or does not fit.
    """
    data = open_dataset(path, spec, network.inputs, outputs=_output_shape(network, device))
    if accept is not None and (reason := mismatch(accept, spec, labelled=data.labelled)):
        data.close()
        raise DataError(Code.INVALID_DATA, reason)
    return data


def zeros(inputs: Sequence[Input]) -> list[NDArray[Any]]:
    """Zeros for every input of a network."""
    return [np.zeros([ROWS if extent is None else extent for extent in one.shape], DTYPES[one.dtype]) for one in inputs]


def _output_shape(network: Runnable, device: str) -> tuple[int | None, ...] | None:
    """The shape of the first output, the batch as None; None where the network does not run on zeros of any shape."""
    try:
        output = network([share(array, device) for array in zeros(network.inputs)])
    except (RuntimeError, IndexError, ValueError):
        return None
    except ModelError as error:
        if error.code is Code.INVALID_ONNX:  # all that ONNX Runtime meets
            return None
        raise
    return (None, *output.shape[1:])
