"""UNED: the winning universal image embedding of the Google challenge of 2022, which ID-Sim compares with.

Its weights lie behind a Kaggle login, so nothing here downloads them; which of two croppings the winners used is not
published, and the one they trained with, squashing, is used. That ID-Sim's "UNED" is this network is likely, not known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.embeddings import CLIP, EXTRA, require_transformers, weights_digest
from identisim.metrics.metric import EmbeddingMetric, fingerprint
from identisim.sources import RemoteFile, Source

PAGE: Final = "https://www.kaggle.com/datasets/louieshao/guieweights0732"
FILE: Final = "ir_features.pth"


def build_uned(device: str, folders: tuple[Path, ...]) -> EmbeddingMetric:
    """Build the metric from a folder with the winners' file under the name ir_features.pth."""
    require_transformers("uned")
    from identisim.metrics.network import NetworkEncoder
    from identisim.models.uned import load_uned

    path = folders[0] / FILE if folders[0].is_dir() else folders[0]
    if not path.is_file():
        raise InputError(
            f"no {path}: download it from {PAGE} (a Kaggle account is needed) and name it {FILE}"
        )
    model = load_uned(path)
    preprocessing = Preprocessing(model.size, **CLIP)
    return EmbeddingMetric(
        name="uned",
        encode=NetworkEncoder(model, device),
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            "uned", weights=weights_digest((path,)), preprocessing=preprocessing.fingerprint, version="1"
        ),
    )


CARDS: Final = (
    MetricCard(
        name="uned",
        what="universal image embedding, ViT-H/14, winner of the Google challenge 2022",
        size="632 M parameters",
        licence="not stated by its authors",
        scores=("cls",),
        range=(-1.0, 1.0),
        builder=build_uned,
        paper="Shao and Cui, 1st place solution in Google Universal Image Embedding, 2022",
        input="290 × 290, squashed, bicubic",
        sources=(
            Source(
                "kaggle/guieweights0732",
                (RemoteFile(FILE, ""),),
                licence="not stated by its authors",
                page=PAGE,
                gated=True,
            ),
        ),
        extra=EXTRA,
    ),
)
