"""`/healthz`: the process lives. `/readyz`: what it needs is there."""

from collections.abc import Callable
from typing import Literal

import structlog
from fastapi import APIRouter
from pydantic import BaseModel
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.db import schema_is_current
from app.deps import Context, ContextDep
from app.errors import NOT_READY, Problem, responses
from app.queue import ping

router = APIRouter(tags=["health"])
_log = structlog.get_logger(__name__)


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Everything that the service needs is there."""

    status: Literal["ready"] = "ready"
    checks: dict[str, str]


@router.get("/healthz")
def healthz() -> Health:
    """Say whether the process answers."""
    return Health()


@router.get("/readyz", responses=responses(NOT_READY))
def readyz(context: ContextDep) -> Readiness:
    """Say whether database, broker and storage are there, each by name."""
    checks = {name: _outcome(name, check, context) for name, check in _CHECKS.items()}
    if broken := [name for name, outcome in checks.items() if outcome != "ok"]:
        raise Problem(NOT_READY, f"not ready: {', '.join(broken)}; see checks, and the log", extra={"checks": checks})
    return Readiness(checks=checks)


def _database(context: Context) -> str:
    with context.engine.begin() as connection:
        if not schema_is_current(connection):
            return "the schema is not the newest; run alembic upgrade head"
    return "ok"


def _redis(context: Context) -> str:
    ping(context.settings.redis_url)
    return "ok"


def _storage(context: Context) -> str:
    context.storage.check()
    return "ok"


_CHECKS: dict[str, Callable[[Context], str]] = {"database": _database, "redis": _redis, "storage": _storage}


def _outcome(name: str, check: Callable[[Context], str], context: Context) -> str:
    try:
        return check(context)
    except (SQLAlchemyError, RedisError, OSError) as error:
        # Addresses are for the log; anyone may read the answer.
        _log.warning("check_failed", check=name, error=str(error))
        return "does not answer" if name != "storage" else "cannot be written to"
