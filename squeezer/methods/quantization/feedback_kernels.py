"""The compiled part of the search for trellis codes with error feedback by a matrix: see `feedback`.

Here every error of a row moves every later weight of it, so that a survivor would have to carry a whole row of errors.
Rows are gone through in pieces of `WINDOW` weights. Within a piece every survivor carries its own errors along; at its
end these are multiplied into what later weights are moved by, at once for all eight survivors.
"""

from __future__ import annotations

import numpy as np

from squeezer.codecs.trellis import BLOCK, NEXT, STATES
from squeezer.compiled import kernel

WINDOW = 32
#: A cost that no sequence comes near.
_NEVER = np.float32(1e30)
_ZERO, _ONE, _TWO, _FOUR = np.float32(0), np.float32(1), np.float32(2), np.float32(4)
_HALF, _QUARTER = np.float32(0.5), np.float32(0.25)
#: For each state the two that lead there, and 1 where it takes an odd code: (STATES, 2, 2).
_FROM = np.array(
    [
        [(before, parity) for before in range(STATES) for parity in (0, 1) if NEXT[before, parity] == state]
        for state in range(STATES)
    ],
    np.int64,
)


@kernel(error_model="numpy")
def search(weights, mask, shares, metric, most, codes):  # type: ignore[no-untyped-def] # compiled by numba
    """Fill `codes`, (rows, row) like `weights`, which are in units of the grid's spacing.

    `mask` has that shape too, or is empty; where it is 0, the code is. `shares` (groups, row, row) has in [g, k, j]
    what weight j is moved by for an error of 1 in weight k before it, and `metric` (groups, row) what the square of
    the distance from there counts; rows belong to groups in equal parts. `most` is the largest code.
    """
    rows, row = weights.shape
    cost = np.empty(STATES, np.float32)
    owed = np.zeros((row, STATES), np.float32)  # what weights are moved by, by the state at the piece's beginning
    errors = np.zeros((WINDOW, STATES), np.float32)
    origin = np.zeros(STATES, np.int64)  # the state at the piece's beginning
    target = np.empty(STATES, np.float32)
    extended = np.empty((2, STATES), np.float32), np.empty((2, STATES), np.float32)
    extending = np.empty((2, STATES), np.int32)
    chosen = np.empty((BLOCK, STATES), np.int32)
    before = np.empty(STATES, np.int64)
    flat = codes.reshape(-1)
    for r in range(rows):
        group = r * shares.shape[0] // rows
        owed[:] = _ZERO
        _begin(origin)
        first = 0  # the piece's first weight
        for j in range(row):
            place = (r * row + j) % BLOCK
            if place == 0:
                cost[:] = _NEVER
                cost[0] = _ZERO
            _aim(weights[r, j], owed[j], origin, shares[group, first:j, j], errors, target)
            keep = mask.size == 0 or mask[r, j] != 0
            _extend(target, metric[group, j], keep, most, cost, extended, extending)
            _select(weights[r, j], cost, extended, extending, before, chosen[place], errors[j - first])
            _inherit(before, errors[: j - first], origin)
            if place == BLOCK - 1 or r * row + j == weights.size - 1:
                best = np.argmin(cost)
                _trace(chosen, place, best, flat[r * row + j - place : r * row + j + 1])
                for i in range(j - first + 1):
                    errors[i] = errors[i, best]
                origin[:] = origin[best]
            if j - first + 1 == WINDOW:
                _settle(shares[group, first : j + 1, j + 1 :], errors, origin, owed[j + 1 :])
                _begin(origin)
                first = j + 1


@kernel(error_model="numpy")
def _begin(origin):  # type: ignore[no-untyped-def] # compiled by numba
    for state in range(STATES):
        origin[state] = state


@kernel(error_model="numpy")
def _aim(weight, owed, origin, shares, errors, target):  # type: ignore[no-untyped-def] # compiled by numba
    """Where each survivor wants the weight to go."""
    for state in range(STATES):
        target[state] = weight + owed[origin[state]]
    for i in range(shares.size):
        for state in range(STATES):
            target[state] += shares[i] * errors[i, state]


@kernel(error_model="numpy")
def _extend(target, metric, keep, most, cost, extended, codes):  # type: ignore[no-untyped-def] # compiled by numba
    """The best even and odd code after each state: costs so far, levels, and the codes themselves."""
    costs, levels = extended
    even_most, odd_most = np.float32(max(most // 2, 1)), np.float32(max(most - 1, 0) // 2)
    for state in range(STATES):
        size, q = abs(target[state]), np.float32(state >> 1 & 1)
        sign = -_ONE if target[state] < 0 else _ONE
        quarter = (size + q) * _QUARTER
        even = min(max(np.floor(quarter + _HALF), _ONE), even_most)
        odd = min(np.floor(quarter), odd_most)
        level = _FOUR * even - q
        if size < abs(size - level) or most < 2 or not keep:
            even, level = _ZERO, _ZERO
        costs[0, state] = cost[state] + metric * (size - level) ** 2
        levels[0, state] = sign * level
        codes[0, state] = np.int32(sign * _TWO * even)
        level = _FOUR * odd + _TWO - q
        costs[1, state] = cost[state] + (metric * (size - level) ** 2 if keep and most > 0 else _NEVER)
        levels[1, state] = sign * level
        codes[1, state] = np.int32(sign * (_TWO * odd + _ONE))


@kernel(error_model="numpy")
def _select(weight, cost, extended, codes, before, chosen, error):  # type: ignore[no-untyped-def] # compiled by numba
    """Of the two extensions that arrive in a state the cheaper survives; all costs are taken from the least."""
    costs, levels = extended
    least = costs.min()
    for state in range(STATES):
        a, b = _FROM[state, 0], _FROM[state, 1]
        later = costs[b[1], b[0]] < costs[a[1], a[0]]
        came, parity = (b[0], b[1]) if later else (a[0], a[1])
        cost[state] = min(costs[parity, came] - least, _NEVER)
        before[state] = came
        chosen[state] = codes[parity, came] * 8 + came
        error[state] = weight - levels[parity, came]


@kernel(error_model="numpy")
def _inherit(before, errors, origin):  # type: ignore[no-untyped-def] # compiled by numba
    """Give every survivor the errors of the one that it extends."""
    old = np.empty(STATES, np.float32)
    for i in range(errors.shape[0]):
        for state in range(STATES):
            old[state] = errors[i, before[state]]
        for state in range(STATES):
            errors[i, state] = old[state]
    came = np.empty(STATES, np.int64)
    for state in range(STATES):
        came[state] = origin[before[state]]
    origin[:] = came


@kernel(error_model="numpy")
def _settle(shares, errors, origin, owed):  # type: ignore[no-untyped-def] # compiled by numba
    """Add what the errors of a piece move all later weights of the row by, (later, STATES)."""
    sums = np.empty(STATES, np.float32)
    for j in range(owed.shape[0]):
        for state in range(STATES):
            sums[state] = owed[j, origin[state]]
        for i in range(shares.shape[0]):
            for state in range(STATES):
                sums[state] += shares[i, j] * errors[i, state]
        for state in range(STATES):
            owed[j, state] = sums[state]


@kernel(error_model="numpy")
def _trace(chosen, last, state, codes):  # type: ignore[no-untyped-def] # compiled by numba
    """Fill the codes of a block from the state after its last place backwards."""
    for i in range(last, -1, -1):
        codes[i] = chosen[i, state] >> 3
        state = chosen[i, state] & 7
