"""What outputs say: of classes, the logarithms of their probabilities, whatever their shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 # as everybody calls it

from squeezer.data.spec import IGNORED
from squeezer.data.targets import class_axis as fitting_axis
from squeezer.errors import Code, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from squeezer.data.spec import Loss

#: Losses whose networks predict classes.
OF_CLASSES: frozenset[Loss] = frozenset({"cross_entropy", "binary_cross_entropy"})
#: No probability counts as less than exp(-100): a class that is ruled out (a score of -inf) stays comparable.
_LEAST = -100.0


class Classes(NamedTuple):
    """What was predicted for b examples of p positions each (pixels, tokens; 1 where an example is one decision)."""

    log_p: torch.Tensor  # (b, p, classes), logarithms of probabilities; NaN where the network gave no number
    labels: torch.Tensor | None  # (b, p) int64; IGNORED where a position does not count
    counted: torch.Tensor  # (b, p) whether the position counts

    @property
    def finite(self) -> torch.Tensor:
        """(b, p): whether the network gave numbers."""
        return ~self.log_p.isnan().any(-1)

    @property
    def predicted(self) -> torch.Tensor:
        """(b, p) int64: the likeliest class, the first of equals; -1, which is never right, without numbers."""
        return torch.where(self.finite, self.log_p.argmax(-1), -1)


def class_axis(shape: Sequence[int], targets: Sequence[int] | None) -> int:
    """Which axis of outputs has the classes: the second, as of images, or the last, as of tokens.

    Args:
        shape: of the outputs, (b, classes), (b, classes, positions...) or (b, positions..., classes).
        targets: shape of the labels, (b, positions...). Without labels any positions will do.

    Raises:
        DataError: the labels do not fit.
    """
    axis = fitting_axis(tuple(shape), (None,) * (len(shape) - 1) if targets is None else tuple(targets))
    if axis is None:
        raise DataError(
            Code.INVALID_DATA,
            f"the network's output has shape {tuple(shape)} and the labels {tuple(targets or ())}; labels have the "
            "output's shape without its axis of classes. For targets that are no labels, choose another loss",
        )
    return axis


def classes(outputs: torch.Tensor, targets: torch.Tensor | None, loss: Loss) -> Classes:
    """Outputs as logarithms of probabilities, (examples, positions, classes).

    Args:
        outputs: scores before softmax; for `binary_cross_entropy` before sigmoid, one for each yes or no, which
            becomes two classes.
        targets: labels (int64), or for `binary_cross_entropy` 0 to 1 in the shape of the outputs.
        loss: `cross_entropy` or `binary_cross_entropy`.

    Raises:
        DataError: the targets do not fit the outputs.
    """
    outputs = outputs.float() if outputs.dtype.itemsize < 4 or not outputs.is_floating_point() else outputs
    if loss == "binary_cross_entropy":
        return _binary(outputs, targets)
    axis = class_axis(outputs.shape, None if targets is None else targets.shape)
    scores = outputs.movedim(axis, -1)
    scores = scores.reshape(len(scores), -1, scores.shape[-1])
    log_p = F.log_softmax(scores, dim=-1)
    labels = None if targets is None else _checked(targets.reshape(len(targets), -1), scores.shape[-1])
    everywhere = torch.ones(log_p.shape[:2], dtype=torch.bool, device=log_p.device)
    return Classes(log_p.clamp(min=_LEAST), labels, everywhere if labels is None else labels != IGNORED)


def _checked(labels: torch.Tensor, number: int) -> torch.Tensor:
    wrong = labels[((labels < 0) | (labels >= number)) & (labels != IGNORED)]
    if wrong.numel():
        raise DataError(
            Code.INVALID_DATA,
            f"there is a label {int(wrong[0])}, and the network tells {number} classes apart, numbered from 0 to "
            f"{number - 1}; correct the labels ({IGNORED} is for positions to ignore)",
        )
    return labels


def _binary(outputs: torch.Tensor, targets: torch.Tensor | None) -> Classes:
    yes = outputs.reshape(len(outputs), -1)
    both = F.logsigmoid(torch.stack([-yes, yes], -1))
    labels = None if targets is None else (like(targets, outputs).reshape(yes.shape) >= 0.5).long()
    return Classes(both.clamp(min=_LEAST), labels, torch.ones(yes.shape, dtype=torch.bool, device=yes.device))


def like(targets: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Targets in the shape and type of outputs; (b) and (b, 1) are taken for each other.

    Raises:
        DataError: they have other shapes.
    """
    if len(targets) != len(outputs) or targets.numel() != outputs.numel():
        raise DataError(
            Code.INVALID_DATA,
            f"the network's output has shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}; "
            "they must be the same",
        )
    return targets.reshape(outputs.shape).to(outputs.dtype)


def divergence(first: Classes, second: Classes) -> torch.Tensor:
    """KL(first || second) of each position, in nats: (b, p). NaN where a network gave no number.

    Kullback & Leibler, *On Information and Sufficiency*, Annals of Mathematical Statistics 1951, section 2.
    """
    terms = first.log_p.exp() * (first.log_p - second.log_p)
    return terms.sum(-1).clamp(min=0)  # rounding can make it a little less than 0
