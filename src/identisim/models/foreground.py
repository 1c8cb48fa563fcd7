"""Which pixels show the object that a picture is of: a small network that sees every picture at one fixed size.

Shapes: B images, S pixels a side, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

SIDE = 96
"""Pixels a side at which pictures are looked at: what belongs to an object is a matter of the whole picture."""
GRID = 48
"""Logits a side."""


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two 3 × 3 convolutions; (B, C, h, w) keeps its shape.

    GroupNorm with one group uses statistics of the image itself, so photographs may differ from renderings.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(1, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        # small, not zero: the block starts near the identity and learns from the first step
        nn.init.normal_(self.conv2.weight, std=0.3 / math.sqrt(9 * channels))

    def forward(self, x: Tensor) -> Tensor:
        """Refine x: (B, C, h, w) -> (B, C, h, w)."""
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return x + y  # type: ignore[no-any-return]


class ForegroundNet(nn.Module):
    """U-shaped network of residual blocks at strides 4, 8 and 16, told where each pixel lies.

    Place matters because the object meant is the one near the middle, not its neighbour; the mean over the whole
    picture tells each place what surroundings look like.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        fine, middle, deep = widths
        self.entry = nn.Conv2d(3 * 4 * 4 + 3, fine, 3, padding=1)
        self.fine = ResidualBlock(fine)
        self.to_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle = nn.Sequential(ResidualBlock(middle), ResidualBlock(middle))
        self.to_deep = nn.Conv2d(middle, deep, 3, stride=2, padding=1)
        self.deep = nn.Sequential(ResidualBlock(deep), ResidualBlock(deep))
        self.context = nn.Linear(deep, deep)
        self.up_middle = nn.Conv2d(deep, middle, 1)
        self.back_middle = ResidualBlock(middle)
        self.up_fine = nn.Conv2d(middle, fine, 1)
        self.back_fine = ResidualBlock(fine)
        self.exit = nn.Sequential(nn.GroupNorm(1, fine), nn.ReLU(), nn.Conv2d(fine, 4, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S') RGB in [0, 1], of any size, resized to 96 × 96 -> logits (B, 48, 48), > 0 on the object."""
        if images.shape[2:] != (SIDE, SIDE):
            images = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        x = F.pixel_unshuffle(4 * images - 2, 4)
        x = torch.cat([x, _places(x).expand(x.shape[0], -1, -1, -1)], 1)
        fine = self.fine(self.entry(x.contiguous(memory_format=torch.channels_last)))
        middle = self.middle(self.to_middle(fine))
        deep = self.deep(self.to_deep(middle))
        deep = deep + self.context(deep.mean((2, 3)))[:, :, None, None]
        middle = self.back_middle(middle + _doubled(self.up_middle(deep)))
        fine = self.back_fine(fine + _doubled(self.up_fine(middle)))
        return F.pixel_shuffle(self.exit(fine), 2)[:, 0]


def _places(x: Tensor) -> Tensor:
    """Row, column and squared distance from the middle of every cell: (1, 3, h, w), sides run from −1 to 1."""
    height, width = x.shape[2:]
    rows = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=x.device, dtype=x.dtype)
    columns = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=x.device, dtype=x.dtype)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([places, places.square().sum(0, keepdim=True)])[None]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
