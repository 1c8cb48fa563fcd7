"""Do these two pictures show the same thing? Identity-focused image similarity; higher = more alike.

Importing the package loads neither torch nor numpy: each name below loads what it needs when it is first
used.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from identisim.errors import InputError

if TYPE_CHECKING:
    from identisim.gallery import Gallery, build_gallery
    from identisim.images import ImageLike, load_image
    from identisim.metrics.metric import Metric
    from identisim.metrics.registry import MetricCard

__all__ = [
    "Comparison",
    "Gallery",
    "InputError",
    "__version__",
    "build_gallery",
    "compare",
    "list_metrics",
    "load_image",
    "load_metric",
]

__version__ = "0.1.0"

_LAZY = {
    "Gallery": "identisim.gallery",
    "build_gallery": "identisim.gallery",
    "load_image": "identisim.images",
}


@dataclass(frozen=True)
class Comparison:
    """What a metric says about two images; `float(comparison)` is the similarity.

    similarity: higher = more alike. score: kind of score ("cls", "patch", …). metric: its name. fingerprint:
    identity of weights, preprocessing and code behind the number. range: lowest and highest possible
    similarity in `unit` ("" = a plain number), or None for a metric that is not in `list_metrics()`.
    """

    similarity: float
    score: str
    metric: str
    fingerprint: str
    range: tuple[float, float] | None = None
    unit: str = ""

    def __float__(self) -> float:
        return self.similarity


def compare(
    a: ImageLike,
    b: ImageLike,
    metric: str | Metric = "compact",
    score: str | None = None,
    device: str = "auto",
) -> Comparison:
    """Say how much two images show the same thing.

    a, b: one image each: path, bytes, PIL image, (H, W, 3) array or (3, H, W) tensor (see `load_image`).
    metric: a name of `list_metrics()`, or a metric already loaded (then score and device are its own). Raises
    InputError for an image that cannot be read, more than one image, or an unknown metric or score kind.
    """
    if isinstance(metric, str):
        metric = load_metric(metric, score, device)
    elif score is not None or device != "auto":
        raise InputError(
            "score and device are chosen when a metric is loaded: pass them to load_metric instead"
        )
    similarities = metric.similarity(a, b)
    if len(similarities) != 1:
        raise InputError(
            f"compare takes one image on each side, {len(similarities)} came; "
            "for many pairs use load_metric(name).similarity(images_a, images_b)"
        )
    from identisim.metrics.registry import METRICS

    card = METRICS.get(metric.name)
    return Comparison(
        similarity=float(similarities[0]),
        score=metric.score,
        metric=metric.name,
        fingerprint=metric.fingerprint,
        range=card.range if card else None,
        unit=card.unit if card else "",
    )


def load_metric(name: str = "compact", score: str | None = None, device: str = "auto") -> Metric:
    """Load a metric by name, once for many images.

    score: kind of score, None for the metric's default; device: "auto" or a torch device name.
    Raises InputError for an unknown name or score kind, and for weights that are missing or damaged.
    """
    from identisim.metrics.registry import build

    return build(name, score=score, device=device)


def list_metrics() -> list[MetricCard]:
    """All metrics that `load_metric` knows, with size, licence, score kinds and range."""
    from identisim.metrics.registry import METRICS

    return list(METRICS.values())


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'identisim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
