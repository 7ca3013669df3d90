"""Part `symbols` of `benchmarks.codec`: every coder on symbols drawn at random."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.codec_coders import Coded, by_nncodec, entropy_bytes, named, symbol_coders
from benchmarks.codec_data import Symbols, gaussian, pruned
from benchmarks.codec_rows import above_entropy, row, speed
from benchmarks.common import Goal, at_least
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS
from squeezer.codecs.symbols import histogram

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from benchmarks.common import Outcome
    from benchmarks.nnc import Nncodec

COUNT, SMALL = 25_000_000, 1_000_000
#: nncodec codes this many symbols of each set: it is slow, and its bytes a symbol are settled by then.
_NNCODEC_SYMBOLS = 1_000_000
_PRUNED = "pruned 90 %, 31 levels"
_DRAWS: tuple[Callable[[int], Symbols], ...] = (
    partial(pruned, _PRUNED, levels=31, sparsity=0.9),
    partial(gaussian, "Gaussian, 16 levels", levels=16),
    partial(gaussian, "Gaussian, 32 levels", levels=32),
)
#: Most bytes above the order-0 entropy, in per cent.
_ABOVE = {"gaps": 1.2, "huffman": 1.2, "rans": 0.3}
#: Least decode speeds in M weights/s.
_GAPS_DECODE, _RANS_DECODE = 1400.0, 500.0


def symbols(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """Sizes and speeds of every coder on each set of symbols."""
    groups: dict[str, list[Coded]] = {}
    entropies: dict[str, float] = {}
    for draw in _DRAWS:
        drawn = draw(SMALL if given.small else COUNT)
        counted = histogram(drawn.codes)
        if counted is None:
            raise RuntimeError("more symbols than a coder takes")
        group = [*symbol_coders(drawn.codes, drawn.values, given.runs), *_by_nncodec(drawn, nncodec)]
        groups[drawn.name], entropies[drawn.name] = group, entropy_bytes(counted)
        outcome.rows += symbol_rows(drawn.name, group, entropies[drawn.name])
    # One yardstick for the machine: sparse symbols, on which zstd is slow, would make it lenient.
    rival = max(_zstd_decode(group) for group in groups.values())
    for name, group in groups.items():
        outcome.goals += symbol_goals(name, group, entropies[name], rival)
    if given.plot:
        from benchmarks.codec_plot import plot  # here, for the other parts do without matplotlib

        ours = {codec.name for codec in SYMBOL_CODECS.values()} | {codec.name for codec in ARRAY_CODECS.values()}
        plot(groups, entropies, ours, given.plot)


def _by_nncodec(drawn: Symbols, nncodec: Nncodec | None) -> list[Coded]:
    if nncodec is None:
        return []
    few = drawn.codes[: min(drawn.codes.size, _NNCODEC_SYMBOLS)]
    side = int(few.size**0.5)
    figures = nncodec.integers({"weight": drawn.levels[few[: side * side]].reshape(side, side)})
    # Scaled, so that its bytes stand beside those of the others.
    return [by_nncodec("nncodec", side * side, figures).scaled(drawn.codes.size / side**2)]


def symbol_rows(name: str, group: list[Coded], entropy: float) -> list[dict[str, Any]]:
    """Rows for all coders of one set of symbols, ratios being to float32."""
    rival = _zstd_decode(group)
    return [row(name, coded, bytes_before=4 * coded.count, entropy=entropy, rival=rival) for coded in group]


def _zstd_decode(group: list[Coded]) -> float:
    """Symbols a second by zstd -1, in the faster way."""
    zstd = named(group, "zstd -1")
    if zstd is None or zstd.decode is None:
        raise RuntimeError("zstd -1 was not measured")
    return zstd.count / zstd.decode


def symbol_goals(name: str, group: list[Coded], entropy: float, rival: float) -> list[Goal]:
    """Gaps on pruned weights, Huffman on the others, rANS on all; `rival` is what zstd -1 decodes in a second."""
    goals = _gaps_goals(name, group, entropy, rival) if name == _PRUNED else _huffman_goals(name, group, entropy)
    return goals + _rans_goals(name, group, entropy, rival)


def _gaps_goals(name: str, group: list[Coded], entropy: float, rival: float) -> list[Goal]:
    gaps = named(group, "gaps")
    if gaps is None:
        return [_missing(name, "gaps")]
    return [
        above_entropy(name, gaps, entropy, _ABOVE["gaps"]),
        speed(f"{name}, gaps decode, warm", gaps.warm, gaps.count, _GAPS_DECODE, rival),
    ]


def _huffman_goals(name: str, group: list[Coded], entropy: float) -> list[Goal]:
    huffman, zstd = named(group, "huffman"), named(group, "zstd -1")
    if huffman is None or zstd is None:
        return [_missing(name, "huffman")]
    goals = [above_entropy(name, huffman, entropy, _ABOVE["huffman"])]
    for what, ours, theirs in (
        ("decode to symbols", huffman.to_symbols, zstd.decode),
        ("encode", huffman.encode, zstd.encode),
    ):
        if ours and theirs:
            goals.append(at_least(f"{name}, huffman {what} beside zstd -1", theirs / ours, 1.0, "times as fast"))
    return goals


def _rans_goals(name: str, group: list[Coded], entropy: float, rival: float) -> list[Goal]:
    rans = named(group, "rans")
    if rans is None:
        return [_missing(name, "rans")]
    return [
        above_entropy(name, rans, entropy, _ABOVE["rans"]),
        speed(f"{name}, rans decodes", rans.decode, rans.count, _RANS_DECODE, rival),
    ]


def _missing(name: str, coder: str) -> Goal:
    return Goal(f"{name}, {coder}", False, "no such coder is registered")
