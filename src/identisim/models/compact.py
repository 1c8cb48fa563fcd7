"""The compact identity network: classical cells refined by a small residual trunk; trained from nothing.

Shapes: B images, S pixels a side, h = w = S / 8 patches a side, C channels, D patch dimensions, K clusters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from identisim.models.foreground import ForegroundNet, ResidualBlock
from identisim.models.tokens import Tokens

PATCH_SIZE = 8
"""Pixels a side of one patch."""
STRIDE = 16
"""The image side must be a multiple of this: the deepest stage sees one value per 16 × 16 pixels."""
WEIGHTS_SHA256 = "9a07418748c62c7a4c34b5c5792a9478386e8fa8c5e26f38333fa985fe56b96b"
"""Of the packaged `compact.safetensors`."""
APPEARANCE_SHARE = 0.8
"""Share of the pooled appearance in the cosine of two global vectors; the rest is that of the patch residuals."""
CELL_CHANNELS = 16
ORIENTATIONS = 8


def opponent(images: Tensor) -> Tensor:
    """Lightness and two opponent colours of RGB in [0, 1]: (B, 3, S, S) -> (B, 3, S, S), colours in [−1, 1]."""
    red, green, blue = images.unbind(1)
    return torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], 1)


def cell_features(images: Tensor) -> Tensor:
    """Classical description of every 8 × 8 cell: (B, 3, S, S) RGB in [0, 1] -> (B, 16, S / 8, S / 8).

    Channels: mean and standard deviation of lightness and two opponent colours (6), colour relative to lightness
    (2), energies of 8 signed gradient directions divided by the energy around the cell, as in HOG (Dalal and
    Triggs, CVPR 2005).
    """
    colours = opponent(images)
    mean = F.avg_pool2d(colours, PATCH_SIZE)
    variance = F.avg_pool2d(colours.square(), PATCH_SIZE) - mean.square()
    deviation = (variance.clamp_min(0) + 1e-4).sqrt()
    relative = mean[:, 1:] / (mean[:, :1] + 0.1)
    return torch.cat([mean, deviation, relative, _gradient_energies(colours[:, :1])], 1)


def _gradient_energies(lightness: Tensor) -> Tensor:
    padded = F.pad(lightness, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    angles = torch.arange(ORIENTATIONS, device=lightness.device) * (2 * math.pi / ORIENTATIONS)
    directions = torch.stack([angles.cos(), angles.sin()], 1).to(lightness.dtype)[:, :, None, None]
    along = F.conv2d(torch.cat([across, down], 1), directions).relu()
    # |gradient| · cos³ of the angle to each direction: a sharper tuning than the plain projection
    energy = F.avg_pool2d(along.pow(3) / (across.square() + down.square() + 1e-4), PATCH_SIZE)
    around = F.avg_pool2d(energy.sum(1, keepdim=True), 3, stride=1, padding=1, count_include_pad=False)
    return (energy / (around + 0.02) + 1e-4).sqrt()


class Trunk(nn.Module):
    """Residual convolutions from pixels at strides 4, 8 and 16."""

    def __init__(self, widths: tuple[int, int, int], depths: tuple[int, int, int]) -> None:
        super().__init__()
        stages = []
        previous = 3 * 4 * 4
        for stride, width, depth in zip((1, 2, 2), widths, depths, strict=True):
            entry = nn.Conv2d(previous, width, 3, stride=stride, padding=1, bias=False)
            nn.init.normal_(entry.weight, std=math.sqrt(2 / (9 * previous)))
            blocks = (ResidualBlock(width) for _ in range(depth))
            stages.append(nn.Sequential(entry, *blocks, nn.GroupNorm(1, width), nn.ReLU()))
            previous = width
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) in [0, 1] -> maps (B, C, S / 8, S / 8) and (B, C', S / 16, S / 16), not negative."""
        x = F.pixel_unshuffle(4 * images - 2, 4).contiguous(memory_format=torch.channels_last)
        fine, middle, deep = self.stages
        x = middle(fine(x))
        return x, deep(x)


class ResidualPooling(nn.Module):
    """Soft-assigned residual pooling of patches into one vector (NetVLAD: Arandjelović et al., CVPR 2016)."""

    def __init__(self, dim: int, clusters: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(F.normalize(torch.randn(clusters, dim), dim=1))
        self.sharpness = 12.0

    def forward(self, patches: Tensor, share: Tensor) -> Tensor:
        """Patches (B, N, D) of length 1 and their shares (B, N), of sum 1 -> (B, K · D)."""
        centres = F.normalize(self.centres, dim=1)
        assigned = (self.sharpness * patches @ centres.T).softmax(-1) * share[..., None]
        sums = assigned.transpose(1, 2) @ patches - assigned.sum(1)[..., None] * centres
        # square-root damping: many equal patches must not drown the rest
        damped: Tensor = sums / (sums.norm(dim=-1, keepdim=True) + 1e-3).sqrt()
        return damped.flatten(1)


class GlobalHead(nn.Module):
    """Two unit vectors side by side: pooled trunk maps with a colour histogram, and pooled patch residuals."""

    def __init__(
        self, channels: tuple[int, int], patch_dim: int, dim: int, colours: int, clusters: int
    ) -> None:
        super().__init__()
        palette = opponent(torch.rand(1, 3, colours, 1))[0, ..., 0].T
        # the softmax of this linear map is that of −|colour − palette|² / 0.02
        self.palette = nn.Parameter(
            torch.cat([palette / 0.01, -palette.square().sum(1, keepdim=True) / 0.02], 1)
        )
        self.pooling = ResidualPooling(patch_dim, clusters)
        # centring over the batch keeps contrastive training from collapsing to one vector for all images
        self.appearance = _centred_linear(2 * sum(channels) + colours, dim // 2)
        self.residuals = _centred_linear(clusters * patch_dim, dim // 2)

    def forward(self, pooled: Tensor, residuals: Tensor) -> Tensor:
        """The two results of `pool` -> (B, dim), both halves of length 1."""
        halves = self.appearance(pooled), self.residuals(residuals)
        return torch.cat([F.normalize(half, dim=1) for half in halves], 1)

    def pool(
        self, images: Tensor, maps: tuple[Tensor, Tensor], patches: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images, trunk maps, unit patches (B, h · w, D) and weights (B, 1, h, w) -> one vector each per image."""
        share = weights / weights.sum((2, 3), keepdim=True)
        coarse = F.avg_pool2d(share, 2) * 4
        pooled = [*_moments(maps[0], share), *_moments(maps[1], coarse), self._histogram(images, share)]
        return torch.cat(pooled, 1), self.pooling(patches, share.flatten(1))

    def _histogram(self, images: Tensor, share: Tensor) -> Tensor:
        colours = opponent(F.avg_pool2d(images, 4))
        nearness = F.conv2d(colours, self.palette[:, :3, None, None], self.palette[:, 3]).softmax(1)
        fine = F.interpolate(share, scale_factor=2.0, mode="nearest") / 4
        # square root: the cosine of square roots is the Bhattacharyya coefficient of two histograms
        return ((nearness * fine).sum((2, 3)) + 1e-4).sqrt()


def _centred_linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(inputs, affine=False), nn.Linear(inputs, outputs, bias=False))


def _moments(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    mean = (x * share).sum((2, 3))
    variance = (x.square() * share).sum((2, 3)) - mean.square()
    return mean, (variance.clamp_min(0) + 1e-4).sqrt()


class CompactNet(nn.Module):
    """Image -> global vector, patch vectors and foreground, from pixels alone.

    Patches start as a linear map of `cell_features` (see `start_from`); a zero-initialised branch of the trunk
    refines them.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (48, 80, 160),
        depths: tuple[int, int, int] = (0, 2, 2),
        patch_dim: int = 64,
        dim: int = 384,
        colours: int = 32,
        clusters: int = 32,
    ) -> None:
        super().__init__()
        self.cells = nn.Conv2d(CELL_CHANNELS, patch_dim, 3, padding=1, padding_mode="replicate")
        self.trunk = Trunk(widths, depths)
        channels = widths[1:]
        self.refine = nn.Conv2d(sum(channels), patch_dim, 1, bias=False)
        self.centre = nn.BatchNorm2d(patch_dim, affine=False)
        self.foreground = ForegroundNet()
        self.head = GlobalHead(channels, patch_dim, dim, colours, clusters)
        nn.init.zeros_(self.refine.weight)

    def forward(self, images: Tensor) -> Tokens:
        """(B, 3, S, S) RGB in [0, 1], S a multiple of 16 -> `Tokens`.

        cls (B, 384), its two halves of length 1; patches (B, S / 8, S / 8, 64) of any length;
        foreground = probability of the object.
        """
        return self.forward_with_mask(images)[0]

    def forward_with_mask(
        self, images: Tensor, mask: Tensor | None = None, trust: float = 1.0
    ) -> tuple[Tokens, Tensor]:
        """As `forward`, and the logits (B, 48, 48) of the foreground.

        mask: (B, S / 8, S / 8) in [0, 1], the true foreground where it is known (in training); pooling then weighs
        patches by trust × the foreground found + (1 − trust) × mask.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % STRIDE or images.shape[3] % STRIDE:
            raise ValueError(
                f"expected images (B, 3, S, S), S a multiple of {STRIDE}; got {tuple(images.shape)}"
            )
        logits = self.foreground(images)
        maps, patches = self._local(images)
        grid = patches.shape[2:]
        foreground = F.interpolate(logits[:, None].float(), grid, mode="bilinear", antialias=True).sigmoid()
        if mask is not None:
            foreground = torch.lerp(mask[:, None].to(foreground), foreground, trust)
        tokens = F.normalize(patches, dim=1).flatten(2).transpose(1, 2)
        # in training the masks alone teach the foreground: the contrastive loss would bend it to its own ends
        weights = foreground.detach() if self.training else foreground
        cls = self.head(*self.head.pool(images, maps, tokens, weights + 1e-3))
        return Tokens(cls, patches.permute(0, 2, 3, 1), foreground[:, 0]), logits

    def _local(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        maps = self.trunk(images)
        joined = torch.cat([maps[0], F.interpolate(maps[1], scale_factor=2.0, mode="nearest")], 1)
        patches = self.centre(self.cells(cell_features(images)) + self.refine(joined))
        return maps, patches

    @torch.no_grad()
    def start_from(self, images: Tensor) -> None:
        """Initialise from images (B, 3, S, S) in [0, 1], some dozens at least.

        Patches become the whitened principal components of 3 × 3 cells, cluster centres a random choice of patches.
        """
        _whiten(self.cells, cell_features(images))
        patches = F.normalize(self._local(images)[1], dim=1).permute(0, 2, 3, 1).flatten(0, 2)
        centres = self.head.pooling.centres
        centres.copy_(patches[torch.randperm(len(patches))[: len(centres)]])


def _whiten(layer: nn.Conv2d, cells: Tensor) -> None:
    columns = F.unfold(F.pad(cells, (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2).flatten(0, 1).double()
    mean = columns.mean(0)
    values, vectors = torch.linalg.eigh((columns - mean).T @ (columns - mean) / len(columns))
    dim = layer.out_channels
    scale = values[-dim:].clamp_min(values[-1] * 1e-6).rsqrt()
    weight = (vectors[:, -dim:] * scale).T.flip(0)
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    assert layer.bias is not None
    layer.bias.copy_(-(weight @ mean))
