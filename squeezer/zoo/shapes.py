"""What the families of networks share: shapes of a state dict's tensors, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Mapping

from squeezer.errors import Code, ModelError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def extent(shapes: Shapes, name: str, axis: int, default: int) -> int:
    """One extent of a tensor; `default` where there is no such tensor or axis, which a comparison will tell later.

    A tensor without elements tells nothing: its extents cost nothing, and could be any.
    """
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) and 0 not in shape else default


def unusable_shape(name: str, shape: Shape, wanted: str) -> ModelError:
    """The error for inputs that a network cannot have."""
    return ModelError(
        Code.MISMATCHED_ARCHITECTURE, f"{name} takes inputs of shape {wanted}, without the batch; not {shape}."
    )
