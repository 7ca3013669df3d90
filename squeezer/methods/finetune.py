"""Retraining on the user's data: the step that gives back the accuracy that pruning and sharing took."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from squeezer.methods.network_step import TrainingStep

if TYPE_CHECKING:
    from collections.abc import Set

    from squeezer.training.workbench import State, Workbench


class Finetune(TrainingStep):
    """Retrain what earlier steps left free (Han et al. 2015, section 3; Han et al. 2016, section 3.3).

    It needs a data set. A preset that names it leaves it out where there is none, and the report says so.
    """

    method: Literal["finetune"] = "finetune"
    dropout_adjust: bool = Field(
        False, description="less dropout where weights were pruned: D sqrt(kept / all) (Han et al. 2015, section 3.2)"
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked", "shared", "uniform", "trellis"})
    produces: ClassVar[str] = "same"
    summary: ClassVar[str] = "retrain on your data"

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The network with the weights that the validation split liked best."""
        del names
        from squeezer.training.dropout import adjusted
        from squeezer.training.loop import train

        graph = adjusted(state, bench.original) if self.dropout_adjust else state.graph
        return replace(train(replace(state, graph=graph), bench, self), graph=state.graph)
