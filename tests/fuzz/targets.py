"""What must hold for any bytes: an error of ours, or arrays of the shapes and types that were announced."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

import squeezer
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS, ByteReader, Codebook, CorruptStreamError, Itself, Meaning
from squeezer.errors import ArtifactError
from squeezer.model import DTYPES
from tests.fuzz import container
from tests.fuzz.mutate import mutated

if TYPE_CHECKING:
    from squeezer.artifact import Artifact
    from tests.fuzz.corpus import Coded, Corpus, File

#: What becomes of a mutant, if all is well.
DECODED, REFUSED = "decoded", "refused"
#: How large all tensors of a file may be. More memory is taken than this while they are decoded, but not many times.
MAX_BYTES = 32 << 20
#: Ways of reading a file.
WAYS = ("file", "load", "representation", "ledger")
#: A codec is told of so many elements at most.
_MAX_COUNT = 1 << 20
_INTEGERS = [np.dtype(name) for name in ("u1", "i1", "u2", "i2", "i4")]


class Mutant(Protocol):
    """Damaged input, and what is to be tried with it."""

    @property
    def data(self) -> bytes:
        """The damaged bytes."""
        ...

    @property
    def story(self) -> str:
        """What was done to what."""
        ...

    def run(self) -> str:
        """Decode it.

        Returns:
            DECODED or REFUSED.

        Raises:
            Exception: any other way to end, which is a finding.
        """
        ...


# -- codecs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodedMutant:
    """Damaged bytes for one codec's `read`."""

    case: Coded
    data: bytes
    out: tuple[int, np.dtype[Any]]
    meaning: Meaning
    story: str

    @classmethod
    def of(cls, corpus: Corpus, random: Random) -> CodedMutant:
        """Any case, damaged or told of another count, type or meaning."""
        case = corpus.any_coded(random)
        data, story = case.payload, []
        if random.random() < 0.97:
            data, story = mutated(data, corpus.any_coded(random).payload, random)
        count, dtype = case.count, case.dtype
        if random.random() < 0.1:
            count = max(
                1, min(_MAX_COUNT, random.choice((0, count - 1, count + 1, 2 * count, random.randrange(99999))))
            )
        if random.random() < 0.1:
            dtype = random.choice(_INTEGERS if case.symbols else list(DTYPES.values()))
        meaning = _meaning(dtype, random)
        kind = meaning.dtype if case.symbols else dtype
        told = f"{case.codec}: {case.count} of {case.dtype} as {count} of {kind}"
        return cls(case, data, (count, kind), meaning, ", ".join([told, *story]))

    @classmethod
    def without_damage(cls, case: Coded) -> CodedMutant:
        """The case as it is."""
        return cls(case, case.payload, (case.count, case.dtype), Itself(case.dtype), case.codec)

    def run(self) -> str:
        """See Mutant."""
        out = np.empty(*self.out)
        reader = ByteReader(self.data)
        try:
            if self.case.symbols:
                SYMBOL_CODECS[self.case.number].read(reader, out, self.meaning)
            else:
                ARRAY_CODECS[self.case.number].read(reader, out)
            reader.finish()
        except CorruptStreamError:
            return REFUSED
        return DECODED


def _meaning(dtype: np.dtype[Any], random: Random) -> Meaning:
    """What the integers stand for: themselves, or entries of a codebook of any type, which may be too short."""
    if dtype.kind not in "iub" or random.random() < 0.4:
        return Itself(dtype)
    size = random.choice((0, 1, 16, 256, 4096))
    return Codebook(np.arange(size).astype(random.choice(list(DTYPES.values()))))


# -- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileMutant:
    """A damaged `.sqz` file. `ways` are those of reading it that are tried beside the tensors one by one."""

    data: bytes
    ways: frozenset[str]
    story: str

    @classmethod
    def of(cls, corpus: Corpus, random: Random, *, forged: bool) -> FileMutant:
        """Any file, damaged; with right checksums where `forged`."""
        file, other = corpus.any_file(random), corpus.any_file(random)
        if forged and random.random() < 0.6:
            data, story = container.forged(file.data, other.data, random)
        else:
            data, story = mutated(file.data, other.data, random)
            if forged:
                data, story = container.recheck(data), [*story, "recheck"]
        ways = frozenset(way for way in WAYS if random.random() < 0.25)
        return cls(data, ways, ", ".join([file.name, *story, *sorted(ways)]))

    @classmethod
    def without_damage(cls, file: File) -> FileMutant:
        """The file as it is, read in every way."""
        return cls(file.data, frozenset(WAYS), file.name)

    def run(self) -> str:
        """See Mutant."""
        if "file" not in self.ways:
            return self._decode(self.data)
        descriptor = os.memfd_create("mutant.sqz")
        try:
            os.write(descriptor, self.data)
            return self._decode(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def _decode(self, origin: str | bytes) -> str:
        artifact = _opened(origin)
        if artifact is None:
            return REFUSED
        with artifact:
            bad = [name for name in artifact if not self._check_tensor(artifact, name)]
            lost = [name for name in artifact.files if not _check_file(artifact, name)]
            if "load" in self.ways:
                _check_load(origin, artifact, bad)
            if "ledger" in self.ways:
                _check_ledger(artifact, len(self.data))
        return REFUSED if bad or lost else DECODED

    def _check_tensor(self, artifact: Artifact, name: str) -> bool:
        """Whether a tensor is decoded, to what the index says of it."""
        info = artifact.info(name)
        with _Refusal() as refusal:
            array = artifact[name]
            _check_array(array, info)
        if "representation" in self.ways:
            with _Refusal() as other:
                decoded = artifact.representation(name).decode()
                _check_array(decoded, info)
            assert refusal.happened == other.happened, "one way to decode refuses what the other takes"
            if not refusal.happened:
                assert array.tobytes() == decoded.tobytes(), "two ways to decode, and two results"
        return not refusal.happened


class _Refusal:
    """Takes in an error that the library may raise. One for want of memory is none: `MAX_BYTES` should prevent it."""

    happened = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ArtifactError) and not isinstance(error.__context__, MemoryError):
            self.happened = True
        return self.happened


def _opened(origin: str | bytes) -> Artifact | None:
    with _Refusal():
        return squeezer.open(origin, max_bytes=MAX_BYTES)
    return None


def _check_array(array: Any, info: Any) -> None:
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype) == (info.shape, info.dtype)
    assert array.flags.writeable
    assert array.flags.c_contiguous
    assert array.nbytes <= MAX_BYTES
    if array.dtype.kind == "b":
        assert array.view(np.uint8).max(initial=0) <= 1, "booleans that are neither true nor false"


def _check_file(artifact: Artifact, name: str) -> bool:
    with _Refusal() as refusal:
        assert len(artifact.read_file(name)) == artifact.files[name] <= MAX_BYTES
    return not refusal.happened


def _check_load(origin: str | bytes, artifact: Artifact, bad: list[str]) -> None:
    with _Refusal() as refusal:
        tensors = squeezer.load(origin, threads=2, max_bytes=MAX_BYTES)
        assert list(tensors) == list(artifact)
        assert not bad, "load takes what is refused one by one"
        for name, array in tensors.items():
            _check_array(array, artifact.info(name))
    with _Refusal() as damaged:
        artifact.check_head()
    assert refusal.happened == bool(bad or damaged.happened), "load refuses what is decoded one by one"


def _check_ledger(artifact: Artifact, size: int) -> None:
    with _Refusal():
        assert sum(artifact.ledger().values()) == artifact.size == size


def mutant(corpus: Corpus, seed: int, target: str, number: int) -> Mutant:
    """The mutant of that number: the same at every call."""
    random = Random(f"{seed}:{target}:{number}")
    if target == "codecs":
        return CodedMutant.of(corpus, random)
    return FileMutant.of(corpus, random, forged=number % 2 == 1)
