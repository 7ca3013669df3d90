"""A plot of size against agreement. The only part of `benchmarks.rate` that needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.rate_curves import value_at_loss

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.rate import Curves
    from benchmarks.rate_curves import Point

_OURS, _OTHERS = "#0b6e4f", "#8a8a8a"
#: Points of accuracy lost that are marked.
_MARKS = 0.1, 0.3, 1.0
_TICKS = 0.5, 1, 2, 5, 10


def plot(found: Mapping[str, Curves], out: Path) -> None:
    """Bytes against disagreement with the original, a panel for each network.

    Args:
        found: curves by the network's name.
        out: `.svg` or `.png`.
    """
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: smaller, and searchable
    mpl.rcParams["svg.hashsalt"] = "rate"  # equal figures make equal files
    figure = Figure(figsize=(4.6 * len(found), 4.2), layout="constrained")
    for i, (name, curves) in enumerate(found.items()):
        _panel(figure.add_subplot(1, len(found), i + 1), name, curves)
    figure.savefig(out, dpi=80, metadata={"Date": None} if out.suffix == ".svg" else None)


def _panel(axes: Axes, name: str, curves: Curves) -> None:
    lines: Sequence[tuple[str, Sequence[Point], str, str]] = (
        ("squeezer", curves.ours, _OURS, "-"),
        ("nncodec + fp16", curves.helped, _OTHERS, "--"),
        ("nncodec", curves.alone, _OTHERS, "-"),
    )
    for label, rungs, color, style in lines:
        places = [(rung.disagreement, rung.nbytes / 1000) for rung in rungs]
        axes.plot(*zip(*places, strict=True), style, color=color, marker="o", markersize=3, linewidth=1.2, label=label)
    for lost in _MARKS:
        value = value_at_loss(curves.pooled, "disagreement", lost)
        if value is not None:
            axes.axvline(value, color=_OTHERS, linestyle=":", linewidth=0.8)
            axes.annotate(f"−{lost:g}", (value, 1), xycoords=("data", "axes fraction"), fontsize=7, color=_OTHERS)
    axes.set_xscale("log")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()  # each would be an element of the drawing
    axes.set_title(name, fontsize=10, pad=14)
    axes.set_xlabel("% of images predicted unlike the original")
    axes.set_ylabel("kB (dotted: points of accuracy lost)")
    axes.legend(fontsize=8, frameon=False, loc="lower left")
