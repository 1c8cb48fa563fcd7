"""Similarities of feature vectors and of sets of patch tokens: pure functions of tensors.

Shapes: B pairs, N and M tokens, D dimensions, q queries, g gallery vectors. Every function normalises
inside, computes in float32 (float64 for float64 inputs), also under autocast, and refuses NaN and
infinite values with an `InputError`. Zero vectors are like nothing: their cosine is 0 and they get no
gradient. `*_similarity` and cosines: higher = more alike; `*_distance`: lower = more alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from identisim.errors import InputError
from identisim.matching import match, match_matrix
from identisim.transport import entropic_transport

if TYPE_CHECKING:
    from identisim.models.tokens import Tokens

SHORTEST = 1e-12
"""Vectors not longer than this have no direction and count as zero."""

PAIRS_AT_ONCE = 32
"""Pairs of token sets that `token_similarity_matrix` compares together."""

MATCH_SHARE = 3 / 4
"""Share of the matched patches in the score kind `fused`; the rest is the global vector's."""

BLOCK_ELEMENTS = 2**23
"""Bound on every block that `top_k` works on: 64 MiB in float64."""

STEPS_PER_UNIT = 2**24
"""Resolution of `top_k`: float32 values just below 1 are 2⁻²⁴ apart."""

INDEX_MASK = 2**32 - 1


def unit(x: Tensor, name: str = "x") -> Tensor:
    """Scale vectors to length 1: (..., D) -> (..., D), at least float32; zero vectors stay zero.

    name: what to call x in the error for values that are not finite, or too large to be squared.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / _divisors(x, name)


def _divisors(x: Tensor, name: str) -> Tensor:
    """Lengths of vectors, ∞ for those of no direction: (..., D) -> (..., 1)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    finite = length.isfinite()
    if not bool(finite.all()):
        first = (~finite[..., 0]).nonzero()[0].tolist()
        raise InputError(
            f"{name} {tuple(x.shape)} holds NaN, infinite or overflowing values in {int((~finite).sum())} "
            f"vectors (the first at index {first}); expected finite numbers: check the images and the weights"
        )
    return torch.where(length > SHORTEST, length, torch.inf)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of pairs: (B, D), (B, D) -> (B,), in [−1, 1] up to rounding; 0 for zero vectors."""
    _require_shapes(a.ndim == 2 and a.shape == b.shape, "a (B, D) and b (B, D)", a, b)
    return (unit(a, "a") * unit(b, "b")).sum(-1)


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of all against all: (q, D), (g, D) -> (q, g), in [−1, 1] up to rounding."""
    _require_shapes(a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[1], "a (q, D) and b (g, D)", a, b)
    with torch.autocast(a.device.type, enabled=False):
        return unit(a, "a") @ unit(b, "b").T


def patch_cosine(
    a: Tensor, b: Tensor, weights_a: Tensor | None = None, weights_b: Tensor | None = None
) -> Tensor:
    """Cosine of the weighted means of L2-normalised tokens: (B, N, D), (B, M, D) -> (B,), in [−1, 1].

    weights_a (B, N), weights_b (B, M): as in `transport_distance`. With uniform weights this is the patch
    score of the ID-Sim release ("pooled_cosine"). 0 where a mean is zero; up to rounding within the
    range.
    """
    _require_token_sets(a, b)
    return cosine(_weighted_mean(a, weights_a, "a"), _weighted_mean(b, weights_b, "b"))


def _weighted_mean(tokens: Tensor, weights: Tensor | None, name: str) -> Tensor:
    """Mean of L2-normalised tokens: (B, N, D) -> (B, D)."""
    return (_masses(weights, tokens, f"weights_{name}")[..., None] * unit(tokens, name)).sum(1)


def patch_match(
    a: Tensor, b: Tensor, weights_a: Tensor | None = None, weights_b: Tensor | None = None
) -> Tensor:
    """Mean over tokens of the cosine to the most alike token of the other image: (B, N, D), (B, M, D) -> (B,).

    Both directions count half; within one, tokens count by their weights (see `transport_distance`); those of less
    than a tenth of the greatest weight are left out. In [−1, 1] up to rounding, symmetric, 1 for equal sets of equal
    weights. Unlike in transport, many tokens may choose one partner.
    """
    _require_token_sets(a, b)
    x, y = unit(a, "a"), unit(b, "b")
    return match(x, y, _masses(weights_a, x, "weights_a"), _masses(weights_b, y, "weights_b"))


def transport_distance(
    a: Tensor,
    b: Tensor,
    blur: float = 0.05,
    scaling: float = 0.05,
    debias: bool = False,
    *,
    weights_a: Tensor | None = None,
    weights_b: Tensor | None = None,
) -> Tensor:
    """Entropic optimal-transport distance of token sets: (B, N, D), (B, M, D) -> (B,); lower = more alike.

    The ground cost of L2-normalised tokens is ½‖x − y‖² = 1 − cos; ε = blur²; `scaling` in (0, 1) is the
    ratio of the annealing, not a regularisation. Equal to geomloss `SamplesLoss("sinkhorn", p=2,
    diameter=2)` with the same blur, scaling and debias; the defaults are ID-Sim's (suppl. C.3, as
    released). Without `debias` the distance of a set to itself is not 0 but up to ε log N (0.0167 for 784
    tokens); with it, it is 0. At most 2; the default annealing stops before convergence, which can leave
    a distance slightly below 0 (−0.001 in the worst case found).

    weights_a (B, N), weights_b (B, M): how much each token counts, ≥ 0, any scale; all equal when None,
    and in a row of zeros (an empty mask). Differentiable once with respect to tokens and weights; memory
    for the costs stays bounded for any B. Raises `InputError` for other shapes, for values that are not
    finite, and for settings out of range.
    """
    _require_token_sets(a, b)
    if not (0 < blur < float("inf") and 0 < scaling < 1):
        raise InputError(f"expected blur > 0 and scaling between 0 and 1; got blur={blur}, scaling={scaling}")
    x, y = unit(a, "a"), unit(b, "b")
    alpha, beta = _masses(weights_a, x, "weights_a"), _masses(weights_b, y, "weights_b")
    return entropic_transport(x, y, alpha, beta, blur=blur, scaling=scaling, debias=debias)


def token_similarity(a: Tokens, b: Tokens, score: str) -> Tensor:
    """Compare image i of a with image i of b: (B,), in [−1, 1], higher = more alike.

    score: cls = `cosine` of the global vectors; patch = `patch_cosine`; ot = 1 − `transport_distance` with the
    settings of ID-Sim; joint = (cls + patch) / 2, which is 1 − half the joint distance of the ID-Sim release;
    match = `patch_match`; fused = ¼ cls + ¾ match. All but cls weight the patches by `foreground` where the
    network has one; an empty foreground counts as a full one. An image against itself scores 1, except ot, which
    is not debiased: from 1 − 0.0025 log N (0.983 for 784 patches that all differ) to 1 (patches all equal). Other
    kinds are an `InputError`.
    """
    if score == "cls":
        return cosine(a.cls, b.cls).clamp(-1, 1)
    if score == "joint":
        return (token_similarity(a, b, "cls") + token_similarity(a, b, "patch")) / 2
    if score == "fused":
        return _fused(token_similarity(a, b, "cls"), token_similarity(a, b, "match"))
    (patches_a, weights_a), (patches_b, weights_b) = _token_set(a), _token_set(b)
    if score == "match":
        return patch_match(patches_a, patches_b, weights_a, weights_b).clamp(-1, 1)
    if score == "patch":
        return patch_cosine(patches_a, patches_b, weights_a, weights_b).clamp(-1, 1)
    if score == "ot":
        distance = transport_distance(patches_a, patches_b, weights_a=weights_a, weights_b=weights_b)
        return (1 - distance).clamp(-1, 1)
    raise InputError(f"unknown score kind {score!r}; choose one of cls, patch, ot, joint, match, fused")


def token_similarity_matrix(a: Tokens, b: Tokens, score: str) -> Tensor:
    """Compare every image of a with every image of b: (q, g); scores as in `token_similarity`.

    cls, patch and joint are one matrix product; match and ot compare pair by pair, in blocks.
    """
    if score == "cls":
        return cosine_matrix(a.cls, b.cls).clamp(-1, 1)
    if score == "patch":
        means = (_weighted_mean(*_token_set(tokens), name) for tokens, name in ((a, "a"), (b, "b")))
        return cosine_matrix(*means).clamp(-1, 1)
    if score == "joint":
        return (token_similarity_matrix(a, b, "cls") + token_similarity_matrix(a, b, "patch")) / 2
    if score == "fused":
        return _fused(token_similarity_matrix(a, b, "cls"), token_similarity_matrix(a, b, "match"))
    if score == "match":
        # normalised once, not again for every pair
        x, alpha = _unit_tokens(a, "a")
        y, beta = (x, alpha) if a is b else _unit_tokens(b, "b")
        _require_token_sets(x[:1], y[:1])
        return match_matrix(x, y, alpha, beta).clamp(-1, 1)
    matrix = a.cls.new_empty(len(a), len(b))
    for i in range(len(a)):
        for start in range(0, len(b), PAIRS_AT_ONCE):
            part = b[start : start + PAIRS_AT_ONCE]
            matrix[i, start : start + len(part)] = token_similarity(
                a[torch.full((len(part),), i)], part, score
            )
    return matrix


def _fused(cls: Tensor, match: Tensor) -> Tensor:
    return (1 - MATCH_SHARE) * cls + MATCH_SHARE * match


def _token_set(tokens: Tokens) -> tuple[Tensor, Tensor | None]:
    """Patches (B, N, D) and how much each counts (B, N)."""
    weights = None if tokens.foreground is None else tokens.foreground.flatten(1)
    return tokens.patches.flatten(1, 2), weights


def _unit_tokens(tokens: Tokens, name: str) -> tuple[Tensor, Tensor]:
    patches, weights = _token_set(tokens)
    units = unit(patches, name)
    return units, _masses(weights, units, name)


def top_k(
    queries: Tensor | np.ndarray, gallery: Tensor | np.ndarray, k: int, *, block: int = 65536
) -> tuple[Tensor, Tensor]:
    """Find the k gallery vectors with the highest cosine for each query, best first, exactly.

    queries (q, D) and gallery (g, D), tensors or arrays, also memory-mapped -> values (q, k), float32
    cosines rounded to 2⁻²⁴, and indices (q, k), int64, on the device of the queries; no gradients. Equal
    cosines come in the order of their indices. They are computed in float64 before they are rounded, so that
    neither `block` (most gallery rows at once; fewer when D is large) nor a vector's place decides a tie.
    Memory: a few blocks, never q × g. Raises `InputError` for k outside 1..g, other shapes, and vectors that
    are not finite.
    """
    _require_shapes(
        queries.ndim == 2 and gallery.ndim == 2 and queries.shape[1] == gallery.shape[1],
        "queries (q, D) and gallery (g, D)",
        queries,
        gallery,
    )
    if not 1 <= k <= len(gallery) or block < 1:
        raise InputError(
            f"expected 1 <= k <= {len(gallery)} (the size of the gallery) and block >= 1; "
            f"got k={k}, block={block}"
        )
    dimensions = max(1, queries.shape[1])
    gallery_rows = max(1, min(block, BLOCK_ELEMENTS // dimensions))
    query_rows = max(1, BLOCK_ELEMENTS // max(gallery_rows, dimensions))
    found = [_tensor(queries[:0]).new_empty(0, k, dtype=torch.int64)]  # for a search without queries
    for start in range(0, len(queries), query_rows):
        part = unit(_tensor(queries[start : start + query_rows]).double(), f"queries[{start}:]")
        found.append(_best_keys(part, gallery, k, gallery_rows))
    keys = torch.cat(found)
    values = (keys >> 32).to(torch.float32) / STEPS_PER_UNIT
    return values, INDEX_MASK - (keys & INDEX_MASK)


def _best_keys(queries: Tensor, gallery: Tensor | np.ndarray, k: int, rows: int) -> Tensor:
    """The k largest keys, descending: (q, k) int64. A key is a rounded cosine above 32 bits of mask − index.

    Keys are all different and order by cosine, then by smaller index, which makes `topk` deterministic.
    """
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(gallery), rows):
        part = _tensor(gallery[start : start + rows]).to(queries.device)
        indices = torch.arange(start, start + len(part), device=queries.device)
        if queries.device.type == "cpu":  # elsewhere float64 is not what takes the time
            near = _near_best(queries, part, k, best, f"gallery[{start}:]")
            part, indices = part[near], indices[near]
        steps = (queries @ unit(part.double(), f"gallery[{start}:]").T).mul_(STEPS_PER_UNIT).round_()
        keys = torch.cat([best, (steps.to(torch.int64) << 32) + (INDEX_MASK - indices)], dim=1)
        best = keys.topk(min(k, keys.shape[1])).values
    return best


def _near_best(queries: Tensor, part: Tensor, k: int, best: Tensor, name: str) -> Tensor:
    """Rows of a block that any query may have among its k best, found in float32: sorted indices."""
    part = part.float()
    lengths = _divisors(part, name).T
    # numpy, because torch may have been told to multiply in TF32 or bfloat16
    rough = torch.from_numpy(queries.float().numpy() @ part.numpy().T).div_(lengths)
    floor = torch.full((len(queries), 1), -torch.inf)
    if len(part) >= k:
        floor = rough.topk(k).values[:, -1:]
    if best.shape[1] == k:
        floor = torch.maximum(floor, (best[:, -1:] >> 32).float() / STEPS_PER_UNIT)
    # a float32 cosine is at most (2D + 6) roundings of 2⁻²⁴ off, and two of them are compared
    margin = (part.shape[1] + 3) * 2.0**-22
    return (rough >= floor - margin).any(0).nonzero()[:, 0]


def _tensor(x: Tensor | np.ndarray) -> Tensor:
    # a copy, because a block of a read-only memory map cannot become a tensor
    return x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))


def _masses(weights: Tensor | None, tokens: Tensor, name: str) -> Tensor:
    """Weights as non-negative rows with sum 1: (B, N); uniform when there are none, and in rows of zeros."""
    pairs, count = tokens.shape[:2]
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    uniform = torch.full((pairs, count), 1 / count, dtype=dtype, device=tokens.device)
    if weights is None:
        return uniform
    if weights.shape != (pairs, count):
        raise InputError(
            f"{name} must be (B, tokens) = {(pairs, count)}, one per token; got {tuple(weights.shape)}"
        )
    weights = weights.to(dtype)
    total = weights.sum(1, keepdim=True)
    if bool((weights < 0).any()) or not bool(total.isfinite().all()):
        raise InputError(
            f"{name} must be finite and >= 0; got values from {weights.min():.3g} to {weights.max():.3g}"
        )
    return torch.where(total > 0, weights / total.where(total > 0, 1), uniform)


def _require_token_sets(a: Tensor, b: Tensor) -> None:
    fits = a.ndim == 3 and b.ndim == 3 and len(a) == len(b) and a.shape[2] == b.shape[2]
    _require_shapes(fits, "a (B, N, D) and b (B, M, D)", a, b)
    if not (a.shape[1] and b.shape[1]):
        raise InputError(f"expected at least one token on each side; got {a.shape[1]} and {b.shape[1]}")


def _require_shapes(fits: bool, pattern: str, a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> None:
    if not fits:
        raise InputError(f"expected {pattern}; got {tuple(a.shape)} and {tuple(b.shape)}")
