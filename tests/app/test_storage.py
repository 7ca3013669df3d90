from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.storage import LocalStorage, new_key


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_written_and_committed_comes_back(storage: LocalStorage, tmp_path: Path) -> None:
    key = new_key()
    with storage.writer(key) as writer:
        writer.write(b"one ")
        writer.write(bytearray(b"two"))
        writer.commit()
    with storage.open(key) as file:
        assert file.read() == b"one two"
    assert storage.path(key).read_bytes() == b"one two"
    assert storage.size(key) == 7
    assert storage.path(key).relative_to(tmp_path).parts[-3:] == (key[:2], key[2:4], key)


def test_nothing_is_visible_before_the_commit(storage: LocalStorage, tmp_path: Path) -> None:
    key = new_key()
    with storage.writer(key) as writer:
        writer.write(b"x")
        assert len(files(tmp_path)) == 1  # the temporary file
        assert not storage.path(key).exists()
        assert list(storage.list()) == []
    assert files(tmp_path) == []


def test_an_error_leaves_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), storage.writer(new_key()) as writer:  # noqa: PT012 - the error comes last
        writer.write(b"x" * 100_000)
        raise RuntimeError
    assert files(tmp_path) == []


def test_a_full_disk_raises_and_leaves_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    writer = storage.writer(new_key())
    writer._file.close()
    writer._file = Path("/dev/full").open("wb")  # noqa: SIM115 - the kernel's own full disk, closed by the writer
    with pytest.raises(OSError, match="No space left"), writer:  # noqa: PT012 - either may meet the full disk
        writer.write(b"x")
        writer.commit()
    assert files(tmp_path) == []


def test_put_file_copies_and_keeps_the_source(storage: LocalStorage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5_000_000))
    key = new_key()
    storage.put_file(key, source)
    assert storage.path(key).read_bytes() == source.read_bytes()


def test_delete_may_be_repeated(storage: LocalStorage) -> None:
    key = new_key()
    with storage.writer(key) as writer:
        writer.commit()
    storage.delete(key)
    storage.delete(key)
    with pytest.raises(FileNotFoundError):
        storage.open(key)


def test_list_names_objects_with_size_and_time(storage: LocalStorage) -> None:
    key = new_key()
    with storage.writer(key) as writer:
        writer.write(b"abc")
        writer.commit()
    (stored,) = storage.list()
    assert (stored.key, stored.bytes) == (key, 3)
    assert abs(stored.modified_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_only_old_leftovers_are_swept(storage: LocalStorage, tmp_path: Path) -> None:
    old, young = storage.writer(new_key()), storage.writer(new_key())
    for writer in (old, young):
        writer._file.close()
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    os.utime(old._temporary, (hour_ago.timestamp(),) * 2)
    assert storage.sweep_temporary(hour_ago + timedelta(minutes=1)) == 1
    assert files(tmp_path) == [young._temporary]


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "AB" * 16, "ab/../" + "0" * 26, "0" * 31, "0" * 32 + "\n"])
def test_other_keys_are_refused(storage: LocalStorage, key: str) -> None:
    with pytest.raises(ValueError, match="storage key"):
        storage.path(key)


def test_check_finds_a_folder_that_is_gone(storage: LocalStorage, tmp_path: Path) -> None:
    storage.check()
    assert files(tmp_path) == []
    (tmp_path / "storage" / "tmp").rmdir()
    with pytest.raises(OSError, match="No such file"):
        storage.check()


def test_keys_are_random() -> None:
    assert len({new_key() for _ in range(1000)}) == 1000
