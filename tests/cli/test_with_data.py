"""`compress` and `submit` with a network and a data set."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import squeezer as library
from tests.cli.conftest import Start, squeezer
from tests.digits import write_data, write_program, write_student

RETRAIN = [
    {"method": "magnitude_prune", "sparsity": 0.8},
    {"method": "finetune", "epochs": 12, "lr": 0.003},
    {"method": "kmeans_share", "bits": 5},
]
RUIN = [{"method": "magnitude_prune", "sparsity": 0.98}]
DISTILL = [{"method": "distill", "student": "uploaded", "epochs": 15, "lr": 0.01}]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network and its data set."""
    folder = tmp_path_factory.mktemp("digits")
    return write_program(folder / "digits.pt2"), write_data(folder / "digits.npz")


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network."""
    return write_student(tmp_path_factory.mktemp("student") / "student.pt2")


def write_recipe(folder: Path, steps: list[dict[str, object]], **others: object) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps({"steps": steps, **others}))
    return path


def test_compress_retrains_measures_and_writes_every_output(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    recipe = write_recipe(tmp_path, RETRAIN, outputs=["sqz", "safetensors", "pt2"])
    options = ["--data", data, "-r", recipe, "-o", tmp_path / "out.sqz", "--threads", 1]
    done = squeezer("compress", model, *options, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["evaluation"]["metric"] == "accuracy"
    assert report["evaluation"]["result"]["value"] > 0.85
    assert report["headline"] == report["evaluation"]["headline"]
    assert "finetune" in done.stderr
    assert "error" not in report
    assert {f"out.{ending}" for ending in ("sqz", "safetensors", "pt2")} <= {p.name for p in tmp_path.iterdir()}
    weights = library.load(tmp_path / "out.sqz")["fc1.weight"]
    assert np.mean(weights == 0) > 0.75

    # the negative control: it was the retraining
    without = {"steps": [RETRAIN[0], RETRAIN[2]]}
    worse = library.compress(model, without, tmp_path / "b.sqz", data=data, threads=1).evaluation
    assert worse
    assert worse["result"]["value"] < report["evaluation"]["result"]["value"] - 0.05


def test_compress_trains_the_student_in_the_models_place(
    files: tuple[Path, Path], student: Path, tmp_path: Path
) -> None:
    recipe, out = write_recipe(tmp_path, DISTILL), tmp_path / "out.sqz"
    done = squeezer("compress", files[0], "-d", files[1], "--student", student, "-r", recipe, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluation"]["result"]["value"] > 0.8
    assert library.load(out)["0.weight"].shape == (24, 64)
    assert "distill" in done.stderr


@pytest.mark.parametrize("command", ["compress", "submit"])
def test_no_output_takes_the_place_of_the_student(command: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, DISTILL, outputs=["sqz", "pt2"])
    student = write_student(tmp_path / "student.pt2")
    before = student.read_bytes()
    options = ["-d", files[1], "--student", student, "-r", recipe, "-o", tmp_path / "student.sqz"]
    nowhere = ["--url", "http://127.0.0.1:1"] if command == "submit" else []
    done = squeezer(command, files[0], *options, *nowhere)
    assert done.returncode == 1
    assert f"{student} is what is being read" in done.stderr
    assert student.read_bytes() == before


def test_a_result_that_is_not_accepted_is_kept_and_the_status_is_1(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    recipe = write_recipe(tmp_path, RUIN, accept={"max_drop": 0.02}, outputs=["sqz", "safetensors"])
    out = tmp_path / "out.sqz"
    for as_json in ([], ["--json"]):
        out.unlink(missing_ok=True)
        done = squeezer("compress", model, "--data", data, "-r", recipe, "-o", out, *as_json)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("error: accuracy fell by ")
        assert as_json or "accuracy on" in done.stdout.splitlines()[0]
        assert last.endswith(f"; {out} was kept (not_accepted)")
        assert library.load(out)["fc1.weight"].shape == (48, 64)
        assert out.with_suffix(".safetensors").exists()
    report = json.loads(done.stdout)
    assert report["error"]["code"] == "not_accepted"
    assert report["evaluation"]["drop"]["value"] > 0.02


def test_compress_goes_on_from_its_checkpoints(start: Start, files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    long = [RETRAIN[0], {"method": "finetune", "epochs": 25, "batch_size": 32}, RETRAIN[2]]
    recipe = write_recipe(tmp_path, long)
    options = ["-d", data, "-r", recipe, "--threads", 1, "--json"]
    folder = tmp_path / "checkpoints"
    process = start("compress", model, *options, "-o", tmp_path / "a.sqz", "--checkpoints", folder)
    while not any(folder.rglob("*.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "a.sqz").exists()
    resumed = squeezer("compress", model, *options, "-o", tmp_path / "a.sqz", "--checkpoints", folder)
    assert resumed.returncode == 0, resumed.stderr
    library.compress(model, {"steps": long}, tmp_path / "b.sqz", data=data, threads=1)
    assert (tmp_path / "a.sqz").read_bytes() == (tmp_path / "b.sqz").read_bytes()


BAD_CALLS = {
    "no such data": (["--data", "nope.npz"], "file_not_found", "nope.npz"),
    "a folder": (["--data", "."], "file_error", "zip it"),
    "needed": (["-r", "recipe.json"], "invalid_recipe", "finetune needs a data set"),
    "to judge by": (["-r", "accept.json"], "invalid_recipe", "accept needs a data set"),
    "no such student": (["--student", "nope.pt2"], "file_not_found", "name a network (.pt2) with --student"),
    "a folder as student": (["--student", "."], "file_error", "--student"),
    "student needed": (["-r", "student.json", "-d", "data"], "invalid_recipe", "distill needs the student"),
    "student unused": (["--student", "data"], "invalid_recipe", "no step uses the student"),
    "no zoo": (["--architecture", "resnet19"], "invalid_recipe", "architecture"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("command", ["compress", "submit"])
def test_files_and_recipe_are_checked_before_any_work(
    command: str, case: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    if (command, case) == ("submit", "no zoo"):
        pytest.skip("the service judges it")
    write_recipe(tmp_path, RETRAIN)
    (tmp_path / "accept.json").write_text('{"preset": "safe", "accept": {"max_drop": 0.1}}')
    (tmp_path / "student.json").write_text(json.dumps({"steps": DISTILL}))
    (tmp_path / "data").write_bytes(b"x")
    before = {path.name for path in tmp_path.iterdir()}
    options, code, words = BAD_CALLS[case]
    nowhere = ["--url", "http://127.0.0.1:1"] if command == "submit" else []
    done = squeezer(command, files[0], "-o", "out.sqz", *options, *nowhere, "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert error["code"] == code
    assert words in error["detail"]
    assert {path.name for path in tmp_path.iterdir()} == before


def test_decompress_writes_the_network(files: tuple[Path, Path], tmp_path: Path) -> None:
    library.compress(files[0], "lossless", tmp_path / "out.sqz")
    written = tmp_path / "back.onnx"
    done = squeezer("decompress", tmp_path / "out.sqz", "-o", written, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == {str(written): written.stat().st_size}


# The service ------------------------------------------------------------------


def test_submit_retrains_and_shows_the_evaluation(service: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    recipe = write_recipe(tmp_path, RETRAIN, outputs=["sqz", "pt2"])
    done = squeezer("submit", model, "--data", data, "-r", recipe, "--url", service, "-o", tmp_path / "out.sqz")
    assert done.returncode == 0, done.stderr
    assert "accuracy on" in done.stdout.splitlines()[0]
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json", "out.sqz", "out.pt2"}


def test_submit_sends_the_student_along(service: str, files: tuple[Path, Path], student: Path, tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path, DISTILL), tmp_path / "out.sqz"
    options = ["-d", files[1], "--student", student, "-r", recipe, "--url", service, "-o", out, "--json"]
    done = squeezer("submit", files[0], *options)
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["student"]["file_name"], job["student"]["bytes"]) == ("student.pt2", student.stat().st_size)
    assert job["metrics"]["evaluation"]["result"]["value"] > 0.8
    assert library.load(out)["0.weight"].shape == (24, 64)


def test_submit_downloads_what_is_not_accepted(service: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    recipe = write_recipe(tmp_path, RUIN, accept={"max_drop": 0.02})
    out = tmp_path / "out.sqz"
    done = squeezer("submit", model, "--data", data, "-r", recipe, "--url", service, "-o", out)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"; {out} was kept (not_accepted)")
    assert "accuracy on" in done.stdout.splitlines()[0]
    assert library.load(out)["fc1.weight"].shape == (48, 64)


def test_submit_of_bad_data_fails_with_the_cause(service: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = files
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, x=np.zeros((100, 63), np.float32), y=np.arange(100) % 10)
    recipe = write_recipe(tmp_path, RETRAIN)
    done = squeezer("submit", model, "--data", wrong, "-r", recipe, "--url", service, "--json", cwd=tmp_path)
    job = json.loads(done.stdout)
    assert (done.returncode, job["state"], job["error"]["code"]) == (1, "failed", "invalid_data")
    assert job["dataset"]["file_name"] == "wrong.npz"
