"""A graph as bytes: the graph section of a `.sqz` file. `docs/format.md` describes it.

Equal graphs give equal bytes, and what is alike in two layers is written alike, since values are named by how long ago
they were computed, and tensors are numbered as they are used.
"""

from __future__ import annotations

import json
import math
import zlib
from typing import TYPE_CHECKING, Any, NoReturn

from squeezer.errors import Code, ModelError
from squeezer.graph.canonical import canonical, fresh_names
from squeezer.graph.checks import MAX_DEPTH, check
from squeezer.graph.ir import ElementType, Graph, Input, MemoryFormat, Node, Value

if TYPE_CHECKING:
    from squeezer.graph.ir import Argument

#: The first byte. A reader refuses a higher one.
SCHEMA = 1
#: Characters of the document.
_MAX_INFLATED = 1 << 24
#: zlib's window bits: no header and no checksum around the deflated data.
_RAW_DEFLATE = -15
_ELSEWHERE = ("_operator.", "math.", "torch.")  # operators that are not PyTorch's own
_NOT_NUMBERS = {"#inf": math.inf, "#-inf": -math.inf, "#nan": math.nan}


def to_bytes(graph: Graph) -> bytes:
    """Encode a checked graph. The names of its values, other than inputs, are lost (`canonical`).

    Raises:
        ModelError: INVALID_GRAPH, where it is larger than `from_bytes` reads.
    """
    graph = canonical(graph)
    writer = _Writer(graph)
    nodes = [writer.node(node) for node in graph.nodes]
    names = list(graph.tensors.values())
    document = [
        [[given.name, given.dtype, list(given.shape)] for given in graph.inputs],
        names,
        "".join("1" if name in graph.buffers else "0" for name in names),
        nodes,
        [writer.argument(value) for value in graph.outputs],
        int(graph.single),
    ]
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    if len(text) >= _MAX_INFLATED:
        raise ModelError(
            Code.INVALID_GRAPH,
            f"The network takes {len(text)} bytes to describe, and a .sqz file has room for {_MAX_INFLATED}; "
            "leave it out (encoding.graph: false).",
        )
    deflater = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, 9)
    return bytes([SCHEMA]) + deflater.compress(text.encode("ascii")) + deflater.flush()


def from_bytes(data: bytes | memoryview) -> Graph:
    """Decode what `to_bytes` wrote.

    Raises:
        ModelError: INVALID_GRAPH, UNSUPPORTED_OPERATOR, or NEWER_ARTIFACT where a later version has written it.
    """
    graph = _Reader(_inflated(bytes(data))).graph()
    check(graph)
    return graph


class _Writer:
    """Nodes of a canonical graph, one after another."""

    def __init__(self, graph: Graph) -> None:
        self._tensors = {value: i for i, value in enumerate(graph.tensors)}
        self._inputs = {given.name: i for i, given in enumerate(graph.inputs)}
        self._computed: dict[str, int] = {}
        self._used = 0  # tensors so far

    def node(self, node: Node) -> list[Any]:
        """[operator, arguments, named arguments, results], without what is usual at the end."""
        parts: list[Any] = [_short(node.target), [self.argument(part) for part in node.args]]
        parts.append({name: self.argument(value) for name, value in node.kwargs.items()})
        parts.append("*" if node.several else "".join("0" if name is None else "1" for name in node.outputs))
        for name in node.outputs:
            if name is not None:
                self._computed[name] = len(self._computed)
        while parts[-1] in ({}, "1"):
            parts.pop()
        return parts

    def argument(self, argument: Argument) -> Any:
        """An argument as JSON: numbers as they are, all else as texts whose first character tells what they are."""
        match argument:
            case Value():
                return self._value(argument.name)
            case ElementType():
                return f"={argument.name}"
            case MemoryFormat():
                return f"@{argument.name}"
            case str():
                return f"'{argument}"
            case tuple():
                return [self.argument(part) for part in argument]
            case float() if not math.isfinite(argument):
                return f"#{argument}"
            case _:
                return argument

    def _value(self, name: str) -> str:
        if name in self._inputs:
            return f"i{self._inputs[name]}"
        if name in self._computed:
            return str(len(self._computed) - self._computed[name])
        number = self._tensors[name]
        if number == self._used:
            self._used += 1
            return "t"
        return f"t{number}"


def _short(target: str) -> str:
    return target if target.startswith(_ELSEWHERE) else target.removeprefix("aten.").removesuffix(".default")


def _long(short: str) -> str:
    if short.startswith(_ELSEWHERE):
        return short
    return f"aten.{short}" if "." in short else f"aten.{short}.default"


# -- reading -----------------------------------------------------------------------------------------------


def _fail(detail: str) -> NoReturn:
    raise ModelError(Code.INVALID_GRAPH, f"The graph section is damaged: {detail}.")


def _inflated(data: bytes) -> Any:
    """The document."""
    if not data:
        _fail("it is empty")
    if data[0] > SCHEMA:
        raise ModelError(
            Code.NEWER_ARTIFACT,
            f"The graph has version {data[0]}, and this program reads version {SCHEMA}; upgrade squeezer.",
        )
    if data[0] != SCHEMA:
        _fail("its version is 0")
    inflater = zlib.decompressobj(_RAW_DEFLATE)
    try:
        content = inflater.decompress(data[1:], _MAX_INFLATED)
        if not inflater.eof or inflater.unused_data:
            _fail("it does not end where it should, or is too long")
        return json.loads(content.decode("ascii"), parse_constant=_fail)
    except (zlib.error, ValueError, RecursionError) as error:
        _fail(f"it is no JSON ({str(error)[:100]})")


class _Reader:
    """A document, every part of which is checked when it is taken."""

    def __init__(self, document: Any) -> None:
        if not isinstance(document, list) or len(document) != 6:
            _fail("it has not six parts")
        self._document = document
        self._values: list[str] = []  # names of computed values
        self._used = 0

    def graph(self) -> Graph:
        """The graph that the document describes; not checked yet as a whole."""
        inputs, names, kinds, nodes, outputs, single = self._document
        self._inputs = tuple(_input(item) for item in _list(inputs))
        tensors = [_text(name) for name in _list(names)]
        if not isinstance(kinds, str) or len(kinds) != len(tensors) or kinds.strip("01"):
            _fail("it does not tell which tensors are buffers")
        if len(set(tensors)) != len(tensors) or single not in (0, 1):
            _fail("a tensor is listed twice, or the outputs are not described")
        self._fresh = fresh_names(self._inputs)
        self._tensors = [next(self._fresh) for _ in tensors]
        return Graph(
            self._inputs,
            dict(zip(self._tensors, tensors, strict=True)),
            frozenset(name for name, kind in zip(tensors, kinds, strict=True) if kind == "1"),
            tuple([self._node(item) for item in _list(nodes)]),
            tuple([self._value(_text(item)) for item in _list(outputs)]),
            single=bool(single),
        )

    def _node(self, item: Any) -> Node:
        parts = _list(item)
        if not 2 <= len(parts) <= 4:
            _fail("an operator has not two to four parts")
        usual: list[Any] = [{}, "1"]
        target, args, kwargs, results = [*parts, *usual[len(parts) - 2 :]]
        if not isinstance(kwargs, dict):
            _fail("named arguments are no map")
        arguments = tuple([self._argument(part) for part in _list(args)])
        named = {name: self._argument(part) for name, part in kwargs.items()}
        several = results == "*"
        marks = "1" if several else _text(results)
        if marks.strip("01"):
            _fail("results are not marked by 0 and 1")
        outputs = tuple(self._define() if mark == "1" else None for mark in marks)
        return Node(_long(_text(target)), arguments, outputs, named, several)

    def _define(self) -> str:
        self._values.append(next(self._fresh))
        return self._values[-1]

    def _argument(self, part: Any, depth: int = 0) -> Argument:
        match part:
            case None | bool() | int() | float():
                return part
            case list() if depth < MAX_DEPTH:
                return tuple([self._argument(item, depth + 1) for item in part])
            case str() if part in _NOT_NUMBERS:
                return _NOT_NUMBERS[part]
            case str() if part[:1] == "'":
                return part[1:]
            case str() if part[:1] == "=":
                return ElementType(part[1:])
            case str() if part[:1] == "@":
                return MemoryFormat(part[1:])
            case str():
                return self._value(part)
            case _:
                _fail("an argument is of no known kind")

    def _value(self, text: str) -> Value:
        if text == "t":
            self._used += 1
            return Value(_pick(self._tensors, self._used - 1))
        if text[:1] == "t":
            return Value(_pick(self._tensors, _number(text[1:])))
        if text[:1] == "i":
            return Value(_pick([given.name for given in self._inputs], _number(text[1:])))
        return Value(_pick(self._values, len(self._values) - _number(text)))


def _list(item: Any) -> list[Any]:
    return item if isinstance(item, list) else _fail("a list is none")


def _text(item: Any) -> str:
    return item if isinstance(item, str) else _fail("a text is none")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        _fail(f"{text[:40]!r} is no value")
    return int(text)


def _pick(names: list[str], number: int) -> str:
    if not 0 <= number < len(names):
        _fail("a value is used that there is not")
    return names[number]


def _input(item: Any) -> Input:
    if not isinstance(item, list) or len(item) != 3:
        _fail("an input has not three parts")
    name, dtype, shape = item
    return Input(_text(name), tuple(_list(shape)), _text(dtype))
