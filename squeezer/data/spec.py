"""The recipe's `data`: how a network is to be trained and measured on a data set."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Loss = Literal["cross_entropy", "binary_cross_entropy", "mse", "l1", "huber", "cosine"]
Metric = Literal[
    "accuracy", "top5_accuracy", "binary_accuracy", "mean_iou", "mse", "mae", "r2", "perplexity", "cosine_similarity"
]

#: Which metrics make sense with the targets of a loss; the first is the default.
METRICS: dict[Loss, tuple[Metric, ...]] = {
    "cross_entropy": ("accuracy", "top5_accuracy", "mean_iou", "perplexity"),
    "binary_cross_entropy": ("binary_accuracy",),
    "mse": ("mse", "mae", "r2", "cosine_similarity"),
    "l1": ("mae", "mse", "r2", "cosine_similarity"),
    "huber": ("mse", "mae", "r2", "cosine_similarity"),
    "cosine": ("cosine_similarity", "mse", "mae", "r2"),
}
#: The label of a position that neither loss nor metric looks at, as PyTorch's `ignore_index`.
IGNORED = -100


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Transform(_Document):
    """What becomes of an array of inputs before the network sees it: (x * scale - mean) / std, as the input's type.

    Inputs of the network that are integers or booleans get their array as it is.
    """

    scale: float = Field(1.0, gt=0, description="factor, such as 1/255 for bytes")
    mean: tuple[float, ...] = Field((0.0,), min_length=1, description="subtracted: one number, or one for each channel")
    std: tuple[float, ...] = Field((1.0,), min_length=1, description="divided by: one number, or one for each channel")
    channels: Literal["first", "last"] = Field(
        "first", description="where the array has its channels; the network gets them first"
    )
    resize: tuple[int, int] | None = Field(
        None, description="height and width to which the images of a .zip are brought, whatever their sizes"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError("std must be greater than 0")
        if len({len(self.mean), len(self.std)} - {1}) > 1:
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}; give each channel one of both"
            )
        if self.resize and not all(1 <= extent <= 4096 for extent in self.resize):
            raise ValueError("resize takes a height and a width from 1 to 4096")
        return self


class DataSpec(_Document):
    """Names of arrays, loss and metric, splits."""

    loss: Loss = "cross_entropy"
    metric: Metric | None = Field(None, description="by default the one that fits the loss")
    inputs: tuple[str, ...] | None = Field(
        None, min_length=1, description="arrays in the order of the network's inputs; by default those of its names"
    )
    targets: str | None = Field(
        None, description="array of targets; by default `y`, `labels` or `targets` where there is one, else none"
    )
    transform: Transform = Field(Transform(), description="of every input")
    transforms: dict[str, Transform] = Field({}, description="by array, for inputs that want another one")
    validation: float = Field(
        0.1, gt=0, lt=1, description="share of the rows that are not tests; not used where the data set has its own"
    )
    test: float = Field(0.2, gt=0, lt=1, description="share of all rows; not used where the data set has its own")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric is not None and self.metric not in METRICS[self.loss]:
            raise ValueError(
                f"metric {self.metric} does not go with loss {self.loss}, which has {', '.join(METRICS[self.loss])}"
            )
        return self

    @property
    def measure(self) -> Metric:
        """The metric: the one that was asked for, or that of the loss."""
        return self.metric or METRICS[self.loss][0]

    def transform_of(self, array: str) -> Transform:
        """The transform of an array of inputs."""
        return self.transforms.get(array, self.transform)
