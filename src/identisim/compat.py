"""Drop-in stand-ins for the authors' releases, for people who switch: same call, same distances (lower = more alike).

Everything else in identisim is a similarity; the distances of the releases live here only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from identisim.errors import InputError
from identisim.images import Preprocessing, load_image
from identisim.metrics.idsim import RELEASED, SIZE
from identisim.metrics.registry import build
from identisim.models.preprocess import normalise
from identisim.models.tokens import Tokens
from identisim.similarity import cosine, cosine_matrix, transport_distance, unit

if TYPE_CHECKING:
    from identisim.metrics.metric import EmbeddingMetric

Mode = Literal["cls", "patch", "joint"]


def id_sim(
    pretrained: bool = True,
    device: str = "auto",
    cache_dir: str | Path | None = None,
    normalize_embeds: bool = True,
    id_sim_type: str = "dinov3_vitl16_cls_patch",
    hf_token: str | None = None,
    *,
    model_type: str | None = None,
) -> tuple[IDSimModel, IDSimPreprocess]:
    """Stand-in for `id_sim` of the ID-Sim release: (model, preprocess).

    `model(a, b, mode)` is a distance (B,): "cls" 1 − cosine, in [0, 2]; "patch" the same of the pooled patches;
    "joint", also without a mode, their sum, in [0, 4]. `preprocess(picture)` is (1, 3, 448, 448) in [0, 1].

    device: "auto" (the release says "cuda") or a torch device name. cache_dir: folder with the weights in this
    package's layout, None for its cache. id_sim_type: a name of the release, with or without _cls_patch; model_type is
    the other name that the release's model card gives it. hf_token: not taken, set HF_TOKEN instead. pretrained and
    normalize_embeds must stay true. Raises InputError for other values, and as `load_metric` does.
    """
    if not pretrained or not normalize_embeds or hf_token is not None:
        raise InputError(
            "id_sim takes pretrained=True and normalize_embeds=True only, and its token from HF_TOKEN; "
            f"got pretrained={pretrained}, normalize_embeds={normalize_embeds}"
            + (", hf_token=…" if hf_token is not None else "")
        )
    released = f"{(model_type or id_sim_type).removesuffix('_cls_patch')}_cls_patch"
    if released not in RELEASED:
        raise InputError(
            f"unknown id_sim_type {model_type or id_sim_type!r}; choose one of {', '.join(RELEASED)}"
        )
    weights = None if cache_dir is None else Path(cache_dir)
    metric: Any = build(RELEASED[released][0], device=device, weights=weights)
    return IDSimModel(metric), IDSimPreprocess()


class IDSimPreprocess:
    """A picture (PIL, path, array) -> (1, 3, 448, 448) float32 in [0, 1], on the CPU; squashed, bicubic."""

    def __call__(self, picture: Image.Image | str | Path | np.ndarray) -> Tensor:
        """Preprocess one picture."""
        return torch.from_numpy(Preprocessing(SIZE)(load_image(picture)))[None]


class IDSimModel(nn.Module):
    """The model of the release, for inference: distances, embeddings and comparisons of embeddings."""

    def __init__(self, metric: EmbeddingMetric) -> None:
        super().__init__()
        encoder: Any = metric.encode
        self.network: nn.Module = encoder.net
        self.scaling = metric.preprocessing

    def train(self, mode: bool = True) -> IDSimModel:
        """Stay in evaluation mode: the release infers only."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, img_a: Tensor, img_b: Tensor, mode: Mode | None = None) -> Tensor:
        """Distances (B,) of preprocessed pictures (B, 3, 448, 448) in [0, 1]; lower = more alike."""
        return self.compute_distance_from_embeddings(self.embed(img_a), self.embed(img_b), mode)

    @torch.inference_mode()
    def embed(self, img: Tensor, mode: Mode | None = None) -> dict[str, Tensor]:
        """Embeddings of unit length: {"cls": (B, D), "patch": (B, N, D)}, or the one that mode names."""
        _require_mode(mode)
        device = next(self.network.parameters()).device
        tokens: Tokens = self.network(normalise(img.to(device), self.scaling))
        found = {"cls": unit(tokens.cls), "patch": unit(tokens.patches.flatten(1, 2))}
        return found if mode in (None, "joint") else {str(mode): found[str(mode)]}

    @staticmethod
    def compute_distance_from_embeddings(
        a: Mapping[str, Tensor], b: Mapping[str, Tensor], mode: Mode | None = None
    ) -> Tensor:
        """Distances (B,) of what `embed` gave."""
        return _sum(cosine, a, b, mode)

    @staticmethod
    def compute_pairwise_distances(
        a: Mapping[str, Tensor], b: Mapping[str, Tensor], mode: Mode | None = None
    ) -> Tensor:
        """Distances of all against all: (A, B)."""
        return _sum(cosine_matrix, a, b, mode)

    @staticmethod
    def sinkhorn_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        """Optimal-transport distance of the patches (B,), as the release trains with (not debiased)."""
        return transport_distance(a["patch"], b["patch"])


def _sum(
    compare: Callable[[Tensor, Tensor], Tensor],
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    mode: Mode | None,
) -> Tensor:
    """Sum of the distances that a mode names."""
    _require_mode(mode)
    kinds = ("cls", "patch") if mode in (None, "joint") else (str(mode),)
    sides = [
        {kind: side[kind].mean(1) if kind == "patch" else side[kind] for kind in kinds} for side in (a, b)
    ]
    return torch.stack([1 - compare(sides[0][kind], sides[1][kind]) for kind in kinds]).sum(0)


def _require_mode(mode: str | None) -> None:
    if mode not in (None, "cls", "patch", "joint"):
        raise InputError(f"unknown mode {mode!r}; choose cls, patch, joint or None (which is joint)")
