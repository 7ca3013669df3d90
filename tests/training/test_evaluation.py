"""Every figure of an evaluation, against scikit-learn, scipy and plain numpy, on outputs that the tests choose."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import log_softmax, softmax
from sklearn import metrics

from squeezer.data import DataSpec
from squeezer.data.accept import Accept, judge
from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError
from squeezer.graph import Graph, Input, Node, Value
from squeezer.training.comparison import worst_class
from squeezer.training.evaluation import evaluate
from squeezer.training.runnable import of_graph
from tests.training.building import ArrayDataset

Array = NDArray[Any]


def silent(share: float, note: str = "") -> None:
    """Tell nobody."""


def chooser(which: int, outputs: tuple[int | None, ...], *after: str, batch: int | None = None) -> Graph:
    """A network that gives a part of its input, (b, 2, ...), so that a test can choose the outputs of two networks."""
    nodes = [Node("aten.select.int", (Value("x"), 1, which), ("y0",))]
    for i, operator in enumerate(after, 1):
        arguments = (Value(f"y{i - 1}"), *(() if operator == "sigmoid.default" else (-1,)))
        nodes.append(Node(f"aten.{operator}", arguments, (f"y{i}",)))
    given = Input("x", (batch, 2, *outputs), "F32")
    return Graph((given,), {}, frozenset(), tuple(nodes), (Value(f"y{len(after)}"),))


def compare(
    first: Array,
    second: Array,
    targets: Array | None,
    *,
    loss: Any = "cross_entropy",
    metric: Any = None,
    after: tuple[str, ...] = (),
    tell: Callable[..., None] = silent,
    batch_size: int | None = None,
    fixed: int | None = None,
) -> dict[str, Any]:
    """The evaluation of two networks with these outputs."""
    data = ArrayDataset((np.stack([first, second], 1).astype(np.float32),), targets, np.full(len(first), "test"))
    graphs = [chooser(i, first.shape[1:], *after, batch=fixed) for i in (0, 1)]
    spec = DataSpec(loss=loss, metric=metric)
    networks = [of_graph(graph, {}, spec.loss, "cpu") for graph in graphs]
    found = evaluate(*networks, data, spec, device="cpu", tell=tell, batch_size=batch_size)
    json.dumps(found, allow_nan=False)
    return found


def scores(n: int = 300, classes: int = 7, seed: int = 0) -> tuple[Array, Array, Array]:
    """Outputs of two networks that are often right, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    first = rng.normal(size=(n, classes)) + 2.5 * np.eye(classes)[labels]
    second = first + 0.8 * rng.normal(size=(n, classes))
    return first.astype(np.float32), second.astype(np.float32), labels


# Classification -------------------------------------------------------------------------------------------


def test_accuracy_flips_and_test() -> None:
    first, second, labels = scores()
    found = compare(first, second, labels)
    was, now = first.argmax(1) == labels, second.argmax(1) == labels
    assert found["metric"] == "accuracy"
    assert found["rows"] == 300
    assert found["original"]["value"] == pytest.approx(metrics.accuracy_score(labels, first.argmax(1)))
    assert found["result"]["value"] == pytest.approx(metrics.accuracy_score(labels, second.argmax(1)))
    assert found["drop"]["value"] == pytest.approx(was.mean() - now.mean())
    lost, won = int((was & ~now).sum()), int((~was & now).sum())
    assert lost > won > 0
    other = int((~was & ~now & (first.argmax(1) != second.argmax(1))).sum())
    flips = {"right_to_wrong": lost, "wrong_to_right": won, "wrong_to_other_wrong": other}
    assert found["flips"] == {"count": lost + won + other, "of": 300, "share": (lost + won + other) / 300, **flips}
    assert found["test"]["p"] == pytest.approx(stats.binomtest(lost, lost + won).pvalue)
    assert found["agreement"]["value"] == pytest.approx(np.mean(first.argmax(1) == second.argmax(1)))


def test_intervals_are_those_of_scipy() -> None:
    first, second, labels = scores(200)
    found = compare(first, second, labels)
    drops = (first.argmax(1) == labels).astype(float) - (second.argmax(1) == labels)
    for figure, values in (("drop", drops), ("original", (first.argmax(1) == labels).astype(float))):
        theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, rng=0).confidence_interval
        assert (found[figure]["low"], found[figure]["high"]) == pytest.approx(tuple(theirs), abs=0.011)


def test_divergence_and_calibration() -> None:
    first, second, labels = scores()
    found = compare(first, second, labels)
    p, q = softmax(first.astype(np.float64), 1), softmax(second.astype(np.float64), 1)
    assert found["divergence"] == pytest.approx(
        np.mean([stats.entropy(a, b) for a, b in zip(p, q, strict=True)]), rel=1e-5
    )
    for name, outputs in (("original", p), ("result", q)):
        confidence, right = outputs.max(1), outputs.argmax(1) == labels
        bins = [(confidence > a) & (confidence <= b) for a, b in pairwise(np.linspace(0, 1, 16))]
        wanted = sum(abs(right[b].sum() - confidence[b].sum()) for b in bins) / 300
        assert found["calibration_error"][name] == pytest.approx(wanted, abs=1e-6)


def test_a_network_and_itself() -> None:
    first, _, labels = scores()
    found = compare(first, first, labels)
    assert found["flips"]["count"] == 0
    assert found["test"]["p"] == 1.0
    assert found["drop"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["worst_class"] is None
    assert found["divergence"] == 0.0
    assert found["agreement"]["value"] == found["agreement"]["high"] == 1.0
    assert 0.98 < found["agreement"]["low"] < 1.0  # 300 of 300 are no proof of all
    assert "no prediction changed" in found["headline"]


def test_the_worst_class_is_named() -> None:
    """Class 3 is lost altogether; class 5, too, but it has too few examples to be looked at."""
    labels = np.r_[np.repeat(np.arange(5), 40), np.full(19, 5)]
    first = 4 * np.eye(6)[labels]
    second = first.copy()
    second[labels == 3] = 4 * np.eye(6)[2]
    second[labels == 5] = 4 * np.eye(6)[0]
    second[0] = 4 * np.eye(6)[1]
    worst = compare(first, second, labels)["worst_class"]
    p = 5 * stats.binomtest(40, 40).pvalue
    assert worst.pop("p") == pytest.approx(p)
    assert worst == {"class": 3, "examples": 40, "original": 1.0, "result": 0.0, "drop": 1.0, "looked_at": 5}


def test_a_class_that_gained_is_not_the_worst() -> None:
    assert worst_class(np.array([[50, 50], [40, 45], [44, 45], [1, 0], [5, 0]]), independent=True) is None


@pytest.mark.parametrize("after", [(), ("softmax.int",), ("log_softmax.int",)])
def test_a_softmax_within_the_network_changes_nothing(after: tuple[str, ...]) -> None:
    first, second, labels = scores()
    found, plain = compare(first, second, labels, after=after), compare(first, second, labels)
    assert found["calibration_error"]["result"] == pytest.approx(plain["calibration_error"]["result"], abs=1e-5)
    assert found["divergence"] == pytest.approx(plain["divergence"], rel=1e-3)
    assert found["flips"] == plain["flips"]


def test_top5() -> None:
    first, second, labels = scores(classes=30)
    found = compare(first, second, labels, metric="top5_accuracy")
    wanted = metrics.top_k_accuracy_score(labels, second, k=5, labels=np.arange(30))
    assert found["result"]["value"] == pytest.approx(wanted)
    assert found["result"]["value"] > compare(first, second, labels)["result"]["value"]


def test_perplexity() -> None:
    first, second, labels = scores()
    found = compare(first, second, labels, metric="perplexity")
    surprise = [-log_softmax(x.astype(np.float64), 1)[np.arange(300), labels] for x in (first, second)]
    assert found["original"]["value"] == pytest.approx(np.exp(surprise[0].mean()), rel=1e-5)
    assert found["better"] == "lower"
    assert found["drop"]["value"] == pytest.approx(np.exp(surprise[1].mean()) - np.exp(surprise[0].mean()), rel=1e-4)
    assert found["test"]["name"] == "paired permutation"


@pytest.mark.parametrize("after", [(), ("sigmoid.default",)])
def test_binary(after: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 3)) < 0.4).astype(np.float32)
    first = (rng.normal(size=(200, 3)) + 2 * targets - 1).astype(np.float32)
    second = first + 0.5 * rng.normal(size=(200, 3)).astype(np.float32)
    found = compare(first, second, targets, loss="binary_cross_entropy", after=after)
    assert found["result"]["value"] == pytest.approx(np.mean((second > 0) == (targets > 0.5)))
    assert found["agreement"]["value"] == pytest.approx(np.mean((first > 0) == (second > 0)))
    p, q = 1 / (1 + np.exp(-first.astype(np.float64))), 1 / (1 + np.exp(-second.astype(np.float64)))
    wanted = np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    assert found["divergence"] == pytest.approx(wanted, rel=1e-3)
    # Three answers of one example are not independent, so that it is no case for McNemar.
    assert found["test"]["name"] == "paired permutation"


def test_one_yes_or_no_for_each_example() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(200) < 0.4).astype(np.float32)
    first = (rng.normal(size=(200, 1)) + 2 * targets[:, None] - 1).astype(np.float32)
    found = compare(first, first - 0.5, targets, loss="binary_cross_entropy")
    assert found["test"]["name"] == "McNemar, exact"
    assert found["result"]["value"] == pytest.approx(np.mean((first[:, 0] > 0.5) == (targets > 0.5)))


# Many positions in each example ---------------------------------------------------------------------------


def images(n: int = 60, classes: int = 4) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, (n, 5, 6))
    first = rng.normal(size=(n, classes, 5, 6)) + 2 * np.moveaxis(np.eye(classes)[labels], -1, 1)
    labels[:, 0, :2] = -100
    return first, first + 0.7 * rng.normal(size=first.shape), labels


def test_segmentation() -> None:
    first, second, labels = images()
    found = compare(first, second, labels, metric="mean_iou")
    counted = labels != -100
    guess = second.argmax(1)
    wanted = metrics.jaccard_score(labels[counted], guess[counted], average="macro")
    assert found["result"]["value"] == pytest.approx(wanted)
    assert found["flips"]["of"] == counted.sum()
    assert found["agreement"]["value"] == pytest.approx(np.mean((first.argmax(1) == guess)[counted]))
    assert found["worst_class"]["p"] is None


def test_a_class_that_is_nowhere_counts_nothing_in_the_mean() -> None:
    first, second, labels = images()
    low = np.full_like(first[:, :1], -50)
    found = compare(np.concatenate([first, low], 1), np.concatenate([second, low], 1), labels, metric="mean_iou")
    assert found["original"]["value"] == pytest.approx(
        compare(first, second, labels, metric="mean_iou")["original"]["value"]
    )


def test_tokens_have_their_classes_last() -> None:
    first, second, labels = images()
    lines = [np.moveaxis(x, 1, -1).reshape(60, 30, 4) for x in (first, second)]
    found = compare(*lines, labels.reshape(60, 30))
    counted = labels != -100
    assert found["result"]["value"] == pytest.approx(np.mean((second.argmax(1) == labels)[counted]))
    assert found["test"]["name"] == "paired permutation"


def test_pixels_of_one_image_are_not_drawn_apart() -> None:
    """Images are all right or all wrong, so that 40 of them tell no more than 40 pixels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, 40), 100).reshape(40, 100)
    wrong = rng.random(40) < 0.3
    outputs = np.eye(2)[np.where(wrong[:, None], 1 - labels, labels)]
    found = compare(outputs, outputs, labels)["original"]
    assert found["high"] - found["low"] > 0.2


# Values ---------------------------------------------------------------------------------------------------


def values(n: int = 150, outputs: int = 3) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(2)
    targets = (rng.normal(size=(n, outputs)) * [1, 2, 5][:outputs] + [0, 50, -7][:outputs]).astype(np.float32)
    first = targets + 0.5 * rng.normal(size=targets.shape)
    return first.astype(np.float32), (first + 0.3 * rng.normal(size=targets.shape)).astype(np.float32), targets


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("mse", metrics.mean_squared_error),
        ("mae", metrics.mean_absolute_error),
        ("r2", lambda y, x: metrics.r2_score(y, x, multioutput="variance_weighted")),
        (
            "cosine_similarity",
            lambda y, x: np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(y, x, strict=True)]),
        ),
    ],
)
def test_regression(metric: str, reference: Callable[[Array, Array], float]) -> None:
    first, second, targets = values()
    found = compare(first, second, targets, loss="mse", metric=metric)
    before, after = reference(targets, first), reference(targets, second)
    assert found["original"]["value"] == pytest.approx(before, rel=1e-4)
    assert found["result"]["value"] == pytest.approx(after, rel=1e-4)
    assert found["drop"]["value"] == pytest.approx(abs(after - before), rel=0.01)  # the result is worse: a drop
    assert found["drop"]["low"] < found["drop"]["value"] < found["drop"]["high"]
    assert found["flips"] is found["agreement"] is found["calibration_error"] is None


def test_the_drop_of_an_error_is_what_it_grew_by_and_chance_is_told_apart() -> None:
    first, second, targets = values()
    assert compare(first, second, targets, loss="mse")["test"]["p"] < 0.01
    rng = np.random.default_rng(0)
    one, other = (targets + 0.5 * rng.normal(size=targets.shape) for _ in range(2))
    found = compare(one, other, targets, loss="mse")
    assert found["test"]["p"] > 0.05
    assert "cannot be told from none" in found["headline"]


def test_deviation_is_over_the_spread() -> None:
    first, second, _ = values()
    found = compare(first, second, None, loss="l1")["deviation"]
    spread = np.sqrt(first.astype(np.float64).var(0).mean())
    difference = np.abs(second - first)
    assert found["spread"] == pytest.approx(spread, rel=1e-5)
    assert found["mean"] == pytest.approx(difference.mean() / spread, rel=1e-5)
    assert found["largest"] == pytest.approx(difference.max() / spread, rel=1e-5)


def test_many_outputs_share_one_mean() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(20, 8, 9)).astype(np.float32)
    outputs = targets + 0.3 * rng.normal(size=targets.shape)
    found = compare(outputs, outputs, targets, loss="mse", metric="r2")
    assert found["original"]["value"] == pytest.approx(metrics.r2_score(targets.ravel(), outputs.ravel()), rel=1e-4)


def test_constant_targets_explain_nothing() -> None:
    outputs = np.random.default_rng(0).normal(size=(30, 1))
    found = compare(outputs, outputs, np.full((30, 1), 4.0, np.float32), loss="mse", metric="r2")
    assert found["original"] == {"value": None, "low": None, "high": None}
    assert found["test"]["p"] is None
    assert "could not be measured" in found["headline"]


# Without labels, and with bad outputs ---------------------------------------------------------------------


def test_without_labels_the_headline_says_so() -> None:
    first, second, labels = scores()
    found = compare(first, second, None)
    labelled = compare(first, second, labels)
    assert found["headline"].startswith("No labels, so the accuracy is unknown")
    assert found["metric"] is found["original"] is found["drop"] is found["test"] is found["flips"] is None
    assert found["agreement"] == labelled["agreement"]
    assert found["divergence"] == labelled["divergence"]


def test_what_was_not_measured_is_not_accepted() -> None:
    first, second, _ = scores()
    found = compare(first, second, None)
    assert "could not be measured" in (judge(found, Accept(max_drop=0.5)) or "")
    assert judge(found, Accept(min_agreement=0.1)) is None


def test_outputs_that_are_no_numbers_are_never_right() -> None:
    first, _, labels = scores()
    second = first.copy()
    second[:10, labels[0]] = np.nan
    second[10:15] = np.nan
    found = compare(first, second, labels)
    assert found["non_finite"] == {"original": 0, "result": 15}
    right = (first.argmax(1) == labels) & (np.arange(300) >= 15)
    assert found["result"]["value"] == pytest.approx(right.mean())
    assert found["headline"].startswith("The result's output is not a finite number on 15 of 300 held-out examples.")
    broken = compare(first, np.full_like(first, np.nan), labels)
    assert broken["result"]["value"] == broken["agreement"]["value"] == 0.0
    assert broken["divergence"] is None


def test_errors_that_are_no_numbers() -> None:
    first, second, targets = values()
    second[3, 0] = np.inf
    found = compare(first, second, targets, loss="mse")
    assert found["result"]["value"] is None
    assert found["non_finite"]["result"] == 1
    assert found["deviation"]["largest"] < 10
    assert judge(found, Accept(max_drop=0.5))


def test_a_class_that_is_ruled_out_keeps_figures_finite() -> None:
    first, second, labels = scores()
    first[:, 6] = second[:, 6] = -np.inf
    labels = labels % 6
    assert compare(first, second, labels)["divergence"] < 5


# What must not matter -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 300, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    first, second, labels = scores()
    found, wanted = compare(first, second, labels, batch_size=batch_size), compare(first, second, labels)
    assert found.pop("divergence") == pytest.approx(wanted.pop("divergence"), rel=1e-5)
    errors = found.pop("calibration_error"), wanted.pop("calibration_error")
    assert errors[0] == pytest.approx(errors[1])
    assert found == wanted


def test_a_network_of_one_batch_size_gets_it() -> None:
    first, second, labels = scores(301)
    assert compare(first, second, labels, fixed=16)["flips"] == compare(first, second, labels)["flips"]


def test_progress_is_told_to_the_end() -> None:
    first, second, labels = scores()
    told: list[float] = []
    compare(first, second, labels, batch_size=64, tell=lambda share, note="": told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) == 5


# What is refused ------------------------------------------------------------------------------------------


def test_labels_beyond_the_classes() -> None:
    first, second, labels = scores()
    with pytest.raises(DataError, match="label 7, and the network tells 7 classes apart") as caught:
        compare(first, second, np.where(labels == 6, 7, labels))
    assert caught.value.code is Code.INVALID_DATA


def test_targets_of_another_shape() -> None:
    first, second, targets = values()
    with pytest.raises(DataError, match="must be the same"):
        compare(first, second, targets[:, :2], loss="mse")
    with pytest.raises(DataError, match="without its axis of classes"):
        compare(first, second, np.zeros((150, 2), np.int64))


def test_outputs_of_two_shapes() -> None:
    x = np.zeros((30, 2, 5), np.float32)
    data = ArrayDataset((x,), None, np.full(30, "test"))
    graphs = (
        chooser(0, (5,)),
        Graph(
            (Input("x", (None, 2, 5), "F32"),),
            {},
            frozenset(),
            (Node("aten.select.int", (Value("x"), 2, 0), ("y",)),),
            (Value("y"),),
        ),
    )
    with pytest.raises(DataError, match="cannot be compared"):
        evaluate(
            *(of_graph(graph, {}, "cross_entropy", "cpu") for graph in graphs),
            data,
            DataSpec(),
            device="cpu",
            tell=silent,
        )


def test_no_rows() -> None:
    data = ArrayDataset((np.zeros((3, 2, 5), np.float32),), None, np.full(3, "train"))
    network = of_graph(chooser(0, (5,)), {}, "cross_entropy", "cpu")
    with pytest.raises(DataError, match="no test rows") as caught:
        evaluate(network, network, data, DataSpec(), device="cpu", tell=silent)
    assert caught.value.code is Code.TOO_FEW_ROWS


# The sentence ---------------------------------------------------------------------------------------------


def test_the_headline_has_the_figures() -> None:
    first, second, labels = scores(360, seed=4)
    found = compare(first, second, labels)
    before, after = (100 * found[name]["value"] for name in ("original", "result"))
    low, high = 100 * found["drop"]["low"], 100 * found["drop"]["high"]
    assert found["headline"].startswith(
        f"{before:.1f} -> {after:.1f} % accuracy on 360 held-out examples; the drop of {before - after:.1f} points "
        f"(95 %: {low:.1f} to {high:.1f}) is no accident (p "
    )


def test_a_gain_is_called_one_and_an_interval_turns_with_it() -> None:
    first, second, labels = scores(360, seed=4)
    found = compare(second, first, labels)
    low, high = -100 * found["drop"]["high"], -100 * found["drop"]["low"]
    assert (
        f"the gain of {-100 * found['drop']['value']:.1f} points (95 %: {low:.1f} to {high:.1f})" in found["headline"]
    )


def test_validation_rows_are_called_so() -> None:
    first, _, labels = scores(50)
    data = ArrayDataset((np.stack([first, first], 1),), labels, np.full(50, "validation"))
    network = of_graph(chooser(0, (7,)), {}, "cross_entropy", "cpu")
    found = evaluate(network, network, data, DataSpec(), device="cpu", tell=silent, split=Split.VALIDATION)
    assert "on 50 validation examples" in found["headline"]
