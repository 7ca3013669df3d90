"""Quantisation that has seen what layers are given: the errors of weights and of inputs make each other good."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from squeezer.methods.network_step import NetworkStep
from squeezer.methods.quantization.uniform_quantize import UniformQuantize

if TYPE_CHECKING:
    from collections.abc import Set

    from squeezer.representations import Representation, Trellis
    from squeezer.training.workbench import State, Workbench


class CalibratedQuantize(NetworkStep):
    """Trellis-coded levels with the error feedback that training rows call for (Frantar et al., GPTQ, ICLR 2023).

    Layers are quantised one after another. Each first takes the weights with which it comes nearest to its old outputs,
    given the inputs that the quantised layers before it leave. Labels are not needed.
    """

    method: Literal["calibrated_quantize"] = "calibrated_quantize"
    relative_step: float = Field(0.8, gt=0, le=1e6, description="the step, over the weights' root mean square")
    scope: Literal["tensor", "global"] = Field(
        "global", description="take the root mean square of each tensor, or of all selected tensors together"
    )
    rows: int = Field(512, ge=1, le=1 << 20, description="how many training rows are looked at, at most")
    damping: float = Field(
        0.02, gt=0, le=1, description="added to the inputs' second moments, as a share of their mean"
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked"})
    produces: ClassVar[str] = "trellis"
    needs_data: ClassVar[bool] = True
    summary: ClassVar[str] = "round to steps with the errors fed back as your data asks for"

    @model_validator(mode="after")
    def _check_per_tensor(self) -> Self:
        for pattern, settings in self.overrides.items():
            if settings.keys() - {"relative_step"}:
                raise ValueError(f"overrides[{pattern!r}] may set relative_step alone")
        return self

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The network with its selected weights quantised, and with other biases.

        Raises:
            ModelError: where a weight is not finite, or the step so small that codes exceed 30 bits.
            DataError: there are no training rows.
        """
        from squeezer.methods.quantization.calibration import calibrated
        from squeezer.training.workbench import State

        start = self._start({name: tensor for name, tensor in state.tensors.items() if name in names}, bench.seed)
        changed = calibrated(state, start, bench, rows=self.rows, damping=self.damping)
        return State(state.graph, state.tensors | start | changed)

    def _start(self, tensors: dict[str, Representation], seed: int) -> dict[str, Trellis]:
        """What the step comes to without data: the steps, and the codes of layers that are not reached."""
        plain = UniformQuantize(
            relative_step=self.relative_step,
            scope=self.scope,
            error_feedback=True,
            trellis=True,
            overrides=self.overrides,
        )
        surveyed = plain.survey(tensors.items) if plain.survey_passes else None
        applied = {name: plain.for_tensor(name).apply(name, tensor, surveyed, seed) for name, tensor in tensors.items()}
        return cast("dict[str, Trellis]", applied)
