"""The compiled part of the search for a trellis quantiser's codes: see `trellis`.

The search works on `LANES` stretches of the tensor in step, so that every inner loop runs over `LANES` neighbouring
numbers and becomes a few vector instructions. A stretch has `STRETCH` blocks. At a block's end the best survivor alone
goes on, with its errors; between stretches errors are forgotten.
"""

from __future__ import annotations

import numpy as np

from squeezer.codecs.trellis import BLOCK, STATES
from squeezer.compiled import kernel

LANES = 16
#: Many blocks, since a row that is cut in two is made good less well; few, since a small tensor leaves lanes empty.
STRETCH = 8

#: A cost that no sequence comes near; those of a block still add up to a finite number.
NEVER = np.float32(1e30)
_ZERO, _ONE, _TWO, _FOUR = np.float32(0), np.float32(1), np.float32(2), np.float32(4)
_HALF, _QUARTER = np.float32(0.5), np.float32(0.25)
_INT0, _INT1, _INT2 = np.int32(0), np.int32(1), np.int32(2)

# Arrays of the search are flat, and consist of vectors of LANES float32. With all of a loop's numbers at constant
# places of very few arrays, the compiler sees that no two overlap.
_EACH = STATES * LANES
# Where the vectors of `now` begin. Of each state: the cost of its survivor, and the sum of the survivor's errors in
# the row; where the weight is to go; 1 where the second of two extensions survived, and its error; prices of the even
# and of the odd code.
_COST, _ROW, _TARGET, _SECOND, _ERROR, _EVEN, _ODD = (n * _EACH for n in range(7))
# Of the weight: itself; 1 where it is kept; 1 where it is not the first of its row; its gain and its metric.
_WEIGHT = 7 * _EACH
_X, _KEPT, _BEGUN, _GAIN, _METRIC = (_WEIGHT + n * LANES for n in range(5))
_WEIGHT_SIZE = 5 * LANES


@kernel(error_model="numpy")
def search(weights, mask, spacing, limits, prices, own, rest, gain, metric, codes):  # type: ignore[no-untyped-def] # compiled by numba
    """Fill `codes`, (n,) like `weights`, and like `mask` unless that is empty; returns the sum of what it minimises.

    `prices` is None or (2, magnitudes).
    """
    taps, history = own.shape
    blocks = (weights.size + BLOCK - 1) // BLOCK
    now = np.empty(_WEIGHT + _WEIGHT_SIZE, np.float32)
    block = np.empty(BLOCK * _WEIGHT_SIZE, np.float32)
    shares = np.empty(taps * history * 2 * LANES, np.float32)
    past = np.empty(history * _EACH, np.float32)
    chosen = np.empty(BLOCK * _EACH, np.int32)
    total = 0.0
    for group in range(0, blocks, STRETCH * LANES):
        now[:] = _ZERO
        past[:] = _ZERO
        slot = 0
        for number in range(group, min(group + STRETCH, blocks)):
            now[_COST : _COST + LANES] = _ZERO
            now[_COST + LANES : _COST + _EACH] = NEVER
            for lane in range(LANES):
                start = (number + lane * STRETCH) * BLOCK
                part, kept = weights[start : start + BLOCK], mask[start : start + BLOCK]
                _stage(part, kept, spacing, start, gain, metric, lane, block)
                _stage_shares(own, rest, start, lane, shares)
            slot = _forward(block, shares, taps, history, limits, prices, now, past, slot, chosen)
            for lane in range(LANES):
                start = (number + lane * STRETCH) * BLOCK
                if start < weights.size:
                    state = _survivor(now, past, history, lane)
                    total += np.float64(now[_COST + state * LANES + lane])
                    _trace(chosen, lane, state, codes[start : start + BLOCK])
    return total


@kernel(error_model="numpy")
def _stage(weights, mask, spacing, start, gain, metric, lane, block):  # type: ignore[no-untyped-def] # compiled by numba
    """One lane of what the search needs of the weights of a block, place after place, as at the end of `now`.

    Behind the tensor's end are weights that are not kept.
    """
    at = start % gain.size
    to = lane
    for i in range(weights.size):
        keep = mask.size == 0 or mask[i] != 0
        block[to] = np.float32(np.float64(weights[i]) / spacing) if keep else _ZERO
        block[to + LANES] = _ONE if keep else _ZERO
        block[to + 2 * LANES] = _ONE if at else _ZERO
        block[to + 3 * LANES] = gain[at]
        block[to + 4 * LANES] = metric[at]
        to += _WEIGHT_SIZE
        at += 1
        if at == gain.size:
            at = 0
    for empty in range(to, block.size, LANES):
        block[empty] = _ZERO


@kernel(error_model="numpy")
def _stage_shares(own, rest, start, lane, shares):  # type: ignore[no-untyped-def] # compiled by numba
    """One lane of `own` and `rest` at the first taps of a block: the place of its first weight in a kernel is any."""
    taps, history = own.shape
    to = lane
    for i in range(taps):
        tap = (start + i) % taps
        for age in range(history):
            shares[to] = own[tap, age]
            shares[to + LANES] = rest[tap, age]
            to += 2 * LANES


@kernel(error_model="numpy")
def _forward(block, shares, taps, history, limits, prices, now, past, slot, chosen):  # type: ignore[no-untyped-def] # compiled by numba
    """Extend the survivors over a block.

    `past` is a ring of the last errors of all survivors; the oldest are in `slot`, whose last value is returned.
    `chosen` gets, for every place and state, twice the code that leads there, plus 1 where it extends the second.
    """
    magnitudes = np.empty(2 * _EACH, np.uint32)
    free = (_ZERO, _ZERO)
    if prices is not None:
        free = (prices[0, 0], prices[1, 0])
    phase = 0
    for i in range(BLOCK):
        weight = block[i * _WEIGHT_SIZE : (i + 1) * _WEIGHT_SIZE]
        for at in range(_WEIGHT_SIZE):
            now[_WEIGHT + at] = weight[at]
        _aim(now, past, slot, shares[phase * history * 2 * LANES : (phase + 1) * history * 2 * LANES])
        if prices is not None:
            _charge(now, limits, prices, magnitudes)
        _select(now, limits, free, chosen[i * _EACH : (i + 1) * _EACH])
        _inherit(now, past, slot)
        slot = slot + 1 if slot + 1 < history else 0
        phase = phase + 1 if phase + 1 < taps else 0
    return slot


@kernel(error_model="numpy")
def _aim(now, past, slot, shares):  # type: ignore[no-untyped-def] # compiled by numba
    """Where each survivor wants the weight to go: as `Shaping` says, minus its mean of the error."""
    for lane in range(LANES):
        for state in range(STATES):
            at = state * LANES + lane
            row = now[_ROW + at] * now[_BEGUN + lane]
            now[_ROW + at] = row
            now[_TARGET + at] = now[_X + lane] + now[_GAIN + lane] * row
    history = past.size // _EACH
    for age in range(history):
        ring = slot - 1 - age if age < slot else slot - 1 - age + history
        errors = past[ring * _EACH : (ring + 1) * _EACH]
        share = shares[age * 2 * LANES : (age + 1) * 2 * LANES]
        for lane in range(LANES):
            factor = now[_GAIN + lane] * share[LANES + lane] - share[lane]
            for state in range(STATES):
                now[_TARGET + state * LANES + lane] += factor * errors[state * LANES + lane]


@kernel(error_model="numpy")
def _charge(now, limits, prices, magnitudes):  # type: ignore[no-untyped-def] # compiled by numba
    """Look up the prices of both codes: apart from all else, since look-ups are not done in vectors."""
    last = np.float32(prices.shape[1] - 1)
    for lane in range(LANES):
        for state in range(STATES):
            at = state * LANES + lane
            even, odd = _halves(abs(now[_TARGET + at]), np.float32(state >> 1 & 1), limits)
            magnitudes[at] = np.uint32(np.int32(min(_TWO * even, last)))
            magnitudes[_EACH + at] = np.uint32(np.int32(min(_TWO * odd + _ONE, last)))
    for state in range(STATES):
        for at in range(state * LANES, (state + 1) * LANES):
            now[_EVEN + at] = prices[state >> 1 & 1, magnitudes[at]]
            now[_ODD + at] = prices[state >> 1 & 1, magnitudes[_EACH + at]]


@kernel(error_model="numpy")
def _halves(size, q, limits):  # type: ignore[no-untyped-def] # compiled by numba
    """Halves, rounded down, of the even code that is not 0 and of the odd code whose levels are nearest to `size`."""
    quarter = (size + q) * _QUARTER
    return min(max(np.floor(quarter + _HALF), _ONE), limits[0]), min(np.floor(quarter), limits[1])


@kernel(error_model="numpy")
def _select(now, limits, free, chosen):  # type: ignore[no-untyped-def] # compiled by numba
    """Extend every survivor by an even and an odd code, and let one in each state survive.

    From states j and j + 4 one comes to states 2 j and 2 j + 1; which code leads where is `codecs.trellis.NEXT`.
    """
    for lane in range(LANES):
        even0, odd0 = _extend(0, now, lane, limits, free)
        even1, odd1 = _extend(1, now, lane, limits, free)
        even2, odd2 = _extend(2, now, lane, limits, free)
        even3, odd3 = _extend(3, now, lane, limits, free)
        even4, odd4 = _extend(4, now, lane, limits, free)
        even5, odd5 = _extend(5, now, lane, limits, free)
        even6, odd6 = _extend(6, now, lane, limits, free)
        even7, odd7 = _extend(7, now, lane, limits, free)
        _arrive(0, now, lane, even0, odd4, chosen)
        _arrive(1, now, lane, odd0, even4, chosen)
        _arrive(2, now, lane, odd1, even5, chosen)
        _arrive(3, now, lane, even1, odd5, chosen)
        _arrive(4, now, lane, odd2, even6, chosen)
        _arrive(5, now, lane, even2, odd6, chosen)
        _arrive(6, now, lane, even3, odd7, chosen)
        _arrive(7, now, lane, odd3, even7, chosen)


@kernel(error_model="numpy")
def _extend(state, now, lane, limits, free):  # type: ignore[no-untyped-def] # compiled by numba
    """The cheapest even and odd code after a state, each as (cost so far, code, sum of the row's errors before)."""
    at = state * LANES + lane
    target, metric, kept = now[_TARGET + at], now[_METRIC + lane], now[_KEPT + lane]
    before, row = now[_COST + at], now[_ROW + at]
    size, q = abs(target), np.float32(state >> 1 & 1)
    even, odd = _halves(size, q, limits)
    off = size - (_FOUR * even - q)
    even_cost = metric * off * off + (limits[2] + now[_EVEN + at])
    off = size - (_FOUR * odd + _TWO - q)
    odd_cost = metric * off * off + (limits[3] + now[_ODD + at])
    zero_cost = metric * size * size + free[state >> 1 & 1]
    zero = zero_cost < even_cost or kept == 0
    even_cost = (zero_cost if zero else even_cost) * kept
    odd_cost += (_ONE - kept) * NEVER
    even_code = _INT0 if zero else np.int32(np.int32(even) * _INT2)
    odd_code = np.int32(np.int32(odd) * _INT2 + _INT1)
    even_code = np.int32(-even_code) if target < 0 else even_code
    odd_code = np.int32(-odd_code) if target < 0 else odd_code
    return (before + even_cost, even_code, row), (before + odd_cost, odd_code, row)


@kernel(error_model="numpy")
def _arrive(state, now, lane, first, second, chosen):  # type: ignore[no-untyped-def] # compiled by numba
    """The cheaper of two extensions is the survivor of a state."""
    at = state * LANES + lane
    later = second[0] < first[0]
    cost = second[0] if later else first[0]
    code = second[1] if later else first[1]
    row = second[2] if later else first[2]
    sign = np.float32(np.int32(code > 0)) - np.float32(np.int32(code < 0))
    level = _TWO * np.float32(code) - np.float32(state >> 2 & 1) * sign
    error = (now[_X + lane] - level) * now[_KEPT + lane]
    now[_COST + at] = cost
    now[_SECOND + at] = _ONE if later else _ZERO
    now[_ERROR + at] = error
    now[_ROW + at] = row + error
    chosen[at] = np.int32(np.int32(code * _INT2) + (_INT1 if later else _INT0))


@kernel(error_model="numpy")
def _inherit(now, past, slot):  # type: ignore[no-untyped-def] # compiled by numba
    """Give every survivor the errors of the one that it extends, and its own in place of the oldest."""
    for ring in range(past.size // _EACH):
        errors = past[ring * _EACH : (ring + 1) * _EACH]
        if ring == slot:
            for at in range(_EACH):
                errors[at] = now[_ERROR + at]
            continue
        for lane in range(LANES):
            # All are read before any is written.
            e0, e1, e2, e3 = errors[lane], errors[LANES + lane], errors[2 * LANES + lane], errors[3 * LANES + lane]
            e4, e5 = errors[4 * LANES + lane], errors[5 * LANES + lane]
            e6, e7 = errors[6 * LANES + lane], errors[7 * LANES + lane]
            errors[lane] = e4 if now[_SECOND + lane] else e0
            errors[LANES + lane] = e4 if now[_SECOND + LANES + lane] else e0
            errors[2 * LANES + lane] = e5 if now[_SECOND + 2 * LANES + lane] else e1
            errors[3 * LANES + lane] = e5 if now[_SECOND + 3 * LANES + lane] else e1
            errors[4 * LANES + lane] = e6 if now[_SECOND + 4 * LANES + lane] else e2
            errors[5 * LANES + lane] = e6 if now[_SECOND + 5 * LANES + lane] else e2
            errors[6 * LANES + lane] = e7 if now[_SECOND + 6 * LANES + lane] else e3
            errors[7 * LANES + lane] = e7 if now[_SECOND + 7 * LANES + lane] else e3


@kernel(error_model="numpy")
def _survivor(now, past, history, lane):  # type: ignore[no-untyped-def] # compiled by numba
    """The cheapest state; its errors go on in all states."""
    best = 0
    for state in range(1, STATES):
        if now[_COST + state * LANES + lane] < now[_COST + best * LANES + lane]:
            best = state
    row = now[_ROW + best * LANES + lane]
    for state in range(STATES):
        now[_ROW + state * LANES + lane] = row
    for ring in range(history):
        error = past[(ring * STATES + best) * LANES + lane]
        for state in range(STATES):
            past[(ring * STATES + state) * LANES + lane] = error
    return best


@kernel(error_model="numpy")
def _trace(chosen, lane, state, codes):  # type: ignore[no-untyped-def] # compiled by numba
    """Fill the codes of a block, or of its beginning, from the state after its last place backwards."""
    for i in range(BLOCK - 1, -1, -1):
        entry = chosen[(i * STATES + state) * LANES + lane]
        if i < codes.size:
            codes[i] = entry >> 1
        state = (state >> 1) + 4 * (entry & 1)
