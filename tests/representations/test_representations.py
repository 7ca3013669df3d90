"""What each representation stands for, by its definition."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeezer.codecs.trellis import NEXT
from squeezer.representations import (
    REPRESENTATIONS,
    Dense,
    Masked,
    Representation,
    Role,
    Shared,
    Trellis,
    Uniform,
    digest,
)
from squeezer.representations.base import entropy_bits

F32 = np.dtype(np.float32)


def examples() -> list[Representation]:
    random = np.random.default_rng(0)
    weights = random.standard_normal((40, 50)).astype(np.float32)
    mask = np.abs(weights) > 1
    return [
        Dense(weights, F32),
        Masked(weights, mask),
        Shared(np.float32([-1, 2]), np.where(mask, 1 + (weights > 0), 0).astype(np.uint8), True, F32),
        Uniform(np.float32(0.25), np.round(weights * 4).astype(np.int8), F32),
        Trellis(np.float32(0.25), np.round(weights * 2).astype(np.int8), F32),
    ]


def test_definitions() -> None:
    assert Dense(np.float16([1.5]), F32).decode().dtype == F32
    masked = Masked(np.float32([1, -2, 3]), np.array([True, False, True]))
    assert masked.decode().tolist() == [1, 0, 3]
    assert [record.array.tolist() for record in masked.records()] == [[True, False, True], [1, 3]]
    codes = np.uint8([0, 1, 2])
    assert Shared(np.float32([5, 6, 7]), codes, False, F32).decode().tolist() == [5, 6, 7]
    assert Shared(np.float32([5, 6]), codes, True, F32).decode().tolist() == [0, 5, 6]
    assert Uniform(np.float32(0.5), np.int8([-1, 0, 3]), F32).decode().tolist() == [-0.5, 0, 1.5]
    bf16 = np.dtype(ml_dtypes.bfloat16)
    assert Uniform(np.float32(0.5), np.int8([-1, 0, 3]), bf16).decode().dtype == bf16


def test_long_look_ups_are_the_same_as_short_ones() -> None:
    codes = np.random.default_rng(0).integers(0, 300, (7, 30_001)).astype(np.uint16)
    book = np.arange(300, dtype=np.float32)
    assert np.array_equal(Shared(book, codes, False, F32).decode(), book[codes])


@pytest.mark.parametrize("tensor", examples(), ids=lambda tensor: tensor.kind)
def test_a_scalar_is_an_array(tensor: Representation) -> None:
    arrays = {
        name: getattr(tensor, name).reshape(-1)[0:1].reshape(())
        for name in ("values", "mask", "codes")
        if hasattr(tensor, name)
    }
    decoded = dataclasses.replace(tensor, **arrays).decode()
    assert isinstance(decoded, np.ndarray)
    assert decoded.shape == ()
    assert decoded.flags.writeable


@pytest.mark.parametrize("tensor", examples(), ids=lambda tensor: tensor.kind)
def test_pieces_make_the_whole(tensor: Representation) -> None:
    pieces = [tensor.piece(start, start + 1024).decode() for start in range(0, 2000, 1024)]
    assert np.array_equal(np.concatenate(pieces), tensor.decode().reshape(-1))


def test_a_piece_of_a_trellis_begins_where_the_machine_does() -> None:
    tensor = Trellis(np.float32(1), np.ones(3000, np.int8), F32)
    assert tensor.piece(2048, 3000).decode().tolist() == tensor.decode()[2048:].tolist()
    with pytest.raises(ValueError, match="2000, which is no multiple of 1024"):
        tensor.piece(2000, 3000)


def test_the_cost_of_a_trellis_knows_the_quantiser() -> None:
    random = np.random.default_rng(0)
    codes, state = np.zeros(1000, np.int8), 0
    for n in range(codes.size):
        codes[n] = random.integers(4, 8) if state >> 1 & 1 else random.integers(0, 2)
        state = int(NEXT[state, codes[n] & 1])
    # One bit for a code of Q0, two for one of Q1, and about as many of either; three bits for not knowing which.
    assert Trellis(np.float32(1), codes, F32).cost_bits() == pytest.approx(32 + 1500, rel=0.05)
    assert entropy_bits(codes) > 2400


@pytest.mark.parametrize("tensor", examples(), ids=lambda tensor: tensor.kind)
def test_frozen_and_fresh(tensor: Representation) -> None:
    before = digest(tensor)
    tensor.decode()[...] = 0
    assert digest(tensor) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        tensor.dtype = F32  # type: ignore[misc] # that is the test


def test_all_are_registered_by_their_kind() -> None:
    assert {tensor.kind for tensor in examples()} == set(REPRESENTATIONS)
    assert all(REPRESENTATIONS[tensor.kind] is type(tensor) for tensor in examples())


def test_digest_tells_apart_what_decodes_differently() -> None:
    codes = np.uint8([[0, 1], [1, 0]])
    book = np.float32([1, 2])
    same = [Shared(book, codes, False, F32), Shared(book.copy(), codes.copy(), False, F32)]
    other = [
        Shared(book, codes, True, F32),
        Shared(book, codes.reshape(4), False, F32),
        Shared(np.float32([1, 3]), codes, False, F32),
        Shared(book, codes.astype(np.uint16), False, F32),
        Shared(book, codes, False, np.dtype(np.float16)),
        Dense(np.float32([[1, 2], [2, 1]]), F32),
    ]
    assert len({digest(tensor) for tensor in same}) == 1
    assert len({digest(tensor) for tensor in same + other}) == 1 + len(other)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=200))
def test_entropy_is_shannons(symbols: list[int]) -> None:
    n = len(symbols)
    expected = sum(-np.log2(symbols.count(s) / n) for s in symbols)
    assert entropy_bits(np.array(symbols)) == pytest.approx(expected, abs=1e-9)


def test_cost_counts_every_record() -> None:
    for tensor in examples():
        if isinstance(tensor, Trellis):
            continue  # it costs less: see above
        roles = {record.role: record.array for record in tensor.records()}
        floats = sum(8 * roles[role].nbytes for role in (Role.VALUES, Role.CODEBOOK) if role in roles)
        integers = sum(entropy_bits(roles[role].view(np.uint8)) for role in (Role.CODES, Role.MASK) if role in roles)
        assert tensor.cost_bits() == pytest.approx(floats + integers)
