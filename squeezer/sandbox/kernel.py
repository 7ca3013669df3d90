"""Calls to the kernel that Python has no functions for, through ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def architecture() -> str:
    """The processor, as the kernel calls it."""
    return platform.machine()


def call(number: int, *arguments: int | ctypes._Pointer[Any] | None) -> int:
    """Make a system call.

    Raises:
        OSError: the kernel refuses it.
    """
    # Whatever is passed as a plain int would be cut to 32 bits.
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _checked(_LIBC.syscall(ctypes.c_long(number), *wide))


def forbid_new_privileges() -> None:
    """From now on no program that this process became could be more than it; the kernel wants this first."""
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def drop_capabilities() -> None:
    """Keep none of the powers of root, where the worker runs as root."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, in two words each
    _checked(_LIBC.capset(ctypes.byref(header), ctypes.byref(nothing)))


def threads() -> int:
    """How many threads this process has."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - counted, not visited


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
