"""Which files a confined process may reach: its own folder, and what Python and the libraries need of the machine."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import squeezer
from squeezer.sandbox.landlock import DEVICE, READ, WRITE, Access

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Shared libraries and what they look up, the processor, memory and limits. `/proc/self` is this process alone.
_SYSTEM = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/cuda",
    "/usr/local/nvidia",
    "/opt/rocm",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/os-release",
    "/etc/ssl/openssl.cnf",
    "/usr/share/locale",
    "/usr/share/zoneinfo",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/proc/sys/kernel/random",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
)
#: What the drivers of GPUs look up, where there is one.
_GPU = (
    "/proc/driver/nvidia",
    "/proc/devices",
    "/proc/modules",
    "/sys/bus/pci",
    "/sys/class",
    "/sys/devices",
    "/sys/module",
)
_GPU_DEVICES = ("nvidia*", "nvidia-caps/*", "dri/*", "kfd")


def allowed(folder: Path) -> dict[Path, Access]:
    """Everything that a process may reach that works on the job in `folder`."""
    paths = dict.fromkeys(map(Path, _SYSTEM), READ)
    paths |= dict.fromkeys(_code(), READ)
    paths |= dict.fromkeys(_kernels(), READ)
    paths |= {Path("/dev/null"): DEVICE}
    if devices := [device for pattern in _GPU_DEVICES for device in Path("/dev").glob(pattern)]:
        paths |= dict.fromkeys(map(Path, _GPU), READ) | dict.fromkeys(devices, DEVICE)
    return paths | _job(folder)


def _job(folder: Path) -> dict[Path, Access]:
    inputs = folder / "input"
    # An input may be a link to a file of the storage: that one file, and none beside it.
    links = [path.resolve() for path in inputs.iterdir() if path.is_symlink()] if inputs.is_dir() else []
    writable = [folder / name for name in ("output", "checkpoints", "tmp")]
    return dict.fromkeys([inputs, *links], READ) | dict.fromkeys(writable, WRITE)


def _code() -> Iterator[Path]:
    """Where Python finds modules. Of the folder that Squeezer lies in, which may be a checkout, Squeezer alone."""
    package = Path(squeezer.__file__).parent
    installed = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    yield package
    yield Path(sys.base_prefix) / "lib"
    yield from installed | {Path(entry) for entry in sys.path if entry and Path(entry) != package.parent}
    yield from (Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry)


def _kernels() -> Iterator[Path]:
    """Where numba keeps compiled code, if not beside the sources. To be read: no job may write another's code."""
    if cache := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(cache)
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
