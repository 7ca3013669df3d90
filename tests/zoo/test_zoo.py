"""The built-in networks: sizes and names as published, and what is said of weights that do not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from squeezer import zoo
from squeezer.errors import Code, ModelError, RecipeError
from squeezer.graph import check
from squeezer.model import TensorInfo
from squeezer.training.network import Network
from squeezer.zoo.catalogue import family_of
from squeezer.zoo.resnet import Block, CifarResNet

if TYPE_CHECKING:
    from squeezer.graph import Graph

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = list(zoo.ARCHITECTURES)
#: Smaller inputs than the published ones, where a network takes them: tests are quicker.
SHAPES = {"squeezenet1_1": (3, 40, 40), "deepsense-gru": (3, 4, 2, 8), "deepsense-lstm": (1, 5, 3, 12)}


def infos(module: torch.nn.Module, prefix: str = "") -> dict[str, TensorInfo]:
    return {
        prefix + name: TensorInfo(prefix + name, tuple(tensor.shape), tensor.numpy().dtype)
        for name, tensor in module.state_dict().items()
    }


def refusal(name: str, tensors: dict[str, TensorInfo], **kwargs: Any) -> str:
    with pytest.raises(ModelError) as caught:
        zoo.graph_for(name, tensors, **kwargs)
    assert caught.value.code == Code.MISMATCHED_ARCHITECTURE
    return caught.value.detail


def run(graph: Graph, module: torch.nn.Module, x: torch.Tensor, prefix: str = "") -> torch.Tensor:
    tensors = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        result = Network(graph)({name: tensors[name] for name in graph.tensors.values()}, (x,))
    assert isinstance(result, torch.Tensor)
    return result


# -- sizes and names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # 784 x 300 + 300 + 300 x 100 + 100 + 100 x 10 + 10; Han et al. 2016, table 2, has 266 K
        ("lenet-300-100", 266_610),
        # 25 x 20 + 20 + 500 x 50 + 50 + 800 x 500 + 500 + 500 x 10 + 10; table 3 has 431 K
        ("lenet5", 431_080),
        ("squeezenet1_1", 1_235_496),  # as torchvision says of its weights
        # He et al. 2016, table 6, in units of 10,000
        ("resnet20", 270_000),
        ("resnet32", 460_000),
        ("resnet44", 660_000),
        ("resnet56", 850_000),
        ("resnet110", 1_730_000),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name: str, count: int) -> None:
    found = sum(parameter.numel() for parameter in zoo.build(name).parameters())
    assert abs(found - count) <= (5_000 if name.startswith("resnet") else 0)


def test_the_transformer_has_the_parameters_of_its_formula() -> None:
    """Of ViT-Ti's width 192: 12 d^2 + 13 d a layer, the patches' projection, positions, the last norm, the head."""
    d = 192
    expected = 6 * (12 * d**2 + 13 * d) + (48 * d + d) + 64 * d + 2 * d + (10 * d + 10)
    assert sum(parameter.numel() for parameter in zoo.build("vit-cifar").parameters()) == expected


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110])
def test_a_resnet_has_the_layers_and_the_names_of_its_checkpoints(layers: int) -> None:
    """akamaster/pytorch_resnet_cifar10: conv1, bn1, layerL.B.convC and bnC, linear; all shortcuts without weights."""
    n = (layers - 2) // 6
    norms = ["bn1", *(f"layer{part}.{b}.bn{i}" for part in (1, 2, 3) for b in range(n) for i in (1, 2))]
    expected = {f"{name.replace('bn', 'conv')}.weight" for name in norms} | {"linear.weight", "linear.bias"}
    expected |= {
        f"{name}.{part}"
        for name in norms
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert set(zoo.build(f"resnet{layers}").state_dict()) == expected
    assert sum(name.endswith(".weight") and "bn" not in name for name in expected) == layers


def test_squeezenet_has_the_names_and_shapes_of_torchvision() -> None:
    fires = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
    fires |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
    expected: dict[str, tuple[int, ...]] = {"features.0": (64, 3, 3, 3), "classifier.1": (1000, 512, 1, 1)}
    for place, (inputs, squeezed, expanded) in fires.items():
        expected[f"features.{place}.squeeze"] = (squeezed, inputs, 1, 1)
        expected[f"features.{place}.expand1x1"] = (expanded, squeezed, 1, 1)
        expected[f"features.{place}.expand3x3"] = (expanded, squeezed, 3, 3)
    state = zoo.build("squeezenet1_1").state_dict()
    found = {name.removesuffix(".weight"): tuple(state[name].shape) for name in state if name.endswith("weight")}
    assert found == expected
    assert {name for name in state if name.endswith("bias")} == {f"{name}.bias" for name in expected}


def test_lenet_and_the_transformer_have_the_names_of_the_field() -> None:
    assert list(zoo.build("lenet5").state_dict()) == [
        f"{layer}.{part}" for layer in ("conv1", "conv2", "fc1", "fc2") for part in ("weight", "bias")
    ]
    block = [f"{layer}.{part}" for layer in ("norm1", "attn.qkv", "attn.proj") for part in ("weight", "bias")]
    block += [f"{layer}.{part}" for layer in ("norm2", "mlp.fc1", "mlp.fc2") for part in ("weight", "bias")]
    expected = ["pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    expected += [f"blocks.{i}.{name}" for i in range(6) for name in block]
    expected += ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert list(zoo.build("vit-cifar").state_dict()) == expected


def test_depths_that_no_resnet_has_are_refused() -> None:
    with pytest.raises(ValueError, match="6n"):
        CifarResNet(21)


def test_a_stage_halves_the_image_and_pads_the_shortcut_on_both_sides() -> None:
    block = Block(16, 32, 2).eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_the_transformer_does_not_mind_where_its_positions_are_the_same() -> None:
    """Without positions, patches in another order give the same answer; with them, another."""
    torch.manual_seed(0)
    network = zoo.build("vit-cifar").eval()
    torch.nn.init.normal_(network.get_parameter("pos_embed"))
    x = torch.randn(2, 3, 32, 32)
    patches = x.reshape(2, 3, 8, 4, 8, 4).permute(0, 2, 4, 1, 3, 5).reshape(2, 64, 3, 4, 4)
    shuffled = patches[:, torch.randperm(64)].reshape(2, 8, 8, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(network(x), network(shuffled), atol=1e-3)
        torch.nn.init.zeros_(network.get_parameter("pos_embed"))
        torch.testing.assert_close(network(x), network(shuffled), rtol=1e-4, atol=1e-5)


def test_a_sensor_is_seen_by_its_own_convolutions_alone() -> None:
    torch.manual_seed(0)
    network = zoo.build("deepsense-gru", 4, (2, 5, 3, 8)).eval()
    x = torch.randn(2, 2, 5, 3, 8)
    changed = x.clone()
    changed[:, 1] += 1
    seen: dict[str, list[torch.Tensor]] = {"0": [], "1": []}
    for name, sensor in network.get_submodule("sensors").named_children():
        sensor.register_forward_hook(lambda _m, _i, output, name=name: seen[name].append(output))
    with torch.no_grad():
        network(x)
        network(changed)
    assert torch.equal(*seen["0"])
    assert not torch.equal(*seen["1"])


# -- graphs for state dicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("resnet32", "resnet44", "resnet56", "resnet110")]
)
def test_the_graph_of_a_state_dict_computes_what_its_module_does(name: str) -> None:
    torch.manual_seed(1)
    shape = SHAPES.get(name)
    module = zoo.build(name, 7, shape).eval()
    for key, tensor in module.state_dict().items():
        if "running" in key:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    graph = zoo.graph_for(name, infos(module), shape)
    (given,) = graph.inputs
    assert given.shape == (None, *(shape or zoo.find(name).input_shape))
    x = torch.randn(3, *given.shape[1:])
    with torch.no_grad():
        expected = module(x)
    assert expected.shape == (3, 7)
    torch.testing.assert_close(run(graph, module, x), expected)
    check(graph)
    assert graph.buffers == {name for name, _ in module.named_buffers() if name in graph.tensors.values()}


def test_names_with_a_prefix_are_kept() -> None:
    module = zoo.build("lenet5").eval()
    graph = zoo.graph_for("lenet5", infos(module, "module."))
    check(graph)
    assert set(graph.tensors.values()) == {f"module.{name}" for name in module.state_dict()}
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(run(graph, module, x, "module."), module(x).detach())
    half = {(f"module.{n}" if n.startswith("fc") else n): info for n, info in infos(module).items()}
    assert "fc1.weight is missing" in refusal("lenet5", half)


def test_old_checkpoints_without_counters_are_taken() -> None:
    module = zoo.build("resnet20").eval()
    old = {name: info for name, info in infos(module, "module.").items() if "num_batches" not in name}
    graph = zoo.graph_for("resnet20", old)
    check(graph)
    assert set(graph.tensors.values()) <= set(old)
    assert graph.buffers == {name for name in old if "running" in name}
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(run(graph, module, x, "module."), module(x).detach())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet-300-100", (1, 8, 8)),
        ("lenet-300-100", (17,)),
        ("lenet5", (3, 32, 32)),
        ("resnet20", (1, 32, 32)),
        ("vit-cifar", (1, 28, 28)),
        ("deepsense-lstm", (4, 20, 6, 12)),
    ],
)
def test_the_shape_of_inputs_is_read_off_the_weights(name: str, shape: tuple[int, ...]) -> None:
    shapes = {name: info.shape for name, info in infos(zoo.build(name, 3, shape)).items()}
    assert family_of(zoo.find(name)).infer(name, shapes) == (3, shape)


def test_the_element_type_is_that_of_the_weights() -> None:
    module = zoo.build("resnet20").half()
    assert zoo.graph_for("resnet20", infos(module)).inputs[0].dtype == "F16"
    mixed = infos(module)
    mixed["linear.bias"] = TensorInfo("linear.bias", (10,), np.dtype(np.float32))
    assert "one type" in refusal("resnet20", mixed)
    whole = {name: TensorInfo(name, info.shape, np.dtype(np.int32)) for name, info in infos(module).items()}
    assert "one type" in refusal("resnet20", whole)


def test_differences_are_named() -> None:
    tensors = infos(zoo.build("lenet5"))
    fewer = {name: info for name, info in tensors.items() if name != "conv2.bias"}
    assert "conv2.bias is missing" in refusal("lenet5", fewer)
    more = tensors | {"fc3.weight": TensorInfo("fc3.weight", (2, 2), np.dtype(np.float32))}
    assert "fc3.weight is not one of its tensors" in refusal("lenet5", more)
    other = tensors | {"fc1.bias": TensorInfo("fc1.bias", (501,), np.dtype(np.float32))}
    assert "fc1.bias is of shape (501,) and should be (500,)" in refusal("lenet5", other)
    detail = refusal("resnet32", infos(zoo.build("resnet20"), "module."))
    assert "layer1.3.conv1.weight is missing" in detail
    assert "more differences" in detail
    assert len(detail) < 600
    assert "conv1.weight is missing" in refusal("resnet20", {})
    counter = infos(zoo.build("resnet20"))
    counter["bn1.num_batches_tracked"] = TensorInfo("bn1.num_batches_tracked", (3,), np.dtype(np.int64))
    assert "num_batches_tracked is of shape (3,)" in refusal("resnet20", counter)


def test_an_absurd_shape_allocates_nothing() -> None:
    """A tensor without elements may claim any extent; 10^15 classes would be 400 PB."""
    tensors = infos(zoo.build("lenet5"))
    tensors["fc2.weight"] = TensorInfo("fc2.weight", (10**15, 0), np.dtype(np.float32))
    assert "fc2.weight is of shape" in refusal("lenet5", tensors)


def test_absurd_numbers_of_sensors_build_nothing() -> None:
    """A tensor without elements may have any extents, and one of few could tell of more sensors than there are."""
    module = zoo.build("deepsense-gru", input_shape=SHAPES["deepsense-gru"])
    for shape in ((0, 0, 10**12, 3), (1, 1, 10**12, 1)):
        tensors = infos(module)
        tensors["merge.conv1.weight"] = TensorInfo("merge.conv1.weight", shape, np.dtype(np.float32))
        assert "more differences" in refusal("deepsense-gru", tensors)


def test_inputs_that_a_network_cannot_have_are_refused() -> None:
    for name, shape in (
        ("lenet5", (1, 8, 8)),
        ("lenet5", (28, 28)),
        ("resnet20", (32, 32)),
        ("squeezenet1_1", (3, 16, 16)),
        ("vit-cifar", (3, 30, 30)),
        ("vit-cifar", (3, 32, 16)),
        ("deepsense-gru", (3, 20, 3)),
    ):
        with pytest.raises(ModelError) as caught:
            zoo.build(name, 10, shape)
        assert caught.value.code == Code.MISMATCHED_ARCHITECTURE
        assert name in caught.value.detail
    assert "fc1.weight" in refusal("lenet5", infos(zoo.build("lenet5")), input_shape=(1, 32, 32))


def test_an_unknown_name_lists_the_known_ones() -> None:
    for call in (lambda: zoo.build("resnet18"), lambda: zoo.graph_for("resnet18", {})):
        with pytest.raises(RecipeError, match=r"'resnet18'.*lenet5.*resnet110"):
            call()


# -- students --------------------------------------------------------------------------------------------------


def test_a_student_is_untrained_and_the_same_for_a_seed() -> None:
    before = torch.random.get_rng_state()
    states = [zoo.initial_state("lenet5", 4, (1, 16, 16), seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    module = zoo.build("lenet5", 4, (1, 16, 16))
    assert list(states[0].tensors) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        first, again, other = (state.tensors[name].decode() for state in states)
        assert first.shape == tuple(tensor.shape)
        assert first.dtype == np.float32
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
    network = Network(states[0].graph)
    tensors = {name: torch.from_numpy(tensor.decode()) for name, tensor in states[0].tensors.items()}
    result = network(tensors, (torch.randn(5, 1, 16, 16),))
    assert isinstance(result, torch.Tensor)
    assert result.shape == (5, 4)


# -- the listing -----------------------------------------------------------------------------------------------


def test_the_listing_needs_no_torch() -> None:
    command = "import sys, squeezer.zoo; assert squeezer.zoo.ARCHITECTURES; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)


def test_every_network_is_on_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name in NAMES:
        assert any(f"`{name}`" in row for row in rows), name
