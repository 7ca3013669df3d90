"""Arrays of a file as the inputs and targets of a network: found by name, checked by shape, then read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.data import sources
from squeezer.data.names import choose
from squeezer.data.scan import Part
from squeezer.data.targets import understand
from squeezer.data.transform import Preparation, shown
from squeezer.errors import Code, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from squeezer.data.dataset import Split
    from squeezer.data.sources import Arrays, Source
    from squeezer.data.spec import DataSpec
    from squeezer.data.transform import Wanted
    from squeezer.graph import Input
    from squeezer.model import TensorInfo


def array_parts(arrays: Arrays, spec: DataSpec, inputs: Sequence[Input], outputs: Wanted | None) -> dict[Split, Part]:
    """The arrays that the file has for each split; see `open_dataset` for the arguments.

    Raises:
        DataError: an array is missing, or does not fit the network, the loss or the other arrays.
    """
    chosen = choose(arrays.names, spec, [wanted.name for wanted in inputs])
    if any(spec.transform_of(name).resize for name in chosen.inputs):
        raise DataError(
            Code.INVALID_DATA,
            "data.transform.resize is for the images of a .zip, and this data set has arrays. Leave it out, and save "
            "the arrays in the size that the network wants.",
        )
    plans = {}
    for split, names in chosen.arrays.items():
        infos = {base: arrays.info(name) for base, name in names.items()}
        _check_lengths(list(infos.values()))
        pairs = zip(chosen.inputs, inputs, strict=True)
        preparations = tuple(Preparation(infos[base], wanted, spec.transform_of(base)) for base, wanted in pairs)
        meaning = understand(infos[chosen.targets], spec, outputs) if chosen.targets else None
        plans[split] = preparations, meaning
    read = _read(arrays, {name for names in chosen.arrays.values() for name in names.values()})
    parts = {}
    for split, (preparations, meaning) in plans.items():
        names = chosen.arrays[split]
        targets = read[names[chosen.targets]] if chosen.targets else None
        parts[split] = Part(tuple(read[names[base]] for base in chosen.inputs), preparations, targets, meaning)
    return parts


def _check_lengths(infos: list[TensorInfo]) -> None:
    for info in infos:
        if not info.shape or not info.nbytes:
            raise DataError(
                Code.INVALID_DATA,
                f"The array {info.name!r} of the data set is empty or has no rows: its shape is {shown(info.shape)}. "
                "Save one row for each example.",
            )
        if info.shape[0] != infos[0].shape[0]:
            raise DataError(
                Code.INVALID_DATA,
                f"The arrays {infos[0].name!r} and {info.name!r} of the data set have {infos[0].shape[0]} and "
                f"{info.shape[0]} rows. Save as many of one as of the other.",
            )


def _read(arrays: Arrays, names: Iterable[str]) -> dict[str, Source]:
    """The small arrays in memory, as many as may be; the others on disk."""
    read: dict[str, Source] = {}
    memory = sources.MEMORY_BYTES
    for name in sorted(names, key=lambda name: (arrays.info(name).nbytes, name)):
        size = arrays.info(name).nbytes
        read[name] = arrays.held(name) if size <= memory else arrays.on_disk(name)
        memory -= min(size, memory)
    return read
