"""The same numbers every time, on the same machine with the same number of threads."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def seed_draws(seed: int, device: str) -> None:
    """Begin the random numbers of a device anew."""
    # torch.manual_seed would note where it was called from, for every GPU that is never used.
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.cuda.manual_seed(seed)


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Random numbers of its own, and on a GPU only kernels that always give the same, where there are such."""
    if device == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with (
        torch.random.fork_rng(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        warnings.catch_warnings(action="ignore", category=UserWarning),
    ):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
