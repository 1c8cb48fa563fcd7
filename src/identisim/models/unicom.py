"""Unicom: vision transformers trained to tell a million clusters of LAION-400M apart (An et al., ICLR 2023).

There is no CLS token: the vector of a picture is made from all its patches, joined in order, so that the size of the
pictures is fixed. Names and order of the tensors are those of the published files.

Shapes: B images, size × size pixels, h = size / patch rows and columns of patches, D = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from identisim.errors import InputError
from identisim.models.tokens import Tokens
from identisim.models.weights import load_into, load_weights

Variant = Literal["b32", "b16", "l14", "l14-336"]

BATCH_NORM_EPS: Final = 2e-5


@dataclass(frozen=True)
class UnicomShape:
    """size: of the pictures, pixels. dim: of the vector; width: of the patches."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    dim: int


SHAPES: Final[dict[Variant, UnicomShape]] = {
    "b32": UnicomShape(size=224, patch=32, width=768, depth=12, heads=12, dim=512),
    "b16": UnicomShape(size=224, patch=16, width=768, depth=12, heads=12, dim=768),
    "l14": UnicomShape(size=224, patch=14, width=1024, depth=24, heads=16, dim=768),
    "l14-336": UnicomShape(size=336, patch=14, width=1024, depth=24, heads=16, dim=768),
}


class UnicomNet(nn.Module):
    """Normalised pixels (B, 3, size, size) -> `Tokens`; random until `load_unicom` fills it.

    cls: (B, dim), the vector that is compared by its cosine. patches: (B, h, h, D) behind the last norm.
    """

    def __init__(self, shape: UnicomShape) -> None:
        super().__init__()
        self.shape = shape
        self.grid = shape.size // shape.patch
        count = self.grid**2
        self.patch_embed = _Patches(shape.patch, shape.width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, count, shape.width))
        self.blocks = nn.ModuleList([_Block(shape.width, shape.heads) for _ in range(shape.depth)])
        self.norm = nn.LayerNorm(shape.width)
        self.feature = nn.Sequential(
            nn.Linear(count * shape.width, shape.width, bias=False),
            nn.BatchNorm1d(shape.width, eps=BATCH_NORM_EPS),
            nn.Linear(shape.width, shape.dim, bias=False),
            nn.BatchNorm1d(shape.dim, eps=BATCH_NORM_EPS),
        )

    def forward(self, pixels: Tensor) -> Tokens:
        """Features of B images. InputError for another size than the network's own."""
        size = self.shape.size
        if pixels.shape[1:] != (3, size, size):
            raise InputError(f"this Unicom takes pixels (B, 3, {size}, {size}); got {tuple(pixels.shape)}")
        tokens = self.patch_embed(pixels) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return Tokens(self.feature(tokens.flatten(1)), tokens.unflatten(1, (self.grid, self.grid)))


def load_unicom(variant: Variant, path: Path) -> UnicomNet:
    """Fill a network with the published weights, strictly; they are in half precision, and computed in float32.

    In evaluation mode and frozen. Raises WeightsError for a file of anything else.
    """
    net = UnicomNet(SHAPES[variant])
    load_into(net, {name: _widened(name, tensor) for name, tensor in load_weights(path).items()})
    return net.eval().requires_grad_(False)


def _widened(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".num_batches_tracked"):
        # it counts training steps, nothing reads it, and half precision need not hold it
        return torch.zeros_like(tensor, dtype=torch.int64)
    # one by one: norms are often kept in full precision in a file that is otherwise in half
    return tensor.float() if tensor.dtype == torch.float16 else tensor


class _Patches(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, pixels: Tensor) -> Tensor:
        maps: Tensor = self.proj(pixels)
        return maps.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        attended: Tensor = tokens + self.attn(self.norm1(tokens))
        mixed: Tensor = self.mlp(self.norm2(attended))
        return attended + mixed


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        split = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2])
        joined: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return joined


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(F.relu6(self.fc1(tokens)))
        return mixed
