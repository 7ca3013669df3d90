"""The arguments that several commands share, and the checks that come before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezer.cli.errors import CommandError
from squeezer.errors import Code, RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="An exported program (.pt2), a .safetensors file, a PyTorch checkpoint, an ONNX model, or a Hugging Face "
        "folder; told by its content.",
        show_default=False,
    ),
]

ArtifactArgument = Annotated[Path, typer.Argument(metavar="IN.sqz", help="A .sqz file.", show_default=False)]

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", metavar="PRESET|FILE.json", help="A preset (`squeezer presets`), or a recipe as JSON."
    ),
]

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="DATA",
        help="A data set (.npz, .safetensors, or .zip of images), for steps that retrain and to measure the result.",
        show_default=False,
    ),
]

StudentOption = Annotated[
    Path | None,
    typer.Option(
        "--student",
        metavar="FILE",
        help='A network (.pt2) that `distill` with `"student": "uploaded"` trains in MODEL\'s place.',
        show_default=False,
    ),
]

ArchitectureOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The built-in network that MODEL's weights belong to, such as resnet20; instead of the recipe's.",
        show_default=False,
    ),
]

SqzOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT.sqz",
        help="The file to write, in place of one that is there. By default MODEL's name with .sqz.",
        show_default=False,
    ),
]

MaxBytesOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="BYTES",
        help="How large the tensors may be when decoded. By default 1 GiB, or 1024 times the file where that is more.",
        show_default=False,
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def recipe_document(text: str, architecture: str | None = None, *, at_service: bool = False) -> dict[str, Any]:
    """The recipe that `--recipe` means, a preset's name or a file, with the `--architecture` that was given.

    `at_service` says that a service will judge it, which may have other presets than this version.
    """
    document = _chosen_recipe(text, at_service=at_service)
    return document if architecture is None else document | {"architecture": architecture}


def _chosen_recipe(text: str, *, at_service: bool) -> dict[str, Any]:
    from squeezer.recipe import presets

    known = presets()
    path = Path(text)
    if text in known:
        return {"preset": text}
    if path.is_file():
        return _read_recipe(path)
    if path.suffix == ".json" or len(path.parts) > 1:
        raise CommandError(Code.FILE_NOT_FOUND, f"{text}: there is no such recipe file")
    if at_service:
        return {"preset": text}
    names = ", ".join(known)
    raise RecipeError(f"{text!r} is neither a preset ({names}) nor a file; `squeezer presets` describes them")


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: a recipe is a JSON object, not {type(document).__name__}")
    return document


def check_exists(path: Path) -> None:
    """See that there is a file to read."""
    if not path.exists():
        raise CommandError(Code.FILE_NOT_FOUND, f"{path}: there is no such file")
    if path.is_dir():
        raise CommandError(Code.NOT_AN_ARTIFACT, f"{path} is a folder; name a .sqz file")


def check_model(path: Path) -> None:
    """See that there is a model, a file or a folder, to read."""
    if not path.exists():
        raise CommandError(Code.FILE_NOT_FOUND, f"{path}: there is no such file or folder")
    if not os.access(path, os.R_OK):
        raise CommandError("file_error", f"{path} may not be read")


def check_data(path: Path | None) -> None:
    """See that a data set, where one was named, is a file that can be read."""
    zipping = f"cd {path} && zip -0 -r ../data.zip ."
    _check_file(path, "name a data set with --data", f"zip it (`{zipping}`) and give that to --data")


def check_student(path: Path | None) -> None:
    """See that a student, where one was named, is a file that can be read."""
    _check_file(path, "name a network (.pt2) with --student", "give a network (.pt2) to --student")


def _check_file(path: Path | None, where_missing: str, where_folder: str) -> None:
    if path is None:
        return
    if not path.exists():
        raise CommandError(Code.FILE_NOT_FOUND, f"{path}: there is no such file; {where_missing}")
    if path.is_dir():
        raise CommandError("file_error", f"{path} is a folder; {where_folder}")
    if not os.access(path, os.R_OK):
        raise CommandError("file_error", f"{path} may not be read")


def output_paths(model: Path, output: Path | None, formats: Collection[str], *others: Path | None) -> dict[str, Path]:
    """Where each of the recipe's outputs goes, beside the .sqz file; in the place of `model` and `others` none may."""
    sqz = model.with_suffix(".sqz") if output is None else output
    paths = {"sqz": sqz} | {name: sqz.with_suffix(f".{name}") for name in formats if name != "sqz"}
    if len(set(paths.values())) < len(paths):
        raise CommandError("file_error", f"{sqz} cannot be two files; let -o end in .sqz")
    for path in paths.values():
        for source in (model, *filter(None, others)):
            check_writable(path, source)
    return paths


def check_writable(path: Path, source: Path, *, folder: bool = False) -> None:
    """See before any work that a file, or a folder, can be written."""
    parent = path.absolute().parent
    if path.exists() and path.samefile(source):
        raise CommandError("file_error", f"{path} is what is being read; write to another file with -o")
    if path.is_dir() != folder and path.exists():
        wanted = "a folder, or a file that ends in .safetensors" if folder else "a file"
        raise CommandError("file_error", f"{path} is a {'file' if folder else 'folder'}; name {wanted} with -o")
    if not parent.is_dir():
        raise CommandError("file_error", f"{parent}: there is no such folder; make it, or write elsewhere with -o")
    if not os.access(path if folder and path.exists() else parent, os.W_OK | os.X_OK):
        raise CommandError("file_error", f"nothing may be written to {parent}; write elsewhere with -o")
