"""Every metric by name, and the small grammar of names: NAME[@SIZE][+crop][+ffa]."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from identisim.downloads import fetch, present
from identisim.errors import InputError
from identisim.extras import require_extra
from identisim.metrics import (
    diffsim,
    dreamsim,
    embedded,
    embeddings,
    ffa,
    idsim,
    lpips,
    nearid,
    uned,
    unicom,
)
from identisim.metrics.card import MetricCard
from identisim.metrics.foregrounds import find_foreground
from identisim.metrics.metric import SCORES, EmbeddingMetric, Metric, fingerprint

METRICS: dict[str, MetricCard] = {
    card.name: card
    for cards in (
        embedded.CARDS,
        idsim.CARDS,
        ffa.CARDS,
        embeddings.CARDS,
        dreamsim.CARDS,
        lpips.CARDS,
        unicom.CARDS,
        diffsim.CARDS,
        nearid.CARDS,
        uned.CARDS,
    )
    for card in cards
}
"""Name -> card, in the order in which `identisim metrics` lists them."""

ALIASES: Final = {"id-sim": "id-sim-dinov3-l16", "ffa": "ffa-crop-feat", "dreamsim": "dreamsim-ensemble"}
"""Short names: what the papers recommend or report first."""

_NAME: Final = re.compile(r"(?P<base>[^@+]+)(?:@(?P<size>\d+))?(?P<crop>\+crop)?(?P<average>\+ffa)?")


@dataclass(frozen=True)
class _Name:
    """A name taken apart. base: of a card, or a path; size: pixels a side, None for the card's own."""

    base: str
    size: int | None
    crop: bool
    average: bool

    @property
    def full(self) -> str:
        """The name put together again, with aliases resolved."""
        size = "" if self.size is None else f"@{self.size}"
        return f"{self.base}{size}{'+crop' * self.crop}{'+ffa' * self.average}"


def find_card(name: str) -> MetricCard:
    """Card of a metric; an unknown name is an InputError that names the nearest ones and all of them.

    A name with @SIZE, +crop or +ffa gets the card of its metric with that name, and the path of a folder or file one of
    its own.
    """
    parts = _take_apart(name)
    if parts.base not in METRICS and (path := _existing(parts.base)):
        card = _local_card(path)
        return _derived(card, replace(parts, base=card.name))
    if parts.base not in METRICS:
        near = difflib.get_close_matches(parts.base.lower(), [*METRICS, *ALIASES], n=2, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"unknown metric {parts.base!r}; {guess}the metrics are: {', '.join(METRICS)}")
    return _derived(METRICS[parts.base], parts)


def build(
    name: str,
    *,
    score: str | None = None,
    device: str = "auto",
    weights: Path | None = None,
    foreground: str | None = None,
) -> Metric:
    """Build a metric by name; weights that are published and not on this machine yet are downloaded first.

    name: of a card, with @SIZE (pixels a side), +crop (background blackened), +ffa (mean of the foreground patches) as
    wanted, or the path of a folder or file of a backbone's weights. score: one of the card's `scores`, None for its
    default. device: "auto" or a torch device name; the pixel metrics run on the CPU only. weights: folder to use
    instead of a download; for a metric with several sources a folder that has them below it, as the cache does.
    foreground: where +crop and +ffa take masks from (see `find_foreground`).
    Raises InputError for an unknown name, a score kind that the metric lacks, and weights that are not to be had.
    """
    parts, card = _take_apart(name), find_card(name)
    if score is not None and score not in card.scores:
        raise InputError(f"{name} has no score kind {score!r}; choose one of: {', '.join(card.scores)}")
    require_extra(card.extra, card.name)  # before any weights are fetched
    metric = _shaped(card.builder(device, _folders(card, weights)), parts, card.name, foreground, device)
    if score is not None and isinstance(metric, EmbeddingMetric):
        return replace(metric, score=score)
    return metric


def isolates(name: str) -> bool:
    """Whether a metric of that name looks at the object only, and so takes a foreground."""
    parts = _take_apart(name)
    return parts.crop or parts.average or any(parts.base == card.name for card in ffa.CARDS)


def weights_present(card: MetricCard) -> bool:
    """Whether the metric can be built without fetching anything; always, if it has no weights."""
    packaged = card.weights is None or resources.files("identisim").joinpath(card.weights).is_file()
    return packaged and present(card.sources)


def _take_apart(name: str) -> _Name:
    if not (name in METRICS or name in ALIASES) and _existing(name):
        return _Name(name, None, crop=False, average=False)  # a path may have @ and + in it
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"{name!r} is no name of a metric; expected NAME[@SIZE][+crop][+ffa], such as dinov2-b@518+ffa"
        )
    size = None if match["size"] is None else int(match["size"])
    return _Name(ALIASES.get(match["base"], match["base"]), size, bool(match["crop"]), bool(match["average"]))


def _existing(name: str) -> Path | None:
    """The name as the path of something that is there, or None."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError):  # too long for a path, or the home of a user that does not exist
        return None


def _derived(card: MetricCard, parts: _Name) -> MetricCard:
    if not (parts.crop or parts.average):
        return replace(card, name=parts.full)
    scores = ("cls", *(kind for kind in card.scores if kind in SCORES and kind != "cls"))
    return replace(card, name=parts.full, scores=scores)


def _folders(card: MetricCard, weights: Path | None) -> tuple[Path, ...]:
    """A folder for each source of the card."""
    if weights is None:
        return tuple(fetch(source, wanted_by=card.name) for source in card.sources)
    if not card.sources:
        raise InputError(f"{card.name} takes no weights of yours; got {weights}")
    if not weights.exists():
        raise InputError(f"{weights} does not exist; expected a folder with the weights of {card.name}")
    if len(card.sources) == 1 and not (weights / card.sources[0].folder).exists():
        return (weights,)
    return tuple(weights / source.folder for source in card.sources)


def _local_card(path: Path) -> MetricCard:
    return MetricCard(
        name=path.name,
        what=f"the backbone in {path}",
        size="unknown",
        licence="as its owner says",
        scores=SCORES,
        range=(-1.0, 1.0),
        builder=lambda device, _: embeddings.build_local_backbone(path, device),
        extra=embeddings.EXTRA,
    )


def _shaped(metric: Metric, parts: _Name, name: str, foreground: str | None, device: str) -> Metric:
    if parts.size is not None:
        metric = _resized(metric, parts.size)
    if parts.crop or parts.average:
        source = find_foreground(foreground or ffa.DEFAULT_FOREGROUND, device)
        return ffa.isolated(metric, name, source, crop=parts.crop, average=parts.average)
    return metric if foreground is None else ffa.with_foreground(metric, foreground, device)


def _resized(metric: Metric, size: int) -> EmbeddingMetric:
    """Let a metric bring pictures to another size."""
    patch = getattr(metric.encode, "patch", None) if isinstance(metric, EmbeddingMetric) else None
    if patch is None or not isinstance(metric, EmbeddingMetric):
        raise InputError(f"{metric.name} has one input size only: leave @{size} out")
    if (size % patch and size != metric.preprocessing.size) or not size:
        below, above = size - size % patch, size - size % patch + patch
        near = f"{below} or {above}" if below else str(above)
        raise InputError(
            f"{metric.name} takes sizes that are multiples of {patch}; got {size}: choose {near}"
        )
    preprocessing = replace(metric.preprocessing, size=size)
    name = f"{metric.name}@{size}"
    return replace(
        metric,
        name=name,
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            name, weights=metric.fingerprint, preprocessing=preprocessing.fingerprint, version="1"
        ),
    )
