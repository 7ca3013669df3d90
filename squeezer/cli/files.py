"""`compress`, `decompress`, `inspect`, `verify`: models and files on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path  # noqa: TC003 - Typer evaluates annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezer.cli.arguments import (
    ArchitectureOption,
    ArtifactArgument,
    DataOption,
    JsonOption,
    MaxBytesOption,
    ModelArgument,
    RecipeOption,
    SqzOption,
    StudentOption,
    check_data,
    check_exists,
    check_model,
    check_student,
    check_writable,
    output_paths,
    recipe_document,
)
from squeezer.cli.errors import print_json, show_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from squeezer.console import Update
    from squeezer.progress import Progress
    from squeezer.recipe import Recipe
    from squeezer.report import Report

#: What `decompress` writes a single file for; any other name is a folder's.
_FILE_ENDINGS = frozenset({".safetensors", ".pt2", ".onnx"})


def compress(
    model: ModelArgument,
    output: SqzOption = None,
    recipe: RecipeOption = "safe",
    data: DataOption = None,
    student: StudentOption = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder in which retraining notes how far it is. The same command goes on from there.",
            show_default=False,
        ),
    ] = None,
    architecture: ArchitectureOption = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="By default one for each core.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compress a model into a .sqz file, on this machine."""
    from squeezer import console
    from squeezer.recipe import parse_recipe

    parsed = parse_recipe(recipe_document(recipe, architecture))
    check_model(model)
    check_data(data)
    check_student(student)
    parsed.check_data(has_data=data is not None)
    parsed.check_student(has_student=student is not None)
    outputs = output_paths(model, output, parsed.outputs, data, student)
    if checkpoints is not None:
        check_writable(checkpoints, model, folder=True)
        checkpoints.mkdir(exist_ok=True)

    report, refusal = _compress(model, parsed, outputs, data, student, checkpoints, threads)
    document = report.to_json()
    if as_json:
        print_json(document if refusal is None else document | {"error": refusal})
    else:
        console.show_report(document, str(outputs["sqz"]))
    if refusal is not None:
        show_error(refusal["code"], f"{refusal['detail']}; {outputs['sqz']} was kept")
        raise typer.Exit(1)


def _compress(
    model: Path,
    recipe: Recipe,
    outputs: dict[str, Path],
    data: Path | None,
    student: Path | None,
    checkpoints: Path | None,
    threads: int | None,
) -> tuple[Report, dict[str, str] | None]:
    """Write all outputs; the report, and code and detail where the result is not accepted."""
    from squeezer import api, console

    refusal = None
    with console.progress(model.name) as update:
        try:
            report = api.compress(
                model,
                recipe,
                outputs["sqz"],
                data=data,
                student=student,
                checkpoints=checkpoints,
                progress=_follow(update),
                threads=threads,
            )
        except api.NotAcceptedError as error:
            report, refusal = error.report, {"code": error.code, "detail": error.detail}
        for name, path in outputs.items():
            if name != "sqz":
                update(f"write {name}", None, None, "")
                api.decompress(outputs["sqz"], path, max_bytes=report.tensor_bytes)
    return report, refusal


def decompress(
    artifact: ArtifactArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.safetensors|OUT.pt2|OUT.onnx|DIR",
            help="A file that ends in .safetensors; or in .pt2 or .onnx, where IN.sqz carries its network; or a "
            "folder, which also gets the files that came with the model.",
            show_default=False,
        ),
    ],
    max_bytes: MaxBytesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the tensors of a .sqz file, or the network with them, in a format that others read."""
    from squeezer import console

    check_exists(artifact)
    folder = output.suffix not in _FILE_ENDINGS
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
