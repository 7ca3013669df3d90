"""The command line. Standard output is the result, with `--json` exactly one document; the rest is on standard error.

Exit status: 0 done, 1 an error that one can act on, 2 a wrong command line, 130 interrupted. What a command needs is
imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from squeezer import __version__
from squeezer.cli import catalogue, files, service
from squeezer.cli.errors import CommandError, fail, file_error, print_error
from squeezer.errors import Code, SqueezerError

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    name="squeezer",
    help="Makes trained neural networks small: prune, quantise and entropy-code a model into one proven file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_INTERRUPTED, _USAGE = 130, 2

app.command()(files.compress)
app.command()(files.decompress)
app.command()(files.inspect)
app.command()(files.verify)
app.command("presets")(catalogue.list_presets)
app.command("methods")(catalogue.list_methods)
app.command()(service.submit)
app.command()(service.serve)
app.command()(service.demo)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"squeezer {__version__}")
        raise typer.Exit


def main() -> int:
    """Run the command line; the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # Threads of torch that wait give their core away; spinning, they take ten times as long on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run()
    except BrokenPipeError:
        # Whoever read our output has left. Nothing more must be written there, also not at the interpreter's end.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run() -> int:
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as end:  # Typer's way to end, whether well or badly
        status = end.code if isinstance(end.code, int) else 1
        if status == _USAGE:
            print_error("usage", "the command line is wrong; standard error says how")
        elif status == _INTERRUPTED:
            return fail("interrupted", "stopped", _INTERRUPTED)
        return status
    except KeyboardInterrupt:
        return fail("interrupted", "stopped", _INTERRUPTED)
    except BrokenPipeError:
        raise
    except (SqueezerError, CommandError) as error:
        return fail(error.code, error.detail)
    except OSError as error:
        return fail(*file_error(error))
    except MemoryError:
        return fail(Code.OUT_OF_MEMORY, "there is not enough memory; use fewer --threads, or a larger machine")
    except Exception:
        traceback.print_exc()
        return fail(Code.INTERNAL, "this is a bug in Squeezer; report it with the lines above")
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    """End in order, so that no unfinished file and no process remains."""
    del frame
    sys.exit(128 + number)
