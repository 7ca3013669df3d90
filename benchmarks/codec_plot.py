"""A plot of how small against how fast. The only part of `benchmarks.codec` that needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.codec_coders import Coded

_OURS, _OTHERS = "#0b6e4f", "#8a8a8a"
_BYTES = 4  # of a float32
#: Height of a line of text in points, and the heights at which a label is tried, nearest first.
_LINE = 9.0
_SHIFTS = tuple(sign * _LINE * k for k in range(50) for sign in (-1, 1))


def plot(groups: Mapping[str, Sequence[Coded]], entropies: Mapping[str, float], ours: set[str], out: Path) -> None:
    """Ratio to float32 against decode speed, one panel for each set of symbols.

    Args:
        groups: what the coders did, by the name of the symbols.
        entropies: bytes at the order-0 entropy, by the same names.
        ours: names of Squeezer's own coders.
        out: `.svg` or `.png`.
    """
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: smaller, and searchable
    mpl.rcParams["svg.hashsalt"] = "codec"  # equal figures make equal files
    figure = Figure(figsize=(4.6 * len(groups), 4.6), layout="constrained")
    panels = []
    for i, (name, group) in enumerate(groups.items()):
        axes = figure.add_subplot(1, len(groups), i + 1)
        # What makes nothing smaller only squeezes the others together.
        shown = [coded for coded in group if coded.decode and coded.nbytes < coded.count]
        _panel(axes, name, shown, group[0].count / entropies[name], ours)
        panels.append((axes, shown))
    figure.draw_without_rendering()  # only now is it known where the points lie
    for axes, shown in panels:
        _label(axes, shown, ours)
    figure.savefig(out, dpi=80, metadata={"Date": None} if out.suffix == ".svg" else None)


def _place(coded: Coded) -> tuple[float, float]:
    """M symbols decoded in a second, and times smaller than float32."""
    return coded.count / (coded.decode or float("nan")) / 1e6, _BYTES * coded.count / coded.nbytes


def _panel(axes: Axes, name: str, group: Sequence[Coded], symbols_a_byte: float, ours: set[str]) -> None:
    for coded in group:
        axes.scatter(*_place(coded), color=_OURS if coded.coder in ours else _OTHERS, s=24)
    axes.axhline(_BYTES * symbols_a_byte, color=_OTHERS, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.minorticks_off()  # each would be an element of the drawing
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("million weights decoded per second, one core")
    axes.set_ylabel("times smaller than float32 (dotted: order-0 entropy)")
    axes.margins(x=0.3, y=0.15)


def _label(axes: Axes, group: Sequence[Coded], ours: set[str]) -> None:
    """Name every point beside it, or below, or above, at the first height that is free."""
    taken: list[tuple[float, float, float]] = []
    for coded in group:
        x, y = axes.transData.transform(_place(coded)) * 72 / axes.figure.dpi
        width = 5.0 * len(coded.coder)
        shift = next(s for s in _SHIFTS if not any(_overlap(x, y + s, width, *other) for other in taken))
        taken.append((x, y + shift, width))
        axes.annotate(
            coded.coder,
            _place(coded),
            xytext=(5, shift),
            textcoords="offset points",
            fontsize=8,
            color=_OURS if coded.coder in ours else _OTHERS,
        )


def _overlap(x: float, y: float, width: float, other_x: float, other_y: float, other_width: float) -> bool:
    return x < other_x + other_width and other_x < x + width and abs(y - other_y) < _LINE
