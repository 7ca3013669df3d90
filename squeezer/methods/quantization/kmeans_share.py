"""Weight sharing by k-means: every weight becomes one of a few shared values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from squeezer.methods.base import Step
from squeezer.representations import Shared

if TYPE_CHECKING:
    from squeezer.representations import Representation


class KmeansShare(Step):
    """Cluster each tensor's weights; store a codebook and indices (Han, Mao, Dally, ICLR 2016, section 3).

    Pruned weights stay zero and cost no centroid. A tensor with fewer distinct values than clusters keeps
    exactly these values.
    """

    method: Literal["kmeans_share"] = "kmeans_share"
    bits: int | None = Field(
        None, ge=1, le=12, description="2**bits clusters; the zeros of a pruned tensor are not counted"
    )
    clusters: int | None = Field(None, ge=1, le=4096, description="number of clusters, instead of `bits`")
    init: Literal["optimal", "linear", "density", "random"] = Field(
        "optimal",
        description="`optimal` finds the best clusters; the others start Lloyd's iteration as in the paper",
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked"})
    produces: ClassVar[str] = "shared"
    alternatives: ClassVar[frozenset[str]] = frozenset({"bits", "clusters"})
    summary: ClassVar[str] = "share a few values among all weights of a tensor"

    def apply(self, name: str, tensor: Representation, surveyed: Any, seed: int) -> Shared:
        """The tensor's codebook and codes.

        Raises:
            ModelError: where a weight is not finite.
        """
        del surveyed
        from squeezer.methods.kernels import finite_range, kept_weights, mask_of, spread
        from squeezer.methods.quantization.kmeans import share

        weights = kept_weights(tensor)
        finite_range(name, weights)
        clusters = self.clusters if self.bits is None else 1 << self.bits
        assert clusters is not None  # noqa: S101 # the validator has seen to it; this tells mypy
        mask = mask_of(tensor)
        codebook, codes = share(weights, clusters, self.init, tensor.dtype, name, seed, 0 if mask is None else 1)
        if mask is not None:
            codes = spread(codes, mask)
        return Shared(codebook, codes.reshape(tensor.shape), mask is not None, tensor.dtype)
