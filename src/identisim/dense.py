"""Which parts of two pictures match: patch heat maps and matched patches, drawn as one picture.

The idea of the heat maps is Fig. 17 of ID-Sim's supplementary. What is drawn explains the patch features; the
similarity in the title is whatever score the metric was asked for.
Shapes: (h, w) and (H, W) the patch grids of image A and B, N = h·w and M = H·W patches, D feature dimensions.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from identisim.drawing import png_target, save
from identisim.errors import InputError
from identisim.explanation import Side, draw_explanation
from identisim.images import ImageLike, load_image
from identisim.metrics.metric import EmbeddingMetric, Metric
from identisim.models.tokens import Tokens
from identisim.similarity import cosine_matrix

Array = np.ndarray
OBJECT = 0.3
"""A patch belongs to the object from this share of the largest foreground on; weighting alone would draw each
neighbour towards the middle of a soft mask."""
SPREAD = 0.8
"""Least distance of two kept matches, as a share of the one at which k of them would tile the object."""


@dataclass(frozen=True)
class Matches:
    """How the patches of image A meet those of image B.

    heat_a: (h, w) and heat_b: (H, W) float32 in [0, 1]: for each patch its foreground times the best
    foreground-weighted cosine in the other image. patches_a, patches_b: (n, 2) integers, row and column of
    the n matched patches, strongest first. strengths: (n,) float32 in (0, 1]: cosine times the foreground of
    both.
    """

    heat_a: Array
    heat_b: Array
    patches_a: Array
    patches_b: Array
    strengths: Array


def match_patches(tokens_a: Tokens, tokens_b: Tokens, k: int = 12) -> Matches:
    """Match the patches of two images: `Tokens` of one image each -> at most k mutual nearest neighbours.

    The foreground of each image is scaled so that its largest value is 1 (all ones when it is unknown or
    empty); cosines below 0 count as 0. Neighbours are sought by cosine among the patches of the object (see
    `OBJECT`); of those that lie close together in either image only the strongest stays. Raises InputError
    for k < 1, more than one image, or features of two different networks.
    """
    _require_comparable(tokens_a, tokens_b, k)
    cosines = cosine_matrix(tokens_a.patches[0].flatten(0, 1), tokens_b.patches[0].flatten(0, 1))
    positive = cosines.clamp(0, 1).numpy()
    weights_a, weights_b = _relative_foreground(tokens_a), _relative_foreground(tokens_b)
    strengths = positive * weights_a.reshape(-1, 1) * weights_b.reshape(1, -1)
    object_a, object_b = weights_a >= OBJECT, weights_b >= OBJECT
    rows, columns = _mutual_neighbours(positive * object_a.reshape(-1, 1) * object_b.reshape(1, -1))
    order = np.argsort(-strengths[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    at_a = np.stack(np.unravel_index(rows, weights_a.shape), axis=-1)
    at_b = np.stack(np.unravel_index(columns, weights_b.shape), axis=-1)
    kept = _spread(at_a, at_b, _least_distance(object_a, k), _least_distance(object_b, k), k)
    return Matches(
        heat_a=strengths.max(axis=1).reshape(weights_a.shape),
        heat_b=strengths.max(axis=0).reshape(weights_b.shape),
        patches_a=at_a[kept],
        patches_b=at_b[kept],
        strengths=strengths[rows, columns][kept],
    )


def explain_pair(image_a: ImageLike, image_b: ImageLike, metric: Metric, out: str | os.PathLike[str]) -> Path:
    """Draw why two images are (un)like: both pictures, lines between matched patches, heat maps; write a PNG.

    Returns the path. Raises InputError for a metric without patches, an image that cannot be read, or a name
    that is no .png in an existing folder.
    """
    path = png_target(out)
    if not isinstance(metric, EmbeddingMetric):
        raise InputError(
            f"{metric.name} has no patches to match; metrics that can explain a pair are those with embeddings, "
            "such as compact (`identisim metrics` lists score kinds)"
        )
    pixels_a, pixels_b = load_image(image_a), load_image(image_b)
    tokens_a, tokens_b = metric.tokens(image_a), metric.tokens(image_b)
    matches = match_patches(tokens_a, tokens_b)
    seen = metric.preprocessing
    canvas = draw_explanation(
        Side(_caption(image_a, "A"), pixels_a, seen, matches.heat_a, matches.patches_a),
        Side(_caption(image_b, "B"), pixels_b, seen, matches.heat_b, matches.patches_b),
        title=f"similarity {float(metric.compare_tokens(tokens_a, tokens_b)[0]):.4f}",
        subtitle=f"score {metric.score}, -1 to 1, higher = more alike  ·  metric {metric.fingerprint}",
    )
    return save(canvas, path)


def _require_comparable(tokens_a: Tokens, tokens_b: Tokens, k: int) -> None:
    if k < 1:
        raise InputError(f"k is the number of matches to keep, at least 1; got {k}")
    if len(tokens_a) != 1 or len(tokens_b) != 1:
        raise InputError(f"patches are matched for one image each; got {len(tokens_a)} and {len(tokens_b)}")
    dims = tokens_a.patches.shape[-1], tokens_b.patches.shape[-1]
    if dims[0] != dims[1]:
        raise InputError(f"patches of {dims[0]} and {dims[1]} dimensions come from different networks")


def _relative_foreground(tokens: Tokens) -> Array:
    if tokens.foreground is None or float(tokens.foreground.max()) <= 0:
        return np.ones(tokens.patches.shape[1:3], dtype=np.float32)
    return np.asarray((tokens.foreground[0] / tokens.foreground[0].max()).numpy())


def _mutual_neighbours(cosines: Array) -> tuple[Array, Array]:
    """Rows and columns of the entries of (N, M) cosines that are above 0 and best of both row and column."""
    best_of_row, best_of_column = cosines.argmax(axis=1), cosines.argmax(axis=0)
    rows = np.flatnonzero(best_of_column[best_of_row] == np.arange(len(cosines)))
    rows = rows[cosines[rows, best_of_row[rows]] > 0]
    return rows, best_of_row[rows]


def _least_distance(is_object: Array, k: int) -> float:
    return SPREAD * math.sqrt(is_object.sum() / k)


def _spread(at_a: Array, at_b: Array, least_a: float, least_b: float, k: int) -> list[int]:
    """Non-maximum suppression: from the strongest on, skip what is near to a kept one in either image."""
    kept: list[int] = []
    for candidate in range(len(at_a)):
        distances_a = np.linalg.norm(at_a[kept] - at_a[candidate], axis=-1)
        distances_b = np.linalg.norm(at_b[kept] - at_b[candidate], axis=-1)
        if (distances_a >= least_a).all() and (distances_b >= least_b).all():
            kept.append(candidate)
        if len(kept) == k:
            break
    return kept


def _caption(image: ImageLike, letter: str) -> str:
    return f"{letter}  {Path(image).name}" if isinstance(image, str | os.PathLike) else letter
