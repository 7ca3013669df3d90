"""The package onnx, or what to do where it is not installed."""

from __future__ import annotations

from squeezer.errors import Code, ModelError

try:
    import onnx
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise ModelError(
        Code.MISSING_DEPENDENCY, "ONNX files need the package onnx. Run pip install 'squeezer[onnx]'."
    ) from error

__all__ = ["DecodeError", "onnx"]
