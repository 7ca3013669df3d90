"""Whatever the schema allows is answered without a failure on our side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import schemathesis
from hypothesis import HealthCheck, given, settings

if TYPE_CHECKING:
    from tests.app.conftest import Backend


def probe(operation: schemathesis.APIOperation) -> set[int]:
    """The statuses with which an operation answers generated requests."""
    statuses: set[int] = set()

    @given(case=operation.as_strategy())
    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        response = case.call(timeout=20)
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]

    check()
    return statuses


def test_no_request_breaks_the_service(sqlite_backend: Backend) -> None:
    sqlite_backend.empty()
    schema = schemathesis.openapi.from_url(f"{sqlite_backend.server.url}/openapi.json")
    operations = [result.ok() for result in schema.exclude(path="/readyz").get_all_operations()]
    seen = {f"{operation.method.upper()} {operation.path}": probe(operation) for operation in operations}
    assert len(seen) == 10
    assert seen["GET /jobs"] >= {200}
    assert seen["POST /jobs"] & {202, 422}
