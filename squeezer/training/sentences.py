"""An evaluation in one sentence: what a user must know first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Metrics that are shown as percentages, and what they are called.
PERCENT = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "binary_accuracy": "accuracy",
    "mean_iou": "mean IoU",
}
_NAMES = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "r2": "R²",
    "cosine_similarity": "cosine similarity",
}
_SPLITS = {"test": "held-out", "validation": "validation", "train": "training"}
#: A drop with a smaller p is taken for real.
SIGNIFICANT = 0.05
#: From so many examples, a hundredth of a point can be one of them.
_MANY = 2000


def headline(evaluation: Mapping[str, Any]) -> str:
    """One sentence, or two where something is wrong, of an evaluation's document (all but its `headline`)."""
    what = f"{evaluation['rows']} {_SPLITS[evaluation['split']]} examples"
    broken = evaluation["non_finite"]
    warning = "".join(
        f"The {name}'s output is not a finite number on {broken[name]} of {what}. "
        for name in ("original", "result")
        if broken[name]
    )
    return warning + (_labelled(evaluation, what) if evaluation["labelled"] else _unlabelled(evaluation, what))


def _labelled(evaluation: Mapping[str, Any], what: str) -> str:
    metric, before, after = evaluation["metric"], evaluation["original"]["value"], evaluation["result"]["value"]
    name = PERCENT.get(metric) or _NAMES.get(metric, metric)
    if before is None or after is None:
        return f"The {name} on {what} could not be measured."
    digits = 2 if evaluation["rows"] >= _MANY else 1
    percent = metric in PERCENT
    values = (
        f"{100 * before:.{digits}f} -> {100 * after:.{digits}f} % {name}" if percent else _plain(before, after, name)
    )
    return f"{values} on {what}; {_change(evaluation, digits if percent else None)}"


def _plain(before: float, after: float, name: str) -> str:
    return f"{before:.4g} -> {after:.4g} {name}"


def _change(evaluation: Mapping[str, Any], digits: int | None) -> str:
    drop, p, flips = evaluation["drop"], evaluation["test"]["p"], evaluation["flips"]
    if not drop["value"] and not drop["low"] and not drop["high"]:
        return "no prediction changed" if flips and not flips["count"] else "no difference was found"
    words = ("drop", "gain") if evaluation["better"] == "higher" else ("rise", "fall")
    word, sign = (words[0], 1) if drop["value"] >= 0 else (words[1], -1)
    low, high = sorted((sign * drop["low"], sign * drop["high"]))
    size, low_text, high_text = (_amount(number, digits) for number in (abs(drop["value"]), low, high))
    verdict = "is no accident" if p < SIGNIFICANT else "cannot be told from none"
    unit = "" if digits is None else " points"
    return f"the {word} of {size}{unit} (95 %: {low_text} to {high_text}) {verdict} ({p_text(p)})"


def _amount(number: float, digits: int | None) -> str:
    text = f"{number:.3g}" if digits is None else f"{100 * number:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def p_text(p: float) -> str:
    """`p = 0.012`, `p = 1.0`, `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.1f}" if p > 0.95 else f"p = {p:.2g}"


def _unlabelled(evaluation: Mapping[str, Any], what: str) -> str:
    agreement, deviation = evaluation["agreement"], evaluation["deviation"]
    if agreement is not None and agreement["value"] is not None:
        value, low, high = (f"{100 * agreement[key]:.1f}" for key in ("value", "low", "high"))
        nats = evaluation["divergence"]
        apart = "" if nats is None else f"; mean KL divergence {nats:.2g} nats"
        return (
            f"No labels, so the accuracy is unknown: {value} % (95 %: {low} to {high}) of the predictions on {what} "
            f"are the original's{apart}"
        )
    if deviation is not None and deviation["mean"] is not None:
        return (
            f"No targets, so the error is unknown: on {what} the outputs deviate by {deviation['mean']:.2%} of their "
            f"spread in the mean, and by {deviation['largest']:.2%} at most"
        )
    return f"No targets, and nothing could be measured on {what}"
