"""Training pictures that need no renderer."""

from __future__ import annotations

import numpy as np


def toy_shard(
    families: int = 5, members: int = 3, views: int = 4, size: int = 32, seed: int = 0
) -> np.ndarray:
    """Discs of one colour per object on noise, at random places."""
    rng = np.random.default_rng(seed)
    shard = np.zeros((families, members, views, size, size, 4), np.uint8)
    rows, columns = np.mgrid[:size, :size]
    for index in np.ndindex(families, members, views):
        colour = np.random.default_rng([seed, *index[:2]]).integers(0, 256, 3)
        row, column = rng.uniform(0.35, 0.65, 2) * size
        inside = np.hypot(rows - row, columns - column) < size * rng.uniform(0.2, 0.3)
        shard[index][..., :3] = np.where(inside[..., None], colour, rng.integers(0, 256, (size, size, 3)))
        shard[index][..., 3] = 255 * inside
    return shard
