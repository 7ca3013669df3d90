"""How much each layer matters: zero a share of its weights, look what becomes of the outputs, and put them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from squeezer.methods.network_step import NetworkStep

if TYPE_CHECKING:
    from collections.abc import Set

    from squeezer.training.workbench import State, Workbench


class Sensitivity(NetworkStep):
    """Measure on the validation rows what zeroing shares of each tensor does (Han et al. 2015, section 5, figure 6).

    Tensors are judged by the divergence of the outputs from the original's, not by accuracy, which on a thousand rows
    cannot tell layers apart. Those of one residual branch are also zeroed together. The network is left as it is.
    """

    method: Literal["sensitivity"] = "sensitivity"
    sparsities: tuple[float, ...] = Field(
        (0.5, 0.8, 0.9, 0.95, 1.0), min_length=1, max_length=32, description="shares of zeros, rising, above 0 to 1"
    )
    rows: int = Field(2048, ge=1, description="how many rows of the validation split are used at most")
    max_divergence: float = Field(
        0.01, gt=0, description="tolerance for suggestions: mean KL divergence from the original's outputs, in nats"
    )
    min_agreement: float | None = Field(
        None, ge=0, le=1, description="tolerance as well: the share of predictions that are the original's"
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked", "shared", "uniform", "trellis"})
    produces: ClassVar[str] = "same"
    needs_data: ClassVar[bool] = True
    summary: ClassVar[str] = "find out which layers matter, and change nothing"

    @model_validator(mode="after")
    def _check_sparsities(self) -> Self:
        if any(not 0 < share <= 1 for share in self.sparsities):
            raise ValueError("sparsities are above 0, and 1 at most")
        if any(a >= b for a, b in zip(self.sparsities, self.sparsities[1:], strict=False)):
            raise ValueError("sparsities must rise: 0.5, 0.9, 1.0")
        if self.overrides:
            raise ValueError("sensitivity takes no overrides, since it compares tensors; use include and exclude")
        return self

    @property
    def effort(self) -> float:
        """Some rows, many times over."""
        return 3.0

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The state as it came. The table goes into the findings, under `sensitivity`.

        Raises:
            DataError: there are no validation rows.
        """
        from squeezer.training.sensitivity import survey

        bench.findings["sensitivity"] = survey(self, state, names, bench)
        return state
