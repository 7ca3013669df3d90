from __future__ import annotations

import re
from pathlib import Path

from app.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| `SQUEEZER_(\w+)` \| (.+?) \|", PAGE, re.MULTILINE))


def test_every_setting_has_a_row_and_every_row_a_setting() -> None:
    assert {name.lower() for name in ROWS} == set(Settings.model_fields)


def test_plain_defaults_are_those_of_the_code() -> None:
    plain = {name: field.default for name, field in Settings.model_fields.items() if field.default_factory is None}
    shown = {name: ROWS[name.upper()].strip("`") for name in plain}
    expected = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in plain.items()}
    assert shown == {name: text.removesuffix(".0") for name, text in expected.items()}
