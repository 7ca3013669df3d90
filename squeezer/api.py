"""The library in five functions: compress, decompress, load, open, verify."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezer import pipeline
from squeezer.artifact import Artifact
from squeezer.errors import ArtifactError, Code
from squeezer.formats import open_model, safetensors
from squeezer.progress import Meter, Progress, silent
from squeezer.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

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


def load(path: StrPath, *, threads: int | None = None) -> dict[str, NDArray[Any]]:
    """Decode a `.sqz` file whole: a dict from names to writable arrays. Tied names share one array.

    Raises:
        ArtifactError: naming the tensor or the section that is damaged.
    """
    with Artifact(path) as artifact, ThreadPoolExecutor(threads or cores()) as pool:
        names = artifact.names
        tensors = dict(zip(names, pool.map(artifact.__getitem__, names), strict=True))
        return tensors | {alias: tensors[name] for alias, name in artifact.aliases.items()}


def open(path: StrPath) -> Artifact:  # noqa: A001 # squeezer.open is the interface
    """Open a `.sqz` file: a mapping whose tensors are decoded one by one, as they are asked for."""
    return Artifact(path)


def verify(path: StrPath, *, progress: Callable[[Progress], None] = silent) -> None:
    """Check and decode everything in a `.sqz` file.

    Raises:
        ArtifactError: naming the tensor, the file or the section that is damaged.
    """
    with Artifact(path) as artifact:
        meter = Meter(artifact.tensor_bytes, progress)
        for name in artifact.names:
            artifact.representation(name)
            meter.advance("verify", name, artifact.info(name).nbytes)
        for name in artifact.files:
            artifact.read_file(name)


def decompress(path: StrPath, out: StrPath, *, progress: Callable[[Progress], None] = silent) -> list[Path]:
    """Write a `.sqz` file's tensors as safetensors.

    Args:
        path: the `.sqz` file.
        out: a `.safetensors` file, or a folder, which then also receives the files that came with the model.
        progress: called after each tensor.

    Returns:
        The files that were written.
    """
    target = Path(out)
    with Artifact(path) as artifact:
        if target.suffix == ".safetensors":
            _write_safetensors(artifact, target, progress)
            return [target]
        target.mkdir(parents=True, exist_ok=True)
        written = target / "model.safetensors"
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


def _write_file(folder: Path, name: str, content: bytes) -> Path:
    """Write a file of the artifact below the folder; its name is not trusted."""
    root = folder.resolve()
    path = (root / name).resolve()
    if root not in path.parents:
        raise ArtifactError("its name leads out of the folder", f"file {name!r}", Code.CORRUPT_ARTIFACT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
