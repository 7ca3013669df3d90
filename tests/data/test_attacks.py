"""Files that mean harm, or are damaged: refused before they cost anything, and with a sentence."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeezer.data import sources
from squeezer.errors import Code, DataError
from squeezer.graph import Input
from tests.data.making import IMAGE, encoded, labels, numbered, opened, problem, save, zipped

#: Memory for a refusal; reading a zip's directory takes half of it.
LITTLE = 40 << 20


class Mark:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


def npy(shape: object, content: bytes, descr: object = "<f4", fortran: object = False) -> bytes:
    """A `.npy` file with any header."""
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    return raw_npy(text, content)


def raw_npy(text: bytes, content: bytes = b"", version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    size = len(text) if length is None else length
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", size) + text + content


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    objects = np.array([Mark(marker)] * 10, object)
    error = problem(save(tmp_path / "data", {"x": objects}))
    assert error.code is Code.UNSAFE_PICKLE
    error = problem(save(tmp_path / "data", {"x": numbered(100), "y": np.array([Mark(marker)] * 100, object)}))
    assert error.code is Code.UNSAFE_PICKLE
    opened(save(tmp_path / "data", {"x": numbered(100), "note": objects})).close()  # nobody needs that one
    bare = pickle.dumps(Mark(marker))
    (tmp_path / "data").write_bytes(bare)
    assert problem(tmp_path / "data").code is Code.UNKNOWN_DATA
    assert problem(zipped(tmp_path / "data", {"x.npy": bare})).code is Code.UNKNOWN_DATA
    assert problem(zipped(tmp_path / "data", {"a.npy": npy((1,), bytes(4)), "x.npy": bare})).code is Code.INVALID_DATA
    assert not marker.exists()
    with np.load(save(tmp_path / "data", {"x": objects}).open("rb"), allow_pickle=True) as archive:
        assert len(archive["x"]) == 10
    assert marker.exists()  # control: it would have worked


GOOD = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10, 4), }"


@pytest.mark.parametrize(
    "content",
    [
        npy((10, 4), bytes(159)),
        npy((10, 4), bytes(161)),
        npy((10**12,), bytes(160)),
        npy((10**12, 10**12), b""),
        npy((2**62, 4, 4), b""),
        npy((-10, -4), bytes(160)),
        npy((True, 40), bytes(160)),
        npy((10, 4.0), bytes(160)),
        npy((1,) * 70, bytes(4)),
        npy([10, 4], bytes(160)),
        npy((10, 4), bytes(160), descr="<f4;"),
        npy((10, 4), bytes(160), descr=["<f4"]),
        npy((10, 4), bytes(160), fortran="yes"),
        raw_npy(GOOD.replace(b"(10, 4)", b"__import__('os').getcwd()"), bytes(160)),
        raw_npy(GOOD.replace(b"(10, 4)", b"(" * 500 + b")" * 500), bytes(160)),
        raw_npy(GOOD.replace(b"(10, 4)", b"-" * 5000 + b"1"), bytes(160)),
        raw_npy(GOOD.replace(b"(10, 4)", b"(" + b"9" * 6000 + b",)"), bytes(160)),
        raw_npy(GOOD.replace(b"10, 4", b"10L, 4"), bytes(159)),
        raw_npy(b"{'descr': '<f4', 'shape': (10, 4)}", bytes(160)),
        raw_npy(b"[" * 9000, bytes(160)),
        raw_npy(b"\xff\xfe\x00", bytes(160)),
        raw_npy(b"", bytes(160)),
        raw_npy(GOOD, bytes(160), length=60000),
        raw_npy(GOOD, bytes(160), b"\x02\x00", length=2**32 - 1),
        raw_npy(GOOD, bytes(160), b"\x03\x00"),
        raw_npy(GOOD, bytes(160), b"\x09\x00"),
        raw_npy(b"'" + b"x" * 30000, bytes(160), b"\x02\x00"),
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\x10",
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.filterwarnings("ignore:Reading .* required additional header parsing")
def test_headers_that_lie(tmp_path: Path, content: bytes, method: int) -> None:
    tracemalloc.start()
    error = problem(zipped(tmp_path / "data", {"x.npy": content}, method))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code is Code.INVALID_DATA
    assert "'x'" in error.detail
    assert len(error.detail) < 500
    assert peak < LITTLE


def test_control_the_honest_header_is_taken(tmp_path: Path) -> None:
    for version in (b"\x01\x00", b"\x02\x00"):
        content = raw_npy(GOOD.replace(b"10", b"90"), numbered(90).tobytes(), version)
        opened(zipped(tmp_path / "data", {"x.npy": content})).close()


@pytest.mark.parametrize("descr", ["<c8", "<M8[s]", "<U5", "|S3", "|V4", "<f2,<f2", [("a", "<f4")], ("<f4", (1,))])
def test_elements_that_are_no_numbers(tmp_path: Path, descr: object) -> None:
    size = np.dtype(descr).itemsize  # type: ignore[call-overload]  # of all kinds
    error = problem(zipped(tmp_path / "data", {"x.npy": npy((10, 4), bytes(40 * size), descr)}))
    assert error.code in (Code.UNSUPPORTED_DTYPE, Code.INVALID_DATA)
    assert "'x'" in error.detail


def test_text_labels_are_explained(tmp_path: Path) -> None:
    error = problem(save(tmp_path / "data", {"x": numbered(100), "y": np.array(["cat", "dog"] * 50)}))
    assert error.code is Code.UNSUPPORTED_DTYPE
    assert "Number the classes" in error.detail


def test_a_zip_bomb(tmp_path: Path) -> None:
    """80 MB of zeros in 80 kB, refused before any of it is unpacked."""
    path = save(tmp_path / "data", {"x": np.zeros((20_000, 1000), np.float32)}, "deflated")
    tracemalloc.start()
    error = problem(path, Input("x", (None, 1000), "F32"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code is Code.ARCHIVE_TOO_LARGE
    assert "numpy.savez" in error.detail
    assert peak < LITTLE


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = npy((90, 4), numbered(90).tobytes())
    long = zipped(tmp_path / "data", {"x.npy": content + bytes(1000)}, zipfile.ZIP_DEFLATED).read_bytes()
    forged = long.replace(struct.pack("<I", len(content) + 1000), struct.pack("<I", len(content)))
    assert forged != long
    (tmp_path / "data").write_bytes(forged)
    for memory in (1 << 20, 0):
        monkeypatch.setattr(sources, "MEMORY_BYTES", memory)
        assert problem(tmp_path / "data").code is Code.INVALID_ARCHIVE


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy", "a/../../x.npy", "C:/x.npy", "a\\x.npy"])
def test_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    error = problem(zipped(tmp_path / "data", {name: npy((90, 4), numbered(90).tobytes())}))
    assert error.code is Code.INVALID_ARCHIVE
    assert error.detail.startswith("The data set: ")
    image = encoded(np.zeros((8, 10, 3), np.uint8))
    assert problem(zipped(tmp_path / "data", {"a/x.png": image, f"{name}.png": image}), IMAGE).code is (
        Code.INVALID_ARCHIVE
    )


@pytest.mark.parametrize("way", ["stored", "deflated", "safetensors"])
@pytest.mark.parametrize("memory", [1 << 28, 0])
def test_truncated_files(tmp_path: Path, way: str, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", memory)
    content = save(tmp_path / "data", {"x": numbered(500), "y": labels(500)}, way).read_bytes()
    for size in (9, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "data").write_bytes(content[:size])
        assert problem(tmp_path / "data").code in (Code.TRUNCATED_FILE, Code.INVALID_ARCHIVE)


@pytest.mark.parametrize("way", ["stored", "deflated"])
@pytest.mark.parametrize("memory", [1 << 28, 0])
def test_damaged_content(tmp_path: Path, way: str, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", memory)
    content = bytearray(save(tmp_path / "data", {"x": numbered(500)}, way).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "data").write_bytes(content)
    assert problem(tmp_path / "data").code is Code.INVALID_ARCHIVE


def test_no_data_sets_at_all(tmp_path: Path) -> None:
    def code_of(content: bytes) -> Code:
        (tmp_path / "data").write_bytes(content)
        return problem(tmp_path / "data").code

    assert code_of(b"") is Code.EMPTY_FILE
    assert code_of(b"a,b\n1,2\n") is Code.UNKNOWN_DATA
    assert code_of(encoded(np.zeros((4, 4), np.uint8))) is Code.UNKNOWN_DATA
    assert code_of(b"\x80\x05K\x01.") is Code.UNKNOWN_DATA
    assert code_of(b"SQZ\x01" + bytes(100)) is Code.UNKNOWN_DATA
    file = io.BytesIO()
    np.save(file, numbered(10))
    assert code_of(file.getvalue()) is Code.UNKNOWN_DATA
    assert "numpy.savez" in problem(tmp_path / "data").detail
    assert problem(zipped(tmp_path / "data", {"data.pkl": b"x", "version": b"3"})).code is Code.UNKNOWN_DATA
    assert problem(tmp_path).code is Code.UNKNOWN_DATA
    assert problem(tmp_path / "nothing").code is Code.FILE_NOT_FOUND


def safetensors_file(header: object, content: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**12, 4], "data_offsets": [0, 1600]},
        {"dtype": "F32", "shape": [100, 4], "data_offsets": [0, 1604]},
        {"dtype": "F32", "shape": [100, -4], "data_offsets": [0, 1600]},
    ],
)
def test_safetensors_that_lie(tmp_path: Path, entry: object) -> None:
    (tmp_path / "data").write_bytes(safetensors_file({"x": entry}, bytes(1600)))
    error = problem(tmp_path / "data")
    assert error.code is Code.INVALID_SAFETENSORS
    assert error.detail.startswith("The data set: ")


def test_safetensors_with_nothing_for_us(tmp_path: Path) -> None:
    entry = {"dtype": "C64", "shape": [50, 4], "data_offsets": [0, 1600]}
    (tmp_path / "data").write_bytes(safetensors_file({"x": entry}, bytes(1600)))
    assert problem(tmp_path / "data").code is Code.UNSUPPORTED_DTYPE


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    """A grey PNG whose header may lie."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (png(60_000, 60_000, bytes(100)), "cannot be read"),
        (png(8_000, 8_000, bytes(100)), "8000 x 8000"),
        (png(2**31 - 1, 2**31 - 1, bytes(100)), "cannot be read"),
        (png(0, 8, b""), ""),
        (png(10, 8, bytes(30)), "cannot be decoded"),
        (png(10, 8, bytes(88))[:-30], "cannot be read"),
        (png(10, 8, bytes(88), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))), ""),
        (b"\x89PNG", "cannot be read"),
        (b"BM" + bytes(100), "cannot be read"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "cannot be read"),
    ],
)
def test_images_that_lie(tmp_path: Path, image: bytes, told: str) -> None:
    good = {f"{'ab'[i % 2]}/{i}.png": png(10, 8, bytes([0, i] + [0] * 86)) for i in range(60)}
    opened(zipped(tmp_path / "data", good), IMAGE).close()
    tracemalloc.start()
    error = problem(zipped(tmp_path / "data", good | {"a/x.png": image}), IMAGE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code is Code.INVALID_DATA
    assert "'a/x.png'" in error.detail
    assert told in error.detail
    assert peak < LITTLE
    first = zipped(tmp_path / "data", good | {"a/0.png": image})  # also where the size of all would come from
    assert problem(first, IMAGE).code is Code.INVALID_DATA


def test_an_image_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    image = encoded(np.zeros((8, 10, 3), np.uint8))
    long = zipped(tmp_path / "data", {"a/x.png": image + bytes(1 << 20)}, zipfile.ZIP_DEFLATED).read_bytes()
    (tmp_path / "data").write_bytes(
        long.replace(struct.pack("<I", len(image) + (1 << 20)), struct.pack("<I", len(image)))
    )
    assert "damaged" in problem(tmp_path / "data", IMAGE).detail


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    arrays = {"x": numbered(40), "y": labels(40)}
    files = {way: save(folder / way, arrays, way).read_bytes() for way in ("stored", "deflated", "safetensors")}
    images = {f"{'ab'[i % 2]}/{i}.png": encoded(np.full((8, 10, 3), i, np.uint8)) for i in range(20)}
    return files | {"images": zipped(folder / "images", images, zipfile.ZIP_DEFLATED).read_bytes()}


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_ends_in_an_error_or_a_data_set(
    tmp_path: Path, sound: dict[str, bytes], data: st.DataObject
) -> None:
    way = data.draw(st.sampled_from(sorted(sound)))
    content = bytearray(sound[way])
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[place] = byte
    path = tmp_path / "data"
    path.write_bytes(content)
    with suppress(DataError):
        opened(path, *([IMAGE] if way == "images" else [])).close()
