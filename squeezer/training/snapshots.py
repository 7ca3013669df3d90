"""Copies of a network in training: the last good one, to go back to, and the best one, which is the result."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from squeezer.training.optim import Optimiser
    from squeezer.training.parametrisation import Parametrisation


class Snapshots:
    """Copies of what is trained; the good one with the optimiser's state."""

    def __init__(self, trained: Mapping[str, Parametrisation], optimiser: Optimiser) -> None:
        self._trained, self._optimiser = trained, optimiser
        self._good: dict[str, Any] = {}
        self._best: dict[str, Any] | None = None

    @property
    def good_step(self) -> int:
        """How many updates were done when the good copy was made."""
        step: int = self._good["step"]
        return step

    def keep_good(self, step: int) -> None:
        """The network is good as it is after so many updates."""
        tensors = {
            name: {key: value.detach().clone() for key, value in one.state_dict().items()}
            for name, one in self._trained.items()
        }
        self._good = {"step": step, "tensors": tensors, "optimiser": copy.deepcopy(self._optimiser.state())}

    def keep_best(self) -> None:
        """The good copy is the best one, too."""
        self._best = self._good["tensors"]

    def put_good(self) -> None:
        """Go back to the good copy."""
        self._put(self._good["tensors"])
        self._optimiser.restore(copy.deepcopy(self._good["optimiser"]))

    def put_best(self) -> None:
        """Go to the best copy, if there is one."""
        if self._best is not None:
            self._put(self._best)

    def document(self) -> dict[str, Any]:
        """Network, optimiser and copies for a checkpoint; they share memory with this."""
        return {
            "tensors": {name: dict(one.state_dict()) for name, one in self._trained.items()},
            "optimiser": self._optimiser.state(),
            "good": self._good,
            "best": self._best,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Undo `document`, which must not be used by anyone else any more."""
        self._good, self._best = document["good"], document["best"]
        self._put(document["tensors"])
        self._optimiser.restore(document["optimiser"])

    def _put(self, tensors: Mapping[str, Any]) -> None:
        for name, one in self._trained.items():
            one.load_state_dict(tensors[name])
