"""Matching token sets by best partners (a chamfer similarity): the computation behind `similarity.patch_match`.

Shapes: B pairs, N and M tokens of unit length, D dimensions, q queries, g gallery images; masses are rows of sum 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SHARE = 0.1
"""Tokens with less than this share of the greatest mass of their image are left out: they are background."""

PAIRS_AT_ONCE = 8
"""Pairs of token sets that `match_matrix` compares together: few, because the largest object sets the size."""


def match(x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Mean of both directions' mean best cosine: (B, N, D), (B, M, D), (B, N), (B, M) -> (B,)."""
    return _compare(*_object_tokens(x, alpha), *_object_tokens(y, beta))


def match_matrix(x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`match` of all with all: (q, N, D), (g, M, D), (q, N), (g, M) -> (q, g).

    When x is y, half of the pairs are computed, because the score is symmetric.
    """
    itself = x is y and alpha is beta
    x, alpha = _object_tokens(x, alpha)
    y, beta = (x, alpha) if itself else _object_tokens(y, beta)
    sizes_x, sizes_y = ((masses > 0).sum(1).tolist() for masses in (alpha, beta))
    matrix = x.new_empty(len(x), len(y))
    for i, rows in enumerate(sizes_x):
        for start in range(i if itself else 0, len(y), PAIRS_AT_ONCE):
            part = slice(start, min(start + PAIRS_AT_ONCE, len(y)))
            columns = max(sizes_y[part])
            matrix[i, part] = _compare(x[i, :rows], alpha[i, :rows], y[part, :columns], beta[part, :columns])
        if itself:
            matrix[i:, i] = matrix[i, i:].clone()
    return matrix


def _object_tokens(x: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of the object and their shares of its mass, in falling order, as many as the largest object has.

    Where an image has fewer, its strongest token fills up with mass 0, which changes no maximum and no mean.
    """
    kept = masses >= LEAST_SHARE * masses.amax(1, keepdim=True)
    count = int(kept.sum(1).max())
    shares, order = (masses * kept).topk(count, dim=1)
    order = torch.where(shares > 0, order, order[:, :1])
    tokens = x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
    return tokens, shares / shares.sum(1, keepdim=True)


def _compare(x: Tensor, alpha: Tensor, y: Tensor, beta: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        cosines = x @ y.transpose(-2, -1)
    return ((cosines.amax(-1) * alpha).sum(-1) + (cosines.amax(-2) * beta).sum(-1)) / 2
