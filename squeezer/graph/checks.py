"""Is this a network that may be run? Everything about a graph is checked before it is believed."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from keyword import iskeyword
from typing import TYPE_CHECKING, NoReturn

from squeezer.errors import Code, ModelError
from squeezer.graph.ir import ElementType, MemoryFormat, Node, Value
from squeezer.graph.operators import CREATING, IN_PLACE, OPERATORS, REMEDIES, SYMBOLIC
from squeezer.model import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from squeezer.graph.ir import Argument, Graph, Input

#: A network of a thousand layers has some ten thousand nodes.
MAX_NODES = 100_000
MAX_TENSORS = 100_000
MAX_INPUTS = 1_000
#: Arguments of all nodes together, each part of a list counted.
MAX_ARGUMENTS = 500_000
MAX_DEPTH = 3  # of lists in lists
MAX_TEXT = 1_000  # characters of a text argument, the longest of which are the equations of einsum
MAX_DIMENSIONS = 64
MAX_NAME = 1_000
#: Parts of a tensor's name, and parts of the network (`layers.0`) that hold a tensor: a module each, of two kilobytes.
MAX_NESTING = 64
MAX_PARTS = 100_000
#: Elements of a tensor that an operator makes out of numbers, and of an input as far as its extents are known.
MAX_CREATED = 1 << 30
#: Arguments that say where a tensor lies: it lies where the network does.
PLACES = frozenset({"device", "layout", "pin_memory"})

#: In the order of their numbers in PyTorch's export, from 1 on.
MEMORY_FORMATS = ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


def check(graph: Graph) -> None:
    """Make sure that a graph has known operators alone, and means something.

    Raises:
        ModelError: UNSUPPORTED_OPERATOR, which names the operator, or INVALID_GRAPH.
    """
    _check_sizes(graph)
    defined: set[str] = set()
    for given in graph.inputs:
        _check_input(given)
        _define(defined, given.name)
    _check_tensors(graph, defined)
    for node in graph.nodes:
        _check_node(node, defined)
        for name in node.outputs:
            if name is not None:
                _define(defined, name)
    _check_in_place(graph)
    for value in graph.outputs:
        _check_value(value, defined)
    if graph.single and len(graph.outputs) != 1:
        _refuse(f"it returns one tensor, and names {len(graph.outputs)}")


def unsupported(target: str) -> ModelError:
    """The error that names an operator which is not on the list."""
    remedy = REMEDIES.get(target, "Write that part of the network with other operators, or ask for this one")
    return ModelError(
        Code.UNSUPPORTED_OPERATOR,
        f"The network has the operator {target[:200]!r}, which is not one that Squeezer runs. {remedy}. Its weights "
        "alone can be compressed: save its state dict as .safetensors.",
    )


def _refuse(detail: str) -> NoReturn:
    raise ModelError(Code.INVALID_GRAPH, f"The network's graph cannot be used: {detail}. Export it again.")


def _check_sizes(graph: Graph) -> None:
    for what, count, limit in (
        ("operators", len(graph.nodes), MAX_NODES),
        ("tensors", len(graph.tensors), MAX_TENSORS),
        ("inputs", len(graph.inputs), MAX_INPUTS),
        ("outputs", len(graph.outputs), MAX_INPUTS),
        ("arguments", sum(_count((*node.args, *node.kwargs.values())) for node in graph.nodes), MAX_ARGUMENTS),
    ):
        if count > limit:
            _refuse(f"it has {count} {what}, and {limit} are the most")
    if not graph.outputs:
        _refuse("it returns nothing")


def _count(arguments: Iterable[Argument], depth: int = 0) -> int:
    """How many arguments there are, lists and their parts counted."""
    if depth > MAX_DEPTH:
        _refuse(f"lists of arguments are nested more than {MAX_DEPTH} deep")
    return sum(1 + (_count(part, depth + 1) if isinstance(part, tuple) else 0) for part in arguments)


def _define(defined: set[str], name: str) -> None:
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or iskeyword(name):
        _refuse(f"{str(name)[:100]!r} is no name of a value")
    if name in defined:
        _refuse(f"the value {name!r} is defined twice")
    defined.add(name)


def _check_value(value: Argument, defined: set[str]) -> None:
    if not isinstance(value, Value) or value.name not in defined:
        _refuse(f"{str(getattr(value, 'name', value))[:100]!r} is used before it is defined")


def _check_input(given: Input) -> None:
    if len(given.shape) > MAX_DIMENSIONS or not all(
        size is None or (type(size) is int and 0 <= size < 2**63) for size in given.shape
    ):
        _refuse(f"the shape of input {given.name[:100]!r} is none")
    if given.dtype not in DTYPES:
        _refuse(f"input {given.name[:100]!r} has the unknown type {given.dtype[:40]!r}")
    if math.prod(size or 1 for size in given.shape) > MAX_CREATED:
        _refuse(f"one row of input {given.name[:100]!r} has more than {MAX_CREATED} elements")


def _check_tensors(graph: Graph, defined: set[str]) -> None:
    for value in graph.tensors:
        _define(defined, value)
    names = set(graph.tensors.values())
    check_names(names)
    if extra := graph.buffers - names:
        _refuse(f"the buffer {min(extra)[:100]!r} is none of its tensors")


def check_names(names: Iterable[str]) -> None:
    """Make sure that tensors of these names, no two alike, can be those of one module, and that it stays small.

    Raises:
        ModelError: INVALID_GRAPH.
    """
    split = sorted(_parts(name) for name in names)
    count = 0
    for one, other in pairwise([[], *split]):
        shared = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
        if one and shared == len(one):
            _refuse(f"{'.'.join(one)[:100]!r} is a tensor, and a part that holds {'.'.join(other)[:100]!r}")
        count += len(other) - 1 - min(shared, len(other) - 1)
    if count > MAX_PARTS:
        _refuse(f"its tensors are in {count} parts, and {MAX_PARTS} are the most")


def _parts(name: str) -> list[str]:
    parts = name.split(".") if isinstance(name, str) and len(name) <= MAX_NAME else [""]
    if "" in parts or len(parts) > MAX_NESTING or any(part.startswith("__") for part in parts):
        _refuse(f"{str(name)[:100]!r} is no name of a tensor")
    return parts


def _check_node(node: Node, defined: set[str]) -> None:
    if node.target not in OPERATORS:
        raise unsupported(node.target)
    for argument in (*node.args, *node.kwargs.values()):
        _check_argument(node, argument, defined)
    for name in node.kwargs:
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or iskeyword(name) or name in PLACES:
            _refuse(f"{str(name)[:100]!r} is no name of an argument")
    if node.target in SYMBOLIC and not node.target.startswith("aten."):
        _check_numbers(node)
    if node.several and len(node.outputs) != 1:
        _refuse(f"{node.target} returns a list of one, and {len(node.outputs)} names are given")
    if not node.outputs:
        _refuse(f"{node.target} has no name for its result")
    if node.target in CREATING:
        _check_created(node)
    if node.target == "aten.one_hot.default" and not _is_positive(node.args[1:2] or (node.kwargs.get("num_classes"),)):
        _refuse("one_hot needs the number of classes")


def _check_numbers(node: Node) -> None:
    """Python's `*` makes texts and lists longer, too."""
    if node.kwargs or not all(isinstance(argument, Value | int | float) for argument in node.args):
        _refuse(f"{node.target} is for numbers alone")


def _check_argument(node: Node, argument: Argument, defined: set[str]) -> None:
    match argument:
        case tuple():
            for part in argument:
                _check_argument(node, part, defined)
        case Value():
            _check_value(argument, defined)
        case ElementType() | MemoryFormat():
            known = DTYPES if isinstance(argument, ElementType) else MEMORY_FORMATS
            if argument.name not in known:
                _refuse(f"{node.target} has the unknown type or format {argument.name[:40]!r}")
        case _:
            _check_plain(node, argument)


def _check_plain(node: Node, argument: object) -> None:
    if isinstance(argument, str):
        if len(argument) > MAX_TEXT or not argument.isascii() or not argument.isprintable():
            _refuse(f"{node.target} has a text that is too long, or not plain")
    elif type(argument) is int:
        if not -(2**63) <= argument < 2**63:
            _refuse(f"{node.target} has a number beyond 64 bits")
    elif argument is not None and type(argument) not in (bool, float):
        _refuse(f"{node.target} has an argument of type {type(argument).__name__}")


def _check_created(node: Node) -> None:
    """What is made out of numbers could have any size; sizes that depend on the inputs are known only later."""
    name = node.target.split(".")[1]
    first = node.args[0] if node.args else None
    given: tuple[Argument, ...] = first if isinstance(first, tuple) else node.args
    if name == "linspace":
        given = node.args[2:3]
    numbers = [] if name == "scalar_tensor" else [abs(size) for size in given if isinstance(size, int | float)]
    elements = max(numbers, default=0) if name == "arange" else math.prod(size for size in numbers if size > 1)
    if not elements <= MAX_CREATED:  # NaN is not, either
        _refuse(f"{node.target} makes a tensor of {elements} elements, and {MAX_CREATED} are the most")


def _is_positive(numbers: tuple[Argument, ...]) -> bool:
    return all(type(number) is int and 0 < number <= MAX_CREATED for number in numbers)


def _check_in_place(graph: Graph) -> None:
    """Weights are not written by the network that they belong to: only an optimiser may change them."""
    weights = {value for value, name in graph.tensors.items() if name not in graph.buffers}
    for node in graph.nodes:
        if node.target in IN_PLACE and (node.written is None or node.written.name in weights):
            _refuse(f"{node.target} writes over a weight, and not over what was computed")
