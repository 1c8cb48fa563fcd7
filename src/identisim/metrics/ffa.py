"""Foreground feature averaging (CUTE, NeurIPS 2023), and background removal for any embedding metric.

`isolated` turns any embedding metric into one that looks at the object: `NAME+crop` blackens the background and takes
the network's own vector ("DinoV2 + Crop", "CLIPScore + Crop" in the paper's tables), `NAME+ffa` averages the foreground
patches of the whole picture (Crop-Feat), `NAME+crop+ffa` those of the blackened one (Crop-Img). The paper's own metric
is that of DINOv2 ViT-B/14 at 336 pixels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.embeddings import EXTRA, IMAGENET, build_backbone_metric, dinov2_source
from identisim.metrics.foregrounds import find_foreground
from identisim.metrics.isolation import Foreground, Isolation
from identisim.metrics.metric import EmbeddingMetric, Metric, fingerprint

SIZE: Final = 336
DEFAULT_FOREGROUND: Final = "compact"


def isolated(
    metric: Metric,
    name: str,
    foreground: Foreground,
    *,
    crop: bool,
    average: bool,
    compat: Literal["s-tian"] | None = None,
) -> EmbeddingMetric:
    """Make an embedding metric look at the object only; its default score is then `cls`.

    name: of the new metric. foreground, crop, average, compat: see `Isolation`. Raises InputError for a metric that
    compares pixels.
    """
    if not isinstance(metric, EmbeddingMetric):
        raise InputError(
            f"+crop and +ffa need a metric with embeddings; {metric.name} compares pictures pair by pair"
        )
    isolation = Isolation(foreground, crop=crop, average=average, compat=compat)
    return replace(
        metric,
        name=name,
        isolation=isolation,
        score="cls",
        fingerprint=fingerprint(
            name,
            weights=metric.fingerprint,
            preprocessing=f"{metric.preprocessing.fingerprint}|{isolation.fingerprint}",
            version="1",
        ),
    )


def with_foreground(metric: Metric, foreground: str, device: str = "auto") -> EmbeddingMetric:
    """Let an isolated metric take its masks from elsewhere (see `find_foreground`)."""
    if not isinstance(metric, EmbeddingMetric) or metric.isolation is None:
        raise InputError(
            f"{metric.name} looks at whole pictures: a foreground is for ffa-* and for NAME+crop, NAME+ffa "
            f"({metric.name}+crop, for example)"
        )
    isolation = metric.isolation
    return isolated(
        metric,
        metric.name,
        find_foreground(foreground, device),
        crop=isolation.crop,
        average=isolation.average,
        compat=isolation.compat,
    )


def build_ffa(
    name: str, crop: bool, compat: Literal["s-tian"] | None, device: str, folders: tuple[Path, ...]
) -> EmbeddingMetric:
    """Build FFA on DINOv2 ViT-B/14 from its weights, with the packaged foreground network."""
    backbone = build_backbone_metric(name, Preprocessing(SIZE, **IMAGENET), device, folders)
    foreground = find_foreground(DEFAULT_FOREGROUND, device)
    return isolated(backbone, name, foreground, crop=crop, average=True, compat=compat)


def _card(name: str, what: str, crop: bool, compat: Literal["s-tian"] | None = None) -> MetricCard:
    source = dinov2_source("vitb14")
    return MetricCard(
        name=name,
        what=what,
        size="87 M parameters",
        licence=source.licence,
        scores=("cls", "patch", "ot", "match"),
        range=(-1.0, 1.0),
        builder=partial(build_ffa, name, crop, compat),
        paper="CUTE, NeurIPS 2023",
        input=f"{SIZE} × {SIZE}, squashed, bicubic",
        sources=(source,),
        extra=EXTRA,
    )


CARDS: Final = (
    _card("ffa-crop-feat", "mean of DINOv2's foreground patches, computed on the whole picture", crop=False),
    _card("ffa-crop-img", "mean of DINOv2's foreground patches, computed on the cut-out object", crop=True),
    _card(
        "ffa-crop-feat-s-tian", "what the authors' code computes as Crop-Feat", crop=False, compat="s-tian"
    ),
    _card("ffa-crop-img-s-tian", "what the authors' code computes as Crop-Img", crop=True, compat="s-tian"),
)
