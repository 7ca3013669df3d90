"""`submit`, `serve`, `demo`: the service, from afar and from within."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - Typer evaluates annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezer.cli.arguments import (
    ArchitectureOption,
    DataOption,
    JsonOption,
    ModelArgument,
    RecipeOption,
    SqzOption,
    StudentOption,
    check_data,
    check_model,
    check_student,
    output_paths,
    recipe_document,
)
from squeezer.cli.errors import CommandError, print_json, show_error
from squeezer.errors import Code, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from squeezer.client import Client
    from squeezer.console import Update
    from squeezer.demo import Result, Sample

_DEFAULT_URL = "http://127.0.0.1:8000"


def submit(
    model: ModelArgument,
    url: Annotated[str, typer.Option(envvar="SQUEEZER_URL", help="Where the service is.")] = _DEFAULT_URL,
    output: SqzOption = None,
    recipe: RecipeOption = "safe",
    data: DataOption = None,
    student: StudentOption = None,
    architecture: ArchitectureOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the job and download; or print its id at once.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Compress a model on a service: upload, wait, download. Ctrl-C cancels the job."""
    from squeezer import console

    document = recipe_document(recipe, architecture, at_service=True)
    _check_upload(model)
    check_data(data)
    check_student(student)
    _check_need(document, data, student)
    wanted = document.get("outputs", ["sqz"])
    formats = wanted if isinstance(wanted, list) else ["sqz"]
    outputs = output_paths(model, output, formats, data, student) if wait else {}
    with _service(url) as client:
        with console.progress(model.name) as update:
            job = client.submit(model, document, _transfer(update, "upload"), dataset=data, student=student)
        if wait:
            job = _follow(client, job["id"], model.name)
            _fetch(client, job, outputs)
    if as_json:
        print_json(job)
    elif not wait:
        console.out().print(job["id"])
    elif job["artifacts"]:
        report = {**job["metrics"], "layers": job["layers"], "ledger": job["ledger"]}
        console.show_report(report, str(outputs["sqz"]))
    if wait and job["state"] != "succeeded":
        problem = job["error"] or {"code": job["state"], "detail": f"the job was {job['state']}"}
        kept = f"; {outputs['sqz']} was kept" if job["artifacts"] else ""
        show_error(problem["code"], f"job {job['id']}: {problem['detail']}{kept}")
        raise typer.Exit(1)


def _check_need(document: Mapping[str, Any], data: Path | None, student: Path | None) -> None:
    """Refuse a recipe that needs a file where there is none: the service only could after the upload."""
    from squeezer.recipe import parse_recipe

    try:
        recipe = parse_recipe(document)
    except RecipeError:  # the service may know methods that we do not, and says what is wrong where it does not
        return
    recipe.check_data(has_data=data is not None)
    recipe.check_student(has_student=student is not None)


def _check_upload(model: Path) -> None:
    check_model(model)
    if model.is_dir():
        zipping = f"cd {model} && zip -0 -r ../model.zip ."
        raise CommandError("file_error", f"{model} is a folder; zip it (`{zipping}`) and send that")


def serve(
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="0 takes a free one. By default SQUEEZER_PORT, or 8000.", show_default=False
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="The folder that keeps everything. By default SQUEEZER_DATA_DIR, or one below your home.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from squeezer import console

    embedded = _embedded()

    def announce(url: str) -> None:
        given = {} if data_dir is None else {"data_dir": data_dir}
        folder = embedded.Settings(mode="embedded", **given).data_dir
        out = console.out()
        out.print(f"Squeezer is at {url} (Ctrl-C stops it)", style="bold green", soft_wrap=True)
        curl = f'curl -F \'spec={{"preset": "safe"}}\' -F model=@MODEL {url}/jobs'
        lines = {
            "all calls": f"{url}/docs",
            "send a model": f"squeezer submit MODEL --url {url}",
            "or": curl,
            "data": folder,
            "logs": folder / "logs",
        }
        for name, value in lines.items():
            # Not a table: a terminal that is narrow must not break what is to be copied.
            out.print(f"{name:14}{value}", soft_wrap=True)
        sys.stdout.flush()

    with _starting(embedded):
        embedded.serve(port, data_dir, ready=announce)
    console.say("stopped")


def demo(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="Use this model instead of the samples.", show_default=False),
    ] = None,
) -> None:
    """Run a service, send real jobs through it, check what comes back, and stop everything again."""
    from squeezer import console
    from squeezer import demo as demonstration

    if model is not None:
        _check_upload(model)
    embedded = _embedded()
    with demonstration.samples(model) as samples, _starting(embedded):
        console.say("starting a service in a temporary folder")
        with embedded.running_service() as url, _service(url) as client:
            console.say(f"it is at {url}")
            results = [_demonstrate(client, sample, preset) for sample in samples for preset in demonstration.PRESETS]
    demonstration.show(samples, results)
    if not all(result.same for result in results):
        raise CommandError(Code.VERIFICATION_FAILED, "a model came back with other names, shapes or types")


def _demonstrate(client: Client, sample: Sample, preset: str) -> Result:
    """One job from upload to the check of what came back."""
    from squeezer import console
    from squeezer import demo as demonstration

    title = f"{sample.title}, {preset}"
    started = time.monotonic()
    recipe = {"preset": preset, "architecture": sample.architecture}
    with console.progress(title) as update:
        job = client.submit(sample.path, recipe, _transfer(update, "upload"), dataset=sample.data)
    job = _follow(client, job["id"], title)
    if job["state"] != "succeeded":
        problem = job["error"] or {"code": job["state"], "detail": f"the job was {job['state']}"}
        raise CommandError(problem["code"], f"{title}: {problem['detail']}")
    artifact = sample.path.with_name(f"{sample.path.name}.{preset}.sqz")
    _fetch(client, job, {"sqz": artifact})
    seconds = time.monotonic() - started
    with console.progress(title) as update:
        update("load in a fresh process", None, None, "")
        result = demonstration.check(sample, preset, artifact, job["metrics"], seconds)
    console.say(f"{title}: {job['metrics']['ratio']:.1f} times smaller")
    return result


def _embedded() -> Any:
    """The module that runs the service, from the entry point: the library itself does not know the service."""
    from importlib.metadata import entry_points

    for point in entry_points(group="squeezer.service", name="embedded"):
        try:
            return point.load()
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing not in (point.module, point.module.partition(".")[0]):
                raise CommandError(
                    Code.MISSING_DEPENDENCY,
                    f"the service needs the package {missing}; in the checkout, `pip install -e '.[service]'`",
                ) from None
    raise CommandError(
        Code.MISSING_DEPENDENCY,
        "this is the library alone; the service runs from a checkout of Squeezer (`make serve`) or from its image",
    )


@contextmanager
def _starting(embedded: Any) -> Iterator[None]:
    """Turn the service's own error into one of a command."""
    try:
        yield
    except embedded.EmbeddedError as error:
        raise CommandError("service_failed", str(error)) from None


@contextmanager
def _service(url: str) -> Iterator[Client]:
    """A client of the service, whose errors end the command."""
    from squeezer.client import Client, ServiceError

    try:
        with Client(url) as client:
            yield client
    except ServiceError as error:
        raise CommandError(error.code, error.detail) from None


def _follow(client: Client, job_id: str, title: str) -> dict[str, Any]:
    """Show a job's progress until it has finished; on Ctrl-C, cancel it."""
    from squeezer import console

    try:
        console.say(f"job {job_id}")
        with console.progress(title) as update:
            return client.wait(job_id, _polled(update))
    except KeyboardInterrupt:
        _cancel(client, job_id)
        raise


def _cancel(client: Client, job_id: str) -> None:
    from squeezer import console
    from squeezer.client import ServiceError

    try:
        client.cancel(job_id)
        console.say(f"canceled job {job_id}")
    except ServiceError as error:
        console.say(f"job {job_id} was not canceled: {error.detail} ({error.code})")


def _fetch(client: Client, job: Mapping[str, Any], outputs: Mapping[str, Path]) -> None:
    from squeezer import console

    for made in job["artifacts"]:
        if path := outputs.get(made["format"]):
            with console.progress(path.name) as update:
                client.download(job["id"], path, made["format"], _transfer(update, "download"))


def _polled(
    update: Update,
) -> Callable[[Mapping[str, Any]], None]:
    def show(job: Mapping[str, Any]) -> None:
        share = job["progress"] if job["state"] == "running" else None
        stage = job["stage"] if job["state"] == "running" and job["stage"] else job["state"]
        update(stage, share, job["eta_seconds"], job["layer"] or "")

    return show


def _transfer(update: Update, stage: str) -> Callable[[int, int], None]:
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        share = done / total if total else 1.0
        elapsed = time.monotonic() - started
        update(stage, share, elapsed / share - elapsed if share else None, "")

    return show
