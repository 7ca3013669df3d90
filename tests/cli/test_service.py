from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

import squeezer as library
from tests.cli.conftest import EXECUTABLE, Start, environment, squeezer

ROOT = Path(__file__).parents[2]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_submit(service: str, model: Path, tmp_path: Path) -> None:
    done = squeezer("submit", model, "--url", service, "-o", tmp_path / "out.sqz", "--recipe", "deep-compression")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Accuracy was not measured and is likely lost")
    assert library.load(tmp_path / "out.sqz")["fc1.weight"].shape == (64, 48)


def test_submit_json_and_url_from_the_environment(service: str, model: Path, tmp_path: Path) -> None:
    command = [EXECUTABLE, "submit", model.name, "--json"]
    settings = environment() | {"SQUEEZER_URL": service}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, timeout=60, check=True)
    job = json.loads(done.stdout)
    assert job["state"] == "succeeded"
    assert job["metrics"]["output_bytes"] == (tmp_path / "model.sqz").stat().st_size


def test_submit_downloads_every_output(service: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"preset": "lossless", "outputs": ["sqz", "safetensors"]}')
    (tmp_path / "out").mkdir()
    done = squeezer("submit", model, "--url", service, "-o", "out/a.sqz", "--recipe", "recipe.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.sqz", "a.safetensors"}


def test_submit_without_waiting(service: str, model: Path, tmp_path: Path) -> None:
    done = squeezer("submit", model, "--url", service, "--no-wait")
    assert httpx.get(f"{service}/jobs/{done.stdout.strip()}").json()["file_name"] == "model.safetensors"
    assert not (tmp_path / "model.sqz").exists()


def test_a_job_that_fails(service: str, sick_model: Path, tmp_path: Path) -> None:
    done = squeezer("submit", sick_model, "--url", service, "--json")
    job = json.loads(done.stdout)
    assert done.returncode == 1
    assert (job["state"], job["error"]["code"]) == ("failed", "non_finite_weights")
    assert done.stderr.splitlines()[-1] == f"error: job {job['id']}: {job['error']['detail']} (non_finite_weights)"
    assert [path.name for path in tmp_path.iterdir()] == ["sick.safetensors"]


def test_a_preset_that_the_service_does_not_know(service: str, model: Path) -> None:
    done = squeezer("submit", model, "--url", service, "--recipe", "nope", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "invalid_recipe"


def test_ctrl_c_cancels_the_job(start: Start, service: str, large_model: Path, tmp_path: Path) -> None:
    process = start("submit", large_model, "--url", service, "-o", tmp_path / "x.sqz", "-r", "deep-compression")
    assert process.stderr
    job_id = next(line.split()[1] for line in process.stderr if line.startswith("job "))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"canceled job {job_id}" in stderr
    deadline = time.monotonic() + 30
    while (state := httpx.get(f"{service}/jobs/{job_id}").json()["state"]) == "canceling":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert state == "canceled"
    assert list(tmp_path.iterdir()) == []


def test_serve_from_any_folder_and_stop(start: Start, tmp_path: Path) -> None:
    process = start("serve", "--port", "0", "--data-dir", tmp_path / "data", cwd=Path("/"))
    assert process.stdout
    shown = [process.stdout.readline() for _ in range(6)]
    url = shown[0].split()[3]
    assert httpx.get(f"{url}/readyz").status_code == 200
    text = "".join(shown)
    assert f"{url}/docs" in text
    assert "curl -F" in text
    assert str(tmp_path / "data" / "logs") in text
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 4
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "stopped\n")
    assert alive(children) == []


def test_serve_says_why_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = squeezer("serve", "--port", "0", "--data-dir", tmp_path / "file" / "data")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot use ")
    assert done.stderr.endswith("(service_failed)\n")


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_the_library_alone_says_where_the_service_is(command: str, tmp_path: Path) -> None:
    # As from a wheel: the packages are there, the library is there, and the checkout is not on the path.
    shutil.copytree(ROOT / "squeezer", tmp_path / "squeezer", ignore=shutil.ignore_patterns("__pycache__"))
    site = str(Path(httpx.__file__).parents[1])
    # -S: site-packages are on the path, but the file that adds the checkout to it is not read.
    run = [sys.executable, "-S", "-P", "-m", "squeezer.cli", command]
    settings = environment() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), site])}
    done = subprocess.run(run, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: this is the library alone; the service runs from a checkout of Squeezer (`make serve`) "
        "or from its image (missing_dependency)\n"
    )


def test_demo_with_a_model(model: Path) -> None:
    done = squeezer("demo", model)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("model.safetensors ")]
    assert [row[1] for row in rows] == ["safe", "deep-compression"]
    assert all("yes" in row for row in rows)
    assert "was not measured" in done.stdout


def test_demo_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a model")
    done = squeezer("demo", tmp_path / "text.pt")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("(unknown_format)")


def test_demo_stops_everything_on_ctrl_c(start: Start, model: Path) -> None:
    process = start("demo", model)
    assert process.stderr
    assert any(line.startswith("it is at") for line in process.stderr)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 5
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert alive(children) == []
