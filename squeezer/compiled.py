"""Compiled functions. Importing this module loads numba."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

    #: What numba makes of a function takes any arguments, for all that mypy knows.
    Function = Callable[..., Any]


def kernel(**options: Any) -> Callable[[Function], Function]:
    """Compile a function at its first call, and let other threads run while it runs.

    The machine code is kept for later processes in `__pycache__` beside the source, or else in the user's own cache
    folder (or in `NUMBA_CACHE_DIR`): places that only those can write who could change the source as well. Where none
    of them can be written, as in a read-only container, every process compiles anew.

    Args:
        options: further ones of `numba.njit`.
    """

    def compiled(function: Function) -> Function:
        dispatcher = njit(nogil=True, **options)(function)
        with suppress(RuntimeError):  # no place for the cache
            dispatcher.enable_caching()
        return dispatcher  # type: ignore[no-any-return] # numba is untyped

    return compiled
