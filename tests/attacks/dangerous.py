"""Opens uploads in every way that Squeezer never does, confined or not: `dangerous.py FOLDER confined|free`.

`FOLDER/input/plan.json` says which file is to be opened in which way, one after another.
"""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np

FOLDER = Path(sys.argv[1])


def load_pickle(path: Path) -> object:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301 - the point of it


def load_npz(path: Path) -> object:
    return np.load(path, allow_pickle=True)["x"]


def load_checkpoint(path: Path) -> object:
    import torch

    return torch.load(path, weights_only=False)


def load_exported(path: Path) -> object:
    import torch

    return torch.export.load(path)


def load_script(path: Path) -> object:
    import torch

    return torch.jit.load(path)


def evaluate(path: Path) -> object:
    return eval(path.read_text())  # noqa: S307 - the point of it


def sympify(path: Path) -> object:
    import sympy

    return sympy.sympify(path.read_text())


def map_a_file(path: Path) -> object:
    """What the operator `aten.from_file` does, with the name that the upload gives it."""
    import torch

    return torch.from_file(path.read_text(), shared=True, size=4)


def unpack(path: Path) -> None:
    """As some programs do: wherever the names lead."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            target = FOLDER / "output" / info.filename
            if info.external_attr >> 28 == 0xA:
                target.symlink_to(archive.read(info).decode())
            else:
                target.write_bytes(archive.read(info))


def external_data(path: Path) -> None:
    """A tensor of an ONNX file whose data lie in another file, as some readers resolve it."""
    import onnx

    (tensor,) = onnx.load(path, load_external_data=False).graph.initializer
    location = next(entry.value for entry in tensor.external_data if entry.key == "location")
    (FOLDER / "output" / f"{path.name}.secret").write_bytes((path.parent / location).read_bytes())


def main() -> None:
    if sys.argv[2] == "confined":
        from squeezer import sandbox

        sandbox.enter(FOLDER)
    for name, way in json.loads((FOLDER / "input" / "plan.json").read_text()).items():
        try:
            globals()[way](FOLDER / "input" / name)
        except BaseException as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        else:
            print(f"{name}: opened", flush=True)


main()
