"""One self-contained page on how metrics did: table, histograms of the scores, and the worst pairs as pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray

from identisim.drawing import fit
from identisim.evaluation.measures import Estimate, percentile_interval
from identisim.images import load_image
from identisim.metrics.metric import Array, Metric
from identisim.records import atomic_file

WORST = 8
"""Pairs shown of either kind; no photo twice among them."""
BINS = 40
PICTURE = 220
"""Longest side of a picture in the page, pixels."""


@dataclass(frozen=True)
class MetricScores:
    """A metric on a collection: similarities (n, n), identity (n,), and its measures by name."""

    metric: Metric
    matrix: Array
    identity: NDArray[np.intp]
    estimates: dict[str, Estimate]

    @property
    def label(self) -> str:
        """Name and score kind; metrics of pixels have one kind only."""
        name, score = self.metric.name, self.metric.score
        return name if score == "pixels" else f"{name}:{score}"

    def pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp], Array, NDArray[np.bool_]]:
        """Every pair of photos once: indices, similarity, and whether they show the same identity."""
        one, other = np.triu_indices(len(self.matrix), 1)
        return one, other, self.matrix[one, other], self.identity[one] == self.identity[other]


@dataclass(frozen=True)
class Histogram:
    """Shares of the same and of the different pairs in bins from `low` to `high`, as points of SVG polygons."""

    label: str
    low: float
    high: float
    same: str
    different: str


@dataclass(frozen=True)
class WorstPair:
    """A pair that was scored wrongly: photos, similarity."""

    a: Path
    b: Path
    similarity: float


@dataclass(frozen=True)
class Difference:
    """Points between two metrics and the 95 % interval, as text; sure: whether the interval leaves out 0."""

    gap: str
    interval: str
    sure: bool


def write_report(
    path: Path,
    name: str,
    summary: str,
    scores: Sequence[MetricScores],
    photos: Sequence[Path],
    failures: Mapping[Path, str],
) -> Path:
    """Write the page atomically; photos (n) of the matrices, failures: photo -> why it is not among them."""
    loader = jinja2.PackageLoader("identisim.evaluation")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["picture"] = _picture
    environment.filters["percent"] = _percent
    environment.filters["place"] = lambda photo: "/".join(photo.parts[-2:])
    page = environment.get_template("report.html").render(
        name=name,
        summary=summary,
        scores=scores,
        draws=len(next(iter(scores[0].estimates.values())).samples),
        differences=[_differences(found, scores[0]) for found in scores[1:]],
        histograms=[histogram(found) for found in scores],
        hard_positives=worst_pairs(scores[0], photos, same=True),
        hard_negatives=worst_pairs(scores[0], photos, same=False),
        failures=failures,
    )
    with atomic_file(path) as file:
        file.write(page.encode())
    return path


def histogram(scores: MetricScores) -> Histogram:
    """Bin the similarities of a metric; the drawing is 100 wide and 100 high, the taller kind fills it."""
    _, _, similarities, same = scores.pairs()
    low, high = float(similarities.min()), float(similarities.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    kinds = [np.histogram(similarities[kind], edges)[0] / max(1, kind.sum()) for kind in (same, ~same)]
    tallest = max(float(kind.max()) for kind in kinds) or 1.0
    return Histogram(scores.label, low, high, *(_steps(kind / tallest) for kind in kinds))


def worst_pairs(scores: MetricScores, photos: Sequence[Path], *, same: bool) -> list[WorstPair]:
    """The least alike pairs of one identity, or the most alike ones of two; no photo comes twice."""
    one, other, similarities, kind = scores.pairs()
    wanted = np.flatnonzero(kind == same)
    order = wanted[np.argsort(similarities[wanted] if same else -similarities[wanted], kind="stable")]
    found: list[WorstPair] = []
    used: set[int] = set()
    for pair in order:
        i, j = int(one[pair]), int(other[pair])
        if len(found) == WORST:
            break
        if not used & {i, j}:
            used |= {i, j}
            found.append(WorstPair(photos[i], photos[j], float(similarities[pair])))
    return found


def _differences(found: MetricScores, first: MetricScores) -> tuple[str, list[Difference]]:
    """Label, and the difference to the first metric in each measure."""
    cells = []
    for name, estimate in found.estimates.items():
        reference = first.estimates[name]
        low, high = percentile_interval(estimate.samples - reference.samples)
        gap = f"{100 * (estimate.value - reference.value):+.1f}" if estimate.n else "–"
        interval = f"{100 * low:+.1f} … {100 * high:+.1f}" if estimate.n else ""
        cells.append(Difference(gap, interval, low > 0 or high < 0))
    return found.label, cells


def _steps(heights: Array) -> str:
    points = [(0.0, 100.0)]
    for number, height in enumerate(heights):
        left, right = (100 * (number + side) / len(heights) for side in (0, 1))
        points += [(left, 100 - 100 * float(height)), (right, 100 - 100 * float(height))]
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in [*points, (100.0, 100.0)])


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}" if estimate.n else "–"


def _picture(photo: Path) -> str:
    """A photo, scaled down, as a data URL."""
    data = io.BytesIO()
    fit(load_image(photo), PICTURE, PICTURE).save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
