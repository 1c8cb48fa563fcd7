"""What one should know of a metric before using it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from identisim.errors import InputError
from identisim.metrics.metric import Metric
from identisim.sources import Source


@dataclass(frozen=True)
class MetricCard:
    """Facts of a metric, and how to build it.

    what: one line. size: of its weights, for people. licence: of the code and the weights. scores: the score kinds it
    can give, its default first. range: lowest and highest similarity, in `unit` ("" = a plain number). paper: where it
    comes from. input: what pictures are brought to. weights: file inside the package, or None when it has none.
    sources: published weights that it needs, in the order in which the builder takes their folders. extra: the optional
    dependencies of identisim that it needs, or None. builder: (device name, folder of each source) -> the metric with
    its default score.
    """

    name: str
    what: str
    size: str
    licence: str
    scores: tuple[str, ...]
    range: tuple[float, float]
    builder: Callable[[str, tuple[Path, ...]], Metric]
    unit: str = ""
    paper: str = ""
    input: str = ""
    weights: str | None = None
    sources: tuple[Source, ...] = ()
    extra: str | None = None

    @property
    def gated(self) -> bool:
        """Whether weights must be requested from their owners."""
        return any(source.gated for source in self.sources)


def require_cpu(name: str, device: str) -> None:
    """Raise InputError for a device that a metric of pixels cannot use."""
    if device not in ("auto", "cpu"):
        raise InputError(f"{name} runs on the CPU only; got device {device!r}, expected 'auto' or 'cpu'")
