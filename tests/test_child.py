"""The process of one attempt: its events, its files, its end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import squeezer
from squeezer import child
from squeezer.artifact import Artifact
from squeezer.errors import ArtifactError, Code
from squeezer.recipe import parse_recipe

COMMAND = [sys.executable, "-m", "squeezer.child"]


def prepare(folder: Path, recipe: object, *, side: int = 64) -> Path:
    (folder / "input").mkdir(parents=True)
    (folder / "output").mkdir()
    weights = {"fc.weight": np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)}
    save_file(weights, folder / "input" / "model")
    (folder / "input" / "recipe.json").write_text(parse_recipe(recipe).model_dump_json())
    return folder


def run(*arguments: object) -> tuple[int, list[dict]]:
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdin
    lines = process.stdout.read().splitlines()
    process.stdin.close()
    return process.wait(60), [json.loads(line) for line in lines]


def test_compress_then_verify(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", {"preset": "deep-compression", "outputs": ["sqz", "safetensors"]})
    status, events = run("compress", folder)
    assert status == 0
    assert events[-1] == {"event": "done"}
    assert all(0 <= event["progress"] <= 1 and event["stage"] for event in events[:-1])
    report = json.loads((folder / "output/report.json").read_text())
    loaded = squeezer.load(folder / "output/artifact.sqz")
    assert (folder / "output/artifact.sqz").stat().st_size == report["output_bytes"] == sum(report["ledger"].values())
    dense = load_file(folder / "output/model.safetensors")
    assert dense["fc.weight"].tobytes() == loaded["fc.weight"].tobytes()
    status, events = run("verify", folder)
    assert (status, events[-1]) == (0, {"event": "done"})


@pytest.mark.parametrize("damage", ["digest", "names", "ledger", "file"])
def test_verify_finds_what_does_not_agree(tmp_path: Path, damage: str) -> None:
    folder = prepare(tmp_path / "job", "safe")
    run("compress", folder)
    path = folder / "output/report.json"
    report = json.loads(path.read_text())
    if damage == "digest":
        report["digests"]["fc.weight"] = "0" * 64
    elif damage == "names":
        report["digests"] = {"other": "0" * 64}
    elif damage == "ledger":
        report["ledger"]["values"] += 1
    else:
        artifact = folder / "output/artifact.sqz"
        artifact.write_bytes(artifact.read_bytes()[:-1])
    path.write_text(json.dumps(report))
    status, events = run("verify", folder)
    assert status == 1
    assert events[-1]["code"] == ("corrupt_artifact" if damage == "file" else "verification_failed")


def test_verify_compares_the_weights_that_load_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records may be right and the way that `load` takes be wrong: both are looked at."""
    folder = prepare(tmp_path / "job", "safe")
    run("compress", folder)
    decoded = Artifact.__getitem__
    child.verify(str(folder), emit=lambda **event: None)

    def wrong(artifact: Artifact, name: str) -> np.ndarray:
        weights = decoded(artifact, name)
        weights.reshape(-1)[-1] += 1
        return weights

    monkeypatch.setattr(Artifact, "__getitem__", wrong)
    with pytest.raises(ArtifactError) as caught:
        child.verify(str(folder), emit=lambda **event: None)
    assert caught.value.code is Code.VERIFICATION_FAILED


def test_errors_are_the_last_event(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", "safe")
    model = folder / "input/model"
    model.write_bytes(model.read_bytes()[:-100])
    status, events = run("compress", folder)
    assert status == 1
    assert events[-1]["event"] == "error"
    assert events[-1]["code"] == "truncated_file"
    assert list((folder / "output").iterdir()) == []


def test_a_closed_stdin_ends_it(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", "safe")
    process = subprocess.Popen([*COMMAND, "compress", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    process.stdin.close()
    assert process.wait(30) != 0
    assert not (folder / "output/report.json").exists()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", "lossless", side=6000)
    parent_code = (
        "import subprocess, sys, time\n"
        f"command = {[*COMMAND, 'compress', str(folder)]!r}\n"
        "p = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    while not _calls_prctl_done(child):
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _calls_prctl_done(pid: int) -> bool:
    """Its watching thread has started, which it does after it has asked to die with its parent."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
