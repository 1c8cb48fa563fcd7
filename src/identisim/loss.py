"""A metric as a loss: gradients reach the pixels of both pictures, and the metric itself stays as it is.

Shapes: B pairs of pictures, each side H × W pixels of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from identisim.errors import InputError
from identisim.metrics.metric import EmbeddingMetric, Metric
from identisim.metrics.network import network_of
from identisim.metrics.registry import build
from identisim.models.preprocess import differentiable_preprocess, require_pictures, require_unit_range
from identisim.models.tokens import Tokens
from identisim.similarity import token_similarity


class IdentityLoss(nn.Module):
    """1 − similarity of pictures (B, 3, H, W) in [0, 1]: in [0, 2], 0 for equal ones (`ot`: up to 0.02 above).

    metric: a name, or an `EmbeddingMetric` already loaded; those that cut objects out (+crop, +ffa) or compare pair by
    pair have no gradients and raise InputError. score: kind of score, None for the metric's own. reduction: "mean" for
    a scalar, "none" for (B,). check: refuse values outside [0, 1] and NaN, which makes a GPU wait.

    Pictures of any size are brought to the metric's own by `differentiable_preprocess`, in float32. The network is
    frozen, stays in evaluation mode, and is none of the parameters or modules of the loss: no optimiser changes it, no
    checkpoint holds it. It follows `.to()` to another device, and keeps its type when the model around it is halved;
    to compute faster use `torch.autocast`. Built by name it starts on the CPU, as modules do.
    """

    def __init__(
        self,
        metric: str | Metric = "compact",
        score: str | None = None,
        *,
        reduction: Literal["mean", "none"] = "mean",
        check: bool = True,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "none"):
            raise InputError(f"unknown reduction {reduction!r}; choose 'mean' or 'none'")
        loaded = build(metric, score=score, device="cpu") if isinstance(metric, str) else metric
        network = network_of(loaded)
        assert isinstance(loaded, EmbeddingMetric)  # what has a network is one
        if score is not None:
            loaded = replace(loaded, score=score)
        self.name, self.score, self.fingerprint = loaded.name, loaded.score, loaded.fingerprint
        self.preprocessing = loaded.preprocessing
        self.reduction, self.check = reduction, check
        # in a tuple, where nn.Module does not see it
        self._network = (network,)

    def forward(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Loss of the pairs: a scalar, or (B,); lower = more alike. Raises InputError for other shapes and values."""
        for images in (images_a, images_b):
            require_pictures(images)
        if len(images_a) != len(images_b):
            raise InputError(
                f"picture i is compared with picture i, but {len(images_a)} and {len(images_b)} pictures came"
            )
        losses = 1 - token_similarity(self._tokens(images_a), self._tokens(images_b), self.score)
        return losses.mean() if self.reduction == "mean" else losses

    def _tokens(self, images: Tensor) -> Tokens:
        if self.check:
            require_unit_range(images)
        place = _place(self._network[0])
        if images.device != place.device:
            raise InputError(
                f"the pictures are on {images.device}, the network of the loss on {place.device}: "
                "move the loss with .to(device), as any module"
            )
        with torch.autocast(images.device.type, enabled=False):
            wide = images.to(torch.promote_types(images.dtype, torch.float32))
            pixels = differentiable_preprocess(wide, self.preprocessing).to(place.dtype)
        found: Tokens = self._network[0](pixels)
        return found

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.name}, score={self.score!r}, reduction={self.reduction!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> IdentityLoss:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        here = _place(self._network[0]).device
        there = fn(torch.empty(0, device=here)).device
        if there != here:
            # a copy, because the network may belong to a metric that somebody else uses
            self._network = (copy.deepcopy(self._network[0]).to(there),)
        return self


def _place(network: nn.Module) -> Tensor:
    """A tensor of the type and on the device that the network computes with."""
    return next(chain(network.parameters(), network.buffers()), torch.empty(0))
