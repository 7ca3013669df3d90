from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.db import make_engine, upgrade
from app.embedded import running_service
from app.settings import Settings
from tests.e2e.deployment import QUICK, Client, Deployment


def write_model(path: Path, tensors: int, megabytes: int) -> Path:
    """A safetensors file of random float32 matrices, so many megabytes each."""
    random = np.random.default_rng(0)
    shape = (megabytes * 250, 1000)
    save_file({f"layer{i}.weight": random.standard_normal(shape, dtype=np.float32) for i in range(tensors)}, path)
    return path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small.safetensors", tensors=3, megabytes=1)


@pytest.fixture(scope="session")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes long enough to be caught in the middle of it."""
    return write_model(tmp_path_factory.mktemp("models") / "large.safetensors", tensors=25, megabytes=4)


@pytest.fixture(scope="session")
def truncated_model(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    path = tmp_path_factory.mktemp("models") / "truncated.safetensors"
    path.write_bytes(small_model.read_bytes()[:-1000])
    return path


@pytest.fixture(scope="session")
def distributed(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str]) -> Iterator[Deployment]:
    database_url = new_database()
    engine = make_engine(Settings(mode="distributed", database_url=database_url, redis_url="redis://unused"))
    upgrade(engine)
    engine.dispose()
    deployment = Deployment(tmp_path_factory.mktemp("distributed"), database_url)
    try:
        yield deployment.start()
    finally:
        deployment.close()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setenv(name, value)
        with running_service(tmp_path_factory.mktemp("embedded") / "data") as url:
            yield Client(url)


@pytest.fixture(params=["distributed", "embedded"])
def client(request: pytest.FixtureRequest) -> Client:
    """The service in both of its modes."""
    if request.param == "embedded":
        embedded: Client = request.getfixturevalue("embedded")
        return embedded
    distributed: Deployment = request.getfixturevalue("distributed")
    distributed.ensure_worker()
    return distributed.client
