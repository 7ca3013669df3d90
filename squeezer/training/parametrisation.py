"""What is trained in the place of each stored tensor: the torch counterpart of `squeezer.representations`.

A parametrisation holds latent numbers that an optimiser changes. Called, it gives the weights that these stand for,
exactly those that `freeze().decode()` will give, so that what is trained and measured is what is delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from squeezer.representations import Dense, Masked, Shared, Trellis, Uniform
from squeezer.training.lookup import lookup
from squeezer.training.tensors import rounded, straight_through, to_numpy, to_torch, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from squeezer.representations import Representation

#: Codes are handled as float32; beyond this magnitude not every integer is one, and int32 is nearly reached.
_MOST_CODE = 2**31 - 128
_INTEGERS = (np.int8, np.int16, np.int32)


class Parametrisation(nn.Module):
    """The trainable counterpart of one representation.

    All that must survive a checkpoint is in parameters and buffers of the module. Parameters of two or more dimensions
    are weights, and decay where the recipe says so; others (centroids, steps, biases) never do.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self.dtype = dtype  # of the tensor, as `decode` gives it

    def forward(self) -> torch.Tensor:
        """The weights that `freeze().decode()` will give: the tensor's shape; float32, or float64 for such a tensor."""
        raise NotImplementedError

    def freeze(self) -> Representation:
        """What is stored."""
        raise NotImplementedError

    def weights(self) -> torch.Tensor:
        """The same in the tensor's own element type, as the graph takes it."""
        result: torch.Tensor = self()
        return result.to(torch_dtype(self.dtype))


class DenseWeights(Parametrisation):
    """Every weight for itself."""

    def __init__(self, tensor: Dense, device: str) -> None:
        super().__init__(tensor.dtype)
        self.stored = tensor.values.dtype
        self.latent = nn.Parameter(_latent(tensor.decode(), device))

    def forward(self) -> torch.Tensor:
        """The latent weights, rounded to the types in which they are stored and given back."""
        return rounded(self.latent, torch_dtype(self.stored), torch_dtype(self.dtype))

    def freeze(self) -> Dense:
        """The values in their stored type."""
        return Dense(to_numpy(self(), self.stored), self.dtype)


class MaskedWeights(Parametrisation):
    """A pruned tensor: weights outside the mask are zero, and get no gradient."""

    mask: torch.Tensor

    def __init__(self, tensor: Masked, device: str) -> None:
        super().__init__(tensor.dtype)
        self.latent = nn.Parameter(_latent(tensor.decode(), device))
        self.register_buffer("mask", to_torch(tensor.mask, device))

    def forward(self) -> torch.Tensor:
        """The latent weights where the mask is true, and positive zero elsewhere."""
        return rounded(torch.where(self.mask, self.latent, 0.0), torch_dtype(self.dtype))

    def renew(self, mask: NDArray[np.bool_]) -> None:
        """Take another mask from now on. What is pruned by it keeps its latent weight."""
        self.mask.copy_(to_torch(mask))

    def freeze(self) -> Masked:
        """The weights and the mask as it is now."""
        return Masked(to_numpy(self(), self.dtype), to_numpy(self.mask, np.dtype(np.bool_)))


class SharedWeights(Parametrisation):
    """Trained centroids: each gets the sum of its weights' gradients (Han et al., ICLR 2016, section 3.3, eq. 3)."""

    codes: torch.Tensor

    def __init__(self, tensor: Shared, device: str) -> None:
        super().__init__(tensor.dtype)
        self.sparse, self.stored, self._integers = tensor.sparse, tensor.codebook.dtype, tensor.codes.dtype
        self.codebook = nn.Parameter(_latent(tensor.codebook, device))
        self.register_buffer("codes", to_torch(tensor.codes.astype(np.int32), device))

    def forward(self) -> torch.Tensor:
        """The centroid of every weight; zero for pruned ones."""
        table = rounded(self.codebook, torch_dtype(self.stored), torch_dtype(self.dtype))
        if self.sparse:
            table = torch.cat([table.new_zeros(1), table])
        return lookup(table, self.codes)

    def freeze(self) -> Shared:
        """The codes as they were, with the codebook as it is now."""
        codebook = to_numpy(rounded(self.codebook, torch_dtype(self.stored)), self.stored)
        return Shared(codebook, to_numpy(self.codes, self._integers), self.sparse, self.dtype)


class UniformWeights(Parametrisation):
    """Multiples of a fixed step: latent weights are rounded to them, and their gradient passes straight through.

    Weights of code 0 keep it: they are zeros that pruning or the entropy coder asked for. No code becomes larger than
    the largest there was, so that it fits the width for which the step was chosen.
    """

    kept: torch.Tensor

    def __init__(self, tensor: Uniform, device: str) -> None:
        super().__init__(tensor.dtype)
        self.step = float(tensor.step)
        self.most = min(int(np.abs(tensor.codes.astype(np.int64)).max(initial=0)), _MOST_CODE)
        self.latent = nn.Parameter(_latent(tensor.codes.astype(np.float32) * tensor.step, device))
        self.register_buffer("kept", to_torch(tensor.codes != 0, device))

    def _codes(self) -> torch.Tensor:
        with torch.no_grad():
            codes = torch.round(self.latent / self.step).clamp_(-self.most, self.most)
            return torch.where(self.kept & (codes != 0), codes, 0.0)  # no negative zero

    def forward(self) -> torch.Tensor:
        """step * round(latent / step), halves to even."""
        free = torch.where(self.kept, self.latent, 0.0)  # no gradient for the others
        with torch.no_grad():
            seen = self._codes() * self.step
        return rounded(straight_through(free, seen), torch_dtype(self.dtype))

    def freeze(self) -> Uniform:
        """The codes as they are now."""
        codes = to_numpy(self._codes(), np.dtype(np.int64))
        return Uniform(np.float32(self.step), codes.astype(_narrowest(codes)), self.dtype)


class TrellisWeights(Parametrisation):
    """Trellis codes, of which only the step is trained: another code would change the grids of those after it.

    The step is step_0 * exp(theta), so that a learning rate means the same at any scale of the weights.
    """

    levels: torch.Tensor
    first: torch.Tensor

    def __init__(self, tensor: Trellis, device: str) -> None:
        super().__init__(tensor.dtype)
        self._codes = tensor.codes
        levels = Trellis(np.float32(1), tensor.codes, np.dtype(np.float32)).decode()
        self.theta = nn.Parameter(torch.zeros((), device=device))
        self.register_buffer("first", to_torch(np.array(tensor.step, np.float32), device))
        self.register_buffer("levels", to_torch(levels, device))

    def forward(self) -> torch.Tensor:
        """The levels times the step."""
        return rounded(self.levels * (self.first * torch.exp(self.theta)), torch_dtype(self.dtype))

    def freeze(self) -> Trellis:
        """The codes as they were, with the step as it is now."""
        step = (self.first * torch.exp(self.theta)).item()
        return Trellis(np.float32(step), self._codes, self.dtype)


class Statistic(Parametrisation):
    """What no optimiser changes: a buffer, which the network itself updates in training, or integers.

    `value` has the tensor's own element type. In training it is handed to the network as it is.
    """

    value: torch.Tensor

    def __init__(self, tensor: Dense, device: str) -> None:
        super().__init__(tensor.dtype)
        self.stored = tensor.values.dtype
        self.register_buffer("value", to_torch(tensor.decode(), device))

    def forward(self) -> torch.Tensor:
        """The value as it will be stored, in the tensor's own element type."""
        if self.stored == self.dtype:
            return self.value.clone()
        return self.value.to(torch_dtype(self.stored)).to(self.value.dtype)

    def freeze(self) -> Dense:
        """The value as it is now."""
        return Dense(to_numpy(self.value, self.stored), self.dtype)


class Constant(Parametrisation):
    """What stays as it is: the tensors of a network that is not trained."""

    value: torch.Tensor

    def __init__(self, tensor: Representation, device: str) -> None:
        super().__init__(tensor.dtype)
        self._tensor = tensor
        self.register_buffer("value", to_torch(tensor.decode(), device))

    def forward(self) -> torch.Tensor:
        """The decoded tensor."""
        return self.value.clone()

    def freeze(self) -> Representation:
        """The representation that it came from."""
        return self._tensor


#: What is trained for each kind of representation. A new kind is a new class and one entry here.
PARAMETRISATIONS: dict[str, Callable[[Any, str], Parametrisation]] = {
    "dense": DenseWeights,
    "masked": MaskedWeights,
    "shared": SharedWeights,
    "uniform": UniformWeights,
    "trellis": TrellisWeights,
}


def parametrise(tensor: Representation, device: str, *, buffer: bool = False) -> Parametrisation:
    """The trainable counterpart of a representation.

    Args:
        tensor: what is stored.
        device: "cpu" or "cuda".
        buffer: whether the network counts the tensor among its buffers, which no optimiser changes.
    """
    floating = torch_dtype(tensor.dtype).is_floating_point
    if isinstance(tensor, Dense) and (buffer or not floating):
        return Statistic(tensor, device)
    if buffer:
        return Constant(tensor, device)
    return PARAMETRISATIONS[tensor.kind](tensor, device)


def _latent(values: NDArray[Any], device: str) -> torch.Tensor:
    """What is trained: float32, or float64 for a tensor of that type."""
    wide = np.float64 if values.dtype == np.float64 else np.float32
    return to_torch(values.astype(wide), device)


def _narrowest(codes: NDArray[np.int64]) -> type[np.signedinteger[Any]]:
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    return next(kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
