"""A small transformer encoder for images: a vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) of the width
of ViT-Ti (Touvron et al. 2021, arXiv 2012.12877, table 1) and half its depth, for patches of 4 x 4 pixels.

It averages all patches for its answer (Beyer et al. 2022, arXiv 2205.01580). The names of the parameters are those that
timm gives to such a network.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from squeezer.zoo.shapes import extent, unusable_shape

if TYPE_CHECKING:
    from squeezer.zoo.shapes import Shape, Shapes

_WIDTH = 192
_HEADS = 3
_DEPTH = 6
_PATCH = 4


class Attention(nn.Module):
    """Self-attention of several heads among (batch, patches, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Let the patches see one another."""
        count = x.shape[1]
        q, k, v = self.qkv(x).reshape(-1, count, 3, _HEADS, _WIDTH // _HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(q, k, v)
        mixed: torch.Tensor = self.proj(seen.transpose(1, 2).reshape(-1, count, _WIDTH))
        return mixed


class Mlp(nn.Module):
    """Two layers with a GELU between them, on each patch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(_WIDTH, 4 * _WIDTH)
        self.fc2 = nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, patches, width) to the same."""
        mapped: torch.Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return mapped


class Block(nn.Module):
    """Attention and layers, each with its norm before it and a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.mlp = Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, patches, width) to the same."""
        x = x + self.attn(self.norm1(x))
        summed: torch.Tensor = x + self.mlp(self.norm2(x))
        return summed


class PatchEmbed(nn.Module):
    """Patches as vectors: (batch, channels, side, side) to (batch, patches, width)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, _WIDTH, _PATCH, _PATCH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Cut and project."""
        return torch.flatten(self.proj(x), 2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """(batch, `channels`, `side`, `side`) images to (batch, `classes`) logits."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels)
        self.pos_embed = nn.Parameter(torch.empty(1, (side // _PATCH) ** 2, _WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(_DEPTH)))
        self.fc_norm = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.head = nn.Linear(_WIDTH, classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.blocks(self.patch_embed(x) + self.pos_embed)
        logits: torch.Tensor = self.head(self.fc_norm(x.mean(1)))
        return logits


def build(name: str, classes: int, shape: Shape) -> nn.Module:
    """The network for images of that shape."""
    if len(shape) != 3 or shape[1] != shape[2] or shape[2] < _PATCH or shape[2] % _PATCH:
        raise unusable_shape(name, shape, f"(channels, side, side), with a side that {_PATCH} divides")
    return VisionTransformer(shape[0], shape[1], classes)


def infer(name: str, shapes: Shapes) -> tuple[int, Shape]:  # noqa: ARG001 # the families' interface
    """How many classes a state dict is for, and inputs of which shape."""
    side = _PATCH * isqrt(extent(shapes, "pos_embed", 1, 64))
    return extent(shapes, "head.weight", 0, 10), (extent(shapes, "patch_embed.proj.weight", 1, 3), side, side)
