"""Where networks run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def choose(wanted: str) -> str:
    """The device for a recipe's `device`: "cuda" where it is wanted or `auto` finds one, else "cpu".

    Raises:
        ModelError: "cuda" is wanted and there is none.
    """
    import torch

    from squeezer.errors import Code, ModelError

    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise ModelError(Code.NO_DEVICE, "this machine has no GPU that PyTorch can use; set device to auto or cpu")
    return "cpu"


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads within an operator, and as many as before when this ends."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
