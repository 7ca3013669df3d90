"""The trellis machine, against its definition in docs/format.md and against the standard's table."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from squeezer.codecs.trellis import BLOCK, NEXT, STATES, quantisers, reconstruct
from tests.reference import trellis_levels

CODES = st.one_of(
    *(
        arrays(
            dtype,
            st.sampled_from([0, 1, 2, 3, 4, 5, 7, 1023, 1024, 1025, 2500]),
            elements=st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)),
            fill=st.integers(-3, 3),
        )
        for dtype in (np.int8, np.int16, np.int32)
    )
)


def weights_of(codes: NDArray[np.signedinteger], step: np.float32) -> NDArray[np.float32]:
    out = np.empty(codes.size, np.float32)
    reconstruct(codes, step, out)
    return out


@given(CODES, st.floats(2**-20, 2**20, width=32))
def test_weights_are_those_of_the_definition(codes: NDArray[np.signedinteger], step: float) -> None:
    size = np.float32(step)
    expected = [np.float32(level) * size for level in trellis_levels(codes.tolist())]
    np.testing.assert_array_equal(weights_of(codes, size), np.array(expected, np.float32))


@given(CODES)
def test_the_table_is_the_recursion(codes: NDArray[np.signedinteger]) -> None:
    q = []
    state = 0
    for n, code in enumerate(codes.tolist()):
        state = state if n % BLOCK else 0
        q.append(state >> 1 & 1)
        state = int(NEXT[state, code & 1])
    np.testing.assert_array_equal(quantisers(codes), q)


def test_the_machine_is_the_standard_s_with_other_numbers() -> None:
    # ISO/IEC 15938-17: the next states by parity; its odd states have the second quantiser.
    standard = [(0, 2), (7, 5), (1, 3), (6, 4), (2, 0), (5, 7), (3, 1), (4, 6)]
    ours = {0: 0}
    while len(ours) < STATES:
        for state, number in list(ours.items()):
            for parity in range(2):
                ours.setdefault(standard[state][parity], int(NEXT[number, parity]))
    assert sorted(ours.values()) == list(range(STATES))
    for state, number in ours.items():
        assert number >> 1 & 1 == state & 1
        assert [ours[following] for following in standard[state]] == NEXT[number].tolist()


def test_both_grids_have_their_levels_and_zero() -> None:
    codes = np.arange(-4, 5, dtype=np.int8)
    even = [weights_of(np.int8([code]), np.float32(0.5))[0] for code in codes]
    assert even == [-4, -3, -2, -1, 0, 1, 2, 3, 4]
    # After an odd code and an even one the machine is in state 2 or 3: the third code is of Q1.
    odd = [weights_of(np.int8([1, 0, code]), np.float32(0.5))[2] for code in codes]
    assert odd == [-3.5, -2.5, -1.5, -0.5, 0, 0.5, 1.5, 2.5, 3.5]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_blocks_do_not_depend_on_each_other(dtype: type) -> None:
    codes = np.random.default_rng(0).integers(-9, 9, 5 * BLOCK + 77).astype(dtype)
    whole = weights_of(codes, np.float32(1))
    for start in range(0, codes.size, BLOCK):
        part = codes[start : start + BLOCK]
        np.testing.assert_array_equal(weights_of(part, np.float32(1)), whole[start : start + BLOCK])


def test_threads_do_not_disturb_each_other() -> None:
    random = np.random.default_rng(0)
    inputs = [random.integers(-50, 50, 100_000).astype(np.int8) for _ in range(8)]
    expected = [weights_of(codes, np.float32(0.1)) for codes in inputs]
    found: dict[int, NDArray[np.float32]] = {}

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = weights_of(inputs[number], np.float32(0.1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, weights in enumerate(expected):
        np.testing.assert_array_equal(found[number], weights)
