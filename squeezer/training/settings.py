"""The settings that all steps that retrain have in common. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """What the training loop is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str
    epochs: float = Field(1, gt=0, le=10000, description="passes over the training data; a part of one is allowed")
    min_updates: int = Field(
        0, ge=0, le=10**7, description="updates that there are at least, in as many epochs as that takes"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate at its highest")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="sgd has Nesterov's momentum")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.0, ge=0, description="decoupled; on weights of two or more dimensions alone")
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "cosine", description="how the learning rate falls to zero, if it does"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the learning rate first rises")
    batch_size: int = Field(128, ge=1, le=65536)
    clip: float | None = Field(1.0, gt=0, description="largest norm of all gradients together; null for no limit")
    shift: int = Field(0, ge=0, le=64, description="augmentation: images are moved by up to so many pixels each way")
    flip: bool = Field(False, description="augmentation: half of the images are mirrored left to right")
    temperature: float = Field(4.0, gt=0, description="of the softened outputs (Hinton et al. 2015, section 2)")
    alpha: float | None = Field(
        None, ge=0, le=1, description="share of the distillation loss; by default 0.5 with labels, 1 without"
    )
    patience: float | None = Field(
        None, gt=0, description="stop when the validation split has not improved for so many epochs"
    )
    freeze_batch_norm: bool = Field(
        False, description="batch norm keeps its running statistics, and uses them as in evaluation"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU")
