"""Retrieval quality of metrics on a collection of real photos: GROUP/IDENTITY/*.jpg.

`python bench/compact_quality.py FOLDER --metric compact --metric ssim [--weights FILE] [--score cls --score patch]`
Every photo queries all others (the first `--per-identity` photos of each identity, sorted by name). Columns in %:
mAP over all relevant photos, top-1, area under the ROC curve of all pairs, and accuracy on hard triplets: a pair of one
identity against every photo of another identity of the same group, ties half. Photo bursts flatter top-1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from identisim.images import Preprocessing, load_image
from identisim.metrics.metric import EmbeddingMetric, Metric
from identisim.metrics.registry import build
from identisim.similarity import token_similarity_matrix


@dataclass(frozen=True)
class Photos:
    """Decoded photos (n) with their group and identity, as integers (n,)."""

    images: list[np.ndarray]
    group: np.ndarray
    identity: np.ndarray


def read_photos(folder: Path, per_identity: int, side: int = 320) -> Photos:
    """Read GROUP/IDENTITY/*.jpg, scaled down to `side` at most so that all stay in memory."""
    images, groups, identities = [], [], []
    for number, identity in enumerate(sorted(p for p in folder.glob("*/*") if p.is_dir())):
        for path in sorted(identity.glob("*.jpg"))[:per_identity]:
            image = load_image(path)
            step = max(1, min(image.shape[:2]) // side)
            images.append(image if step == 1 else _reduced(image, step))
            groups.append(identity.parent.name)
            identities.append(number)
    return Photos(images, np.unique(groups, return_inverse=True)[1], np.array(identities))


def _reduced(image: np.ndarray, step: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(step))


def quality(similarity: np.ndarray, photos: Photos) -> dict[str, float]:
    """Figures of a (n, n) similarity matrix, in %."""
    same = photos.identity[:, None] == photos.identity
    other = ~np.eye(len(same), dtype=bool)
    precisions, first = [], []
    for i, row in enumerate(similarity):
        hits = same[i][other[i]][np.argsort(-row[other[i]], kind="stable")]
        precisions.append((np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).mean())
        first.append(hits[0])
    above = np.triu(other, 1)
    figures = {"mAP": np.mean(precisions), "top-1": np.mean(first)}
    figures["AUC"] = area_under_roc(similarity[above], same[above])
    figures["hard"] = hard_triplets(similarity, photos)
    return {name: 100 * float(value) for name, value in figures.items()}


def area_under_roc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a positive outscores a negative, ties half (Mann–Whitney)."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = labels.sum()
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * (~labels).sum()))


def hard_triplets(similarity: np.ndarray, photos: Photos) -> float:
    """Share of (anchor, positive, negative of the same group) with the positive ahead, ties half; mean over anchors."""
    shares = []
    for i, row in enumerate(similarity):
        positive = (photos.identity == photos.identity[i]) & (np.arange(len(row)) != i)
        negative = (photos.group == photos.group[i]) & (photos.identity != photos.identity[i])
        if positive.any() and negative.any():
            gap = row[positive][:, None] - row[negative]
            shares.append(((gap > 0) + 0.5 * (gap == 0)).mean())
    return float(np.mean(shares))


def score_matrices(metric: Metric, images: list[np.ndarray], kinds: list[str]) -> dict[str, np.ndarray]:
    """Similarity matrix (n, n) for each score kind of a metric; images are encoded once."""
    if not isinstance(metric, EmbeddingMetric):
        return {metric.score: metric.similarity_matrix(images, images)}
    tokens = metric.tokens(images)
    return {kind: token_similarity_matrix(tokens, tokens, kind).numpy() for kind in kinds}


def subset(photos: Photos, per_identity: int) -> Photos:
    """The first photos of each identity only."""
    place = np.array([np.sum(photos.identity[:i] == photos.identity[i]) for i in range(len(photos.identity))])
    kept = np.flatnonzero(place < per_identity)
    return Photos([photos.images[i] for i in kept], photos.group[kept], photos.identity[kept])


def chosen_metrics(options: argparse.Namespace) -> list[tuple[str, Metric]]:
    metrics = [(name, build(name)) for name in options.metric]
    for path in options.weights:
        from identisim.metrics.compact import build_compact

        metric = build_compact(path)
        for size in options.size or [metric.preprocessing.size]:
            resized = replace(metric, preprocessing=Preprocessing(size=size, mode="square"))
            metrics.append((f"{path.parent.name}/{path.name} at {size}", resized))
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric", action="append", default=[])
    parser.add_argument(
        "--weights", action="append", default=[], type=Path, help="weights of a trial of compact"
    )
    parser.add_argument("--size", action="append", type=int, help="input size of --weights")
    parser.add_argument("--score", action="append", choices=["cls", "patch", "ot", "joint"])
    parser.add_argument("--per-identity", type=int, default=20)
    parser.add_argument(
        "--ot-per-identity", type=int, default=4, help="photos per identity for the slow score kind"
    )
    options = parser.parse_args()
    photos = read_photos(options.folder, options.per_identity)
    print(
        f"{len(photos.images)} photos, {len(set(photos.identity))} identities, {len(set(photos.group))} groups"
    )
    for name, metric in chosen_metrics(options):
        for kind in options.score or ["cls", "patch", "joint"]:
            chosen = subset(photos, options.ot_per_identity) if kind == "ot" else photos
            start = time.perf_counter()
            for label, matrix in score_matrices(metric, chosen.images, [kind]).items():
                row = "  ".join(f"{key} {value:5.1f}" for key, value in quality(matrix, chosen).items())
                print(
                    f"{name:40s} {label:6s} {row}  ({len(chosen.images)} photos, {time.perf_counter() - start:.0f} s)"
                )
            if not isinstance(metric, EmbeddingMetric):
                break


if __name__ == "__main__":
    main()
