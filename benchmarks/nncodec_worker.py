"""nncodec, the reference coder of ISO/IEC 15938-17 (NNC), behind a JSON interface. Run by an interpreter that has it.

`PYTHON nncodec_worker.py integers FILE` codes the integer arrays of an `.npz` file without loss.
`PYTHON nncodec_worker.py model FILE --squared-error E` codes float32 arrays at the setting whose squared error, summed
over all arrays of two or more dimensions, comes closest to E.
`PYTHON nncodec_worker.py settings FILE --qps QP... --out FOLDER` codes float32 arrays at each of these settings, and
leaves an `.npz` file for each: what was decoded, and the bytes.

It imports nothing of Squeezer, for nncodec wants an older numpy. Of nncodec it needs the coder alone, so the parts that
train and evaluate networks, and with them torch, torchvision, OpenCV and others, are replaced by empty modules.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

#: What `nncodec.nnc` imports and coding arrays does not use.
_UNUSED = "tensorflow_model", "pytorch_model", "use_case_init"
#: The quantiser's step is about 2 ** (qp / 4); these bounds hold any network's.
_LOW, _GUESS, _HIGH = -80, -32, 0
#: The defaults of nncodec's own `nncodec.nn.encode`: trellis quantisation, optimised parameters, row skipping.
_SETTINGS = {"use_dq": True, "param_opt": True, "row_skipping": True}


def coder() -> Any:
    """The module `nncodec.nnc`, with `compress` and `decompress`."""
    framework = types.ModuleType("nncodec.framework")
    sys.modules["nncodec.framework"] = framework
    for name in _UNUSED:
        module = types.ModuleType(f"nncodec.framework.{name}")
        sys.modules[module.__name__] = module
        setattr(framework, name, module)
    from nncodec import nnc  # type: ignore[import-not-found] # lives in an environment of its own

    return nnc


def code(nnc: Any, arrays: dict[str, Any], qp: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encode and decode with nncodec's own defaults.

    Returns:
        Bytes, seconds of wall and of processor for each direction; and the decoded arrays.
    """
    started, worked = time.perf_counter(), time.process_time()
    # `bitstream_path` is None since it would write a file too.
    stream = nnc.compress(arrays, bitstream_path=None, qp=qp, return_bitstream=True, **_SETTINGS)
    encoded, encoded_worked = time.perf_counter(), time.process_time()
    decoded = nnc.decompress(bytearray(stream))
    figures = {
        "bytes": len(stream),
        "encode": encoded - started,
        "encode_processor": encoded_worked - worked,
        "decode": time.perf_counter() - encoded,
        "decode_processor": time.process_time() - encoded_worked,
    }
    return figures, decoded


def squared_error(arrays: dict[str, Any], decoded: dict[str, Any]) -> float:
    """The sum over all elements of arrays of two or more dimensions."""
    return float(
        sum(np.square(a.astype(np.float64) - decoded[name]).sum() for name, a in arrays.items() if a.ndim >= 2)
    )


def integers(nnc: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Figures of lossless coding; fails where something else comes back."""
    given = {name: array.astype(np.int32) for name, array in arrays.items()}
    figures, decoded = code(nnc, given, qp=_LOW)
    for name, array in given.items():
        if not np.array_equal(array, decoded[name]):
            raise SystemExit(f"nncodec does not give back {name}")
    return figures


def model(nnc: Any, arrays: dict[str, Any], wanted: float) -> dict[str, Any]:
    """Figures at the setting whose squared error comes closest to the wanted one, by its logarithm."""
    given = _floats(arrays)
    errors = dict[int, float]()
    low, high, qp = _LOW, _HIGH, _GUESS
    while high - low > 1:
        qp = min(max(qp, low + 1), high - 1)
        # Quantised, but not coded: that is all the search needs.
        found = nnc.compress(given, bitstream_path=None, qp=qp, quantize_only=True, **_SETTINGS)
        errors[qp] = error = squared_error(given, found)
        low, high = (qp, high) if error <= wanted else (low, qp)
        # Four settings double the step, and so make the error about four times as large.
        qp += round(2 * math.log2(wanted / error)) if error > 0 else high - qp
    best = min((qp for qp in errors if errors[qp] > 0), key=lambda qp: abs(math.log(errors[qp] / wanted)))
    figures, decoded = code(nnc, given, best)
    return figures | {"qp": best, "squared_error": squared_error(given, decoded)}


def settings(nnc: Any, arrays: dict[str, Any], qps: list[int], out: Path) -> list[int]:
    """Write `qp<QP>.npz` for each setting; `/bytes` and `/matrix_bytes` are lengths of bitstreams.

    The second is of the arrays of two or more dimensions alone.
    """
    given = _floats(arrays)
    matrices = {name: array for name, array in given.items() if array.ndim >= 2}
    for qp in qps:
        figures, decoded = code(nnc, given, qp)
        alone, _ = code(nnc, matrices, qp)
        lengths = {"/bytes": figures["bytes"], "/matrix_bytes": alone["bytes"]}
        np.savez(out / f"qp{qp}.npz", **decoded, **lengths)
    return qps


def _floats(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def main() -> None:
    """Read the file, code, and print one JSON document."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("what", choices=("integers", "model", "settings"))
    arguments.add_argument("file")
    arguments.add_argument("--squared-error", type=float, default=0.0)
    arguments.add_argument("--qps", type=int, nargs="+", default=[])
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    with np.load(given.file) as archive:
        arrays = dict(archive)
    nnc = coder()
    result: Any
    if given.what == "integers":
        result = integers(nnc, arrays)
    elif given.what == "model":
        result = model(nnc, arrays, given.squared_error)
    else:
        result = settings(nnc, arrays, given.qps, given.out)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
