"""Data sets: what a network is retrained and measured with. numpy only."""

from squeezer.data.spec import DataSpec

__all__ = ["DataSpec"]
