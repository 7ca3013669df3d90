"""The HTTP service: `uvicorn --factory app.main:create_app`, or `python -m app.main`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from app import errors, health
from app import logging as app_logging
from app.artifacts.endpoints import router as artifacts
from app.deps import Context
from app.guard import LoopbackGuard
from app.jobs.endpoints import router as jobs
from app.methods.endpoints import router as methods
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_DESCRIPTION = (
    "Compression as a service for trained neural networks: send a model and a recipe, "
    "watch the job, download a small file that is proven to decode."
)


class Service(FastAPI):
    """FastAPI, with the shape of our errors among the schemas."""

    def openapi(self) -> dict[str, Any]:
        """The description of the interface."""
        document = super().openapi()
        document["components"]["schemas"]["ProblemDocument"] = errors.ProblemDocument.model_json_schema()
        return document


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, with settings from the environment unless given. The database must have been migrated."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app_logging.configure(settings.log_level)
        yield
        app.state.context.engine.dispose()

    app = Service(
        title="Squeezer",
        description=_DESCRIPTION,
        version=version("squeezer"),
        lifespan=lifespan,
        responses=errors.responses(errors.INTERNAL, errors.DATABASE_UNAVAILABLE),
    )
    app.state.context = Context.from_settings(settings)
    errors.install(app)
    if not settings.allow_unauthenticated:
        app.add_middleware(LoopbackGuard)
    app.add_middleware(app_logging.RequestLog)
    for router in (jobs, artifacts, methods, health.router):
        app.include_router(router)
    return app


def main() -> None:
    """Serve at the settings' address."""
    settings = Settings()
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main()
