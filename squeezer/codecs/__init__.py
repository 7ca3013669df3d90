"""Bits: how arrays become bytes and come back. Numpy and numba only."""

from squeezer.codecs.base import ByteReader, ByteWriter, Category, Codebook, CorruptStreamError, Itself, Level, Meaning
from squeezer.codecs.registry import (
    ARRAY_CODECS,
    SYMBOL_CODECS,
    read_array,
    read_integers,
    write_array,
    write_integers,
)

__all__ = [
    "ARRAY_CODECS",
    "SYMBOL_CODECS",
    "ByteReader",
    "ByteWriter",
    "Category",
    "Codebook",
    "CorruptStreamError",
    "Itself",
    "Level",
    "Meaning",
    "read_array",
    "read_integers",
    "write_array",
    "write_integers",
]
