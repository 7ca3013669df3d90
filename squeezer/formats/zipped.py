"""Zip archives from strangers: checked before anything is unpacked, and unpacked lazily.

No length that the archive declares is trusted: records must lie one after another within the file (so that
none is read twice: https://www.bamsoftware.com/hacks/zipbomb/), what is unpacked is counted and checked, and
sums are capped.
"""

from __future__ import annotations

import errno
import io
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from squeezer.errors import Code, ModelError
from squeezer.formats.folder import CLUTTER, MAX_FILES, is_clutter, path_flaw, too_many_files
from squeezer.model import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Caps on what an archive may unpack to. Trained weights deflate by some per cent, pruned ones to a tenth.
MAX_UNPACKED_BYTES = 64 * 1000**3
MAX_RATIO = 100
RATIO_FLOOR = 64 << 20  # archives that unpack to less than this may have any ratio
#: `zipfile` reads the central directory at once and makes an object of each entry (of about 80 bytes).
_MAX_DIRECTORY_BYTES = 16 << 20
_BLOCK = 1 << 20
_TAIL = (1 << 16) + 22  # the end record with the longest comment
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
    OverflowError,
    IndexError,
)


def _broken(detail: str) -> NoReturn:
    raise ModelError(Code.INVALID_ARCHIVE, f"The zip archive cannot be used: {detail}. Pack it again.")


def check_expansion(unpacked: int, packed: int) -> None:
    """Refuse what would grow beyond reason: `unpacked` bytes out of `packed`.

    Raises:
        ModelError: ARCHIVE_TOO_LARGE.
    """
    if unpacked > MAX_UNPACKED_BYTES or unpacked > max(RATIO_FLOOR, MAX_RATIO * packed):
        raise ModelError(
            Code.ARCHIVE_TOO_LARGE,
            f"The file would unpack from {packed} to {unpacked} bytes; at most {MAX_RATIO} times and "
            f"{MAX_UNPACKED_BYTES // 1000**3} GB are allowed. Upload the weights as a .safetensors file.",
        )


class _BoundedFile(io.FileIO):
    """A file from which nobody reads much at once, whatever lengths an archive declares."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As `FileIO.read`, up to the longest central directory."""
        data = super().read(
            _MAX_DIRECTORY_BYTES + 1 if size is None or size < 0 else min(size, _MAX_DIRECTORY_BYTES + 1)
        )
        if data is None or len(data) > _MAX_DIRECTORY_BYTES:
            _broken("it has too many entries")
        return data


class Archive:
    """An opened and checked zip: `members` are its files by path, without folders.

    Raises:
        ModelError: INVALID_ARCHIVE, TRUNCATED_FILE or ARCHIVE_TOO_LARGE.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._file = _BoundedFile(path, "r")
        self._verified: set[str] = set()
        try:
            self._zip = self._open()
            self.members = self._check_names()
            self._offsets = self._check_places()
            check_expansion(sum(info.file_size for info in self.members.values()), self.size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

    def _open(self) -> zipfile.ZipFile:
        self._file.seek(max(0, self.size - _TAIL))
        _, found, rest = self._file.read(_TAIL).rpartition(b"PK\x05\x06")
        if not found or len(rest) < 18:
            raise ModelError(Code.TRUNCATED_FILE, "The zip archive has no end; it was cut off. Upload it again.")
        try:
            return zipfile.ZipFile(self._file)
        except (*_ERRORS, OSError) as error:
            _broken(f"its directory is damaged ({error})")

    def _check_names(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        folders: set[str] = set()
        for info in self._zip.infolist():
            name = info.orig_filename  # `filename` has been made harmless, and is not what others will see
            if flaw := path_flaw(name.removesuffix("/")):
                _broken(f"the path {name[:200]!r} {flaw}")
            if info.flag_bits & _ENCRYPTED:
                _broken(f"{name!r} is encrypted")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                _broken(f"{name!r} is a link or a device")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                _broken(f"{name!r} is neither stored nor deflated")
            if name.endswith("/"):
                folders.add(name)
            elif name in members:
                _broken(f"{name!r} appears twice")
            else:
                members[name] = info
                folders.update(name[: end + 1] for end, char in enumerate(name) if char == "/")
        for name in members:
            if f"{name}/" in folders:
                _broken(f"{name!r} is a file and a folder")
        return members

    def _check_places(self) -> dict[str, int]:
        """Where each record's bytes begin; records must follow one another."""
        offsets, end = {}, 0
        for info in sorted(self._zip.infolist(), key=lambda info: info.header_offset):
            if info.header_offset < end or (end == 0 and info.header_offset):
                _broken(f"the record of {info.filename!r} overlaps another, or something lies before it")
            begin = self._data_offset(info)
            end = begin + info.compress_size
            if end > min(self._zip.start_dir, self.size):
                _broken(f"the record of {info.filename!r} reaches beyond the end")
            if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
                _broken(f"the record of {info.filename!r} contradicts itself about its size")
            offsets[info.filename] = begin
        return offsets

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            _broken(f"the record of {info.filename!r} is not where it should be")
        (flags,) = struct.unpack_from("<H", header, 6)
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        name = self._file.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        if name != info.orig_filename:
            _broken(f"the record of {info.filename!r} has another name")
        return int(info.header_offset + 30 + name_length + extra_length)

    def is_stored(self, name: str) -> bool:
        """Whether the member lies in the archive as it is."""
        return self.members[name].compress_type == zipfile.ZIP_STORED

    def offset(self, name: str) -> int:
        """Where the member's bytes begin in the file."""
        return self._offsets[name]

    def blocks(self, name: str) -> Iterator[bytes]:
        """The member's content, unpacked piece by piece, its length and CRC-32 checked at the end."""
        info, count = self.members[name], 0
        try:
            with self._zip.open(info) as member:
                while block := member.read(_BLOCK):
                    count += len(block)
                    yield block
        except _ERRORS as error:
            _broken(f"{name!r} is damaged ({error})")
        if count != info.file_size:
            _broken(f"{name!r} unpacks to {count} bytes and not to {info.file_size}")

    def verify(self, name: str) -> None:
        """Compare a member's checksum, for those who read parts of it; once."""
        if name not in self._verified:
            for _ in self.blocks(name):
                pass
            self._verified.add(name)


class ZipFolder:
    """A folder in a zip.

    Stored members are read where they lie; deflated weights are unpacked when they are needed, into a
    temporary folder (`TMPDIR` chooses where), which `close` removes.
    """

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, Path] = {}
        self.input_bytes = self._archive.size
        members = self._archive.members
        if len(members) > MAX_FILES:
            self._archive.close()
            raise too_many_files()
        self.sizes = {name: info.file_size for name, info in members.items() if not is_clutter(name)}
        self.dropped = [Dropped(name, CLUTTER) for name in members if is_clutter(name)]

    def locate(self, path: str) -> tuple[Path, int, int]:
        """The archive itself for a stored member, else the unpacked file."""
        if self._archive.is_stored(path):
            return self._archive.path, self._archive.offset(path), self.sizes[path]
        return self.as_file(path), 0, self.sizes[path]

    def as_file(self, path: str) -> Path:
        """The member, unpacked at the first call."""
        if path not in self._files:
            if self._unpacked is None:
                self._unpacked = tempfile.TemporaryDirectory(prefix="squeezer-")
            target = Path(self._unpacked.name) / str(len(self._files))
            try:
                with target.open("wb") as file:
                    for block in self._archive.blocks(path):
                        file.write(block)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ModelError(
                        Code.DISK_FULL,
                        "There is no room to unpack the archive. Pack it without compression (zip -0).",
                    ) from error
                raise
            self._files[path] = target
        return self._files[path]

    def read_file(self, path: str) -> bytes:
        """The member's content."""
        return b"".join(self._archive.blocks(path))

    def close(self) -> None:
        """Close the archive and remove what was unpacked."""
        self._archive.close()
        if self._unpacked is not None:
            self._unpacked.cleanup()
