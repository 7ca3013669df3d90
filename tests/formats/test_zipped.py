"""Zip archives that mean harm, and how stored and deflated members are read."""

from __future__ import annotations

import contextlib
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeezer.errors import Code, ModelError
from squeezer.formats import zipped
from squeezer.formats.zipped import Archive, ZipFolder

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b"squeeze " * 1000


def make(path: Path, members: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress)
    return path


def error_of(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        Archive(path).close()
    return caught.value


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read(tmp_path: Path, compress: int) -> None:
    path = make(tmp_path / "a.zip", {"a.txt": TEXT, "sub/b": b"", "ü/重み": b"x"}, compress)
    folder = ZipFolder(path)
    assert folder.sizes == {"a.txt": len(TEXT), "sub/b": 0, "ü/重み": 1}
    assert folder.input_bytes == path.stat().st_size
    assert folder.read_file("a.txt") == TEXT
    place, offset, length = folder.locate("a.txt")
    assert place.read_bytes()[offset : offset + length] == TEXT
    assert (place == path) == (compress == zipfile.ZIP_STORED)
    unpacked = folder.as_file("a.txt")
    assert unpacked.read_bytes() == TEXT
    assert folder.as_file("a.txt") == unpacked
    folder.close()
    assert not unpacked.parent.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../../b", "/etc/passwd", "C:/a", "a\\..\\b", "./a", "a//b", "a\nb", "x" * 300, "a/" * 600 + "a"],
)
def test_unsafe_paths_are_refused(tmp_path: Path, name: str) -> None:
    assert error_of(make(tmp_path / "a.zip", {name: b"x"})).code is Code.INVALID_ARCHIVE


def test_a_path_with_nul_is_refused(tmp_path: Path) -> None:
    """`zipfile` would cut it there, and others might not."""
    path = make(tmp_path / "a.zip", {"a.txtX.sh": b"x"})
    path.write_bytes(path.read_bytes().replace(b"a.txtX.sh", b"a.txt\0.sh"))
    assert "control" in error_of(path).detail


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    assert "twice" in error_of(tmp_path / "a.zip").detail
    assert "folder" in error_of(make(tmp_path / "b.zip", {"a": b"1", "a/b": b"2"})).detail


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("config.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "link" in error_of(tmp_path / "a.zip").detail


def patched(path: Path, offset: int, value: bytes) -> Path:
    """The archive of one member with bytes of its central directory entry changed."""
    content = bytearray(path.read_bytes())
    position = content.index(b"PK\x01\x02") + offset
    content[position : position + len(value)] = value
    path.write_bytes(content)
    return path


def test_encrypted_and_exotic_members_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"a": TEXT})
    assert "encrypted" in error_of(patched(path, 8, b"\x01\x00")).detail
    assert "deflated" in error_of(make(tmp_path / "b.zip", {"a": TEXT}, zipfile.ZIP_LZMA)).detail


def test_sizes_that_lie(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"a": TEXT})
    assert "contradicts" in error_of(patched(path, 24, struct.pack("<I", 5))).detail
    for size in (5, len(TEXT) - 1, len(TEXT) + 1, 10 * len(TEXT)):
        path = patched(make(tmp_path / "b.zip", {"a": TEXT}, zipfile.ZIP_DEFLATED), 24, struct.pack("<I", size))
        folder = ZipFolder(path)
        with pytest.raises(ModelError) as caught:
            folder.as_file("a")
        assert caught.value.code is Code.INVALID_ARCHIVE
        folder.close()


def test_damaged_content_is_found(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"a": TEXT})
    path.write_bytes(path.read_bytes().replace(b"squeeze", b"sqXeeze", 1))
    folder = ZipFolder(path)
    with pytest.raises(ModelError, match="damaged"):
        folder.read_file("a")
    folder.close()


def test_overlapping_records_are_refused(tmp_path: Path) -> None:
    """The bomb in which many entries share one body."""
    path = make(tmp_path / "a.zip", {"a": TEXT, "b": TEXT})
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = bytes(4)  # b's record is a's
    path.write_bytes(content)
    assert error_of(path).code is Code.INVALID_ARCHIVE


def test_something_before_the_archive_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"a": TEXT})
    path.write_bytes(b"PK\x03\x04" + bytes(96) + path.read_bytes())
    assert error_of(path).code is Code.INVALID_ARCHIVE


def test_bombs_are_refused_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.zip", {"a": bytes(80_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    error = error_of(path)
    assert error.code is Code.ARCHIVE_TOO_LARGE
    assert "80000000" in error.detail
    monkeypatch.setattr(zipped, "MAX_UNPACKED_BYTES", 10_000)
    assert error_of(make(tmp_path / "b.zip", {"a": TEXT, "b": TEXT})).code is Code.ARCHIVE_TOO_LARGE


def test_a_huge_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped, "_MAX_DIRECTORY_BYTES", 100_000)
    assert "too many" in error_of(make(tmp_path / "a.zip", {f"{i:0100}": b"" for i in range(1000)})).detail


def test_too_many_files(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {str(i): b"" for i in range(10_001)})
    with pytest.raises(ModelError, match="10000"):
        ZipFolder(path)


def test_a_cut_archive(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"a": TEXT})
    content = path.read_bytes()
    for end in (10, 1000, len(content) - 30, len(content) - 10, len(content) - 1):
        path.write_bytes(content[:end])
        assert error_of(path).code is Code.TRUNCATED_FILE


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data(), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_mutations_end_in_an_error_or_in_the_content(tmp_path: Path, data: st.DataObject, compress: int) -> None:
    path = make(tmp_path / "a.zip", {"a": TEXT[:50], "b/c": TEXT[:20]}, compress)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        folder = ZipFolder(path)
    except ModelError:
        return
    for name in folder.sizes:
        with contextlib.suppress(ModelError):
            assert folder.read_file(name) in (TEXT[:50], TEXT[:20])
    folder.close()
