"""LPIPS 0.1: a distance of the features of a classifier, fitted to what people see (Zhang et al., CVPR 2018).

At every place of every layer the features are divided by their length; the weighted squared difference of two
pictures is summed over the channels, averaged over the places and summed over the layers. That is a squared Euclidean
distance, so a picture is described by one long vector: unit features times √(weight / places).

Shapes: B images, H × W pixels, N numbers of all layers together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from identisim.decoding import RANGE_TOLERANCE
from identisim.errors import InputError
from identisim.models.weights import WeightsError, load_into, load_weights

Trunk = Literal["alex", "vgg", "squeeze"]

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""For pixels in [0, 1]; the published scaling, for pixels in [−1, 1], is the same: ((2x − 1) + 0.03) / 0.458 …"""

MIN_SIDE: Final = 32
"""Pixels below which the pooling of a trunk leaves nothing."""

SHORTEST: Final = 1e-10
"""Features shorter than this are divided by it instead of by their length."""

VGG_BLOCKS: Final = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

_HEAD = re.compile(r"lin(\d+)\.model\.1\.weight")


class Layout(NamedTuple):
    """What LPIPS reads of a classifier of torchvision.

    taps: layers of `features` after which it reads. channels: of each tap. classifier: layers behind the features,
    which the published file also holds.
    """

    taps: tuple[int, ...]
    channels: tuple[int, ...]
    classifier: tuple[int, ...]


LAYOUTS: Final[dict[Trunk, Layout]] = {
    "alex": Layout((1, 4, 7, 9, 11), (64, 192, 384, 256, 256), (1, 4, 6)),
    "vgg": Layout((3, 8, 15, 22, 29), (64, 128, 256, 512, 512), (0, 3, 6)),
    "squeeze": Layout((1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512), (1,)),
}


class Lpips(nn.Module):
    """Pictures -> vectors whose squared Euclidean distance is LPIPS; random until `load_lpips` fills it.

    `features` has the names of torchvision; `heads` are the weights of the channels, (1, C, 1, 1) each and not
    negative.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        layout = LAYOUTS[trunk]
        self.taps = layout.taps
        self.features = nn.Sequential(*_layers(trunk))
        self.heads = nn.ParameterList([torch.full((1, count, 1, 1), 1 / count) for count in layout.channels])

    def forward(self, images: Tensor) -> Tensor:
        """Describe (B, 3, H, W) RGB in [0, 1], H and W at least 32: (B, N) float, differentiable."""
        _require_images(images)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        maps = (images - mean) / std
        parts: list[Tensor] = []
        for index, layer in enumerate(self.features):
            maps = layer(maps)
            if index in self.taps:
                parts.append(_weighed(maps, self.heads[len(parts)]))
        return torch.cat(parts, 1)


def lpips_distance(net: Lpips, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS of two batches (B, 3, H, W) RGB in [0, 1]: (B,), ≥ 0, 0 = equal; differentiable, also where they are equal.

    At most 2 Σ max(head) over the layers: the features have length 1 and none is negative.
    """
    if a.shape != b.shape:
        raise InputError(f"LPIPS compares pictures of one size; got {tuple(a.shape)} and {tuple(b.shape)}")
    difference: Tensor = net(a) - net(b)
    return difference.square().sum(1)


def load_lpips(trunk: Trunk, trunk_path: Path, heads_path: Path) -> Lpips:
    """Fill the network, strictly, in evaluation mode and frozen.

    trunk_path: the classifier as torchvision publishes it; its last layers are read and dropped. heads_path: the
    weights v0.1 of the package lpips. Raises WeightsError for files of anything else.
    """
    net = Lpips(trunk)
    behind = {
        f"classifier.{layer}.{kind}" for layer in LAYOUTS[trunk].classifier for kind in ("weight", "bias")
    }
    state = {name: tensor for name, tensor in load_weights(trunk_path).items() if name not in behind}
    heads = load_weights(heads_path)
    negative = [name for name, tensor in heads.items() if bool((tensor < 0).any())]
    if negative:
        raise WeightsError(
            f"{heads_path}: heads of LPIPS are not negative, but {', '.join(negative)} has negative values"
        )
    load_into(net, state | {_HEAD.sub(r"heads.\1", name): tensor for name, tensor in heads.items()})
    return net.eval().requires_grad_(False)


class Fire(nn.Module):
    """The block of SqueezeNet: few channels, then 1×1 and 3×3 side by side; named as in torchvision."""

    def __init__(self, inputs: int, squeezed: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, outputs // 2, 1)
        self.expand3x3 = nn.Conv2d(squeezed, outputs // 2, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w), not negative."""
        few = self.squeeze(maps).relu()
        return torch.cat([self.expand1x1(few).relu(), self.expand3x3(few).relu()], 1)


def _layers(trunk: Trunk) -> list[nn.Module]:
    if trunk == "alex":
        return _alexnet()
    return _vgg16() if trunk == "vgg" else _squeezenet()


def _alexnet() -> list[nn.Module]:
    """The features of AlexNet (Krizhevsky, "One weird trick", 2014) up to the last ReLU."""
    return [
        *_convolved(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *_convolved(64, 192, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *_convolved(192, 384, 3, padding=1),
        *_convolved(384, 256, 3, padding=1),
        *_convolved(256, 256, 3, padding=1),
    ]


def _vgg16() -> list[nn.Module]:
    """The features of VGG-16 (Simonyan and Zisserman, ICLR 2015) up to the last ReLU."""
    layers: list[nn.Module] = []
    before = 3
    for widths in VGG_BLOCKS:
        if layers:
            layers.append(nn.MaxPool2d(2, 2))
        for width in widths:
            layers += _convolved(before, width, 3, padding=1)
            before = width
    return layers


def _squeezenet() -> list[nn.Module]:
    """The features of SqueezeNet 1.1 (Iandola et al., 2016)."""
    return [
        *_convolved(3, 64, 3, stride=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(64, 16, 128),
        Fire(128, 16, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 32, 256),
        Fire(256, 32, 256),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(256, 48, 384),
        Fire(384, 48, 384),
        Fire(384, 64, 512),
        Fire(512, 64, 512),
    ]


def _convolved(inputs: int, outputs: int, side: int, *, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, side, stride, padding), nn.ReLU(inplace=True)]


def _weighed(maps: Tensor, head: Tensor) -> Tensor:
    places = maps.shape[2] * maps.shape[3]
    # F.normalize has a finite gradient where all features are zero; the square root of the published code has none
    return (F.normalize(maps, dim=1, eps=SHORTEST) * (head / places).sqrt()).flatten(1)


def _require_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIDE:
        raise InputError(
            f"LPIPS takes pictures (B, 3, H, W) of at least {MIN_SIDE} × {MIN_SIDE}; got {tuple(images.shape)}"
        )
    lowest, highest = float(images.detach().amin()), float(images.detach().amax())
    if not (lowest >= -RANGE_TOLERANCE and highest <= 1 + RANGE_TOLERANCE):
        raise InputError(
            f"LPIPS takes values in [0, 1] here, not [−1, 1]; got values from {lowest:.3g} to {highest:.3g}"
        )
