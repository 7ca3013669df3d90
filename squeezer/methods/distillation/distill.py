"""Distillation: a network learns what the original answers, and not the labels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from squeezer.errors import Code, ModelError
from squeezer.methods.network_step import TrainingStep

if TYPE_CHECKING:
    from collections.abc import Set

    from squeezer.training.workbench import State, Workbench


#: Of `student`: the file that came as the student.
UPLOADED = "uploaded"


class Distill(TrainingStep):
    """Train the network as it is by now, or a smaller one, on the original's softened outputs (Hinton et al. 2015)."""

    method: Literal["distill"] = "distill"
    student: str | None = Field(
        None,
        description="what takes the network's place: an architecture of the zoo, untrained; or `uploaded`, the file "
        "that came as the student, with its weights; by default the network itself",
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked", "shared", "uniform", "trellis"})
    produces: ClassVar[str] = "same"
    summary: ClassVar[str] = "train the network, or a smaller one, on the original's outputs"

    def leaves(self, kind: str) -> str:
        """A student's tensors are all dense."""
        return kind if self.student is None else "dense"

    @property
    def replaces_network(self) -> bool:
        """Where there is a student."""
        return self.student is not None

    @property
    def needs_student(self) -> bool:
        """Where it is the one that came as a file."""
        return self.student == UPLOADED

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The student."""
        del names
        from squeezer.training.loop import train

        return train(self._start(state, bench), bench, self)

    def _start(self, state: State, bench: Workbench) -> State:
        """What the training begins with."""
        if self.student is None:
            return state
        if self.student != UPLOADED:
            return _untrained(self.student, bench)
        assert bench.student is not None  # noqa: S101 # the plan has seen to it; this tells mypy
        return bench.student


def _untrained(student: str, bench: Workbench) -> State:
    """A student for the inputs and the outputs of the original."""
    import numpy as np

    from squeezer.data.dataset import Split
    from squeezer.training.runner import Teacher, on_device
    from squeezer.zoo import initial_state

    assert bench.data is not None  # noqa: S101 # steps that train need data; this tells mypy
    teacher = Teacher(bench.original, bench.spec.loss, bench.device)
    inputs, _ = on_device(bench.data.batch(Split.TRAIN, np.zeros(teacher.fixed or 1, np.int64)), bench.device)
    outputs = teacher(inputs)
    if len(inputs) != 1 or outputs.ndim != 2:
        raise ModelError(
            Code.MISMATCHED_ARCHITECTURE,
            f"the student {student!r} has one input and gives one row of numbers for it, and the network has "
            f"{len(inputs)} and an output of the shape {tuple(outputs.shape)}; leave student out",
        )
    state = initial_state(student, outputs.shape[1], tuple(inputs[0].shape[1:]), bench.seed)
    (own,), (given,) = state.graph.inputs, bench.original.graph.inputs
    if own.dtype != given.dtype:
        raise ModelError(
            Code.MISMATCHED_ARCHITECTURE,
            f"the student {student!r} takes inputs of the type {own.dtype}, and the network takes {given.dtype}; leave "
            "student out, or export the network in that type",
        )
    return state
