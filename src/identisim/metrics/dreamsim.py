"""DreamSim in all released variants: a metric of perceived similarity, and a baseline of both papers.

The similarity is the cosine that the release subtracts from 1. The adapters are those of the release; the backbones of
the CLIP variants come in its archives, those of DINO and DINOv2 from Meta.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.embeddings import (
    CLIP,
    EXTRA,
    IMAGENET,
    dino_source,
    dinov2_source,
    require_transformers,
    weights_digest,
)
from identisim.metrics.metric import EmbeddingMetric, fingerprint
from identisim.sources import RemoteFile, Source

PAGE: Final = "https://github.com/ssundaram21/dreamsim"
SIZE: Final = 224


@dataclass(frozen=True)
class _Variant:
    """A released variant. branches: kinds of backbone, in order. archive: of the release. adapter: folder in it."""

    branches: tuple[str, ...]
    archive: str
    adapter: str
    pooled: bool = False


VARIANTS: Final = {
    "ensemble": _Variant(
        ("dino_vitb16", "clip_vitb16", "open_clip_vitb16"),
        "v0.2.0-checkpoints/dreamsim_ensemble_checkpoint.zip",
        "ensemble_lora",
    ),
    "dino": _Variant(
        ("dino_vitb16",), "v0.2.0-checkpoints/dreamsim_dino_vitb16_checkpoint.zip", "dino_vitb16_single_lora"
    ),
    "clip": _Variant(
        ("clip_vitb32",), "v0.2.0-checkpoints/dreamsim_clip_vitb32_checkpoint.zip", "clip_vitb32_single_lora"
    ),
    "openclip": _Variant(
        ("open_clip_vitb32",),
        "v0.2.0-checkpoints/dreamsim_open_clip_vitb32_checkpoint.zip",
        "open_clip_vitb32_single_lora",
    ),
    "dinov2": _Variant(
        ("dinov2_vitb14",),
        "v0.2.1-checkpoints/dreamsim_dinov2_vitb14_checkpoint.zip",
        "dinov2_vitb14_single_lora",
    ),
    "synclr": _Variant(
        ("synclr_vitb16",),
        "v0.2.1-checkpoints/dreamsim_synclr_vitb16_checkpoint.zip",
        "synclr_vitb16_single_lora",
    ),
    "dino-patch": _Variant(
        ("dino_vitb16",),
        "v0.2.1-checkpoints/dreamsim_dino_vitb16_patch_checkpoint.zip",
        "dino_vitb16_patch_lora",
        pooled=True,
    ),
    "dinov2-patch": _Variant(
        ("dinov2_vitb14",),
        "v0.2.1-checkpoints/dreamsim_dinov2_vitb14_patch_checkpoint.zip",
        "dinov2_vitb14_patch_lora",
        pooled=True,
    ),
}

IN_ARCHIVE: Final = {
    "clip_vitb16": "clip_vitb16_pretrain.pth.tar",
    "open_clip_vitb16": "open_clip_vitb16_pretrain.pth.tar",
    "clip_vitb32": "clip_vitb32_pretrain.pth.tar",
    "open_clip_vitb32": "open_clip_vitb32_pretrain.pth.tar",
    "synclr_vitb16": "synclr_vit_b_16.pth",
}
"""Kind of backbone -> its file, where the archive has it."""

FROM_META: Final = {"dino_vitb16": dino_source(), "dinov2_vitb14": dinov2_source("vitb14")}


def build_dreamsim(name: str, variant: str, device: str, folders: tuple[Path, ...]) -> EmbeddingMetric:
    """Build a variant from the folder of its archive, and that of Meta's backbone where it has one."""
    require_transformers(name)
    from identisim.metrics.network import NetworkEncoder
    from identisim.models.dreamsim import Branch, load_dreamsim

    facts = VARIANTS[variant]
    branches = []
    for kind in facts.branches:
        is_clip = "clip" in kind
        branches.append(
            Branch(
                path=folders[0] / IN_ARCHIVE[kind] if kind in IN_ARCHIVE else folders[1],
                feature="final" if is_clip else "last-block",
                inside={"synclr_vitb16": "model"}.get(kind, "state_dict" if is_clip else ""),
                activation="quick_gelu" if kind.startswith("clip") else "gelu",
                **(CLIP if is_clip else IMAGENET),
            )
        )
    model = load_dreamsim(branches, folders[0] / facts.adapter, facts.pooled)
    preprocessing = Preprocessing(SIZE)
    files = (folders[0] / facts.adapter, *(branch.path for branch in branches))
    return EmbeddingMetric(
        name=name,
        encode=NetworkEncoder(model, device),
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            name, weights=weights_digest(files), preprocessing=preprocessing.fingerprint, version="1"
        ),
    )


def _sources(variant: _Variant) -> tuple[Source, ...]:
    folder = variant.archive.rpartition("/")[2].removesuffix(".zip")
    members = [f"{variant.adapter}/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")]
    members += [IN_ARCHIVE[kind] for kind in variant.branches if kind in IN_ARCHIVE]
    archive = RemoteFile(
        f"{folder}.zip", f"{PAGE}/releases/download/{variant.archive}", members=tuple((m, m) for m in members)
    )
    sources = [Source(f"dreamsim/{folder}", (archive,), "MIT", PAGE)]
    return (*sources, *(FROM_META[kind] for kind in variant.branches if kind in FROM_META))


CARDS: Final = tuple(
    MetricCard(
        name=f"dreamsim-{variant}",
        what=f"perceived similarity: DreamSim with {', '.join(facts.branches)}{', CLS and patches' * facts.pooled}",
        size=f"{len(facts.branches)} × ViT-B",
        licence="MIT; backbones under their own licences",
        scores=("cls",),
        range=(-1.0, 1.0),
        builder=partial(build_dreamsim, f"dreamsim-{variant}", variant),
        paper="Fu et al., DreamSim, NeurIPS 2023",
        input=f"{SIZE} × {SIZE}, squashed, bicubic",
        sources=_sources(facts),
        extra=EXTRA,
    )
    for variant, facts in VARIANTS.items()
)
