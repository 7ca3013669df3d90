"""Tensors of several chunks: they come back from any number of threads, and damage to one chunk names the tensor."""

from __future__ import annotations

import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import squeezer
from squeezer.artifact import ArtifactWriter
from squeezer.artifact.tensor import CHUNK
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import ArtifactError
from squeezer.representations import Dense, Masked, Representation, Shared, Trellis, Uniform, digest
from tests import reference

F32 = np.dtype(np.float32)
BF16 = np.dtype(ml_dtypes.bfloat16)
COUNT = 2 * CHUNK + 5


def examples() -> dict[str, Representation]:
    random = np.random.default_rng(0)
    weights = random.standard_normal(COUNT, np.float32)
    codes = np.round(2 * weights).astype(np.int8)
    # The chunks differ, so that each wants a codec of its own.
    codes[CHUNK : 2 * CHUNK] *= random.random(CHUNK) < 0.1
    mask = np.abs(weights) > 1
    mask[CHUNK:] = False
    mask[-1] = True
    return {
        "dense": Dense(weights.reshape(1, -1), F32),
        "half": Dense(weights.astype(np.float16), F32),
        "masked": Masked(weights, mask),
        "shared": Shared(np.linspace(-1, 1, 16, dtype=np.float32), codes.view(np.uint8) % 16, False, BF16),
        "sparse": Shared(np.linspace(-1, 1, 15, dtype=np.float32), codes.view(np.uint8) % 16, True, F32),
        "uniform": Uniform(np.float32(0.1), codes.reshape(-1, 1), F32),
        "trellis": Trellis(np.float32(0.1), codes.astype(np.int16), F32),
        "small": Dense(np.ones(3, np.float32), F32),
    }


def write(path: Path, tensors: dict[str, Representation], **options: str) -> dict[str, int]:
    with ArtifactWriter(path) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor, encode_tensor(tensor, **options))
    return writer.ledger


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chunks") / "m.sqz"
    write(path, examples())
    return path


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_tensors_come_back_from_any_number_of_threads(written: Path, threads: int) -> None:
    tensors = examples()
    loaded = squeezer.load(written, threads=threads)
    assert list(loaded) == list(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].tobytes() == tensor.decode().tobytes(), name
    with squeezer.open(written) as artifact:
        ledger: dict[str, int] = {}
        for name, stored, tally in artifact.representations(threads):
            assert digest(stored) == digest(tensors[name])
            ledger = {key: ledger.get(key, 0) + tally.get(key, 0) for key in ledger | tally}
        assert artifact.ledger(ledger) == artifact.ledger()
        assert sum(artifact.ledger().values()) == written.stat().st_size


def test_threads_write_the_same_bytes() -> None:
    for tensor in examples().values():
        with ThreadPoolExecutor(3) as pool:
            assert encode_tensor(tensor, each=pool.map) == encode_tensor(tensor)


def test_each_chunk_has_a_codec_of_its_own() -> None:
    assert set(encode_tensor(examples()["uniform"], level="fast").coder.split("+")) >= {"huffman", "gaps"}


def test_one_chunk_is_written_without_a_length() -> None:
    codes = np.zeros(CHUNK, np.int8)
    one = encode_tensor(Uniform(np.float32(1), codes, F32)).data
    two = encode_tensor(Uniform(np.float32(1), np.concatenate([codes, codes]), F32)).data
    assert two[4:] == 2 * (bytes([len(one) - 4]) + one[4:])


def test_the_reference_reads_chunks(tmp_path: Path) -> None:
    codes = np.zeros(CHUNK + 2, np.int16)
    codes[[0, 7, CHUNK - 1, CHUNK, CHUNK + 1]] = 3, -1, 5, 2, -300
    tensors = {
        "sparse": Uniform(np.float32(0.5), codes, F32),
        "trellis": Trellis(np.float32(0.5), codes, F32),
        "bytes": Dense((codes % 7).astype(np.uint8), np.dtype(np.uint8)),
    }
    ledger = write(tmp_path / "m.sqz", tensors, level="fast")
    decoded, _, theirs = reference.decode((tmp_path / "m.sqz").read_bytes())
    for name, tensor in tensors.items():
        assert decoded[name].tobytes() == tensor.decode().tobytes(), name
    assert {key: value for key, value in ledger.items() if value} == +theirs


@pytest.mark.parametrize("threads", [1, 3])
def test_damage_in_one_chunk_names_the_tensor(written: Path, threads: int) -> None:
    data = bytearray(written.read_bytes())
    with squeezer.open(written) as artifact:
        entry = artifact.entry("uniform")
    # The first chunk's codec, behind the step and the length, with all checks right.
    start = entry.offset + 4
    while data[start] >= 128:
        start += 1
    data[start + 1] = 14
    payload = data[entry.offset : entry.offset + entry.length]
    length = int.from_bytes(data[-8:-4], "little")
    index = bytes(data[-8 - length : -8]).replace(
        entry.check.to_bytes(4, "little"), zlib.crc32(payload).to_bytes(4, "little")
    )
    data[-8 - length : -8] = index
    data[-4:] = zlib.crc32(bytes(data[:4]) + index + bytes(data[-8:-4])).to_bytes(4, "little")
    before = threading.active_count()
    with pytest.raises(ArtifactError, match=r"tensor 'uniform': a codec"):
        squeezer.load(bytes(data), threads=threads)
    assert threading.active_count() == before


def test_a_reader_that_stops_half_way_leaves_no_thread(written: Path) -> None:
    before = threading.active_count()
    with squeezer.open(written) as artifact:
        tensors = artifact.weights(2)
        assert next(tensors)[0] == "dense"
        tensors.close()
    assert threading.active_count() == before
