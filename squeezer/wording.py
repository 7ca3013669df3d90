"""What was measured, in words and figures for people. Plain text; `squeezer.console` lays it out."""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING, Any

from squeezer.training.sentences import PERCENT, p_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_BARS = "▁▂▃▄▅▆▇█"
#: Divergences that have the lowest and the highest bar, in nats.
_LEAST, _MOST = 1e-4, 3.0


def evaluation_lines(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and text of each line.

    Args:
        evaluation: as `squeezer.training.evaluation.evaluate` returns it.
    """
    if evaluation["labelled"]:
        percent = evaluation["metric"] in PERCENT
        before, after = (_with_interval(evaluation[name], percent) for name in ("original", "result"))
        yield evaluation["metric"].replace("_", " "), f"{before} -> {after}, {_rows(evaluation)}"
        yield _drop(evaluation, percent)
    if evaluation["flips"]:
        yield "predictions", _flips(evaluation["flips"])
    if evaluation["worst_class"]:
        yield "worst class", _worst(evaluation["worst_class"])
    if evaluation["calibration_error"]:
        errors = evaluation["calibration_error"]
        before, after = (_percent(errors[name]) for name in ("original", "result"))
        yield "calibration", f"expected error {before} -> {after}"
    if evaluation["agreement"]:
        nats = evaluation["divergence"]
        apart = "" if nats is None else f", mean KL divergence {nats:.2g} nats"
        text = f"{_with_interval(evaluation['agreement'], percent=True)} of the predictions are the original's{apart}"
        yield "agreement", text if evaluation["labelled"] else f"{text}, {_rows(evaluation)}"
    if evaluation["deviation"]:
        mean, largest = (_percent(evaluation["deviation"][name]) for name in ("mean", "largest"))
        yield "deviation", f"{mean} of the outputs' spread in the mean, {largest} at most"


def _rows(evaluation: Mapping[str, Any]) -> str:
    return f"{evaluation['rows']} {evaluation['split']} rows"


def _drop(evaluation: Mapping[str, Any], percent: bool) -> tuple[str, str]:
    title = "drop" if evaluation["better"] == "higher" else "rise"
    p, name = evaluation["test"]["p"], evaluation["test"]["name"]
    test = "" if p is None else f", {p_text(p)} ({name})"
    return title, f"{_with_interval(evaluation['drop'], percent, 'points' if percent else '')}{test}"


def _with_interval(figure: Mapping[str, float | None], percent: bool, unit: str = "%") -> str:
    """`97.9 % (97.1 to 98.5)`."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "unknown"
    if percent:
        return f"{100 * value:.2f} {unit} ({100 * low:.2f} to {100 * high:.2f})"
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f} %"


def _flips(flips: Mapping[str, Any]) -> str:
    parts = [
        f"{flips[key]} {key.replace('_', ' ')}" for key in ("right_to_wrong", "wrong_to_right", "wrong_to_other_wrong")
    ]
    return f"{flips['count']} of {flips['of']} changed ({_percent(flips['share'])}): {', '.join(parts)}"


def _worst(worst: Mapping[str, Any]) -> str:
    p = "" if worst["p"] is None else f", {p_text(worst['p'])} as the worst of {worst['looked_at']}"
    shares = f"{_percent(worst['original'])} -> {_percent(worst['result'])}"
    return f"{worst['class']}: {shares} of {worst['examples']}{p}"


def event_line(event: Mapping[str, Any]) -> str:
    """What happened in the middle of the work, and what was done about it."""
    what = str(event["event"]).replace("_", " ")
    if event.get("step") is not None:
        what += f" (epoch {event['epoch'] + 1}, step {event['step']})"
    rest = [str(event[key]) for key in ("reason", "action") if event.get(key)]
    return f"{event['method']}: {': '.join([what, '; '.join(rest)] if rest else [what])}"


# Sensitivity ----------------------------------------------------------------------------------------------


def sensitivity_table(findings: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: each tensor, the most sensitive first, and then the groups.

    Args:
        findings: of the step `sensitivity`.
    """
    shares = [f"{share:.4g}" for share in findings["sparsities"]]
    columns = ["tensor", "weights", "curve", *(f"KL at {share}" for share in shares), "could be zero"]
    rows = [
        [row["name"], *_figures(row), f"{row['suggested']:.0%}" if row["suggested"] else "-"]
        for row in findings["tensors"]
    ]
    rows += [[f"together: {' + '.join(row['names'])}", *_figures(row), ""] for row in findings["groups"]]
    return columns, rows


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['weights']:,}", curve(row["divergence"]), *map(_nats, row["divergence"])]


def _nats(divergence: float | None) -> str:
    if divergence is None:
        return "none"
    return "0" if divergence < 5e-6 else f"{divergence:.5f}" if divergence < 0.01 else f"{divergence:.3f}"


def curve(divergences: Sequence[float | None]) -> str:
    """Bars of heights that follow the logarithm of the divergence; `!` where there were no numbers."""
    steps = (len(_BARS) - 1) / log10(_MOST / _LEAST)
    return "".join(
        "!" if value is None else _BARS[round(log10(min(max(value, _LEAST), _MOST) / _LEAST) * steps)]
        for value in divergences
    )


def sensitivity_lines(findings: Mapping[str, Any]) -> Iterator[str]:
    """What the table comes to."""
    together = findings["together"]
    if together["sparsity"]:
        share = f"{together['sparsity']:.1%} of the weights"
        yield f"all that could be zero, together: {share}, {_effect(together, findings)}"
    if findings["removable"]:
        names = "; ".join(" + ".join(names) for names in findings["removable"])
        yield f"could go altogether, all of them together ({_effect(findings['removed'], findings)}): {names}"


def _effect(effect: Mapping[str, Any], findings: Mapping[str, Any]) -> str:
    parts = [f"KL {_nats(effect['divergence'])}"]
    if effect["agreement"] is not None:
        parts.append(f"agreement {_percent(effect['agreement'])}")
    if effect["metric"] is not None:
        name, before, after = findings["metric"], findings["unchanged"]["metric"], effect["metric"]
        shown = [_percent(x) if name in PERCENT else f"{x:.4g}" for x in (before, after) if x is not None]
        parts.append(f"{name.replace('_', ' ')} {' -> '.join(shown)}")
    return ", ".join(parts)
