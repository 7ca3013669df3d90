"""A codec with faults, for the tests of the fuzzer. Importing this makes it the only one that is fuzzed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import njit

from squeezer.codecs import ARRAY_CODECS, ByteReader, Category, CorruptStreamError
from tests.fuzz.corpus import Coded, Corpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_FAULTS: list[Callable[[NDArray[Any]], object]] = []


def _fault(function: Callable[[NDArray[Any]], object]) -> Callable[[NDArray[Any]], object]:
    _FAULTS.append(function)
    return function


@njit("u1(u1[::1])")
def _behind(out):
    return out[out.size]


@njit("void(u1[::1])")
def _before(out):
    out[-out.size - 1] = 1


@njit("void(u1[::1])")
def _endless(out):
    while out[0] < 1000:
        out[0] ^= 1


# Compiled already, or else the alarm would go off meanwhile. The guard looks at what belongs to the library.
for kernel in (_behind, _before, _endless):
    kernel.py_func.__module__ = "squeezer.sabotage"


@_fault
def leaves_the_end(out: NDArray[Any]) -> object:
    """Fatal where the guard page is after the array."""
    return _behind(out)


@_fault
def leaves_the_beginning(out: NDArray[Any]) -> object:
    """Fatal, or found at the canary."""
    return _before(out)


@_fault
def hangs(out: NDArray[Any]) -> object:
    """Never ends."""
    return _endless(out)


@_fault
def raises(out: NDArray[Any]) -> object:
    """An error that is not the decoder's to raise."""
    return [][out.size]


@_fault
def takes_memory(out: NDArray[Any]) -> object:
    """What a length field claims."""
    return np.empty(1 << 40, np.uint8)


#: What `Faulty` writes; the first byte says which fault is meant.
_CASES = [Coded("faulty", 99, False, bytes([i, i]), 8, np.dtype("u1")) for i in range(8)]


class Faulty:
    """Is as it should be until it has read every case as it is; then it does what the first byte says."""

    number: ClassVar[int] = 99
    name: ClassVar[str] = "faulty"

    def __init__(self) -> None:
        self._reads = 0

    def read(self, data: ByteReader, out: NDArray[Any]) -> None:
        """Fill `out` with zeros."""
        fault = data.byte()
        data.take(data.remaining, Category.VALUES)
        out[:] = 0
        self._reads += 1
        if self._reads <= len(_CASES):
            return
        if fault < len(_FAULTS):
            _FAULTS[fault](out)
        elif fault % 2:
            raise CorruptStreamError("an odd byte")


ARRAY_CODECS[Faulty.number] = Faulty()
Corpus.made = classmethod(lambda cls: cls(_CASES, []))  # type: ignore[method-assign] # the point of this module
