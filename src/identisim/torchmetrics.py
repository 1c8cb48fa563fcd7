"""The mean similarity of a data set as a metric of the torchmetrics library (extra `torchmetrics`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from identisim.errors import InputError
from identisim.extras import require_extra
from identisim.metrics.metric import Metric
from identisim.metrics.registry import build
from identisim.models.preprocess import require_unit_range

require_extra("torchmetrics", "identisim.torchmetrics")

import torchmetrics  # noqa: E402


class IdentitySimilarity(torchmetrics.Metric):
    """Mean similarity of pairs of pictures; higher = more alike, range as the metric has it.

    metric: a name of `identisim metrics`, or a metric already loaded (then its own score and device count). score: kind
    of score, None for the metric's default. device: where a metric that is given by name computes; `.to()` moves the
    sums only. named: what `torchmetrics.Metric` takes (sync_on_compute, process_group, …).

    The pictures go the way of `Metric.similarity`: the same numbers for the same uint8 pictures. There are no
    gradients; for a loss take `identisim.loss.IdentityLoss`. Only a sum (float64) and a count are kept and added up
    over processes. Copies share the metric; a pickle of one given by name holds the name, and loads it again.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        metric: str | Metric = "compact",
        score: str | None = None,
        device: str = "auto",
        **named: Any,
    ) -> None:
        super().__init__(**named)
        if isinstance(metric, Metric) and (score is not None or device != "auto"):
            raise InputError(
                "score and device are chosen when a metric is loaded: pass them to load_metric instead"
            )
        self.source = _Source(metric, score, device)
        loaded = self.source.metric
        # named after the metric: a MetricCollection merges metrics whose states have equal names and values
        key = "".join(c if c.isalnum() else "_" for c in f"{loaded.fingerprint}_{loaded.score}")
        self._sum, self._count = f"sum_{key}", f"count_{key}"
        self.add_state(self._sum, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state(self._count, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, images_a: Tensor, images_b: Tensor) -> None:
        """Take in pairs: (B, 3, H, W), uint8 or floats in [0, 1], sizes of their own; InputError for others."""
        for images in (images_a, images_b):
            if images.ndim != 4 or images.shape[1] != 3:
                raise InputError(f"expected pictures (B, 3, H, W); got {tuple(images.shape)}")
            if images.is_floating_point() and images.numel():
                require_unit_range(images)
        scores = self.source.metric.similarity(list(images_a.cpu()), list(images_b.cpu()))
        # .double(), because .to(torch.float16) of a model around it halves the sum
        setattr(self, self._sum, getattr(self, self._sum).double() + float(scores.sum(dtype="float64")))
        setattr(self, self._count, getattr(self, self._count) + len(scores))

    def compute(self) -> Tensor:
        """Mean similarity, a float32 scalar; NaN when there was no picture."""
        mean: Tensor = getattr(self, self._sum) / getattr(self, self._count)
        return mean.float()

    def plot(self, val: Tensor | list[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot the value, or values of several steps, as every torchmetrics metric does; needs matplotlib."""
        return self._plot(val, ax)


class _Source:
    """A loaded metric that copies share, and that pickles as its name where it has one."""

    def __init__(self, metric: str | Metric, score: str | None, device: str) -> None:
        self.given = metric, score, device
        self.metric = build(metric, score=score, device=device) if isinstance(metric, str) else metric

    def __deepcopy__(self, memo: dict[int, Any]) -> _Source:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Source, self.given
