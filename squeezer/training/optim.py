"""The optimiser of the one loop: updates, learning rate, clipping."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from squeezer.errors import Code, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from squeezer.training.settings import Settings


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """The learning rate of update number `step` of `total`.

    It rises linearly over the first `warmup` of the run, and then stays, or falls to zero: along half a cosine
    (Loshchilov & Hutter, ICLR 2017, without restarts) or a line.
    """
    rising = round(settings.warmup * total)
    if step < rising:
        return settings.lr * (step + 1) / rising
    done = (step - rising) / max(total - rising, 1)
    match settings.schedule:
        case "cosine":
            return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return settings.lr * (1 - done)
        case _:
            return settings.lr


class Optimiser:
    """SGD with Nesterov's momentum, or Adam, with decoupled weight decay (Loshchilov & Hutter, ICLR 2019)."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], settings: Settings) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self._parameters:
            raise ModelError(Code.NOTHING_TO_COMPRESS, "The network has no weights that could be trained.")
        self._settings = settings
        self._inner: torch.optim.Optimizer = (
            torch.optim.Adam(self._parameters, settings.lr, fused=True)
            if settings.optimizer == "adam"
            else torch.optim.SGD(
                self._parameters, settings.lr, settings.momentum, nesterov=settings.momentum > 0, fused=True
            )
        )

    def clip(self) -> torch.Tensor:
        """Scale the gradients so that their norm is at most `clip`; the norm as it was."""
        limit = math.inf if self._settings.clip is None else self._settings.clip
        return torch.nn.utils.clip_grad_norm_(self._parameters, limit)

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """One update with this learning rate; the gradients are forgotten."""
        for group in self._inner.param_groups:
            group["lr"] = rate
        # What gets no gradient, as the weights of an output that is not judged, is left alone altogether.
        decayed: list[torch.Tensor] = [one for one in self._parameters if one.ndim >= 2 and one.grad is not None]
        if self._settings.weight_decay and decayed:
            torch._foreach_mul_(decayed, 1 - rate * self._settings.weight_decay)
        self._inner.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        self._inner.zero_grad()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; it shares memory with the optimiser."""
        return self._inner.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state, which must not be shared with anyone."""
        self._inner.load_state_dict(state)
