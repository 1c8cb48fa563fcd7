"""Measures against scikit-learn, slow loops and closed forms."""

from __future__ import annotations

import math
import time
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from identisim.evaluation.measures import (
    all_triplets_accuracy,
    auc_estimate,
    average_precision,
    collection_estimates,
    mean_estimate,
    percentile_interval,
    resample,
    roc_auc,
    top_k_accuracy,
    triplet_accuracy,
)


def scores_and_labels(seed: int, count: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties (some negative), and labels of both kinds."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    labels[:2] = True, False
    return rng.integers(-levels, levels + 1, count) / 4, labels


def collection(
    identities: int = 5, photos: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A symmetric matrix with signal and ties, and the identity and group of each photo."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(identities), photos)
    noise = rng.normal(size=(len(identity),) * 2)
    same = identity[:, None] == identity
    return np.round((noise + noise.T) / 2 + same, 1), identity, identity % 2


@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([1, 3, 1000]))
@settings(deadline=None, max_examples=60)
def test_equal_to_scikit_learn(seed: int, count: int, levels: int) -> None:
    scores, labels = scores_and_labels(seed, count, levels)
    weights = np.random.default_rng(seed).integers(0, 4, count)
    weights[:2] = 1
    assert average_precision(scores, labels) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert roc_auc(scores, labels, weights) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    scores = np.array([-0.1, -0.2, -0.3, -0.4])
    assert average_precision(scores, np.array([True, False, True, False])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25
    assert math.isnan(average_precision(scores, np.zeros(4, bool)))


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_top_k_is_the_mean_over_all_orders_of_ties(seed: int, k: int) -> None:
    scores, relevant = scores_and_labels(seed, 5, 1)
    hits = []
    for order in permutations(range(5)):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            hits.append(relevant[list(order[:k])].any())
    assert top_k_accuracy(scores, relevant, k) == pytest.approx(np.mean(hits), abs=1e-12)


def test_triplets_count_ties_half() -> None:
    positive, negative = np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.5])
    assert triplet_accuracy(positive, negative) == 0.5
    slow = np.mean([(p > n) + 0.5 * (p == n) for p in positive[:2] for n in negative])
    assert all_triplets_accuracy(positive[:2], negative) == pytest.approx(slow)
    assert math.isnan(triplet_accuracy(positive[:0], negative[:0]))
    assert math.isnan(all_triplets_accuracy(positive, negative[:0]))


def test_collection_measures_equal_slow_loops() -> None:
    similarity, identity, group = collection()
    found = collection_estimates(similarity, identity, group, resample(5, 20))
    photos = range(len(identity))
    precisions, hard = [], []
    for anchor in photos:
        others = [i for i in photos if i != anchor]
        relevant = identity[others] == identity[anchor]
        precisions.append(average_precision_score(relevant, similarity[anchor, others]))
        ahead = [
            (similarity[anchor, p] > similarity[anchor, n])
            + 0.5 * (similarity[anchor, p] == similarity[anchor, n])
            for p in others
            for n in others
            if identity[p] == identity[anchor] != identity[n] and group[n] == group[anchor]
        ]
        hard.append(np.mean(ahead))
    assert found["mAP"].value == pytest.approx(np.mean(precisions), abs=1e-12)
    assert found["hard triplets"].value == pytest.approx(np.mean(hard), abs=1e-12)
    pairs = list(combinations(photos, 2))
    same = [identity[i] == identity[j] for i, j in pairs]
    assert found["AUC"].value == pytest.approx(
        roc_auc_score(same, [similarity[i, j] for i, j in pairs]), abs=1e-12
    )
    assert found["AUC"].n == len(pairs)
    assert found["mAP"].n == len(photos)


def test_resampled_auc_is_the_weighted_auc() -> None:
    similarity, identity, _ = collection(identities=6, photos=3)
    draws = resample(6, 30, seed=4)
    found = auc_estimate(similarity, identity, draws)
    one, other = np.triu_indices(len(identity), 1)
    same = identity[one] == identity[other]
    for drawn, sample in zip(draws, found.samples, strict=True):
        left, right = drawn[identity[one]], drawn[identity[other]]
        weights = np.where(same, left, left * right)
        assert sample == pytest.approx(
            roc_auc_score(same, similarity[one, other], sample_weight=weights), abs=1e-12
        )


def test_resampled_mean_is_the_mean_of_repeated_queries() -> None:
    identity = np.array([0, 0, 1, 2, 2, 2])
    values = np.array([0.1, 0.4, np.nan, 0.9, 0.2, 0.5])
    draws = np.array([[1, 1, 1], [2, 1, 0], [0, 3, 0], [0, 0, 3]])
    found = mean_estimate(values, identity, draws)
    assert found.n == 5
    assert found.value == pytest.approx(np.nanmean(values))
    assert found.samples == pytest.approx([np.nanmean(values), 0.25, np.nan, 1.6 / 3], nan_ok=True)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(0), 0
    identity, draws = np.repeat(np.arange(40), 3), resample(40, 400)
    for _ in range(200):
        values = np.repeat(rng.normal(size=40), 3) + rng.normal(size=120)
        low, high = mean_estimate(values, identity, draws).interval
        covered += low < 0 < high
    assert 0.89 <= covered / 200 <= 0.99


def test_draws_are_paired_and_repeatable() -> None:
    assert (resample(7, 50, seed=3) == resample(7, 50, seed=3)).all()
    assert (resample(7, 50, seed=3) != resample(7, 50, seed=4)).any()
    assert (resample(7, 50).sum(1) == 7).all()
    similarity, identity, group = collection()
    draws = resample(5, 200)
    first = collection_estimates(similarity, identity, group, draws)["AUC"]
    again = collection_estimates(np.exp(similarity), identity, group, draws)["AUC"]
    assert percentile_interval(first.samples - again.samples) == (0, 0)


def test_extremes_and_what_cannot_be_measured() -> None:
    _, identity, group = collection()
    same = (identity[:, None] == identity).astype(float)
    draws = resample(5, 50)
    assert {e.value for e in collection_estimates(same, identity, group, draws).values()} == {1.0}
    wrong = collection_estimates(-same, identity, group, draws)
    assert wrong["AUC"].value == wrong["hard triplets"].value == wrong["top-1"].value == 0
    lonely = collection_estimates(same, identity, identity, draws)["hard triplets"]
    assert math.isnan(lonely.value) and lonely.n == 0 and math.isnan(lonely.interval[0])


def test_a_thousand_resamples_of_600_photos_take_seconds() -> None:
    similarity, identity, group = collection(identities=30, photos=20)
    start = time.process_time()
    collection_estimates(similarity, identity, group, resample(30, 1000))
    assert time.process_time() - start < 20
