from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Problem
from app.uploads.multipart import Event, FormStream, PartBegin, PartData, PartEnd
from tests.app.conftest import form


def parse(body: bytes, content_type: str, cuts: list[int]) -> list[tuple[PartBegin, bytes]]:
    """Feeds a body cut at the given places; the parts that come out."""
    stream = FormStream(content_type)
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, stop in pairwise(edges):
        events += stream.feed(body[start:stop])
    stream.finish()
    parts: list[tuple[PartBegin, bytes]] = []
    for event in events:
        if isinstance(event, PartBegin):
            parts.append((event, b""))
        elif isinstance(event, PartData):
            parts[-1] = (parts[-1][0], parts[-1][1] + event.data)
    assert sum(isinstance(event, PartEnd) for event in events) == len(parts)
    return parts


@given(
    content=st.binary(max_size=300) | st.lists(st.sampled_from([b"\r\n", b"--", b"xx", b"a"])).map(b"".join),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
)
def test_parts_come_back_however_the_body_is_cut(content: bytes, cuts: list[int]) -> None:
    body, headers = form(("spec", None, b"{}"), ("model", "m.pt", content))
    assert parse(body, headers["Content-Type"], cuts) == [
        (PartBegin("spec", ""), b"{}"),
        (PartBegin("model", "m.pt"), content),
    ]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('filename="m\u00f6del.pt"', "m\u00f6del.pt"),
        ('filename="a\\"b.pt"', 'a"b.pt'),
        ("filename=plain.pt", "plain.pt"),
    ],
)
def test_file_names(written: str, read: str) -> None:
    body = f'--b\r\nContent-Disposition: form-data; name="model"; {written}\r\n\r\nx\r\n--b--\r\n'.encode()
    assert parse(body, "multipart/form-data; boundary=b", [])[0][0].file_name == read


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=b",
    ],
)
def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(Problem) as caught:
        FormStream(content_type)
    assert caught.value.kind.code == "not_multipart"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="spec"\r\n\r\n{}\r\n',
        b"--b\r\n\r\nno disposition\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nbro ken: header\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"X: y\r\n" * 100 + b"\r\nx\r\n--b--\r\n",
    ],
)
def test_broken_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse(body, "multipart/form-data; boundary=b", [])
    assert caught.value.kind.code == "broken_multipart"


def test_a_boundary_that_is_too_long_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        FormStream("multipart/form-data; boundary=" + "b" * 1000)
    assert caught.value.kind.code == "broken_multipart"
