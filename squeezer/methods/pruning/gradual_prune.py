"""Pruning while the network is trained: little by little, or in rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from squeezer.methods.network_step import TrainingStep
from squeezer.methods.pruning.magnitude_prune import MagnitudePrune
from squeezer.representations import Masked

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from numpy.typing import NDArray

    from squeezer.representations import Representation
    from squeezer.training.parametrisation import Parametrisation
    from squeezer.training.workbench import State, Workbench

_ROUNDS = 5
#: How often the masks are renewed where `every` does not say.
_UPDATES = 100


class GradualPrune(TrainingStep):
    """Prune by magnitude during retraining.

    Cubic: by Zhu and Gupta 2017, equation 1. Iterative: rounds of pruning and retraining (Han et al. 2015, section
    3.4), each of which keeps the same share of what is left.
    """

    method: Literal["gradual_prune"] = "gradual_prune"
    sparsity: float = Field(description="share of the weights that are zero in the end", ge=0, lt=1)
    initial: float = Field(0.0, description="share of the weights that are zero from the start", ge=0, lt=1)
    scope: Literal["layer", "global"] = Field(
        "layer",
        description="rank weights within each tensor, or in all selected ones of the same sparsity together",
    )
    sparsity_schedule: Literal["cubic", "iterative"] = Field(
        "cubic", description="fast at first and slower and slower, or in rounds"
    )
    until: float = Field(0.6, gt=0, le=1, description="share of the run after which the sparsity stays")
    every: int | None = Field(
        None, ge=1, description="of cubic: updates from one mask to the next; by default some hundred masks in all"
    )
    rounds: int | None = Field(None, ge=1, le=1000, description="of iterative: how often weights are pruned; 5")

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked"})
    produces: ClassVar[str] = "masked"
    per_tensor: ClassVar[frozenset[str]] = frozenset({"sparsity", "initial"})
    summary: ClassVar[str] = "zero the smallest weights little by little while retraining"

    @model_validator(mode="after")
    def _check_sparsities(self) -> Self:
        if self.initial > self.sparsity:
            raise ValueError(f"initial {self.initial:g} is above sparsity {self.sparsity:g}")
        if self.sparsity_schedule == "cubic" and self.rounds is not None:
            raise ValueError("rounds is of the sparsity_schedule iterative; leave it out, or set that")
        if self.sparsity_schedule == "iterative" and self.every is not None:
            raise ValueError("every is of the sparsity_schedule cubic; leave it out, or set rounds")
        return self

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The pruned and retrained network."""
        from squeezer.training.loop import train

        chosen = [name for name in dict.fromkeys(state.graph.tensors.values()) if name in names]
        pruning = _Pruning(self, {name: state.tensors[name] for name in chosen}, bench.device)
        trained = train(
            state,
            bench,
            self,
            parametrisations=pruning.parametrisations,
            hook=pruning.before_update,
            ready=lambda done, total: done > self._last(total),
        )
        return self._completed(trained, chosen, bench)

    def _completed(self, trained: State, chosen: list[str], bench: Workbench) -> State:
        """The network at its full sparsity, also where training ended early."""
        before = {name: trained.tensors[name] for name in chosen}
        after = _pruned(self.rule(1, 1), before)
        if any(np.count_nonzero(after[name].mask) < np.count_nonzero(_mask(before[name])) for name in chosen):
            bench.events.append(
                {
                    "event": "pruned_without_retraining",
                    "method": self.method,
                    "reason": "training ended before the last weights were pruned",
                    "action": "pruned them at the end",
                }
            )
        return replace(trained, tensors={**trained.tensors, **after})

    def is_due(self, step: int, total: int) -> bool:
        """Whether weights are pruned before update number `step` of `total`."""
        last = self._last(total)
        if step in {0, last} or step > last:
            return step <= last
        if self.sparsity_schedule == "cubic":
            return step % (self.every or max(1, last // _UPDATES)) == 0
        return self._round(step, last) != self._round(step - 1, last)

    def rule(self, step: int, total: int) -> MagnitudePrune:
        """The pruning that is due before update number `step` of `total`."""
        return MagnitudePrune(
            sparsity=self.sparsity_at(step, total),
            scope=self.scope,
            overrides={key: {"sparsity": one.sparsity_at(step, total)} for key, one in self.overridden.items()},
        )

    def sparsity_at(self, step: int, total: int) -> float:
        """The share of zeros that update number `step` of `total` finds.

        Cubic: s_t = s_f + (s_i - s_f) (1 - t / (n dt))**3, and n dt is where it ends. Iterative, in round r of n:
        1 - s = (1 - s_i) ((1 - s_f) / (1 - s_i))**(r / n).
        """
        last = self._last(total)
        if step >= last:
            return self.sparsity
        if self.sparsity_schedule == "cubic":
            return self.sparsity + (self.initial - self.sparsity) * (1 - step / last) ** 3
        rounds = (self._round(step, last) + 1) / self._number
        ratio: float = ((1 - self.sparsity) / (1 - self.initial)) ** rounds
        return 1 - (1 - self.initial) * ratio

    @property
    def _number(self) -> int:
        return self.rounds or _ROUNDS

    def _round(self, step: int, last: int) -> int:
        """Which round a step is in, from 0; the last one begins at `last`, the first one at 0."""
        return 0 if self._number == 1 else min(step * (self._number - 1) // max(last, 1), self._number - 1)

    def _last(self, total: int) -> int:
        """The update before which weights are pruned for the last time."""
        if self.sparsity_schedule == "iterative" and self._number == 1:
            return 0
        return min(round(self.until * total), total - 1)


class _Pruning:
    """Renews the masks of the parametrisations as a training goes on."""

    def __init__(self, step: GradualPrune, tensors: Mapping[str, Representation], device: str) -> None:
        from squeezer.training.parametrisation import MaskedWeights

        self._step = step
        #: What earlier steps have pruned never comes back.
        self._allowed = {name: _mask(tensor) for name, tensor in tensors.items()}
        self._own = {
            name: MaskedWeights(Masked(tensor.decode(), self._allowed[name]), device)
            for name, tensor in tensors.items()
        }

    @property
    def parametrisations(self) -> dict[str, Parametrisation]:
        """What is trained in the place of the pruned tensors."""
        return dict(self._own)

    def before_update(self, step: int, total: int, _: object) -> None:
        """The hook of the training."""
        if not self._step.is_due(step, total):
            return
        latents = {name: one.latent.detach().cpu().numpy() for name, one in self._own.items()}
        if not all(np.isfinite(latent).all() for latent in latents.values()):
            return  # the loss is not finite either, and the training goes back
        # By the latent weights: one that was pruned has kept its magnitude, and can return.
        free = {name: Masked(latent, self._allowed[name]) for name, latent in latents.items()}
        for name, pruned in _pruned(self._step.rule(step, total), free).items():
            self._own[name].renew(pruned.mask)


def _pruned(rule: MagnitudePrune, tensors: Mapping[str, Representation]) -> dict[str, Masked]:
    surveyed = rule.survey(tensors.items) if rule.survey_passes else None
    return {name: rule.for_tensor(name).apply(name, tensor, surveyed, 0) for name, tensor in tensors.items()}


def _mask(tensor: Representation) -> NDArray[np.bool_]:
    """Which weights are not pruned, in the tensor's shape."""
    return tensor.mask if isinstance(tensor, Masked) else np.ones(tensor.shape, np.bool_)
