"""Which arrays of a file are the inputs and the targets, and whether the file has splits of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from squeezer.data.spec import DataSpec

#: Where `x` itself is missing, `x_train`, `x_validation` and `x_test` are the user's own splits of it.
SUFFIXES: dict[Split, tuple[str, ...]] = {
    Split.TRAIN: ("_train",),
    Split.VALIDATION: ("_validation", "_val"),
    Split.TEST: ("_test",),
}
TARGETS = ("y", "Y", "labels", "targets")
_ONE_INPUT = ("x", "X", "images", "inputs", "data")  # of a network with one input, whatever that is called


@dataclass(frozen=True)
class Chosen:
    """Names without the suffix of a split, and the arrays of each split that the file has; TRAIN is always there."""

    inputs: tuple[str, ...]
    targets: str | None
    arrays: dict[Split, dict[str, str]]  # split: name without suffix: name of the array


def choose(there: Sequence[str], spec: DataSpec, wanted: Sequence[str]) -> Chosen:
    """Find the arrays for inputs with the names `wanted` among those that are `there`.

    Raises:
        DataError: MISSING_ARRAY; lists what is there.
    """
    names = _Names(there)
    targets = _targets(names, spec, wanted)
    inputs = _inputs(names, spec, wanted, targets)
    if unknown := sorted(spec.transforms.keys() - set(inputs)):
        raise DataError(
            Code.MISSING_ARRAY,
            f"data.transforms names {unknown[0]!r}, which is no input; the inputs are {_listed(inputs)}.",
        )
    bases = [*inputs, *([targets] if targets else [])]
    return Chosen(inputs, targets, names.splits(bases))


class _Names:
    def __init__(self, there: Sequence[str]) -> None:
        self.there = there
        self._plain = set(there)
        self.bases = list(dict.fromkeys(self._base(name) for name in there))

    def __contains__(self, base: str) -> bool:
        return base in self._plain or base + SUFFIXES[Split.TRAIN][0] in self._plain

    def splits(self, bases: Sequence[str]) -> dict[Split, dict[str, str]]:
        """The arrays of each split; all names must have the same splits."""
        if all(base in self._plain for base in bases):
            return {Split.TRAIN: {base: base for base in bases}}
        found = {split: {base: self._find(base, split) for base in bases} for split in SUFFIXES}
        arrays: dict[Split, dict[str, str]] = {}
        for split, by_base in found.items():
            present = {base: name for base, name in by_base.items() if name}
            if present and (absent := [base for base in bases if base not in present]):
                raise DataError(
                    Code.MISSING_ARRAY,
                    f"The data set has {_listed(present.values())} and no {absent[0] + SUFFIXES[split][0]!r}; "
                    f"give each array the same splits. There are {_listed(self.there)}.",
                )
            if present:
                arrays[split] = present
        return arrays

    def _base(self, name: str) -> str:
        """The name without the suffix of a split, where it is one of several splits."""
        for suffix in (suffix for suffixes in SUFFIXES.values() for suffix in suffixes):
            base = name.removesuffix(suffix)
            if base != name and base in self and base not in self._plain:
                return base
        return name

    def _find(self, base: str, split: Split) -> str | None:
        return next((base + suffix for suffix in SUFFIXES[split] if base + suffix in self._plain), None)


def _targets(names: _Names, spec: DataSpec, wanted: Sequence[str]) -> str | None:
    if spec.targets is not None:
        if spec.targets not in names:
            raise _missing(spec.targets, "targets", names)
        return spec.targets
    taken = set(spec.inputs or wanted)
    return next((name for name in TARGETS if name in names and name not in taken), None)


def _inputs(names: _Names, spec: DataSpec, wanted: Sequence[str], targets: str | None) -> tuple[str, ...]:
    if spec.inputs is not None:
        if len(spec.inputs) != len(wanted):
            raise DataError(
                Code.MISSING_ARRAY,
                f"data.inputs names {len(spec.inputs)} arrays, and the network has {len(wanted)} inputs: "
                f"{_listed(wanted)}. Name one array for each, in that order.",
            )
        for name in spec.inputs:
            if name not in names:
                raise _missing(name, "inputs", names)
        return spec.inputs
    if all(name in names for name in wanted):
        return tuple(wanted)
    if len(wanted) == 1:
        others = [base for base in names.bases if base != targets]
        usual = [name for name in _ONE_INPUT if name in others]
        if usual or len(others) == 1:
            return ((usual or others)[0],)
    raise _missing(next(name for name in wanted if name not in names), "inputs", names)


def _missing(name: str, key: str, names: _Names) -> DataError:
    return DataError(
        Code.MISSING_ARRAY,
        f"The data set has no array {name!r}; there are {_listed(names.there)}. Name the right one in data.{key}.",
    )


def _listed(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:20]) + (f" and {len(quoted) - 20} more" if len(quoted) > 20 else "") or "none"
