"""The context coder again, in plain Python and as slowly as it comes: what `docs/format.md` describes, step by step.

Nothing is shared with the compiled one. Fractions of the interval are Python integers without a limit, tables are
computed with 50 digits, and one walk over the bins serves both directions: the encoder answers each question with a
known bin, the decoder with what the stream says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from functools import cache

Bins = Callable[[int], int]  # from the probability of a 1, in units of 2^-16, to a bin


@cache
def stretch(index: int) -> int:
    with localcontext(prec=50):
        return round(256 * ((2 * Decimal(index) + 1) / (8191 - 2 * Decimal(index))).ln())


@cache
def squash(odds: int) -> int:
    with localcontext(prec=50):
        return round(65536 / (1 + (-Decimal(odds) / 256).exp()))


def average_class(average: int) -> int:
    value = min(average // 4, 511)
    if value < 2:
        return 0
    octave = value.bit_length() - 1
    return min(15, 2 * (octave - 1) + (1 if value & 1 << (octave - 1) else 0))


def clip(level: int) -> int:
    return max(-2, min(2, level))


def sign(level: int) -> int:
    return 0 if level == 0 else 1 if level > 0 else 2


@dataclass
class Estimate:
    fast: int = 1 << 21
    slow: int = 1 << 21
    seen: int = 0

    @property
    def share(self) -> int:
        return (self.fast + self.slow) // 128

    def learn(self, one: int, fast: int) -> None:
        goal = one << 22
        if self.seen < 1 << (fast + 3):
            rate = 655360 // (10 * self.seen + 16)
            self.fast += (goal - self.fast) * max(rate, 65536 >> fast) // 65536
            self.slow += (goal - self.slow) * max(rate, 65536 >> (fast + 3)) // 65536
            self.seen += 1
        else:
            self.fast += (goal - self.fast) // (1 << fast)
            self.slow += (goal - self.slow) // (1 << (fast + 3))


@dataclass
class Walker:
    """Walks over the bins of integers, given the parameters of the stream."""

    low: int
    count: int
    centre: int  # less low
    split: int
    tree: bool
    by_class: bool
    window: int
    fast: int
    columns: int
    quantiser: bool = False
    estimates: dict[tuple[object, ...], Estimate] = field(default_factory=dict)
    weights: dict[object, list[int]] = field(default_factory=dict)

    def _estimate(self, key: tuple[object, ...]) -> Estimate:
        return self.estimates.setdefault(key, Estimate())

    def _single(self, bins: Bins, key: tuple[object, ...]) -> int:
        estimate = self._estimate(key)
        one = bins(estimate.share | 1)
        estimate.learn(one, self.fast)
        return one

    def _mixed(self, bins: Bins, mixer: object, keys: tuple[tuple[object, ...], tuple[object, ...]]) -> int:
        weights = self.weights.setdefault(mixer, [1 << 15, 1 << 15])
        estimates = [self._estimate(key) for key in keys]
        odds = [stretch(estimate.share // 16) for estimate in estimates]
        total = (weights[0] * odds[0] + weights[1] * odds[1]) // 65536
        share = squash(max(-2816, min(2816, total)))
        one = bins(share)
        for k in range(2):
            weights[k] += ((one << 16) - share) * odds[k] // 65536
            estimates[k].learn(one, self.fast)
        return one

    def walk(self, size: int, ask: Callable[[int, str, object], Bins]) -> list[int]:
        """The integers. `ask(i, what, where)` gives the function that answers for a bin of integer i."""
        found: list[int] = []
        levels: list[int] = []
        row = 0
        averages = [0] * self.columns
        trellis: list[int] = []
        for i in range(size):
            trellis = [0, 0, 0] if i % 1024 == 0 else trellis
            q = trellis[-2] if self.quantiser else 0
            a, b, c = [0, 0, 0, *levels[-3:]][-1:-4:-1]
            across = down = average_class(row)
            above = c
            if self.columns:
                down = average_class(averages[i % self.columns])
                above = levels[i - self.columns] if i >= self.columns else 0
            near = (clip(a), clip(b), clip(above))
            other = self._mixed(ask(i, "other", None), "other", (("averages", q, across, down), ("near", *near)))
            level = 0
            if other:
                before, over = ("before", sign(a), sign(b), sign(c)), ("over", sign(above), sign(a))
                negative = self._mixed(ask(i, "negative", None), "negative", (before, over))
                mean = (q, (across + down) // 2 if self.by_class else 0)
                code = self._tree if self.tree else self._length
                magnitude = code(lambda what, where, i=i: ask(i, what, where), mean, negative, near)
                level = -magnitude if negative else magnitude
            rest = self.split + level - (1 if level > 0 else 0)
            if other and not 0 <= rest < self.count - 1:
                raise ValueError("an integer outside its alphabet")
            found.append(self.low + (rest + (rest >= self.centre) if other else self.centre))
            levels.append(level)
            trellis.append((found[-1] + sum(trellis[-3:])) % 2)
            magnitude = 64 * min(abs(level), 1024)
            row += (magnitude - row) // (1 << self.window)
            if self.columns:
                averages[i % self.columns] += (magnitude - averages[i % self.columns]) // 8
        return found

    def _tree(self, ask: Callable[[str, object], Bins], mean: object, negative: int, near: object) -> int:
        largest = max(self.split, self.count - 1 - self.split)
        node = ""
        for _ in range(max(1, (largest - 1).bit_length()) if largest else 1):
            node += str(self._single(ask("tree", node), ("tree", mean, negative, node)))
        return int(node, 2) + 1

    def _length(self, ask: Callable[[str, object], Bins], mean: object, negative: int, near: tuple[int, ...]) -> int:
        length = 0
        while length < 32:
            keys = ("longer", mean, length), ("longer near", near[:2], length)
            if not self._mixed(ask("longer", length), ("longer", min(length, 5)), keys):
                break
            length += 1
        bits = "1"
        for _ in range(length):
            bins = ask("bits", (length, bits))
            bits += str(self._single(bins, ("bits", length, bits)) if len(bits) <= 5 else bins(1 << 15))
        return int(bits, 2)


def decode(walker: Walker, size: int, stream: bytes) -> list[int]:
    """Integers from a stream, by an exact search of an interval that shrinks."""
    digits = iter(stream)
    code = int.from_bytes(bytes(next(digits, 0) for _ in range(8)), "big")
    span = 2**64 - 1

    def bins(share: int) -> int:
        nonlocal code, span
        part = span // 65536 * share
        one = int(code >= span - part)
        if one:
            code -= span - part
            span = part
        else:
            span -= part
        if span < 2**32:
            span <<= 32
            code = code << 32 | int.from_bytes(bytes(next(digits, 0) for _ in range(4)), "big")
        return one

    return walker.walk(size, lambda i, what, where: bins)


def true_bin(walker: Walker, integer: int, what: str, where: object) -> int:
    index = integer - walker.low
    rest = index - (index > walker.centre)
    level = 0 if index == walker.centre else rest - walker.split + (rest >= walker.split)
    magnitude = abs(level)
    largest = max(walker.split, walker.count - 1 - walker.split)
    if what == "tree":
        return int(f"{magnitude - 1:0{max(1, (largest - 1).bit_length())}b}"[len(where)])
    if what == "bits":
        return int(f"{magnitude:b}"[len(where[1])])
    answers = {"other": level != 0, "negative": level < 0, "longer": magnitude.bit_length() - 1 > (where or 0)}
    return int(answers[what])


def encode(walker: Walker, integers: list[int]) -> bytes:
    """The shortest stream: the lower end of the interval, as one long fraction, rounded up to few bytes."""
    low, span, scale = 0, 2**64 - 1, 64

    def answer(one: int) -> Bins:
        def bins(share: int) -> int:
            nonlocal low, span, scale
            part = span // 65536 * share
            if one:
                low += span - part
                span = part
            else:
                span -= part
            if span < 2**32:
                low, span, scale = low << 32, span << 32, scale + 32
            return one

        return bins

    walker.walk(len(integers), lambda i, what, where: answer(true_bin(walker, integers[i], what, where)))
    for cut in range(64, -1, -8):
        end = -(-low >> cut) << cut
        if end < low + span:
            return end.to_bytes(scale // 8, "big").rstrip(b"\0")
    raise AssertionError("an empty interval")
