"""Hostile uploads, by the whole way of a job: each fails with its own code, and the next job succeeds.

The same uploads, and what they do where nothing holds them, are in `test_sandbox.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage, new_key
from squeezer.recipe import parse_recipe
from tests.attacks.test_sandbox import (
    Case,
    Listener,
    archive,
    arrays,
    exported,
    model_with_external_data,
    pickled,
    saved,
    script,
    with_pickled_weights,
)
from tests.formats.pt2_files import Pt2, meta, node, payload, symbol
from tests.workers.conftest import GetJob
from workers.supervisor import Supervisor

RECIPE = {"steps": [{"method": "magnitude_prune", "sparsity": 0.5}]}
WITH_DATA = RECIPE | {"data": {"targets": "y"}}


def lying_header(case: Case) -> bytes:
    header = {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


def large_view(case: Case) -> bytes:
    weights = Pt2().weights | {"fc.weight": payload("weight_0", meta([10**6, 10**6], strides=[0, 0]))}
    return exported(case.root, weights=weights)


def from_file(case: Case) -> bytes:
    name = {"as_string": str(case.place / "mapped")}
    return exported(case.root, nodes=[node("torch.ops.aten.from_file.default", name, {"as_bool": True})])


def expression_as_a_shape(case: Case) -> bytes:
    weights = Pt2().weights | {"fc.bias": payload("weight_1", meta([symbol(case.expression)], strides=[1]))}
    return exported(case.root, weights=weights)


def bomb(case: Case) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("model.safetensors", "config.json"):
            file.writestr(name, bytes(100 << 20))
    return buffer.getvalue()


#: What is uploaded as the model, and the code that the job must end with.
MODELS: dict[str, tuple[Callable[[Case], bytes], str]] = {
    "pickle": (lambda case: pickled(case.code), "unsafe_pickle"),
    "checkpoint": (lambda case: saved(case.code), "unsafe_pickle"),
    "pt2 pickled weights": (lambda case: with_pickled_weights(case.root, case.code), "unsafe_pickle"),
    "pt2 expression": (expression_as_a_shape, "invalid_graph"),
    "pt2 from_file": (from_file, "unsupported_operator"),
    "pt2 large view": (large_view, "archive_too_large"),
    "TorchScript": (lambda case: script(case.place / "mapped"), "unsupported_format"),
    "onnx external data": (lambda case: model_with_external_data(str(case.secret)), "unsupported_format"),
    "safetensors header": (lying_header, "truncated_file"),
    "zip bomb": (bomb, "archive_too_large"),
    "zip with ..": (lambda case: archive(("../../outside/climbed", b"", 0o100644)), "invalid_archive"),
    "zip with a link": (lambda case: archive(("link", bytes(case.place), 0o120777)), "invalid_archive"),
}
#: Read without that what is hostile in them is looked at; the job succeeds.
HARMLESS: dict[str, Callable[[Case], bytes]] = {
    "pt2 sample inputs": lambda case: exported(case.root, saved(case.code)),
    "pt2 guards": lambda case: exported(case.root, guards=[case.expression]),
}


@pytest.fixture
def upload(sessions: sessionmaker[Session], storage: LocalStorage) -> Callable[..., UUID]:
    def put(content: bytes) -> str:
        key = new_key()
        with storage.writer(key) as writer:
            writer.write(content)
            writer.commit()
        return key

    def upload(model: bytes, recipe: Any = RECIPE, dataset: bytes | None = None) -> UUID:
        job = Job(
            queue="cpu",
            recipe=parse_recipe(recipe).model_dump(mode="json"),
            recipe_version=1,
            file_name="model",
            model_key=put(model),
            dataset_key=None if dataset is None else put(dataset),
            model_bytes=len(model),
            model_sha256=hashlib.sha256(model).hexdigest(),
            max_crashed_attempts=2,
            max_lost_attempts=5,
        )
        with sessions.begin() as session:
            session.add(job)
            session.flush()
            return job.id

    return upload


def test_every_attack_fails_with_its_code_and_the_worker_goes_on(
    settings: Settings,
    sessions: sessionmaker[Session],
    storage: LocalStorage,
    upload: Callable[..., UUID],
    job: GetJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("job/input", "job/output", "outside"):
        (tmp_path / name).mkdir(parents=True)
    listener, victim = Listener(), subprocess.Popen(["sleep", "600"])
    listener.start()
    try:
        made = {name: Case(tmp_path, name, listener.port, victim) for name in (*MODELS, *HARMLESS, "arrays")}
        for case in made.values():
            case.place.mkdir()
            case.secret.write_bytes(b"secret")
            case.secret.chmod(0o600)
        failing = {name: upload(make(made[name])) for name, (make, _) in MODELS.items()}
        failing["arrays"] = upload(exported(tmp_path), WITH_DATA, arrays(made["arrays"].code))
        harmless = {name: upload(make(made[name])) for name, make in HARMLESS.items()}
        last = upload(save({"w": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}))
        assert Supervisor(settings, sessions, storage).work("cpu") == len(failing) + len(harmless) + 1
        ended = {name: (job(each).state, job(each).error_code) for name, each in failing.items()}
        expected = {name: code for name, (_, code) in MODELS.items()} | {"arrays": "unsafe_pickle"}
        assert ended == {name: ("failed", code) for name, code in expected.items()}
        assert {name: job(each).state for name, each in harmless.items()} == dict.fromkeys(HARMLESS, "succeeded")
        assert job(last).state == "succeeded"
        effects = {name: case.effects(listener.names) for name, case in made.items()}
        assert effects == {name: set() for name in made}
    finally:
        victim.kill()
        victim.wait()
        listener.close()
