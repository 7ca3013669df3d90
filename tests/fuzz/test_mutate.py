"""The damage that the fuzzer does: reproducible, and of every kind."""

from random import Random

import pytest

from squeezer.codecs import ByteReader, CorruptStreamError
from tests.fuzz import mutate
from tests.fuzz.mutate import Damage, mutated

DATA, OTHER = bytes(range(200)), b"other" * 30


def test_the_same_seed_does_the_same_damage() -> None:
    once, again, else_ = ([mutated(DATA, OTHER, Random(f"{seed}:{i}")) for i in range(50)] for seed in (1, 1, 2))
    assert once == again != else_
    assert sum(changed == DATA for changed, _ in once) < 5


def test_damage_is_of_every_kind_and_any_size() -> None:
    random = Random(0)
    results = [mutated(DATA, OTHER, random) for _ in range(2000)]
    assert {name for _, names in results for name in names} == {kind.__name__ for kind in mutate.KINDS}
    assert {len(data) < len(DATA) for data, _ in results} == {True, False}
    assert any(len(data) > len(DATA) for data, _ in results)
    # Every byte is met.
    assert all(any(data[i : i + 1] != DATA[i : i + 1] for data, _ in results) for i in range(len(DATA)))


@pytest.mark.parametrize("kind", mutate.KINDS)
def test_each_kind_copes_with_any_length(kind: object) -> None:
    random = Random(kind.__name__)
    changed = 0
    for size in range(1, 100):
        damage = Damage(bytearray(DATA[:size]), OTHER[:size], random)
        kind(damage)
        changed += damage.data != DATA[:size]
    assert changed > 50


def test_nothing_becomes_something() -> None:
    assert any(mutated(b"", b"", Random(seed))[0] for seed in range(20))


def test_varints_are_read_back_or_refused() -> None:
    for value in mutate.EXTREMES:
        for padding in (0, 1, 8):
            try:
                read = ByteReader(mutate.varint(value, padding)).varint()
            except CorruptStreamError:
                assert value >= 2**63 or padding
            else:
                assert read == value < 2**63
