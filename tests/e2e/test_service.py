"""The main job, end to end, over HTTP, in both modes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import squeezer
from tests.e2e.deployment import Client


def test_a_model_goes_in_and_a_small_proven_file_comes_out(client: Client, small_model: Path, tmp_path: Path) -> None:
    path = client.submit(small_model, {"preset": "safe", "outputs": ["sqz", "safetensors"]})
    job = client.finished(path)
    assert (job["state"], job["error"], job["progress"], job["attempts"]) == ("succeeded", None, 1.0, 1)

    answer = client.http.get(job["links"]["artifact"])
    assert answer.status_code == 200
    artifact = tmp_path / "model.sqz"
    artifact.write_bytes(answer.content)
    original = load_file(small_model)
    tensor_bytes = sum(values.nbytes for values in original.values())
    assert job["metrics"]["ratio"] == tensor_bytes / len(answer.content)
    assert job["metrics"]["ratio"] > 4
    assert sum(job["ledger"].values()) == len(answer.content)
    [listed] = [made for made in job["artifacts"] if made["format"] == "sqz"]
    assert listed["sha256"] == hashlib.sha256(answer.content).hexdigest()

    decoded = squeezer.load(artifact)
    assert decoded.keys() == original.keys()
    for name, values in original.items():
        assert decoded[name].dtype == values.dtype
        error = np.linalg.norm(decoded[name] - values) / np.linalg.norm(values)
        assert 0 < error < 0.2

    dense = tmp_path / "model.safetensors"
    dense.write_bytes(client.http.get(path + "/artifact", params={"format": "safetensors"}).content)
    again = load_file(dense)
    assert all(np.array_equal(again[name], values) for name, values in decoded.items())


def test_lossless_comes_back_bit_for_bit(client: Client, small_model: Path, tmp_path: Path) -> None:
    job = client.finished(client.submit(small_model, {"preset": "lossless"}))
    artifact = tmp_path / "model.sqz"
    artifact.write_bytes(client.http.get(job["links"]["artifact"]).content)
    decoded = squeezer.load(artifact)
    assert all(decoded[name].tobytes() == values.tobytes() for name, values in load_file(small_model).items())


def test_bad_content_fails_with_a_stable_code_and_is_not_retried(client: Client, truncated_model: Path) -> None:
    job = client.finished(client.submit(truncated_model, {"preset": "safe"}))
    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", "truncated_file", 1)
    assert client.http.get(job["links"]["self"] + "/artifact").status_code == 409


def test_several_jobs_at_once_all_run(client: Client, small_model: Path) -> None:
    paths = [client.submit(small_model, {"preset": "safe", "seed": seed}) for seed in range(2)]
    assert {client.finished(path)["state"] for path in paths} == {"succeeded"}
