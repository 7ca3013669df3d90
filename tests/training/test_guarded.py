"""Sizes that do not fit together, on memory that ends at a page which nobody may read."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from squeezer.errors import Code, ModelError
from squeezer.graph import Node, Value
from squeezer.training.guarded import GUARDED
from squeezer.training.network import Network
from tests.graph.networks import one

ATTENTION = "aten.scaled_dot_product_attention.default"
WEIGHTS = [(20, 4), (20, 5), (20,), (20,)]
#: Reads beyond a tensor in PyTorch 2.13 on the CPU.
BEYOND = """
import ctypes, mmap, torch
def guarded(*shape):
    count = torch.Size(shape).numel()
    size = -(-count * 4 // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(begin + size), mmap.PAGESIZE, 0)
    return torch.frombuffer(memory, dtype=torch.float32, count=count, offset=size - 4 * count).reshape(shape)
torch.set_num_threads(1)
torch.ops.aten._weight_norm.default(guarded(64, 64), guarded(1), 0)
"""


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.rand(shape) for shape in shapes]


def recurrent(name: str, x: tuple[int, ...], states: list[Any], weights: list[Any], *rest: Any) -> Any:
    hx = tensors(*states) if name == "lstm" else tensors(*states)[0]
    return GUARDED[f"aten.{name}.input"](
        *tensors(x), hx, tensors(*weights), *(rest or (True, 1, 0.0, False, False, True))
    )


def refused(call: Any) -> None:
    with pytest.raises(ModelError, match="do not fit together") as caught:
        call()
    assert caught.value.code is Code.INVALID_GRAPH


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 8, 8), (2, 3, 4, 8), (2, 3, 600, 8)),
        ((2, 3, 8, 8), (2, 3, 8, 8), (2, 3, 4, 8)),
        ((2, 3, 8, 8), (2, 3, 8, 4), (2, 3, 8, 8)),
        ((2, 3, 8, 8), (2, 3, 8, 8), (2, 1, 8, 8)),
        ((8, 8), (8, 8), (8,)),
    ],
)
def test_attention_that_does_not_fit(shapes: tuple[tuple[int, ...], ...]) -> None:
    refused(lambda: GUARDED[ATTENTION](*tensors(*shapes)))
    query, key, value = tensors(*shapes)
    refused(lambda: GUARDED[ATTENTION](query, value=value, key=key))


def test_attention_that_fits() -> None:
    for shapes in (((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)), ((5, 8), (7, 8), (7, 8))):
        q, k, v = tensors(*shapes)
        expected = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
        torch.testing.assert_close(GUARDED[ATTENTION](q, k, v), expected)


@pytest.mark.parametrize(
    ("states", "weights"),
    [
        ([(1, 3, 5), (1, 3, 5)], [(2, 2)] * 4),
        ([(1, 3, 5), (1, 3, 5)], [(20, 4), (20, 5), (3,), (3,)]),
        ([(1, 3, 5), (1, 3, 5)], WEIGHTS[:3]),
        ([(1, 3, 5), (1, 3, 5)], []),
        ([(1, 3, 5), (1, 3, 6)], WEIGHTS),
        ([(1, 2, 5), (1, 2, 5)], WEIGHTS),
        ([(2, 3, 5), (2, 3, 5)], WEIGHTS),
        ([(3, 5), (3, 5)], WEIGHTS),
        ([(1, 3, 5)], WEIGHTS),
        ([], WEIGHTS),
    ],
)
def test_recurrent_layers_that_do_not_fit(states: list[Any], weights: list[Any]) -> None:
    refused(lambda: recurrent("lstm", (3, 2, 4), states, weights))


def test_recurrent_layers_of_absurd_numbers() -> None:
    for layers in (-1, 0, 2, 2**62):
        refused(
            lambda layers=layers: recurrent(
                "gru", (3, 2, 4), [(1, 3, 5)], [(15, 4), (15, 5)], False, layers, 0.0, False, False, True
            )
        )


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True, "num_layers": 3}, {"proj_size": 2}])
def test_recurrent_layers_that_fit(name: str, bidirectional: bool, options: dict[str, Any]) -> None:
    if "proj_size" in options and name != "LSTM":
        pytest.skip("only an LSTM has projections")
    module = getattr(torch.nn, name)(4, 5, bidirectional=bidirectional, **options).eval()
    x = torch.rand(6, 3, 4)
    expected, _ = module(x)
    batch, lead = (6 if module.batch_first else 3), module.num_layers * (2 if bidirectional else 1)
    states = [torch.zeros(lead, batch, module.proj_size or 5), torch.zeros(lead, batch, 5)]
    found = GUARDED[f"aten.{'rnn_tanh' if name == 'RNN' else name.lower()}.input"](
        x,
        states if name == "LSTM" else states[1],
        list(module._flat_weights),
        module.bias,
        module.num_layers,
        0.0,
        False,
        bidirectional,
        module.batch_first,
    )
    torch.testing.assert_close(found[0], expected)


def test_weight_norm() -> None:
    run = GUARDED["aten._weight_norm.default"]
    for dim, size in ((0, 1), (1, 3), (5, 1), (-2, 4)):
        refused(lambda dim=dim, size=size: run(*tensors((4, 5), (size,)), dim))
    v, g = tensors((4, 5), (4, 1))
    torch.testing.assert_close(run(v, g), g * v / v.norm(dim=1, keepdim=True))
    torch.testing.assert_close(run(v, g[0, 0], -1), g[0, 0] * v / v.norm())


def test_offsets_stay_within_the_indices() -> None:
    run = GUARDED["aten.embedding_bag.padding_idx"]
    weight, indices = torch.rand(10, 4), torch.arange(5)
    rest = (False, 0, False, None, False, None)
    found = run(weight, indices, torch.tensor([0, 2]), *rest)[0]
    torch.testing.assert_close(found, torch.stack([weight[:2].sum(0), weight[2:5].sum(0)]))
    assert torch.equal(
        run(weight, indices, torch.tensor([0, -(10**6), 2]), *rest)[0],
        run(weight, indices, torch.tensor([0, 0, 2]), *rest)[0],
    )


def test_networks_are_guarded() -> None:
    network = Network(one("aten._weight_norm.default", Value("w"), Value("x"), 0))
    refused(lambda: network({"weight": torch.rand(64, 64)}, (torch.rand(1),)))
    bag = Node("aten.embedding_bag.padding_idx", (), ("y",))
    assert bag.target in GUARDED


def test_negative_control_pytorch_reads_beyond_a_tensor() -> None:
    done = subprocess.run([sys.executable, "-c", BEYOND], capture_output=True, timeout=60, check=False)
    assert done.returncode < 0
