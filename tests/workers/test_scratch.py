from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from squeezer.errors import SqueezerError
from workers import scratch

REPOSITORY = Path(__file__).parents[2]


def test_a_folder_is_ready_for_a_child_and_removed_afterwards(tmp_path: Path) -> None:
    with scratch.scratch_folder(tmp_path / "scratch", "job-1") as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["input", "output", "tmp"]
        (folder / "output" / "artifact.sqz").write_bytes(b"x")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_live_supervisors_folder_is_not_swept(tmp_path: Path) -> None:
    with scratch.scratch_folder(tmp_path, "job-1") as folder:
        assert scratch.sweep(tmp_path, grace=0) == []
        assert folder.exists()


def test_a_killed_supervisors_folder_is_swept_after_the_grace(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from workers import scratch\n"
        "with scratch.scratch_folder(Path(sys.argv[1]), 'job-1'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False, timeout=20)
    assert (tmp_path / "job-1" / "input").is_dir()
    assert scratch.sweep(tmp_path, grace=60) == []
    assert scratch.sweep(tmp_path, grace=0) == [tmp_path / "job-1"]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_checkpoints_is_not_that_of_an_attempt(tmp_path: Path) -> None:
    for name in ("dead-1", scratch.CHECKPOINTS):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    assert scratch.sweep(tmp_path) == [tmp_path / "dead-1"]
    assert (tmp_path / scratch.CHECKPOINTS).is_dir()


def test_what_a_dead_attempt_s_checkpoints_lead_to_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "state").touch()
    with scratch.scratch_folder(tmp_path / "scratch", "job-1") as folder:
        (folder / "checkpoints").symlink_to(kept, target_is_directory=True)
    assert (kept / "state").exists()


def test_sweeping_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert scratch.sweep(tmp_path / "never") == []


def test_input_is_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "upload"
    source.write_bytes(b"weights")
    scratch.link_input(source, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == b"weights"
    assert source.samefile(tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        scratch.link_input(tmp_path / "gone", tmp_path / "other")


def test_input_on_another_file_system_is_linked_too(tmp_path: Path) -> None:
    scratch.link_input(Path("/proc/self/status"), tmp_path / "model")
    assert (tmp_path / "model").is_symlink()


def test_a_product_is_a_plain_file_in_a_plain_folder(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    (output / "good").write_text("mine")
    (output / "symbolic").symlink_to(secret)
    os.link(secret, output / "hard")
    os.mkfifo(output / "pipe")
    assert scratch.product(tmp_path, "good") == output / "good"
    for name in ("symbolic", "hard", "pipe"):
        with pytest.raises(SqueezerError, match="not a plain file"):
            scratch.product(tmp_path, name)
    with pytest.raises(FileNotFoundError):
        scratch.product(tmp_path, "never_made")
    output.rename(tmp_path / "moved")
    output.symlink_to(tmp_path / "moved")
    with pytest.raises(SqueezerError, match="not a plain file"):
        scratch.product(tmp_path, "good")
