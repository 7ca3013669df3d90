"""The library in five functions: compress, decompress, load, open, verify; and the two halves of `compress`."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezer import pipeline
from squeezer.artifact import Artifact
from squeezer.data.accept import judge
from squeezer.errors import ArtifactError, Code, SqueezerError
from squeezer.evaluate import evaluate_files
from squeezer.formats import safetensors
from squeezer.formats.folder import path_flaw
from squeezer.formats.onnx_parts import SKELETON
from squeezer.progress import Meter, Progress, silent
from squeezer.recipe import Recipe, parse_recipe
from squeezer.upload import open_upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from squeezer.artifact.reader import Origin
    from squeezer.report import Report

StrPath = str | os.PathLike[str]


def compress(
    path: StrPath,
    recipe: object = "safe",
    out: StrPath | None = None,
    *,
    data: StrPath | None = None,
    student: StrPath | None = None,
    checkpoints: StrPath | None = None,
    progress: Callable[[Progress], None] = silent,
    threads: int | None = None,
) -> Report:
    """Compress a model file into a `.sqz` file, and measure the result where there is data.

    Args:
        path: an exported program (.pt2), a safetensors file, a PyTorch checkpoint, an ONNX model, or a Hugging Face
            folder, zipped or not.
        recipe: a preset's name, a recipe document, or a `Recipe`.
        out: the file to write; by default `path` with the suffix `.sqz`.
        data: a data set, for steps that retrain, and to measure original and result on its test rows.
        student: a network (.pt2), which `{"method": "distill", "student": "uploaded"}` trains in the model's place.
        checkpoints: a folder in which long steps note how far they are, and from which they go on.
        progress: called after each tensor, and as long steps go on.
        threads: by default one for each core.

    Returns:
        What was done, the sizes, and the evaluation.

    Raises:
        NotAcceptedError: the result is outside the recipe's `accept`; the file is there.
        SqueezerError: with a stable code and a sentence that says what to do.
    """
    chosen = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe)
    out = Path(path).with_suffix(".sqz") if out is None else Path(out)
    report = compress_only(
        path, chosen, out, data=data, student=student, checkpoints=checkpoints, progress=progress, threads=threads
    )
    if data is None:
        return report
    evaluation = evaluate(path, out, chosen, data, progress=progress, threads=threads)
    if evaluation is None:
        return report
    report = replace(report, headline=evaluation["headline"], evaluation=evaluation)
    if reason := judge(evaluation, chosen.accept):
        raise NotAcceptedError(reason, report)
    return report


def compress_only(
    path: StrPath,
    recipe: Recipe,
    out: StrPath,
    *,
    data: StrPath | None = None,
    student: StrPath | None = None,
    checkpoints: StrPath | None = None,
    progress: Callable[[Progress], None] = silent,
    threads: int | None = None,
) -> Report:
    """As `compress`, without the measurement at the end."""
    with closing(open_upload(Path(path), recipe.architecture)) as model:
        return pipeline.run(
            model,
            recipe,
            Path(out),
            data=None if data is None else Path(data),
            student=None if student is None else Path(student),
            checkpoints=None if checkpoints is None else Path(checkpoints),
            progress=progress,
            threads=threads or cores(),
        )


def evaluate(
    path: StrPath,
    origin: Origin,
    recipe: Recipe,
    data: StrPath,
    *,
    progress: Callable[[Progress], None] = silent,
    threads: int | None = None,
) -> dict[str, Any] | None:
    """Measure a model and the `.sqz` file that was made of it, the same way, on the data set's test rows.

    Args:
        path: the model as uploaded.
        origin: the `.sqz` file.
        recipe: for its `data`, `architecture` and `device`.
        data: the data set.
        progress: called as the work goes on.
        threads: by default one for each core.

    Returns:
        The evaluation as a JSON document (`docs/evaluation.md`); None where the model has no graph to run.
    """
    return evaluate_files(Path(path), origin, recipe, Path(data), progress, threads or cores())


class NotAcceptedError(SqueezerError):
    """A result that is outside of what the recipe accepts. `report` tells all about it, and its file is there."""

    def __init__(self, detail: str, report: Report) -> None:
        super().__init__(Code.NOT_ACCEPTED, detail)
        self.report = report


def load(origin: Origin, *, threads: int | None = None, max_bytes: int | None = None) -> dict[str, NDArray[Any]]:
    """Decode a `.sqz` file whole: a dict from names to writable arrays. Tied names share one array.

    Args:
        origin: a path, the file's bytes, or an http(s) URL.
        threads: how many decode at the same time; by default one for each core.
        max_bytes: how large all tensors together may be when decoded: see `open`.

    Raises:
        SqueezerError: naming the tensor or the section that is damaged, or what is wrong with the server.
    """
    with Artifact(origin, max_bytes=max_bytes) as artifact:
        artifact.check_head()
        tensors = dict(artifact.weights(threads or cores()))
        return tensors | {alias: tensors[name] for alias, name in artifact.aliases.items()}


def open(origin: Origin, *, max_bytes: int | None = None) -> Artifact:  # noqa: A001 # squeezer.open is the interface
    """Open a `.sqz` file: a mapping whose tensors are decoded one by one, as they are asked for.

    Args:
        origin: a path, the file's bytes (which must not change), or an http(s) URL. From a URL one request fetches the
            file's end, and one more each tensor; the server must know `Range`.
        max_bytes: how large all tensors together may be when decoded, so that no small file fills the memory. By
            default 1 GiB, or 1024 times the file's size where that is more.

    Raises:
        SqueezerError: where it cannot be read, or is damaged or too large.
    """
    return Artifact(origin, max_bytes=max_bytes)


def verify(
    origin: Origin,
    *,
    progress: Callable[[Progress], None] = silent,
    threads: int | None = None,
    max_bytes: int | None = None,
) -> None:
    """Check and decode everything in a `.sqz` file.

    Args:
        origin: a path, the file's bytes, or an http(s) URL.
        progress: called after each tensor.
        threads: how many decode at the same time; by default one for each core.
        max_bytes: how large all tensors together may be when decoded: see `open`.

    Raises:
        SqueezerError: naming the tensor, the file or the section that is damaged, or what is wrong with the server.
    """
    with Artifact(origin, max_bytes=max_bytes) as artifact:
        artifact.check_head()
        meter = Meter(artifact.tensor_bytes, progress)
        for name, stored, _ in artifact.representations(threads or cores()):
            # Or the tensor would stay in memory while the next one is worked on.
            del stored
            meter.advance("verify", name, artifact.info(name).nbytes)
        for path in artifact.files:
            artifact.read_file(path)
        artifact.check_sections()


def decompress(
    origin: Origin,
    out: StrPath,
    *,
    progress: Callable[[Progress], None] = silent,
    max_bytes: int | None = None,
) -> list[Path]:
    """Write a `.sqz` file's tensors in a format that others read.

    Args:
        origin: the `.sqz` file: a path, its bytes, or an http(s) URL.
        out: a `.safetensors` file; a `.pt2` or `.onnx` file, where the file carries its network; or a folder, which
            then also receives the files that came with the model, or the ONNX file that the model was.
        progress: called after each tensor.
        max_bytes: how large all tensors together may be when decoded: see `open`.

    Returns:
        The files that were written.
    """
    target = Path(out)
    with Artifact(origin, max_bytes=max_bytes) as artifact:
        if target.suffix == ".safetensors":
            _write_safetensors(artifact, target, progress)
            return [target]
        if target.suffix in {".pt2", ".onnx"}:
            _write_program(artifact, target)
            return [target]
        return _write_folder(artifact, target, progress)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _write_folder(artifact: Artifact, folder: Path, progress: Callable[[Progress], None]) -> list[Path]:
    """Write the tensors, and the files that came with them; of an ONNX model that is the model with its weights."""
    written = folder / "model.safetensors"
    names = [name for name in artifact.files if name != SKELETON]
    programs = [folder / "model.onnx"] if SKELETON in artifact.files else []
    _check_places([written.name, *(path.name for path in programs), *names])
    folder.mkdir(parents=True, exist_ok=True)
    for path in programs:
        _write_onnx(artifact, path)
    _write_safetensors(artifact, written, progress)
    return [written, *programs, *(_write_file(folder, name, artifact.read_file(name)) for name in names)]


def _write_safetensors(artifact: Artifact, out: Path, progress: Callable[[Progress], None]) -> None:
    """Decode an opened artifact into a safetensors file, one tensor at a time."""
    tensors = [artifact.info(name) for name in artifact.names]
    # A tied tensor is written under each of its names.
    sizes = {name: artifact.info(name).nbytes for name in artifact}
    meter = Meter(sum(sizes.values()), progress)

    def read(name: str) -> NDArray[Any]:
        meter.advance("decompress", name, sizes[name])
        return artifact[name]

    safetensors.write(out, tensors, read, artifact.aliases)


def _write_program(artifact: Artifact, out: Path) -> None:
    """Write the network with its tensors, as the suffix says."""
    if out.suffix == ".onnx" and SKELETON in artifact.files:
        _write_onnx(artifact, out)
        return
    graph = artifact.graph()
    if graph is None:
        raise ArtifactError(
            f"the file holds tensors alone, and no network to write as {out.suffix}; write a .safetensors file",
            "graph",
            Code.NO_GRAPH,
        )
    from squeezer.training.export import write_onnx, write_pt2

    write = write_onnx if out.suffix == ".onnx" else write_pt2
    write(graph, {name: artifact[name] for name in artifact.names}, out)


def _write_onnx(artifact: Artifact, out: Path) -> None:
    """Write the ONNX file that was uploaded, with the decoded weights."""
    from squeezer.formats import onnx  # whose package not everybody has

    onnx.write(artifact, out)


def _check_places(names: list[str]) -> None:
    """Refuse names that lead out of a folder or that no file system takes, and files in each other's place."""
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        above = {name[:i] for i, character in enumerate(name) if character == "/"}
        flaw = path_flaw(name)
        if flaw is None and (name in files or name in folders or above & files):
            flaw = "is also another file's"
        if flaw is not None:
            raise ArtifactError(f"its name {flaw}", f"file {name!r}", Code.CORRUPT_ARTIFACT)
        files.add(name)
        folders |= above


def _write_file(folder: Path, name: str, content: bytes) -> Path:
    """Write a file of the artifact below the folder, but not through a link that leads out of it."""
    root, path = (Path(os.path.realpath(place)) for place in (folder, folder / name))
    if root not in path.parents:
        raise ArtifactError("its name leads out of the folder", f"file {name!r}", Code.CORRUPT_ARTIFACT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
