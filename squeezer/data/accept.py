"""The recipe's `accept`: how good a result must be, and whether what was measured is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from squeezer.data.spec import DataSpec, Metric

#: Metrics of which less is better.
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"mse", "mae", "perplexity"})
#: Differences of decimal fractions are not exact in binary: 0.98 - 0.97 is a little more than 0.01.
_ROUNDING = 1e-9


class Accept(BaseModel):
    """Bounds on what the evaluation measures on the test rows. All that are given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_drop: float | None = Field(
        None,
        ge=0,
        description="how much worse than the original: in the metric's own unit (0.01 is one point of accuracy), or as "
        "a share of the original's where less is better (0.05: an error at most 5 % larger)",
    )
    min_metric: float | None = Field(
        None, description="the least value of the metric; not for metrics of which less is better"
    )
    min_agreement: float | None = Field(
        None, ge=0, le=1, description="the least share of predictions that are the original's; needs no labels"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_drop is None and self.min_metric is None and self.min_agreement is None:
            raise ValueError("give at least one of max_drop, min_metric and min_agreement")
        return self


def mismatch(accept: Accept, spec: DataSpec, *, labelled: bool = True) -> str | None:
    """Why these bounds could never be judged on such data, in a sentence; None where they can.

    Args:
        accept: the bounds.
        spec: loss and metric.
        labelled: whether there are targets.
    """
    if not labelled and (accept.max_drop is not None or accept.min_metric is not None):
        return "accept: without targets there is no metric to judge by; use min_agreement alone, or send targets"
    if accept.min_metric is not None and spec.measure in LOWER_IS_BETTER:
        return f"accept: min_metric does not go with {spec.measure}, of which less is better; use max_drop"
    if accept.min_agreement is not None and spec.loss not in {"cross_entropy", "binary_cross_entropy"}:
        return f"accept: min_agreement is for predicted classes, and the loss {spec.loss} has none; use max_drop"
    return None


def judge(evaluation: Mapping[str, Any], accept: Accept | None) -> str | None:
    """Why a result is not accepted, in a sentence; None where it is.

    Args:
        evaluation: the document that `squeezer.training.evaluation.evaluate` returns.
        accept: the bounds; None accepts everything. Figures are judged as measured, not by their intervals.
    """
    if accept is None:
        return None
    return "; ".join(_failures(evaluation, accept)) or None


def _failures(evaluation: Mapping[str, Any], accept: Accept) -> Iterator[str]:
    metric, rows = evaluation["metric"], evaluation["rows"]
    if accept.max_drop is not None:
        drop = _drop(evaluation)
        if drop is None:
            yield f"a drop in the metric could not be measured, and at most {accept.max_drop:g} is accepted"
        elif drop > accept.max_drop + _ROUNDING:
            how = "grew by the share" if evaluation["better"] == "lower" else "fell by"
            yield f"{metric} {how} {drop:.4g} on {rows} rows, and at most {accept.max_drop:g} is accepted"
    if accept.min_metric is not None:
        value = _value(evaluation["result"])
        if value is None or value < accept.min_metric - _ROUNDING:
            yield f"{metric or 'the metric'} is {_shown(value)}, and at least {accept.min_metric:g} is accepted"
    if accept.min_agreement is not None:
        value = _value(evaluation["agreement"])
        if value is None or value < accept.min_agreement - _ROUNDING:
            yield (
                f"the share of predictions that agree with the original's is {_shown(value)}, and at least "
                f"{accept.min_agreement:g} is accepted"
            )


def _drop(evaluation: Mapping[str, Any]) -> float | None:
    """How much worse the result is; where less is better, over the original's value."""
    drop = _value(evaluation["drop"])
    if drop is None or evaluation["better"] == "higher":
        return drop
    before = _value(evaluation["original"])
    if not before:
        return None if drop else 0.0
    return drop / before


def _value(figure: Mapping[str, Any] | None) -> float | None:
    return None if figure is None else figure["value"]


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
