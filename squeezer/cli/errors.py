"""What ends a command, and how it is shown."""

from __future__ import annotations

import errno
import json
import sys

from squeezer.errors import Code


class CommandError(Exception):
    """What ends a command with one line on standard error and exit status 1."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def fail(code: str, detail: str, status: int = 1) -> int:
    """Show an error; the exit status."""
    show_error(code, detail)
    print_error(code, detail)
    return status


def show_error(code: str, detail: str) -> None:
    """An error as one line on standard error."""
    print(f"error: {detail} ({code})", file=sys.stderr)


def print_error(code: str, detail: str) -> None:
    """The error as the one document that `--json` promises, where it was asked for."""
    if "--json" in sys.argv:
        print_json({"error": {"code": code, "detail": detail}})


def print_json(document: object) -> None:
    """A result on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)


def file_error(error: OSError) -> tuple[str, str]:
    """Code and sentence for what the file system refused."""
    name = f"{error.filename}: " if error.filename else ""
    if isinstance(error, FileNotFoundError):
        return Code.FILE_NOT_FOUND, f"{name}there is no such file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Code.DISK_FULL, f"{name}the disk is full; make room"
    return "file_error", f"{name}{(error.strerror or str(error)).lower()}"
