"""Unicom as metrics (An et al., ICLR 2023): embeddings for image retrieval, a baseline of CUTE."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import SCORES, EmbeddingMetric, fingerprint
from identisim.sources import RemoteFile, Source

if TYPE_CHECKING:
    from identisim.models.unicom import Variant

RELEASES: Final = "https://github.com/deepglint/unicom/releases/download"
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)


class Published(NamedTuple):
    """tag, file: of the release. sha256: as its authors state it. side: of the pictures, pixels."""

    tag: str
    file: str
    sha256: str
    side: int
    network: str
    parameters: str


PUBLISHED: Final[dict[Variant, Published]] = {
    "b32": Published(
        "b32",
        "FP16-ViT-B-32.pt",
        "f9d5696a9b58dbbbefee2d31615ca59084f2895a0fdd2ca4c235e0f9b2793f7a",
        224,
        "ViT-B/32",
        "117 M",
    ),
    "b16": Published(
        "b16",
        "FP16-ViT-B-16.pt",
        "c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef",
        224,
        "ViT-B/16",
        "202 M",
    ),
    "l14": Published(
        "l14",
        "FP16-ViT-L-14.pt",
        "ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd",
        224,
        "ViT-L/14",
        "572 M",
    ),
    "l14-336": Published(
        "l14_336px",
        "FP16-ViT-L-14-336px.pt",
        "3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea",
        336,
        "ViT-L/14",
        "908 M",
    ),
}


def build_unicom(variant: Variant, device: str, folders: tuple[Path, ...]) -> EmbeddingMetric:
    """Build the metric from the folder that holds the published file; its default score is `cls`.

    As published, the central square of the picture is compared. Raises InputError for weights that are missing,
    damaged or of another network.
    """
    from identisim.downloads import weights_sha256
    from identisim.metrics.network import NetworkEncoder
    from identisim.models.unicom import load_unicom

    path = folders[0] / PUBLISHED[variant].file
    digest = weights_sha256(path)
    name = f"unicom-vit-{variant}"
    preprocessing = Preprocessing(PUBLISHED[variant].side, mode="crop", mean=MEAN, std=STD)
    return EmbeddingMetric(
        name=name,
        encode=NetworkEncoder(load_unicom(variant, path), device),
        preprocessing=preprocessing,
        fingerprint=fingerprint(name, weights=digest, preprocessing=preprocessing.fingerprint, version="1"),
    )


def _card(variant: Variant) -> MetricCard:
    published = PUBLISHED[variant]
    source = Source(
        f"deepglint/unicom-{variant}",
        (RemoteFile(published.file, f"{RELEASES}/{published.tag}/{published.file}", published.sha256),),
        "MIT",
        "https://github.com/deepglint/unicom",
    )
    return MetricCard(
        name=f"unicom-vit-{variant}",
        what=f"Unicom {published.network} at {published.side} pixels: trained to retrieve pictures",
        size=f"{published.parameters} parameters, half precision",
        licence=source.licence,
        scores=SCORES,
        range=(-1.0, 1.0),
        builder=partial(build_unicom, variant),
        paper="An et al., Unicom, ICLR 2023",
        input=f"{published.side} × {published.side}, central square, bicubic",
        sources=(source,),
    )


CARDS: Final = tuple(_card(variant) for variant in PUBLISHED)
