"""Entropy-constrained training: the network learns weights whose codes are short."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from squeezer.errors import RecipeError
from squeezer.methods.network_step import TrainingStep
from squeezer.methods.quantization.uniform_quantize import MOST_ABOVE_OWN
from squeezer.model import is_float
from squeezer.representations import Dense

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from squeezer.representations import Representation
    from squeezer.training.parametrisation import Parametrisation
    from squeezer.training.workbench import State, Workbench

#: Parameters of one dimension are rounded to this, over their root mean square. Finer steps are only larger files.
_VECTOR_STEP = 0.125
#: Bytes of a tensor's name and place in a file.
_ENTRY_BYTES = 14
#: The share of a training whose end may be the result: by then the codes are as short as asked.
_READY = 0.9
#: Files larger than asked by more than this are told of.
_TOLERANCE = 1.03


class EntropyTrain(TrainingStep):
    """Train multiples of a step under a rate term (Wiedemann et al., IJCNN 2019), the step itself included.

    The loss has a further term: what the codes will take, by a model of their lengths that follows them as they change.
    """

    method: Literal["entropy_train"] = "entropy_train"
    target_ratio: float | None = Field(
        None, gt=1, le=1e4, description="how many times smaller than its tensors the file, less its graph, is to be"
    )
    rate_weight: float | None = Field(
        None, ge=0, le=1e6, description="the price of a bit for each weight, in units of the loss"
    )
    relative_step: float = Field(
        1.0, gt=0, le=100, description="the step at first, over the weights' root mean square; it is trained"
    )
    scope: Literal["tensor", "global"] = Field(
        "tensor", description="take the root mean square of each tensor, or of all selected tensors together"
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked"})
    produces: ClassVar[str] = "uniform"
    alternatives: ClassVar[frozenset[str]] = frozenset({"target_ratio", "rate_weight"})
    per_tensor: ClassVar[frozenset[str]] = frozenset({"relative_step"})
    summary: ClassVar[str] = "retrain to the smallest file at a given price, or to a given size"

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The network on its grids.

        Raises:
            RecipeError: where the tensors that this step leaves alone are larger than the whole file may be.
        """
        from squeezer.training.loop import train
        from squeezer.training.rate_control import RateControl
        from squeezer.training.trained_levels import TrainedLevels

        trained = [name for name in dict.fromkeys(state.graph.tensors.values()) if name not in state.graph.buffers]
        steps = self._relative_steps({name: state.tensors[name] for name in trained if name in names})
        levels = {name: TrainedLevels(state.tensors[name], step, bench.device) for name, step in steps.items()}
        vectors = {
            name: TrainedLevels(state.tensors[name], _VECTOR_STEP, bench.device, train_step=False)
            for name in trained
            if _is_vector(state.tensors[name])
        }
        wanted = None if self.target_ratio is None else self._bits(self.target_ratio, state, levels, vectors, bench)
        control = RateControl(levels, self.rate_weight, wanted, bench.coder, bench.level)
        result = train(
            state,
            bench,
            self,
            parametrisations={**levels, **vectors},
            hook=control.before_update,
            penalty=control.penalty,
            ready=lambda done, total: done >= _READY * total,
        )
        self._tell(control.price, result, levels, wanted, bench)
        return result

    def _relative_steps(self, tensors: dict[str, Representation]) -> dict[str, float]:
        """The first step of each tensor, over its own root mean square."""
        from squeezer.training.trained_levels import root_mean_square

        steps = {name: self.for_tensor(name).relative_step for name in tensors}
        if self.scope == "tensor":
            return steps
        whole = root_mean_square(tensors.values())
        own = {name: root_mean_square([tensor]) for name, tensor in tensors.items()}
        return {
            name: step * min(whole / own[name], MOST_ABOVE_OWN) if own[name] else step for name, step in steps.items()
        }

    def _bits(
        self,
        ratio: float,
        state: State,
        levels: Mapping[str, Parametrisation],
        vectors: Mapping[str, Parametrisation],
        bench: Workbench,
    ) -> float:
        """What the codes of `levels` may take."""
        whole = 8 * sum(prod(tensor.shape) * tensor.dtype.itemsize for tensor in state.tensors.values())
        others = [
            vectors[name].freeze() if name in vectors else _as_stored(tensor)
            for name, tensor in state.tensors.items()
            if name not in levels
        ]
        rest = _coded(others, bench) + 8 * _ENTRY_BYTES * len(state.tensors)
        if rest >= whole / ratio:
            raise RecipeError(
                f"entropy_train: a file {ratio:g} times smaller has no room for the tensors that this step leaves as "
                f"they are, which take {rest // 8} bytes; make target_ratio less than {whole / rest:.4g}"
            )
        return whole / ratio - rest

    def _tell(
        self,
        price: float,
        result: State,
        levels: Mapping[str, Parametrisation],
        wanted: float | None,
        bench: Workbench,
    ) -> None:
        bits = _coded([result.tensors[name] for name in levels], bench)
        weights = sum(prod(result.tensors[name].shape) for name in levels)
        bench.findings["entropy_train"] = {"rate_weight": price, "bits_per_weight": bits / weights}
        if wanted is not None and bits > _TOLERANCE * wanted:
            bench.events.append(
                {
                    "event": "target_missed",
                    "method": self.method,
                    "reason": f"the codes take {bits // 8} bytes, and target_ratio leaves them {int(wanted) // 8}",
                    "action": "went on with what there is; more epochs, or a larger relative_step, bring it nearer",
                }
            )


def _is_vector(tensor: Representation) -> bool:
    return isinstance(tensor, Dense) and len(tensor.shape) == 1 and tensor.values.size > 0 and is_float(tensor.dtype)


def _as_stored(tensor: Representation) -> Representation:
    """A floating-point tensor in float16, as it will be stored unless the recipe says otherwise."""
    if isinstance(tensor, Dense) and is_float(tensor.dtype) and tensor.dtype.itemsize > 2:
        return Dense(tensor.values.astype(np.float16), tensor.dtype)
    return tensor


def _coded(tensors: list[Representation], bench: Workbench) -> int:
    """Bits of all these tensors in a file."""
    from squeezer.artifact.writer import encode_tensor

    return sum(8 * len(encode_tensor(tensor, bench.coder, bench.level).data) for tensor in tensors)
