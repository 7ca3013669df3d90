"""Which steps of a recipe run on a model, and which of its tensors each of them takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from squeezer.errors import Code, ModelError, RecipeError
from squeezer.methods.base import matches
from squeezer.model import TensorInfo
from squeezer.recipe import compresses, transition_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from squeezer.graph import Graph
    from squeezer.methods import AnyStep
    from squeezer.model import Model
    from squeezer.recipe import Recipe
    from squeezer.training.workbench import State

_EXPORT = "upload it as a .pt2, which squeezer.export(module, example_inputs, 'model.pt2') writes"


@dataclass(frozen=True)
class Planned:
    """A step, its place in the recipe, the names of the tensors it takes, and what it learned from its survey.

    Where a step before it replaces the network, there are no names until that one has run.
    """

    step: AnyStep
    place: int
    names: frozenset[str]
    surveyed: Any = None


@dataclass(frozen=True)
class Plan:
    """The steps that run, and those of a preset that cannot: method and reason."""

    steps: list[Planned]
    left_out: list[dict[str, str]]


def plan(model: Model, recipe: Recipe, *, has_data: bool, has_student: bool = False) -> Plan:
    """Decide which steps run, which tensors each takes, and that each can follow the ones before it.

    Raises:
        RecipeError: naming the step, and the tensor or what is missing.
        ModelError: where a step finds no tensor to work on.
    """
    recipe.check_data(has_data=has_data)
    recipe.check_student(has_student=has_student)
    planned: list[Planned] = []
    left_out: list[dict[str, str]] = []
    for place, step in enumerate(recipe.steps):
        if missing := _missing(model, step, has_data=has_data):
            if recipe.preset is None:
                raise RecipeError(f"{step.method} needs {missing}")
            left_out.append({"method": step.method, "reason": f"it needs {missing}"})
            continue
        planned.append(Planned(step, place, frozenset()))
    if left_out and not any(compresses(item.step) for item in planned):
        raise RecipeError(f"the preset {recipe.preset} rests on {left_out[-1]['method']}: {left_out[-1]['reason']}")
    _check_runs(model, recipe)
    dense = dict.fromkeys(_weights(model.tensors, model.graph), "dense")
    return Plan(_with_names(planned, dense, "the upload"), left_out)


def with_names(planned: list[Planned], state: State) -> list[Planned]:
    """The steps that follow one that replaced the network, with the tensors that they take in the new one.

    Args:
        planned: they may have their names already, and then stay as they are.
        state: the network as it is before the first of them.

    Raises:
        RecipeError: a step cannot follow the ones before it.
        ModelError: a step finds no tensor to work on.
    """
    if not planned or planned[0].names:
        return planned
    infos = [TensorInfo(name, tensor.shape, tensor.dtype) for name, tensor in state.tensors.items()]
    kinds = {name: state.tensors[name].kind for name in _weights(infos, state.graph)}
    return _with_names(planned, kinds, "the new network")


def _with_names(planned: list[Planned], kinds: dict[str, str], origin: str) -> list[Planned]:
    """Steps with the tensors that they take; `kinds` are those of all weights. None yet of another network's."""
    state = {name: (kind, origin) for name, kind in kinds.items()}
    chosen: list[Planned] = []
    for item in planned:
        step = item.step
        names = frozenset(name for name in state if step.selects(name))
        if not names:
            raise ModelError(Code.NOTHING_TO_COMPRESS, _nothing(step, list(kinds)))
        for name in names:
            kind, made_by = state[name]
            if kind not in step.accepts:
                raise RecipeError(f"tensor {name!r}: {transition_error(step, kind, made_by)}")
            state[name] = (step.leaves(kind), step.method)
        chosen.append(replace(item, names=names))
        if step.replaces_network:  # the names that follow are known once it has run
            break
    return chosen + planned[len(chosen) :]


def _weights(infos: Sequence[TensorInfo], graph: Graph | None) -> list[str]:
    """The tensors that steps may change. Biases, norms and counters are few bytes that accuracy hangs on.

    Neither does a step change what the network itself counts among its buffers, a table of positions or a mask.
    """
    buffers = frozenset() if graph is None else graph.buffers
    return [
        info.name
        for info in infos
        if info.is_float and len(info.shape) >= 2 and info.size > 0 and info.name not in buffers
    ]


def data_without_use(model: Model) -> list[str]:
    """A sentence where a data set that was sent can be of no use."""
    if model.graph is not None or model.format == "onnx":
        return []
    return [f"the data set was not used, since it takes the network itself, and this upload {_is(model)}: {_EXPORT}"]


def overrides_without_tensor(names: Iterable[str], planned: list[Planned]) -> list[str]:
    """A sentence for each override whose glob none of these tensors fits."""
    names = list(names)
    return [
        f"{item.step.method}: no tensor fits the override {pattern!r}"
        for item in planned
        for pattern in item.step.overrides
        if not any(matches(name, pattern) for name in names)
    ]


def _missing(model: Model, step: AnyStep, *, has_data: bool) -> str | None:
    """What a step needs and does not have."""
    if step.needs_graph and model.graph is None:
        return f"the network itself, and this upload {_is(model)}: {_EXPORT}"
    if step.needs_data and not has_data:
        return "a data set: send one as `dataset`, or with --data"
    return None


def _check_runs(model: Model, recipe: Recipe) -> None:
    """Refuse outputs and bounds that take a network which can be run."""
    if model.graph is not None:
        return
    wanted = {"onnx", "pt2"} & set(recipe.outputs)
    lacking = sorted(wanted - {"onnx"} if model.format == "onnx" else wanted)
    if lacking:
        raise RecipeError(f"the output {lacking[0]} needs the network itself, and this upload {_is(model)}: {_EXPORT}")
    if recipe.accept is not None and model.format != "onnx":
        raise RecipeError(f"accept needs the network itself to measure, and this upload {_is(model)}: {_EXPORT}")


def _is(model: Model) -> str:
    """What an upload without a graph is."""
    return "is an ONNX file, which is only measured" if model.format == "onnx" else "has its weights alone"


def _nothing(step: AnyStep, weights: list[str]) -> str:
    if not weights:
        return (
            f"{step.method} works on floating-point tensors of two or more dimensions, and this model has none; "
            "use the preset lossless"
        )
    shown = ", ".join(weights[:5]) + (f" and {len(weights) - 5} more" if len(weights) > 5 else "")
    wanted = f"include {list(step.include)} less exclude {list(step.exclude)}"
    return f"{step.method}: no tensor fits {wanted}; there are {shown}"
