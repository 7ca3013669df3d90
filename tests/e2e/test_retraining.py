"""Jobs with a network and a data set: they retrain, survive a kill in the middle of it, and are judged."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

import squeezer
from tests.digits import write_data, write_program, write_student
from tests.e2e.deployment import Client, Deployment, eventually

if TYPE_CHECKING:
    import psutil

PRUNE: dict[str, Any] = {"method": "magnitude_prune", "sparsity": 0.8}
SHARE: dict[str, Any] = {"method": "kmeans_share", "bits": 5}
RETRAIN = {"steps": [PRUNE, {"method": "finetune", "epochs": 12, "lr": 0.003}, SHARE]}
#: Takes long enough to be killed in the middle of it.
LONG = {"steps": [PRUNE, {"method": "finetune", "epochs": 40, "batch_size": 32}, SHARE]}
RUIN = {"steps": [{"method": "magnitude_prune", "sparsity": 0.98}], "accept": {"max_drop": 0.02}}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_program(tmp_path_factory.mktemp("digits") / "digits.pt2")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("digits") / "digits.npz")


@pytest.fixture
def service(distributed: Deployment) -> Deployment:
    distributed.ensure_worker()
    return distributed


def artifact(client: Client, job: dict[str, Any]) -> bytes:
    answer: httpx.Response = client.http.get(job["links"]["artifact"])
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_network_is_retrained_and_measured(client: Client, program: Path, digits: Path, tmp_path: Path) -> None:
    """Its class is not importable in the worker: there is none but in this process."""
    job = client.finished(client.submit(program, RETRAIN, digits))
    assert (job["state"], job["error"], job["attempts"]) == ("succeeded", None, 1)
    assert (job["dataset"]["file_name"], job["dataset"]["bytes"]) == ("digits.npz", digits.stat().st_size)
    evaluation = job["metrics"]["evaluation"]
    assert evaluation["metric"] == "accuracy"
    assert evaluation["result"]["value"] > 0.85
    assert job["metrics"]["headline"] == evaluation["headline"]
    assert [step["method"] for step in job["metrics"]["steps"]] == ["magnitude_prune", "finetune", "kmeans_share"]
    (tmp_path / "out.sqz").write_bytes(artifact(client, job))
    assert np.mean(squeezer.load(tmp_path / "out.sqz")["fc1.weight"] == 0) > 0.75


def test_a_student_takes_the_networks_place(client: Client, program: Path, digits: Path, tmp_path: Path) -> None:
    student = write_student(tmp_path / "student.pt2")
    step = {"method": "distill", "student": "uploaded", "epochs": 15, "lr": 0.01}
    job = client.finished(client.submit(program, {"steps": [step]}, digits, student))
    assert (job["state"], job["error"], job["attempts"]) == ("succeeded", None, 1)
    assert (job["student"]["file_name"], job["student"]["bytes"]) == ("student.pt2", student.stat().st_size)
    assert job["metrics"]["evaluation"]["agreement"]["value"] > 0.8
    (tmp_path / "out.sqz").write_bytes(artifact(client, job))
    assert squeezer.load(tmp_path / "out.sqz")["0.weight"].shape == (24, 64)


def test_a_student_that_is_no_network_ends_the_job_with_its_code(
    client: Client, program: Path, digits: Path, tmp_path: Path
) -> None:
    hostile = tmp_path / "student.pkl"
    hostile.write_bytes(pickle.dumps({"weight": [1.0]}))
    step = {"method": "distill", "student": "uploaded"}
    job = client.finished(client.submit(program, {"steps": [step]}, digits, hostile))
    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", "unsafe_pickle", 1)
    assert job["error"]["detail"].startswith("The student: ")
    assert job["artifacts"] == []


@pytest.fixture(scope="module")
def undisturbed(distributed: Deployment, program: Path, digits: Path) -> dict[str, Any]:
    """A job that nothing happened to, with the bytes that it made."""
    distributed.ensure_worker()
    client = distributed.client
    job = client.finished(client.submit(program, LONG, digits), 180)
    assert (job["state"], job["error"], job["attempts"]) == ("succeeded", None, 1)
    return job | {"bytes": artifact(client, job)}


@pytest.mark.parametrize("killed", ["child", "worker"])
def test_a_job_killed_in_mid_finetune_goes_on_and_ends_with_the_same_bytes(
    killed: str, service: Deployment, program: Path, digits: Path, undisturbed: dict[str, Any]
) -> None:
    client = service.client
    path = client.submit(program, LONG, digits)
    folder = service.folder / "data" / "scratch" / "checkpoints" / path.rpartition("/")[2]
    child: psutil.Process = service.in_mid_job(path)
    # Past the first third, so that whoever begins anew is told apart from who goes on.
    reached = eventually(lambda: (done := finetuned(client.job(path))) > 1 / 3 and done, 120)
    assert any(folder.rglob("training.pt"))
    if killed == "child":
        child.kill()
    else:
        service.kill_worker()
        service.ensure_worker()
    seen: list[float] = []
    while (job := client.job(path))["state"] not in {"succeeded", "failed"}:
        if job["attempts"] == 2 and job["stage"] == "finetune":
            seen.append(finetuned(job))
        time.sleep(0.02)
    expected = {"child": "crashed", "worker": "lost"}[killed]
    assert (job["state"], job["attempts"], job["last_error"]["code"]) == ("succeeded", 2, expected)
    assert min(seen) > reached / 2
    assert f"job {job['id']}: attempt 2 goes on from the checkpoints of an earlier one" in service.log("worker")
    assert artifact(client, job) == undisturbed["bytes"]
    assert job["metrics"]["evaluation"] == undisturbed["metrics"]["evaluation"]
    eventually(lambda: not folder.exists())


def finetuned(job: dict[str, Any]) -> float:
    """How far the step is that a job is at, by its words: `epoch 12.5 of 60`."""
    words = (job["layer"] or "").split()
    return float(words[1]) / float(words[3].rstrip(",")) if words[:1] == ["epoch"] else 0.0


def test_another_seed_ends_with_other_bytes(program: Path, digits: Path, tmp_path: Path) -> None:
    """The negative control: equal bytes are not what any retraining would give."""
    brief = [PRUNE, {"method": "finetune", "epochs": 1}, SHARE]
    for seed in (0, 1):
        squeezer.compress(program, {"steps": brief, "seed": seed}, tmp_path / f"{seed}.sqz", data=digits, threads=1)
    assert (tmp_path / "0.sqz").read_bytes() != (tmp_path / "1.sqz").read_bytes()


def test_a_result_that_is_not_accepted_fails_the_job_and_is_kept(
    client: Client, program: Path, digits: Path, tmp_path: Path
) -> None:
    job = client.finished(client.submit(program, RUIN | {"outputs": ["sqz", "pt2"]}, digits))
    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", "not_accepted", 1)
    assert job["error"]["detail"].startswith("accuracy fell by ")
    assert job["metrics"]["evaluation"]["drop"]["value"] > 0.02
    assert sum(job["ledger"].values()) == job["metrics"]["output_bytes"]
    assert [made["format"] for made in job["artifacts"]] == ["pt2", "sqz"]
    (tmp_path / "out.sqz").write_bytes(artifact(client, job))
    assert squeezer.load(tmp_path / "out.sqz")["fc1.weight"].shape == (48, 64)
    network = client.http.get(job["links"]["artifact"], params={"format": "pt2"})
    assert len(network.content) == job["artifacts"][0]["bytes"]
    assert client.http.delete(job["links"]["self"]).status_code == 204


@pytest.mark.parametrize(
    ("spec", "dataset", "status", "code"),
    [
        (RETRAIN, None, 422, "dataset_missing"),
        (RETRAIN, b"", 422, "empty_file"),
        ({"steps": [{"method": "finetune", "epochs": -1}]}, b"d", 422, "invalid_recipe"),
    ],
)
def test_what_is_wrong_with_the_form_is_said_at_once(
    client: Client, program: Path, spec: object, dataset: bytes | None, status: int, code: str
) -> None:
    files = {"model": program.read_bytes()} | ({} if dataset is None else {"dataset": dataset})
    answer = client.post(spec, files)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("wrong", ["no data", "shape", "labels"])
def test_what_is_wrong_with_the_data_ends_the_job_with_its_code(
    client: Client, program: Path, tmp_path: Path, wrong: str
) -> None:
    path = tmp_path / "wrong.npz"
    if wrong == "no data":
        path.write_bytes(b"this is no data set")
    else:
        columns, labels = (63, 10) if wrong == "shape" else (64, 12)
        np.savez(path, x=np.zeros((200, columns), np.float32), y=np.arange(200) % labels)
    job = client.finished(client.submit(program, RETRAIN, path))
    expected = "unknown_data" if wrong == "no data" else "invalid_data"
    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", expected, 1)
    assert job["artifacts"] == []
