"""The recipe's `accept`: what is judged by which figure, and what could never be judged."""

from __future__ import annotations

from typing import Any

import pytest

from squeezer.data import DataSpec
from squeezer.data.accept import Accept, judge, mismatch


def accuracy_of(before: float, after: float, **more: Any) -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "better": "higher",
        "rows": 100,
        "original": {"value": before},
        "result": {"value": after},
        "drop": {"value": before - after},
        "agreement": {"value": 0.97},
    } | more


def test_accept() -> None:
    assert judge(accuracy_of(0.98, 0.97), Accept(max_drop=0.01)) is None
    assert judge(accuracy_of(0.98, 0.96), Accept(max_drop=0.01)) == (
        "accuracy fell by 0.02 on 100 rows, and at most 0.01 is accepted"
    )
    assert judge(accuracy_of(0.9, 0.95), Accept(max_drop=0)) is None
    assert "at least 0.96" in (judge(accuracy_of(0.98, 0.95), Accept(min_metric=0.96)) or "")
    assert judge(accuracy_of(0.98, 0.96), Accept(min_metric=0.96)) is None
    assert "at least 0.98" in (judge(accuracy_of(1, 1), Accept(min_agreement=0.98)) or "")
    both = judge(accuracy_of(0.98, 0.5), Accept(max_drop=0.1, min_agreement=0.99)) or ""
    assert both.count("is accepted") == 2
    assert judge(accuracy_of(1, 0), None) is None


def test_where_less_is_better_the_drop_is_a_share() -> None:
    worse = accuracy_of(2.0, 2.1, metric="mse", better="lower", drop={"value": 0.1})
    assert judge(worse, Accept(max_drop=0.06)) is None
    assert "mse grew by the share 0.05" in (judge(worse, Accept(max_drop=0.04)) or "")


def test_bounds_that_cannot_be_judged_are_known_beforehand() -> None:
    regression = DataSpec(loss="mse")
    assert mismatch(Accept(max_drop=0.1), regression) is None
    assert "min_metric does not go with mse" in (mismatch(Accept(min_metric=0.1), regression) or "")
    assert "for predicted classes" in (mismatch(Accept(min_agreement=0.1), regression) or "")
    assert "without targets" in (mismatch(Accept(max_drop=0.1), DataSpec(), labelled=False) or "")
    assert mismatch(Accept(min_agreement=0.9), DataSpec(), labelled=False) is None
    with pytest.raises(ValueError, match="at least one"):
        Accept()
