"""Steps that work on the whole network, not tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import model_validator

from squeezer.methods.base import Step
from squeezer.training.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Set

    from squeezer.training.workbench import State, Workbench


class NetworkStep(Step):
    """Base of the steps that run the network. They need a graph, most need data, some need labels."""

    needs_graph: ClassVar[bool] = True

    @property
    def effort(self) -> float:
        """A step that measures: less than an epoch."""
        return 0.3

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The network after this step.

        Args:
            state: the network as the steps before left it.
            names: the weights (floating-point, two or more dimensions) that `include` and `exclude` select.
            bench: data, the original, and where to report.

        Raises:
            SqueezerError: with a sentence that says what to do.
        """
        raise NotImplementedError


class TrainingStep(Settings, NetworkStep):
    """A step that retrains. All train the whole network, whatever `include` selects."""

    needs_data: ClassVar[bool] = True
    #: Settings that `overrides` may change; the others hold for the whole network.
    per_tensor: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _check_per_tensor(self) -> Self:
        for pattern, settings in self.overrides.items():
            if extra := settings.keys() - self.per_tensor:
                known = ", ".join(sorted(self.per_tensor)) or "none"
                raise ValueError(
                    f"overrides[{pattern!r}] may not set {', '.join(sorted(extra))}, which hold for the whole network; "
                    f"{self.method} has settings for single tensors: {known}"
                )
        return self

    @property
    def effort(self) -> float:
        """Its epochs."""
        return self.epochs
