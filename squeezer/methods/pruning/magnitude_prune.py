"""Magnitude pruning: the smallest weights become zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from squeezer.methods.base import Step
from squeezer.representations import Masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from squeezer.methods.pruning.select import Cut
    from squeezer.representations import Representation


class MagnitudePrune(Step):
    """Set the smallest weights by magnitude to zero (Han et al., NIPS 2015, section 3.1).

    Of n weights exactly round(sparsity * n) go; of equal magnitudes the first go. Weights that an earlier
    step has pruned count as the smallest, and never come back.
    """

    method: Literal["magnitude_prune"] = "magnitude_prune"
    sparsity: float = Field(description="share of the weights that become zero", ge=0, lt=1)
    scope: Literal["layer", "global"] = Field(
        "layer",
        description="rank weights within each tensor, or in all selected ones of the same sparsity together",
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked"})
    produces: ClassVar[str] = "masked"
    summary: ClassVar[str] = "zero the smallest weights"

    @property
    def survey_passes(self) -> int:
        """Two where weights of several tensors are ranked together."""
        return 2 if self.scope == "global" else 0

    def survey(self, tensors: Callable[[], Iterable[tuple[str, Representation]]]) -> dict[str, Cut]:
        """The cut of every tensor; tensors with the same sparsity are ranked together, in two passes.

        Raises:
            ModelError: where a weight is not finite.
        """
        from squeezer.methods.kernels import kept_weights, non_finite
        from squeezer.methods.pruning.select import NOTHING, Selection, high_counts, non_finite_count

        groups: dict[float, Selection] = {}
        sizes: dict[float, int] = {}
        for name, tensor in tensors():
            sparsity = self.for_tensor(name).sparsity
            counts = high_counts(kept_weights(tensor))
            if bad := non_finite_count(counts):
                raise non_finite(name, bad)
            groups.setdefault(sparsity, Selection()).count(counts)
            sizes[sparsity] = sizes.get(sparsity, 0) + _size(tensor)
        remove = {s: _to_remove(s, sizes[s], group.total) for s, group in groups.items()}
        cuts: dict[str, Cut] = {}
        for name, tensor in tensors():
            sparsity = self.for_tensor(name).sparsity
            cuts[name] = NOTHING
            if remove[sparsity]:
                groups[sparsity].look(name, kept_weights(tensor), remove[sparsity])
        for sparsity, group in groups.items():
            if remove[sparsity]:
                cuts |= group.cuts(remove[sparsity])
        return cuts

    def apply(self, name: str, tensor: Representation, surveyed: Any, seed: int) -> Masked:
        """The tensor with its smallest weights masked; the values are shared with `tensor`, not copied.

        Raises:
            ModelError: where a weight is not finite.
        """
        del seed
        from squeezer.methods.kernels import kept_weights, mask_of, spread
        from squeezer.methods.pruning.select import keep_mask

        weights = kept_weights(tensor)
        cut = surveyed[name] if self.scope == "global" else self._own_cut(name, weights, _size(tensor))
        keep = keep_mask(weights, cut)
        if (mask := mask_of(tensor)) is not None:
            keep = spread(keep, mask)
        values: NDArray[np.generic] = tensor.values  # type: ignore[attr-defined] # Dense and Masked alone are accepted
        return Masked(values, keep.reshape(tensor.shape))

    def _own_cut(self, name: str, weights: NDArray[np.float32], size: int) -> Cut:
        from squeezer.methods.kernels import non_finite
        from squeezer.methods.pruning.select import NOTHING, Selection, high_counts, non_finite_count

        counts = high_counts(weights)
        if bad := non_finite_count(counts):
            raise non_finite(name, bad)
        remove = _to_remove(self.sparsity, size, weights.size)
        if not remove:
            return NOTHING
        selection = Selection()
        selection.count(counts)
        selection.look(name, weights, remove)
        return selection.cuts(remove)[name]


def _size(tensor: Representation) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64))


def _to_remove(sparsity: float, size: int, kept: int) -> int:
    """How many of the weights that are still kept must go."""
    return max(round(sparsity * size) - (size - kept), 0)
