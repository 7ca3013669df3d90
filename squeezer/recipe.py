"""The recipe: what is to be done to a model. One typed document for the API, the command line and the docs."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from squeezer.data.accept import Accept, mismatch
from squeezer.data.spec import DataSpec, Transform
from squeezer.errors import RecipeError
from squeezer.methods import METHODS, AnyStep

Output = Literal["sqz", "safetensors", "onnx", "pt2"]
DEFAULT_PRESET = "safe"
#: What a user may set beside `preset`.
_BESIDE_PRESET = frozenset(
    {"version", "preset", "architecture", "data", "accept", "outputs", "device", "seed", "max_seconds"}
)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Encoding(_Document):
    """How representations become bytes."""

    coder: Literal["auto", "huffman", "gaps", "rans", "context", "raw"] = Field(
        "auto",
        description="`auto` takes the smallest for each part of a tensor; another coder is used wherever it can be",
    )
    level: Literal["fast", "balanced", "max"] = Field(
        "balanced",
        description="`fast` decodes at the speed of Huffman codes; `balanced` also tries rANS; `max` also tries the "
        "context coder: a little smaller, and many times slower",
    )
    small_tensors: Literal["exact", "float16"] = Field(
        "float16",
        description="how floating-point tensors that no step has touched are stored (biases, norms). float16 is "
        "used only where it neither overflows nor loses a tensor's whole range",
    )
    graph: bool = Field(
        True, description="whether the file carries the network itself, where the upload had it, beside its tensors"
    )


class Recipe(_Document):
    """A validated recipe, presets expanded.

    `preset` remembers where the steps came from; a step of a preset that needs data, or the network itself, is left
    out where there is none, whereas a step that the user wrote is refused.
    """

    version: Literal[1] = 1
    preset: str | None = None
    architecture: str | None = Field(None, description="a network of the zoo, to which the uploaded weights belong")
    steps: tuple[AnyStep, ...] = ()
    encoding: Encoding = Encoding()
    data: DataSpec = DataSpec()
    accept: Accept | None = Field(None, description="a result outside of this ends the job as failed; it is kept")
    outputs: tuple[Output, ...] = Field(("sqz",), description="which files to make; the .sqz is always made")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_seconds: int = Field(3600, ge=1, le=7 * 24 * 3600, description="time limit of the work, from its start")
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_transitions(list(self.steps))
        _check_folded(list(self.steps))
        if self.accept is not None and (reason := mismatch(self.accept, self.data)):
            raise ValueError(reason)
        replacing = [step.method for step in self.steps if step.replaces_network]
        if replacing and not self.encoding.graph:
            raise ValueError(
                f"{replacing[0]} puts another network in the place of yours, so the file must carry it; leave "
                "encoding.graph true"
            )
        return self

    def check_data(self, *, has_data: bool) -> None:
        """Refuse a recipe that needs a data set where there is none: the user's own, or a preset that rests on it.

        Raises:
            RecipeError: naming the step.
        """
        if has_data:
            return
        needing = [step.method for step in self.steps if step.needs_data]
        without = any(compresses(step) for step in self.steps if not step.needs_data)
        if needing and (self.preset is None or not without):
            raise RecipeError(f"{needing[0]} needs a data set: send one as `dataset`, or with --data")
        if self.accept is not None:
            raise RecipeError("accept needs a data set to judge by: send one as `dataset`, or with --data")

    def check_student(self, *, has_student: bool) -> None:
        """Refuse a recipe that asks for a student where none came, and a student that no step asks for.

        Raises:
            RecipeError: naming the step.
        """
        needing = [step.method for step in self.steps if step.needs_student]
        if needing and not has_student:
            raise RecipeError(f"{needing[0]} needs the student to train: send it as `student`, or with --student")
        if has_student and not needing:
            raise RecipeError(
                'no step uses the student that was sent: leave it out, or add {"method": "distill", "student": '
                '"uploaded"}'
            )


def compresses(step: AnyStep) -> bool:
    """Whether a step leaves something else than dense tensors."""
    return step.leaves("dense") != "dense"


def check_transitions(steps: list[AnyStep]) -> None:
    """Refuse a step that cannot start from what the steps before it leave.

    Only steps that take every tensor are judged here; where globs are in play, `squeezer.plan` judges tensor by
    tensor once the names are known, still before any work is done.

    Raises:
        ValueError: naming the step and its predecessor.
    """
    state, made_by = "dense", "the upload"
    for step in steps:
        if step.include != ("*",) or step.exclude:
            continue
        if state not in step.accepts:
            raise ValueError(transition_error(step, state, made_by))
        state, made_by = step.leaves(state), step.method


def _check_folded(steps: list[AnyStep]) -> None:
    """Refuse training that takes a batch's statistics for those that are in the weights by now.

    Raises:
        ValueError: naming the step.
    """
    folded = False
    for step in steps:
        folded = (folded or step.method == "fold_batch_norm") and not step.replaces_network
        if folded and not getattr(step, "freeze_batch_norm", True):
            raise ValueError(
                f"{step.method} behind fold_batch_norm must keep the statistics that are in the weights by now; set "
                "its freeze_batch_norm to true"
            )


def transition_error(step: AnyStep, state: str, made_by: str) -> str:
    """The sentence for a step that cannot follow another."""
    return (
        f"{step.method} cannot follow {made_by}: "
        f"it takes {' or '.join(sorted(step.accepts))} tensors, not {state} ones; "
        "change the order of the steps, or keep them apart with include and exclude"
    )


def presets() -> dict[str, dict[str, Any]]:
    """All presets by name: `description` and `recipe`."""
    folder = files("squeezer") / "presets"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    return {name.removesuffix(".json"): json.loads((folder / name).read_text("utf-8")) for name in names}


def parse_recipe(document: object) -> Recipe:
    """Validate a recipe document (a dict, or a preset's name) and expand its preset.

    Raises:
        RecipeError: naming every field that is wrong and what it may be.
    """
    if isinstance(document, str):
        document = {"preset": document}
    if not isinstance(document, dict):
        raise RecipeError(f"a recipe is a JSON object or the name of a preset, not {type(document).__name__}")
    if "steps" not in document and "preset" not in document:
        document = {"preset": DEFAULT_PRESET} | document
    if "preset" in document:
        document = _expand(document)
    _check_methods(document.get("steps"))
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(_sentences(error)) from None


def _expand(document: dict[str, Any]) -> dict[str, Any]:
    known = presets()
    name = document["preset"]
    if not isinstance(name, str) or name not in known:
        raise RecipeError(f"unknown preset {name!r}; the presets are {', '.join(known)}")
    if extra := document.keys() - _BESIDE_PRESET:
        raise RecipeError(
            f"{', '.join(sorted(extra))} cannot be combined with preset {name!r}; beside a preset you may set "
            f"{', '.join(sorted(_BESIDE_PRESET - {'version', 'preset'}))}, or write the steps out instead"
        )
    expanded: dict[str, Any] = known[name]["recipe"] | document
    return expanded


def _check_methods(steps: object) -> None:
    """Name the known methods where one is unknown; pydantic's own message would print the union."""
    for position, step in enumerate(steps if isinstance(steps, list | tuple) else []):
        method = step.get("method") if isinstance(step, dict) else None
        if isinstance(step, dict) and method not in [*METHODS]:  # a list, since anything may stand there
            raise RecipeError(f"steps[{position}]: unknown method {method!r}; the methods are {', '.join(METHODS)}")


def _sentences(error: ValidationError) -> str:
    return "; ".join(_sentence(item["loc"], item["type"], item["msg"]) for item in error.errors())


def _sentence(location: tuple[int | str, ...], kind: str, message: str) -> str:
    # pydantic puts the union's tag after the index of a step: steps, 0, magnitude_prune, sparsity
    shown = [part for i, part in enumerate(location) if not (i == 2 and location[0] == "steps" and part in METHODS)]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in shown).lstrip(".")
    message = message.removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message = f"unknown key; the keys here are {', '.join(_keys_at(location))}"
    return f"{path}: {message}" if path else message


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    if location[0] == "steps" and len(location) > 2:
        return list(METHODS[str(location[2])].model_fields)
    nested: dict[int | str, type[BaseModel]] = {"encoding": Encoding, "data": DataSpec, "accept": Accept}
    if len(location) > 2 and location[:2] == ("data", "transform"):
        return list(Transform.model_fields)
    if location[0] in nested and len(location) > 1:
        return list(nested[location[0]].model_fields)
    return list(Recipe.model_fields)
