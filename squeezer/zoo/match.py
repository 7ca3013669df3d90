"""Whether a state dict is one of a built-in network, and what is said where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.errors import Code, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from squeezer.model import TensorInfo
    from squeezer.zoo.shapes import Shapes

#: What `torch.nn.DataParallel` and its like put before every name.
PREFIX = "module."
#: A counter of batch norm that PyTorch before 0.4.1 did not keep, and that nothing needs.
OPTIONAL = ".num_batches_tracked"
_TOLD = 4
_TRAINABLE = ("float32", "float64", "float16", "bfloat16")


def prefix_of(tensors: Mapping[str, TensorInfo]) -> str:
    """What stands before every name: `PREFIX`, or nothing."""
    return PREFIX if tensors and all(name.startswith(PREFIX) for name in tensors) else ""


def compare(name: str, expected: Shapes, found: Shapes) -> None:
    """Refuse tensors that are not those of the network `name`.

    Raises:
        ModelError: MISMATCHED_ARCHITECTURE, with the first differences.
    """
    flaws = list(_flaws(expected, found))
    if flaws:
        more = f", and {len(flaws) - _TOLD} more differences" if len(flaws) > _TOLD else ""
        raise ModelError(
            Code.MISMATCHED_ARCHITECTURE,
            f"The weights are not those of {name}: {'; '.join(flaws[:_TOLD])}{more}. "
            "Name the architecture that they belong to, or upload the network itself: "
            "squeezer.export(module, example_inputs, 'model.pt2').",
        )


def _flaws(expected: Shapes, found: Shapes) -> Iterator[str]:
    for name, shape in expected.items():
        if name not in found and not name.endswith(OPTIONAL):
            yield f"{name} is missing"
        elif found.get(name, shape) != shape:
            yield f"{name} is of shape {found[name]} and should be {shape}"
    for name in found:
        if name not in expected:
            yield f"{name} is not one of its tensors"


def element_type(name: str, tensors: Mapping[str, TensorInfo]) -> np.dtype[np.generic]:
    """The one type of the weights, which is then that of the inputs, too.

    Raises:
        ModelError: MISMATCHED_ARCHITECTURE, where there are several, or it is one that no network computes with.
    """
    types = {info.dtype for key, info in tensors.items() if not key.endswith(OPTIONAL)}
    if len(types) != 1 or (only := types.pop()).name not in _TRAINABLE:
        raise ModelError(
            Code.MISMATCHED_ARCHITECTURE,
            f"The weights of {name} must all be of one type among {', '.join(_TRAINABLE)}; convert the model.",
        )
    return only
