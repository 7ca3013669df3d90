"""Compiled functions. Importing this module loads numba."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache

if TYPE_CHECKING:
    from collections.abc import Callable

    #: What numba makes of a function takes any arguments, for all that mypy knows.
    Function = Callable[..., Any]


class _ByRights:
    """Takes a folder that this user may write to. numba would try, and where it is confined choose another one."""

    def ensure_cache_path(self) -> None:
        path = self.get_cache_path()  # type: ignore[attr-defined] # of the class that this one is mixed into
        os.makedirs(path, exist_ok=True)  # noqa: PTH103 - numba deals in names
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(path)


def _by_rights(locator: type) -> Any:
    return type(locator.__name__, (_ByRights, locator), {})


class _Place(CompileResultCacheImpl):
    _locator_classes = [*map(_by_rights, CompileResultCacheImpl._locator_classes)]  # noqa: RUF012 - numba's own type


class _Cache(FunctionCache):
    _impl_class = _Place

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(PermissionError):  # confined
            super().save_overload(sig, data)  # type: ignore[no-untyped-call] # numba's


def kernel(**options: Any) -> Callable[[Function], Function]:
    """Compile a function at its first call, and let other threads run while it runs.

    The machine code is kept for later processes in `__pycache__` beside the source, or else in the user's own cache
    folder (or in `NUMBA_CACHE_DIR`): places that only those can write who could change the source as well. Where none
    of them can be written, as in a read-only container, every process compiles anew. A confined process reads what
    is there and keeps nothing.

    Args:
        options: further ones of `numba.njit`.
    """

    def compiled(function: Function) -> Function:
        dispatcher = njit(nogil=True, **options)(function)
        with suppress(RuntimeError):  # no place for the cache
            dispatcher._cache = _Cache(function)  # type: ignore[no-untyped-call] # numba's
        return dispatcher  # type: ignore[no-any-return] # numba is untyped

    return compiled
