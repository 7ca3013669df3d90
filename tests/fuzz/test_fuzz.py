"""A short run of the fuzzer, and whether it finds what is there to be found."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

import squeezer.codecs
from tests.fuzz import campaign
from tests.fuzz.campaign import TARGETS, Result
from tests.fuzz.child import Order
from tests.guard import name_of

MUTATIONS = 2000
#: Kernels that see weights and nothing that was read.
BEFORE_CODING = {"squeezer.codecs.trellis._quantisers"}


@cache
def short_run() -> Result:
    """The same mutants each time."""
    return campaign.run(Order(seed=0, targets=list(TARGETS), last=MUTATIONS))


def test_mutants_are_decoded_or_refused() -> None:
    result = short_run()
    assert not result.findings, "\n".join(finding.detail for finding in result.findings)
    assert result.counts.total() == MUTATIONS
    # Both happen to both, or else something is not tried at all.
    assert set(result.counts) == {f"{target} {outcome}" for target in TARGETS for outcome in ("decoded", "refused")}


def test_every_kernel_that_python_calls_ran_between_guard_pages() -> None:
    called = kernels_called_by_python() - BEFORE_CODING
    assert len(called) > 10
    assert called - short_run().kernels == set()


def kernels_called_by_python() -> set[str]:
    """Compiled functions of the codecs that are named in functions that are not compiled."""
    names = [info.name for info in pkgutil.iter_modules(squeezer.codecs.__path__, "squeezer.codecs.")]
    found = set()
    for module in map(importlib.import_module, names):
        for node in ast.walk(_NotCompiled().visit(ast.parse(inspect.getsource(module)))):
            match node:
                case ast.Name(id=name):
                    kernel = getattr(module, name, None)
                case ast.Attribute(value=ast.Name(id=owner), attr=name):
                    kernel = getattr(getattr(module, owner, None), name, None)
                case _:
                    continue
            # Assigning it is no call.
            if isinstance(kernel, Dispatcher) and isinstance(node.ctx, ast.Load):
                found.add(name_of(kernel))
    return found


class _NotCompiled(ast.NodeTransformer):
    """Leaves compiled functions out."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        decorators = {ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list}
        return None if decorators & {"njit", "kernel"} else self.generic_visit(node)


def test_faults_are_found() -> None:
    order = Order(
        seed=0, targets=["codecs"], last=400, seconds_each=0.5, memory=32 << 20, prepare="tests.fuzz.sabotage"
    )
    findings = campaign.run(order).findings
    assert len(findings) >= campaign.ENOUGH
    kinds = {finding.kind for finding in findings}
    assert kinds == {"outside its buffer", "hang", "exception", "memory"}


def test_checks_of_indexes_find_what_guard_pages_find(tmp_path: Path) -> None:
    order = Order(seed=0, targets=["codecs"], last=60, seconds_each=0.5, guarded=False, prepare="tests.fuzz.sabotage")
    findings = campaign.run(order, environment=campaign.bounds_checked(tmp_path)).findings
    assert any("IndexError: index is out of bounds" in finding.detail for finding in findings)


def test_a_broken_corpus_is_no_success() -> None:
    with pytest.raises(RuntimeError, match="no_such_module"):
        campaign.run(Order(seed=0, targets=["codecs"], last=1, prepare="no_such_module"))


def test_processes_share_the_work_and_replay_is_exact() -> None:
    order = Order(seed=5, targets=["codecs"], last=12, prepare="tests.fuzz.sabotage", seconds_each=0.5, memory=1 << 31)
    alone, shared = campaign.run(order), campaign.run(order, jobs=2)
    assert alone.counts == shared.counts
    assert alone.counts.total() == 12
    found = [{(finding.kind, finding.number) for finding in result.findings} for result in (alone, shared)]
    assert found[0] == found[1] != set()
