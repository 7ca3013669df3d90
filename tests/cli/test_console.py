from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from squeezer import console, wording
from squeezer.codecs import Category
from squeezer.report import Report


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


# What was measured ----------------------------------------------------------------------------------------

EVALUATION: dict[str, Any] = {
    "headline": "98.0 -> 96.5 % accuracy on 400 held-out examples; the drop of 1.5 points ...",
    "split": "test",
    "rows": 400,
    "labelled": True,
    "metric": "accuracy",
    "better": "higher",
    "original": {"value": 0.98, "low": 0.96, "high": 0.99},
    "result": {"value": 0.965, "low": 0.94, "high": 0.98},
    "drop": {"value": 0.015, "low": -0.001, "high": 0.03},
    "test": {"name": "McNemar, exact", "p": 0.0703},
    "flips": {
        "count": 9,
        "of": 400,
        "share": 0.0225,
        "right_to_wrong": 7,
        "wrong_to_right": 1,
        "wrong_to_other_wrong": 1,
    },
    "worst_class": {
        "class": 8,
        "examples": 40,
        "original": 0.975,
        "result": 0.9,
        "drop": 0.075,
        "p": 1.0,
        "looked_at": 10,
    },
    "calibration_error": {"original": 0.012, "result": None},
    "agreement": {"value": 0.9775, "low": 0.96, "high": 0.99},
    "divergence": 0.0123,
    "deviation": None,
    "non_finite": {"original": 0, "result": 0},
}
NO_LABELS = EVALUATION | dict.fromkeys(
    ("metric", "better", "original", "result", "drop", "test", "flips", "worst_class", "calibration_error")
)
SENSITIVITY: dict[str, Any] = {
    "metric": "accuracy",
    "sparsities": [0.5, 1.0],
    "unchanged": {"divergence": 0.0, "agreement": 1.0, "metric": 0.98},
    "tensors": [
        {"name": "neck", "weights": 96, "divergence": [2.5, None], "suggested": 0.0},
        {"name": "block.a", "weights": 1024, "divergence": [0.0, 0.00123], "suggested": 1.0},
        {"name": "block.b", "weights": 1024, "divergence": [0.0, 0.0123], "suggested": 0.5},
    ],
    "groups": [{"names": ["block.a", "block.b"], "weights": 2048, "divergence": [0.0, 0.02]}],
    "together": {"divergence": 0.002, "agreement": 0.995, "metric": 0.975, "sparsity": 0.7},
    "removable": [["block.a", "block.b"]],
    "removed": {"divergence": 0.02, "agreement": 0.99, "metric": 0.97},
}


def report(**more: Any) -> dict[str, Any]:
    made = Report(
        headline="98.0 -> 96.5 %",
        format="pt2",
        preset=None,
        input_bytes=1000,
        tensor_bytes=800,
        output_bytes=100,
        seconds=1.0,
        steps=[],
        left_out=[],
        dropped=[],
        files={},
        layers=[],
        ledger={},
        digests={},
        **more,
    )
    return made.to_json()


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[str]]]:
    """The lines on standard output since the start of the test, without the spaces of columns."""
    console.out.cache_clear()
    yield lambda: [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    console.out.cache_clear()


def test_a_report_shows_what_was_measured(printed: Callable[[], list[str]]) -> None:
    event = {"event": "loss_blew_up", "method": "finetune", "step": 120, "epoch": 1, "batch": 3}
    told = event | {"reason": "the loss was not finite", "action": "went back to step 100"}
    full = report(evaluation=EVALUATION, events=[told], findings={"sensitivity": SENSITIVITY})
    console.show_report(full, "m.sqz")
    lines = printed()
    assert lines[0] == "98.0 -> 96.5 %"
    assert "events finetune: loss blew up (epoch 2, step 120): the loss was not finite; went back to step 100" in lines
    start = lines.index("accuracy 98.00 % (96.00 to 99.00) -> 96.50 % (94.00 to 98.00), 400 test rows")
    assert lines[start + 1 : start + 6] == [
        "drop 1.50 points (-0.10 to 3.00), p = 0.07 (McNemar, exact)",
        "predictions 9 of 400 changed (2.25 %): 7 right to wrong, 1 wrong to right, 1 wrong to other wrong",
        "worst class 8: 97.50 % -> 90.00 % of 40, p = 1.0 as the worst of 10",
        "calibration expected error 1.20 % -> unknown",
        "agreement 97.75 % (96.00 to 99.00) of the predictions are the original's, mean KL divergence 0.012 nats",
    ]
    assert lines[start + 7] == "tensor weights curve KL at 0.5 KL at 1 could be zero"
    json.dumps(full, allow_nan=False)


def test_a_report_without_measurements_shows_none(printed: Callable[[], list[str]]) -> None:
    console.show_report(report(), "m.sqz")
    assert not [line for line in printed() if line.startswith(("accuracy", "agreement", "events", "tensor "))]


def test_without_labels_agreement_is_shown(printed: Callable[[], list[str]]) -> None:
    console.show_evaluation(NO_LABELS | {"labelled": False})
    assert printed() == [
        "agreement 97.75 % (96.00 to 99.00) of the predictions are the original's, mean KL divergence 0.012 nats, "
        "400 test rows"
    ]


def test_an_error_rises(printed: Callable[[], list[str]]) -> None:
    values = {
        name: {"value": x, "low": x / 2, "high": 2 * x}
        for name, x in (("original", 1.0), ("result", 1.5), ("drop", 0.5))
    }
    more = {"metric": "mse", "better": "lower", "labelled": True, "test": {"name": "paired permutation", "p": None}}
    deviation = {"mean": 0.01, "largest": None, "spread": 0.0}
    console.show_evaluation(NO_LABELS | values | more | {"agreement": None, "deviation": deviation})
    assert printed() == [
        "mse 1 (0.5 to 2) -> 1.5 (0.75 to 3), 400 test rows",
        "rise 0.5 (0.25 to 1)",
        "deviation 1.00 % of the outputs' spread in the mean, unknown at most",
    ]


def test_sensitivity_is_a_table_with_curves(printed: Callable[[], list[str]]) -> None:
    console.show_sensitivity(SENSITIVITY)
    assert printed() == [
        "tensor weights curve KL at 0.5 KL at 1 could be zero",
        "neck 96 █! 2.500 none -",
        "block.a 1,024 ▁▃ 0 0.00123 100%",
        "block.b 1,024 ▁▄ 0 0.012 50%",
        "together: block.a + block.b 2,048 ▁▅ 0 0.020",
        "all that could be zero, together: 70.0% of the weights, KL 0.00200, agreement 99.50 %, "
        "accuracy 98.00 % -> 97.50 %",
        "could go altogether, all of them together (KL 0.020, agreement 99.00 %, accuracy 98.00 % -> 97.00 %): "
        "block.a + block.b",
    ]


def test_the_curve_rises_with_the_divergence() -> None:
    assert wording.curve([0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0, 500.0]) == "▁▁▃▄▆▇██"
    assert wording.curve([None]) == "!"


@pytest.mark.parametrize(
    ("headline", "evaluation", "style"),
    [
        ("Lossless", None, "green"),
        ("Accuracy was not measured", None, "yellow"),
        ("... is likely lost", None, "red"),
        ("a drop by chance", EVALUATION, "green"),
        ("a drop", EVALUATION | {"test": {"name": "", "p": 0.001}}, "yellow"),
        ("a gain", EVALUATION | {"test": {"name": "", "p": 0.001}, "drop": {"value": -0.01}}, "green"),
        ("The result's output is not a finite number on 3", EVALUATION, "red"),
        ("No labels, so the accuracy is unknown", NO_LABELS | {"labelled": False}, "yellow"),
    ],
)
def test_the_colour_of_the_headline(headline: str, evaluation: dict[str, Any] | None, style: str) -> None:
    found = console._headline_style({"headline": headline, "evaluation": evaluation})
    assert found == f"bold {style}"
