"""The order of rows, and images that are moved and mirrored, against loops."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from squeezer.data.batches import augment, generator, order
from squeezer.data.dataset import Split, check_batch
from squeezer.errors import Code, DataError
from tests.data.making import Array, numbered, opened, save

BLACK = np.array([-1.5, 0.25, 7.0], np.float32)


def images(count: int = 40, height: int = 4, width: int = 5) -> Array:
    return np.random.default_rng(0).random((count, 3, height, width)).astype(np.float32)


def test_each_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    orders = [order(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for rows in orders:
        assert rows.dtype == np.int64
        assert sorted(rows.tolist()) == list(range(1000))
    assert len({rows.tobytes() for rows in orders}) == 9
    np.testing.assert_array_equal(order(1000, 1, 2), orders[5])


def test_the_order_is_random() -> None:
    """The mean place of a row over many epochs is the middle, within four deviations."""
    mean = np.mean([order(100, 0, epoch) for epoch in range(400)], axis=0)
    assert abs(mean - 49.5).max() < 4 * 28.9 / 20


def moved_by_hand(image: Array, down: int, right: int, mirrored: bool) -> Array:
    height, width = image.shape[1:]
    result = np.empty_like(image)
    for channel in range(3):
        for row in range(height):
            for column in range(width):
                source = row - down, (width - 1 - column if mirrored else column) - right
                inside = 0 <= source[0] < height and 0 <= source[1] < width
                result[channel, row, column] = image[(channel, *source)] if inside else BLACK[channel]
    return result


@pytest.mark.parametrize(("shift", "flip"), [(0, True), (2, False), (2, True), (5, True)])
def test_every_image_is_moved_and_mirrored_as_by_hand(shift: int, flip: bool) -> None:
    before = images()
    kept = before.copy()
    after = augment(before, generator(3), shift, flip, BLACK)
    np.testing.assert_array_equal(before, kept)
    assert after.dtype == np.float32
    moves = [(d, r, m) for d in range(-shift, shift + 1) for r in range(-shift, shift + 1) for m in {False, flip}]
    used = []
    for image, result in zip(before, after, strict=True):
        fitting = [move for move in moves if np.array_equal(moved_by_hand(image, *move), result)]
        assert fitting
        used += fitting[:1]
    if shift == 2:
        assert {down for down, _, _ in used} == {right for _, right, _ in used} == {-2, -1, 0, 1, 2}
    assert not flip or 8 <= sum(mirrored for _, _, mirrored in used) <= 32


def test_nothing_asked_is_nothing_done() -> None:
    np.testing.assert_array_equal(augment(images(), generator(0), 0, False), images())


def test_the_same_draws_the_same_images() -> None:
    one, again, other = (augment(images(), generator(0, 5, batch), 2, True) for batch in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_what_is_no_image_cannot_be_moved() -> None:
    with pytest.raises(DataError) as caught:
        augment(np.zeros((5, 784)), generator(0), 1, False)
    assert caught.value.code is Code.INVALID_DATA
    assert "shift to 0" in caught.value.detail


def test_it_is_quick() -> None:
    """A batch of CIFAR's takes a millisecond or two; a loop over images takes longer."""
    batch = np.zeros((128, 3, 32, 32), np.float32)
    times = []
    for _ in range(5):
        started = time.process_time()
        augment(batch, generator(0), 4, True, BLACK)
        times.append(time.process_time() - started)
    assert min(times) < 0.05


def test_a_batch_larger_than_the_training_split(tmp_path: Path) -> None:
    dataset = opened(save(tmp_path / "data", {"x": numbered(100)}))
    rows = dataset.size(Split.TRAIN)
    check_batch(dataset, rows)
    with pytest.raises(DataError) as caught:
        check_batch(dataset, rows + 1)
    assert caught.value.code is Code.TOO_FEW_ROWS
    assert f"set batch_size to {rows} or less" in caught.value.detail
