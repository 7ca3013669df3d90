"""From numpy to torch and back, for every element type that a model may have, and rounding between types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: numpy's name of a type that only `ml_dtypes` has: torch's type of it, and the integers through which bits pass.
_FOREIGN: dict[np.dtype[Any], tuple[torch.dtype, type[np.unsignedinteger[Any]], torch.dtype]] = {
    np.dtype(ml_dtypes.bfloat16): (torch.bfloat16, np.uint16, torch.uint16),
    np.dtype(ml_dtypes.float8_e4m3fn): (torch.float8_e4m3fn, np.uint8, torch.uint8),
    np.dtype(ml_dtypes.float8_e5m2): (torch.float8_e5m2, np.uint8, torch.uint8),
}


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """torch's element type of numpy's."""
    return _FOREIGN[dtype][0] if dtype in _FOREIGN else torch.from_numpy(np.empty(0, dtype)).dtype


def to_torch(array: NDArray[Any], device: str | torch.device = "cpu") -> torch.Tensor:
    """A copy of an array as a tensor of the same shape and element type."""
    copy = np.array(array, order="C")
    if copy.dtype in _FOREIGN:
        dtype, integers, _ = _FOREIGN[copy.dtype]
        return torch.from_numpy(copy.view(integers)).view(dtype).to(device)
    return torch.from_numpy(copy).to(device)


def share(array: NDArray[Any], device: str | torch.device = "cpu") -> torch.Tensor:
    """The same; on a CPU without a copy, where the array may be written to and lies in order."""
    if array.dtype in _FOREIGN or not array.flags.c_contiguous or not array.flags.writeable:
        return to_torch(array, device)
    return torch.from_numpy(array).to(device)


def to_numpy(tensor: torch.Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A copy of a tensor as a C-contiguous array, cast to `dtype`; of the tensor's own type, bit for bit."""
    plain = tensor.detach().cpu().contiguous()
    for foreign, (kind, _, integers) in _FOREIGN.items():
        if plain.dtype == kind:
            return np.array(plain.view(integers).numpy().view(foreign).astype(dtype))
    return np.array(plain.numpy().astype(dtype), order="C")


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, latent: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        del latent
        return seen

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def straight_through(latent: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """`seen`, exactly; its gradient goes to `latent` as it is (Bengio et al. 2013, the straight-through estimator)."""
    result: torch.Tensor = _StraightThrough.apply(latent, seen)  # type: ignore[no-untyped-call] # torch's own
    return result


def rounded(latent: torch.Tensor, *dtypes: torch.dtype) -> torch.Tensor:
    """`latent` rounded to each of the types in turn, in its own type; the gradient goes straight through."""
    narrow = [dtype for dtype in dtypes if dtype != latent.dtype and dtype.itemsize < latent.dtype.itemsize]
    if not narrow:
        return latent
    with torch.no_grad():
        seen = latent
        for dtype in narrow:
            seen = seen.to(dtype).to(latent.dtype)
    return straight_through(latent, seen)
