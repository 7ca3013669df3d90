from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from app.guard import LoopbackGuard
from tests.app.conftest import Server, assert_problem

if TYPE_CHECKING:
    from app.settings import Settings


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8000"},
        {"Host": "localhost.evil.example"},
        {"Host": "[broken"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_requests_of_foreign_pages_are_refused(settings: Settings, headers: dict[str, str]) -> None:
    for open_to_all in (False, True):
        server = Server(settings.model_copy(update={"allow_unauthenticated": open_to_all})).start()
        try:
            response = httpx.get(f"{server.url}/jobs", headers=headers)
            if open_to_all:
                assert response.status_code == 200
            else:
                problem = assert_problem(response, 403, "loopback_only")
                assert "SQUEEZER_ALLOW_UNAUTHENTICATED" in problem["detail"]
        finally:
            server.stop()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "headers",
    [{"Host": "localhost:9000"}, {"Host": "[::1]:9000"}, {"Origin": "http://localhost:3000"}, {}],
)
def test_requests_of_this_machine_are_answered(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.get("/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("server", "status"),
    [
        (("127.0.0.1", 80), 200),
        (("::1", 80), 200),
        (("/run/x.sock", None), 200),
        (None, 200),
        (("10.0.0.5", 80), 403),
    ],
)
def test_the_address_at_which_a_request_came_in_decides(server: tuple[str, int | None] | None, status: int) -> None:
    """Whoever starts the server with a public address all the same is still not open to strangers."""
    sent: list[int] = []

    async def app(scope: object, receive: object, send: object) -> None:
        sent.append(200)

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            sent.append(int(str(message["status"])))

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "server": server}
    asyncio.run(LoopbackGuard(app)(scope, None, send))
    assert sent == [status]
