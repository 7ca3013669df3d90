from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.artifacts.ranges import UnsatisfiableError, parse_range


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=0-1,3-4",
        "lines=0-1",
        "bytes=\u0661-",
    ],
)
def test_what_is_no_single_range_is_ignored(header: str | None) -> None:
    assert parse_range(header, 10) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_ranges_without_a_byte_are_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableError):
        parse_range(header, size)


@given(size=st.integers(1, 100), first=st.integers(0, 120), last=st.integers(0, 120))
def test_ranges_are_what_slices_say(size: int, first: int, last: int) -> None:
    content = list(range(size))
    for header, expected in (
        (f"bytes={first}-{last}", content[first : last + 1]),
        (f"bytes={first}-", content[first:]),
        (f"bytes=-{last}", content[-last:] if last else []),
    ):
        try:
            found = parse_range(header, size)
        except UnsatisfiableError:
            assert expected == []
        else:
            assert found is not None or last < first
            if found is not None:
                assert content[found.start : found.stop] == expected
                assert 0 <= found.start < found.stop <= size
