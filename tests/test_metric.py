"""The contract of every metric, on toy networks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics.metric import SCORES, EmbeddingMetric, PairMetric, fingerprint
from identisim.models.tokens import Tokens
from identisim.similarity import cosine, token_similarity, token_similarity_matrix

RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(0, 256, (20 + i, 31 - i, 3), dtype=np.uint8) for i in range(5)]
PREPROCESSING = Preprocessing(size=16)


class ToyEncoder:
    """Random convolution: 4 × 4 patches of 6 dimensions, a global vector of 5 and a foreground."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.filters = torch.randn(7, 3, 4, 4, generator=generator)
        self.mix = torch.randn(6, 5, generator=generator)
        self.batches: list[int] = []

    def __call__(self, pixels: np.ndarray) -> Tokens:
        self.batches.append(len(pixels))
        maps = torch.nn.functional.conv2d(torch.from_numpy(pixels), self.filters, stride=4)
        patches = maps[:, :6].permute(0, 2, 3, 1)
        return Tokens(patches.mean((1, 2)) @ self.mix, patches, maps[:, 6].sigmoid())


def metric(score: str = "cls") -> EmbeddingMetric:
    return EmbeddingMetric("toy", ToyEncoder(), PREPROCESSING, "toy:0", score)


@pytest.mark.parametrize("score", SCORES)
def test_alone_in_a_batch_and_in_another_order_are_the_same(score: str) -> None:
    toy = metric(score)
    together = toy.similarity(IMAGES[:-1], IMAGES[1:])
    alone = [toy.similarity(a, b)[0] for a, b in pairwise(IMAGES)]
    backwards = toy.similarity(IMAGES[:-1][::-1], IMAGES[1:][::-1])[::-1]
    assert together.dtype == np.float32 and together.tolist() == alone == backwards.tolist()
    matrix = toy.similarity_matrix(IMAGES, IMAGES)
    assert matrix.shape == (5, 5) and np.abs(matrix).max() <= 1
    assert np.diag(matrix, 1) == pytest.approx(together, abs=1e-6)
    assert matrix == pytest.approx(matrix.T, abs=1e-6)


def test_embeddings_have_length_one_and_their_products_are_the_cls_scores() -> None:
    toy = metric()
    embeddings = toy.embed(IMAGES)
    assert embeddings.dtype == np.float32 and embeddings.shape == (5, 5)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-6)
    assert embeddings @ embeddings.T == pytest.approx(toy.similarity_matrix(IMAGES, IMAGES), abs=1e-6)
    assert set(toy.encode.batches) == {1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("score", SCORES)
def test_the_matrix_equals_one_pair_at_a_time(score: str) -> None:
    tokens = metric().tokens(IMAGES)
    matrix = token_similarity_matrix(tokens, tokens[1:3], score)
    for i, j in product(range(5), range(2)):
        expected = token_similarity(tokens[i : i + 1], tokens[1 + j : 2 + j], score)
        assert float(matrix[i, j]) == pytest.approx(float(expected), abs=2e-6)


def test_scores_follow_their_definitions() -> None:
    a, b = metric().tokens(IMAGES[:2])[:1], metric().tokens(IMAGES[:2])[1:]
    cls, patch, joint = (float(token_similarity(a, b, kind)) for kind in ("cls", "patch", "joint"))
    assert cls == pytest.approx(float(cosine(a.cls, b.cls)))
    assert joint == pytest.approx((cls + patch) / 2)
    means = []
    for tokens in (a, b):
        assert tokens.foreground is not None
        unit = tokens.patches / tokens.patches.norm(dim=-1, keepdim=True)
        means.append((unit * tokens.foreground[..., None]).sum((1, 2))[0].numpy())
    expected = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
    assert patch == pytest.approx(float(expected), abs=1e-6)


def test_pair_metrics_compare_pairs() -> None:
    brightness = PairMetric("brightness", lambda a, b: -abs(float(a.mean()) - float(b.mean())), "b:0")
    matrix = brightness.similarity_matrix(IMAGES[:2], IMAGES)
    assert matrix.shape == (2, 5) and matrix[0, 0] == 0
    assert brightness.similarity(IMAGES[0], IMAGES[3])[0] == matrix[0, 3]


def test_misuse_says_what_came_and_what_to_do() -> None:
    with pytest.raises(InputError, match="2 and 1 images came; for all against all use similarity_matrix"):
        metric().similarity(IMAGES[:2], IMAGES[:1])
    with pytest.raises(InputError, match="unknown score kind 'cosine'; choose one of cls, patch, ot"):
        metric("cosine")
    with pytest.raises(InputError, match="no image was given"):
        metric().embed([])
    assert metric().similarity([], []).shape == (0,)


def test_fingerprints_change_with_everything_that_changes_numbers() -> None:
    parts = {"weights": "a", "preprocessing": PREPROCESSING.fingerprint, "version": "1"}
    base = fingerprint("toy", **parts)
    assert base == fingerprint("toy", **parts) and base.startswith("toy:") and len(base) == 20
    others = {
        fingerprint("toy", **{**parts, "weights": "b"}),
        fingerprint("toy", **{**parts, "preprocessing": replace(PREPROCESSING, mode="pad").fingerprint}),
        fingerprint("toy", **{**parts, "version": "2"}),
        fingerprint("another", **parts),
    }
    assert len(others | {base}) == 5
