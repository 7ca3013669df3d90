"""What every step has in common: which tensors it takes, and how it is applied.

A step's settings are a pydantic model, and that model is the step: `apply` maps one tensor's representation
to another. Importing a step must load neither torch nor numba; its `apply` may.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from squeezer.representations import Representation

#: Settings that choose tensors or hold for all of them at once, so that an override cannot change them.
_NOT_FOR_ONE_TENSOR = frozenset({"method", "include", "exclude", "overrides", "scope"})


def matches(name: str, pattern: str) -> bool:
    """Whether a tensor name fits a glob, with or without the `module.` that DataParallel puts before it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix("module."), pattern)


class Step(BaseModel):
    """Base of all steps."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    include: tuple[str, ...] = Field(("*",), description="globs over tensor names; a tensor must fit one")
    exclude: tuple[str, ...] = Field((), description="globs over tensor names that are left alone")
    overrides: dict[str, dict[str, JsonValue]] = Field(
        {}, description="other settings for the tensors that fit a glob; the last fitting one wins"
    )

    #: Kinds of representation that the step can start from, and the one that it leaves; "same" leaves them as they are.
    accepts: ClassVar[frozenset[str]]
    produces: ClassVar[str]
    #: Steps that retrain or measure need a data set, or the network itself; presets leave them out where there is none.
    needs_data: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    #: One line for `squeezer methods`.
    summary: ClassVar[str]

    @model_validator(mode="after")
    def _check_alternatives(self) -> Self:
        given = [name for name in sorted(self.alternatives) if getattr(self, name) is not None]
        if self.alternatives and len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of {', '.join(sorted(self.alternatives))}; found {found}")
        return self

    @model_validator(mode="after")
    def _check_overrides(self) -> Self:
        for pattern, settings in self.overrides.items():
            if forbidden := _NOT_FOR_ONE_TENSOR & settings.keys():
                raise ValueError(f"overrides[{pattern!r}] may not set {', '.join(sorted(forbidden))}")
            try:
                self._with(settings)
            except ValidationError as error:
                raise ValueError(f"overrides[{pattern!r}]: {self._sentences(error)}") from None
        return self

    @classmethod
    def _sentences(cls, error: ValidationError) -> str:
        """What is wrong with an override, in one line: pydantic would name the place without the pattern."""
        known = ", ".join(sorted(cls.model_fields.keys() - _NOT_FOR_ONE_TENSOR))
        return "; ".join(
            f"{'.'.join(map(str, item['loc']))}: unknown key; the keys here are {known}"
            if item["type"] == "extra_forbidden"
            else ": ".join([*map(str, item["loc"]), item["msg"].removeprefix("Value error, ")])
            for item in error.errors()
        )

    def _with(self, settings: dict[str, JsonValue]) -> Self:
        """This step with some settings replaced; settings that exclude each other replace one another."""
        ours = self.model_dump(exclude={"overrides"}, exclude_unset=True)
        if any(key in settings for key in self.alternatives):
            ours = {key: value for key, value in ours.items() if key not in self.alternatives}
        return type(self).model_validate(ours | settings)

    #: Settings of which exactly one may be given (`bits` or `clusters`).
    alternatives: ClassVar[frozenset[str]] = frozenset()

    @cached_property
    def overridden(self) -> dict[str, Self]:
        """The settings under each pattern of `overrides`, in their order."""
        return {pattern: self._with(settings) for pattern, settings in self.overrides.items()}

    def leaves(self, kind: str) -> str:
        """The kind of representation after this step, for a tensor that was of that kind before."""
        return kind if self.produces == "same" else self.produces

    @property
    def replaces_network(self) -> bool:
        """Whether another network takes the place of the uploaded one, with tensors of other names."""
        return False

    @property
    def needs_student(self) -> bool:
        """Whether it trains a network that came as a file of its own, the student."""
        return False

    @property
    def effort(self) -> float:
        """About how long the step takes, in passes over the training data, to tell how far a job is."""
        return 0.02

    def selects(self, name: str) -> bool:
        """Whether `include` and `exclude` let a tensor of that name in."""
        return any(matches(name, p) for p in self.include) and not any(matches(name, p) for p in self.exclude)

    def for_tensor(self, name: str) -> Self:
        """The settings for one tensor, with its overrides put in."""
        chosen = self
        for pattern, step in self.overridden.items():
            if matches(name, pattern):
                chosen = step
        return chosen

    @property
    def survey_passes(self) -> int:
        """How often the step must see all tensors before it can be applied to any (global scope)."""
        return 0

    def survey(self, tensors: Callable[[], Iterable[tuple[str, Representation]]]) -> Any:
        """What the step must know of all its tensors together.

        It is called once, before `apply`, where `survey_passes` is not 0. Each call of `tensors` starts a
        fresh pass, which yields every selected tensor in the order in which `apply` will see it. A step may
        need more than one pass, and keeps no tensor from one to the next.
        """
        del tensors

    def apply(self, name: str, tensor: Representation, surveyed: Any, seed: int) -> Representation:
        """The representation of one selected tensor after this step.

        `surveyed` is what `survey` returned. `seed` is the recipe's.
        """
        raise NotImplementedError
