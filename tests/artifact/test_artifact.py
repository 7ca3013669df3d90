"""The file as a whole: round trips, damage, and the ledger, against the decoder in tests/reference.py."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import squeezer
from squeezer.artifact import Artifact, ArtifactWriter
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import ArtifactError, Code
from squeezer.representations import REPRESENTATIONS, Dense, Masked, Representation, Shared, Trellis, Uniform, digest
from tests import reference

F32 = np.dtype(np.float32)
BF16 = np.dtype(ml_dtypes.bfloat16)


def examples() -> dict[str, Representation]:
    random = np.random.default_rng(0)
    weights = random.standard_normal((20, 30)).astype(np.float32)
    mask = np.abs(weights) > 1.5
    book = np.sort(random.standard_normal(15)).astype(np.float32)
    return {
        "conv1.weight": Shared(book, np.where(mask, random.integers(1, 16, mask.shape), 0).astype(np.uint8), True, F32),
        "conv1.bias": Dense(weights[0].astype(np.float16), F32),
        "conv2.weight": Masked(weights, mask),
        "layer.α.weight": Uniform(np.float32(0.1), np.round(weights / 0.1).astype(np.int8), F32),
        "layer.α.wide": Uniform(np.float32(1e-4), np.round(weights / 1e-4).astype(np.int32), BF16),
        "layer.α.shared": Shared(book.astype(BF16), random.integers(0, 15, (3, 4, 5)).astype(np.uint8), False, BF16),
        "trellis": Trellis(np.float32(0.1), np.round(weights / 0.2).astype(np.int8), F32),
        "trellis.wide": Trellis(np.float32(1e-4), np.round(np.tile(weights, 3) / 2e-4).astype(np.int32), BF16),
        "huge": Uniform(np.float32(1e-7), np.round(weights / 1e-7).astype(np.int32), F32),
        "many": Shared(np.arange(300, dtype=np.float32), random.integers(0, 300, 999).astype(np.uint16), False, F32),
        "half": Dense(weights.astype(np.float16), np.dtype(np.float16)),
        "exact": Dense(weights, F32),
        "nan": Dense(np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32), F32),
        "steps": Dense(np.array(7, np.int64), np.dtype(np.int64)),
        "flag": Dense(np.array([True, False]), np.dtype(np.bool_)),
        "complex": Dense((weights + 1j * weights).astype(np.complex64), np.dtype(np.complex64)),
        "empty": Dense(np.empty((0, 3), np.float32), F32),
        "": Dense(np.zeros(5000, np.float32), F32),
        "\ud800 lone surrogate": Dense(np.ones(1, np.float32), F32),
        "allzero": Uniform(np.float32(1), np.zeros((4, 4), np.int8), F32),
        "allpruned": Masked(np.zeros((4, 4), np.float32), np.zeros((4, 4), bool)),
    }


def write(path: Path, tensors: dict[str, Representation], coder: str = "auto") -> ArtifactWriter:
    with ArtifactWriter(path) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor, encode_tensor(tensor, coder))
        if "conv1.weight" in tensors:
            writer.add_alias("decoder.weight", "conv1.weight")
            writer.add_file("config.json", b'{"a": 1}')
            writer.add_file("sub/vocab.txt", b"word\n" * 1000)
    return writer


@pytest.mark.parametrize("coder", ["auto", "raw", "huffman", "gaps", "context"])
def test_everything_comes_back(tmp_path: Path, coder: str) -> None:
    path = tmp_path / "m.sqz"
    tensors = examples()
    assert {tensor.kind for tensor in tensors.values()} == set(REPRESENTATIONS)
    write(path, tensors, coder)
    loaded = squeezer.load(path)
    assert list(loaded) == [*tensors, "decoder.weight"]
    with squeezer.open(path) as artifact:
        for name, tensor in tensors.items():
            expected = tensor.decode()
            assert expected.shape == tensor.shape
            assert loaded[name].dtype == expected.dtype == tensor.dtype
            assert loaded[name].shape == expected.shape
            assert loaded[name].tobytes() == expected.tobytes() == artifact[name].tobytes()
            assert loaded[name].flags.writeable
            assert digest(artifact.representation(name)) == digest(tensor)
        assert artifact.aliases == {"decoder.weight": "conv1.weight"}
        assert loaded["decoder.weight"] is loaded["conv1.weight"]
        assert artifact.read_file("sub/vocab.txt") == b"word\n" * 1000
    squeezer.verify(path)


@pytest.mark.parametrize("coder", ["auto", "raw", "huffman", "gaps", "context"])
def test_ledger_and_tensors_agree_with_the_reference(tmp_path: Path, coder: str) -> None:
    path = tmp_path / "m.sqz"
    writer = write(path, examples(), coder)
    tensors, files, ledger = reference.decode(path.read_bytes())
    for name, array in squeezer.load(path).items():
        assert array.tobytes() == tensors[name].tobytes(), name
    assert files == {"config.json": b'{"a": 1}', "sub/vocab.txt": b"word\n" * 1000}
    with squeezer.open(path) as artifact:
        ours = artifact.ledger()
    assert ours == writer.ledger
    assert sum(ours.values()) == path.stat().st_size == sum(ledger.values())
    assert {key: value for key, value in ours.items() if value} == +ledger


def test_container_is_small(tmp_path: Path) -> None:
    names = [f"{layer}.{part}" for layer in ("layer1", "layer2", "fc1", "fc2") for part in ("weight", "bias")]
    random = np.random.default_rng(0)
    tensors = {name: Dense(random.standard_normal((4, 4)).astype(np.float16), F32) for name in names}
    ledger = write(tmp_path / "m.sqz", tensors).ledger
    assert ledger["header"] + ledger["names"] + ledger["checks"] <= 110


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "m.sqz"
    write(path, examples())
    return path


@settings(max_examples=400)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_and_named(written: Path, share: float, bit: int) -> None:
    data = bytearray(written.read_bytes())
    position = int(share * len(data))
    data[position] ^= 1 << bit
    damaged = written.with_suffix(".damaged")
    damaged.write_bytes(data)
    with pytest.raises(ArtifactError) as by_verify:
        squeezer.verify(damaged)
    assert by_verify.value.where.split()[0] in {"magic", "version", "index", "tensor", "file"}
    if not by_verify.value.where.startswith("file"):
        with pytest.raises(ArtifactError) as by_load:
            squeezer.load(damaged)
        assert by_load.value.where == by_verify.value.where
    if by_verify.value.where.startswith("tensor"):
        with Artifact(written) as whole:
            name = next(n for n in whole.names if whole.entry(n).offset + whole.entry(n).length > position)
        assert by_verify.value.where == f"tensor {name!r}"


@settings(max_examples=200)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_found(written: Path, share: float) -> None:
    data = written.read_bytes()
    cut = written.with_suffix(".cut")
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ArtifactError):
        squeezer.load(cut)


@settings(max_examples=300)
@given(data=st.data())
def test_damage_with_right_checksums_ends_in_an_error_or_in_the_announced_shapes(
    written: Path, data: st.DataObject
) -> None:
    import zlib

    with Artifact(written) as whole:
        names = whole.names
        name = data.draw(st.sampled_from([n for n in names if whole.entry(n).length]))
        entry = whole.entry(name)
    changed = bytearray(written.read_bytes())
    payload = changed[entry.offset : entry.offset + entry.length]
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    changed[entry.offset : entry.offset + entry.length] = payload
    length = int.from_bytes(changed[-8:-4], "little")
    index = bytes(changed[-8 - length : -8]).replace(
        entry.check.to_bytes(4, "little"), zlib.crc32(payload).to_bytes(4, "little")
    )
    changed[-8 - length : -8] = index
    changed[-4:] = zlib.crc32(bytes(changed[:4]) + index + bytes(changed[-8:-4])).to_bytes(4, "little")
    path = written.with_suffix(".forged")
    path.write_bytes(changed)
    with Artifact(path) as forged:
        try:
            assert forged[name].shape == entry.shape
            assert forged.representation(name).shape == entry.shape
        except ArtifactError as error:
            assert error.where == f"tensor {name!r}"  # noqa: PT017 # an error is allowed, not demanded


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", Code.NOT_AN_ARTIFACT),
        (b"SQ", Code.NOT_AN_ARTIFACT),
        (b"SQZ", Code.CORRUPT_ARTIFACT),
        (b"hello world, this is a text file", Code.NOT_AN_ARTIFACT),
        (b"SQZ\x09" + bytes(40), Code.NEWER_ARTIFACT),
        (b"SQZ\x00" + b"\xff" * 40, Code.CORRUPT_ARTIFACT),
        (b"SQZ\x01" + b"\xff" * 40, Code.CORRUPT_ARTIFACT),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    path = tmp_path / "m.sqz"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        squeezer.open(path)
    assert error.value.code == code


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.sqz"
    path.write_bytes(b"old")
    tensor = Dense(np.ones(3, np.float32), F32)
    writer = ArtifactWriter(path)
    writer.add("a", tensor, encode_tensor(tensor))
    writer.add_alias("b", "no such tensor")
    with pytest.raises(KeyError), writer:
        pass
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.sqz"]


def test_tensors_are_read_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "m.sqz"
    write(path, examples())
    data = bytearray(path.read_bytes())
    with Artifact(path) as artifact:
        entry = artifact.entry("conv1.weight")
    data[entry.offset] ^= 255
    path.write_bytes(data)
    with squeezer.open(path) as artifact:
        assert artifact["exact"].shape == (20, 30)
        with pytest.raises(ArtifactError, match=r"'conv1\.weight'"):
            artifact["decoder.weight"]
        with pytest.raises(KeyError):
            artifact["nothing"]
