"""Compiles every kernel once, so that later processes find the machine code in numba's cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from squeezer import api, pipeline
from squeezer.model import InMemoryModel
from squeezer.recipe import parse_recipe

#: Together these reach every kernel, and the widths of numbers that are common.
_RECIPES: tuple[object, ...] = (
    "lossless",
    "safe",
    "deep-compression",
    {"steps": [{"method": "magnitude_prune", "sparsity": 0.9, "scope": "global"}]},
    {"steps": [{"method": "kmeans_share", "bits": 4}], "encoding": {"coder": "huffman"}},
    {"steps": [{"method": "kmeans_share", "bits": 9}]},
    {"steps": [{"method": "uniform_quantize", "bits": 9}], "encoding": {"coder": "gaps"}},
    {"steps": [{"method": "uniform_quantize", "step": 1e-6}]},
    {"steps": [{"method": "uniform_quantize", "relative_step": 0.4, "rate_weight": 0.03, "error_feedback": True}]},
    {"steps": [{"method": "uniform_quantize", "bits": 5, "rate_weight": 0.03, "trellis": True}]},
    {"steps": [{"method": "uniform_quantize", "step": 1e-6, "error_feedback": True, "trellis": True}]},
    {"steps": [{"method": "uniform_quantize", "bits": 5}], "encoding": {"coder": "context"}},
    {"steps": [{"method": "uniform_quantize", "relative_step": 1, "trellis": True}], "encoding": {"coder": "rans"}},
)


def warm_up() -> None:
    """Compress and load a small model by each of a few recipes."""
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.standard_normal((64, 64)).astype(dtype) for i, dtype in enumerate("efd")}
    weights["kernels"] = random.standard_normal((8, 16, 3, 3)).astype("f")
    # Rows of unlike scales, for which rANS has contexts.
    weights["rows"] = (random.standard_normal((64, 256)) * np.exp(random.standard_normal((64, 1)))).astype("f")
    model = InMemoryModel(weights)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.sqz"
        for recipe in _RECIPES:
            pipeline.run(model, parse_recipe(recipe), out)
            api.load(out)
            api.verify(out)
