"""A graph as a `torch` module. Only operators of the list are ever looked up, and no name of the graph becomes code."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from squeezer.errors import Code, ModelError
from squeezer.graph import ElementType, MemoryFormat, Value, check, in_mode
from squeezer.graph.memory import overwritten
from squeezer.graph.operators import CREATING, SYMBOLIC
from squeezer.training.guarded import GUARDED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.fx import GraphModule

    from squeezer.graph import Argument, Graph, Node

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


class NetworkModule(nn.Module):
    """A network out of a graph: its parameters and buffers have the stored names, and `.train()` really switches.

    They hold no values until they are given some: by `torch.func.functional_call`, or by `put`. Inputs come in the
    graph's order, or by their names; the result is a tensor, or a tuple of them.
    """

    # Attributes have two underscores, since any other name may be that of a part of the network.

    def __init__(self, graph: Graph, *, frozen: bool = False) -> None:
        super().__init__()
        self.__graph, self.__frozen = graph, frozen
        self.__programs: dict[bool, GraphModule] = {}
        self.__places: list[tuple[nn.Module, str]] = []
        names = dict.fromkeys(graph.tensors.values())
        for name in names:
            put(self, name, torch.empty(0, device="meta"), buffer=name in graph.buffers)
        self.__places = [_place(self, name) for name in graph.tensors.values()]

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """What the network gives for its inputs.

        Raises:
            TypeError: where they are too few, too many, or others.
        """
        expected = [given.name for given in self.__graph.inputs]
        if len(inputs) + len(named) != len(expected) or named.keys() != set(expected[len(inputs) :]):
            raise TypeError(f"the network takes the inputs {', '.join(expected)}")
        inputs = (*inputs, *(named[name] for name in expected[len(inputs) :]))
        if self.training not in self.__programs:
            self.__programs[self.training] = _program(
                in_mode(self.__graph, training=self.training, frozen=self.__frozen)
            )
        tensors = (getattr(module, name) for module, name in self.__places)
        return self.__programs[self.training].forward(*tensors, *inputs)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: programs are made again where they are needed."""
        return self.__dict__ | {"_NetworkModule__programs": {}}


def build(graph: Graph, *, frozen: bool = False) -> NetworkModule:
    """The module that a graph describes, in training mode as every new module.

    Args:
        graph: the network.
        frozen: whether batch norm keeps its running statistics in training, and uses them.

    Raises:
        ModelError: the graph is not one that may be run (`squeezer.graph.check`).
    """
    check(graph)
    return NetworkModule(graph, frozen=frozen)


def put(module: nn.Module, name: str, tensor: torch.Tensor, *, buffer: bool) -> None:
    """Register a tensor under a dotted name, as a parameter where it is to be trained; parts are made as needed.

    Raises:
        ModelError: the name is one that no module can give to a tensor.
    """
    *path, leaf = name.split(".")
    trained = not buffer and (tensor.is_floating_point() or tensor.is_complex())
    try:
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module._parameters.pop(leaf, None)
        module._buffers.pop(leaf, None)
        if trained:
            parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
            module.register_parameter(leaf, parameter)
        else:
            module.register_buffer(leaf, tensor)
    except KeyError as error:
        raise ModelError(
            Code.INVALID_GRAPH, f"The network cannot have a tensor of the name {name[:200]!r}; rename it."
        ) from error


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


# -- operators ---------------------------------------------------------------------------------------------


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of sizes, which takes numbers alone, and gives one of 64 bits.

    Python's own would make lists and texts longer, and numbers grow until the memory is full.
    """

    def compute(*sizes: Any) -> Any:
        if not all(isinstance(size, _NUMBER) for size in sizes) or (
            function is operator.pow and isinstance(sizes[-1], int) and abs(sizes[-1]) > 64
        ):
            raise _no_size()
        number = function(*sizes)
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise _no_size()
        return number

    return compute


def _no_size() -> ModelError:
    return ModelError(
        Code.INVALID_GRAPH, "A size within the network is no number, or grows beyond 64 bits; export it again."
    )


def device_of(tensor: torch.Tensor) -> torch.device:
    """Where new tensors are made: where the network's inputs are."""
    return tensor.device


_NUMBER = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
_HOMES = {"_operator": operator, "math": math, "torch": torch}
_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    target: _of_numbers(getattr(_HOMES[home], name))
    for target in SYMBOLIC
    for home, _, name in (target.partition("."),)
    if home in _HOMES
}


def resolve(target: str) -> Callable[..., Any]:
    """The function of a checked target."""
    if known := _OF_NUMBERS.get(target) or GUARDED.get(target):
        return known
    _, name, overload = target.split(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    return function


def _program(graph: Graph) -> GraphModule:
    """The graph of one mode as code: a function of all tensors, in the order of `graph.tensors`, and the inputs."""
    program = torch.fx.Graph()
    known = {value: program.placeholder(f"tensor_{i}") for i, value in enumerate(graph.tensors)}
    known |= {given.name: program.placeholder(f"input_{i}") for i, given in enumerate(graph.inputs)}
    device = None
    if anchor := next(iter(graph.inputs), None):
        device = program.call_function(device_of, (known[anchor.name],))
    for name in overwritten(graph):
        known[name] = program.call_function(torch.ops.aten.clone.default, (known[name],))
    for node in graph.nodes:
        _add(program, node, known, device)
    outputs = tuple(known[value.name] for value in graph.outputs)
    program.output(outputs[0] if graph.single else outputs)
    return torch.fx.GraphModule({}, program)


def _add(program: torch.fx.Graph, node: Node, known: dict[str, torch.fx.Node], device: torch.fx.Node | None) -> None:
    kwargs = {name: evaluated(value, known) for name, value in node.kwargs.items()}
    if node.target in CREATING and device is not None:
        kwargs["device"] = device
    result = program.call_function(resolve(node.target), tuple(evaluated(value, known) for value in node.args), kwargs)
    if len(node.outputs) == 1 and not node.several:
        if node.outputs[0] is not None:
            known[node.outputs[0]] = result
        return
    for i, name in enumerate(node.outputs):
        if name is not None:
            known[name] = program.call_function(operator.getitem, (result, i))


def evaluated(argument: Argument, known: Mapping[str, Any]) -> Any:
    """An argument as torch takes it, with what is known under their names in the place of values."""
    match argument:
        case Value():
            return known[argument.name]
        case ElementType():
            return DTYPES[argument.name]
        case MemoryFormat():
            return getattr(torch, argument.name)
        case tuple():
            return [evaluated(part, known) for part in argument]
        case _:
            return argument
