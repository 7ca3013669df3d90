"""Every file of a frozen format decodes to what it did when the format was frozen."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

import squeezer
from squeezer.artifact.layout import KIND_ORDER, VERSION
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS
from squeezer.model import DTYPES
from tests import reference
from tests.golden import FOLDER, MANIFEST, described, tensor_state

GOLDEN = json.loads(MANIFEST.read_text())


def test_all_files_are_listed_and_none_is_missing() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.sqz")) == sorted(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_is_read_as_ever(name: str) -> None:
    expected = dict(GOLDEN[name])
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected.pop("sha256"), "it was written again"
    assert described(FOLDER / name) == expected
    squeezer.verify(FOLDER / name)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "chunks" not in name])
def test_the_plain_decoder_reads_it_too(name: str) -> None:
    tensors, files, ledger = reference.decode((FOLDER / name).read_bytes())
    expected = GOLDEN[name]
    stored = {key: tensor for key, tensor in tensors.items() if key not in expected["aliases"]}
    assert {key: tensor_state(np.asarray(tensor)) for key, tensor in stored.items()} == expected["tensors"]
    assert {key: hashlib.sha256(content).hexdigest() for key, content in files.items()} == expected["files"]
    assert sum(ledger.values()) == (FOLDER / name).stat().st_size


def test_the_present_format_is_covered() -> None:
    """Every codec, representation and element type has its place in a golden file of this version."""
    ours = {name: entry for name, entry in GOLDEN.items() if name.startswith(f"format{VERSION}-")}
    codecs = {codec.name for codec in (*ARRAY_CODECS.values(), *SYMBOL_CODECS.values())}
    assert {f"format{VERSION}-{codec}.sqz" for codec in codecs} <= set(ours)
    assert {kind for entry in ours.values() for kind in entry["kinds"].values()} == set(KIND_ORDER)
    assert {state[0] for entry in ours.values() for state in entry["tensors"].values()} == set(DTYPES)
