"""Streams of bits, filled into bytes from the lowest bit up, and read up to 57 bits at a time from any position.

Positions count bits. All arithmetic is unsigned: a signed index would be tested for being negative at every access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.codecs.base import CorruptStreamError
from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bits that `bits_at` reads, so that a stream must not end sooner.
READ_BITS = 64
#: Of these so many are sure to be the next ones: up to seven are lost where a position is not that of a byte.
WINDOW_BITS = 57
_1, _2, _3, _4, _5, _6, _7, _8 = (np.uint64(k) for k in range(1, 9))
_16, _24, _32, _40, _48, _56 = (np.uint64(8 * k) for k in range(2, 8))


def as_stream(data: memoryview) -> NDArray[np.uint8]:
    """The bytes as a read-only array, whatever they lie in, so that kernels are compiled once."""
    stream = np.frombuffer(data, np.uint8)
    stream.flags.writeable = False
    return stream


def check_end(used_bits: int, stream_bytes: int) -> None:
    """Raise CorruptStreamError unless the last symbol ended in the stream's last byte."""
    if (used_bits + 7) // 8 != stream_bytes:
        raise CorruptStreamError(f"symbols that take {used_bits} bits in a stream of {stream_bytes} bytes")


@kernel()
def bits_at(stream: NDArray[Any], position: Any) -> Any:
    """At least the next WINDOW_BITS bits. The caller has made sure that READ_BITS follow."""
    at = position >> _3
    # The compiler makes one load of this, and needs no aligned copy of the stream for it.
    word = (
        np.uint64(stream[at])
        | np.uint64(stream[at + _1]) << _8
        | np.uint64(stream[at + _2]) << _16
        | np.uint64(stream[at + _3]) << _24
        | np.uint64(stream[at + _4]) << _32
        | np.uint64(stream[at + _5]) << _40
        | np.uint64(stream[at + _6]) << _48
        | np.uint64(stream[at + _7]) << _56
    )
    return word >> (position & _7)


@kernel()
def bits_at_end(stream: NDArray[Any], position: Any) -> Any:
    """The same for any position: past the end, there are zeros."""
    at, size = position >> _3, np.uint64(stream.size)
    word = np.uint64(0)
    for byte in range(min(_8, size - min(at, size))):
        word |= np.uint64(stream[at + byte]) << (byte << _3)
    return word >> (position & _7)


@kernel()
def put_bits(stream: NDArray[Any], at: Any, word: Any) -> None:
    """Store 64 bits in the eight bytes from `at` on, which must be there."""
    # One store, as above.
    stream[at] = word
    stream[at + _1] = word >> _8
    stream[at + _2] = word >> _16
    stream[at + _3] = word >> _24
    stream[at + _4] = word >> _32
    stream[at + _5] = word >> _40
    stream[at + _6] = word >> _48
    stream[at + _7] = word >> _56
