import os
import subprocess
import sys
import zipfile
from functools import cache, partial
from itertools import count
from pathlib import Path

import pytest
import torch

from squeezer.methods import Finetune
from squeezer.training import checkpoint
from squeezer.training.loop import train
from squeezer.training.workbench import State
from tests.training.building import bench, cnn, digests, digits, mlp

pytestmark = pytest.mark.usefixtures("one_thread")

#: 18 updates, with validations after 4, 8, 12, 16 and 18.
SETTINGS = Finetune(epochs=2, batch_size=128, lr=3e-3, weight_decay=0.01)
ROOT = Path(__file__).parents[2]


class CutError(Exception):
    pass


def network() -> State:
    return mlp(64, 32, 10, dropout=0.2)


def run(
    folder: Path | None, settings: Finetune = SETTINGS, *, state=None, cut: int | None = None, seed=0, penalty=None
):
    """The trained network, its workbench, and the updates that were done."""
    seen = []

    def hook(step, total, _):
        if step == cut:
            raise CutError
        seen.append(step)

    state = state or network()
    images = "conv1.weight" in state.tensors
    work = bench(state, digits(images=images), folder=folder, seed=seed)
    try:
        return train(state, work, settings, hook=hook, penalty=penalty), work, seen
    except CutError:
        return None, work, seen


@pytest.fixture
def always(monkeypatch):
    """Save after every update."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0)


@cache
def undisturbed(make=network, settings=SETTINGS, seed=0):
    return run(None, settings, state=make(), seed=seed)


@pytest.mark.parametrize(("make", "cut"), [(network, 3), (network, 8), (network, 17), (cnn, 13)])
def test_what_was_cut_off_ends_as_if_it_had_not_been(make, cut, tmp_path, always):
    assert run(tmp_path, state=make(), cut=cut)[0] is None
    resumed, work, seen = run(tmp_path, state=make())
    assert seen == list(range(cut, 18))
    assert digests(resumed) == digests(undisturbed(make)[0])
    assert work.findings == undisturbed(make)[1].findings
    # the control: one update fewer, and it is another network
    fewer, _, seen = run(None, Finetune(**SETTINGS.model_dump() | {"epochs": 1.9}), state=make())
    assert len(seen) == 17
    assert digests(fewer) != digests(resumed)


def test_cut_off_several_times_and_between_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE", 0)  # at every validation, but not after every update
    for cut in (3, 10, 11, 15):
        run(tmp_path, cut=cut)
    resumed, _, seen = run(tmp_path)
    assert seen == list(range(12, 18))
    assert digests(resumed) == digests(undisturbed()[0])


def test_killed_in_the_middle_of_an_epoch(tmp_path):
    script = f"""
import os, torch
from pathlib import Path
torch.set_num_threads(1)
from squeezer.training import checkpoint
checkpoint.SECONDS = checkpoint._SHARE = 0
from tests.training import test_checkpoint as test
from tests.training.building import bench, digits
state = test.network()
work = bench(state, digits(), folder=Path({str(tmp_path)!r}))
test.train(state, work, test.SETTINGS, hook=lambda step, total, _: os._exit(9) if step == 11 else None)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 9
    resumed, _, seen = run(tmp_path)
    assert seen[0] == 11
    assert digests(resumed) == digests(undisturbed()[0])


def test_a_training_that_is_done_is_not_done_again(tmp_path):
    first, work, _ = run(tmp_path)
    again, second, seen = run(tmp_path)
    assert seen == []
    assert digests(again) == digests(first)
    assert second.findings == work.findings
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


def test_another_training_does_not_take_it_up(tmp_path, always):
    for settings, seed, make in (
        (Finetune(**SETTINGS.model_dump() | {"lr": 0.004}), 0, network),
        (SETTINGS, 1, network),
        (SETTINGS, 0, partial(mlp, 64, 32, 10, dropout=0.2, seed=9)),
        (SETTINGS, 0, partial(mlp, 64, 32, 10, dropout=0.3)),
    ):
        run(tmp_path, cut=5)
        result, work, seen = run(tmp_path, settings, seed=seed, state=make())
        assert seen[0] == 0
        assert not work.events
        assert digests(result) == digests(run(None, settings, seed=seed, state=make())[0])


@pytest.mark.parametrize("damage", ["a byte", "half of it", "no archive", "a program"])
def test_a_damaged_checkpoint_is_told_and_ignored(damage, tmp_path, always):
    run(tmp_path, cut=5)
    path = tmp_path / "training.pt"
    content = path.read_bytes()
    ran = tmp_path / "ran"
    match damage:
        case "a byte":
            with zipfile.ZipFile(path) as archive:
                largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
            path.write_bytes(content.replace(largest, bytes([largest[0] ^ 1]) + largest[1:]))
        case "half of it":
            path.write_bytes(content[: len(content) // 2])
        case "no archive":
            path.write_bytes(b"nothing")
        case "a program":
            torch.save(Program(str(ran)), path)
    result, work, seen = run(tmp_path)
    assert seen[0] == 0
    assert [event["event"] for event in work.events] == ["checkpoint_damaged"]
    assert not ran.exists()
    assert digests(result) == digests(undisturbed()[0])


class Program:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_what_blew_up_is_remembered(tmp_path, always):
    """The halved learning rate and the event outlive the process."""

    def spoil():
        calls = count()
        return lambda _: torch.tensor(torch.nan if next(calls) == 6 else 0.0)

    whole, work, _ = run(None, penalty=spoil())
    assert [event["event"] for event in work.events] == ["loss_not_finite"]
    run(tmp_path, penalty=spoil(), cut=10)
    resumed, second, _ = run(tmp_path)
    assert second.events == work.events
    assert digests(resumed) == digests(whole)


def test_a_good_network_outlives_the_process_too(tmp_path, always):
    """What a training goes back to after a restart is what it would have gone back to without one."""
    at = []

    def penalty(_):
        return torch.tensor(torch.nan if at[-1] == 14 else 0.0)

    def train_on(folder, cut=None):
        state = network()
        work = bench(state, digits(), folder=folder)

        def hook(step, total, _):
            at.append(step)
            if step == cut:
                raise CutError

        return train(state, work, SETTINGS, hook=hook, penalty=penalty), work

    whole, work = train_on(None)
    assert len(work.events) == 4
    with pytest.raises(CutError):
        train_on(tmp_path, cut=13)
    resumed, second = train_on(tmp_path)
    assert second.events == work.events
    assert digests(resumed) == digests(whole)
