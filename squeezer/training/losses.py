"""What training minimises: the task's loss, the divergence from a teacher, and their weighted sum.

Outputs are logits where the loss is a cross-entropy: softmax or sigmoid is part of the loss (`logits` takes it back
where the network has applied it). Everything is computed in float32 or wider, whatever the network ran in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 # torch's own name for it

from squeezer.data.spec import IGNORED
from squeezer.errors import Code, DataError
from squeezer.training.predictions import class_axis, like

if TYPE_CHECKING:
    from squeezer.data.spec import Loss


#: Probabilities below this count as this, so that their logarithm has a gradient.
_LEAST = 1e-7


def logits(outputs: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Outputs that give the probabilities `outputs` under softmax, or under sigmoid for `binary_cross_entropy`."""
    outputs = _wide(outputs)
    return outputs.logit(_LEAST) if loss == "binary_cross_entropy" else outputs.clamp(min=_LEAST).log()


def task_loss(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean loss over all rows and positions; a scalar.

    Args:
        loss: its name.
        outputs: (b, ...), what the network gives.
        targets: int64 labels for `cross_entropy`, of which -100 is ignored; else as many numbers as the outputs.

    Raises:
        DataError: INVALID_DATA, where the shapes do not fit.
    """
    outputs = _wide(outputs)
    if loss == "cross_entropy":
        outputs = outputs.movedim(class_axis(outputs.shape, targets.shape), 1)
        return F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="sum") / _counted(targets)
    targets = like(targets, outputs)
    match loss:
        case "binary_cross_entropy":
            return F.binary_cross_entropy_with_logits(outputs, targets)
        case "l1":
            return F.l1_loss(outputs, targets)
        case "huber":
            return F.huber_loss(outputs, targets)
        case "cosine":
            return _cosine(outputs, targets)
        case _:
            return F.mse_loss(outputs, targets)


def distillation_loss(
    loss: Loss, outputs: torch.Tensor, teacher: torch.Tensor, temperature: float, targets: torch.Tensor | None = None
) -> torch.Tensor:
    """How far the outputs are from the teacher's; a scalar, the mean over all rows and positions that count.

    For classes it is T**2 KL(softmax(teacher / T) || softmax(outputs / T)) (Hinton, Vinyals, Dean 2015, section 2), for
    `binary_cross_entropy` the same of the two outcomes of each output. For embeddings (`cosine`) it is one less the
    cosine, and for all other losses the mean squared error.

    Args:
        loss: the task's, which says what the outputs are.
        outputs: the student's, (b, ...).
        teacher: the teacher's, of the same shape.
        temperature: T; 1 gives the divergence itself.
        targets: where there are any. Labels say where the classes are, and which positions are ignored.
    """
    outputs, teacher = _wide(outputs), _wide(teacher)
    match loss:
        case "cross_entropy":
            axis = class_axis(outputs.shape, None if targets is None else targets.shape)
            distances = _divergence(*(x.movedim(axis, -1) / temperature for x in (outputs, teacher)))
            if targets is None:
                return temperature**2 * distances.mean()
            return temperature**2 * torch.where(targets != IGNORED, distances, 0.0).sum() / _counted(targets)
        case "binary_cross_entropy":
            pair = (torch.stack([x / temperature, torch.zeros_like(x)], -1) for x in (outputs, teacher))
            return temperature**2 * _divergence(*pair).mean()
        case "cosine":
            return _cosine(outputs, teacher)
        case _:
            return F.mse_loss(outputs, teacher)


@dataclass(frozen=True)
class Objective:
    """The sum that a step minimises: alpha times the distillation loss, and 1 - alpha times the task's."""

    loss: Loss
    temperature: float
    alpha: float

    def __call__(
        self, outputs: torch.Tensor, targets: torch.Tensor | None, teacher: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss of a batch. `targets` are needed unless alpha is 1, and `teacher` unless it is 0."""
        parts = []
        if self.alpha < 1 and targets is not None:
            parts.append((1 - self.alpha) * task_loss(self.loss, outputs, targets))
        if self.alpha > 0 and teacher is not None:
            parts.append(self.alpha * distillation_loss(self.loss, outputs, teacher, self.temperature, targets))
        return torch.stack(parts).sum()


def objective(loss: Loss, temperature: float, alpha: float | None, *, labelled: bool) -> Objective:
    """The objective of a step.

    Raises:
        DataError: MISSING_ARRAY, where a share is left to labels that there are not.
    """
    if alpha is None:
        alpha = 0.5 if labelled else 1.0
    if alpha < 1 and not labelled:
        raise DataError(
            Code.MISSING_ARRAY,
            f"alpha {alpha:g} leaves a share of the loss to targets, and the data set has none; leave alpha out, or "
            "send targets",
        )
    return Objective(loss, temperature, alpha)


def _counted(labels: torch.Tensor) -> torch.Tensor:
    """How many positions count; 1 where none does, since a mean over none would be NaN."""
    return (labels != IGNORED).sum().clamp(min=1)


def _divergence(outputs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || outputs) over the last dimension, of logits."""
    wanted = teacher.log_softmax(-1)
    # Where an output is minus infinity, as a masked one is, both probabilities are 0 and so is their share.
    share = wanted.exp() * (wanted - outputs.log_softmax(-1))
    return torch.where(wanted == -torch.inf, 0.0, share).sum(-1)


def _cosine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 1 - F.cosine_similarity(outputs, targets, dim=-1).mean()


def _wide(outputs: torch.Tensor) -> torch.Tensor:
    return outputs if outputs.dtype == torch.float64 else outputs.float()
