"""How many bits the codes of a tensor will take, as a term of a loss: smooth, adaptive, and never to be trusted alone.

The length of a code k is -log2 of its share among the tensor's codes, where k and -k have the same share. Training
changes the shares and the shares the training: a table that is made anew at each update runs away. So counts are
averaged over many updates, no code is impossible, and a larger magnitude is never cheaper than a smaller one.

Between codes the length is interpolated: that is what a code costs on average where a weight is rounded after noise
of half a step each way is added (Ballé, Laparra, Simoncelli, "End-to-end optimized image compression", ICLR 2017,
section 3; for weights Wiedemann, Marban, Müller, Samek, "Entropy-constrained training of deep neural networks",
IJCNN 2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: Of the average, what an update leaves.
_MEMORY = 0.9
#: Counts that no weight has earned: so many of code 0, and each next one's times the other number.
_PRIOR, _FALL = 0.5, 0.7


class RateModel(nn.Module):
    """Code lengths of one tensor's codes, -most to most.

    Its buffers are all that it has learned.
    """

    counts: torch.Tensor
    lengths: torch.Tensor
    bits: torch.Tensor
    led: torch.Tensor

    def __init__(self, most: int, device: str) -> None:
        super().__init__()
        self.most = most
        self.register_buffer("counts", torch.zeros(2 * most + 1, device=device))
        self.register_buffer("lengths", torch.zeros(2 * most + 1, device=device))
        #: What the codes of the last `update` take by the table.
        self.register_buffer("bits", torch.zeros((), device=device))
        #: Notes of `squeezer.training.rate_control`, so that a checkpoint has them.
        self.register_buffer("led", torch.zeros(4, dtype=torch.float64))

    @torch.no_grad()
    def update(self, codes: torch.Tensor) -> None:
        """Learn from the codes as they are now: any shape, whole numbers within ±most of any type."""
        where = codes.reshape(-1).to(torch.int64) + self.most
        counts = torch.bincount(where, minlength=2 * self.most + 1)
        known = counts.to(self.counts.dtype)
        if self.counts.any():
            known = torch.lerp(known, self.counts, _MEMORY)
        self.counts.copy_(known)
        self.lengths.copy_(self._lengths())
        self.bits.copy_((counts * self.lengths).sum())

    def _lengths(self) -> torch.Tensor:
        magnitudes = torch.arange(self.most + 1, device=self.counts.device)
        both = (self.counts[self.most :] + self.counts[: self.most + 1].flip(0)) / 2 + _PRIOR * _FALL**magnitudes
        total = both[0] + 2 * both[1:].sum()
        rising = torch.cummax(-torch.log2(both / total), 0).values
        return torch.cat([rising[1:].flip(0), rising])

    def price(self, positions: torch.Tensor) -> torch.Tensor:
        """The sum of the interpolated lengths at these positions, latent weights in units of the step; a scalar.

        Beyond ±most the length is that of the outermost code, and its gradient 0.
        """
        result: torch.Tensor = _Interpolated.apply(positions, self.lengths, self.most)  # type: ignore[no-untyped-call] # torch's own
        return result


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: torch.Tensor, lengths: torch.Tensor, most: int) -> torch.Tensor:
        inside = positions.clamp(-most, most)
        below = inside.floor().clamp_(max=most - 1)
        at = below.to(torch.int64).add_(most)
        slopes = lengths.diff().take(at)
        ctx.save_for_backward(torch.where(inside == positions, slopes, 0.0))
        return lengths.take(at).sum() + ((inside - below) * slopes).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return gradients[0] * slopes, None, None
