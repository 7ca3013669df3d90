"""The methods: one file each, registered here."""

from typing import Annotated

from pydantic import Field

from squeezer.methods.base import Step
from squeezer.methods.finetune import Finetune
from squeezer.methods.pruning.magnitude_prune import MagnitudePrune
from squeezer.methods.quantization.kmeans_share import KmeansShare
from squeezer.methods.quantization.uniform_quantize import UniformQuantize

#: The registration: a new method is a new file and one name in this union.
AnyStep = Annotated[MagnitudePrune | KmeansShare | UniformQuantize | Finetune, Field(discriminator="method")]

METHODS: dict[str, type[Step]] = {
    cls.model_fields["method"].default: cls for cls in (MagnitudePrune, KmeansShare, UniformQuantize, Finetune)
}

__all__ = ["METHODS", "AnyStep", "Finetune", "KmeansShare", "MagnitudePrune", "Step", "UniformQuantize"]
