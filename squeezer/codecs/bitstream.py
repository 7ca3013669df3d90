"""Streams of bits, filled into bytes from the lowest bit up, and read 64 bits at a time from any position.

A long stream has *entry points*: positions at which decoding can begin, so that several parts of it are decoded side
by side. A processor that waits for one part's table look-up goes on with another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from squeezer.codecs.base import CorruptStreamError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ONE, _SIX, _LOW_SIX = np.uint64(1), np.uint64(6), np.uint64(63)


def to_words(stream: memoryview) -> NDArray[np.uint64]:
    """A copy of the stream as 64-bit words, filled up with zeros to one word more than it needs."""
    padded = np.zeros(len(stream) // 8 * 8 + 16, np.uint8)
    padded[: len(stream)] = np.frombuffer(stream, np.uint8)
    return padded.view(np.uint64)


def check_end(used_bits: int, stream_bytes: int) -> None:
    """Raise CorruptStreamError unless the last symbol ended in the stream's last byte."""
    if (used_bits + 7) // 8 != stream_bytes:
        raise CorruptStreamError(f"symbols that take {used_bits} bits in a stream of {stream_bytes} bytes")


@njit(cache=True, nogil=True)
def bits_at(words: NDArray[Any], position: Any) -> Any:
    """The 64 bits from a position on. The caller has made sure that one word follows the one it lies in."""
    # Unsigned throughout: a signed index would be tested for being negative, at every symbol.
    word, shift = position >> _SIX, position & _LOW_SIX
    return (words[word] >> shift) | ((words[word + _ONE] << _ONE) << (_LOW_SIX - shift))


@njit(cache=True, nogil=True)
def bits_at_end(words: NDArray[Any], position: Any) -> Any:
    """The same for positions that may lie past the end, where it gives any bits, but reads no foreign memory."""
    last = np.uint64(words.size - 2) << _SIX
    return bits_at(words, min(position, last | _LOW_SIX))
