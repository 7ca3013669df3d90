"""Rows and goals that the parts of `benchmarks.codec` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.common import Goal, at_least, at_most, either

if TYPE_CHECKING:
    from benchmarks.codec_coders import Coded

MEGA = 1e6
#: What zstd -1 decoded where the goals were set, in M symbols/s; a slower machine may show the share of it instead.
_YARDSTICK = 1450.0


def row(
    data: str, coded: Coded, *, bytes_before: int, entropy: float | None = None, rival: float | None = None
) -> dict[str, Any]:
    """A row of the table.

    Args:
        data: what was coded.
        coded: by which coder, and how.
        bytes_before: what the ratio is to.
        entropy: bytes at the order-0 entropy.
        rival: symbols that zstd -1 decodes in a second.
    """
    share = coded.count / coded.decode / rival if coded.decode and rival else None
    return {
        "data": data,
        "coder": coded.coder,
        "bytes": coded.nbytes,
        "ratio": bytes_before / coded.nbytes,
        "bits/weight": 8 * coded.nbytes / coded.count,
        "% above entropy": None if entropy is None else 100 * (coded.nbytes / entropy - 1),
        "encode M/s": _rate(coded, coded.encode),
        "decode M/s, fresh": _rate(coded, coded.fresh),
        "decode M/s, warm": _rate(coded, coded.warm),
        "decode M/s, to symbols": _rate(coded, coded.to_symbols),
        "of zstd -1 decode": share,
        "relative error": coded.relative_error,
    }


def _rate(coded: Coded, taken: float | None) -> float | None:
    return None if taken is None else coded.count / taken / MEGA


def above_entropy(name: str, coded: Coded, entropy: float, bound: float) -> Goal:
    """The goal that a coder's bytes are at most so many per cent above the entropy."""
    return at_most(f"{name}, {coded.coder}", 100 * (coded.nbytes / entropy - 1), bound, "% above entropy")


def speed(name: str, taken: float | None, count: int, bound: float, rival: float) -> Goal:
    """The goal of so many million weights a second, or of their share of what zstd -1 decodes."""
    figure = count / taken if taken else float("nan")
    return either(
        at_least(name, figure / MEGA, bound, "M weights/s"),
        at_least("share of zstd -1 decode", figure / rival, round(bound / _YARDSTICK, 3), "of it"),
    )


def beside_nncodec(name: str, ours: Coded, theirs: Coded, lead: float | None = None) -> list[Goal]:
    """The goals of a file that is no larger, and where asked for, of compressing so many times as fast."""
    goals = [at_most(f"{name}, {ours.coder} beside nncodec", ours.nbytes / theirs.nbytes, 1.0, "of its bytes")]
    if lead and ours.encode and theirs.encode:
        found = theirs.encode / ours.encode
        goals.append(at_least(f"{name}, {ours.coder} compresses", found, lead, "times as fast as nncodec"))
    return goals
