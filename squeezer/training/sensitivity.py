"""The table behind the step `sensitivity`: every tensor and every coupled group at every share of zeros."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp, prod
from typing import TYPE_CHECKING, Any, Protocol

from squeezer.graph.branches import branches
from squeezer.training.trial import Effect, Trial, Variant

if TYPE_CHECKING:
    from collections.abc import Set

    from squeezer.training.workbench import State, Workbench

#: The share of the work that the first pass is, which tries every tensor at every share of zeros.
_FIRST = 0.9


class Settings(Protocol):
    """Those of the step `sensitivity`."""

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Shares of zeros, rising."""
        ...

    @property
    def rows(self) -> int:
        """How many validation rows at most."""
        ...

    @property
    def max_divergence(self) -> float:
        """Tolerance in nats."""
        ...

    @property
    def min_agreement(self) -> float | None:
        """Tolerance as the least share of equal predictions."""
        ...


@dataclass(frozen=True)
class _Row:
    """Tensors that were zeroed together, and what came of it at each of the sparsities."""

    names: tuple[str, ...]
    effects: list[Effect]

    @property
    def sensitivity(self) -> float:
        """The mean of 1 - exp(-divergence) over the sparsities: 0 where nothing changes, 1 where all is lost.

        It bounds the squared total variation between predictions (Bretagnolle & Huber 1979), and keeps one ruinous
        sparsity, where a divergence may be anything, from outweighing all others.
        """
        return sum(1 - exp(-effect.distance) for effect in self.effects) / len(self.effects)


def survey(
    step: Settings, state: State, names: Set[str], bench: Workbench, batch_size: int | None = None
) -> dict[str, Any]:
    """The findings of a step `sensitivity`, as JSON types; `docs/methods/sensitivity.md` describes them.

    Args:
        step: its settings.
        state: the network; it stays as it is.
        names: the tensors to look at.
        bench: data, the original that outputs are compared with, and whom to tell.
        batch_size: rows at once; by default as many as memory allows.

    Raises:
        DataError: there are no validation rows.
    """
    ordered = [name for name in state.tensors if name in names]
    groups = branches(state.graph, names)
    units = [*((name,) for name in ordered), *groups]
    levels = range(1, len(step.sparsities) + 1)
    trial = Trial(step.sparsities, state, ordered, bench, step.rows, batch_size)
    variants: list[Variant] = [{}, *(dict.fromkeys(unit, level) for unit in units for level in levels)]
    unchanged, *effects = trial.measure(variants, lambda share, note: bench.tell(_FIRST * share, note))
    rows = [_Row(unit, effects[i * len(levels) : (i + 1) * len(levels)]) for i, unit in enumerate(units)]

    suggested = _suggested(step, rows, groups)
    candidates = _candidates(step, rows, groups)
    going: list[Variant] = []  # one more each time
    for row in candidates:
        going.append((going[-1] if going else {}) | dict.fromkeys(row.names, len(levels)))
    together, *removed = trial.measure(
        [suggested, *going], lambda share, note: bench.tell(_FIRST + (1 - _FIRST) * share, note)
    )
    number = next((i for i, effect in enumerate(removed) if not _tolerable(step, effect)), len(removed))
    return {
        "split": "validation",
        "rows": trial.rows,
        "metric": trial.metric,
        "sparsities": list(step.sparsities),
        "max_divergence": step.max_divergence,
        "min_agreement": step.min_agreement,
        "unchanged": asdict(unchanged),
        "tensors": _tensors(step, state, rows[: len(ordered)], groups, suggested),
        "groups": [_entry(state, row) | {"names": list(row.names)} for row in rows[len(ordered) :]],
        "together": asdict(together) | {"sparsity": _overall(step, state, suggested)},
        "removable": [list(row.names) for row in candidates[:number]],
        "removed": asdict(removed[number - 1]) if number else None,
    }


def _tolerable(step: Settings, effect: Effect) -> bool:
    agreed = step.min_agreement is None or (effect.agreement is not None and effect.agreement >= step.min_agreement)
    return effect.distance <= step.max_divergence and agreed


def _bearable(step: Settings, row: _Row) -> int:
    """How many of the sparsities are tolerable, from the first on."""
    return next((i for i, effect in enumerate(row.effects) if not _tolerable(step, effect)), len(row.effects))


def _suggested(step: Settings, rows: list[_Row], groups: list[tuple[str, ...]]) -> Variant:
    """How far each tensor can be taken: no further than its group."""
    alone = {row.names[0]: _bearable(step, row) for row in rows if row.names not in groups}
    of_group = {row.names: _bearable(step, row) for row in rows if row.names in groups}
    return {
        name: min([level, *(limit for names, limit in of_group.items() if name in names)])
        for name, level in alone.items()
    }


def _candidates(step: Settings, rows: list[_Row], groups: list[tuple[str, ...]]) -> list[_Row]:
    """What could go altogether by itself, the least sensitive first; a tensor of a group only with all of it."""
    if step.sparsities[-1] < 1:
        return []
    grouped = {name for group in groups for name in group}
    free = [row for row in rows if row.names in groups or row.names[0] not in grouped]
    possible = [row for row in free if _tolerable(step, row.effects[-1])]
    return sorted(possible, key=lambda row: row.effects[-1].distance)


def _tensors(
    step: Settings, state: State, rows: list[_Row], groups: list[tuple[str, ...]], suggested: Variant
) -> list[dict[str, Any]]:
    """A table's rows, the most sensitive tensor first."""
    shares = (0.0, *step.sparsities)
    return [
        _entry(state, row)
        | {
            "name": row.names[0],
            "shape": list(state.tensors[row.names[0]].shape),
            "groups": [i for i, group in enumerate(groups) if row.names[0] in group],
            "suggested": shares[suggested[row.names[0]]],
        }
        for row in sorted(rows, key=lambda row: -row.sensitivity)
    ]


def _entry(state: State, row: _Row) -> dict[str, Any]:
    return {
        "sensitivity": row.sensitivity,
        "weights": sum(prod(state.tensors[name].shape) for name in row.names),
        "divergence": [effect.divergence for effect in row.effects],
        "agreement": [effect.agreement for effect in row.effects],
        "metric": [effect.metric for effect in row.effects],
    }


def _overall(step: Settings, state: State, suggested: Variant) -> float:
    """The share of all weights looked at that the suggestions make zero."""
    sizes = {name: prod(state.tensors[name].shape) for name in suggested}
    shares = (0.0, *step.sparsities)
    return sum(shares[level] * sizes[name] for name, level in suggested.items()) / max(1, sum(sizes.values()))
