"""Runs ONNX networks, with ONNX Runtime and on the processor: to measure them, and to check what was exported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.errors import Code, ModelError
from squeezer.formats.onnx import assemble
from squeezer.formats.onnx_model import inputs_of, parse_skeleton

try:
    import onnxruntime
except ImportError as error:
    raise ModelError(
        Code.MISSING_DEPENDENCY, "Running an ONNX network needs ONNX Runtime. Run pip install 'squeezer[onnx]'."
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

_PROBABILITIES = frozenset({"Softmax", "Sigmoid"})
#: What changes the shape or the type alone.
_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
_ERRORS_ONLY = 3


class OnnxNetwork:
    """An ONNX network with its tensors: numpy in, numpy out.

    Raises:
        ModelError: INVALID_ONNX, where ONNX Runtime refuses the network.
    """

    def __init__(self, skeleton: bytes, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Args are the network without its weights (`squeezer.formats.onnx_parts.SKELETON`) and the weights by name."""
        model = parse_skeleton(skeleton)
        self.inputs = inputs_of(model)
        #: The one size of batch that the network takes, where it takes one alone.
        self.fixed = next((item.shape[0] for item in self.inputs if item.shape), None)
        #: Whether its first output comes out of a softmax or a sigmoid.
        self.probabilities = _gives_probabilities(model)
        self._session = open_session(b"".join(assemble(skeleton, lambda info: tensors[info.name])))

    def __call__(self, inputs: Sequence[NDArray[Any]]) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        """What the network gives for a batch: its output, or all of them. A fixed batch is filled up and cut again.

        Args:
            inputs: in the order of `inputs`, of as many rows as there are, or at most of as many as are `fixed`.
        """
        rows = len(inputs[0])
        if self.fixed is not None and rows < self.fixed:
            inputs = [np.resize(array, (self.fixed, *array.shape[1:])) for array in inputs]
        given = {item.name: np.ascontiguousarray(array) for item, array in zip(self.inputs, inputs, strict=True)}
        outputs = tuple(_cut(output, rows) for output in run(self._session, given))
        return outputs[0] if len(outputs) == 1 else outputs


def _cut(output: NDArray[Any], rows: int) -> NDArray[Any]:
    """An output without what was filled up. One that is a single number is of no row, nor is what is no array."""
    return output[:rows] if isinstance(output, np.ndarray) and output.ndim else output


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """An ONNX file, ready to run on as many cores as this process may use.

    Raises:
        ModelError: INVALID_ONNX.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise _refusal(error) from error


def run(session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """All outputs for these inputs.

    Raises:
        ModelError: INVALID_ONNX.
    """
    try:
        outputs: list[NDArray[Any]] = session.run(None, dict(inputs))
    except Exception as error:
        raise _refusal(error) from error
    return outputs


def _refusal(error: Exception) -> ModelError:
    return ModelError(Code.INVALID_ONNX, f"ONNX Runtime cannot run the network: {str(error)[:500]}. Export it again.")


def _gives_probabilities(model: onnx.ModelProto) -> bool:
    """Whether the first output comes out of a softmax or a sigmoid."""
    makers = {name: node for node in model.graph.node for name in node.output}
    name = model.graph.output[0].name if model.graph.output else ""
    while node := makers.pop(name, None):
        if node.op_type in _PROBABILITIES:
            return True
        if node.op_type not in _PASSING or not node.input:
            return False
        name = node.input[0]
    return False


def _threads() -> int:
    """What PyTorch takes as well: as many as the environment says, or as there are cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
