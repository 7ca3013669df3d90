"""The list of operators against PyTorch's own descriptions of them."""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch

from squeezer.graph.modes import MODES
from squeezer.graph.operators import CREATING, IN_PLACE, MAY_SHARE, OPERATORS, REMEDIES, SYMBOLIC

if TYPE_CHECKING:
    from collections.abc import Iterator

ATEN = sorted(target for target in OPERATORS if target.startswith("aten."))
#: Operators with which a graph could read a file or memory, run code, or make a result of any size out of values.
DANGEROUS = """
    from_file set_.source_Storage set_.source_Tensor resize_ resize_as_ as_strided as_strided_ empty.memory_format
    empty_strided empty_permuted new_empty empty_like item _local_scalar_dense nonzero masked_select unique_dim
    repeat_interleave.Tensor bincount record_stream _print save load unsafe_index _unsafe_index.Tensor
    requires_grad_ rand randn bernoulli normal_ _foobar _weight_int4pack_mm data set_data sparse_coo_tensor
    max_unpool2d ctc_loss.Tensor histc pin_memory
"""


def schema(target: str) -> Any:
    _, name, overload = target.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)._schema


def test_the_list_says_what_pytorch_says() -> None:
    for target in ATEN:
        found = schema(target)
        assert found.is_mutable == (target in IN_PLACE), target
        names = [argument.name for argument in found.arguments]
        takes_tensors = any("Tensor" in str(argument.type) for argument in found.arguments)
        assert ("device" in names and not takes_tensors) == (target in CREATING), target
        written = [argument.is_write for argument in found.arguments]
        assert not any(written[1:]), target
        assert written[0] == (target in IN_PLACE), target


def test_views_are_known() -> None:
    for target in set(ATEN) - IN_PLACE:
        if any(result.alias_info for result in schema(target).returns):
            assert target in MAY_SHARE, target


def leaves(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for part in result:
            yield from leaves(part)


@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (2, 2), (1, 1), (1,), ()])
def test_what_returns_an_argument_as_it_is_is_known(shape: tuple[int, ...]) -> None:
    """Schemas do not tell of dropout in evaluation, of `einsum`, and the like: they are tried."""
    tried, shares = set(), set()
    for target in set(ATEN) - IN_PLACE - CREATING:
        _, name, overload = target.split(".")
        operator = getattr(getattr(torch.ops.aten, name), overload)
        tensor = torch.ones(shape)
        for number in (0, 1):
            plain = {"int": number, "SymInt": number, "float": 1.0, "number": 1.0, "bool": False, "str": "..."}
            plain |= {"Tensor": tensor, "List[Tensor]": [tensor], "List[int]": [1], "List[SymInt]": [1]}
            arguments = operator._schema.arguments
            given = [argument for argument in arguments if not argument.has_default_value()]
            if all(str(argument.type) in plain for argument in given):
                named = {argument.name: plain[str(argument.type)] for argument in given}
                with suppress(RuntimeError, IndexError, ValueError, NotImplementedError):
                    results = list(leaves(operator(**named)))
                    tried.add(target)
                    storages = [result.untyped_storage().data_ptr() for result in results if result.numel()]
                    if tensor.untyped_storage().data_ptr() in storages:
                        shares.add(target)
    assert len(tried) > 150
    assert "aten.view.default" in shares or shape != (1,)
    assert shares <= MAY_SHARE


def test_every_argument_that_depends_on_the_mode_is_known() -> None:
    for target in ATEN:
        names = [argument.name for argument in schema(target).arguments]
        flags = [name for name in names if name in ("training", "train", "use_input_stats", "is_training")]
        drops = [name for name in names if name in ("dropout_p", "dropout")] or ["p"] * ("p" in names and bool(flags))
        mode = MODES.get(target)
        places = [place for place in ((mode.flag, mode.dropout, mode.statistics) if mode else ()) if place]
        assert [place.name for place in places if place.name != "running_mean"] == flags + drops, target
        assert all(names[place.position] == place.name for place in places), target


def test_symbolic_operators_are_python_s_own() -> None:
    homes = {"_operator": operator, "math": math, "torch": torch}
    for target in SYMBOLIC:
        home, _, name = target.partition(".")
        assert home == "aten" or callable(getattr(homes[home], name)), target


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_dangerous_operators_are_not_listed(name: str) -> None:
    assert f"aten.{name}" not in OPERATORS
    assert f"aten.{name}.default" not in OPERATORS


def test_what_has_a_remedy_is_not_listed() -> None:
    assert not REMEDIES.keys() & OPERATORS
