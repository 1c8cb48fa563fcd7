"""The `compact` metric: the packaged network, trained from nothing on rendered objects."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics.metric import EmbeddingMetric, fingerprint
from identisim.metrics.network import NetworkEncoder, choose_device
from identisim.models.compact import APPEARANCE_SHARE, STRIDE, WEIGHTS_SHA256, CompactNet
from identisim.models.tokens import Tokens
from identisim.models.weights import load_into, load_weights
from identisim.records import file_sha256

SIZE = 224
"""Pixels a side that images are brought to: more than in training (96), which measured better on photographs."""
VERSION = "2"


def build_compact(weights: Path | None = None, device: str = "auto", *, size: int = SIZE) -> EmbeddingMetric:
    """Build the metric; its default score is `fused`.

    weights: a safetensors file of a `CompactNet`, None for the packaged one (its sha256 is checked). size: pixels a
    side that images are brought to, a multiple of 16. device: "auto"
    (CUDA when there is one) or a torch device name. Raises InputError for weights that are missing or damaged and for
    a device that is not there.
    """
    path, digest = (weights, None) if weights is not None else (_packaged(), WEIGHTS_SHA256)
    preprocessing = Preprocessing(size=size, mode="square")
    return EmbeddingMetric(
        name="compact",
        encode=NetworkEncoder(WeightedHalves(_load(path, digest)), device, STRIDE),
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            "compact",
            weights=digest or file_sha256(path),
            preprocessing=preprocessing.fingerprint,
            version=VERSION,
        ),
        score="fused",
    )


def load_packaged(device: str = "auto") -> CompactNet:
    """Load the packaged network, for inference; raises InputError as `build_compact` does."""
    return _load(_packaged(), WEIGHTS_SHA256).eval().requires_grad_(False).to(choose_device(device))


def _load(path: Path, digest: str | None) -> CompactNet:
    net = CompactNet()
    load_into(net, load_weights(path, sha256=digest))
    return net


class WeightedHalves(nn.Module):
    """A `CompactNet` whose global vectors compare as `APPEARANCE_SHARE` says; images -> `Tokens`, with gradients."""

    def __init__(self, net: CompactNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tokens:
        """(B, 3, S, S) RGB in [0, 1] -> `Tokens`."""
        tokens: Tokens = self.net(images)
        appearance, residuals = tokens.cls.chunk(2, dim=1)
        halves = [APPEARANCE_SHARE**0.5 * appearance, (1 - APPEARANCE_SHARE) ** 0.5 * residuals]
        return Tokens(torch.cat(halves, 1), tokens.patches, tokens.foreground)


def _packaged() -> Path:
    found = resources.files("identisim.models").joinpath("compact.safetensors")
    if not found.is_file():
        raise InputError(
            "the packaged weights models/compact.safetensors are missing; install identisim again"
        )
    return Path(str(found))
