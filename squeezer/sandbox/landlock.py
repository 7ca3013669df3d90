"""Landlock: the files that a process may still reach. A list of what is allowed; the rest of the disk is closed.

https://docs.kernel.org/userspace-api/landlock.html. A rule holds for a folder and all beneath it, by way of the file
itself and not of its name. Landlock says nothing about metadata (`stat`, `chmod`, times); the filter of system calls
refuses those calls that change them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import operator
import os
import stat
from enum import IntFlag
from typing import TYPE_CHECKING

from squeezer.sandbox import kernel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1
#: Version 1 lets nobody rename a file from one folder to another (Linux 5.13 to 5.18).
_OLDEST = 2


class Access(IntFlag):
    """What may be done with a file or a folder (`LANDLOCK_ACCESS_FS_*`)."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
#: Plain files and folders: no links, devices, pipes or sockets.
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.REFER
    | Access.TRUNCATE
)
DEVICE = Access.READ_FILE | Access.WRITE_FILE | Access.IOCTL_DEV

_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
#: The rights that each version of the interface knows, less those of the one before it.
_SINCE = {1: Access(0x1FFF), 2: Access.REFER, 3: Access.TRUNCATE, 5: Access.IOCTL_DEV}
_TCP_SINCE, _ALL_TCP = 4, 0b11  # bind and connect
_SCOPES_SINCE, _ALL_SCOPES = 6, 0b11  # abstract sockets and signals


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's Landlock interface (its "ABI"); 0 where there is none, or one that is too old."""
    try:
        found = kernel.call(_CREATE_RULESET, None, 0, _GET_VERSION)
    except OSError:  # not built in, not switched on, or refused by what we run in
        return 0
    return found if found >= _OLDEST else 0


def restrict(allowed: Mapping[Path, Access], abi: int) -> None:
    """Close all files to this thread, and to those that it starts, but for these; TCP and signals to others too.

    Args:
        allowed: files, and folders with all beneath them; one that is not there is passed over.
        abi: the version of the interface, of which no more is used.

    Raises:
        OSError: the kernel refuses it.
    """
    handled = _known(abi)
    rules = _Ruleset(
        files=handled,
        tcp=_ALL_TCP if abi >= _TCP_SINCE else 0,
        scopes=_ALL_SCOPES if abi >= _SCOPES_SINCE else 0,
    )
    # The fields came one after another, and an older kernel takes no larger structure unless the rest of it is 0.
    size = ctypes.sizeof(rules) if abi >= _SCOPES_SINCE else 16 if abi >= _TCP_SINCE else 8
    ruleset = kernel.call(_CREATE_RULESET, ctypes.pointer(rules), size, 0)
    try:
        for path, access in allowed.items():
            with contextlib.suppress(FileNotFoundError):
                _allow(ruleset, path, access & handled)
        kernel.call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: Access) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        kernel.call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.pointer(_Rule(access, descriptor)), 0)
    finally:
        os.close(descriptor)


def _known(abi: int) -> Access:
    """The rights that this version of the interface has."""
    return functools.reduce(operator.or_, (access for since, access in _SINCE.items() if since <= abi))
