"""What entropy-constrained training trains: latent weights, the step of their grid, and what their codes are like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from squeezer.representations import Masked, Uniform
from squeezer.training.parametrisation import Parametrisation
from squeezer.training.rate_model import RateModel
from squeezer.training.tensors import rounded, to_numpy, to_torch, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable

    from squeezer.representations import Representation

#: The largest code. Codes are small where they are to be short.
MOST = 127


class TrainedLevels(Parametrisation):
    """Multiples of a step: latent weights are rounded to them, and their gradient passes straight through.

    The step is step_0 exp(theta). Its gradient is that of Esser et al., "Learned step size quantization", ICLR 2020:
    dq/dstep = code - latent / step within the grid, and the code beyond it; over the square root of the number of
    weights, since all of them add to it. Pruned weights stay zero.

    Args:
        tensor: dense or pruned.
        relative_step: the first step, over the root mean square of the weights that are not pruned.
        train_step: whether theta is trained.
        device: "cpu" or "cuda".
    """

    first: torch.Tensor
    kept: torch.Tensor | None

    def __init__(self, tensor: Representation, relative_step: float, device: str, *, train_step: bool = True) -> None:
        super().__init__(tensor.dtype)
        values = tensor.decode()
        mask = tensor.mask if isinstance(tensor, Masked) else None
        wide = values.astype(np.float64 if values.dtype == np.float64 else np.float32)
        spread = root_mean_square([tensor]) or 1.0
        self.latent = nn.Parameter(to_torch(wide, device))
        self.theta = nn.Parameter(torch.zeros((), device=device), requires_grad=train_step)
        self.register_buffer("first", torch.tensor(spread * relative_step, dtype=torch.float32, device=device))
        self.register_buffer("kept", None if mask is None else to_torch(mask, device))
        self.rate = RateModel(MOST, device)

    def step(self) -> torch.Tensor:
        """The step, a scalar in float32."""
        return self.first * torch.exp(self.theta)

    @torch.no_grad()
    def codes(self) -> torch.Tensor:
        """Whole numbers as floating-point ones."""
        codes = (self.latent / self.step()).round_().clamp_(-MOST, MOST)
        return codes if self.kept is None else codes.mul_(self.kept)

    def forward(self) -> torch.Tensor:
        """The codes times the step."""
        seen: torch.Tensor = _Levels.apply(self.latent, self._slow_step(), self.codes(), self.kept)  # type: ignore[no-untyped-call] # torch's own
        return rounded(seen, torch_dtype(self.dtype))

    def bits(self) -> torch.Tensor:
        """What the codes take by the rate model as it is now; a scalar whose gradient shortens them."""
        positions = self.latent / self._slow_step()
        return self.rate.price(positions if self.kept is None else positions * self.kept)

    def freeze(self) -> Uniform:
        """The codes and the step as they are now."""
        codes = to_numpy(self.codes(), np.dtype(np.int8))
        return Uniform(np.float32(self.step().item()), codes, self.dtype)

    def _slow_step(self) -> torch.Tensor:
        """The step, with the gradient that is divided by the square root of the number of weights."""
        theta = self.theta.detach()
        return self.first * torch.exp(theta + (self.theta - theta) * self.latent.numel() ** -0.5)


def root_mean_square(tensors: Iterable[Representation]) -> float:
    """Of all weights that are not pruned, together; 0 where there are none."""
    squares = [
        np.square(tensor.values[tensor.mask] if isinstance(tensor, Masked) else tensor.decode(), dtype=np.float64)
        for tensor in tensors
    ]
    return float(np.sqrt(sum(one.sum() for one in squares) / max(1, sum(one.size for one in squares))))


class _Levels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, latent: torch.Tensor, step: torch.Tensor, codes: torch.Tensor, kept: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(latent, step, codes, kept)
        return (codes.to(torch.float32) * step).to(latent.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        latent, step, codes, kept = ctx.saved_tensors
        gradient = gradients[0] if kept is None else gradients[0] * kept
        beyond = latent.abs() > (MOST + 0.5) * step
        to_step = gradient * (codes - torch.where(beyond, 0.0, latent / step))
        return gradient, to_step.sum().to(step.dtype), None, None
