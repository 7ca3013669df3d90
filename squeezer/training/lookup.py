"""Weights looked up in a table, and the summed gradient that the table gets: the same for the same numbers, always."""

from __future__ import annotations

from typing import Any

import torch

#: Gradients are added as integers of so many bits below the largest magnitude: 2**26 of them fit into 63.
_BITS = 36


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(codes)
        ctx.size = table.numel()
        return table.index_select(0, codes.reshape(-1)).view(codes.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (codes,) = ctx.saved_tensors
        return summed(gradients[0], codes, ctx.size), None


def lookup(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """`table[codes]`, of the shape of `codes` (int32). The gradient of an entry is the sum over the codes that name it.

    That is equation 3 of Han, Mao, Dally, ICLR 2016: dL/dC_k = sum over i, j of dL/dW_ij [I_ij = k].
    """
    result: torch.Tensor = _Lookup.apply(table, codes)  # type: ignore[no-untyped-call] # torch's own
    return result


def summed(gradient: torch.Tensor, codes: torch.Tensor, size: int) -> torch.Tensor:
    """The sum of `gradient` over each code 0 to size - 1: shape (size,), of the gradient's type."""
    flat, where = gradient.reshape(-1).double(), codes.reshape(-1)
    if flat.device.type == "cpu":  # one thread, in order
        return torch.bincount(where, flat, size).to(gradient.dtype)
    return _in_whole_numbers(flat, where, size).to(gradient.dtype)


def _in_whole_numbers(gradient: torch.Tensor, codes: torch.Tensor, size: int) -> torch.Tensor:
    """The same, of (n,) float64. A GPU adds in no fixed order, which for floating-point numbers matters.

    Integers it adds exactly, so that gradients are first brought to whole multiples of 2**-36 of the largest one.
    """
    largest = gradient.abs().amax() if gradient.numel() else gradient.new_zeros(())
    unit = torch.where(largest > 0, largest, 1.0) * 2.0**-_BITS
    whole = torch.zeros(size, dtype=torch.int64, device=gradient.device)
    whole.index_add_(0, codes, torch.round(gradient / unit).to(torch.int64))
    # A NaN would have become an integer like any other.
    return torch.where(largest.isfinite(), whole * unit, torch.nan)
