"""Every metric by name: a dict written out by hand; each builder imports what it needs, when it is called."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources

from identisim.errors import InputError
from identisim.metrics.metric import SCORES, EmbeddingMetric, Metric


@dataclass(frozen=True)
class MetricCard:
    """What one should know of a metric before using it.

    what: one line. size: of its weights, for people. licence: of the code and the weights. gated: whether the
    weights must be requested from their owners. scores: the score kinds it can give, its default first.
    range: lowest and highest similarity, in `unit` ("" = a plain number). weights: file inside the package,
    or None when it has none. extra: the optional dependencies of identisim that it needs, or None. builder: device
    name -> the metric with its default score.
    """

    name: str
    what: str
    size: str
    licence: str
    gated: bool
    scores: tuple[str, ...]
    range: tuple[float, float]
    builder: Callable[[str], Metric]
    unit: str = ""
    weights: str | None = None
    extra: str | None = None


def _compact(device: str) -> Metric:
    from identisim.metrics.compact import build_compact

    return build_compact(device=device)


def _ssim(device: str) -> Metric:
    from identisim.metrics.pixels import build_ssim

    _require_cpu("ssim", device)
    return build_ssim()


def _psnr(device: str) -> Metric:
    from identisim.metrics.pixels import build_psnr

    _require_cpu("psnr", device)
    return build_psnr()


def _histogram(device: str) -> Metric:
    from identisim.metrics.pixels import build_histogram

    _require_cpu("colour-histogram", device)
    return build_histogram()


def _hog(device: str) -> Metric:
    from identisim.metrics.classical import build_hog

    _require_cpu("hog", device)
    return build_hog()


def _sift(device: str) -> Metric:
    from identisim.metrics.classical import build_sift

    _require_cpu("sift", device)
    return build_sift()


def _phash(device: str) -> Metric:
    from identisim.metrics.classical import build_phash

    _require_cpu("phash", device)
    return build_phash()


def _random_weights(device: str) -> Metric:
    from identisim.metrics.classical import build_random_weights

    return build_random_weights(device)


METRICS: dict[str, MetricCard] = {
    card.name: card
    for card in (
        MetricCard(
            name="compact",
            what="identity of the object: small network trained from nothing on rendered objects",
            size="11 MB, in the package",
            licence="Apache-2.0",
            gated=False,
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
            gated=False,
            scores=("pixels",),
            range=(-1.0, 1.0),
            builder=_ssim,
        ),
        MetricCard(
            name="psnr",
            what="peak signal-to-noise ratio of the pixels: a baseline that knows no objects",
            size="no weights",
            licence="Apache-2.0",
            gated=False,
            scores=("pixels",),
            range=(0.0, 100.0),
            unit="dB",
            builder=_psnr,
        ),
        MetricCard(
            name="colour-histogram",
            what="shared colours near the centre of the picture: a baseline that knows no shapes",
            size="no weights",
            licence="Apache-2.0",
            gated=False,
            scores=("pixels",),
            range=(0.0, 1.0),
            builder=_histogram,
        ),
        MetricCard(
            name="hog",
            what="histograms of oriented gradients (Dalal and Triggs 2005): a baseline that knows no colours",
            size="no weights",
            licence="Apache-2.0; scikit-image BSD-3-Clause",
            gated=False,
            scores=("pixels",),
            range=(0.0, 1.0),
            builder=_hog,
            extra="classical",
        ),
        MetricCard(
            name="sift",
            what="log of the number of matching SIFT points (Lowe 2004): strong where prints are sharp",
            size="no weights",
            licence="Apache-2.0; OpenCV Apache-2.0",
            gated=False,
            scores=("pixels",),
            range=(0.0, 11.06),
            builder=_sift,
            extra="classical",
        ),
        MetricCard(
            name="phash",
            what="equal bits of two 64-bit perceptual hashes: finds copies, not objects",
            size="no weights",
            licence="Apache-2.0",
            gated=False,
            scores=("pixels",),
            range=(0.0, 1.0),
            builder=_phash,
        ),
        MetricCard(
            name="random-weights",
            what="the network of compact before any training: the floor under its figures",
            size="no weights",
            licence="Apache-2.0",
            gated=False,
            scores=SCORES,
            range=(-1.0, 1.0),
            builder=_random_weights,
        ),
    )
}
"""Name -> card, in the order in which `identisim metrics` lists them."""


def find_card(name: str) -> MetricCard:
    """Card of a metric; an unknown name is an InputError that names the nearest ones and all of them."""
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=2, cutoff=0.4)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"unknown metric {name!r}; {guess}the metrics are: {', '.join(METRICS)}")


def build(name: str, *, score: str | None = None, device: str = "auto") -> Metric:
    """Build a metric by name.

    score: one of the card's `scores`, None for its default. device: "auto" or a torch device name; the pixel
    metrics run on the CPU only. Raises InputError for an unknown name, a score kind that the metric lacks, or
    such a device.
    """
    card = find_card(name)
    if score is not None and score not in card.scores:
        raise InputError(f"{name} has no score kind {score!r}; choose one of: {', '.join(card.scores)}")
    metric = card.builder(device)
    if score is not None and isinstance(metric, EmbeddingMetric):
        return replace(metric, score=score)
    return metric


def weights_present(card: MetricCard) -> bool:
    """Whether the metric can be built without fetching anything; always, if it has no weights."""
    return card.weights is None or resources.files("identisim").joinpath(card.weights).is_file()


def _require_cpu(name: str, device: str) -> None:
    if device not in ("auto", "cpu"):
        raise InputError(f"{name} runs on the CPU only; got device {device!r}, expected 'auto' or 'cpu'")
