"""What endpoints need, made once per process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from app.db import make_engine, make_sessions
from app.queue import make_celery
from app.storage import LocalStorage
from app.tenants.models import LOCAL

if TYPE_CHECKING:
    from uuid import UUID

    from celery import Celery
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from app.settings import Settings
    from app.storage import Storage


@dataclass(frozen=True)
class Context:
    """Settings and connections. Services open a session for each request, and commit it once."""

    settings: Settings
    engine: Engine
    sessions: sessionmaker[Session]
    storage: Storage
    celery: Celery

    @classmethod
    def from_settings(cls, settings: Settings) -> Context:
        """Connections that open on first use; the storage's folder is made at once."""
        engine = make_engine(settings)
        return cls(settings, engine, make_sessions(engine), LocalStorage(settings.storage), make_celery(settings))


def get_context(request: Request) -> Context:
    """The context of the running app."""
    return cast("Context", request.app.state.context)


ContextDep = Annotated[Context, Depends(get_context)]


@dataclass(frozen=True)
class Caller:
    """Who sent a request: what it may see and change is the tenant's."""

    tenant_id: UUID


def get_caller() -> Caller:
    """The sender of the request."""
    return Caller(LOCAL)


CallerDep = Annotated[Caller, Depends(get_caller)]
