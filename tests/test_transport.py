"""Optimal transport against geomloss, POT, an exact assignment, closed forms and its own symmetries."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import geomloss
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from identisim import transport
from identisim.errors import InputError
from identisim.similarity import transport_distance
from largest_tensor import LargestTensor


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def masks(*shape: int, seed: int = 0) -> Tensor:
    weights = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights[:, 0] = 0
    return weights


def geomloss_distance(a: Tensor, b: Tensor, weights: tuple[Tensor, Tensor] | None, **how: Any) -> Tensor:
    loss = geomloss.SamplesLoss("sinkhorn", p=2, diameter=2.0, **how)
    x, y = normalize(a, dim=-1), normalize(b, dim=-1)
    if weights is None:
        return loss(x, y)
    alpha, beta = (weight / weight.sum(1, keepdim=True) for weight in weights)
    return loss(alpha, x, beta, y)


GRID = list(itertools.product([0.01, 0.05, 0.1, 0.5], [0.05, 0.5, 0.9], [False, True], [False, True]))


@pytest.mark.parametrize(("blur", "scaling", "debias", "weighted"), GRID)
def test_value_and_gradients_are_those_of_geomloss(
    blur: float, scaling: float, debias: bool, weighted: bool
) -> None:
    leaves = [tokens(3, 7, 5, seed=1, dtype=torch.float64), tokens(3, 10, 5, seed=2, dtype=torch.float64)]
    leaves += [masks(3, 7), masks(3, 10)] if weighted else []
    ours = [leaf.clone().requires_grad_() for leaf in leaves]
    theirs = [leaf.clone().requires_grad_() for leaf in leaves]
    weights = {"weights_a": ours[2], "weights_b": ours[3]} if weighted else {}

    value = transport_distance(ours[0], ours[1], blur, scaling, debias, **weights)
    expected = geomloss_distance(
        theirs[0],
        theirs[1],
        (theirs[2], theirs[3]) if weighted else None,
        blur=blur,
        scaling=scaling,
        debias=debias,
    )
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)

    # squares, so that the gradient that comes from above differs from pair to pair
    gradients = torch.autograd.grad(value.square().sum(), ours)
    expected_gradients = torch.autograd.grad(expected.square().sum(), theirs)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("blur", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("debias", [False, True])
def test_float32_is_within_one_in_ten_thousand_of_geomloss(blur: float, debias: bool) -> None:
    a, b = tokens(2, 64, 16, seed=3), tokens(2, 50, 16, seed=4)
    expected = geomloss_distance(a, b, None, blur=blur, scaling=0.05, debias=debias)
    torch.testing.assert_close(transport_distance(a, b, blur, 0.05, debias), expected, rtol=1e-4, atol=0)


def run_to_convergence(monkeypatch: pytest.MonkeyPatch, updates: int = 400) -> None:
    """Stay at the last temperature; annealing alone always lags a little behind it."""
    monkeypatch.setattr(transport, "epsilon_schedule", lambda blur, scaling: [blur**2] * updates)


def test_gradient_is_that_of_the_value_at_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    run_to_convergence(monkeypatch, updates=60)
    leaves = [tokens(1, 2, 3, seed=5, dtype=torch.float64), tokens(1, 3, 3, seed=6, dtype=torch.float64)]
    leaves += [masks(1, 2, seed=7) + 0.1, masks(1, 3, seed=8) + 0.1]
    for debias in (False, True):

        def distance(
            a: Tensor, b: Tensor, weights_a: Tensor, weights_b: Tensor, debias: bool = debias
        ) -> Tensor:
            return transport_distance(a, b, 0.5, debias=debias, weights_a=weights_a, weights_b=weights_b)

        inputs = tuple(leaf.clone().requires_grad_() for leaf in leaves)
        assert torch.autograd.gradcheck(distance, inputs, eps=1e-5, atol=1e-6, rtol=1e-4)


def test_value_is_the_kl_regularised_objective_of_pot(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, when it is compiled
        import ot  # seconds

    run_to_convergence(monkeypatch)
    a, b = tokens(1, 6, 4, seed=9, dtype=torch.float64), tokens(1, 8, 4, seed=10, dtype=torch.float64)
    alpha, beta = (weight / weight.sum() for weight in (masks(1, 6) + 0.1, masks(1, 8) + 0.1))
    cost = 1 - normalize(a[0], dim=-1) @ normalize(b[0], dim=-1).T
    blur = 0.3
    value = transport_distance(a, b, blur, weights_a=alpha, weights_b=beta).item()

    arguments = (alpha[0].numpy(), beta[0].numpy(), cost.numpy(), blur**2)
    plan = torch.from_numpy(ot.sinkhorn(*arguments, method="sinkhorn_log", numItermax=5000, stopThr=1e-14))
    linear = (plan * cost).sum()
    divergence = (plan * (plan / (alpha[0][:, None] * beta[0])).log()).sum()
    assert value == pytest.approx((linear + blur**2 * divergence).item(), rel=1e-9)

    # POT's entropic objective takes Σ P log P for the divergence: the entropies of the marginals apart
    entropies = -(alpha * alpha.log()).sum() - (beta * beta.log()).sum()
    entropic = linear + blur**2 * (plan * plan.log()).sum()
    assert value == pytest.approx((entropic + blur**2 * entropies).item(), rel=1e-9)


def test_small_blur_approaches_the_exact_assignment() -> None:
    count, blur = 12, 0.03
    a, b = tokens(1, count, 6, seed=11), tokens(1, count, 6, seed=12)
    cost = (1 - normalize(a[0], dim=-1) @ normalize(b[0], dim=-1).T).numpy()
    exact = cost[linear_sum_assignment(cost)].mean()
    value = transport_distance(a, b, blur, 0.97).item()
    assert exact - 1e-5 <= value <= exact + blur**2 * math.log(count) + 1e-5


def test_schedule_of_the_paper() -> None:
    assert transport.epsilon_schedule(0.05, 0.05) == pytest.approx([4, 4, 0.01, 0.0025])
    assert transport.epsilon_schedule(3.0, 0.5) == [4.0, 9.0]


def test_one_token_and_equal_tokens_give_one_minus_cosine() -> None:
    a, b = tokens(4, 1, 6, seed=13), tokens(4, 1, 6, seed=14)
    expected = 1 - torch.cosine_similarity(a[:, 0], b[:, 0])
    torch.testing.assert_close(transport_distance(a, b), expected)
    torch.testing.assert_close(transport_distance(a.expand(4, 5, 6), b.expand(4, 3, 6)), expected)


def test_identical_sets() -> None:
    a = tokens(2, 100, 32, seed=15)
    own = transport_distance(a, a)
    assert torch.all(own <= 0.0025 * math.log(100) + 1e-6)
    torch.testing.assert_close(own, torch.full((2,), 0.0025 * math.log(100)), rtol=0.01, atol=0)
    torch.testing.assert_close(transport_distance(a, a, debias=True), torch.zeros(2), rtol=0, atol=1e-6)
    same = torch.ones(1, 9, 4)
    torch.testing.assert_close(transport_distance(same, same), torch.zeros(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("kind", ["identical", "one token", "all equal", "zero vectors", "one zero vector"])
def test_degenerate_sets_have_finite_values_and_gradients(kind: str, debias: bool) -> None:
    a = tokens(2, 1 if kind == "one token" else 4, 3, seed=16)
    if kind == "all equal":
        a = torch.ones(2, 4, 3)
    if kind == "zero vectors":
        a = torch.zeros(2, 4, 3)
    if kind == "one zero vector":
        a[0, 1] = 0
    a, b = a.clone().requires_grad_(), a.clone().requires_grad_()
    value = transport_distance(a, b, debias=debias)
    gradients = torch.autograd.grad(value.sum(), (a, b))
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() and gradient.abs().max() < 10 for gradient in gradients)


def test_zero_vectors_get_no_gradient_and_lie_half_away_from_unit_vectors() -> None:
    a, b = torch.zeros(1, 3, 4, requires_grad=True), tokens(1, 3, 4)
    value = transport_distance(a, b)
    assert value.item() == pytest.approx(0.5)
    assert torch.autograd.grad(value.sum(), a)[0].abs().max() == 0


def test_tokens_of_weight_zero_do_not_count() -> None:
    a, b = tokens(2, 6, 4, seed=17).requires_grad_(), tokens(2, 5, 4, seed=18)
    kept = torch.tensor([1.0, 0, 1, 1, 0, 1]).expand(2, 6)
    for debias in (False, True):
        value = transport_distance(a, b, debias=debias, weights_a=kept)
        expected = transport_distance(a[:, kept[0] > 0], b, debias=debias)
        torch.testing.assert_close(value, expected)
        gradient = torch.autograd.grad(value.sum(), a)[0]
        assert gradient.isfinite().all()
        assert gradient[:, kept[0] == 0].abs().max() == 0


def test_empty_mask_counts_as_full_and_scale_of_weights_is_free() -> None:
    a, b = tokens(3, 6, 4, seed=19), tokens(3, 5, 4, seed=20)
    uniform = transport_distance(a, b)
    torch.testing.assert_close(transport_distance(a, b, weights_a=torch.zeros(3, 6)), uniform)
    torch.testing.assert_close(transport_distance(a, b, weights_b=torch.full((3, 5), 7.0)), uniform)
    mixed = torch.ones(3, 6)
    mixed[1] = 0
    torch.testing.assert_close(transport_distance(a, b, weights_a=mixed.bool()), uniform)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    pairs=st.integers(1, 5),
    count_a=st.integers(1, 9),
    count_b=st.integers(1, 9),
    debias=st.booleans(),
    weighted=st.booleans(),
)
def test_a_pair_has_one_value_alone_in_a_batch_in_reverse_and_swapped(
    seed: int, pairs: int, count_a: int, count_b: int, debias: bool, weighted: bool
) -> None:
    a, b = tokens(pairs, count_a, 4, seed=seed), tokens(pairs, count_b, 4, seed=seed + 1)
    weights_a = masks(pairs, count_a, seed=seed) if weighted else torch.ones(pairs, count_a)
    weights_b = masks(pairs, count_b, seed=seed) if weighted else torch.ones(pairs, count_b)
    how: dict[str, Any] = {"debias": debias}
    batch = transport_distance(a, b, **how, weights_a=weights_a, weights_b=weights_b)
    alone = [
        transport_distance(a[[i]], b[[i]], **how, weights_a=weights_a[[i]], weights_b=weights_b[[i]])
        for i in range(pairs)
    ]
    backwards = transport_distance(
        a.flip(0), b.flip(0), **how, weights_a=weights_a.flip(0), weights_b=weights_b.flip(0)
    )
    swapped = transport_distance(b, a, **how, weights_a=weights_b, weights_b=weights_a)
    for other in (torch.cat(alone), backwards.flip(0), swapped):
        torch.testing.assert_close(other, batch, rtol=0, atol=1e-6)
    assert torch.all(batch > -0.002) and torch.all(batch <= 2 + 1e-5)


@pytest.mark.parametrize("debias", [False, True])
def test_memory_is_bounded_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, debias: bool) -> None:
    a, b = tokens(7, 20, 2, seed=21).requires_grad_(), tokens(7, 16, 2, seed=22).requires_grad_()
    whole = transport_distance(a, b, debias=debias)
    whole_gradients = torch.autograd.grad(whole.square().sum(), (a, b))
    monkeypatch.setattr(transport, "COST_BYTES", 3 * 2 * 4 * 20 * 20)
    with LargestTensor() as largest:
        chunked = transport_distance(a, b, debias=debias)
        chunked_gradients = torch.autograd.grad(chunked.square().sum(), (a, b))
    assert largest.elements <= 3 * 20 * 20 < 7 * 20 * 16
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(chunked_gradients, whole_gradients, rtol=1e-5, atol=1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    a, b = tokens(2, 8, 4, seed=23), tokens(2, 8, 4, seed=24)
    for dtype in (torch.bfloat16, torch.float16):
        rough_a, rough_b = a.to(dtype).requires_grad_(), b.to(dtype)
        value = transport_distance(rough_a, rough_b)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, transport_distance(rough_a.float(), rough_b.float()))
        assert torch.autograd.grad(value.sum(), rough_a)[0].dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = transport_distance(a, b)
    torch.testing.assert_close(inside, transport_distance(a, b), rtol=0, atol=0)


def test_second_derivatives_are_refused() -> None:
    a = tokens(1, 3, 4).requires_grad_()
    value = transport_distance(a, tokens(1, 3, 4, seed=1))
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(value.sum(), a, create_graph=True)


def test_no_pairs_give_no_values() -> None:
    assert transport_distance(torch.zeros(0, 3, 4), torch.zeros(0, 2, 4)).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    a, b = tokens(2, 3, 4), tokens(2, 3, 4)
    b[1, 2, 0] = value
    with pytest.raises(InputError, match=r"b \(2, 3, 4\) holds NaN.* first at index \[1, 2\]"):
        transport_distance(a, b)


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [((3, 4), (3, 4)), ((1, 3, 4), (2, 3, 4)), ((1, 3, 4), (1, 3, 5)), ((1, 0, 4), (1, 3, 4))],
)
def test_wrong_shapes_are_refused(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected (a \(B, N, D\)|at least one token).* got"):
        transport_distance(torch.ones(shape_a), torch.ones(shape_b))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, 4), r"weights_a must be \(B, tokens\) = \(2, 3\).* got \(2, 4\)"),
        (torch.tensor([[1.0, -1, 1]] * 2), "weights_a must be finite and >= 0; got values from -1"),
        (torch.tensor([[1.0, float("nan"), 1]] * 2), "weights_a must be finite"),
        (torch.tensor([[1.0, float("inf"), 1]] * 2), "weights_a must be finite"),
    ],
)
def test_wrong_weights_are_refused(weights: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        transport_distance(tokens(2, 3, 4), tokens(2, 3, 4), weights_a=weights)


@pytest.mark.parametrize(("blur", "scaling"), [(0, 0.5), (-1, 0.5), (math.nan, 0.5), (0.1, 1), (0.1, 0)])
def test_settings_out_of_range_are_refused(blur: float, scaling: float) -> None:
    with pytest.raises(InputError, match="expected blur > 0 and scaling between 0 and 1"):
        transport_distance(tokens(1, 3, 4), tokens(1, 3, 4), blur, scaling)
