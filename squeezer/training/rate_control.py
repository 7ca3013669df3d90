"""The price of a bit during a training: what the user says, or led so that the codes become as short as the user says.

A led price is moved by how far, in logarithms, the size is from where it should be by then: a part in proportion, and a
part that sums up. It is the multiplier of a Lagrangian, which climbs while the constraint is not met.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from squeezer.artifact.writer import encode_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from squeezer.training.trained_levels import TrainedLevels

#: Updates from one look at the codes to the next.
_EVERY = 8
#: How often in a training the codes are really coded, since a coder that knows their neighbours does better than the
#: model.
_CODINGS = 50
#: How fast the size nears what was asked for: e to the power of so many times in a training.
_PACE = 15.0
#: The share of a training in which a price that was given rises to its value.
_RISING = 0.2
#: The logarithm of the price at the start; what an error of 1 adds to it, at once and in a whole training.
_FIRST, _PROPORTIONAL, _INTEGRAL = math.log(0.1), 5.0, 20.0
#: The largest error that is believed.
_LIMIT = 1.0
#: Where each note is. The first two are those of the first tensor alone: the logarithm of the price, and the part of
#: it that sums up. Each tensor has its bits at the start, and what the coder takes over what the model says.
_PRICE, _SUM, _START, _CODED = range(4)


class RateControl:
    """Sets the price before each update. All that it remembers is in the buffers of the tensors.

    Args:
        levels: the tensors whose codes are to be short, at least one.
        rate_weight: the price; None where the bits are given.
        bits: what all codes together may take, as coded; None where the price is given.
        coder: how the codes will be coded: see `squeezer.artifact.writer.encode_tensor`.
        level: the same.
    """

    def __init__(
        self, levels: Mapping[str, TrainedLevels], rate_weight: float | None, bits: float | None, coder: str, level: str
    ) -> None:
        self._levels = list(levels.values())
        self._weights = sum(one.latent.numel() for one in self._levels)
        self._given, self._aim = rate_weight, bits
        self._coder, self._level = coder, level
        self._share = 0.0
        for one in self._levels:
            one.rate.led[_CODED] = 1.0
        self._notes[_PRICE] = self._notes[_SUM] = _FIRST

    def before_update(self, step: int, total: int, _: object) -> None:
        """The hook of the training."""
        self._share = step / total
        if step % _EVERY:
            return
        for one in self._levels:
            one.rate.update(one.codes())
        if self._aim is not None:
            if step // _EVERY % max(1, total // (_CODINGS * _EVERY)) == 0:
                self._code()
            self._lead(self._aim, step, total)

    def penalty(self, _: object) -> torch.Tensor:
        """What all codes cost: the price times the bits of an average weight."""
        bits = self._levels[0].bits()
        for one in self._levels[1:]:
            bits = bits + one.bits()
        return bits * (self.price / self._weights)

    @property
    def price(self) -> float:
        """What one bit for each weight costs by now, in units of the loss."""
        if self._given is not None:
            return self._given * min(1.0, self._share / _RISING)
        return math.exp(self._notes[_PRICE].item())

    @property
    def bits(self) -> float:
        """What all codes took when they were last looked at."""
        return sum(one.rate.bits.item() * one.rate.led[_CODED].item() for one in self._levels)

    @property
    def _notes(self) -> torch.Tensor:
        return self._levels[0].rate.led

    def _code(self) -> None:
        for one in self._levels:
            coded = 8 * len(encode_tensor(one.freeze(), self._coder, self._level).data)
            one.rate.led[_CODED] = coded / max(one.rate.bits.item(), 1.0)

    def _lead(self, aim: float, step: int, total: int) -> None:
        """Move the price by how far the bits are from the way to the aim, on which they fall at an even rate."""
        bits = max(self.bits, 1.0)
        if step == 0:
            self._notes[_START] = bits
        left = math.exp(-_PACE * step / total)
        goal = self._notes[_START].item() ** left * aim ** (1 - left)
        error = max(-_LIMIT, min(_LIMIT, math.log(bits / goal)))
        self._notes[_SUM] += _INTEGRAL * error * _EVERY / total
        self._notes[_PRICE] = self._notes[_SUM] + _PROPORTIONAL * error
