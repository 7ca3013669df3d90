"""Names of files and tensors that would lead somewhere else, or that no file system takes."""

from pathlib import Path

import numpy as np
import pytest

import squeezer
from squeezer.artifact import ArtifactWriter
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import ArtifactError, Code
from squeezer.representations import Dense

ONE = Dense(np.ones(1, np.float32), np.dtype(np.float32))


def written(path: Path, *names: str, tensors: tuple[str, ...] = ("w",)) -> Path:
    """An artifact with files of these names. Each contains its position."""
    with ArtifactWriter(path) as writer:
        for tensor in tensors:
            writer.add(tensor, ONE, encode_tensor(ONE))
        for i, name in enumerate(names):
            writer.add_file(name, b"%d" % i)
    return path


def refused(path: Path, folder: Path, match: str) -> None:
    with pytest.raises(ArtifactError, match=match) as error:
        squeezer.decompress(path, folder)
    assert error.value.code is Code.CORRUPT_ARTIFACT


@pytest.mark.parametrize(
    "name", ["../escaped.txt", "/etc/escaped.txt", "a/../../escaped.txt", "a/b/../../../escaped.txt", ".", "..", ""]
)
def test_a_file_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    refused(written(tmp_path / "evil.sqz", name), tmp_path / "folder", "file '.*its name (is|contains)")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.sqz"]


def test_a_link_in_the_folder_is_not_followed_out_of_it(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "config.json").write_text("mine")
    (folder / "sub").symlink_to(outside)
    (folder / "config.json").symlink_to(outside / "config.json")
    (folder / "dangling").symlink_to(outside / "new.txt")
    for name in ("sub/new.txt", "sub/config.json", "config.json", "dangling"):
        refused(written(tmp_path / "evil.sqz", name), folder, "leads out of the folder")
    assert [path.name for path in outside.iterdir()] == ["config.json"]
    assert (outside / "config.json").read_text() == "mine"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"exists|symbolic links"):
        squeezer.decompress(written(tmp_path / "evil.sqz", "a/x"), folder)


@pytest.mark.parametrize(
    "name", ["nul\0.txt", "\ud800.txt", "x" * 300, "/".join(["x" * 200] * 30), "a\n", "C:/a", "a\\b"]
)
def test_names_that_no_file_system_takes_are_refused(tmp_path: Path, name: str) -> None:
    refused(written(tmp_path / "evil.sqz", name), tmp_path / "folder", "file '")


@pytest.mark.parametrize(
    "names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b"), ("a", "./a"), ("a", "b/../a"), ("a", "a/")]
)
def test_two_files_in_one_place_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    refused(written(tmp_path / "evil.sqz", *names), tmp_path / "folder", "file '")


def test_a_file_does_not_replace_the_tensors(tmp_path: Path) -> None:
    refused(written(tmp_path / "evil.sqz", "model.safetensors"), tmp_path / "folder", r"model\.safetensors")


def test_unicode_names_come_back(tmp_path: Path) -> None:
    names = ("config.json", "Größe.txt", "模型/词表.txt", "e\u0301.txt", "\u00e9.txt", "a b.txt", "-rf", "~", "$HOME")
    tensors = ("слой.вес", "層", "e\u0301", "\u00e9", "\U0001f600", "a b\n", "\u202eevil", "\0")
    path = written(tmp_path / "m.sqz", *names, tensors=tensors)
    assert list(squeezer.load(path)) == list(tensors)
    found = squeezer.decompress(path, tmp_path / "folder")
    assert [file.read_bytes() for file in found[1:]] == [b"%d" % i for i in range(len(names))]
    assert [str(file.relative_to(tmp_path / "folder")) for file in found[1:]] == list(names)


def test_names_are_shown_escaped(tmp_path: Path) -> None:
    """A name must not move the cursor or add a line where an error is shown."""
    path = written(tmp_path / "m.sqz", tensors=("evil\r\x1b[2K\nname",))
    data = bytearray(path.read_bytes())
    with squeezer.open(path) as artifact:
        data[artifact.entry(artifact.names[0]).offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as error:
        squeezer.load(path)
    assert error.value.detail.isprintable()
