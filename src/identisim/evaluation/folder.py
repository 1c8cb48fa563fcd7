"""One's own photos as a benchmark: ROOT[/GROUP]/IDENTITY/PHOTO, every photo queries all others.

The identity of a photo is the folder that it lies in; its group, whose identities are the hard negatives of one
another, is the folder above, at any depth. Identities directly under ROOT form one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from identisim.bulk import exclusive
from identisim.errors import InputError
from identisim.evaluation.measures import Estimate, collection_estimates, percentile_interval, resample
from identisim.evaluation.prediction import Prediction, predict
from identisim.evaluation.report import MetricScores, write_report
from identisim.evaluation.results import Result, write_results
from identisim.images import list_images
from identisim.metrics.metric import Metric
from identisim.metrics.registry import build, find_card, isolates
from identisim.records import file_sha256

CACHE = "cache"
"""Folder of the similarity matrices inside OUT, which also tells OUT from other folders."""


@dataclass(frozen=True)
class Collection:
    """Photos (n) in the order of their paths; identity and group are integers (n,)."""

    root: Path
    photos: tuple[Path, ...]
    identity: NDArray[np.intp]
    group: NDArray[np.intp]

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return f"folder {self.root.resolve().name}"

    @property
    def summary(self) -> str:
        """Counts, for people."""
        counts = (
            (len(self.photos), "photo"),
            (len(set(self.identity)), "identity"),
            (len(set(self.group)), "group"),
        )
        plurals = {"photo": "photos", "identity": "identities", "group": "groups"}
        return ", ".join(f"{count} {word if count == 1 else plurals[word]}" for count, word in counts)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_folder` found. failures: photo -> why it could not be read; no measure knows these photos."""

    collection: Collection
    results: list[Result]
    failures: dict[Path, str]
    report: Path


def read_collection(root: Path, per_identity: int | None = None) -> Collection:
    """List the photos of a folder; per_identity: only the first of each identity, by name.

    Raises InputError for a folder that is missing or without photos, for photos that lie directly in it, and when
    there are not two identities, one of them with two photos.
    """
    photos = list_images(root)
    stray = [path.name for path in photos if path.parent == root]
    if stray:
        raise InputError(
            f"{root}: {len(stray)} photos lie directly in it, such as {stray[0]}; "
            "expected a folder for each identity: ROOT[/GROUP]/IDENTITY/PHOTO"
        )
    by_identity: dict[Path, list[Path]] = {}
    for path in photos:
        by_identity.setdefault(path.parent, []).append(path)
    taken = {folder: sorted(found)[:per_identity] for folder, found in sorted(by_identity.items())}
    if len(taken) < 2 or max(map(len, taken.values())) < 2:
        raise InputError(
            f"{root}: {len(taken)} identities with at most {max(map(len, taken.values()))} photos each were taken; "
            "expected at least two identities, one of them with two photos"
        )
    groups = sorted({folder.parent for folder in taken})
    sizes = [len(found) for found in taken.values()]
    return Collection(
        root=root,
        photos=tuple(path for found in taken.values() for path in found),
        identity=np.repeat(np.arange(len(taken)), sizes),
        group=np.repeat([groups.index(folder.parent) for folder in taken], sizes),
    )


def evaluate_folder(
    root: str | Path,
    metrics: Sequence[str | Metric],
    out: str | Path,
    *,
    score: str | None = None,
    per_identity: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    progress: bool = True,
    foreground: str | None = None,
) -> Evaluation:
    """Measure metrics on a collection, each with 95 % intervals over identities, and write a report.

    metrics: NAME, NAME:SCORE, or metrics already built (their names tell them apart). score: for the names that have
    this kind and give none. foreground: where the names with +crop, +ffa and ffa-* take masks from. Writes
    results.jsonl, results.csv, results.md and report.html into `out`, and keeps the similarity matrices there, so that
    another run computes only what is new. Photos that any metric cannot read are left out for all. Raises InputError
    for what cannot be used: see `read_collection`.
    """
    out = Path(out)
    collection = read_collection(Path(root), per_identity)
    built = build_metrics(metrics, score, foreground)
    with exclusive(out, CACHE):
        (out / CACHE).mkdir(exist_ok=True)
        hashes, unreadable = _content_hashes(collection.photos)
        present = [index for index in range(len(collection.photos)) if index not in unreadable]
        if not present:
            raise InputError(f"{root}: no photo can be read; the first: {next(iter(unreadable.values()))}")
        predictions = list(
            predict(
                built,
                [collection.photos[index] for index in present],
                [hashes[index] for index in present],
                out / CACHE,
                progress=progress,
            )
        )
        failures = unreadable | {present[i]: why for p in predictions for i, why in p.failures.items()}
        kept = np.array(
            [place for place, index in enumerate(present) if index not in failures], dtype=np.intp
        )
        rest = _subset(collection, np.array(present)[kept])
        scores = _measure(built, predictions, kept, rest, resample(_identities(rest), resamples, seed))
        results = _results(scores, collection.name, seed, missing=len(failures))
        write_results(out, results)
        named = {collection.photos[index]: why for index, why in sorted(failures.items())}
        report = write_report(
            out / "report.html", collection.name, collection.summary, scores, rest.photos, named
        )
    return Evaluation(collection, results, named, report)


def build_metrics(
    metrics: Sequence[str | Metric], score: str | None = None, foreground: str | None = None
) -> list[Metric]:
    """Build what was asked for; see `evaluate_folder`. InputError for none, one that comes twice, an unknown kind."""
    known = [
        name
        for name in metrics
        if isinstance(name, str) and ":" not in name and score in find_card(name).scores
    ]
    if score is not None and not known:
        raise InputError(
            f"no metric takes the score kind {score!r}; `identisim metrics` lists the kinds of each"
        )
    built = [
        build(
            metric.partition(":")[0],
            score=metric.partition(":")[2] or (score if metric in known else None),
            foreground=foreground if isolates(metric.partition(":")[0]) else None,
        )
        if isinstance(metric, str)
        else metric
        for metric in metrics
    ]
    labels = [f"{metric.name}:{metric.score}" for metric in built]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if not built or twice:
        fault = f"{', '.join(twice)} came twice" if twice else "no metric came"
        raise InputError(f"{fault}; expected at least one metric, each score of it once")
    return built


def _content_hashes(photos: Sequence[Path]) -> tuple[dict[int, str], dict[int, str]]:
    hashes, failures = {}, {}
    for index, path in enumerate(photos):
        try:
            hashes[index] = file_sha256(path)
        except OSError as error:
            failures[index] = f"{path}: cannot be opened ({error.strerror or error})"
    return hashes, failures


def _subset(collection: Collection, indices: NDArray[np.intp]) -> Collection:
    """The photos at these places; identities and groups are counted anew, without gaps."""
    return replace(
        collection,
        photos=tuple(collection.photos[index] for index in indices),
        identity=np.unique(collection.identity[indices], return_inverse=True)[1],
        group=np.unique(collection.group[indices], return_inverse=True)[1],
    )


def _identities(collection: Collection) -> int:
    return int(collection.identity.max()) + 1


def _measure(
    metrics: Sequence[Metric],
    predictions: Sequence[Prediction],
    kept: NDArray[np.intp],
    collection: Collection,
    draws: NDArray[np.integer],
) -> list[MetricScores]:
    scores = []
    for metric, prediction in zip(metrics, predictions, strict=True):
        matrix = prediction.matrix[np.ix_(kept, kept)]
        estimates = collection_estimates(matrix, collection.identity, collection.group, draws)
        scores.append(MetricScores(metric, matrix, collection.identity, estimates))
    return scores


def _results(scores: Sequence[MetricScores], benchmark: str, seed: int, missing: int) -> list[Result]:
    """Rows of every measure, and of its difference to the first metric on the same resamples."""
    rows = []
    for number, found in enumerate(scores):
        for name, estimate in found.estimates.items():
            values = [(name, estimate.value, estimate.interval)]
            if number:
                first = scores[0]
                label = f"{name} minus {first.metric.name}:{first.metric.score}"
                values.append((label, *_difference(estimate, first.estimates[name])))
            rows += [
                Result(
                    benchmark=benchmark,
                    metric=found.metric.name,
                    score=found.metric.score,
                    measure=measure,
                    value=value,
                    low=low,
                    high=high,
                    n=estimate.n,
                    seed=seed,
                    fingerprint=found.metric.fingerprint,
                    missing=missing,
                )
                for measure, value, (low, high) in values
            ]
    return rows


def _difference(estimate: Estimate, reference: Estimate) -> tuple[float, tuple[float, float]]:
    return estimate.value - reference.value, percentile_interval(estimate.samples - reference.samples)
