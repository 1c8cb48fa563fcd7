"""ID-Sim: the released checkpoints as metrics (CVPR 2026).

The paper scores with the cosine of the CLS embeddings: score `cls`, the default here. The release's own call without a
mode is the sum of the distances of CLS and pooled patches: `joint` is 1 − half of that. `ot` compares the patches by
optimal transport as in training.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.embeddings import (
    EXTRA,
    IMAGENET,
    dinov2_source,
    dinov3_source,
    require_transformers,
    weights_digest,
)
from identisim.metrics.metric import SCORES, EmbeddingMetric, fingerprint
from identisim.sources import Source, hub_source

SIZE: Final = 448
PAPER: Final = "ID-Sim, CVPR 2026"

RELEASED: Final = {
    "dinov3_vitl16_cls_patch": ("id-sim-dinov3-l16", dinov3_source("vitl16", "id-sim-dinov2-l14")),
    "dinov3_vitb16_cls_patch": ("id-sim-dinov3-b16", dinov3_source("vitb16", "id-sim-dinov2-b14")),
    "dinov2_vitl14_cls_patch": ("id-sim-dinov2-l14", dinov2_source("vitl14")),
    "dinov2_vitb14_cls_patch": ("id-sim-dinov2-b14", dinov2_source("vitb14")),
}
"""Name of a checkpoint in the release -> our name, and the source of its backbone."""


def build_idsim(name: str, device: str, folders: tuple[Path, ...]) -> EmbeddingMetric:
    """Build the metric from the folder of a checkpoint and that, or the file, of its backbone (see `load_idsim`)."""
    require_transformers(name)
    from identisim.metrics.network import NetworkEncoder
    from identisim.models.idsim import load_idsim

    checkpoint, backbone = folders
    model = load_idsim(checkpoint, backbone)
    preprocessing = Preprocessing(SIZE, **IMAGENET)
    return EmbeddingMetric(
        name=name,
        encode=NetworkEncoder(model, device, model.backbone.patch),
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            name, weights=weights_digest(folders), preprocessing=preprocessing.fingerprint, version="1"
        ),
    )


def _checkpoint_source(released: str) -> Source:
    names = ("adapter_config.json", "adapter_model.safetensors", "mlp_cls.pth", "mlp_patch.pth")
    return hub_source(f"chaenayo/id-sim_{released}", dict.fromkeys(names), licence="MIT")


CARDS: Final = tuple(
    MetricCard(
        name=name,
        what=f"ID-Sim on {released.split('_')[0].replace('dino', 'DINO')} ViT-{released.split('_vit')[1][:3].upper()}",
        size="backbone, adapter of rank 16 and two heads",
        licence=f"MIT; backbone: {backbone.licence}",
        scores=SCORES,
        range=(-1.0, 1.0),
        builder=partial(build_idsim, name),
        paper=PAPER,
        input=f"{SIZE} × {SIZE}, squashed, bicubic",
        sources=(_checkpoint_source(released), backbone),
        extra=EXTRA,
    )
    for released, (name, backbone) in RELEASED.items()
)
