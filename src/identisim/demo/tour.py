"""The first minute with identisim: a small collection, a same and a different pair, a search, one page to look at.

`python -m identisim.demo.tour OUT` draws everything it shows; nothing is downloaded.
"""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from identisim import build_gallery, compare, load_metric
from identisim.dense import explain_pair
from identisim.gallery import Hit
from identisim.metrics.metric import EmbeddingMetric, Metric
from identisim.records import View, read_views, write_views
from identisim.sheets import retrieval_sheet
from identisim.world.sample import write_world

METRICS = ("compact", "ssim", "colour-histogram")
OTHERS = 5
"""Other objects that each object is told from."""
_TRY = (
    "{program} compare PHOTO_A PHOTO_B --explain why.png",
    "{program} embed FOLDER --out my-gallery",
    "{program} search PHOTO --gallery my-gallery --sheet hits.png",
)


@dataclass(frozen=True)
class Pair:
    """Two pictures, what is true of them, and every metric's similarity."""

    title: str
    a: Path
    b: Path
    similarities: dict[str, float]
    explanation: Path | None = None


@dataclass(frozen=True)
class Accuracy:
    """How often a metric finds the other view of an object more alike than another thing; ties count half.

    others: against views of `OTHERS` other objects; near: against one view of the near-identity.
    """

    metric: str
    others: float
    near: float
    objects: int


def make_tour(out: Path, *, identities: int = 30, size: int = 192) -> Path:
    """Render, compare, embed and search; returns the path of one self-contained `report.html`."""
    out.mkdir(parents=True, exist_ok=True)
    with _step("drawing a small collection"):
        world = write_world(out / "world", identities=identities, views=4, near=1, seed=7, size=size)
        views = read_views(world)
    metrics = {name: load_metric(name) for name in METRICS}
    with _step("comparing a same pair and two different pairs"):
        pairs = _pairs(out, views, metrics)
    with _step("asking every metric about hard triplets"):
        accuracies = [_accuracy(metric, world.parent, views) for metric in metrics.values()]
    with _step("embedding and searching"):
        query, hits, sheet = _search(out, world.parent, views, metrics["compact"])
    report = out / "report.html"
    report.write_text(
        _page(pairs, accuracies, query, hits, sheet, metrics["compact"].fingerprint), encoding="utf-8"
    )
    return report


@contextmanager
def _step(what: str) -> Iterator[None]:
    start = time.perf_counter()
    print(f"• {what} …", flush=True)
    yield
    print(f"  {time.perf_counter() - start:.1f} s", flush=True)


def _by_identity(views: list[View]) -> dict[str, list[View]]:
    groups: dict[str, list[View]] = {}
    for view in views:
        groups.setdefault(view.identity, []).append(view)
    return groups


def _pairs(out: Path, views: list[View], metrics: dict[str, Metric]) -> list[Pair]:
    groups = _by_identity(views)
    first, other = [name for name in groups if "-near" not in name][:2]
    root = out / "world"
    a, b, near, stranger = (
        root / view.path
        for view in (groups[first][0], groups[first][1], groups[f"{first}-near1"][0], groups[other][1])
    )
    found = []
    for number, (title, second) in enumerate(
        [("the same object", b), ("its near-identity: one thing differs", near), ("another object", stranger)]
    ):
        similarities = {name: compare(a, second, metric).similarity for name, metric in metrics.items()}
        explanation = explain_pair(a, second, metrics["compact"], out / f"explanation-{number}.png")
        found.append(Pair(title, a, second, similarities, explanation))
    return found


def _accuracy(metric: Metric, root: Path, views: list[View]) -> Accuracy:
    """Triplet accuracy over all identities: anchor = view 0, positive = view 1."""
    groups = _by_identity(views)
    names = [name for name in groups if "-near" not in name]
    anchors = [root / groups[name][0].path for name in names]
    seconds = [root / groups[name][1].path for name in names]
    near = [root / groups[f"{name}-near1"][0].path for name in names]
    # one matrix, because every picture is encoded once for it
    matrix = metric.similarity_matrix(anchors, [*seconds, *near])
    count = len(names)
    index = np.arange(count)
    positive = matrix[index, index]
    steps = range(1, min(OTHERS, count - 1) + 1)
    negatives = [matrix[index, count + index], *(matrix[index, (index + step) % count] for step in steps)]
    ahead = [float((positive > other).mean() + 0.5 * (positive == other).mean()) for other in negatives]
    return Accuracy(metric.name, sum(ahead[1:]) / len(steps), ahead[0], count)


def _search(out: Path, root: Path, views: list[View], metric: Metric) -> tuple[Path, list[Hit], Path]:
    if not isinstance(metric, EmbeddingMetric):
        raise TypeError(f"{metric.name} has no embedding to search by")
    groups = _by_identity(views)
    # the query's own picture stays out of the gallery
    source = write_views(root / "gallery.parquet", [view for group in groups.values() for view in group[1:]])
    gallery = build_gallery(source, out / "gallery", metric)
    name = [name for name in groups if "-near" not in name][2]
    query = root / groups[name][0].path
    hits = gallery.search(query, metric, 10)
    return query, hits, retrieval_sheet(query, hits, out / "search.png", identity=name)


def _page(
    pairs: list[Pair], accuracies: list[Accuracy], query: Path, hits: list[Hit], sheet: Path, fingerprint: str
) -> str:
    loader = jinja2.PackageLoader("identisim.demo")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["picture"] = _picture
    return environment.get_template("tour.html").render(
        pairs=pairs, accuracies=accuracies, metrics=METRICS, query=query, hits=hits, sheet=sheet,
        fingerprint=fingerprint, commands=[line.format(program="identisim") for line in _TRY],
    )  # fmt: skip


def _picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def main() -> None:
    """Make the tour in the folder named on the command line and say where to look."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")
    report = make_tour(out)
    program = Path(sys.executable).with_name("identisim")
    print(f"\nLook at {report.resolve()}\n\nTry your own photos:")
    for line in _TRY:
        print("  " + line.format(program=program))


if __name__ == "__main__":
    main()
