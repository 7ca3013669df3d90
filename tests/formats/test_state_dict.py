"""Which of the dicts in a checkpoint is the model."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch

from squeezer.errors import Code, ModelError
from squeezer.formats.state_dict import choose_state_dict


def weights(size: int = 10) -> dict[str, torch.Tensor]:
    return OrderedDict({"module.w": torch.rand(size), "module.b": torch.rand(2)})


def optimizer() -> dict[str, Any]:
    """Twice the size of the model, as Adam's is."""
    return {
        "state": {0: {"exp_avg": torch.rand(1000), "step": torch.tensor(3.0)}},
        "param_groups": [{"lr": 0.1}],
    }


MODEL = weights()
ONE = {"one": torch.rand(3)}
EMA = weights(10)
BIG = weights(500)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (MODEL, MODEL),
        ({"state_dict": MODEL}, MODEL),
        ({"model_state": MODEL, "optimizer_state": optimizer()}, MODEL),
        ({"model": MODEL, "optimizer": optimizer(), "epoch": 2}, MODEL),
        ({"model": MODEL, "opt": {"a": torch.rand(5000)}}, MODEL),
        ({"a": {"b": {"c": [{"model": MODEL}]}}}, MODEL),
        ({"optimizer_states": [optimizer()], "state_dict": MODEL, "loops": {}}, MODEL),
        ([MODEL, optimizer()], MODEL),
        ({"anything": MODEL, "adam": optimizer()}, MODEL),  # told by its param_groups
        ({"ema": EMA, "model": MODEL}, MODEL),
        ({"model_ema": EMA, "model": MODEL}, MODEL),
        ({"state_dict_ema": BIG, "something": MODEL}, MODEL),
        ({"model_ema": {"state_dict": BIG}, "weights": MODEL}, MODEL),
        ({"ema": EMA}, EMA),
        ({"discriminator": MODEL, "generator": BIG}, BIG),
        ({"generator": BIG, "discriminator": MODEL}, BIG),
        ({"b": MODEL, "a": EMA}, MODEL),  # equally large: the first
        ({"state_dict": MODEL, "replay_buffer": BIG}, MODEL),  # the well-known key
        ({"state_dict": MODEL, "best_accuracy": torch.tensor(0.5)}, MODEL),
        ({"emanate": ONE, "z": {"small": torch.rand(1)}}, ONE),  # "ema" is a word, not a prefix
    ],
)
def test_the_model_is_found(document: Any, expected: dict[str, torch.Tensor]) -> None:
    chosen = choose_state_dict(document).tensors
    assert list(chosen) == list(expected)
    assert all(chosen[name] is tensor for name, tensor in expected.items())


def test_everything_else_is_listed() -> None:
    document = {
        "model": {**MODEL, "_extra_state": {"scale": 2}, "steps": 7, 5: torch.rand(1)},
        "ema": EMA,
        "optimizer": optimizer(),
        "epoch": 3,
        "accuracy": torch.tensor(0.9),
        "config": {"lr": 0.1},
    }
    dropped = {item.name: item.reason for item in choose_state_dict(document).dropped}
    assert dropped == {
        "model._extra_state": "not a tensor (dict)",
        "model.steps": "not a tensor (int)",
        "model.5": "a tensor outside of the state dict, which is model",
        "ema": "another set of tensors (2); the model was taken from model",
        "optimizer": "optimizer or other training state (2 tensors)",
        "epoch": "not a tensor (int)",
        "accuracy": "a tensor outside of the state dict, which is model",
        "config": "not a tensor (dict)",
    }


def test_a_flat_state_dict_drops_nothing() -> None:
    assert choose_state_dict(MODEL).dropped == []


@pytest.mark.parametrize("document", [{}, None, {"optimizer": optimizer()}, {0: torch.rand(2)}, {"a": [1, "x"]}])
def test_no_model(document: Any) -> None:
    with pytest.raises(ModelError) as caught:
        choose_state_dict(document)
    assert caught.value.code is Code.NO_TENSORS


def test_containers_that_hold_themselves_or_are_very_deep() -> None:
    loop: dict[str, Any] = {"model": MODEL}
    loop["self"] = loop
    loop["list"] = [loop]
    assert list(choose_state_dict(loop).tensors) == list(MODEL)
    deep: Any = {"x": torch.rand(1)}
    for _ in range(5000):
        deep = [deep]
    assert list(choose_state_dict({"model": MODEL, "deep": deep}).tensors) == list(MODEL)
    with pytest.raises(ModelError):
        choose_state_dict(deep)
