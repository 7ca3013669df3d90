"""The methods: one file each, registered here."""

from typing import Annotated, get_args

from pydantic import Field

from squeezer.methods.base import Step
from squeezer.methods.distillation.distill import Distill
from squeezer.methods.finetune import Finetune
from squeezer.methods.pruning.gradual_prune import GradualPrune
from squeezer.methods.pruning.magnitude_prune import MagnitudePrune
from squeezer.methods.quantization.calibrated_quantize import CalibratedQuantize
from squeezer.methods.quantization.correct_channels import CorrectChannels
from squeezer.methods.quantization.entropy_train import EntropyTrain
from squeezer.methods.quantization.fold_batch_norm import FoldBatchNorm
from squeezer.methods.quantization.kmeans_share import KmeansShare
from squeezer.methods.quantization.uniform_quantize import UniformQuantize
from squeezer.methods.sensitivity import Sensitivity

#: The registration: a new method is a new file and one name in this union.
AnyStep = Annotated[
    MagnitudePrune
    | KmeansShare
    | UniformQuantize
    | FoldBatchNorm
    | CorrectChannels
    | CalibratedQuantize
    | Finetune
    | GradualPrune
    | Distill
    | EntropyTrain
    | Sensitivity,
    Field(discriminator="method"),
]

METHODS: dict[str, type[Step]] = {cls.model_fields["method"].default: cls for cls in get_args(get_args(AnyStep)[0])}

__all__ = [
    "METHODS",
    "AnyStep",
    "CalibratedQuantize",
    "CorrectChannels",
    "Distill",
    "EntropyTrain",
    "Finetune",
    "FoldBatchNorm",
    "GradualPrune",
    "KmeansShare",
    "MagnitudePrune",
    "Sensitivity",
    "Step",
    "UniformQuantize",
]
