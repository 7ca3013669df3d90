"""Keeps strangers out while there are no keys: only this machine's own programs may use the service."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from app.errors import LOOPBACK_ONLY, Problem
from app.settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_ADVICE = "Use http://127.0.0.1, or set SQUEEZER_ALLOW_UNAUTHENTICATED=true if something else keeps strangers out"


class LoopbackGuard:
    """Refuses requests that came in over a network, and those that a foreign web page makes a browser send.

    The settings refuse a public address, but a server may be started with another one. A page of a foreign
    site can send requests to loopback (`Origin` is the site), or let its own name point there (`Host` is it).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        reason = _reason(scope) if scope["type"] == "http" else None
        if reason is None:
            await self._app(scope, receive, send)
        else:
            await Problem(LOOPBACK_ONLY, f"{reason}. {_ADVICE}").response()(scope, receive, send)


def _reason(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    server = scope.get("server")
    # A unix socket has a path and no port.
    if server and server[1] is not None and not is_loopback(server[0]):
        return f"this request came in at {server[0]}, and without keys the service answers on loopback only"
    if not _is_local(f"//{headers.get('host', 'localhost')}"):
        return "the Host header names another machine"
    if not _is_local(headers.get("origin", "//localhost")):
        return "the request was sent by a page of another site"
    return None


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
