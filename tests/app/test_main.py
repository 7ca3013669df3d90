from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from app import errors
from app.errors import Kind
from app.main import create_app
from tests.app.conftest import Server, assert_problem

if TYPE_CHECKING:
    from app.settings import Settings

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def test_paths_that_lead_nowhere_are_problems(client: httpx.Client) -> None:
    for path in ("/nothing", "/", "/jobs/x/y"):
        assert_problem(client.get(path), 404, "not_found")


def test_methods_that_are_not_possible_are_problems(client: httpx.Client) -> None:
    for method, path, allowed in (
        ("PUT", "/jobs", "GET, POST"),
        ("DELETE", "/healthz", "GET"),
        ("POST", "/jobs/x/artifact", "GET, HEAD"),
    ):
        response = client.request(method, path)
        assert allowed in assert_problem(response, 405, "method_not_allowed")["detail"]
        assert response.headers["allow"] == allowed


def test_what_breaks_inside_is_a_problem_without_its_secrets(settings: Settings) -> None:
    server = Server(settings)

    @server.app.get("/broken")
    def broken() -> None:
        raise RuntimeError("password hunter2")

    server.start()
    try:
        response = httpx.get(f"{server.url}/broken")
        assert_problem(response, 500, "internal")
        assert "hunter2" not in response.text
        assert response.headers["x-request-id"]
    finally:
        server.stop()


def test_methods_come_with_their_schema(client: httpx.Client) -> None:
    methods = {method["name"]: method for method in client.get("/methods").json()}
    assert "sparsity" in methods["magnitude_prune"]["json_schema"]["properties"]
    needs = {name: (method["needs_graph"], method["needs_data"]) for name, method in methods.items()}
    assert (needs["magnitude_prune"], needs["finetune"]) == ((False, False), (True, True))
    assert all(method["summary"] for method in methods.values())


def test_presets_are_recipes(client: httpx.Client) -> None:
    presets = {preset["name"]: preset for preset in client.get("/presets").json()}
    assert {"lossless", "safe", "deep-compression"} <= presets.keys()
    assert all(preset["description"] and "version" in preset["recipe"] for preset in presets.values())


def test_openapi_describes_the_form_and_the_errors(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    create = document["paths"]["/jobs"]["post"]
    schema = create["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["properties"]["model"]["format"] == "binary"
    assert schema["required"] == ["spec", "model"]
    assert {"202", "400", "413", "415", "422", "500", "503", "507"} <= create["responses"].keys()
    assert "Location" in create["responses"]["202"]["headers"]
    assert "invalid_recipe" in create["responses"]["422"]["description"]
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], path
    assert "ProblemDocument" in document["components"]["schemas"]
    assert client.get("/docs").status_code == 200


def test_the_docs_page_names_every_endpoint_and_every_error(settings: Settings) -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    for path, operations in create_app(settings).openapi()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}" in page.replace("{id}", "{job_id}"), (method, path)
    for kind in vars(errors).values():
        if isinstance(kind, Kind):
            assert f"| `{kind.code}` | {kind.status} |" in page


def test_the_service_starts_without_torch_and_numba_and_knows_no_workers(settings: Settings) -> None:
    code = (
        "import sys; from app.main import create_app; create_app();"
        "print([name for name in ('torch', 'numba', 'workers') if name in sys.modules])"
    )
    environment = {"SQUEEZER_DATA_DIR": str(settings.data_dir), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_documented_command_serves(settings: Settings) -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", "0"]
    environment = {"SQUEEZER_DATA_DIR": str(settings.data_dir), "PATH": ""}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = next(line for line in process.stderr if "running on" in line).split(" on ")[1].split()[0]
            assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        finally:
            process.terminate()
            process.communicate(timeout=20)
