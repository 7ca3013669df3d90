"""Names as bytes: any list comes back, and lists of networks' names become small."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezer.artifact.names import DICTIONARY, join_names, split_names
from squeezer.codecs import CorruptStreamError

PARTS = st.lists(st.sampled_from(["", "a", "b", "layer1", "é", "\ud800", "\0", "a" * 300]), max_size=400)


@settings(max_examples=300)
@given(st.lists(st.one_of(st.text(st.characters(), max_size=8), PARTS.map(".".join)), max_size=12))
def test_names_come_back(names: list[str]) -> None:
    data = join_names(names)
    assert split_names(data, len(names)) == names
    for wrong in (len(names) + 1, len(names) - 1):
        if wrong >= 0:
            with pytest.raises(CorruptStreamError):
                split_names(data, wrong)


def test_the_example_of_the_page() -> None:
    assert join_names(["a.b", "a.c", "", "d.e.f"]) == b"\0a.b\xff\1c\xff\2\xff\1d.e.f\xff"


@settings(max_examples=300)
@given(st.binary(max_size=40), st.integers(0, 5))
def test_arbitrary_bytes_are_names_or_refused(data: bytes, count: int) -> None:
    try:
        names = split_names(data, count)
    except CorruptStreamError:
        return
    assert len(names) == count


def test_names_of_a_network_take_a_few_hundred_bits() -> None:
    layers = [f"layer{i}.{j}" for i in (1, 2, 3) for j in range(9)]
    parts = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    names = [f"{layer}.bn{k}.{part}" for layer in layers for k in (1, 2) for part in parts]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    packed = packer.compress(join_names(names)) + packer.flush()
    assert len(packed) < 90
    assert len(zlib.compress("\n".join(names).encode(), 9)) > 4 * len(packed)
