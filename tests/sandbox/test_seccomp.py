"""The filter as a program: run here by an interpreter of its own, for both architectures, and compared with headers."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from squeezer.sandbox import seccomp
from squeezer.sandbox.syscalls import ARCHITECTURES, CALLS

PID = 4321
ALLOWED, EPERM, ENOSYS, KILLED = "allowed", errno.EPERM, errno.ENOSYS, "killed"
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
THREAD = 0x7D0F00  # the flags that the C library starts a thread with


def judge(architecture: str, number: int, *arguments: int, audit: int | None = None) -> object:
    """What the kernel would do, by the description of classic BPF."""
    code = seccomp.program(architecture, PID)
    lines = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    given = [argument & (2**64 - 1) for argument in (*arguments, *[0] * 6)[:6]]
    data = struct.pack("=IIQ6Q", number, AUDIT[architecture] if audit is None else audit, 0, *given)
    accumulator, at = 0, 0
    while True:
        operation, yes, no, value = lines[at]
        at += 1
        if operation == 0x20:  # load a word
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x54:  # and
            accumulator &= value
        elif operation in (0x15, 0x35):  # jump where it is equal, or at least as large
            holds = accumulator == value if operation == 0x15 else accumulator >= value
            at += yes if holds else no
        else:
            assert operation == 0x06  # return
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(value, value & 0xFFFF)


def number(architecture: str, name: str) -> int:
    found = CALLS[name][ARCHITECTURES.index(architecture)]
    assert found is not None
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("read", (0, 0, 0), ALLOWED),
        ("openat", (0, 0, os.O_RDONLY), ALLOWED),
        ("openat", (0, 0, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), ALLOWED),
        ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), EPERM),
        ("clone", (THREAD,), ALLOWED),
        ("clone", (17,), EPERM),  # SIGCHLD: fork
        ("clone", (0x4111,), EPERM),  # vfork
        ("kill", (PID, 9), ALLOWED),
        ("kill", (PID + 1, 9), EPERM),
        ("kill", (0, 9), EPERM),
        ("kill", (-1, 9), EPERM),
        ("kill", (-PID, 9), EPERM),
        ("tgkill", (PID, PID + 5, 6), ALLOWED),
        ("tgkill", (PID + 1, PID + 1, 6), EPERM),
        ("prctl", (15, 0x1234), ALLOWED),
        ("prctl", (1, 0), EPERM),  # to outlive the parent
        ("prlimit64", (0, 7, 0, 0x7FFF00001000), ALLOWED),
        ("prlimit64", (0, 7, 0x1000), EPERM),
        ("prlimit64", (0, 7, 1 << 40), EPERM),
        ("prlimit64", (PID + 1, 7, 0), EPERM),
        ("sched_setaffinity", (0,), ALLOWED),
        ("sched_setaffinity", (PID + 1,), EPERM),
        ("fcntl", (3, 1), ALLOWED),
        ("fcntl", (3, 8, PID + 1), EPERM),
        ("fcntl", (3, 10), EPERM),
        ("fcntl", (3, 15), EPERM),
        ("ioctl", (1, 0x5401), ALLOWED),
        ("ioctl", (1, 0x5412), EPERM),
        ("ioctl", (1, (1 << 32) | 0x5412), EPERM),  # the kernel looks at 32 bits, and so does the filter
    ],
)
def test_calls_by_their_arguments(architecture: str, name: str, arguments: tuple[int, ...], answer: object) -> None:
    assert judge(architecture, number(architecture, name), *arguments) == answer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_other_number_is_refused(architecture: str) -> None:
    allowed = {numbers[ARCHITECTURES.index(architecture)] for numbers in CALLS.values()}
    for each in range(600):
        if each not in allowed:
            assert judge(architecture, each) == (EPERM if each < 424 else ENOSYS)


def test_other_architectures_are_killed_and_x32_too() -> None:
    assert judge("x86_64", 0, audit=0x40000003) == KILLED  # 32-bit programs, with numbers of their own
    assert judge("x86_64", 0x40000000) == KILLED
    assert judge("aarch64", 63, audit=AUDIT["x86_64"]) == KILLED


#: What must never be on the list, whatever somebody's library would like.
NEVER = """
    socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg recvfrom recvmsg execve execveat fork
    vfork clone3 ptrace process_vm_readv process_vm_writev process_madvise io_uring_setup io_uring_enter
    io_uring_register
    bpf perf_event_open keyctl add_key request_key mount umount2 move_mount fsopen open_tree unshare setns pivot_root
    chroot userfaultfd kexec_load kexec_file_load init_module finit_module delete_module memfd_create open_by_handle_at
    name_to_handle_at tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd setsid setpgid
    setuid setgid setresuid setresgid setgroups capset chmod fchmod fchmodat chown fchown lchown fchownat link linkat
    symlink symlinkat mknod mknodat setxattr truncate utimensat sched_setscheduler setpriority ioprio_set shmget msgget
    semget mq_open reboot swapon syslog acct quotactl personality modify_ldt iopl ioperm kcmp seccomp creat openat2
""".split()  # noqa: SIM905 - a list of that length reads better as words


def test_what_is_never_allowed() -> None:
    assert CALLS.keys().isdisjoint(NEVER)


def headers(architecture: str) -> dict[str, int]:
    """Numbers by name, from the kernel's headers."""
    if architecture == "x86_64":
        text = "#include <asm/unistd_64.h>\n"
    else:
        text = "#define __BITS_PER_LONG 64\n#define __ARCH_WANT_RENAMEAT\n#define __ARCH_WANT_NEW_STAT\n"
        text += "#define __ARCH_WANT_SET_GET_RLIMIT\n#include <asm-generic/unistd.h>\n"
    done = subprocess.run(["cc", "-E", "-dM", "-"], input=text, capture_output=True, text=True, check=True)
    defined = dict(re.findall(r"^#define (\w+) (\w+)$", done.stdout, re.MULTILINE))
    return {name[5:]: int(defined.get(value, value)) for name, value in defined.items() if name.startswith("__NR_")}


@pytest.mark.skipif(
    not Path("/usr/include/asm-generic/unistd.h").exists() or os.uname().machine != "x86_64",
    reason="needs the kernel's headers and a compiler, as Debian has them for x86_64",
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_numbers_are_those_of_the_headers(architecture: str) -> None:
    known = headers(architecture)
    column = ARCHITECTURES.index(architecture)
    assert {name: numbers[column] for name, numbers in CALLS.items()} == {name: known.get(name) for name in CALLS}
