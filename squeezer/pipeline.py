"""Runs a recipe over a model: tensor by tensor through all steps, into the file.

Steps on weights alone are fused: each tensor is read, taken through every step, encoded and written before the next
one, so that memory is bounded by the largest tensor. A step of global scope surveys all of its tensors first. Where
steps need the whole network, `stages` runs these and all before them in memory; what is left is fused as ever.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer import stages
from squeezer.artifact import ArtifactWriter
from squeezer.artifact.tensor import CHUNK
from squeezer.artifact.writer import EncodedTensor, encode_tensor
from squeezer.evaluate import check_data
from squeezer.graph.encoding import to_bytes
from squeezer.methods.network_step import NetworkStep
from squeezer.model import DTYPE_NAMES, Model, TensorInfo
from squeezer.plan import data_without_use, overrides_without_tensor, plan, with_names
from squeezer.progress import Meter, Progress, Stretches, silent
from squeezer.report import Layer, Report, StepSummary
from squeezer.representations import Dense, Representation, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from squeezer.artifact.writer import Each
    from squeezer.graph import Graph
    from squeezer.plan import Plan, Planned
    from squeezer.recipe import Encoding, Recipe
    from squeezer.training.workbench import State


_PIECE = 1 << 14
#: How long encoding takes beside a step that runs the whole network, whose `effort` is about its epochs.
_LAST_EFFORT = 0.2
_HALF = np.finfo(np.float16)


@dataclass(frozen=True)
class _Stepped:
    """A tensor that has been through all steps. `encoded`, where that was done as well."""

    info: TensorInfo
    tensor: Representation
    zeros: int
    error: float | None
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


@dataclass(frozen=True)
class _Source:
    """What is encoded: the upload's tensors as they are read, or what the steps on the whole network have left."""

    model: Model
    aliases: Mapping[str, str]
    state: State | None = None
    replaced: bool = False  # whether another network has taken the place of the uploaded one

    @property
    def graph(self) -> Graph | None:
        """The network itself, where there is one."""
        return self.model.graph if self.state is None else self.state.graph

    @property
    def infos(self) -> list[TensorInfo]:
        """Name, shape and type of each tensor that the file will hold."""
        if self.state is None:
            return list(self.model.tensors)
        return [TensorInfo(name, tensor.shape, tensor.dtype) for name, tensor in self.state.tensors.items()]

    def original(self, info: TensorInfo) -> NDArray[Any] | None:
        """The tensor as uploaded; None where the upload has none of that name, shape and type."""
        return self.model.read(info.name) if info in self._uploaded and not self.replaced else None

    def start(self, name: str, original: NDArray[Any] | None) -> Representation:
        """What the steps that are left begin with."""
        if self.state is not None:
            return self.state.tensors[name]
        assert original is not None  # noqa: S101 # without other tensors the names are the upload's; this tells mypy
        return Dense(original, original.dtype)

    @cached_property
    def _uploaded(self) -> frozenset[TensorInfo]:
        return frozenset(self.model.tensors)


def run(
    model: Model,
    recipe: Recipe,
    out: Path,
    *,
    data: Path | None = None,
    student: Path | None = None,
    checkpoints: Path | None = None,
    progress: Callable[[Progress], None] = silent,
    threads: int = 1,
) -> Report:
    """Compress a model into the file `out`, which appears when all is done.

    Args:
        model: what to compress; read one tensor at a time, unless a step needs the whole network.
        recipe: what to do.
        out: the `.sqz` file to write.
        data: a data set for the steps that need one.
        student: the network that a step trains in the model's place, where the recipe says so.
        checkpoints: a folder in which long steps note how far they are, and from which they go on.
        progress: called after each tensor.
        threads: how many work, on several tensors (together no larger than the largest), on the chunks of one, or
            within torch.

    Raises:
        RecipeError: where a step cannot follow another on some tensor, or lacks what it needs.
        ModelError: where the model cannot be compressed as asked.
    """
    started = time.perf_counter()
    chosen = plan(model, recipe, has_data=data is not None, has_student=student is not None)
    early = stages.network_steps(chosen.steps)
    late = chosen.steps[len(early) :]
    stretches = Stretches([item.step.effort for item in early] + [_LAST_EFFORT], progress)
    source, notes = _Source(model, model.aliases), stages.Notes()
    if early:
        files = stages.Files(data, student, checkpoints)
        ended = stages.run(model, early, recipe, files, stretches.tell, threads)
        source, notes = _Source(model, ended.aliases, ended.state, ended.replaced), ended.notes
        late = with_names(late, ended.state)
    elif data is not None:
        check_data(model, recipe, data)
    sizes = {info.name: info.nbytes for info in source.infos}
    surveyed_bytes = sum(item.step.survey_passes * sizes[name] for item in late for name in item.names)
    meter = Meter(sum(sizes.values()) + surveyed_bytes, stretches.last())
    late = _survey(source, late, recipe.seed, meter)
    rows, ledger = _write(out, source, late, recipe, threads, meter)
    return Report(
        headline=_headline(recipe, chosen),
        format=model.format,
        preset=recipe.preset,
        input_bytes=model.input_bytes,
        tensor_bytes=sum(sizes.values()),
        output_bytes=out.stat().st_size,
        seconds=time.perf_counter() - started,
        steps=_summaries(early, late, notes, rows),
        left_out=chosen.left_out,
        dropped=[{"name": item.name, "reason": item.reason} for item in model.dropped],
        files=dict(model.files),
        layers=[row.layer for row in rows],
        ledger=ledger,
        digests={row.layer.name: row.digest for row in rows},
        warnings=[
            *overrides_without_tensor({*sizes, *(info.name for info in model.tensors)}, chosen.steps),
            *(data_without_use(model) if data is not None else ()),
        ],
        events=notes.events,
        findings=notes.findings,
    )


def _survey(source: _Source, planned: list[Planned], seed: int, meter: Meter) -> list[Planned]:
    """Let each step that asks for it see all of its tensors, as the steps before it leave them."""
    done: list[Planned] = []
    for item in planned:
        surveyed = None
        if item.step.survey_passes:
            surveyed = item.step.survey(partial(_survey_pass, source, list(done), item, seed, meter))
        done.append(replace(item, surveyed=surveyed))
    return done


def _survey_pass(
    source: _Source, before: list[Planned], item: Planned, seed: int, meter: Meter
) -> Iterator[tuple[str, Representation]]:
    for info in source.infos:
        if info.name in item.names:
            yield info.name, _apply(info.name, source.start(info.name, source.original(info)), before, seed)[0]
            meter.advance(item.step.method, info.name, info.nbytes)


def _apply(
    name: str, tensor: Representation, planned: list[Planned], seed: int
) -> tuple[Representation, tuple[float, ...]]:
    seconds = []
    for item in planned:
        started = time.perf_counter()
        if name in item.names:
            tensor = item.step.for_tensor(name).apply(name, tensor, item.surveyed, seed)
        seconds.append(time.perf_counter() - started)
    return tensor, tuple(seconds)


def _write(
    out: Path, source: _Source, planned: list[Planned], recipe: Recipe, threads: int, meter: Meter
) -> tuple[list[_Row], dict[str, int]]:
    """Everything into the file. Returns what the report keeps of each tensor, and the ledger."""
    model = source.model
    rows: list[_Row] = []
    with ArtifactWriter(out) as writer:
        for result in _process(source, planned, recipe, threads):
            writer.add(result.info.name, result.tensor, result.encoded)
            meter.advance("encode", result.info.name, result.info.nbytes)
            rows.append(result.row)
            # Or the tensor would stay in memory while the next one is worked on.
            del result
        for alias, target in source.aliases.items():
            writer.add_alias(alias, target)
        for path in model.files:
            writer.add_file(path, model.read_file(path))
        if source.graph is not None and recipe.encoding.graph:
            writer.add_graph(to_bytes(source.graph))
    return rows, writer.ledger


def _process(source: _Source, planned: list[Planned], recipe: Recipe, threads: int) -> Iterator[_Result]:
    """All tensors, encoded, in their order."""

    def work(info: TensorInfo, original: NDArray[Any] | None) -> _Stepped:
        return _compress(info, original, source.start(info.name, original), planned, recipe)

    infos = source.infos
    if threads == 1:
        for info in infos:
            yield _finished(work(info, source.original(info)), recipe.encoding, map)
        return
    largest = max((info.nbytes for info in infos), default=0)
    waiting: deque[tuple[int, Future[_Stepped]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for info in infos:
                while waiting and (len(waiting) > threads or sum(size for size, _ in waiting) + info.nbytes > largest):
                    yield _finished(waiting.popleft()[1].result(), recipe.encoding, pool.map)
                waiting.append((info.nbytes, pool.submit(work, info, source.original(info))))
            while waiting:
                yield _finished(waiting.popleft()[1].result(), recipe.encoding, pool.map)
        finally:
            for _, future in waiting:
                future.cancel()


def _compress(
    info: TensorInfo, original: NDArray[Any] | None, tensor: Representation, planned: list[Planned], recipe: Recipe
) -> _Stepped:
    tensor, seconds = _apply(info.name, tensor, planned, recipe.seed)
    if isinstance(tensor, Dense) and info.is_float:
        tensor = _small(tensor, recipe.encoding)
    lossless = original is not None and isinstance(tensor, Dense) and tensor.values is original
    zeros, error = _compare(original, tensor, lossless=lossless)
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


def _compare(original: NDArray[Any] | None, tensor: Representation, *, lossless: bool) -> tuple[int, float | None]:
    """How many decoded weights are zero, and ||decoded - original|| / ||original||; None without an original.

    Numbers of the original that are not finite, as those of a mask, are left out of both lengths.
    """
    values = None if original is None else original.reshape(-1)
    zeros, squared_error, squared = 0, 0.0, 0.0
    # The squares of large doubles would overflow.
    wide = values is not None and values.dtype.itemsize == 8
    unit = 1.0
    if values is not None and wide:
        unit = float(np.abs(values).max(initial=0, where=np.isfinite(values))) or 1.0
    # In pieces that fit into a cache; and not by a BLAS, whose threads would wait for each other on a busy machine.
    for start in range(0, prod(tensor.shape), _PIECE):
        decoded = tensor.piece(start, start + _PIECE).decode()
        zeros += decoded.size - int(np.count_nonzero(decoded))
        if values is not None and not lossless:
            exact = values[start : start + _PIECE].astype(np.float64)
            if not (finite := np.isfinite(exact)).all():
                exact, decoded = exact[finite], decoded[finite]
            error = decoded - exact
            if unit != 1:
                exact, error = exact / unit, error / unit
            squared_error += float(np.square(error, out=error).sum())
            squared += float(np.square(exact, out=exact).sum())
    if values is None:
        return zeros, None
    return zeros, float(np.sqrt(squared_error / squared)) if squared else 0.0


def _summaries(
    early: list[Planned], planned: list[Planned], notes: stages.Notes, rows: list[_Row]
) -> list[StepSummary]:
    """How long each step took: the `early` ones as noted, the others summed over tensors."""
    return [
        *(StepSummary(item.step.method, notes.tensors[item.place], notes.seconds[item.place]) for item in early),
        *(
            StepSummary(item.step.method, len(item.names), sum(row.seconds[i] for row in rows))
            for i, item in enumerate(planned)
        ),
    ]


def _headline(recipe: Recipe, chosen: Plan) -> str:
    """What a user must know first. Where there is data, the evaluation's takes its place."""
    methods = {item.step.method for item in chosen.steps}
    if "magnitude_prune" in methods and not any(isinstance(item.step, NetworkStep) for item in chosen.steps):
        return "Accuracy was not measured and is likely lost: weights were pruned and nothing retrained the rest."
    if methods:
        return "Accuracy was not measured: weights were quantised without data. Evaluate the result before you use it."
    if recipe.encoding.small_tensors == "exact":
        return "Lossless: every tensor comes back bit for bit."
    return "Accuracy was not measured: floating-point tensors were rounded to float16 where that is safe."
