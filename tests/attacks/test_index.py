"""Files whose index says what cannot be. Each is right but for that, its checksums too."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest

import squeezer
from squeezer.errors import ArtifactError, Code
from tests.attacks.forge import TENSORS, forged, valid
from tests.fuzz.container import ALIAS, FILE, SECTION, TENSOR, Container, Item, sealed, section
from tests.fuzz.mutate import varint

if TYPE_CHECKING:
    from collections.abc import Callable


def refused(data: bytes, match: str, code: Code = Code.CORRUPT_ARTIFACT) -> None:
    """Opening it ends in that error, and so does all else."""
    for function in (squeezer.open, squeezer.load, squeezer.verify):
        with pytest.raises(ArtifactError, match=match) as error:
            function(data)
        assert error.value.code is code


def tensor(container: Container, name: str = "dense") -> Item:
    return next(item for item in container.items if item.name == name.encode())


def setting(name: str, column: str, *numbers: int) -> Callable[[Container], object]:
    return lambda container: tensor(container, name).set(column, *numbers)


def test_without_an_attack_all_is_well() -> None:
    for data in (valid(), forged(lambda container: None)):
        squeezer.verify(data)
        assert list(squeezer.load(data)) == [*TENSORS, "tied", "tied too"]


# -- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extents",
    [
        (2**60,),
        (2**45,),
        (2**63 - 1,),
        (2**31, 2**31),
        (2**32, 2**32),  # 2^64 elements: none, where the product is taken in 64 bits
        (2**63 - 1, 2**63 - 1),
        (2**16,) * 5,
        (2**63 - 1,) * 64,
    ],
)
def test_absurd_shapes(extents: tuple[int, ...]) -> None:
    def change(container: Container) -> None:
        tensor(container).set("dimensions", len(extents))
        tensor(container).set("extents", *extents)

    refused(forged(change), "larger than any memory")


@pytest.mark.parametrize("extents", [(0, 2**62), (2**62, 0), (0, 2**40, 2**40), (2**63 - 1, 0, 2**63 - 1)])
def test_absurd_shapes_without_elements(extents: tuple[int, ...]) -> None:
    """numpy takes no such shape, though nothing is in it."""

    def change(container: Container) -> None:
        tensor(container).set("dimensions", len(extents))
        tensor(container).set("extents", *extents)
        tensor(container).payload = b""

    refused(forged(change), "larger than any memory")


@pytest.mark.parametrize("dimensions", [65, 2**20, 2**31, 2**63 - 1])
def test_too_many_dimensions(dimensions: int) -> None:
    def change(container: Container) -> None:
        tensor(container).set("dimensions", dimensions)
        tensor(container).set("extents", *[1] * min(dimensions, 100))

    refused(forged(change), "makes sense")


def test_a_shape_of_other_size_than_the_payload() -> None:
    for extents in ((199,), (201,), (0,), (2**20 + 1,)):
        data = forged(setting("dense", "extents", *extents))
        with pytest.raises(ArtifactError, match="'dense'") as error:
            squeezer.load(data)
        assert error.value.code is Code.CORRUPT_ARTIFACT


def test_a_number_of_more_than_63_bits() -> None:
    def change(container: Container) -> None:
        tensor(container).fields["extents"] = [b"\xff" * 12 + b"\0"]

    refused(forged(change), "does not end")


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [2**28 + 1, 2**38, 2**43])
def test_a_few_bytes_that_claim_much_memory(extent: int) -> None:
    data = forged(setting("uniform", "extents", extent))
    assert len(data) < 4096
    refused(data, "max_bytes", Code.ARTIFACT_TOO_LARGE)


def test_many_tensors_that_claim_much_memory_together() -> None:
    def change(container: Container) -> None:
        for i in range(100):
            another = deepcopy(tensor(container))
            another.name = b"another%d" % i
            another.set("extents", 2**22)
            container.items.insert(0, another)

    refused(forged(change), "max_bytes", Code.ARTIFACT_TOO_LARGE)


def test_the_limit_can_be_set() -> None:
    sizes = sum(squeezer.open(valid()).info(name).nbytes for name in TENSORS)
    assert squeezer.load(valid(), max_bytes=sizes)
    with pytest.raises(ArtifactError, match=f"max_bytes={sizes}") as error:
        squeezer.load(valid(), max_bytes=sizes - 1)
    assert error.value.code is Code.ARTIFACT_TOO_LARGE


@pytest.mark.parametrize("size", [2**31, 2**62, 2**63 - 1])
def test_a_file_that_claims_to_be_large(size: int) -> None:
    data = forged(setting("vocab.txt", "size", size))
    with pytest.raises(ArtifactError) as error:
        squeezer.verify(data)
    assert error.value.code in (Code.ARTIFACT_TOO_LARGE, Code.CORRUPT_ARTIFACT)


def test_a_file_that_is_not_of_its_size() -> None:
    for size in (0, 1, 499, 501, 2**20):
        with squeezer.open(forged(setting("vocab.txt", "size", size))) as artifact:
            with pytest.raises(ArtifactError, match=r"vocab\.txt") as error:
                artifact.read_file("vocab.txt")
            assert error.value.code is Code.CORRUPT_ARTIFACT


# -- counts and lengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [TENSOR, ALIAS, FILE, SECTION])
@pytest.mark.parametrize("count", [10, 2**16, 2**31, 2**32, 2**63 - 1, 2**64])
def test_counts_of_what_is_not_there(part: int, count: int) -> None:
    def change(container: Container) -> None:
        container.counts[part] = varint(count)

    refused(forged(change, fit=False), "index: ")


@pytest.mark.parametrize("part", [TENSOR, ALIAS, FILE])
def test_counts_that_leave_some_out(part: int) -> None:
    def change(container: Container) -> None:
        container.counts[part] = varint(len(container.of_part(part)) - 1)

    refused(forged(change, fit=False), "index: ")


@pytest.mark.parametrize("length", [2**20, 2**31, 2**32, 2**62, 2**63 - 1])
def test_a_length_past_the_end(length: int) -> None:
    refused(forged(setting("shared", "length", length), fit=False), "index: ")


def test_payloads_with_a_gap_or_an_overlap() -> None:
    length = len(tensor(Container.of(valid())).payload)
    for other in (0, length - 1, length + 1):
        refused(forged(setting("dense", "length", other), fit=False), "add up|makes sense")


def test_lengths_that_add_up_and_are_wrong() -> None:
    """One payload takes a byte of the next. The checksums are of the bytes that each should have."""

    def change(container: Container) -> None:
        first, second = tensor(container, "dense"), tensor(container, "flags")
        first.payload, second.payload = first.payload + second.payload[:1], second.payload[1:]

    with pytest.raises(ArtifactError, match="'dense'") as error:
        squeezer.load(forged(change))
    assert error.value.code is Code.CORRUPT_ARTIFACT


def test_bytes_between_payloads_and_index() -> None:
    def change(container: Container) -> None:
        container.items[-1].payload += b"hidden"

    refused(forged(change, fit=False), "add up")


@pytest.mark.parametrize("length", [0, 1, 2**16, 2**31 - 1, 2**32 - 1])
def test_an_index_of_another_length(length: int) -> None:
    data = valid()
    refused(sealed(data[:-8] + length.to_bytes(4, "little") + bytes(4)), "index: ")


def test_an_index_without_a_part() -> None:
    """Two empty tables, and nothing: what deflates to no bytes is not an index of no tensors."""
    refused(Container(b"SQZ" + valid()[3:4], [], []).pack(), "index: ")


def test_an_index_that_inflates_for_ever() -> None:
    data = Container.of(valid()).pack(table=bytes(1 << 27))
    assert len(data) < 1 << 18
    refused(data, "too long|bytes too many")


def test_aliases_that_take_no_bytes() -> None:
    """Each would cost a reader some microseconds, and some hundred bytes."""
    container = Container.of(valid())
    container.counts[ALIAS] = varint(1 << 22)
    table, names = container.table() + bytes(1 << 22), container.names() + b"\1m\xff" * (1 << 22)
    data = container.pack(table=table, names=names)
    assert len(data) < 1 << 16
    refused(data, "makes sense")


def test_names_that_inflate_for_ever() -> None:
    refused(Container.of(valid()).pack(names=b"\0a\xff" * (1 << 25)), "too long")


def test_an_index_with_something_behind_it() -> None:
    container = Container.of(valid())
    refused(container.pack(table=container.table() + b"\0"), "too many")
    refused(container.pack(names=container.names() + b"\0\xff"), "too many")


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), [("dense", "flags"), ("dense", "tied"), ("tied", "tied too"), ("config.json", "vocab.txt")]
)
def test_names_that_occur_twice(one: str, other: str) -> None:
    def change(container: Container) -> None:
        tensor(container, one).name = other.encode()

    refused(forged(change), "same name")


@pytest.mark.parametrize("target", [5, 6, 2**31, 2**63 - 1])
def test_an_alias_of_nothing(target: int) -> None:
    """Aliases are numbered behind tensors nowhere: an alias of an alias, and so a loop, cannot be written."""
    refused(forged(setting("tied", "target", target)), "makes sense")


def test_aliases_without_tensors() -> None:
    def change(container: Container) -> None:
        container.items = container.of_part(ALIAS)

    refused(forged(change), "index: ")


@pytest.mark.parametrize("name", [b"\xc3", b"\x80", b"\xed\xa0", b"\xf5\x80\x80\x80", b"\xc0\xaf"])
def test_names_that_are_not_utf_8(name: bytes) -> None:
    def change(container: Container) -> None:
        tensor(container).name = name

    refused(forged(change), "UTF-8")


def test_names_that_are_too_long() -> None:
    def change(container: Container) -> None:
        tensor(container).name = b"x" * (1 << 16)

    refused(forged(change), "too long")


def test_a_name_without_an_end() -> None:
    container = Container.of(valid())
    refused(container.pack(names=container.names()[:-1]), "index: ")
    refused(container.pack(names=container.names()[:-1] + b"\0"), "index: ")


@pytest.mark.parametrize("dropped", [1, 2**31, 2**63 - 1])
def test_a_name_that_drops_parts_that_are_not_there(dropped: int) -> None:
    container = Container.of(valid())
    refused(container.pack(names=varint(dropped) + container.names()[1:]), "makes sense")


# -- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", range(16))
def test_unknown_representations(kind: int) -> None:
    from squeezer.representations import REPRESENTATIONS

    data = forged(setting("dense", "type", 1 | kind << 4))
    if kind >= len(REPRESENTATIONS):
        refused(data, "does not know")
    elif kind:
        # Another representation's payload is not this one's.
        with pytest.raises(ArtifactError, match="'dense'"):
            squeezer.load(data)


@pytest.mark.parametrize("stored", [16, 17, 255])
def test_unknown_stored_types(stored: int) -> None:
    refused(forged(setting("dense", "stored", stored)), "does not know")


@pytest.mark.parametrize(
    ("name", "stored"), [("dense", 7), ("shared", 9), ("uniform", 1), ("uniform", 6), ("flags", 13)]
)
def test_types_that_are_not_stored_so(name: str, stored: int) -> None:
    with pytest.raises(ArtifactError, match=f"'{name}'") as error:
        squeezer.load(forged(setting(name, "stored", stored)))
    assert error.value.code is Code.CORRUPT_ARTIFACT


@pytest.mark.parametrize("name", ["shared", "uniform"])
@pytest.mark.parametrize("dtype", [6, 9, 14, 15])
def test_weights_that_are_no_real_numbers(name: str, dtype: int) -> None:
    """What a NaN becomes as an integer depends on the machine."""
    kind = {"shared": 2, "uniform": 3}[name]
    with pytest.raises(ArtifactError) as error:
        squeezer.load(forged(setting(name, "type", dtype | kind << 4)))
    assert error.value.code is Code.CORRUPT_ARTIFACT


def test_unknown_sections_are_passed_over() -> None:
    def change(container: Container) -> None:
        container.items.append(section(2 * 77, b"from the future"))

    data = forged(change)
    squeezer.verify(data)
    assert squeezer.load(data).keys() == squeezer.load(valid()).keys()
    assert sum(squeezer.open(data).ledger().values()) == len(data)


def test_unknown_sections_are_checked() -> None:
    def change(container: Container) -> None:
        container.items.append(section(2 * 77, b"from the future"))

    data = forged(change)
    with pytest.raises(ArtifactError, match="section 77") as error:
        squeezer.verify(data.replace(b"from the future", b"from the forger"))
    assert error.value.code is Code.CORRUPT_ARTIFACT


@pytest.mark.parametrize("number", [0, 1, 77, 2**61])
def test_a_section_that_must_be_known(number: int) -> None:
    def change(container: Container) -> None:
        container.items.append(section(2 * number + 1, b"changes the meaning of all"))

    refused(forged(change), "section", Code.NEWER_ARTIFACT)


@pytest.mark.parametrize("version", [2, 77, 255])
def test_a_version_of_the_future(version: int) -> None:
    refused(sealed(b"SQZ" + bytes([version]) + valid()[4:]), f"format {version}", Code.NEWER_ARTIFACT)
