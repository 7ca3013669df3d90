"""Guard pages around the arrays of compiled code; with negative controls, which die."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from tests.guard import PAGE, Guard, OutsideBufferError

ROOT = Path(__file__).parents[1]
_PROGRAM = """
import numpy as np
from numba import njit
from tests.guard import Guard

@njit
def read(array, index):
    return array[index]

@njit
def write(array, index):
    array[index] = 1

array = np.arange(int(input()), dtype=np.uint32)
with Guard(input(), "__main__").installed():
    print(eval(input()))
"""


@njit
def _fill(array, tail, value):
    array[:] = value
    tail[0] += array.size
    return array[1:], tail.size


@njit
def _set(array, index):
    array[index] = 1


def run(size: int, side: str, call: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=f"{size}\n{side}\n{call}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("call", ["read(array, array.size)", "write(array, array.size)"])
@pytest.mark.parametrize("size", [0, 1, 1000, 5000])
def test_leaving_the_end_is_fatal(size: int, call: str) -> None:
    assert run(size, "after", call).returncode == -signal.SIGSEGV


@pytest.mark.parametrize("call", ["read(array, -array.size - 1)", "write(array, -array.size - 1)"])
def test_leaving_the_beginning_is_fatal(call: str) -> None:
    # A negative index counts from the end, once.
    assert run(1000, "before", call).returncode == -signal.SIGSEGV


@pytest.mark.parametrize("side", ["after", "before"])
def test_the_first_and_the_last_element_are_inside(side: str) -> None:
    done = run(1000, side, "read(array, 0), read(array, 999), write(array, 0), write(array, 999), array[[0, 999]]")
    assert done.stdout.startswith("(0, 999, None, None, array([1, 1]"), done.stderr


@pytest.mark.parametrize("side", ["after", "before"])
def test_a_write_at_the_other_end_is_found(side: str) -> None:
    array = np.zeros(10, np.uint8)
    with Guard(side, __name__).installed(), pytest.raises(OutsideBufferError, match="_set wrote beside"):
        _set(array, -11 if side == "after" else 10)


@pytest.mark.parametrize("side", ["after", "before"])
@pytest.mark.parametrize("size", [1, PAGE, PAGE + 1, 3 * PAGE])
def test_results_are_those_without_it(side: str, size: int) -> None:
    whole = np.zeros((size, 2), np.uint8)
    guard = Guard(side, __name__)
    with guard.installed():
        # A strided array, one that overlaps with it, and one that is part of an argument and comes back.
        rest, count = _fill(whole[:, 0], whole[:1, 0], 7)
        column, _ = _fill(np.zeros(size, np.int64), whole[:1, 1], 3)
    assert (rest.tolist(), count) == ([7] * (size - 1), 1)
    assert column.tolist() == [3] * (size - 1)
    assert whole[1:].tolist() == [[7, 0]] * (size - 1)
    assert whole[0].tolist() == [(7 + size) % 256, size % 256]
    assert guard.calls == {f"{__name__}._fill": 2}
    _fill(np.zeros(size, np.int64), whole[:1, 1], 3)
    assert guard.calls.total() == 2
