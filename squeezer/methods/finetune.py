"""Retraining on the user's data: the step that gives back the accuracy that pruning and sharing took."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from squeezer.methods.base import Step


class Finetune(Step):
    """Retrain what earlier steps left free (Han et al. 2015, section 3.2; Han et al. 2016, section 3).

    It needs a data set. A preset that names it leaves it out where there is none, and the report says so.
    """

    method: Literal["finetune"] = "finetune"
    epochs: int = Field(1, ge=1, le=1000, description="passes over the training data")
    lr: float = Field(1e-3, gt=0, description="learning rate")

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked", "shared", "uniform"})
    produces: ClassVar[str] = "same"
    needs_data: ClassVar[bool] = True
    summary: ClassVar[str] = "retrain on your data"
