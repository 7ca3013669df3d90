"""Logs as JSON lines on stderr, each with the id of its request, none with a password."""

from __future__ import annotations

import logging
import logging.config
import re
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog
from starlette.datastructures import MutableHeaders

from app.errors import INTERNAL, Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s/@]+@")

_INTERNAL = "try again; if it happens again, report it with the X-Request-ID of this response"
_log = structlog.get_logger(__name__)


def redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Blank passwords in addresses, wherever they turn up."""
    return {key: _PASSWORD.sub(r"\1:***@", value) if isinstance(value, str) else value for key, value in event.items()}


_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(level: str) -> None:
    """Send structlog's and the standard library's records to stderr as JSON lines."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    formatter: dict[str, Any] = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": [*_SHARED, structlog.stdlib.PositionalArgumentsFormatter()],
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(),
        ],
    }
    through_root: dict[str, Any] = {"handlers": [], "propagate": True}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": formatter},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                # It would announce itself at every readiness check.
                "alembic.runtime.migration": {"level": "WARNING"},
                "uvicorn": through_root,
                "uvicorn.error": through_root,
                # RequestLog says the same with an id and a duration.
                "uvicorn.access": {"handlers": [], "propagate": False},
            },
        }
    )


class RequestLog:
    """Gives every request an id, which its log lines and its response carry, and logs its outcome.

    It answers what nothing inside has answered: an unexpected exception becomes a problem like any other.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status, started_to_answer = str(uuid4()), time.perf_counter(), 500, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, started_to_answer
            if message["type"] == "http.response.start":
                status, started_to_answer = message["status"], True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                _log.exception("internal_error")
                if started_to_answer:
                    # The client must not take half an answer for a whole one: the server cuts the connection.
                    raise
                await Problem(INTERNAL, _INTERNAL).response()(scope, receive, send_with_id)
            finally:
                _log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=round(time.perf_counter() - began, 4),
                )
