"""Images in a zip, decoded as they are asked for.

The zip is checked as every zip from a stranger is; then only the place and the checksum of each file are kept. Pillow
decodes PNG, JPEG and BMP and nothing else, and no image of more than `MAX_PIXELS`, which is asked of its header.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.data.sources import read_into
from squeezer.errors import Code, DataError
from squeezer.model import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image

    from squeezer.formats.zipped import Archive

MAX_PIXELS = 1 << 25
_MAX_FILE_BYTES = 1 << 27
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM")
_MODES = {1: "L", 3: "RGB"}
_DEEP = ("I", "F")  # beginnings of Pillow's modes of more than 8 bits
#: What Pillow raises at damaged images, beside its own error, which derives from OSError.
_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, MemoryError,
           struct.error, zlib.error)  # fmt: skip


def is_image(head: bytes) -> bool:
    """Whether a file that begins like this is an image of a kind that is taken."""
    return head.startswith(_MAGIC)


class Store:
    """The files of a checked zip by position. Keeps their paths and 29 bytes for each; the zip itself may be closed."""

    def __init__(self, archive: Archive, paths: Sequence[str]) -> None:
        infos = [archive.members[path] for path in paths]
        self.paths = paths
        self._offsets = np.array([archive.offset(path) for path in paths], np.int64)
        self._packed = np.array([info.compress_size for info in infos], np.int64)
        self._sizes = np.array([info.file_size for info in infos], np.int64)
        self._sums = np.array([info.CRC for info in infos], np.uint32)
        self._stored = np.array([archive.is_stored(path) for path in paths], np.bool_)
        self._fd = os.open(archive.path, os.O_RDONLY)

    def head(self, position: int) -> bytes:
        """The first four bytes of a file, or fewer."""
        return self._unpack(position, min(int(self._packed[position]), 64), 4)

    def read(self, position: int) -> bytes:
        """The bytes of a file, its checksum compared."""
        size, packed = int(self._sizes[position]), int(self._packed[position])
        if max(size, packed) > _MAX_FILE_BYTES:
            raise self.error(position, f"is larger than {_MAX_FILE_BYTES >> 20} MiB; save a smaller image")
        content = self._unpack(position, packed, size + 1)
        if len(content) != size or zlib.crc32(content) != self._sums[position]:
            raise self.error(position, "is damaged; pack the zip again")
        return content

    def _unpack(self, position: int, packed: int, most: int) -> bytes:
        raw = bytearray(packed)
        read_into(self._fd, memoryview(raw), int(self._offsets[position]))
        if self._stored[position]:
            return bytes(raw[:most])
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, most)
        except zlib.error:
            return b""  # which no checksum fits

    def error(self, position: int, what: str) -> DataError:
        """An error that names a file: `what` says what is wrong with it, and what to do."""
        return DataError(Code.INVALID_DATA, f"The image {self.paths[position]!r} of the data set {what}.")

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class Images:
    """Images as rows (channels, height, width) of uint8, all of one size. As many as fit are kept once decoded.

    Args:
        name: what messages call them.
        store: where they lie.
        positions: which of the store's files they are.
        shape: channels (1 for grey, 3 for red, green and blue; others are converted), height, width.
        resize: whether images of other sizes are brought to that one (by linear interpolation, averaging where they
            are made smaller) or refused.
        memory: bytes that may be kept.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        positions: NDArray[np.int64],
        shape: tuple[int, int, int],
        *,
        resize: bool,
        memory: int,
    ) -> None:
        self.info = TensorInfo(name, (len(positions), *shape), np.dtype(np.uint8))
        self._store, self._positions, self._resize = store, positions, resize
        count = min(len(positions), memory // (shape[0] * shape[1] * shape[2]))
        self._kept = np.empty((count, *shape), np.uint8)
        self._known = np.zeros(count, np.bool_)

    @property
    def kept_bytes(self) -> int:
        """The memory that decoded images take, or will."""
        return self._kept.nbytes

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The images at these positions."""
        batch = np.empty((len(rows), *self.info.shape[1:]), np.uint8)
        for place, row in enumerate(rows.tolist()):
            if row < len(self._known) and self._known[row]:
                batch[place] = self._kept[row]
                continue
            batch[place] = self._decode(int(self._positions[row]))
            if row < len(self._known):
                self._kept[row], self._known[row] = batch[place], True
        return batch

    def _decode(self, position: int) -> NDArray[np.uint8]:
        image = open_image(self._store, position)
        _, channels, height, width = self.info.shape
        if not self._resize and (image.height, image.width) != (height, width):
            raise self._store.error(
                position,
                f"is {image.height} high and {image.width} wide, and others are {height} high and {width} wide. "
                "Save all in one size, or set data.transform.resize to a height and a width",
            )
        try:
            converted = image.convert(_MODES[channels])
            if converted.size != (width, height):
                converted = converted.resize((width, height), resample=_pillow().Resampling.BILINEAR)
            pixels = np.asarray(converted, np.uint8)
        except _ERRORS as error:
            raise self._store.error(position, f"cannot be decoded ({str(error)[:100]}); save it again") from None
        return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def open_image(store: Store, position: int) -> Image:
    """An image of which only the header has been read: its size and mode are known, and are harmless.

    Raises:
        DataError: INVALID_DATA; names the file.
    """
    pillow = _pillow()
    try:
        image: Image = pillow.open(io.BytesIO(store.read(position)), formats=("PNG", "JPEG", "BMP"))
    except (*_ERRORS, pillow.DecompressionBombError):
        raise store.error(position, "cannot be read: its header is damaged, or absurd. Save it again") from None
    if image.width * image.height > MAX_PIXELS:
        raise store.error(
            position,
            f"would have {image.width} x {image.height} pixels, and {MAX_PIXELS} are allowed; save a smaller image",
        )
    if image.mode.startswith(_DEEP):
        raise store.error(position, "has more than 8 bits for each channel; save it with 8")
    return image


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            Code.MISSING_DEPENDENCY,
            "A data set of images needs Pillow, which is not installed: pip install 'squeezer[torch]'.",
        ) from None
    return Image
