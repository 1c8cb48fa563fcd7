"""NearID: SigLIP 2 with an attention pooling trained to tell near-identities apart (Apache-2.0)."""

from __future__ import annotations

from functools import partial
from typing import Final

from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.embeddings import EXTRA, HALF, build_backbone_metric
from identisim.sources import hub_source

_PREPROCESSING: Final = Preprocessing(384, filter="bilinear", **HALF)

CARDS: Final = (
    MetricCard(
        name="nearid",
        what="SigLIP 2 So400m with a head trained on near-identities",
        size="428 M parameters",
        licence="Apache-2.0",
        scores=("cls",),
        range=(-1.0, 1.0),
        builder=partial(build_backbone_metric, "nearid", _PREPROCESSING),
        paper="NearID, arXiv 2604.01973",
        input="384 × 384, squashed, bilinear",
        sources=(
            hub_source(
                "Aleksandar/nearid-siglip2",
                {"config.json": None, "model.safetensors": None},
                licence="Apache-2.0",
            ),
        ),
        extra=EXTRA,
    ),
)
