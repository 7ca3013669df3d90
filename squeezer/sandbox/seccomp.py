"""The filter of system calls: a list of what is allowed, written as a BPF program that the kernel runs at every call.

https://docs.kernel.org/userspace-api/seccomp_filter.html. What is not on the list fails with EPERM; calls that are
newer than the list with ENOSYS, as on an older kernel, for which the C library has other ways. So threads are started
by `clone`, whose flags a filter can see, and not by `clone3`, whose flags lie in memory.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from squeezer.sandbox import kernel
from squeezer.sandbox.syscalls import ARCHITECTURES, CALLS

#: ELF machine numbers, with the bits for 64 bits and little-endian (`linux/audit.h`).
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: Numbers with this bit are those of x32, another interface of the same processor.
_X32_BIT = 0x40000000
#: From here on the calls of all architectures are numbered together, and the C library looks whether they are there.
_FIRST_NEW_CALL = 424

_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_AT_LEAST = 0x15, 0x35

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _ALL_THREADS, _GET_ACTION_AVAILABLE = 1, 1, 2

_CLONE_THREAD = 0x00010000
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PR_SET_NAME, _PR_GET_NAME = 15, 16


@dataclass(frozen=True)
class _Test:
    """Whether 32 bits of the arguments (`word` counts from the lower half of the first) are among the values."""

    word: int
    values: tuple[int, ...]
    among: bool = True
    mask: int = 0xFFFFFFFF


def _conditions(pid: int) -> dict[str, tuple[_Test, ...]]:
    """The calls that depend on their arguments: all tests must hold."""
    return {
        "open": (_does_not_empty(2),),
        "openat": (_does_not_empty(4),),
        "clone": (_Test(0, (_CLONE_THREAD,), mask=_CLONE_THREAD),),
        "kill": (_Test(0, (pid,)),),
        "tgkill": (_Test(0, (pid,)),),
        "sched_setaffinity": (_Test(0, (0,)),),
        # Limits may be read and not changed: the pointer to new ones is null in both halves.
        "prlimit64": (_Test(0, (0,)), _Test(4, (0,)), _Test(5, (0,))),
        "prctl": (_Test(0, (_PR_SET_NAME, _PR_GET_NAME)),),
        # No signals to others by way of a descriptor, and no typing into a terminal.
        "fcntl": (_Test(2, (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX), among=False),),
        "ioctl": (_Test(2, (_TIOCSTI, _TIOCLINUX), among=False),),
    }


def _does_not_empty(word: int) -> _Test:
    """Who opens a file to read must not empty it by the way, which older versions of Landlock do not see."""
    return _Test(word, (os.O_TRUNC | os.O_RDONLY,), among=False, mask=os.O_TRUNC | os.O_ACCMODE)


def program(architecture: str, pid: int) -> bytes:
    """The filter for a process, as the kernel takes it: 8 bytes for each instruction."""
    column = ARCHITECTURES.index(architecture)
    conditions = _conditions(pid)
    numbers = {name: numbers[column] for name, numbers in CALLS.items()}
    instructions = [
        _load(4),
        _skip_if(_JUMP_EQUAL, _AUDIT_ARCH[architecture], 1),
        _end(_KILL),
        _load(0),
    ]
    if architecture == "x86_64":
        instructions += _ends_if(_JUMP_AT_LEAST, _X32_BIT, _KILL)
    for name, number in numbers.items():
        if number is not None:
            block = _decision(conditions.get(name, ()))
            # What is loaded for a decision is not the number any more, but every decision ends the program.
            instructions += [_skip_unless(_JUMP_EQUAL, number, len(block)), *block]
    instructions += _ends_if(_JUMP_AT_LEAST, _FIRST_NEW_CALL, _ERROR | errno.ENOSYS)
    return b"".join([*instructions, _end(_ERROR | errno.EPERM)])


def install(architecture: str) -> None:
    """Have every system call of this process looked at from now on, in all its threads.

    Raises:
        OSError: the kernel refuses it.
    """
    code = program(architecture, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    whole = _Program(len(code) // 8, ctypes.addressof(buffer))
    kernel.call(_SECCOMP[architecture], _SET_MODE_FILTER, _ALL_THREADS, ctypes.pointer(whole))


def available(architecture: str) -> bool:
    """Whether the kernel takes filters."""
    action = ctypes.c_uint32(_ERROR)
    try:
        kernel.call(_SECCOMP[architecture], _GET_ACTION_AVAILABLE, 0, ctypes.pointer(action))
    except OSError:
        return False
    return True


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


# The instructions -----------------------------------------------------------------------------------------------------


def _decision(tests: tuple[_Test, ...]) -> list[bytes]:
    """Allow the call where all tests hold."""
    code: list[bytes] = []
    for test in tests:
        code += [_load(16 + 4 * test.word), _instruction(_AND, test.mask)]
        last = len(test.values) - 1
        if test.among:  # jump over the refusal behind them
            code += [_skip_if(_JUMP_EQUAL, value, last - i + 1) for i, value in enumerate(test.values)]
            code.append(_end(_ERROR | errno.EPERM))
        else:
            for value in test.values:
                code += _ends_if(_JUMP_EQUAL, value, _ERROR | errno.EPERM)
    return [*code, _end(_ALLOW)]


def _ends_if(jump: int, value: int, answer: int) -> list[bytes]:
    return [_skip_unless(jump, value, 1), _end(answer)]


def _skip_if(jump: int, value: int, count: int) -> bytes:
    return _instruction(jump, value, yes=count)


def _skip_unless(jump: int, value: int, count: int) -> bytes:
    return _instruction(jump, value, no=count)


def _load(offset: int) -> bytes:
    """Load 32 bits of what describes the call: its number (0), the architecture (4), its arguments (from 16 on)."""
    return _instruction(_LOAD, offset)


def _end(answer: int) -> bytes:
    return _instruction(_RETURN, answer)


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
