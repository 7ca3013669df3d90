"""Arguments of operators in a .pt2 file's JSON: each is a map with one entry, whose key says of what kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from squeezer.formats.pt2_json import dtype_of, malformed, text, union
from squeezer.graph import ElementType, MemoryFormat, Value
from squeezer.graph.checks import MEMORY_FORMATS, unsupported

if TYPE_CHECKING:
    from squeezer.graph import Argument

#: Kinds of lists, and the kind of what is in them.
_LISTS = {
    **{f"as_{kind}s": f"as_{kind}" for kind in ("tensor", "int", "float", "bool", "string", "optional_tensor")},
    **{f"as_sym_{kind}s": f"as_sym_{kind}" for kind in ("int", "float", "bool")},
}
_TYPES: dict[str, type] = {"as_int": int, "as_float": float, "as_bool": bool, "as_string": str}
_SYMBOLS = frozenset({"as_sym_int", "as_sym_float", "as_sym_bool"})
#: What no list of operators has a use for.
_NOT_DATA = frozenset({"as_graph", "as_operator", "as_custom_obj"})
_WORDS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def read_argument(content: Any, target: str) -> Argument:
    """An argument of the operator `target`.

    Raises:
        ModelError: INVALID_GRAPH; UNSUPPORTED_OPERATOR where it is a graph, an operator or an object of Python.
    """
    kind, value = union(content)
    if kind not in _LISTS:
        return _one(kind, value, target)
    if not isinstance(value, list):
        raise malformed(f"{target[:100]} has a list of arguments that is none")
    return tuple([_one(_LISTS[kind], item, target) for item in value])


def _one(kind: str, value: Any, target: str) -> Argument:
    if kind in _TYPES:
        return _plain(kind, value, target)
    if kind in _SYMBOLS:
        known, content = union(value)
        return Value(content) if known == "as_name" and isinstance(content, str) else _plain(known, content, target)
    if kind in _NOT_DATA:
        raise unsupported(target)
    match kind:
        case "as_tensor":
            return Value(text(value, "name"))
        case "as_optional_tensor" if isinstance(value, dict) and value.keys() <= {"as_tensor", "as_none"}:
            return _one(*union(value), target)
        case "as_scalar_type":
            return ElementType(dtype_of({"dtype": value}, target))
        case "as_memory_format" if type(value) is int and 1 <= value <= len(MEMORY_FORMATS):
            return MemoryFormat(MEMORY_FORMATS[value - 1])
        case "as_none" | "as_device" | "as_layout":
            return None
        case _:
            raise malformed(f"{target[:100]} has an argument of the kind {kind[:40]!r}")


def _plain(kind: str, value: Any, target: str) -> Argument:
    """A number, truth value or text of the kind that it says it is."""
    if kind == "as_float" and isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if kind == "as_float" and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if kind not in _TYPES or type(value) is not _TYPES[kind]:
        raise malformed(f"{target[:100]} has an argument that is not what it says ({kind[:40]})")
    return cast("bool | int | float | str", value)
