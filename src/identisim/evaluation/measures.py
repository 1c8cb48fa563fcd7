"""Measures of similarities as pure functions of arrays; nothing here knows a model, a file or a device.

Shapes: n photos, K identities (integers 0 … K − 1), B resamples. Similarities: higher = more alike, finite.
Measures are fractions in [0, 1], higher = better. No measure depends on the order of the input: equal similarities
share their places, as each function says.

Intervals come from resampling identities with replacement, because photos of one identity are alike: how often
each of K identities was drawn is a row of `resample`. Measures that average over queries weigh each query by the
draws of its identity, with the collection searched left as it is. Pairs count c for one identity drawn c times
(copies of an identity are not mixed with one another), c · d for two identities. The same draws for two metrics
give the interval of their difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A measure with what is needed to judge it.

    value: NaN when nothing could be measured. n: queries or pairs that it is of. samples: (B,), its value in each
    resample, NaN where nothing was drawn that it could be measured on.
    """

    value: float
    n: int
    samples: Floats

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % interval."""
        return percentile_interval(self.samples)


def average_precision(scores: Floats, relevant: Booleans) -> float:
    """Average precision of one ranking, over all relevant items, as scikit-learn's: scores (n,), relevant (n,).

    Equal scores enter the ranking together: each relevant one counts the precision behind the last of them. NaN when
    nothing is relevant.
    """
    if not relevant.any():
        return math.nan
    order = np.argsort(-scores)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(relevant[order])[ends]
    return float((np.diff(found, prepend=0) * found / (ends + 1)).sum() / found[-1])


def top_k_accuracy(scores: Floats, relevant: Booleans, k: int = 1) -> float:
    """Whether a relevant item is among the k best: scores (n,), relevant (n,) -> 0, 1, or a chance between.

    Equal scores are in random order, and this is the expectation over it. NaN when nothing is relevant.
    """
    if not relevant.any():
        return math.nan
    kth = np.sort(scores)[-min(k, len(scores))]
    above = scores > kth
    if relevant[above].any():
        return 1.0
    tied = scores == kth
    places = min(k, len(scores)) - int(above.sum())
    misses = math.comb(int((tied & ~relevant).sum()), places)
    return 1 - misses / math.comb(int(tied.sum()), places)


def roc_auc(scores: Floats, labels: Booleans, weights: Floats | Integers | None = None) -> float:
    """Chance that a positive outscores a negative, ties half: scores, labels, weights ≥ 0 all (n,).

    NaN without positives or without negatives.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    _, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, weights * labels)
    negative = np.bincount(place, weights * ~labels)
    ahead = (positive * (np.cumsum(negative) - negative / 2)).sum()
    total = positive.sum() * negative.sum()
    return float(ahead / total) if total else math.nan


def triplet_accuracy(positive: Floats, negative: Floats) -> float:
    """Share of triplets whose positive outscores their negative, ties half: (n,), (n,); NaN for none."""
    if not len(positive):
        return math.nan
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


def all_triplets_accuracy(positive: Floats, negative: Floats) -> float:
    """`triplet_accuracy` of every positive (p,) against every negative (m,) of one anchor; NaN for none."""
    if not (len(positive) and len(negative)):
        return math.nan
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(negative))


def resample(identities: int, resamples: int = 1000, seed: int = 0) -> Integers:
    """How often each identity is drawn when as many are drawn with replacement: (B, K)."""
    chances = np.full(identities, 1 / identities)
    return np.random.default_rng(seed).multinomial(identities, chances, size=resamples)


def percentile_interval(samples: Floats) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of samples (B,), NaN left out; (NaN, NaN) when nothing is left."""
    known = samples[~np.isnan(samples)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def mean_estimate(values: Floats, identity: Integers, draws: Integers) -> Estimate:
    """Mean over queries: values (n,), NaN = not measured, their identity (n,), draws (B, K)."""
    known = ~np.isnan(values)
    count = draws.shape[1]
    totals = np.bincount(identity[known], values[known], minlength=count)
    queries = np.bincount(identity[known], minlength=count)
    drawn = (draws @ queries).astype(np.float64)
    drawn[drawn == 0] = np.nan
    mean = float(values[known].mean()) if known.any() else math.nan
    return Estimate(mean, int(known.sum()), draws @ totals / drawn)


def auc_estimate(similarity: Floats, identity: Integers, draws: Integers) -> Estimate:
    """Area under the ROC curve of all pairs of different photos: (n, n) symmetric, (n,), (B, K).

    The pairs are sorted once; each resample is then one cumulative sum of integer weights.
    """
    one, other = np.triu_indices(len(similarity), 1)
    scores, same = similarity[one, other], identity[one] == identity[other]
    order = np.argsort(scores[~same])
    negatives = scores[~same][order]
    left, right = identity[one][~same][order], identity[other][~same][order]
    owners = identity[one][same]
    first = np.searchsorted(negatives, scores[same], "left")
    last = np.searchsorted(negatives, scores[same], "right")
    samples = np.full(len(draws), math.nan)
    below = np.zeros(len(negatives) + 1, np.int64)
    for number, drawn in enumerate(draws):
        np.cumsum(drawn[left] * drawn[right], out=below[1:])
        weights = drawn[owners]
        total = float(weights.sum()) * float(below[-1])
        if total:
            samples[number] = (weights * (below[first] + below[last]) / 2).sum() / total
    return Estimate(roc_auc(scores, same), len(scores), samples)


def collection_estimates(
    similarity: Floats, identity: Integers, group: Integers, draws: Integers
) -> dict[str, Estimate]:
    """Every measure of a collection in which each photo queries all others.

    similarity (n, n), symmetric; identity (n,); group (n,): of similar identities; draws (B, K). mAP and top-1 are of
    the queries that have another photo of their identity. AUC: `auc_estimate`. triplets: anchor, another photo of its
    identity, any photo of another identity; hard triplets: one of another identity of the same group. Both are means
    over anchors.
    """
    precisions, firsts, triplets, hard = np.full((4, len(similarity)), math.nan)
    for query, row in enumerate(similarity):
        others = np.arange(len(row)) != query
        same = identity == identity[query]
        precisions[query] = average_precision(row[others], same[others])
        firsts[query] = top_k_accuracy(row[others], same[others])
        positive = row[same & others]
        triplets[query] = all_triplets_accuracy(positive, row[~same])
        hard[query] = all_triplets_accuracy(positive, row[~same & (group == group[query])])
    return {
        "mAP": mean_estimate(precisions, identity, draws),
        "top-1": mean_estimate(firsts, identity, draws),
        "AUC": auc_estimate(similarity, identity, draws),
        "triplets": mean_estimate(triplets, identity, draws),
        "hard triplets": mean_estimate(hard, identity, draws),
    }
