"""Entropic optimal transport between two sets of unit vectors, batched, in the log domain.

The numbers are those of geomloss 0.3.1 `SamplesLoss("sinkhorn", p=2, diameter=2)`: Feydy, "Geometric data
analysis, beyond convolutions" (2020), Algorithm 3.5 — symmetric Sinkhorn updates while the temperature falls
from diameter² to blur². The diameter is fixed at 2, that of the unit sphere, so that a pair's value never
depends on its batch mates.

Shapes: B pairs, N tokens x against M tokens y, D dimensions. x (B, N, D), y (B, M, D), masses α (B, N) and
β (B, M) with rows that sum to 1, dual potentials f (B, N) and g (B, M), cost (B, N, M) = ½‖x − y‖², which is
1 − cos here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

DIAMETER = 2.0
LOG_OF_ZERO = -1e5
"""Stands for log 0, as in geomloss: finite, so that tokens without mass never make ∞ − ∞."""

COST_BYTES = 2**28
"""Bound on the cost matrices and kernels alive at once; the pairs beyond it wait for their turn."""


class _Solution(NamedTuple):
    """Value (B,) and its gradients with respect to x, y, α, β (the last two are the potentials)."""

    value: Tensor
    x: Tensor | None
    y: Tensor | None
    alpha: Tensor
    beta: Tensor


def epsilon_schedule(blur: float, scaling: float) -> list[float]:
    """Temperatures ε of the Sinkhorn updates: diameter², then times scaling² down to blur² (as geomloss).

    With blur = scaling = 0.05, ID-Sim's settings: [4, 4, 0.01, 0.0025].
    """
    falling = np.exp(2 * np.arange(np.log(DIAMETER), np.log(blur), np.log(scaling)))
    return [DIAMETER**2, *(float(epsilon) for epsilon in falling), blur**2]


def entropic_transport(
    x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor, *, blur: float, scaling: float, debias: bool
) -> Tensor:
    """Transport cost OT_ε(α, β), or with `debias` OT_ε(α, β) − ½ OT_ε(α, α) − ½ OT_ε(β, β): (B,).

    Inputs must be normalised (see the head of this file) and float32 or float64, which is the business of
    `similarity.transport_distance`. Differentiable once with respect to all four tensors, by the envelope
    theorem: the potentials are held fixed, only the last update is differentiated, nothing is stored for the
    others.
    """
    schedule = epsilon_schedule(blur, scaling)
    return _EntropicTransport.apply(x, y, alpha, beta, schedule, debias)  # type: ignore[no-any-return,no-untyped-call]


class _EntropicTransport(torch.autograd.Function):
    """`forward` computes the gradients too: they are a closed form of the cost, which it holds just then."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor, schedule: list[float], debias: bool
    ) -> Tensor:
        with_gradient = any(ctx.needs_input_grad[:2])
        matrix_bytes = max(x.shape[1], y.shape[1]) ** 2 * x.element_size()
        pairs_at_once = max(1, COST_BYTES // (2 * matrix_bytes))
        with torch.autocast(x.device.type, enabled=False):
            solutions = [
                _solve(x[rows], y[rows], alpha[rows], beta[rows], schedule, debias, with_gradient)
                for rows in _chunks(len(x), pairs_at_once)
            ]
        _, *gradients = (_concatenate(parts) for parts in zip(*solutions, strict=True))
        ctx.save_for_backward(*gradients)
        return torch.cat([solution.value for solution in solutions])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # what was saved would pass for a constant: wrong second derivatives
            raise NotImplementedError("the transport distance is differentiable once; got create_graph=True")
        gradients = [
            saved * upstream.view(-1, *[1] * (saved.ndim - 1)) if saved is not None and needed else None
            for saved, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:4], strict=True)
        ]
        return (*gradients, None, None)


def _chunks(total: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, max(1, total), size)]


def _concatenate(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _solve(
    x: Tensor,
    y: Tensor,
    alpha: Tensor,
    beta: Tensor,
    schedule: list[float],
    debias: bool,
    with_gradient: bool,
) -> _Solution:
    """Solve some pairs. The gradient in x_i is α_i (x_i − x̂_i), x̂_i the mean of y under row i of the plan."""
    log_alpha, log_beta = alpha.log().clamp_min(LOG_OF_ZERO), beta.log().clamp_min(LOG_OF_ZERO)
    f, g, x_image, y_image = _cross_potentials(x, y, log_alpha, log_beta, schedule, with_gradient)
    x_origin: Tensor | None = x
    y_origin: Tensor | None = y
    if debias:
        f_self, x_origin = _self_potential(x, log_alpha, schedule, with_gradient)
        g_self, y_origin = _self_potential(y, log_beta, schedule, with_gradient)
        f, g = f - f_self, g - g_self
    value = (alpha * f).sum(1) + (beta * g).sum(1)
    if x_image is None or y_image is None or x_origin is None or y_origin is None:
        return _Solution(value, None, None, f, g)
    x_gradient, y_gradient = alpha[..., None] * (x_origin - x_image), beta[..., None] * (y_origin - y_image)
    return _Solution(value, x_gradient, y_gradient, f, g)


def _cross_potentials(
    x: Tensor, y: Tensor, log_alpha: Tensor, log_beta: Tensor, schedule: list[float], with_images: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Potentials f, g of x against y and, if asked for, the barycentric images of x in y and of y in x."""
    cost = _half_squared_distances(x, y)
    f, _ = _soft_minimum(cost, log_beta, schedule[0], dim=2)
    g, _ = _soft_minimum(cost, log_alpha, schedule[0], dim=1)
    for epsilon in schedule:
        f_next, _ = _soft_minimum(cost, log_beta + g / epsilon, epsilon, dim=2)
        g_next, _ = _soft_minimum(cost, log_alpha + f / epsilon, epsilon, dim=1)
        # the average makes parallel updates converge; they keep the value when x and y change places
        f, g = (f + f_next) / 2, (g + g_next) / 2
    epsilon = schedule[-1]
    f_last, x_image = _soft_minimum(cost, log_beta + g / epsilon, epsilon, 2, y if with_images else None)
    g_last, y_image = _soft_minimum(cost, log_alpha + f / epsilon, epsilon, 1, x if with_images else None)
    return f_last, g_last, x_image, y_image


def _self_potential(
    x: Tensor, log_alpha: Tensor, schedule: list[float], with_image: bool
) -> tuple[Tensor, Tensor | None]:
    """Potential of x against itself (both potentials are the same) and, if asked for, the image of x in x."""
    cost = _half_squared_distances(x, x)
    f, _ = _soft_minimum(cost, log_alpha, schedule[0], dim=2)
    for epsilon in schedule:
        f_next, _ = _soft_minimum(cost, log_alpha + f / epsilon, epsilon, dim=2)
        f = (f + f_next) / 2
    epsilon = schedule[-1]
    return _soft_minimum(cost, log_alpha + f / epsilon, epsilon, 2, x if with_image else None)


def _half_squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """½‖x_i − y_j‖²: (B, N, M). Zero vectors keep length 0, so they lie ½ away from every unit vector."""
    half_x, half_y = x.square().sum(2) / 2, y.square().sum(2) / 2
    return torch.bmm(x, y.mT).neg_().add_(half_x[:, :, None]).add_(half_y[:, None, :])


def _soft_minimum(
    cost: Tensor, log_mass: Tensor, epsilon: float, dim: int, points: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """−ε log Σ exp(log_mass − cost / ε) over `dim` of the cost, and the mean of `points` under that softmax.

    log_mass is (B, M) and points (B, M, D) for dim = 2, (B, N) and (B, N, D) for dim = 1.
    """
    kernel = torch.sub(log_mass.unsqueeze(3 - dim), cost, alpha=1 / epsilon)
    largest = kernel.amax(dim, keepdim=True)
    kernel.sub_(largest).exp_()  # in place: this matrix is the largest thing in memory
    total = kernel.sum(dim, keepdim=True)
    soft_minimum = (total.log() + largest).squeeze(dim).mul_(-epsilon)
    if points is None:
        return soft_minimum, None
    plan = kernel.div_(total)
    return soft_minimum, torch.bmm(plan if dim == 2 else plan.mT, points)
