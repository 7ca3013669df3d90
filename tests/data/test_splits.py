"""A row's split is fixed: by its content alone, by the shares that the recipe names, or by the user."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeezer.data import sources
from squeezer.data.dataset import Dataset, Split
from squeezer.errors import Code
from squeezer.graph import Input
from tests.data.making import Array, everything, labels, numbered, opened, problem, save

ROWS = 4000


def rows_of(dataset: Dataset, split: Split) -> set[bytes]:
    return {row.tobytes() for row in everything(dataset, split).inputs[0]}


def split_of(path: Path, x: Array, **spec: Any) -> dict[bytes, Split]:
    dataset = opened(save(path, {"x": x}), **spec)
    return {row: split for split in Split for row in rows_of(dataset, split)}


def test_no_row_is_in_two_splits_and_none_is_lost(tmp_path: Path) -> None:
    x = numbered(ROWS)
    dataset = opened(save(tmp_path / "data", {"x": x}))
    rows = [rows_of(dataset, split) for split in Split]
    assert sum(map(len, rows)) == len(set.union(*rows)) == ROWS
    assert sum(dataset.size(split) for split in Split) == ROWS


@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.1), (0.5, 0.5), (0.05, 0.9)])
def test_shares_are_right_within_four_deviations(tmp_path: Path, test: float, validation: float) -> None:
    dataset = opened(save(tmp_path / "data", {"x": numbered(ROWS)}), test=test, validation=validation)
    expected = {Split.TEST: test, Split.VALIDATION: (1 - test) * validation}
    for split, share in expected.items():
        assert abs(dataset.size(split) / ROWS - share) < 4 * sqrt(share * (1 - share) / ROWS)


def test_order_and_company_do_not_matter(tmp_path: Path) -> None:
    x = numbered(ROWS)
    whole = split_of(tmp_path / "a", x)
    shuffled = split_of(tmp_path / "b", np.random.default_rng(1).permutation(x))
    fewer = split_of(tmp_path / "c", x[::7])
    assert whole == shuffled
    assert whole.items() >= fewer.items()
    other = split_of(tmp_path / "d", x + np.float32(0.5))  # control: other content, other splits
    assert [*whole.values()] != [*other.values()]


def test_the_format_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = numbered(ROWS)
    expected = split_of(tmp_path / "a", x)
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    for way in ("stored", "deflated", "safetensors"):
        dataset = opened(save(tmp_path / way, {"x": x}, way))
        assert {row: split for split in Split for row in rows_of(dataset, split)} == expected
    assert split_of(tmp_path / "big", x.astype(">f4")) == expected


def test_duplicates_share_a_split(tmp_path: Path) -> None:
    x = np.repeat(numbered(500), 4, axis=0)
    y = labels(len(x), 4)  # labels do not count, or a row with two of them would be in two splits
    dataset = opened(save(tmp_path / "data", {"x": np.random.default_rng(0).permutation(x), "y": y}))
    rows = [rows_of(dataset, split) for split in Split]
    assert len(set.union(*rows)) == sum(map(len, rows)) == 500
    assert sum(dataset.size(split) for split in Split) == 2000


def test_all_inputs_count(tmp_path: Path) -> None:
    """Rows that differ in their second input alone are not duplicates."""
    x, z = np.zeros((ROWS, 4), np.float32), numbered(ROWS)
    dataset = opened(
        save(tmp_path / "data", {"x": x, "z": z}), Input("x", (None, 4), "F32"), Input("z", (None, 4), "F32")
    )
    assert min(dataset.size(split) for split in Split) > 100
    assert problem(save(tmp_path / "one", {"x": x})).code is Code.TOO_FEW_ROWS  # control: all are one row


def test_what_is_no_test_is_divided_alike_whatever_the_share_of_tests(tmp_path: Path) -> None:
    x = numbered(ROWS)
    few, many = (split_of(tmp_path / str(share), x, test=share) for share in (0.1, 0.4))
    for row, split in many.items():
        assert split is Split.TEST or few[row] is split


def own(names: dict[str, slice], **more: Array) -> tuple[dict[str, Array], Array]:
    x, y = numbered(ROWS), labels(ROWS)
    arrays = {
        f"{array}_{name}": values[where] for name, where in names.items() for array, values in (("x", x), ("y", y))
    }
    return arrays | more, x


def test_the_users_own_splits(tmp_path: Path) -> None:
    """As in mnist.npz: x_train, y_train, x_test, y_test. Validation comes out of train."""
    arrays, x = own({"train": slice(0, 3000), "test": slice(3000, None)})
    dataset = opened(save(tmp_path / "data", arrays))
    (inputs,), targets = everything(dataset, Split.TEST)
    np.testing.assert_array_equal(inputs, x[3000:])
    np.testing.assert_array_equal(targets, labels(ROWS)[3000:])
    assert dataset.size(Split.TRAIN) + dataset.size(Split.VALIDATION) == 3000
    assert abs(dataset.size(Split.VALIDATION) - 300) < 4 * sqrt(270)


@pytest.mark.parametrize("name", ["validation", "val"])
def test_the_users_own_validation(tmp_path: Path, name: str) -> None:
    arrays, x = own({"train": slice(0, 3000), name: slice(3000, 3500), "test": slice(3500, None)})
    dataset = opened(save(tmp_path / "data", arrays))
    for split, where in zip(Split, (slice(0, 3000), slice(3000, 3500), slice(3500, None)), strict=True):
        np.testing.assert_array_equal(everything(dataset, split).inputs[0], x[where])


def test_own_validation_without_a_test(tmp_path: Path) -> None:
    arrays, x = own({"train": slice(0, 3000), "validation": slice(3000, None)})
    dataset = opened(save(tmp_path / "data", arrays))
    np.testing.assert_array_equal(everything(dataset, Split.VALIDATION).inputs[0], x[3000:])
    assert abs(dataset.size(Split.TEST) - 600) < 4 * sqrt(480)


def test_a_plain_name_goes_first(tmp_path: Path) -> None:
    arrays, _ = own({"train": slice(0, 3000), "test": slice(3000, None)}, x=numbered(ROWS), y=labels(ROWS))
    assert sum(opened(save(tmp_path / "data", arrays)).size(split) for split in Split) == ROWS


def test_splits_that_do_not_match(tmp_path: Path) -> None:
    arrays, _ = own({"train": slice(0, 3000), "test": slice(3000, None)})
    del arrays["y_test"]
    error = problem(save(tmp_path / "data", arrays))
    assert error.code is Code.MISSING_ARRAY
    assert "'y_test'" in error.detail
    assert "'x_test'" in error.detail
    arrays, _ = own({"train": slice(0, 3000), "test": slice(3000, None)})
    arrays["x_test"] = arrays["x_test"][:-1]
    assert "'x_test' and 'y_test'" in problem(save(tmp_path / "data", arrays)).detail


def test_splits_of_a_row(tmp_path: Path) -> None:
    arrays, _ = own({"train": slice(0, 3000), "test": slice(3000, 3001)})
    error = problem(save(tmp_path / "data", arrays))
    assert error.code is Code.TOO_FEW_ROWS
    assert "in the split test: of" in error.detail
    assert "test 1" in error.detail
