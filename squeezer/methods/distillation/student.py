"""Whether a network that came as a student can take the place of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from squeezer.data.dataset import Split
from squeezer.errors import Code, ModelError

if TYPE_CHECKING:
    import torch

    from squeezer.data.dataset import Dataset
    from squeezer.data.spec import Loss
    from squeezer.graph import Input
    from squeezer.training.workbench import State


def check_fits(student: State, original: State, data: Dataset, loss: Loss, device: str) -> None:
    """See before any training that a student takes what the original takes, in its order, and gives what it gives.

    Raises:
        ModelError: MISMATCHED_ARCHITECTURE; or the student's graph cannot be run.
    """
    own, wanted = student.graph.inputs, original.graph.inputs
    if len(own) != len(wanted) or not all(map(_takes, own, wanted)):
        raise _mismatch(f"takes {_inputs(own)}, and the network takes {_inputs(wanted)}")
    from squeezer.training.probe import ROWS
    from squeezer.training.runner import Teacher, on_device

    teacher = Teacher(original, loss, device)
    inputs, _ = on_device(data.batch(Split.TRAIN, np.zeros(teacher.fixed or ROWS, np.int64)), device)
    expected = teacher(inputs)
    try:
        found = Teacher(student, loss, device)(inputs)
    except ModelError as error:
        raise ModelError(error.code, f"The student: {error.detail}") from error
    except (RuntimeError, IndexError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _mismatch(f"does not run on what the network takes, {_inputs(wanted)}: {reason[:300]}") from error
    if found.shape != expected.shape or not found.is_floating_point():
        raise _mismatch(f"gives {_output(found)}, and the network gives {_output(expected)}")


def _takes(own: Input, wanted: Input) -> bool:
    """Whether an input takes all that the original's takes: a shape of its own may leave extents open."""
    return (
        own.dtype == wanted.dtype
        and len(own.shape) == len(wanted.shape)
        and all(extent in (None, other) for extent, other in zip(own.shape, wanted.shape, strict=True))
    )


def _mismatch(what: str) -> ModelError:
    return ModelError(
        Code.MISMATCHED_ARCHITECTURE,
        f"The student {what}. Export one that takes and gives what the network does.",
    )


def _inputs(inputs: tuple[Input, ...]) -> str:
    shown = (f"{one.dtype} ({_shape(one.shape)})" for one in inputs)
    return " and ".join(shown) or "no inputs"


def _output(output: torch.Tensor) -> str:
    dtype = str(output.dtype).removeprefix("torch.")
    return f"{dtype} ({_shape((None, *output.shape[1:]) if output.ndim else ())})"


def _shape(shape: tuple[int | None, ...]) -> str:
    return ", ".join("any" if extent is None else str(extent) for extent in shape)
