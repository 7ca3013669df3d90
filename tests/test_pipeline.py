"""The pipeline: what a recipe does to a whole model, and what its report says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import squeezer
from squeezer import pipeline
from squeezer.errors import Code, ModelError, RecipeError
from squeezer.model import Dropped, InMemoryModel
from squeezer.progress import Progress
from squeezer.recipe import parse_recipe
from squeezer.report import Report
from tests import reference

PRUNE = {"method": "magnitude_prune", "sparsity": 0.9}
SHARE = {"method": "kmeans_share", "bits": 4}
ROUND = {"method": "uniform_quantize", "bits": 5}


def model() -> InMemoryModel:
    random = np.random.default_rng(0)
    arrays = {
        "conv.weight": random.standard_normal((16, 8, 3, 3)).astype(np.float32),
        "bn.weight": random.standard_normal(16).astype(np.float32),
        "bn.num_batches_tracked": np.array(12, np.int64),
        "fc.weight": random.standard_normal((30, 64)).astype(np.float16),
        "fc.bias": random.standard_normal(30).astype(np.float32),
        "empty.weight": np.empty((0, 4), np.float32),
    }
    return InMemoryModel(
        arrays,
        input_bytes=99,
        aliases={"head.weight": "fc.weight"},
        dropped=[Dropped("epoch", "not a tensor")],
        contents={"config.json": b"{}"},
    )


def run(
    tmp_path: Path, recipe: object, source: InMemoryModel | None = None, **options: object
) -> tuple[Report, dict[str, np.ndarray]]:
    out = tmp_path / "m.sqz"
    report = pipeline.run(source or model(), parse_recipe(recipe), out, **options)  # type: ignore[arg-type] # test helper
    return report, squeezer.load(out)


def test_lossless_is_bit_for_bit(tmp_path: Path) -> None:
    source = model()
    source.arrays["conv.weight"][0, 0, 0] = [np.nan, np.inf, -0.0]
    report, loaded = run(tmp_path, "lossless", source)
    for name, array in source.arrays.items():
        assert loaded[name].tobytes() == array.tobytes()
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
    assert report.headline.startswith("Lossless")
    assert all(layer.relative_error == 0 for layer in report.layers)


def test_names_shapes_and_types_come_back(tmp_path: Path) -> None:
    for recipe in ("safe", "deep-compression"):
        _, loaded = run(tmp_path, recipe)
        expected = {name: (array.shape, array.dtype) for name, array in model().arrays.items()}
        expected["head.weight"] = expected["fc.weight"]
        assert {name: (array.shape, array.dtype) for name, array in loaded.items()} == expected
        assert loaded["bn.num_batches_tracked"] == 12


def test_the_report_tells_the_truth(tmp_path: Path) -> None:
    source = model()
    report, loaded = run(tmp_path, "deep-compression")
    size = (tmp_path / "m.sqz").stat().st_size
    assert report.output_bytes == size == sum(report.ledger.values())
    assert report.tensor_bytes == sum(array.nbytes for array in source.arrays.values())
    assert report.ratio == report.tensor_bytes / size
    assert report.input_bytes == 99
    assert [item["method"] for item in report.left_out] == ["gradual_prune", "finetune"]
    assert all("network itself" in item["reason"] for item in report.left_out)
    assert [(step.method, step.tensors) for step in report.steps] == [
        ("magnitude_prune", 2),
        ("kmeans_share", 2),
    ]
    assert report.dropped == [{"name": "epoch", "reason": "not a tensor"}]
    assert report.files == {"config.json": 2}
    assert "Accuracy was not measured and is likely lost" in report.headline
    for layer in report.layers:
        original, decoded = (
            source.arrays[layer.name].astype(np.float64),
            loaded[layer.name].astype(np.float64),
        )
        error = np.linalg.norm(decoded - original) / (np.linalg.norm(original) or 1)
        assert layer.relative_error == pytest.approx(error, rel=1e-6)
        assert layer.sparsity == pytest.approx((decoded == 0).mean() if decoded.size else 0)
    _, _, ledger = reference.decode((tmp_path / "m.sqz").read_bytes())
    assert +ledger == {key: value for key, value in report.ledger.items() if value}


@pytest.mark.parametrize("preset", ["lossless", "safe", "deep-compression"])
def test_reference_decodes_every_preset(tmp_path: Path, preset: str) -> None:
    _, loaded = run(tmp_path, preset)
    tensors, files, ledger = reference.decode((tmp_path / "m.sqz").read_bytes())
    assert files == {"config.json": b"{}"}
    assert sum(ledger.values()) == (tmp_path / "m.sqz").stat().st_size
    for name, array in loaded.items():
        assert array.tobytes() == tensors[name].tobytes()


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e300])
def test_the_report_is_finite_for_numbers_of_any_size(tmp_path: Path, scale: float) -> None:
    source = InMemoryModel({"w": np.random.default_rng(0).standard_normal((8, 8)) * scale})
    report, _ = run(tmp_path, {"steps": [], "encoding": {"small_tensors": "float16"}}, source)
    json.dumps(report.to_json(), allow_nan=False)


def test_zeros_of_a_pruned_tensor_survive_sharing_and_rounding(tmp_path: Path) -> None:
    _, pruned = run(tmp_path, {"steps": [PRUNE]})
    for later in (SHARE, ROUND):
        _, loaded = run(tmp_path, {"steps": [PRUNE, later]})
        assert (loaded["conv.weight"][pruned["conv.weight"] == 0] == 0).all()
    _, shared = run(tmp_path, {"steps": [PRUNE, SHARE]})
    assert np.array_equal(shared["conv.weight"] == 0, pruned["conv.weight"] == 0)


def test_small_tensors(tmp_path: Path) -> None:
    source = model()
    source.arrays |= {
        "large.bias": np.float32([1e6, 1]),
        "tiny.bias": np.float32([1e-6, 2e-6]),
        "nan.bias": np.float32([np.nan, 1]),
        "zero.bias": np.zeros(3, np.float32),
        "double.bias": np.float64([1 / 3]),
    }
    _, rounded = run(tmp_path, {"steps": [], "encoding": {"small_tensors": "float16"}}, source)
    _, exact = run(tmp_path, {"steps": [], "encoding": {"small_tensors": "exact"}}, source)
    for name, array in source.arrays.items():
        assert exact[name].tobytes() == array.tobytes()
        if name in ("fc.bias", "double.bias", "conv.weight"):
            assert np.array_equal(rounded[name], array.astype(np.float16).astype(array.dtype))
            assert rounded[name].tobytes() != array.tobytes()
        else:
            assert rounded[name].astype(array.dtype).tobytes() == array.tobytes() or name == "bn.weight"


def test_overrides_and_globs_choose_tensors(tmp_path: Path) -> None:
    step = PRUNE | {
        "exclude": ["conv*"],
        "overrides": {"fc*": {"sparsity": 0.5}, "nothing*": {"sparsity": 0.1}},
    }
    report, loaded = run(tmp_path, {"steps": [step]})
    assert (loaded["fc.weight"] == 0).mean() == 0.5
    assert np.array_equal(loaded["conv.weight"], model().arrays["conv.weight"].astype(np.float16))
    assert report.warnings == ["magnitude_prune: no tensor fits the override 'nothing*'"]


def test_global_scope_sees_what_earlier_steps_left(tmp_path: Path) -> None:
    half = {"method": "magnitude_prune", "sparsity": 0.5, "include": ["conv*"]}
    _, loaded = run(tmp_path, {"steps": [half, {"method": "magnitude_prune", "sparsity": 0.75, "scope": "global"}]})
    weights = np.concatenate([loaded[name].reshape(-1) for name in ("conv.weight", "fc.weight")])
    assert (weights == 0).sum() == round(0.75 * weights.size)
    first = model().arrays["conv.weight"]
    assert (loaded["conv.weight"][np.abs(first) < np.median(np.abs(first))] == 0).all()


def test_threads_change_nothing(tmp_path: Path) -> None:
    for recipe in ("safe", {"steps": [PRUNE | {"scope": "global"}, SHARE]}):
        files = []
        for threads in (1, 3):
            run(tmp_path, recipe, threads=threads)
            files.append((tmp_path / "m.sqz").read_bytes())
        assert files[0] == files[1]


def test_progress_rises_to_one(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(tmp_path, {"steps": [PRUNE | {"scope": "global"}, ROUND | {"scope": "global"}]}, progress=seen.append)
    shares = [event.progress for event in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert {event.stage for event in seen} == {"magnitude_prune", "uniform_quantize", "encode"}
    assert all(event.eta_seconds is None or event.eta_seconds >= 0 for event in seen)


@pytest.mark.parametrize(
    ("recipe", "arrays", "code", "words"),
    [
        (
            "safe",
            {"ids": np.arange(9).reshape(3, 3)},
            Code.NOTHING_TO_COMPRESS,
            ["this model has none", "lossless"],
        ),
        (
            {"steps": [PRUNE | {"include": ["fc*"]}]},
            {"w": np.ones((2, 2), np.float32)},
            Code.NOTHING_TO_COMPRESS,
            ["fc*", "there are w"],
        ),
        ("safe", {"w": np.float32([[1, np.nan], [np.inf, 0]])}, Code.NON_FINITE_WEIGHTS, ["'w'", "2"]),
        ("deep-compression", {"w": np.float32([[1, np.nan], [2, 0]])}, Code.NON_FINITE_WEIGHTS, ["'w'", "1"]),
    ],
)
def test_models_that_cannot_be_compressed_as_asked(
    tmp_path: Path, recipe: object, arrays: dict[str, np.ndarray], code: Code, words: list[str]
) -> None:
    with pytest.raises(ModelError) as error:
        run(tmp_path, recipe, InMemoryModel(arrays))
    assert error.value.code is code
    for word in words:
        assert word in error.value.detail
    assert list(tmp_path.iterdir()) == []


def test_a_transition_that_makes_no_sense_on_one_tensor_is_refused_before_any_work(tmp_path: Path) -> None:
    recipe = {"steps": [SHARE | {"include": ["fc*"]}, ROUND | {"include": ["*weight"]}]}
    with pytest.raises(RecipeError, match=r"'fc\.weight'.*uniform_quantize cannot follow kmeans_share"):
        run(tmp_path, recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_tensors_of_its_own_size_still_makes_a_file(tmp_path: Path) -> None:
    report, loaded = run(tmp_path, "lossless", InMemoryModel({"a": np.empty((0,), np.float32)}))
    assert loaded["a"].shape == (0,)
    assert report.ratio == 0
