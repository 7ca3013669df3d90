from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest
import redis

from app.queue import RING, make_celery, ping, ring
from app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def settings(url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=url)


def test_a_ring_arrives_in_its_queue(redis_url: str, tmp_path: Path) -> None:
    celery = make_celery(settings(redis_url, tmp_path))
    with redis.Redis.from_url(redis_url) as client:
        client.delete("bell-test")
        assert ring("bell-test", celery)
        assert ring("bell-test")  # the app that was made last
        message = json.loads(client.lpop("bell-test"))
        assert client.llen("bell-test") == 1
        client.delete("bell-test")
    assert message["headers"]["task"] == RING
    assert message["content-type"] == "application/json"


@pytest.mark.parametrize("state", ["refuses", "hangs", "no socket"])
def test_a_broker_that_is_down_costs_less_than_a_second(state: str, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if state == "hangs":
            listener.listen()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        if state == "no socket":
            url = f"redis+socket://{tmp_path}/redis.sock"
        celery = make_celery(settings(url, tmp_path))
        begin = time.perf_counter()
        assert ring("cpu", celery) is False
        assert time.perf_counter() - begin < 1
        with pytest.raises((redis.RedisError, OSError)):
            ping(url)


def test_messages_are_acknowledged_early_and_never_pickled(tmp_path: Path) -> None:
    conf = make_celery(settings("redis://127.0.0.1:1/0", tmp_path)).conf
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier) == (False, 1)
    assert (conf.task_serializer, list(conf.accept_content)) == ("json", ["json"])
    assert conf.result_backend is None
