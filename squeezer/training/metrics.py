"""The metrics, by name. Each gives every example a row of numbers, and is a function of the sum of the rows.

So a metric of a split is gathered batch by batch, in memory that does not grow with the size of an example, and
`squeezer.statistics` can draw examples anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 # as everybody calls it

from squeezer.data.accept import LOWER_IS_BETTER
from squeezer.training.predictions import OF_CLASSES, Classes, classes, like

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from squeezer.data.spec import DataSpec, Metric

#: Up to so many outputs, each has a mean of its own in `r2`; more (the pixels of an image) share one.
_OWN_MEANS = 64
#: The largest exponent that gives a finite float64.
_LARGEST_EXPONENT = 709.0


@dataclass(frozen=True)
class Measure:
    """One metric: `rows` of a batch are (examples, numbers) in float64, `value` maps (..., numbers) to (...)."""

    name: Metric
    of_classes: Callable[[Classes, torch.Tensor], torch.Tensor] | None  # of predictions and labels
    of_values: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None  # of outputs and targets, in one shape
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.name in LOWER_IS_BETTER

    def rows(self, outputs: torch.Tensor, targets: torch.Tensor, spec: DataSpec) -> NDArray[np.float64]:
        """The rows of a batch.

        Args:
            outputs: of the network; of classes, scores before softmax or sigmoid.
            targets: as `squeezer.data.dataset.Batch` has them.
            spec: for its loss, which says what the outputs are.

        Raises:
            DataError: the targets do not fit the outputs.
        """
        if spec.loss in OF_CLASSES:
            return self.rows_of_classes(classes(outputs, targets, spec.loss))
        assert self.of_values is not None  # noqa: S101 # DataSpec allows no other; this tells mypy
        return _numpy(self.of_values(outputs.double(), like(targets, outputs).double()))

    def rows_of_classes(self, predicted: Classes) -> NDArray[np.float64]:
        """The same, of predictions that have been read already. They have labels."""
        assert self.of_classes is not None  # noqa: S101 # DataSpec allows no other; this tells mypy
        assert predicted.labels is not None  # noqa: S101 # asked for above
        return _numpy(self.of_classes(predicted, predicted.labels))


def right(predicted: Classes, labels: torch.Tensor) -> torch.Tensor:
    """(b, p): whether the likeliest class is the true one."""
    return (predicted.predicted == labels) & predicted.counted


def _accuracy(predicted: Classes, labels: torch.Tensor) -> torch.Tensor:
    return _share(right(predicted, labels), predicted)


def _top5(predicted: Classes, labels: torch.Tensor) -> torch.Tensor:
    likeliest = predicted.log_p.topk(min(5, predicted.log_p.shape[-1]), dim=-1).indices
    among = (likeliest == labels[..., None]).any(-1)
    return _share(among & predicted.finite & predicted.counted, predicted)


def _share(true: torch.Tensor, predicted: Classes) -> torch.Tensor:
    return torch.stack([true.double().sum(1), predicted.counted.double().sum(1)], 1)


def _surprise(predicted: Classes, labels: torch.Tensor) -> torch.Tensor:
    own = predicted.log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0].double()
    nats = torch.where(predicted.counted, -own, 0.0).sum(1)
    return torch.stack([nats, predicted.counted.double().sum(1)], 1)


def _overlap(predicted: Classes, labels: torch.Tensor) -> torch.Tensor:
    """Intersection and union of each class in each example: (b, 2 classes)."""
    examples, _, number = predicted.log_p.shape
    guess, counted = predicted.predicted, predicted.counted
    example = torch.arange(examples, device=labels.device)[:, None] * number

    def count(of: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return torch.bincount((example + of)[where], minlength=examples * number).reshape(examples, number)

    both = count(labels, counted & (guess == labels))
    either = count(labels, counted) + count(guess, counted & (guess >= 0)) - both
    return torch.cat([both, either], 1).double()


def _mean_overlap(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the classes that are there, in truth or in predictions."""
    both, either = np.split(sums, 2, axis=-1)
    there = either > 0
    shares = np.divide(both, either, out=np.zeros_like(both), where=there)
    return ratio(np.stack([shares.sum(-1), there.sum(-1)], -1))


def _squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return _mean((outputs - targets).square())


def _absolute(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return _mean((outputs - targets).abs())


def _mean(errors: torch.Tensor) -> torch.Tensor:
    flat = errors.reshape(len(errors), -1)
    return torch.stack([flat.sum(1), torch.full_like(flat[:, 0], flat.shape[1])], 1)


def _cosine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if outputs.ndim == 1:
        outputs, targets = outputs[:, None], targets[:, None]
    return _mean(F.cosine_similarity(outputs, targets, dim=-1))


def _explained(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1, squared error, squared targets, and the targets themselves, or one sum of them for all outputs."""
    error = (outputs - targets).reshape(len(outputs), -1).square().sum(1)
    flat = targets.reshape(len(targets), -1)
    weight = 1 if flat.shape[1] <= _OWN_MEANS else flat.shape[1]
    centred = flat if weight == 1 else flat.sum(1, keepdim=True)
    first = torch.stack([torch.full_like(error, weight), error, flat.square().sum(1)], 1)
    return torch.cat([first, centred], 1)


def _r2(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - squared error / squared distance of the targets from their mean."""
    weight, error, squares, totals = sums[..., 0], sums[..., 1], sums[..., 2], sums[..., 3:]
    spread = squares - np.square(totals).sum(-1) / weight
    # What is left of a constant after rounding is no spread.
    known = spread > 1e-12 * squares
    return np.where(known, 1 - error / np.where(known, spread, 1.0), np.nan)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first number over the second; NaN where that is 0."""
    counted = sums[..., 1]
    return np.divide(sums[..., 0], counted, out=np.full_like(counted, np.nan), where=counted > 0)


def _perplexity(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(np.minimum(ratio(sums), _LARGEST_EXPONENT))


def _numpy(rows: torch.Tensor) -> NDArray[np.float64]:
    result: NDArray[Any] = rows.cpu().numpy()
    return result.astype(np.float64, copy=False)


_ALL = (
    Measure("accuracy", _accuracy, None, ratio),
    Measure("top5_accuracy", _top5, None, ratio),
    Measure("binary_accuracy", _accuracy, None, ratio),
    Measure("mean_iou", _overlap, None, _mean_overlap),
    Measure("perplexity", _surprise, None, _perplexity),
    Measure("mse", None, _squared, ratio),
    Measure("mae", None, _absolute, ratio),
    Measure("r2", None, _explained, _r2),
    Measure("cosine_similarity", None, _cosine, ratio),
)
#: Every metric that a recipe can name.
MEASURES: dict[Metric, Measure] = {measure.name: measure for measure in _ALL}
