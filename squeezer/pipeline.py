"""Runs a recipe over a model: tensor by tensor through all steps, into the file.

Steps on weights alone are fused: each tensor is read, taken through every step, encoded and written before the next
one, so that memory is bounded by the largest tensor. A step of global scope surveys all of its tensors first.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.artifact import ArtifactWriter
from squeezer.artifact.tensor import CHUNK
from squeezer.artifact.writer import EncodedTensor, encode_tensor
from squeezer.errors import Code, ModelError, RecipeError
from squeezer.methods.base import matches
from squeezer.model import DTYPE_NAMES, Model, TensorInfo, tensor_bytes
from squeezer.progress import Meter, Progress, silent
from squeezer.recipe import transition_error
from squeezer.report import Layer, Report, StepSummary
from squeezer.representations import Dense, Representation, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from squeezer.artifact.writer import Each
    from squeezer.methods import AnyStep
    from squeezer.recipe import Encoding, Recipe


_PIECE = 1 << 14
_HALF = np.finfo(np.float16)


@dataclass(frozen=True)
class _Planned:
    """A step, the names of the tensors it takes, and what it learned from its survey."""

    step: AnyStep
    names: frozenset[str]
    surveyed: Any = None


@dataclass(frozen=True)
class _Stepped:
    """A tensor that has been through all steps. `encoded`, where that was done as well."""

    info: TensorInfo
    tensor: Representation
    zeros: int
    error: float
    digest: str
    seconds: tuple[float, ...]  # of each step
    encoded: EncodedTensor | None = None


@dataclass(frozen=True)
class _Row:
    """What the report keeps of a tensor."""

    layer: Layer
    digest: str
    seconds: tuple[float, ...]  # of each step


@dataclass(frozen=True)
class _Result:
    info: TensorInfo
    tensor: Representation
    encoded: EncodedTensor
    row: _Row


def run(
    model: Model,
    recipe: Recipe,
    out: Path,
    *,
    progress: Callable[[Progress], None] = silent,
    threads: int = 1,
) -> Report:
    """Compress a model into the file `out`, which appears when all is done.

    Args:
        model: what to compress; read one tensor at a time.
        recipe: what to do.
        out: the `.sqz` file to write.
        progress: called after each tensor.
        threads: how many work, on several tensors (together no larger than the largest) or on the chunks of one.

    Raises:
        RecipeError: where a step cannot follow another on some tensor.
        ModelError: where the model cannot be compressed as asked.
    """
    started = time.perf_counter()
    planned = plan(model, recipe)
    sizes = {info.name: info.nbytes for info in model.tensors}
    surveyed_bytes = sum(item.step.survey_passes * sizes[name] for item in planned for name in item.names)
    meter = Meter(sum(sizes.values()) + surveyed_bytes, progress)
    planned = _survey(model, planned, recipe.seed, meter)

    rows: list[_Row] = []
    with ArtifactWriter(out) as writer:
        for result in _process(model, planned, recipe, threads):
            writer.add(result.info.name, result.tensor, result.encoded)
            meter.advance("encode", result.info.name, result.info.nbytes)
            rows.append(result.row)
            # Or the tensor would stay in memory while the next one is worked on.
            del result
        for alias, target in model.aliases.items():
            writer.add_alias(alias, target)
        for path in model.files:
            writer.add_file(path, model.read_file(path))
    return Report(
        headline=_headline(recipe),
        format=model.format,
        preset=recipe.preset,
        input_bytes=model.input_bytes,
        tensor_bytes=tensor_bytes(model),
        output_bytes=out.stat().st_size,
        seconds=time.perf_counter() - started,
        steps=_summaries(planned, rows),
        left_out=list(recipe.left_out),
        dropped=[{"name": item.name, "reason": item.reason} for item in model.dropped],
        files=dict(model.files),
        layers=[row.layer for row in rows],
        ledger=writer.ledger,
        digests={row.layer.name: row.digest for row in rows},
        warnings=_warnings(model, recipe),
    )


def plan(model: Model, recipe: Recipe) -> list[_Planned]:
    """Decide which tensors each step takes, and that every step can follow the ones before it.

    Raises:
        RecipeError: naming step and tensor.
        ModelError: where a step finds no tensor to work on.
    """
    state = {info.name: ("dense", "the upload") for info in model.tensors if _is_weight(info)}
    planned = []
    for step in recipe.runnable_steps:
        names = frozenset(name for name in state if step.selects(name))
        if not names:
            raise ModelError(Code.NOTHING_TO_COMPRESS, _nothing(model, step, state))
        for name in names:
            kind, made_by = state[name]
            if kind not in step.accepts:
                raise RecipeError(f"tensor {name!r}: {transition_error(step, kind, made_by)}")
            state[name] = (step.produces, step.method)
        planned.append(_Planned(step, names))
    return planned


def _is_weight(info: TensorInfo) -> bool:
    """Whether steps may change a tensor. Biases, norms and counters are few bytes that accuracy hangs on."""
    return info.is_float and len(info.shape) >= 2 and info.size > 0


def _nothing(model: Model, step: AnyStep, weights: dict[str, tuple[str, str]]) -> str:
    if not weights:
        return (
            f"{step.method} works on floating-point tensors of two or more dimensions, and this model has none; "
            "use the preset lossless"
        )
    names = [info.name for info in model.tensors if info.name in weights]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    wanted = f"include {list(step.include)} less exclude {list(step.exclude)}"
    return f"{step.method}: no tensor fits {wanted}; there are {shown}"


def _survey(model: Model, planned: list[_Planned], seed: int, meter: Meter) -> list[_Planned]:
    """Let each step that asks for it see all of its tensors, as the steps before it leave them."""
    done: list[_Planned] = []
    for item in planned:
        surveyed = None
        if item.step.survey_passes:
            surveyed = item.step.survey(partial(_survey_pass, model, list(done), item, seed, meter))
        done.append(_Planned(item.step, item.names, surveyed))
    return done


def _survey_pass(
    model: Model, before: list[_Planned], item: _Planned, seed: int, meter: Meter
) -> Iterator[tuple[str, Representation]]:
    for info in model.tensors:
        if info.name in item.names:
            values = model.read(info.name)
            yield info.name, _apply(info.name, Dense(values, info.dtype), before, seed)[0]
            meter.advance(item.step.method, info.name, info.nbytes)


def _apply(
    name: str, tensor: Representation, planned: list[_Planned], seed: int
) -> tuple[Representation, tuple[float, ...]]:
    seconds = []
    for item in planned:
        started = time.perf_counter()
        if name in item.names:
            tensor = item.step.for_tensor(name).apply(name, tensor, item.surveyed, seed)
        seconds.append(time.perf_counter() - started)
    return tensor, tuple(seconds)


def _process(model: Model, planned: list[_Planned], recipe: Recipe, threads: int) -> Iterator[_Result]:
    """All tensors, encoded, in the model's order."""

    def work(info: TensorInfo, values: NDArray[Any]) -> _Stepped:
        return _compress(info, values, planned, recipe)

    if threads == 1:
        for info in model.tensors:
            yield _finished(work(info, model.read(info.name)), recipe.encoding, map)
        return
    largest = max((info.nbytes for info in model.tensors), default=0)
    waiting: deque[tuple[int, Future[_Stepped]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for info in model.tensors:
                while waiting and (len(waiting) > threads or sum(size for size, _ in waiting) + info.nbytes > largest):
                    yield _finished(waiting.popleft()[1].result(), recipe.encoding, pool.map)
                waiting.append((info.nbytes, pool.submit(work, info, model.read(info.name))))
            while waiting:
                yield _finished(waiting.popleft()[1].result(), recipe.encoding, pool.map)
        finally:
            for _, future in waiting:
                future.cancel()


def _compress(info: TensorInfo, values: NDArray[Any], planned: list[_Planned], recipe: Recipe) -> _Stepped:
    tensor, seconds = _apply(info.name, Dense(values, info.dtype), planned, recipe.seed)
    if isinstance(tensor, Dense) and info.is_float:
        tensor = _small(tensor, recipe.encoding)
    lossless = isinstance(tensor, Dense) and tensor.values.dtype == info.dtype
    zeros, error = _compare(values.reshape(-1), tensor, lossless=lossless)
    done = _Stepped(info, tensor, zeros, error, digest(tensor), seconds)
    # The chunks of a larger tensor are encoded side by side, for which this thread would have to wait for others.
    return replace(done, encoded=_encoded(tensor, recipe.encoding, map)) if info.size <= CHUNK else done


def _encoded(tensor: Representation, encoding: Encoding, each: Each) -> EncodedTensor:
    return encode_tensor(tensor, encoding.coder, encoding.level, each)


def _finished(done: _Stepped, encoding: Encoding, each: Each) -> _Result:
    encoded = done.encoded or _encoded(done.tensor, encoding, each)
    return _Result(done.info, done.tensor, encoded, _Row(_layer(done, encoded), done.digest, done.seconds))


def _small(tensor: Dense, encoding: Encoding) -> Dense:
    """A tensor that no step has touched, in float16 where the recipe says so and the tensor allows it.

    It must not overflow, and must reach above float16's smallest normal number: a tensor that lies wholly below it
    would lose its digits. Single tiny elements among larger ones lose at most 2**-25, which is what float16 means.
    """
    values = tensor.values
    if encoding.small_tensors == "exact" or values.dtype.itemsize <= 2 or values.size == 0:
        return tensor
    peak = float(np.abs(values).max())
    # Comparisons with NaN are false, so a tensor that holds one stays exact.
    if peak == 0 or float(_HALF.smallest_normal) <= peak <= float(_HALF.max):
        return Dense(values.astype(np.float16), tensor.dtype)
    return tensor


def _layer(done: _Stepped, encoded: EncodedTensor) -> Layer:
    info = done.info
    return Layer(
        name=info.name,
        shape=info.shape,
        dtype=DTYPE_NAMES[info.dtype],
        kind=done.tensor.kind,
        coder=encoded.coder,
        tensor_bytes=info.nbytes,
        stored_bytes=len(encoded.data),
        sparsity=done.zeros / max(1, info.size),
        bits_per_weight=8 * len(encoded.data) / max(1, info.size),
        relative_error=done.error,
    )


def _compare(values: NDArray[Any], tensor: Representation, *, lossless: bool) -> tuple[int, float]:
    """How many decoded weights are zero, and ||decoded - values|| / ||values||."""
    zeros, squared_error, squared = 0, 0.0, 0.0
    # The squares of large doubles would overflow.
    unit = float(np.abs(values).max(initial=0)) or 1.0 if values.dtype.itemsize == 8 else 1.0
    # In pieces that fit into a cache; and not by a BLAS, whose threads would wait for each other on a busy machine.
    for start in range(0, values.size, _PIECE):
        decoded = tensor.piece(start, start + _PIECE).decode()
        zeros += decoded.size - int(np.count_nonzero(decoded))
        if not lossless:
            original = values[start : start + _PIECE].astype(np.float64)
            error = decoded - original
            if unit != 1:
                original, error = original / unit, error / unit
            squared_error += float(np.square(error, out=error).sum())
            squared += float(np.square(original, out=original).sum())
    return zeros, float(np.sqrt(squared_error / squared)) if squared else 0.0


def _summaries(planned: list[_Planned], rows: list[_Row]) -> list[StepSummary]:
    return [
        StepSummary(item.step.method, len(item.names), sum(row.seconds[i] for row in rows))
        for i, item in enumerate(planned)
    ]


def _headline(recipe: Recipe) -> str:
    methods = {step.method for step in recipe.runnable_steps}
    if "magnitude_prune" in methods:
        return "Accuracy was not measured and is likely lost: weights were pruned and nothing retrained the rest."
    if methods:
        return "Accuracy was not measured: weights were quantised without data. Evaluate the result before you use it."
    if recipe.encoding.small_tensors == "exact":
        return "Lossless: every tensor comes back bit for bit."
    return "Accuracy was not measured: floating-point tensors were rounded to float16 where that is safe."


def _warnings(model: Model, recipe: Recipe) -> list[str]:
    names = [info.name for info in model.tensors]
    return [
        f"{step.method}: no tensor fits the override {pattern!r}"
        for step in recipe.runnable_steps
        for pattern in step.overrides
        if not any(matches(name, pattern) for name in names)
    ]
