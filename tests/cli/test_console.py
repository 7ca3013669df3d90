from __future__ import annotations

import pytest

from squeezer import console
from squeezer.codecs import Category


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (18_803_232, "18.8 MB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (4_000_000_000, "4 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_sizes_are_in_powers_of_1000(size: int, text: str) -> None:
    assert console.size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0421, "0.042 s"),
        (9.4, "9.4 s"),
        (12.3, "12 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7320, "2 h 2 min"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert console.time_text(seconds) == text


def test_every_entry_of_the_ledger_is_explained() -> None:
    assert console.LEDGER.keys() == {category.value for category in Category}


def test_progress_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    console.err.cache_clear()
    with console.progress("model.pt") as update:
        for i in range(1000):
            update("encode", i / 1000, 2.0, f"layer{i}")
        update("verify", 1.0, None, "")
    console.err.cache_clear()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["model.pt: encode, 0%, layer0", "model.pt: verify, 100%"]
