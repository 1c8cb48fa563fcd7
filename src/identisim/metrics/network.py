"""Run a network of this package for a metric: numpy pixels in, `Tokens` on the CPU out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from identisim.errors import InputError
from identisim.metrics.metric import Array, EmbeddingMetric, Metric
from identisim.models.tokens import Tokens


class NetworkEncoder:
    """Preprocessed pixels (B, 3, H, W) float32 -> `Tokens` on the CPU, float32.

    net: a module that returns `Tokens`; it is frozen and put into evaluation mode. patch: sides of the pictures must be
    multiples of this, None when only their own size does.
    """

    def __init__(self, net: nn.Module, device: str = "auto", patch: int | None = None) -> None:
        self.device = choose_device(device)
        self.net = net.eval().requires_grad_(False).to(self.device)
        self.patch = patch

    @property
    def network(self) -> nn.Module:
        """The same as a module, for gradients and export (see `network_of`)."""
        return self.net

    def __call__(self, pixels: Array) -> Tokens:
        """Features of the images."""
        with torch.inference_mode():
            found = self.net(torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device))
        foreground = None if found.foreground is None else found.foreground.float().cpu()
        return Tokens(found.cls.float().cpu(), found.patches.float().cpu(), foreground)


def network_of(metric: Metric) -> nn.Module:
    """The network behind a metric: preprocessed pixels (B, 3, S, S) -> `Tokens`, with gradients to the pixels.

    It is the metric's own module, frozen and in evaluation mode: what the score kinds compare is what it returns. A
    metric offers it as the attribute `network` of its `encode`. Raises InputError for a metric that has none.
    """
    instead = "take a metric with embeddings, such as compact, dinov2-b or id-sim"
    if not isinstance(metric, EmbeddingMetric):
        raise InputError(f"{metric.name} compares pictures pair by pair, without such a network: {instead}")
    if metric.isolation is not None:
        raise InputError(
            f"{metric.name} cuts objects out of pictures, which no network here does: {instead}, without +crop and +ffa"
        )
    network = getattr(metric.encode, "network", None)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"the encode of {metric.name} has no attribute `network`; expected a torch module from pixels to Tokens"
        )
    return network


def choose_device(name: str) -> torch.device:
    """Device of that name; "auto" = CUDA when there is one, else the CPU. InputError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used ({error}); choose 'auto', 'cpu' or one that is there"
        ) from error
    return device
