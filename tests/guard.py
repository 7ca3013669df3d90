"""Arrays between guard pages: compiled code that leaves its buffers ends the process, or raises.

Machine code made by numba checks no index: a read past the end of an array finds whatever lies there, and nobody sees
it. Here every array that goes from Python into a kernel is first copied to the edge of a page behind which (or before
which) the processor lets nothing be read or written; after the call it is copied back. It is the call of a kernel that
is replaced, in numba's own class, and not numpy's allocation as the codecs see it: so it does not matter how an array
came to be (`np.empty`, `astype`, a view of the input), and a new kernel is guarded without being named.

What a kernel allocates itself is out of reach; `NUMBA_BOUNDSCHECK=1` sees that.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections import Counter, defaultdict
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.lib.array_utils import byte_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PAGE = mmap.PAGESIZE
#: Bytes at the open end of an array that must not change.
CANARY = np.frombuffer(b"\xc5\x3a" * 32, np.uint8)
#: Larger regions are given back after use.
_KEPT_PAGES = 1 << 10
_PROT_NONE = 0
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

Side = Literal["after", "before"]


class OutsideBufferError(AssertionError):
    """A kernel wrote beside its buffer, where no guard page stopped it."""


class Region:
    """`size` bytes, a whole number of pages, with an inaccessible page on either side."""

    def __init__(self, size: int) -> None:
        try:
            self._map = mmap.mmap(-1, size + 2 * PAGE)
        except OSError as error:
            raise MemoryError(f"a copy of {size} bytes") from error
        whole = np.frombuffer(self._map, np.uint8)
        start = whole.ctypes.data
        for address in (start, start + size + PAGE):
            if _LIBC.mprotect(address, PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = whole[PAGE:-PAGE]
        self.start = start + PAGE


class _Copy:
    """A range of memory, copied to the edge of a region. `slack` is what the range leaves free of it."""

    def __init__(self, region: Region, low: int, high: int, side: Side) -> None:
        self.low, self.size = low, high - low
        self._region = region
        free = region.bytes.size - self.size
        self.offset = free if side == "after" else 0
        self.slack = region.bytes[max(0, free - CANARY.size) : free] if side == "after" else region.bytes[self.size :]
        self.slack = self.slack[: CANARY.size]
        self.slack[:] = CANARY[: self.slack.size]
        ctypes.memmove(region.start + self.offset, low, self.size)

    def view(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The same array in the copy."""
        offset = self.offset + array.ctypes.data - self.low
        view = np.ndarray(array.shape, array.dtype, self._region.bytes, offset, array.strides)
        view.flags.writeable = array.flags.writeable
        return view

    def write_back(self) -> None:
        ctypes.memmove(self.low, self._region.start + self.offset, self.size)

    def check(self, kernel: str) -> None:
        if not np.array_equal(self.slack, CANARY[: self.slack.size]):
            raise OutsideBufferError(f"{kernel} wrote beside a buffer of {self.size} bytes")


class Guard:
    """Runs kernels on copies of their arrays that end (`after`) or begin (`before`) at a guard page.

    `calls` counts the kernels by name. Arguments that overlap are copied together.
    """

    def __init__(self, side: Side = "after", package: str = "squeezer.") -> None:
        self.side: Side = side
        self.calls: Counter[str] = Counter()
        self._package = package
        self._free: dict[int, list[Region]] = defaultdict(list)

    def run(self, kernel: Dispatcher, call: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Call a kernel."""
        name = name_of(kernel)
        self.calls[name] += 1
        arrays = list(_arrays(args))
        copies, regions = [], []
        for low, high, writeable in _ranges(arrays):
            size = 1 << (max(high - low, PAGE) - 1).bit_length()
            regions.append(self._region(size))
            copies.append((_Copy(regions[-1], low, high, self.side), writeable))
        views = iter([_copy_of(array, copies) for array in arrays])
        result = call(kernel, *_replaced(args, views))
        for copy, writeable in copies:
            copy.check(name)
            if writeable:
                copy.write_back()
        # A part of an argument that is returned must outlive the region.
        result = _detached(result, regions)
        for region in regions:
            if region.bytes.size <= _KEPT_PAGES * PAGE:
                self._free[region.bytes.size].append(region)
        return result

    def _region(self, size: int) -> Region:
        try:
            return self._free[size].pop()
        except IndexError:
            return Region(size)

    @contextmanager
    def installed(self) -> Iterator[Guard]:
        """While this lasts, all kernels of the package are guarded when Python calls them."""
        original = Dispatcher.__call__

        def call(kernel: Dispatcher, *args: Any) -> Any:
            if kernel.py_func.__module__.startswith(self._package):
                return self.run(kernel, original, args)
            return original(kernel, *args)

        Dispatcher.__call__ = call
        try:
            yield self
        finally:
            # The class has none of its own: it is inherited.
            del Dispatcher.__call__


@cache
def name_of(kernel: Dispatcher) -> str:
    """Where a kernel is found: by the name that its module gives it, which may be made by a function there."""
    module, function = kernel.py_func.__module__, kernel.py_func.__name__
    names = [name for name, value in getattr(sys.modules.get(module), "__dict__", {}).items() if value is kernel]
    return ".".join([module, *(names[:1] or [function])])


def _arrays(args: Sequence[Any]) -> Iterator[np.ndarray[Any, Any]]:
    for arg in args:
        if isinstance(arg, np.ndarray):
            yield arg
        elif isinstance(arg, tuple):
            yield from _arrays(arg)


def _replaced(args: Sequence[Any], views: Iterator[np.ndarray[Any, Any]]) -> list[Any]:
    return [
        next(views) if isinstance(arg, np.ndarray) else tuple(_replaced(arg, views)) if isinstance(arg, tuple) else arg
        for arg in args
    ]


def _ranges(arrays: list[np.ndarray[Any, Any]]) -> list[tuple[int, int, bool]]:
    """(begin, end, writeable) of the memory that the arrays use; overlapping ranges are one."""
    ranges: list[tuple[int, int, bool]] = []
    for low, high, writeable in sorted((*_bounds(array), array.flags.writeable) for array in arrays):
        if ranges and low < ranges[-1][1]:
            before = ranges.pop()
            ranges.append((before[0], max(high, before[1]), writeable or before[2]))
        else:
            ranges.append((low, high, writeable))
    return ranges


def _bounds(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    if array.size == 0:
        return array.ctypes.data, array.ctypes.data
    low, high = byte_bounds(array)
    return int(low), int(high)


def _copy_of(array: np.ndarray[Any, Any], copies: list[tuple[_Copy, bool]]) -> np.ndarray[Any, Any]:
    low, high = _bounds(array)
    return next(copy for copy, _ in copies if copy.low <= low and high <= copy.low + copy.size).view(array)


def _detached(result: Any, regions: list[Region]) -> Any:
    if isinstance(result, tuple):
        return tuple(_detached(part, regions) for part in result)
    if isinstance(result, np.ndarray):
        inside = (region.start <= result.ctypes.data <= region.start + region.bytes.size for region in regions)
        return result.copy() if any(inside) else result
    return result
