"""Cosines, pooled patches, the scores of two images, and exact search."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from identisim import similarity
from identisim.errors import InputError
from identisim.models.tokens import Tokens
from identisim.similarity import (
    cosine,
    cosine_matrix,
    patch_cosine,
    patch_match,
    token_similarity,
    token_similarity_matrix,
    top_k,
    transport_distance,
    unit,
)
from largest_tensor import LargestTensor


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_unit_has_length_one_and_keeps_zero_vectors() -> None:
    x = vectors(5, 3, 7) * 1e4
    x[2, 1] = 0
    lengths = unit(x).norm(dim=-1)
    assert lengths[2, 1] == 0
    lengths[2, 1] = 1
    torch.testing.assert_close(lengths, torch.ones(5, 3))
    torch.testing.assert_close(unit(x)[0], torch.nn.functional.normalize(x[0], dim=-1))


def test_unit_gives_zero_vectors_no_gradient() -> None:
    x = torch.tensor([[0.0, 0], [1e-30, 0], [3, 4]], requires_grad=True)
    unit(x).sum().backward()
    assert x.grad is not None
    # at (3, 4) the gradient of Σ x/‖x‖ is (1, 1) without its radial part, over the length 5
    torch.testing.assert_close(x.grad, torch.tensor([[0, 0], [0, 0], [0.032, -0.024]]))


def test_half_precision_is_computed_in_float32() -> None:
    x = vectors(4, 64)
    for dtype in (torch.float16, torch.bfloat16):
        assert unit(x.to(dtype)).dtype == torch.float32
    huge = torch.full((1, 64), 60000.0, dtype=torch.float16)  # its squares overflow float16
    torch.testing.assert_close(unit(huge), torch.full((1, 64), 1 / 8))
    assert unit(x.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cosine_matrix(x, x), patch_match(x[:2, None], x[2:, None])
    torch.testing.assert_close(inside[0], cosine_matrix(x, x), rtol=0, atol=0)
    torch.testing.assert_close(inside[1], patch_match(x[:2, None], x[2:, None]), rtol=0, atol=0)


def test_cosine_of_known_angles() -> None:
    a = torch.tensor([[1.0, 0], [1, 0], [1, 0], [2, 2], [0, 0], [0, 0]])
    b = torch.tensor([[5.0, 0], [0, 3], [-1, 0], [0, 9], [1, 2], [0, 0]])
    expected = torch.tensor([1, 0, -1, 0.5**0.5, 0, 0])
    torch.testing.assert_close(cosine(a, b), expected)
    torch.testing.assert_close(cosine_matrix(a, b).diagonal(), expected)


def test_cosine_matrix_is_cosine_of_all_pairs() -> None:
    a, b = vectors(4, 6, seed=1), vectors(3, 6, seed=2)
    expected = torch.stack([cosine(a, row.expand_as(a)) for row in b], dim=1)
    torch.testing.assert_close(cosine_matrix(a, b), expected)


def test_patch_cosine_against_a_loop() -> None:
    a, b = vectors(3, 5, 4, seed=3).double(), vectors(3, 6, 4, seed=4).double()
    weights_a, weights_b = torch.rand(3, 5), torch.rand(3, 6)
    weights_b[1] = 0  # an empty mask counts as a full one
    value = patch_cosine(a, b, weights_a, weights_b)
    for i in range(3):
        means = []
        for tokens, weights in ((a[i], weights_a[i]), (b[i], weights_b[i])):
            weights = weights if weights.sum() > 0 else torch.ones_like(weights)
            means.append(sum(w * t / t.norm() for w, t in zip(weights, tokens, strict=True)) / weights.sum())
        expected = means[0] @ means[1] / (means[0].norm() * means[1].norm())
        assert value[i].item() == pytest.approx(expected.item(), rel=1e-6)


def test_patch_cosine_of_tokens_that_cancel_is_zero() -> None:
    a = torch.tensor([[[1.0, 0], [-1, 0]]])
    assert patch_cosine(a, vectors(1, 3, 2)).item() == 0


@pytest.mark.parametrize("function", [cosine, cosine_matrix])
def test_cosines_refuse_what_they_cannot_compare(function: Any) -> None:
    with pytest.raises(InputError, match=r"expected a .* got \(2, 3\) and \(2, 4\)"):
        function(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(InputError, match=r"b \(2, 3\) holds NaN.* in 1 vectors"):
        function(torch.ones(2, 3), torch.tensor([[1.0, 2, 3], [float("nan"), 1, 1]]))


def images(count: int, seed: int, foreground: bool = False) -> Tokens:
    mask = (vectors(count, 3, 4, seed=seed + 9) > 0).float() if foreground else None
    return Tokens(vectors(count, 8, seed=seed), vectors(count, 3, 4, 6, seed=seed + 1), mask)


def test_scores_are_what_they_say() -> None:
    a, b = images(3, 0, foreground=True), images(3, 20)
    assert a.foreground is not None
    patches_a, patches_b, weights = a.patches.reshape(3, 12, 6), b.patches.reshape(3, 12, 6), a.foreground
    cls, patch = cosine(a.cls, b.cls), patch_cosine(patches_a, patches_b, weights.reshape(3, 12))
    torch.testing.assert_close(token_similarity(a, b, "cls"), cls)
    torch.testing.assert_close(token_similarity(a, b, "patch"), patch)
    authors_joint_distance = (1 - cls) + (1 - patch)
    torch.testing.assert_close(token_similarity(a, b, "joint"), 1 - authors_joint_distance / 2)
    distance = transport_distance(patches_a, patches_b, 0.05, 0.05, False, weights_a=weights.reshape(3, 12))
    torch.testing.assert_close(token_similarity(a, b, "ot"), 1 - distance)


def slow_match(a: torch.Tensor, b: Tensor, weights_a: Tensor, weights_b: Tensor) -> float:
    """Best partners, token by token."""
    directions = []
    for x, y, weights, others in ((a, b, weights_a, weights_b), (b, a, weights_b, weights_a)):
        kept = [(t, float(w)) for t, w in zip(x, weights, strict=True) if w >= 0.1 * max(weights)]
        partners = [t for t, w in zip(y, others, strict=True) if w >= 0.1 * max(others)]
        best = [(max(float(t @ p / t.norm() / p.norm()) for p in partners), w) for t, w in kept]
        directions.append(sum(c * w for c, w in best) / sum(w for _, w in best))
    return sum(directions) / 2


def test_match_is_the_mean_best_partner() -> None:
    a, b = vectors(3, 7, 5, seed=1), vectors(3, 4, 5, seed=2)
    weights_a, weights_b = vectors(3, 7, seed=3).abs(), vectors(3, 4, seed=4).abs()
    expected = [slow_match(*(part[i] for part in (a, b, weights_a, weights_b))) for i in range(3)]
    torch.testing.assert_close(patch_match(a, b, weights_a, weights_b), torch.tensor(expected))
    torch.testing.assert_close(patch_match(b, a, weights_b, weights_a), torch.tensor(expected))
    uniform = patch_match(a, b)
    torch.testing.assert_close(uniform, patch_match(a, b, torch.ones(3, 7), 2 * torch.ones(3, 4)))


def test_fused_is_a_quarter_global_and_three_matched() -> None:
    a, b = images(3, 0, foreground=True), images(3, 20)
    cls, matched = (token_similarity(a, b, kind) for kind in ("cls", "match"))
    torch.testing.assert_close(token_similarity(a, b, "fused"), (cls + 3 * matched) / 4)


@pytest.mark.parametrize("score", ["cls", "patch", "ot", "joint", "match", "fused"])
def test_matrix_is_that_of_the_pairs(score: str) -> None:
    a, b = images(5, 0, foreground=True), images(4, 20, foreground=True)
    rows = [token_similarity(a[torch.full((4,), i)], b, score) for i in range(5)]
    torch.testing.assert_close(token_similarity_matrix(a, b, score), torch.stack(rows))
    own = [token_similarity(a[torch.full((5,), i)], a, score) for i in range(5)]
    torch.testing.assert_close(token_similarity_matrix(a, a, score), torch.stack(own))


@pytest.mark.parametrize("score", ["cls", "patch", "ot", "joint", "match", "fused"])
def test_background_and_batch_mates_do_not_matter(score: str) -> None:
    a, b = images(4, 0, foreground=True), images(4, 20, foreground=True)
    assert a.foreground is not None
    elsewhere = a.patches + 5 * (1 - a.foreground)[..., None] * vectors(6)
    other = Tokens(a.cls, elsewhere, a.foreground)
    whole = token_similarity(a, b, score)
    torch.testing.assert_close(token_similarity(other, b, score), whole)
    alone = torch.cat([token_similarity(a[i : i + 1], b[i : i + 1], score) for i in range(4)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("score", ["cls", "patch", "ot", "joint", "match", "fused"])
def test_range_and_self_similarity(score: str) -> None:
    a = images(5, 3)
    opposite = Tokens(-a.cls, -a.patches[:, :1, :1].expand_as(a.patches))
    for b in (a, opposite, images(5, 40)):
        values = token_similarity(a, b, score)
        assert torch.all(values <= 1) and torch.all(values >= -1)
    own = token_similarity(a, a, score)
    least = 1 - 0.0025 * float(np.log(12)) if score == "ot" else 1
    assert torch.all(own >= least - 1e-6)


def test_unknown_score_is_refused() -> None:
    with pytest.raises(
        InputError, match="unknown score kind 'pooled'; choose one of cls, patch, ot, joint, match, fused"
    ):
        token_similarity(images(1, 0), images(1, 1), "pooled")


def exact_order(query: list[int], gallery: list[list[int]]) -> list[int]:
    """Indices by falling cosine, smaller index first, in whole numbers: sign(q·g) (q·g)² / ‖g‖²."""

    def key(index: int) -> tuple[Fraction, int]:
        dot = sum(x * y for x, y in zip(query, gallery[index], strict=True))
        square = sum(y * y for y in gallery[index])
        return (Fraction(-abs(dot) * dot, square) if square else Fraction(0), index)

    return sorted(range(len(gallery)), key=key)


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], int]:
    dimensions = draw(st.integers(1, 4))
    vector = st.lists(st.integers(-2, 2), min_size=dimensions, max_size=dimensions)
    queries = draw(st.lists(vector, min_size=1, max_size=4))
    gallery = draw(st.lists(vector, min_size=1, max_size=14))  # few values: many exact ties
    return queries, gallery, draw(st.integers(1, len(gallery)))


@settings(deadline=None, max_examples=60)
@given(search=searches(), block=st.sampled_from([1, 2, 3, 5, 65536]), elements=st.sampled_from([1, 7, 2**23]))
def test_top_k_is_the_full_sort(
    search: tuple[list[list[int]], list[list[int]], int], block: int, elements: int
) -> None:
    queries, gallery, k = search
    expected = [exact_order(query, gallery)[:k] for query in queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "BLOCK_ELEMENTS", elements)
        values, indices = top_k(torch.tensor(queries), torch.tensor(gallery), k, block=block)
    assert indices.tolist() == expected
    every = cosine_matrix(torch.tensor(queries).double(), torch.tensor(gallery).double())
    torch.testing.assert_close(values.double(), every.gather(1, indices), rtol=0, atol=2**-24)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6), block=st.sampled_from([16, 100, 999, 65536]), k=st.sampled_from([1, 10, 300])
)
def test_top_k_of_many_near_ties_does_not_depend_on_the_block(seed: int, block: int, k: int) -> None:
    centre = vectors(64, seed=seed)
    gallery = centre + 1e-6 * vectors(300, 64, seed=seed + 1)  # closer than float32 tells apart
    gallery = torch.cat([gallery, gallery.flip(0), gallery[:50] * 3])
    queries = torch.stack([centre, gallery[7], vectors(64, seed=seed + 2)])
    values, indices = top_k(queries, gallery, k, block=block)
    scores = unit(queries.double()) @ unit(gallery.double()).T
    order = np.lexsort((np.arange(650)[None].repeat(3, 0), -(scores * 2**24).round().numpy()))[:, :k]
    np.testing.assert_array_equal(indices.numpy(), order)
    np.testing.assert_allclose(values.numpy(), scores.gather(1, indices).numpy(), rtol=0, atol=2**-24)


def test_top_k_ranks_duplicates_by_index() -> None:
    gallery = vectors(1, 16).repeat(1000, 1)
    values, indices = top_k(gallery[:3], gallery, 5, block=64)
    assert indices.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert values.tolist() == [[1.0] * 5] * 3


def test_top_k_reads_memory_maps_and_other_types(tmp_path: Path) -> None:
    gallery = vectors(200, 8, seed=5)
    np.save(tmp_path / "gallery.npy", gallery.numpy())
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    expected = top_k(gallery[:4], gallery, 7)
    for queries, kind in ((mapped[:4], mapped), (gallery[:4].requires_grad_(), mapped)):
        values, indices = top_k(queries, kind, 7, block=13)
        torch.testing.assert_close((values, indices), expected, rtol=0, atol=0)
        assert not values.requires_grad
    half = top_k(gallery[:4].half(), gallery.half(), 7)
    torch.testing.assert_close(half, top_k(gallery[:4].half().double(), gallery.half().double(), 7))


def test_top_k_never_holds_queries_times_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = vectors(300, 4, seed=6).numpy(), vectors(2000, 4, seed=7).numpy()
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 4096)
    with LargestTensor() as largest:
        top_k(queries, gallery, 3)
    assert largest.elements <= 2 * 4096 < 300 * 2000


def test_top_k_of_no_queries() -> None:
    values, indices = top_k(torch.zeros(0, 4), vectors(5, 4), 2)
    assert values.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("k", [0, 6])
def test_top_k_refuses_k_outside_the_gallery(k: int) -> None:
    with pytest.raises(InputError, match=f"expected 1 <= k <= 5 .* got k={k}"):
        top_k(vectors(2, 4), vectors(5, 4), k)


def test_top_k_names_vectors_that_are_not_finite_and_wrong_shapes() -> None:
    gallery = vectors(50, 4)
    gallery[33, 1] = float("nan")
    with pytest.raises(InputError, match=r"gallery\[30:\] \(10, 4\) holds NaN.* first at index \[3\]"):
        top_k(vectors(2, 4), gallery, 1, block=10)
    with pytest.raises(InputError, match=r"queries\[0:\] \(50, 4\) holds NaN"):
        top_k(gallery, vectors(2, 4), 1)
    with pytest.raises(InputError, match=r"expected queries \(q, D\) and gallery \(g, D\)"):
        top_k(vectors(2, 4), vectors(5, 3), 1)
