"""Fixtures that several parts of the suite share: the real PostgreSQL and Redis, and PyTorch in one thread.

`SQUEEZER_TEST_DATABASE_URL` (an SQLAlchemy URL whose role may create databases: the suite makes its own
beside it and drops them again) and `SQUEEZER_TEST_REDIS_URL` name servers that run already; without them
the suite starts its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from squeezer.training.device import torch_threads
from tests.servers import Databases, PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# An example's time says nothing on a shared machine, and the first one may compile a kernel.
settings.register_profile("squeezer", deadline=None)
settings.load_profile("squeezer")


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], str]]:
    """Makes a fresh, empty PostgreSQL database at each call and returns its SQLAlchemy URL."""
    given = os.environ.get("SQUEEZER_TEST_DATABASE_URL")
    server = None if given else PostgresServer()
    try:
        databases = Databases(given or server.start().admin_url)
        yield databases.create
        databases.drop_all()
    finally:
        if server:
            server.close()


@pytest.fixture(scope="session")
def postgres_url(new_database: Callable[[], str]) -> str:
    """One database for the whole session, empty when first asked for."""
    return new_database()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for the whole session."""
    given = os.environ.get("SQUEEZER_TEST_REDIS_URL")
    if given:
        yield given
        return
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch computes in one thread. Several would wait for each other, long where the machine is busy."""
    with torch_threads(1):
        yield


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of one test's own, which it may stop, kill and start again."""
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.close()
