"""Losses on a batch of images with identity labels; pure tensor functions.

Shapes: B images of one batch, N patches, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def contrastive_loss(similarity: Tensor, identity: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, L_out) of all images of a batch as anchors.

    similarity: (B, B), higher = more alike, its diagonal is ignored; identity: (B,) integers. Every image needs
    another one of its identity in the batch. Returns the mean over anchors, ≥ 0.
    """
    itself = torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    positive = (identity[:, None] == identity) & ~itself
    log_share = (similarity / temperature).masked_fill(itself, -1e9).log_softmax(1)
    return -((log_share * positive).sum(1) / positive.sum(1)).mean()


def sample_patches(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw distinct patches in proportion to their weight: (B, N) ≥ 0 -> (B, count) indices (Gumbel top-k)."""
    uniform = torch.rand(weights.shape, generator=generator).clamp_min(1e-9)
    scores = (weights.detach() + 1e-4).log() - (-uniform.log()).log()
    return scores.topk(count, dim=1).indices


def take_patches(patches: Tensor, indices: Tensor) -> Tensor:
    """Patches (B, N, D) at indices (B, M) -> (B, M, D)."""
    return patches.gather(1, indices[..., None].expand(-1, -1, patches.shape[2]))


def best_match_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Mean over query patches of the best cosine among the key patches, for all pairs of images: (B, B).

    queries (B, M, D) and keys (B, N, D) have unit length; row = image of the queries. In [−1, 1], not symmetric.
    """
    images, count, dim = queries.shape
    cosines = queries.reshape(-1, dim) @ keys.reshape(-1, dim).T
    best = cosines.view(images * count, len(keys), keys.shape[1]).max(2).values
    return best.view(images, count, len(keys)).mean(1)


def pooled_similarity(patches: Tensor, weights: Tensor) -> Tensor:
    """Cosine of the weighted means of unit patches, for all pairs: (B, N, D), (B, N) -> (B, B)."""
    pooled = F.normalize((patches * weights[..., None]).sum(1), dim=1)
    return pooled @ pooled.T


def patch_masks(masks: Tensor, patch_size: int) -> Tensor:
    """Share of object pixels of each patch: (B, H, W) in [0, 1] -> (B, H / patch_size, W / patch_size)."""
    return F.avg_pool2d(masks[:, None], patch_size)[:, 0]


def foreground_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy plus 1 − soft Jaccard index, mean over images.

    logits and truth (B, h, w), truth in [0, 1].
    """
    found = logits.sigmoid()
    common = (found * truth).sum((1, 2))
    union = (found + truth - found * truth).sum((1, 2))
    jaccard = (common + 1) / (union + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - jaccard).mean()
