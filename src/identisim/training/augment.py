"""Random changes of rendered images that stand for cameras: framing, colour, sharpness, noise, compression, occlusion.

Every change is drawn from the generator given, image by image; identity is kept (no mirror images, little hue).
Shapes: B images, S pixels a side.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from identisim.errors import InputError

STAGES = ("reframe", "occlude", "recolour", "soften", "noise", "compress")
"""Names of the changes, in their order; `augment` can leave any out but the first."""


def augment(
    pixels: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    margin: float = 2.2,
    omit: Collection[str] = (),
) -> tuple[Tensor, Tensor]:
    """Change pictures at random.

    pixels: (B, S, S, 4) uint8, RGB and mask -> images (B, 3, size, size) and masks (B, size, size), both in [0, 1].
    margin: the widest crop, in lengths of the object. omit: `STAGES` to leave out, for ablations; others are an
    InputError.
    """
    if unknown := set(omit) - set(STAGES[1:]):
        raise InputError(f"cannot omit {sorted(unknown)}; choose from {', '.join(STAGES[1:])}")
    draw = Draw(len(pixels), generator, pixels.device)
    layers = reframe(pixels.permute(0, 3, 1, 2).float() / 255, size, draw, margin)
    images, masks = layers[:, :3], layers[:, 3]
    if "occlude" not in omit:
        images, masks = occlude(images, masks, draw)
    changes = {"recolour": recolour, "soften": soften, "noise": add_noise, "compress": compress}
    for name, change in changes.items():
        if name not in omit:
            images = change(images, draw)
    return images, masks


class Draw:
    """Random numbers for B images: every method gives (B, 1, 1, 1).

    They come from a generator of the CPU, so that every device sees the same.
    """

    def __init__(self, batch: int, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        self.batch = batch
        self.generator = generator
        self.device = device

    def uniform(self, low: float, high: float) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * torch.rand(self.batch, 1, 1, 1, generator=self.generator).to(self.device)

    def factor(self, largest: float) -> Tensor:
        """Log-uniform in [1 / largest, largest)."""
        return self.uniform(-math.log(largest), math.log(largest)).exp()

    def chance(self, probability: float) -> Tensor:
        """1 with the given probability, else 0."""
        return (self.uniform(0, 1) < probability).float()


def reframe(layers: Tensor, size: int, draw: Draw, margin: float = 2.2) -> Tensor:
    """Cut out the object with a random margin, aspect and turn: (B, 4, S, S), the last the mask -> (B, 4, size, size).

    Side 1–margin of the object's longer side, but 0.5–1.15 of the picture's; aspect 0.7–1.4; turn ±12° for half of
    the images; the object off the middle by up to 15 % of the cut. What lies outside of the picture is mirrored.
    """
    centre, extent = object_box(layers[:, 3])
    zoom = (extent * draw.uniform(1.0, margin).flatten()).clamp(0.5, 1.15)
    aspect = draw.factor(math.sqrt(1.4)).flatten()
    angle = (draw.uniform(-0.2, 0.2) * draw.chance(0.5)).flatten()
    shift = torch.cat([draw.uniform(-0.3, 0.3), draw.uniform(-0.3, 0.3)], 1).flatten(1) * zoom[:, None]
    # keep the cut within the picture where it fits, so that little is mirrored
    room = (1.1 - zoom).clamp_min(0.1)[:, None]
    middle = (centre + shift).clamp(-room, room)
    theta = torch.stack(
        [
            torch.stack([zoom * aspect * angle.cos(), -zoom * aspect * angle.sin(), middle[:, 0]], 1),
            torch.stack([zoom / aspect * angle.sin(), zoom / aspect * angle.cos(), middle[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [len(layers), layers.shape[1], size, size], align_corners=False)
    return F.grid_sample(layers, grid, padding_mode="reflection", align_corners=False)


def object_box(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Middle (B, 2) as x, y in [−1, 1], and longer side (B,) as a share of the picture, of the masks (B, S, S).

    An empty mask counts as one that fills the picture.
    """
    size = masks.shape[-1]
    places = (torch.arange(size, device=masks.device) + 0.5) * (2 / size) - 1
    middles, sides = [], []
    for axis in (1, 2):
        # x first: the maximum over rows says which columns the object touches
        touched = masks.amax(axis) > 0.5
        touched = touched | ~touched.any(1, keepdim=True)
        low = torch.where(touched, places, 2.0).amin(1)
        high = torch.where(touched, places, -2.0).amax(1)
        middles.append((low + high) / 2)
        sides.append((high - low) / 2 + 1 / size)
    return torch.stack(middles, 1), torch.maximum(*sides)


def occlude(images: Tensor, masks: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Cover a rectangle of a third of the images with a piece of another image of the batch; it is not foreground."""
    size = images.shape[-1]
    places = torch.arange(size, device=images.device) / size
    rows, columns = places.view(1, 1, -1, 1), places.view(1, 1, 1, -1)
    top, left = draw.uniform(-0.2, 0.9), draw.uniform(-0.2, 0.9)
    height, width = draw.uniform(0.1, 0.45), draw.uniform(0.1, 0.45)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    covered = inside.float() * draw.chance(0.35)
    other = images[torch.randperm(len(images), generator=draw.generator).to(draw.device)].flip(2)
    return images * (1 - covered) + other * covered, masks * (1 - covered[:, 0])


def recolour(images: Tensor, draw: Draw) -> Tensor:
    """Exposure, white balance, contrast, saturation, gamma and a small turn of hue; stays in [0, 1]."""
    balance = torch.cat([draw.factor(1.2), draw.factor(1.08), draw.factor(1.2)], 1)
    images = images * balance * draw.factor(1.35)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * draw.factor(1.35)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * draw.factor(1.3)
    turn = draw.uniform(-0.06, 0.06)
    images = images + turn * (images.roll(1, 1) - images.roll(-1, 1))
    return images.clamp(1e-3, 1).pow(draw.factor(1.25))


def soften(images: Tensor, draw: Draw) -> Tensor:
    """Blur of random strength on half of the images, unsharp masking (negative strength) on some."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    blurred = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
    strength = draw.uniform(-0.5, 1.1).clamp_max(1) * draw.chance(0.6)
    return (images + strength * (blurred - images)).clamp(0, 1)


def add_noise(images: Tensor, draw: Draw) -> Tensor:
    """Gaussian sensor noise, sigma up to 0.06, on half of the images."""
    strength = draw.uniform(0, 0.06) * draw.chance(0.5)
    noise = torch.randn(images.shape, generator=draw.generator).to(draw.device)
    return (images + strength * noise).clamp(0, 1)


def compress(images: Tensor, draw: Draw) -> Tensor:
    """JPEG of quality 30–90 on a quarter of the images."""
    quality = draw.uniform(30, 90).flatten()
    for i in draw.chance(0.25).flatten().nonzero().flatten().tolist():
        array = (images[i].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "JPEG", quality=int(quality[i]))
        decoded = np.asarray(Image.open(buffer), dtype=np.float32)
        images[i] = torch.from_numpy(decoded / 255).permute(2, 0, 1).to(images)
    return images
