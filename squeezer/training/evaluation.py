"""Two networks on the same rows, measured the same way: the original, and what became of it.

Rows are read batch by batch, and only a few numbers are kept of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from squeezer import statistics
from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError
from squeezer.training.comparison import SEED, ComparedClasses, ComparedValues, figure
from squeezer.training.metrics import MEASURES, Measure
from squeezer.training.predictions import OF_CLASSES
from squeezer.training.runner import on_device
from squeezer.training.sentences import headline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from squeezer.data import DataSpec
    from squeezer.data.dataset import Dataset
    from squeezer.statistics import Rows
    from squeezer.training.runnable import Runnable
    from squeezer.training.workbench import Tell

#: Rows of a batch, where memory allows: so many numbers of input and output together.
_LARGEST_BATCH, _NUMBERS = 256, 1 << 24
#: Metrics of which each example is simply right or wrong.
_RIGHT_OR_WRONG = frozenset({"accuracy", "top5_accuracy", "binary_accuracy"})


def evaluate(
    original: Runnable,
    result: Runnable,
    data: Dataset,
    spec: DataSpec,
    *,
    device: str,
    tell: Tell,
    split: Split = Split.TEST,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Measure a network and what became of it on the same rows; `docs/evaluation.md` describes every figure.

    Args:
        original: the network as uploaded.
        result: what became of it, with its tensors as they are decoded.
        data: rows, with or without targets.
        spec: loss and metric.
        device: where the networks want their inputs, "cpu" or "cuda".
        tell: called after each batch.
        split: which rows.
        batch_size: rows at once; by default as many as 16 million numbers of input and output allow, 256 at most.

    Returns:
        A document of JSON types; figures that could not be measured are None.

    Raises:
        DataError: there are no rows, or targets do not fit the outputs.
        ModelError: INVALID_ONNX, where ONNX Runtime cannot run a network.
    """
    total = data.size(split)
    if total == 0:
        raise DataError(Code.TOO_FEW_ROWS, f"there are no {split.value} rows to measure with; send more data")
    networks = (original, result)
    size = batch_size or largest_batch(data, split, original, device)
    gathered = _Gathered(spec, data.labelled)
    done = 0
    for inputs, targets, rows in batches(data, split, np.arange(total, dtype=np.int64), size, networks, device):
        first, second = (network(inputs)[:rows] for network in networks)
        gathered.add(first, second, targets)
        done += rows
        tell(done / total, f"{done} of {total} rows")
    document = {"split": split.value, "rows": total, "labelled": data.labelled, **gathered.document()}
    return {"headline": headline(document), **document}


class _Fixed(Protocol):
    @property
    def fixed(self) -> int | None: ...


def largest_batch(data: Dataset, split: Split, network: Runnable, device: str) -> int:
    """How many rows at once fit into memory, by the sizes of input and output of two of them."""
    if network.fixed is not None:
        return network.fixed
    rows = np.arange(min(2, data.size(split)), dtype=np.int64)
    inputs, _ = on_device(data.batch(split, rows), device)
    numbers = sum(tensor.numel() for tensor in inputs) + network(inputs).numel()
    return min(_LARGEST_BATCH, max(1, _NUMBERS * len(rows) // max(1, numbers)))


def batches(
    data: Dataset, split: Split, rows: NDArray[np.int64], size: int, networks: Sequence[_Fixed], device: str
) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor | None, int]]:
    """Inputs, targets and how many rows of the outputs count: a network of one size of batch has its last filled up."""
    fixed = next((network.fixed for network in networks if network.fixed is not None), None)
    for start in range(0, len(rows), fixed or size):
        wanted = rows[start : start + (fixed or size)]
        read = wanted if fixed is None else np.resize(wanted, fixed)
        inputs, targets = on_device(data.batch(split, read), device)
        yield inputs, None if targets is None else targets[: len(wanted)], len(wanted)


@dataclass
class _Gathered:
    """What is kept of each row."""

    spec: DataSpec
    labelled: bool
    rows: tuple[list[Rows], list[Rows]] = field(default_factory=lambda: ([], []))  # of the metric

    def __post_init__(self) -> None:
        self.compared = ComparedClasses(self.spec.loss) if self.spec.loss in OF_CLASSES else ComparedValues()

    def add(self, first: torch.Tensor, second: torch.Tensor, targets: torch.Tensor | None) -> None:
        """Count a batch: outputs of both networks, and targets."""
        if first.shape != second.shape:
            raise DataError(
                Code.INVALID_DATA,
                f"the original's output has shape {tuple(first.shape)} and the result's {tuple(second.shape)}; "
                "they cannot be compared",
            )
        if isinstance(self.compared, ComparedClasses):
            pair = self.compared.add(first, second, targets)
            if targets is not None:
                for kept, predicted in zip(self.rows, pair, strict=True):
                    kept.append(self.measure.rows_of_classes(predicted))
            return
        self.compared.add(first, second)
        if targets is not None:
            for kept, outputs in zip(self.rows, (first, second), strict=True):
                kept.append(self.measure.rows(outputs, targets, self.spec))

    @property
    def measure(self) -> Measure:
        return MEASURES[self.spec.measure]

    def document(self) -> dict[str, Any]:
        """All figures."""
        measured = self._metric() if self.labelled else dict.fromkeys(_OF_LABELS)
        return measured | self.compared.document()

    def _metric(self) -> dict[str, Any]:
        measure = self.measure
        first, second = (np.concatenate(rows) for rows in self.rows)
        width = first.shape[1]
        sign = 1.0 if measure.lower_is_better else -1.0

        def drop(sums: Rows) -> Rows:
            return sign * (measure.value(sums[..., width:]) - measure.value(sums[..., :width]))

        return {
            "metric": measure.name,
            "better": "lower" if measure.lower_is_better else "higher",
            "original": figure(first, measure.value, shares=measure.name in _RIGHT_OR_WRONG),
            "result": figure(second, measure.value, shares=measure.name in _RIGHT_OR_WRONG),
            "drop": figure(np.concatenate([first, second], axis=1), drop),
            "test": self._test(first, second),
        }

    def _test(self, first: Rows, second: Rows) -> dict[str, Any]:
        """Whether the drop could be chance."""
        if self.measure.name in _RIGHT_OR_WRONG and first[:, 1].max(initial=0) <= 1:
            alone = [
                int(np.count_nonzero(one[:, 0] > other[:, 0])) for one, other in ((first, second), (second, first))
            ]
            return {"name": "McNemar, exact", "p": statistics.mcnemar(*alone)}
        return {"name": "paired permutation", "p": statistics.swap_test(first, second, self.measure.value, seed=SEED)}


#: What needs labels.
_OF_LABELS = ("metric", "better", "original", "result", "drop", "test")
