from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from app.settings import Settings, is_loopback

EVERYWHERE = "0.0.0.0"  # noqa: S104 - the very address that must be refused

if TYPE_CHECKING:
    from pathlib import Path


def test_embedded_mode_needs_nothing_but_a_folder(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/squeezer.db"
    assert settings.redis_url == f"redis+socket://{tmp_path}/redis.sock"
    assert settings.storage == tmp_path / "storage"


@pytest.mark.parametrize("missing", ["database_url", "redis_url"])
def test_distributed_mode_has_no_default_addresses(missing: str) -> None:
    given = {"database_url": "postgresql+psycopg://db/x", "redis_url": "redis://broker"}
    del given[missing]
    with pytest.raises(ValidationError, match=missing):
        Settings(mode="distributed", **given)


def test_the_environment_sets_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEEZER_MAX_UPLOAD_BYTES", "1000")
    assert Settings().max_upload_bytes == 1000


def test_a_public_address_is_refused_unless_told() -> None:
    with pytest.raises(ValidationError, match="SQUEEZER_ALLOW_UNAUTHENTICATED"):
        Settings(host=EVERYWHERE)
    assert Settings(host=EVERYWHERE, allow_unauthenticated=True)


def test_a_lease_outlives_missed_heartbeats() -> None:
    with pytest.raises(ValidationError, match="HEARTBEAT"):
        Settings(lease_seconds=5, heartbeat_seconds=5)


def test_addresses_stay_out_of_the_repr() -> None:
    settings = Settings(database_url="postgresql+psycopg://me:hunter2@db/x", redis_url="redis://:hunter2@r/0")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        (EVERYWHERE, False),
        ("192.168.1.5", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
