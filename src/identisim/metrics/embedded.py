"""Cards of the metrics that need no published weights: the packaged network, pixels, classical features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from identisim.metrics import classical, pixels
from identisim.metrics.card import MetricCard, require_cpu
from identisim.metrics.metric import SCORES, Metric


def _compact(device: str, folders: tuple[Path, ...]) -> Metric:
    from identisim.metrics.compact import build_compact

    return build_compact(device=device)


def _on_cpu(name: str, build: Callable[[], Metric]) -> Callable[[str, tuple[Path, ...]], Metric]:
    def builder(device: str, folders: tuple[Path, ...]) -> Metric:
        require_cpu(name, device)
        return build()

    return builder


def _random_weights(device: str, folders: tuple[Path, ...]) -> Metric:
    return classical.build_random_weights(device)


CARDS: Final = (
    MetricCard(
        name="compact",
        what="identity of the object: small network trained from nothing on rendered objects",
        size="11 MB, in the package",
        licence="Apache-2.0",
        scores=("fused", *(kind for kind in SCORES if kind != "fused")),
        range=(-1.0, 1.0),
        builder=_compact,
        weights="models/compact.safetensors",
    ),
    MetricCard(
        name="ssim",
        what="structure of grey pixels (Wang et al. 2004): a baseline that knows no objects",
        size="no weights",
        licence="Apache-2.0",
        scores=("pixels",),
        range=(-1.0, 1.0),
        builder=_on_cpu("ssim", pixels.build_ssim),
    ),
    MetricCard(
        name="psnr",
        what="peak signal-to-noise ratio of the pixels: a baseline that knows no objects",
        size="no weights",
        licence="Apache-2.0",
        scores=("pixels",),
        range=(0.0, 100.0),
        unit="dB",
        builder=_on_cpu("psnr", pixels.build_psnr),
    ),
    MetricCard(
        name="colour-histogram",
        what="shared colours near the centre of the picture: a baseline that knows no shapes",
        size="no weights",
        licence="Apache-2.0",
        scores=("pixels",),
        range=(0.0, 1.0),
        builder=_on_cpu("colour-histogram", pixels.build_histogram),
    ),
    MetricCard(
        name="hog",
        what="histograms of oriented gradients (Dalal and Triggs 2005): a baseline that knows no colours",
        size="no weights",
        licence="Apache-2.0; scikit-image BSD-3-Clause",
        scores=("pixels",),
        range=(0.0, 1.0),
        builder=_on_cpu("hog", classical.build_hog),
        extra="classical",
    ),
    MetricCard(
        name="sift",
        what="log of the number of matching SIFT points (Lowe 2004): strong where prints are sharp",
        size="no weights",
        licence="Apache-2.0; OpenCV Apache-2.0",
        scores=("pixels",),
        range=(0.0, 11.06),
        builder=_on_cpu("sift", classical.build_sift),
        extra="classical",
    ),
    MetricCard(
        name="phash",
        what="equal bits of two 64-bit perceptual hashes: finds copies, not objects",
        size="no weights",
        licence="Apache-2.0",
        scores=("pixels",),
        range=(0.0, 1.0),
        builder=_on_cpu("phash", classical.build_phash),
    ),
    MetricCard(
        name="random-weights",
        what="the network of compact before any training: the floor under its figures",
        size="no weights",
        licence="Apache-2.0",
        scores=SCORES,
        range=(-1.0, 1.0),
        builder=_random_weights,
    ),
)
