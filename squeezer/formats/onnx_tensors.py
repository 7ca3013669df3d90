"""Weights of an ONNX file: what is said of them, and their numbers out of each of the places that ONNX allows."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.errors import Code, ModelError
from squeezer.formats.onnx_package import DecodeError, onnx
from squeezer.formats.onnx_parts import RAW_DATA, STRING_DATA, malformed
from squeezer.formats.protobuf import BYTES
from squeezer.model import DTYPE_NAMES, DTYPES, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.formats.onnx_parts import Initializer

_MAX_DIMENSIONS = 64  # numpy's
_MAX_ELEMENTS = 2**62
#: ONNX's element types, by our names.
TYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    16: "BF16",
    17: "F8_E4M3",
    19: "F8_E5M2",
}
#: The field for numbers that are not raw bytes, and their type there; int32_data for all others.
_TYPED: dict[str, tuple[str, type[np.generic]]] = {
    "F32": ("float_data", np.float32),
    "C64": ("float_data", np.float32),
    "F64": ("double_data", np.float64),
    "I64": ("int64_data", np.int64),
    "U64": ("uint64_data", np.uint64),
    "U32": ("uint64_data", np.uint64),
}
_BITS = {"F16": np.uint16, "BF16": np.uint16, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8}


def external(what: str) -> ModelError:
    """The error for data that lie in another file."""
    return ModelError(
        Code.UNSUPPORTED_FORMAT,
        f"The data of {what} lie in another file. Put all into one: onnx.save(onnx.load('model.onnx'), 'whole.onnx').",
    )


def describe(initializer: Initializer, *, hollow: bool = False) -> TensorInfo:
    """Name, shape and type of a weight, checked against its data, or (`hollow`) against there being none.

    Raises:
        ModelError: INVALID_ONNX, UNSUPPORTED_DTYPE.
    """
    try:
        tensor = onnx.TensorProto.FromString(initializer.stub)
    except DecodeError as error:
        raise malformed("an initialiser is damaged") from error
    name = tensor.name
    if not isinstance(name, str) or not name:  # a name that is no UTF-8 is given as bytes
        raise malformed("an initialiser has no name, or one that is not Unicode")
    if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:
        raise external(repr(name[:200]))
    if tensor.data_type not in TYPES:
        raise ModelError(
            Code.UNSUPPORTED_DTYPE,
            f"Tensor {name[:200]!r} is of ONNX's type {_type_name(tensor.data_type)}, which Squeezer cannot store. "
            f"It takes {', '.join(DTYPES)}; convert the tensor.",
        )
    info = TensorInfo(name, _shape(tensor), DTYPES[TYPES[tensor.data_type]])
    _check_data(info, initializer, hollow=hollow or info.size == 0)
    return info


def _shape(tensor: onnx.TensorProto) -> tuple[int, ...]:
    shape = tuple(tensor.dims[: _MAX_DIMENSIONS + 1])
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0 or prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise malformed(f"the shape of {tensor.name!r} is not a list of at most {_MAX_DIMENSIONS} possible sizes")
    return shape


def _type_name(number: int) -> str:
    names = dict(map(reversed, onnx.TensorProto.DataType.items()))
    return str(names.get(number, number))


def _check_data(info: TensorInfo, initializer: Initializer, *, hollow: bool) -> None:
    """The fields of the data must be of one kind, which suits the type, and there must be enough of them."""
    numbers = {field.number for field in initializer.data}
    available = sum(field.content.size for field in initializer.data)
    if hollow and available:
        raise malformed(f"{info.name!r} has data that it should not have")
    if hollow:
        return
    if initializer.raw is not None:
        if initializer.data[0].kind != BYTES or initializer.raw.size != info.nbytes:
            raise malformed(f"{info.name!r} needs {info.nbytes} bytes and has {initializer.raw.size}")
    elif len(numbers) > 1 or numbers & {RAW_DATA, STRING_DATA}:
        raise malformed(f"{info.name!r} has its data in several places")
    elif available < info.size:  # each number takes a byte or more
        raise malformed(f"{info.name!r} needs {info.size} numbers and has {available} bytes")


def decode_typed(info: TensorInfo, fields: bytes) -> NDArray[Any]:
    """A tensor from the bytes of its data fields, which are numbers of a wider type.

    Raises:
        ModelError: INVALID_ONNX: there are too many or too few, or one is out of the type's range.
    """
    key = DTYPE_NAMES[info.dtype]
    name, wide = _TYPED.get(key, ("int32_data", np.int32))
    try:
        numbers = getattr(onnx.TensorProto.FromString(fields), name)
    except DecodeError as error:
        raise malformed(f"the data of {info.name!r} are damaged") from error
    values = np.fromiter(numbers, wide, len(numbers))
    if values.size != info.size * (2 if key == "C64" else 1):
        raise malformed(f"{info.name!r} needs {info.size} numbers and has {values.size} of its type")
    if key == "C64":
        return values.view(info.dtype).reshape(info.shape)
    narrow = values.astype(_BITS.get(key, info.dtype))
    if values.dtype.kind != "f" and not np.array_equal(narrow.astype(wide), values):
        raise malformed(f"{info.name!r} holds numbers beyond its type")
    return (narrow.view(info.dtype) if key in _BITS else narrow).reshape(info.shape)
