"""What an ONNX file says of its network, without the weights: it must be whole, and refer to no other file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.errors import Code, ModelError
from squeezer.formats.onnx_package import DecodeError, onnx
from squeezer.formats.onnx_parts import malformed
from squeezer.formats.onnx_tensors import TYPES, external
from squeezer.formats.protobuf import BYTES, MalformedError, Scanner, Span
from squeezer.graph import Input

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

_MAX_DEPTH = 64
# Numbers of fields of a `TensorProto`.
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def parse_skeleton(skeleton: bytes) -> onnx.ModelProto:
    """The model without its weights, which must be complete, and refer to no other file.

    Raises:
        ModelError: INVALID_ONNX, UNSUPPORTED_FORMAT.
    """
    scanner = Scanner(lambda position, size: skeleton[position : position + size], len(skeleton))
    try:
        _inspect(scanner, skeleton, Span(0, len(skeleton)), onnx.ModelProto.DESCRIPTOR, 0)
        model: onnx.ModelProto = onnx.ModelProto.FromString(skeleton)
    except (MalformedError, DecodeError) as error:
        raise malformed(f"its graph is damaged ({error})") from error
    if not model.opset_import or not model.graph.node:
        raise malformed("it has no nodes, or does not say of which operator set they are")
    return model


def _inspect(scanner: Scanner, skeleton: bytes, message: Span, kind: Descriptor, depth: int) -> None:
    """Look at every field before they become objects, of which a few bytes each could fill the memory."""
    if depth > _MAX_DEPTH:
        raise MalformedError("it is nested too deeply")
    for field in scanner.fields(message):
        known = kind.fields_by_number.get(field.number)
        if known is not None and known.message_type is not None and field.kind == BYTES:
            _inspect(scanner, skeleton, field.content, known.message_type, depth + 1)
        if kind is onnx.TensorProto.DESCRIPTOR and (
            field.number == _EXTERNAL_DATA
            or (field.number == _DATA_LOCATION and skeleton[field.content.begin : field.content.end] != b"\0")
        ):
            raise external("a constant")


def inputs_of(model: onnx.ModelProto) -> tuple[Input, ...]:
    """What the network wants to be given.

    Raises:
        ModelError: UNSUPPORTED_FORMAT, where that is no tensor of a known type and number of dimensions.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input(value) for value in model.graph.input if value.name not in stored)


def _input(value: onnx.ValueInfoProto) -> Input:
    tensor = value.type.tensor_type
    if tensor.elem_type not in TYPES or not tensor.HasField("shape") or not isinstance(value.name, str):
        raise ModelError(
            Code.UNSUPPORTED_FORMAT,
            f"The input {value.name[:200]!r} is no tensor with a type and a shape, so accuracy cannot be measured.",
        )
    shape = tuple(each.dim_value if each.HasField("dim_value") else None for each in tensor.shape.dim)
    return Input(value.name, shape, TYPES[tensor.elem_type])
