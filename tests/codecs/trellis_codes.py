"""Codes whose distribution depends on the quantiser that holds: what knowing it is good for."""

import numpy as np

from tests.reference import trellis_levels


def trellis_codes(size: int) -> np.ndarray:
    """Narrow where q is 0, wide where it is 1."""
    random = np.random.default_rng(5)
    draws = [np.round(random.standard_normal(size) * scale).astype(np.int8) for scale in (0.5, 2.5)]
    codes = np.empty(size, np.int8)
    for i in range(size):
        if i % 1024 == 0:
            bits = [0, 0, 0]
        codes[i] = draws[bits[-2]][i]
        bits = [*bits[-2:], (int(codes[i]) + sum(bits)) % 2]
    # What a 1 stands for shows which quantiser held.
    levels = np.array(trellis_levels(codes.tolist()))
    assert {1, 2} <= set(levels[codes == 1].tolist())
    return codes
