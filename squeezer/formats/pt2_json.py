"""Parts of a .pt2 file's JSON, whose kind is checked when they are taken."""

from __future__ import annotations

from typing import Any, TypeVar

from squeezer.errors import Code, ModelError

_T = TypeVar("_T")

#: Element types by the numbers that PyTorch's export gives them.
ELEMENT_TYPES = {
    1: "U8",
    2: "I8",
    3: "I16",
    4: "I32",
    5: "I64",
    6: "F16",
    7: "F32",
    8: "F64",
    10: "C64",
    12: "BOOL",
    13: "BF16",
    28: "U16",
    29: "F8_E4M3",
    30: "F8_E5M2",
    34: "U32",
    35: "U64",
}


def malformed(detail: str) -> ModelError:
    """The INVALID_GRAPH error that says what is wrong."""
    return ModelError(
        Code.INVALID_GRAPH,
        f"The exported program cannot be used: {detail}. Export it again: "
        "squeezer.export(module, example_inputs, 'model.pt2').",
    )


def entry(document: Any, key: str, kind: type[_T]) -> _T:
    """The entry of a map, which must have it, of that kind (`True` is no number)."""
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise malformed(f"{key[:100]!r} is missing or of the wrong kind")
    return value


def text(document: Any, key: str) -> str:
    """The entry of a map, which must be a text."""
    return entry(document, key, str)


def items(document: Any, key: str) -> list[Any]:
    """The entry of a map, which must be a list."""
    return entry(document, key, list)


def union(document: Any) -> tuple[str, Any]:
    """Kind and content of a choice, which is a map with one entry."""
    if not isinstance(document, dict) or len(document) != 1:
        raise malformed("a choice has not one entry")
    return next(iter(document.items()))


def dtype_of(meta: Any, what: str) -> str:
    """The element type of a tensor's description, by the name of `squeezer.model.DTYPES`."""
    number = entry(meta, "dtype", int)
    if number not in ELEMENT_TYPES:
        raise ModelError(
            Code.UNSUPPORTED_DTYPE,
            f"The exported program has an element type that Squeezer cannot store, for {what[:100]}. "
            f"It takes {', '.join(ELEMENT_TYPES.values())}; convert it before the export.",
        )
    return ELEMENT_TYPES[number]
