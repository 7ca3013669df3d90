from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import logging, structlog
from app.logging import configure
configure("INFO")
structlog.get_logger("ours").info("hello", address="postgresql://me:hunter2@db/x")
structlog.get_logger("ours").debug("not shown")
logging.getLogger("theirs").warning("cannot reach %s", "redis://:hunter2@broker/0")
try:
    raise RuntimeError("no way to amqp://u:hunter2@host")
except RuntimeError:
    structlog.get_logger("ours").exception("broke")
"""


def test_logs_are_json_lines_without_passwords() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "cannot reach redis://:***@broker/0", "broke"]
    assert lines[0]["address"] == "postgresql://me:***@db/x"
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert all({"logger", "timestamp"} <= line.keys() for line in lines)
    assert "RuntimeError" in lines[2]["exception"]
    assert "hunter2" not in done.stderr
    assert done.stdout == ""
