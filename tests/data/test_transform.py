"""What the network is given, against the formula written out; shapes that are brought into line, and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from squeezer.data.dataset import Split
from squeezer.data.spec import Transform
from squeezer.data.transform import Preparation, fit
from squeezer.errors import Code, DataError
from squeezer.graph import Input
from squeezer.model import TensorInfo
from tests.data.making import Array, everything, opened, problem_of, save

RNG = np.random.default_rng(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepared(array: Array, shape: tuple[int | None, ...], dtype: str = "F32", **transform: Any) -> Array:
    info = TensorInfo("x", array.shape, array.dtype)
    return Preparation(info, Input("x", (None, *shape), dtype), Transform(**transform))(array)


def test_the_formula_channel_by_channel() -> None:
    x = RNG.integers(0, 256, (5, 3, 4, 6), np.uint8)
    got = prepared(x, (3, 4, 6), scale=1 / 255, mean=MEAN, std=STD)
    assert got.dtype == np.float32
    for channel in range(3):
        expected = (x[:, channel] / 255.0 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(got[:, channel], expected, rtol=1e-5, atol=1e-6)


def test_channels_last_come_first() -> None:
    x = RNG.random((5, 4, 6, 3)).astype(np.float32)
    got = prepared(x, (3, 4, 6), mean=MEAN, channels="last")
    np.testing.assert_array_equal(got, (x - np.float32(MEAN)).transpose(0, 3, 1, 2))
    assert got.flags.c_contiguous
    with pytest.raises(DataError, match=r"\(4, 6, 3\).*\(3, 4, 6\).*channels"):
        prepared(x, (3, 4, 6))


@pytest.mark.parametrize(
    ("array", "wanted", "channels", "expected"),
    [
        ((28, 28), (1, 28, 28), "first", (1, 28, 28)),
        ((28, 28), (1, 28, 28), "last", (1, 28, 28)),  # there are no channels to move
        ((1, 28, 28), (28, 28), "first", (28, 28)),
        ((784,), (1, 28, 28), "first", (1, 28, 28)),
        ((28, 28), (784,), "first", (784,)),
        ((28, 28), (784,), "last", (784,)),
        ((), (1,), "first", (1,)),
        ((1,), (), "first", ()),
        ((12, 9), (None, 9), "first", (12, 9)),
        ((28, 28), (1, None, None), "first", (1, 28, 28)),
        ((28, 28, 1), (1, 28, 28), "first", (1, 28, 28)),  # an axis of 1, wherever it is
        ((28, 27), (1, 28, 28), "first", None),
        ((28, 27), (27, 28), "first", None),
        ((32, 32, 3), (3, 32, 32), "first", None),  # as many numbers, in another order
        ((4, 49), (14, 14), "first", None),
        ((784,), (1, None, None), "first", None),
        ((785,), (784,), "first", None),
    ],
)
def test_shapes(
    array: tuple[int, ...], wanted: tuple[int | None, ...], channels: str, expected: tuple[int, ...] | None
) -> None:
    x = RNG.random((2, *array)).astype(np.float32)
    if expected is None:
        with pytest.raises(DataError) as caught:
            prepared(x, wanted, channels=channels)
        assert caught.value.code is Code.INVALID_DATA
        return
    np.testing.assert_array_equal(prepared(x, wanted, channels=channels), x.reshape(2, *expected))


def test_flat_rows_with_channels_last() -> None:
    x = RNG.random((2, 4, 6, 3)).astype(np.float32)
    expected = x.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(prepared(x.reshape(2, -1), (3, 4, 6), channels="last"), expected)
    np.testing.assert_array_equal(prepared(x, (72,), channels="last"), expected.reshape(2, -1))
    np.testing.assert_array_equal(prepared(x.reshape(2, -1), (3, 4, 6)), x.reshape(2, 3, 4, 6))


def test_sequences_with_channels_last() -> None:
    x = RNG.random((2, 50, 9)).astype(np.float32)
    np.testing.assert_array_equal(prepared(x, (9, 50), channels="last"), x.transpose(0, 2, 1))
    np.testing.assert_array_equal(prepared(x, (9, None), channels="last"), x.transpose(0, 2, 1))


def test_fit_knows_dynamic_extents() -> None:
    assert fit((7, 5), (None, 5)) == (7, 5)
    assert fit((1, 7, 5), (None, 5)) == (7, 5)
    assert fit((5,), (1, None)) == (1, 5)
    assert fit((7, 5), (None, 6)) is None


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_the_type_is_that_of_the_input(dtype: str) -> None:
    x = RNG.integers(0, 256, (5, 7), np.uint8)
    got = prepared(x, (7,), dtype, scale=1 / 255)
    types = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}
    assert got.dtype == types[dtype]
    exact = x / 255.0
    np.testing.assert_allclose(got.astype(np.float64), exact, rtol={"F16": 1e-3, "BF16": 8e-3}.get(dtype, 1e-6))
    if dtype == "F64":
        np.testing.assert_allclose(got, exact, rtol=1e-15)


def test_whole_numbers_are_left_alone() -> None:
    tokens = RNG.integers(0, 50000, (5, 7)).astype(np.int32)
    got = prepared(tokens, (7,), "I64", scale=1 / 255, mean=(3.0,), channels="last")
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, tokens)
    with pytest.raises(DataError, match="whole numbers"):
        prepared(RNG.random((5, 7)), (7,), "I64")


def test_whole_numbers_must_fit(tmp_path: Path) -> None:
    x = np.arange(100)
    x[17] = 300
    assert "x[17] of the data set is 300" in problem_of({"x": x}, tmp_path / "data", Input("x", (None,), "U8"))
    assert "x[2] of the data set is 2" in problem_of({"x": x}, tmp_path / "data", Input("x", (None,), "BOOL"))
    x[17] = -5
    assert "x[17]" in problem_of({"x": x}, tmp_path / "data", Input("x", (None,), "U8"))


def test_the_wrong_number_of_channels() -> None:
    with pytest.raises(DataError, match="3 channels, and the rows of 'x' have 1"):
        prepared(RNG.random((2, 28, 28)), (1, 28, 28), mean=MEAN)


def test_what_goes_beyond_the_range_of_the_type(tmp_path: Path) -> None:
    x = np.zeros((100, 4))
    x[5] = 1e39
    assert "x[5] of the data set goes beyond" in problem_of({"x": x}, tmp_path / "data")
    y = np.full((100, 4), 60000, np.uint16)
    half = Input("x", (None, 4), "F16")
    assert "goes beyond" in problem_of({"x": y}, tmp_path / "data", half, transform={"scale": 2})


def test_black_is_what_becomes_of_0(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (200, 3, 2, 2), np.uint8)
    x[:, :, 0, 0] = 0
    transform = {"scale": 1 / 255, "mean": MEAN, "std": STD}
    dataset = opened(save(tmp_path / "data", {"x": x}), Input("x", (None, 3, 2, 2), "F32"), transform=transform)
    (black,) = dataset.black
    np.testing.assert_allclose(black, [-m / s for m, s in zip(MEAN, STD, strict=True)], rtol=1e-6)
    (inputs,) = everything(dataset, Split.TRAIN).inputs
    np.testing.assert_array_equal(inputs[:, :, 0, 0], np.broadcast_to(black, (len(inputs), 3)))


def test_each_input_may_have_its_own(tmp_path: Path) -> None:
    a, b = RNG.random((200, 3)), RNG.random((200, 3))
    path = save(tmp_path / "data", {"a": a, "b": b})
    inputs = Input("a", (None, 3), "F64"), Input("b", (None, 3), "F64")
    dataset = opened(path, *inputs, transform={"scale": 2}, transforms={"b": {"mean": [1]}})
    first, second = everything(dataset, Split.TRAIN).inputs
    rows = [int(np.flatnonzero((2 * a == row).all(1))[0]) for row in first]
    np.testing.assert_array_equal(second, b[rows] - 1)
