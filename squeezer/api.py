"""The library in five functions: compress, decompress, load, open, verify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezer import pipeline
from squeezer.artifact import Artifact
from squeezer.errors import ArtifactError, Code
from squeezer.formats import open_model, safetensors
from squeezer.formats.folder import path_flaw
from squeezer.progress import Meter, Progress, silent
from squeezer.recipe import Recipe, parse_recipe

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
    progress: Callable[[Progress], None] = silent,
    threads: int | None = None,
) -> Report:
    """Compress a model file into a `.sqz` file.

    Args:
        path: a safetensors file, a PyTorch checkpoint, or a Hugging Face folder, zipped or not.
        recipe: a preset's name, a recipe document, or a `Recipe`.
        out: the file to write; by default `path` with the suffix `.sqz`.
        progress: called after each tensor.
        threads: by default one for each core.

    Returns:
        What was done, and the sizes.

    Raises:
        SqueezerError: with a stable code and a sentence that says what to do.
    """
    chosen = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe)
    out = Path(path).with_suffix(".sqz") if out is None else Path(out)
    model = open_model(Path(path))
    try:
        return pipeline.run(model, chosen, out, progress=progress, threads=threads or cores())
    finally:
        model.close()


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
    """Write a `.sqz` file's tensors as safetensors.

    Args:
        origin: the `.sqz` file: a path, its bytes, or an http(s) URL.
        out: a `.safetensors` file, or a folder, which then also receives the files that came with the model.
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
        written = target / "model.safetensors"
        _check_places([written.name, *artifact.files])
        target.mkdir(parents=True, exist_ok=True)
        _write_safetensors(artifact, written, progress)
        return [written, *(_write_file(target, name, artifact.read_file(name)) for name in artifact.files)]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


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
