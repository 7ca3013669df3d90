"""Writes a network, with its tensors, as a program that others run: `.pt2` for PyTorch, `.onnx` for ONNX Runtime."""

from __future__ import annotations

import inspect
import logging
import re
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from squeezer.errors import Code, ModelError
from squeezer.formats.output import whole_file
from squeezer.graph.checks import check_names
from squeezer.model import DTYPES
from squeezer.training.module import NetworkModule, build, put
from squeezer.training.tensors import to_torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from squeezer.graph import Graph

    Arrays = Mapping[str, NDArray[Any]]

#: The batch that a network is traced with, and what is tried for other extents that may have any size.
_BATCH = 2
_EXTENTS = (16, 64, 256)
#: Of ONNX's operators; ONNX Runtime knows it from 1.17 on.
_OPSET = 20
_STUMBLED = (
    re.compile(r"OpOverload\(op='([\w.]+)', overload='(\w+)'\)"),
    re.compile(r"target=torch\.ops\.([\w.]+)"),
)
#: How far ONNX Runtime may be from PyTorch, in units of the largest output; types of two bytes have three digits.
_TOLERANCE, _COARSE_TOLERANCE = 1e-4, 2e-2


def write_pt2(graph: Graph, tensors: Arrays, out: Path) -> None:
    """Write a file for `torch.export.load`, in evaluation mode. It holds no path of this machine, and no examples.

    Args:
        graph: the network.
        tensors: all of its tensors by name; those that it does not use come along.
        out: the file; it appears when it is whole.

    Raises:
        ModelError: EXPORT_FAILED.
    """
    program = _trace(graph, _module(graph, tensors))
    forget_origin(program)
    with tempfile.TemporaryDirectory(prefix=".squeezer-", dir=out.parent) as folder:
        whole = Path(folder) / "network.pt2"
        torch.export.save(program, whole)
        whole.replace(out)


def write_onnx(graph: Graph, tensors: Arrays, out: Path) -> None:
    """Write an ONNX file, once ONNX Runtime has given what PyTorch gives, on random inputs of two sizes of batch.

    Args:
        graph: the network.
        tensors: all of its tensors by name.
        out: the file; it appears when it is whole.

    Raises:
        ModelError: EXPORT_FAILED: an operator has no counterpart, the file would exceed 2 GiB, or the results differ
            by more than 1e-4 of the largest output (2e-2 for types of two bytes).
    """
    from squeezer.formats.onnx import MAX_BYTES  # whose package not everybody has

    module = _module(graph, tensors)
    model = _as_onnx(_trace(graph, module))
    if model.ByteSize() > MAX_BYTES:
        raise _failed("the file would be larger than 2 GiB, which ONNX does not allow")
    content = model.SerializeToString()
    _check_agreement(graph, module, content)
    with whole_file(out) as file:
        file.write(content)


def _failed(detail: str) -> ModelError:
    return ModelError(Code.EXPORT_FAILED, f"The network cannot be written in that format: {detail}.")


# -- tracing -----------------------------------------------------------------------------------------------


def _trace(graph: Graph, module: NetworkModule) -> ExportedProgram:
    """The program that a graph is, with its inputs' names, and any size where the graph has any."""
    inputs = _random_inputs(graph, _BATCH, _working_extent(graph, module))
    shapes = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(given.shape) if size is None}
        for given in graph.inputs
    )
    try:
        with _quiet():
            program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:  # whatever torch's tracer meets
        raise _failed(f"it cannot be traced again ({_first_line(error)})") from error
    return program


def forget_origin(program: ExportedProgram) -> None:
    """Drop what would lie in the file and is nobody else's business: the examples, pickled, and the source's paths."""
    program._example_inputs = None
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)


def _module(graph: Graph, tensors: Arrays) -> NetworkModule:
    """The network in evaluation mode, with its tensors, and a `forward` whose arguments have the inputs' names."""
    check_names(tensors)
    module = build(graph).eval()
    for name, array in tensors.items():
        put(module, name, to_torch(array), buffer=name in graph.buffers)

    def forward(*inputs: torch.Tensor) -> Any:
        return NetworkModule.forward(module, *inputs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [inspect.Parameter(given.name, kind) for given in graph.inputs]
    forward.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined] # where `inspect` looks for it
    module.forward = forward  # type: ignore[assignment,method-assign] # the tracer takes names from it
    return module


def _working_extent(graph: Graph, module: NetworkModule) -> int:
    """An extent that the network takes wherever it takes several, beside the batch."""
    failure: Exception | None = None
    for extent in _EXTENTS:
        try:
            _outputs(module, _random_inputs(graph, _BATCH, extent))
        except Exception as error:  # a length that it does not take; torch raises anything
            failure = error
        else:
            return extent
    raise _failed(f"it does not run on inputs of common sizes ({_first_line(failure)})")


def _random_inputs(graph: Graph, batch: int, extent: int) -> tuple[torch.Tensor, ...]:
    """Inputs that any network should take: normal numbers, or 0 and 1 where it wants integers. Always the same ones."""
    random = np.random.default_rng(0)
    inputs = []
    for given in graph.inputs:
        shape = [(extent if axis else batch) if size is None else size for axis, size in enumerate(given.shape)]
        dtype = DTYPES[given.dtype]
        numbers = random.integers(0, 2, shape) if dtype.kind in "iub" else random.normal(size=shape)
        inputs.append(to_torch(numbers.astype(dtype)))
    return tuple(inputs)


def _outputs(module: NetworkModule, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        outputs = module(*inputs)
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def _first_line(error: Exception | None) -> str:
    return str(error).strip().partition("\n")[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters say about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# -- ONNX --------------------------------------------------------------------------------------------------


def _as_onnx(program: ExportedProgram) -> onnx.ModelProto:
    """The program in ONNX's operators, without notes on where each of them came from."""
    try:
        with _quiet():
            exported = torch.onnx.export(program, dynamo=True, opset_version=_OPSET, verbose=False)
    except ImportError as error:
        raise ModelError(
            Code.MISSING_DEPENDENCY, "Writing an ONNX file needs onnxscript. Run pip install 'squeezer[onnx]'."
        ) from error
    except Exception as error:  # an operator without a counterpart, and whatever else
        raise _failed(f"ONNX has no counterpart for {_operator_of(error)}") from error
    assert exported is not None  # noqa: S101 # `dynamo` always returns a program; this tells mypy
    model: onnx.ModelProto = exported.model_proto
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


def _operator_of(error: BaseException) -> str:
    """The operator that the exporter stumbled over, which it tells in one of a chain of errors."""
    failure: BaseException | None = error
    while failure is not None:
        for pattern in _STUMBLED:
            if found := pattern.search(str(failure)):
                return f"{'.'.join(found.groups())}, or not as it is used here"
        failure = failure.__cause__ or failure.__context__
    return "a part of it"


def _check_agreement(graph: Graph, module: NetworkModule, content: bytes) -> None:
    """Run both, on two sizes of batch where the network takes several."""
    from squeezer.training.onnx_runtime import open_session, run

    session = open_session(content)
    extent = _working_extent(graph, module)
    for batch in (_BATCH, _BATCH + 1):
        inputs = _random_inputs(graph, batch, extent)
        expected = _outputs(module, inputs)
        names = [item.name for item in session.get_inputs()]
        named = {given.name: tensor.numpy() for given, tensor in zip(graph.inputs, inputs, strict=True)}
        found = run(session, {name: named[name] for name in names})
        for one, other in zip(expected, found, strict=True):
            _compare(one, other)


def _compare(expected: torch.Tensor, found: NDArray[Any]) -> None:
    reference = expected.double().numpy()
    coarse = expected.is_floating_point() and expected.dtype.itemsize < 4
    limit = (_COARSE_TOLERANCE if coarse else _TOLERANCE) * max(1.0, float(np.abs(reference).max(initial=0)))
    if found.shape != reference.shape or not np.allclose(found, reference, rtol=0, atol=limit, equal_nan=True):
        raise _failed("ONNX Runtime gives something else than PyTorch for what was written")
