"""`compress`, `decompress`, `inspect`, `verify`: models and files on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path  # noqa: TC003 - Typer evaluates annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezer.cli.arguments import (
    ArtifactArgument,
    JsonOption,
    MaxBytesOption,
    ModelArgument,
    RecipeOption,
    SqzOption,
    check_exists,
    check_model,
    check_writable,
    output_paths,
    recipe_document,
)
from squeezer.cli.errors import print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from squeezer.console import Update
    from squeezer.progress import Progress


def compress(
    model: ModelArgument,
    output: SqzOption = None,
    recipe: RecipeOption = "safe",
    threads: Annotated[
        int | None, typer.Option(min=1, help="By default one for each core.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compress a model into a .sqz file, on this machine."""
    from squeezer import console
    from squeezer.recipe import parse_recipe

    parsed = parse_recipe(recipe_document(recipe))
    check_model(model)
    outputs = output_paths(model, output, parsed.outputs)

    from squeezer import api

    with console.progress(model.name) as update:
        report = api.compress(model, parsed, outputs["sqz"], progress=_follow(update), threads=threads)
        if "safetensors" in outputs:
            update("write safetensors", None, None, "")
            api.decompress(outputs["sqz"], outputs["safetensors"], max_bytes=report.tensor_bytes)
    if as_json:
        print_json(report.to_json())
    else:
        console.show_report(report.to_json(), str(outputs["sqz"]))


def decompress(
    artifact: ArtifactArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.safetensors|DIR",
            help="A file that ends in .safetensors; or a folder, which also gets the files that came with the model.",
            show_default=False,
        ),
    ],
    max_bytes: MaxBytesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the tensors of a .sqz file as safetensors."""
    from squeezer import console

    check_exists(artifact)
    folder = output.suffix != ".safetensors"
    check_writable(output, artifact, folder=folder)

    from squeezer import api

    fresh = folder and not output.exists()
    try:
        with console.progress(artifact.name) as update:
            written = api.decompress(artifact, output, progress=_follow(update), max_bytes=max_bytes)
    except BaseException:
        if fresh:
            with suppress(OSError):
                output.rmdir()  # where it is empty
        raise
    sizes = {str(path): path.stat().st_size for path in written}
    if as_json:
        print_json({"files": sizes})
        return
    for path, size in sizes.items():
        console.out().print(f"{path}  {console.size_text(size)}", soft_wrap=True)


def inspect(artifact: ArtifactArgument, max_bytes: MaxBytesOption = None, as_json: JsonOption = False) -> None:
    """Show what is inside a .sqz file, and what each of its bytes is for."""
    from squeezer import console

    check_exists(artifact)
    contents = _contents(artifact, max_bytes)
    if as_json:
        print_json(contents)
    else:
        console.show_contents(contents, str(artifact))


def verify(artifact: ArtifactArgument, max_bytes: MaxBytesOption = None, as_json: JsonOption = False) -> None:
    """Check every byte of a .sqz file, and decode everything."""
    from squeezer import console

    check_exists(artifact)

    from squeezer import api

    with console.progress(artifact.name) as update:
        api.verify(artifact, progress=_follow(update), max_bytes=max_bytes)
    with api.open(artifact, max_bytes=max_bytes) as opened:
        found = {"intact": True, "size": opened.size, "tensors": len(opened.names), "files": len(opened.files)}
    if as_json:
        print_json(found)
    else:
        text = f"intact: {artifact}, {console.size_text(found['size'])}, {found['tensors']} tensors"
        console.out().print(text, style="green", soft_wrap=True)


def _contents(path: Path, max_bytes: int | None) -> dict[str, Any]:
    """The document of `inspect --json`: `bytes` in the file, and `tensor_bytes` when decoded."""
    from squeezer import api
    from squeezer.model import DTYPE_NAMES

    with api.open(path, max_bytes=max_bytes) as opened:
        entries = [opened.entry(name) for name in opened.names]
        tensors = [
            {
                "name": entry.name,
                "shape": list(entry.shape),
                "dtype": DTYPE_NAMES[entry.dtype],
                "kind": entry.kind,
                "bytes": entry.length,
                "tensor_bytes": entry.nbytes,
                "bits_per_weight": 8 * entry.length / max(1, entry.size),
            }
            for entry in entries
        ]
        return {
            "tensors": tensors,
            "aliases": opened.aliases,
            "files": opened.files,
            "ledger": opened.ledger(),
            "size": opened.size,
            "tensor_bytes": opened.tensor_bytes,
            "ratio": opened.tensor_bytes / opened.size,
        }


def _follow(update: Update) -> Callable[[Progress], None]:
    return lambda state: update(state.stage, state.progress, state.eta_seconds, state.layer)
