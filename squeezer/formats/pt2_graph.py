"""The graph of an exported program: the JSON of `models/*.json` in a .pt2 file (torch's export schema 8).

It is read as data. The expressions in it (sizes as texts of sympy, guards as texts of Python) are not looked at: a
size is whatever the operators compute, and one that is no number may have any value.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from squeezer.errors import Code, ModelError
from squeezer.formats import pt2_operators as operators
from squeezer.formats.pt2_arguments import read_argument
from squeezer.formats.pt2_json import dtype_of, entry, items, malformed, text, union
from squeezer.graph import Graph, Input, Node, Value, check
from squeezer.graph.canonical import with_one_value_each
from squeezer.graph.checks import PLACES, unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from squeezer.graph import Argument

#: The schema that is read; other minor versions add what can be passed over.
MAJOR = 8
_POSITIONAL, _KEYWORD = 1, 2


def parse(document: Any, aliases: Mapping[str, str]) -> Graph:
    """The network that a `models/*.json` describes, checked.

    Args:
        document: the parsed JSON.
        aliases: further names of stored tensors: alias to stored name.

    Raises:
        ModelError: INVALID_GRAPH, UNSUPPORTED_OPERATOR or UNSUPPORTED_DTYPE.
    """
    _check_version(entry(document, "schema_version", dict))
    module = entry(document, "graph_module", dict)
    source = entry(module, "graph", dict)
    signature = entry(module, "signature", dict)
    inputs, named, buffers = _inputs(signature, entry(source, "tensor_values", dict), aliases)
    nodes = [node for item in items(source, "nodes") if (node := _node(item)) is not None]
    outputs, mutations = _outputs(signature)
    values = {aliases.get(name, name): value for value, name in named.items()}
    for buffer in mutations:
        if aliases.get(buffer, buffer) not in values:
            raise malformed(f"it changes {buffer[:100]!r}, which it does not have")
    changes = {values[aliases.get(buffer, buffer)]: value for buffer, value in mutations.items()}
    nodes = operators.written(nodes, changes)
    single = len(outputs) == 1 and _is_leaf(module)
    graph = with_one_value_each(Graph(inputs, named, buffers, operators.tidy(nodes, outputs), outputs, single))
    check(graph)
    return graph


def _check_version(version: dict[str, Any]) -> None:
    major = entry(version, "major", int)
    if major != MAJOR:
        raise ModelError(
            Code.INVALID_GRAPH,
            f"The .pt2 file has version {major} of PyTorch's format, and Squeezer reads version {MAJOR}. "
            "Export it with PyTorch 2.9 or a later one: squeezer.export(module, example_inputs, 'model.pt2').",
        )


# -- what goes in and out ------------------------------------------------------------------------------------


def _inputs(
    signature: dict[str, Any], metas: dict[str, Any], aliases: Mapping[str, str]
) -> tuple[tuple[Input, ...], dict[str, str], frozenset[str]]:
    """Inputs, names of stored tensors by the values that stand for them, and which of these are buffers."""
    inputs: list[Input] = []
    tensors: dict[str, str] = {}
    buffers: set[str] = set()
    for spec in items(signature, "input_specs"):
        kind, content = union(spec)
        match kind:
            case "parameter" | "buffer" | "tensor_constant":
                name = entry(content, f"{kind}_name", str)
                stored = aliases.get(name, name)
                tensors[text(entry(content, "arg", dict), "name")] = stored
                if kind != "parameter":
                    buffers.add(stored)
            case "user_input":
                if (given := _user_input(entry(content, "arg", dict), metas)) is not None:
                    inputs.append(given)
            case "constant_input":
                pass  # a number that was given at the export: it is written into the operators
            case _:
                raise malformed(f"it has an input of the kind {kind[:40]!r}, which is no tensor")
    return tuple(inputs), tensors, frozenset(buffers)


def _user_input(argument: dict[str, Any], metas: dict[str, Any]) -> Input | None:
    kind, content = union(argument)
    if kind == "as_tensor":
        name = text(content, "name")
        meta = entry(metas, name, dict)
        shape = tuple(_extent(size) for size in items(meta, "sizes"))
        return Input(name, shape, dtype_of(meta, f"input {name!r}"))
    if kind.startswith("as_sym"):
        raise malformed("it has an input that is a number; give a tensor, or a number that is always the same")
    return None  # None, or a constant


def _extent(size: Any) -> int | None:
    kind, content = union(size)
    return content if kind == "as_int" and type(content) is int else None


def _outputs(signature: dict[str, Any]) -> tuple[tuple[Value, ...], dict[str, str]]:
    """What the network returns, and which buffers get which values when it has run."""
    outputs: list[Value] = []
    mutations: dict[str, str] = {}
    for spec in items(signature, "output_specs"):
        kind, content = union(spec)
        if kind == "buffer_mutation":
            mutations[text(content, "buffer_name")] = text(entry(content, "arg", dict), "name")
        elif kind in ("user_output", "loss_output"):
            argument = entry(content, "arg", dict)
            what, value = union(argument) if kind == "user_output" else ("as_tensor", argument)
            if what == "as_tensor":
                outputs.append(Value(text(value, "name")))
            elif what.startswith("as_sym"):
                raise malformed("it returns a number that depends on its inputs; return tensors alone")
        elif kind not in ("user_input_mutation", "token"):
            raise malformed(f"it has an output of the kind {kind[:40]!r}")
    return tuple(outputs), mutations


def _is_leaf(module: dict[str, Any]) -> bool:
    """Whether the network returns a bare tensor, not a tuple, list or dict with one."""
    calls = module.get("module_call_graph")
    signature = calls[0].get("signature") if isinstance(calls, list) and calls and isinstance(calls[0], dict) else None
    description = signature.get("out_spec") if isinstance(signature, dict) else None
    if not isinstance(description, str) or len(description) > 1 << 16:
        return True
    try:
        spec = json.loads(description)
    except (ValueError, RecursionError):
        return True
    return not (isinstance(spec, list) and len(spec) == 2 and isinstance(spec[1], dict) and spec[1].get("type"))


# -- operators ---------------------------------------------------------------------------------------------


def _node(item: Any) -> Node | None:
    target = text(item, "target").removeprefix("torch.ops.")
    if target in operators.ASSERTIONS:
        return None
    if not target.startswith(("aten.", "_operator.", "math.", "torch.")):
        raise unsupported(target)
    args: list[Argument] = []
    kwargs: dict[str, Argument] = {}
    for i, given in enumerate(items(item, "inputs")):
        name, kind = text(given, "name"), given.get("kind") or (_POSITIONAL if i == 0 else _KEYWORD)
        content = entry(given, "arg", dict)
        if kind == _POSITIONAL:
            args.append(read_argument(content, target))
        elif name not in PLACES:
            kwargs[name] = read_argument(content, target)
    outputs, several = _results(items(item, "outputs"))
    return operators.plain(Node(target, tuple(args), outputs, kwargs, several))


def _results(outputs: list[Any]) -> tuple[tuple[str | None, ...], bool]:
    """Names of what an operator gives, and whether it gives a list of one."""
    if len(outputs) == 1:
        kind, content = union(outputs[0])
        if kind == "as_tensors" and isinstance(content, list):
            return tuple(text(value, "name") for value in content), len(content) == 1
    return tuple(_result(output) for output in outputs), False


def _result(output: Any) -> str | None:
    kind, content = union(output)
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return text(content, "name")
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return text(content, "as_name")
    raise malformed(f"an operator gives a result of the kind {kind[:40]!r}")
