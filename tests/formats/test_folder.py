"""Folders on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from squeezer.errors import ModelError
from squeezer.formats import folder as folder_module
from squeezer.formats.folder import LocalFolder, path_flaw

if TYPE_CHECKING:
    from pathlib import Path


def test_files_are_listed_with_safe_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "123").write_bytes(b"weights")
    root = tmp_path / "snapshot"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "b.txt").write_bytes(b"bb")
    (root / "a.txt").write_bytes(b"a")
    (root / "model.safetensors").symlink_to("../blobs/123")  # as in Hugging Face's cache
    (root / "gone").symlink_to("nowhere")
    (root / "bad\\name").write_bytes(b"")
    (root / ".git").mkdir()
    (root / ".git" / "objects").write_bytes(b"many")
    (root / ".gitattributes").write_bytes(b"x")
    folder = LocalFolder(root)
    assert folder.sizes == {"a.txt": 1, "model.safetensors": 7, "sub/b.txt": 2}
    assert folder.input_bytes == 10
    assert {item.name for item in folder.dropped} == {".git", ".gitattributes", "gone", repr("bad\\name")}
    assert folder.read_file("sub/b.txt") == b"bb"
    assert folder.locate("model.safetensors") == (root / "model.safetensors", 0, 7)
    with pytest.raises(KeyError):
        folder.read_file("../blobs/123")


def test_a_folder_of_everything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "MAX_FILES", 3)
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match="more than 3"):
        LocalFolder(tmp_path)


@pytest.mark.parametrize("path", ["a", "a/b.c", "..a/b..", "重み/🙂", "a b", "ab:c"])
def test_safe_paths(path: str) -> None:
    assert path_flaw(path) is None


@pytest.mark.parametrize("path", ["", ".", "..", "/a", "a/", "a/./b", "a/../b", "\ud800", "c:\\a", "C:a", "a\0"])
def test_unsafe_paths(path: str) -> None:
    assert path_flaw(path)
