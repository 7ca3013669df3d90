"""Runs the steps that need the whole network, and all before them, in memory; and resumes after the last one done.

Each of these steps ends in a checkpoint, a `.sqz` file of the state that it left. Within a step, the training loop has
checkpoints of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from squeezer.artifact import Artifact, ArtifactWriter
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import SqueezerError
from squeezer.graph.encoding import from_bytes, to_bytes
from squeezer.methods.network_step import NetworkStep
from squeezer.plan import with_names
from squeezer.representations import Dense, digest
from squeezer.training.workbench import State, Workbench
from squeezer.upload import open_student

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from squeezer.data.dataset import Dataset
    from squeezer.model import Model
    from squeezer.plan import Planned
    from squeezer.recipe import Recipe
    from squeezer.representations import Representation

#: Of what lies in the checkpoints; those of another one are not taken up.
_FORMAT = 1
_NOTES = "notes.json"
#: Steps have seeds of their own, so that no two draw the same numbers.
_SEED_STRIDE = 1_000_003


@dataclass
class Notes:
    """What the report is told of these steps."""

    seconds: dict[int, float] = field(default_factory=dict)  # by the step's place in the recipe
    tensors: dict[int, int] = field(default_factory=dict)  # likewise, how many it took
    events: list[dict[str, Any]] = field(default_factory=list)
    findings: dict[str, Any] = field(default_factory=dict)


class Files(NamedTuple):
    """What a job has beside the model: a data set, a student, and a folder for checkpoints."""

    data: Path | None
    student: Path | None
    checkpoints: Path | None


@dataclass(frozen=True)
class Ended:
    """What these steps have left."""

    state: State
    aliases: Mapping[str, str]  # further names of its tensors
    replaced: bool  # whether another network has taken the place of the uploaded one
    notes: Notes


@dataclass(frozen=True)
class _Surroundings:
    """What the steps work with."""

    original: State
    student: State | None
    recipe: Recipe
    data: Dataset | None
    device: str
    checkpoints: Path | None  # for this model, recipe, data and student alone
    tell: Callable[[int, float, str], None]  # place of the step, share of it that is done, a word


def network_steps(planned: list[Planned]) -> list[Planned]:
    """The steps up to the last one that needs the whole network: these are run here."""
    last = max((i for i, item in enumerate(planned) if isinstance(item.step, NetworkStep)), default=-1)
    return planned[: last + 1]


def uploaded(model: Model) -> State:
    """The network as uploaded, all of its tensors read into memory. It has a graph."""
    assert model.graph is not None  # noqa: S101 # the plan has seen to it; this tells mypy
    return State(model.graph, {info.name: Dense(model.read(info.name), info.dtype) for info in model.tensors})


def run(
    model: Model,
    planned: list[Planned],
    recipe: Recipe,
    files: Files,
    tell: Callable[[int, str, float, str], None],
    threads: int,
) -> Ended:
    """The network after these steps.

    Args:
        model: has a graph; all of its tensors are held in memory.
        planned: steps as `network_steps` gives them, at least one.
        recipe: what they are of.
        files: beside the model.
        tell: told of the step's number among `planned`, its method, the share of it that is done, and a word.
        threads: within torch.
    """
    from squeezer.methods.distillation.student import check_fits
    from squeezer.training.device import choose, torch_threads
    from squeezer.training.probe import open_data
    from squeezer.training.runner import Teacher

    original, device = uploaded(model), choose(recipe.device)
    student, its_aliases = (None, {}) if files.student is None else _read_student(files.student)
    folder = None if files.checkpoints is None else files.checkpoints / key(original, recipe, files.data, files.student)
    order = {item.place: i for i, item in enumerate(planned)}

    def tell_of(place: int, share: float, note: str) -> None:
        tell(order[place], planned[order[place]].step.method, share, note)

    with ExitStack() as stack:
        data = None
        if files.data is not None:
            teacher = Teacher(original, recipe.data.loss, device)
            data = stack.enter_context(closing(open_data(files.data, recipe.data, recipe.accept, teacher, device)))
        stack.enter_context(torch_threads(threads))
        if student is not None and data is not None:
            check_fits(student, original, data, recipe.data.loss, device)
        state, notes = _run(planned, _Surroundings(original, student, recipe, data, device, folder, tell_of))
    replacing = [item.step for item in planned if item.step.replaces_network]
    if not replacing:
        return Ended(state, model.aliases, replaced=False, notes=notes)
    return Ended(state, its_aliases if replacing[-1].needs_student else {}, replaced=True, notes=notes)


def _read_student(path: Path) -> tuple[State, Mapping[str, str]]:
    """The network that came as a student, all of it in memory, and the further names of its tensors."""
    with closing(open_student(path)) as model:
        return uploaded(model), model.aliases


def _run(planned: list[Planned], around: _Surroundings) -> tuple[State, Notes]:
    """One step after another, from the last one on that an earlier attempt has ended."""
    original = around.original
    state, notes, done = _resume(original, planned, around.checkpoints) or (original, Notes(), 0)
    waiting = planned[done:]
    while waiting:
        item, *waiting = with_names(waiting, state)
        started = time.perf_counter()
        if isinstance(item.step, NetworkStep):
            state = _settled(item.step.run(state, item.names, _bench(item, around, notes)), original)
        else:
            state = _apply(state, item, around.recipe.seed)
        notes.seconds[item.place] = time.perf_counter() - started
        notes.tensors[item.place] = len(item.names)
        if around.checkpoints is not None and isinstance(item.step, NetworkStep):
            _save(_stage(around.checkpoints, item), state, notes)
            shutil.rmtree(_within(around.checkpoints, item), ignore_errors=True)
    return state, notes


def key(original: State, recipe: Recipe, data: Path | None, student: Path | None = None) -> str:
    """A name for the checkpoints of this work, which no other model, recipe, data set or student shares."""
    state = hashlib.sha256(f"{_FORMAT} {recipe.model_dump_json()}".encode())
    state.update(to_bytes(original.graph))
    for name, tensor in original.tensors.items():
        state.update(f"|{name} {digest(tensor)}".encode())
    for mark, path in ((b"", data), (b"|student ", student)):
        if path is not None and path.is_file():
            with path.open("rb") as file:
                state.update(mark + hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()[:32]


def _bench(item: Planned, around: _Surroundings, notes: Notes) -> Workbench:
    folder, recipe = None, around.recipe
    if around.checkpoints is not None:
        folder = _within(around.checkpoints, item)
        folder.mkdir(parents=True, exist_ok=True)

    def tell(share: float, note: str = "") -> None:
        around.tell(item.place, share, note)

    return Workbench(
        original=around.original,
        data=around.data,
        spec=recipe.data,
        device=around.device,
        seed=(recipe.seed + _SEED_STRIDE * item.place) % 2**63,
        tell=tell,
        coder=recipe.encoding.coder,
        level=recipe.encoding.level,
        student=around.student,
        checkpoints=folder,
        events=notes.events,
        findings=notes.findings,
    )


def _apply(state: State, item: Planned, seed: int) -> State:
    """A step on weights alone, tensor by tensor."""
    surveyed = item.step.survey(partial(_selected, state, item)) if item.step.survey_passes else None
    changed = {
        name: item.step.for_tensor(name).apply(name, tensor, surveyed, seed) for name, tensor in _selected(state, item)
    }
    return State(state.graph, state.tensors | changed)


def _selected(state: State, item: Planned) -> Iterator[tuple[str, Representation]]:
    for name, tensor in state.tensors.items():
        if name in item.names:
            yield name, tensor


def _stage(folder: Path, item: Planned) -> Path:
    """Where the state is that a step has left."""
    return folder / f"stage-{item.place}.sqz"


def _within(folder: Path, item: Planned) -> Path:
    """Where a step notes how far it is itself, until it is done."""
    return folder / f"step-{item.place}"


def _save(path: Path, state: State, notes: Notes) -> None:
    with ArtifactWriter(path) as writer:
        for name, tensor in state.tensors.items():
            writer.add(name, tensor, encode_tensor(tensor, "raw", "fast"))
        writer.add_file(_NOTES, json.dumps(asdict(notes)).encode())
        writer.add_graph(to_bytes(state.graph))


def _settled(state: State, original: State) -> State:
    """The state with its values named as they will be after a checkpoint, so that both go on alike."""
    data = to_bytes(state.graph)
    return replace(state, graph=original.graph if data == to_bytes(original.graph) else from_bytes(data))


def _resume(original: State, planned: list[Planned], folder: Path | None) -> tuple[State, Notes, int] | None:
    """What the last step left that an earlier attempt has done, and how many of `planned` that is."""
    if folder is None:
        return None
    for number in range(len(planned), 0, -1):
        path = _stage(folder, planned[number - 1])
        if path.is_file():
            try:
                state, notes = _load(path)
                return _settled(state, original), notes, number
            except SqueezerError:  # damaged: the steps before it are the best there is
                path.unlink()
    return None


def _load(path: Path) -> tuple[State, Notes]:
    with Artifact(path, max_bytes=1 << 62) as artifact:  # our own file
        tensors = {name: tensor for name, tensor, _ in artifact.representations()}
        notes = json.loads(artifact.read_file(_NOTES))
        graph = artifact.graph()
    assert graph is not None  # noqa: S101 # `_save` has written it; this tells mypy
    # JSON has texts alone as keys.
    places = {key: {int(place): value for place, value in notes[key].items()} for key in ("seconds", "tensors")}
    return State(graph, tensors), Notes(**notes | places)
