"""Do these two pictures show the same thing? Identity-focused image similarity; higher = more alike.

Importing the package loads neither torch nor numpy: each name below loads what it needs when it is first
used.
"""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from identisim.errors import InputError

if TYPE_CHECKING:
    from identisim.gallery import Gallery, build_gallery
    from identisim.images import ImageLike, load_image
    from identisim.metrics.card import MetricCard
    from identisim.metrics.metric import Metric

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
    similarity in `unit` ("" = a plain number), or None for a metric that is not in `list_metrics()`. notes: what one
    should know about this very number, such as that no foreground was found in a picture.
    """

    similarity: float
    score: str
    metric: str
    fingerprint: str
    range: tuple[float, float] | None = None
    unit: str = ""
    notes: tuple[str, ...] = ()

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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        similarities = metric.similarity(a, b)
    notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(similarities) != 1:
        raise InputError(
            f"compare takes one image on each side, {len(similarities)} came; "
            "for many pairs use load_metric(name).similarity(images_a, images_b)"
        )
    card = _card_of(metric.name)
    return Comparison(
        similarity=float(similarities[0]),
        score=metric.score,
        metric=metric.name,
        fingerprint=metric.fingerprint,
        range=card.range if card else None,
        unit=card.unit if card else "",
        notes=notes,
    )


def _card_of(name: str) -> MetricCard | None:
    from identisim.metrics.registry import find_card

    try:
        return find_card(name)
    except InputError:  # a metric of the user's own
        return None


def load_metric(
    name: str | os.PathLike[str] = "compact",
    score: str | None = None,
    device: str = "auto",
    *,
    weights: str | os.PathLike[str] | None = None,
    foreground: str | os.PathLike[str] | None = None,
) -> Metric:
    """Load a metric by name, once for many images; published weights are downloaded when they are not here yet.

    name: of `list_metrics()`, with @SIZE (pixels a side), +crop (background removed) or +ffa (mean of the foreground
    patches) behind it as wanted; or the path of a folder with a backbone. score: kind of score, None for the metric's
    default. device: "auto" or a torch device name. weights: folder or file to use instead of a download. foreground:
    where +crop and +ffa get masks from: "compact", "alpha", "tracer-b7", "rembg:MODEL" or a folder of mask files.
    Raises InputError for an unknown name or score kind, and for weights that are missing or damaged.
    """
    from pathlib import Path

    from identisim.metrics.registry import build

    return build(
        os.fspath(name),
        score=score,
        device=device,
        weights=None if weights is None else Path(weights),
        foreground=None if foreground is None else os.fspath(foreground),
    )


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
