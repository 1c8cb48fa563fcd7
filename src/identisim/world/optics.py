"""Compiled passes over the picture: ragged outlines of hair, and defocus of what lies far from the object."""

# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="untyped-decorator, no-any-return"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from identisim.world.textures import LATTICE


@njit(cache=True, nogil=True, error_model="numpy")
def ruffle(hit, bary, depth, shag, pixels, hits, barys, depths):
    """Let hairs reach over the outlines of shaggy triangles.

    hit, bary, depth: as `kernels.rasterise` fills them. shag: (F,) length of hairs in units. pixels: pixels per unit at
    depth 1. hits, barys, depths: the same with hairs. Each pixel looks along its own strand, whose length is random.
    """
    size = hit.shape[0]
    longest = 0.0
    for f in range(len(shag)):
        longest = max(longest, shag[f])
    for y in range(size):
        for x in range(size):
            hits[y, x], depths[y, x] = hit[y, x], depth[y, x]
            barys[y, x, 0], barys[y, x, 1] = bary[y, x, 0], bary[y, x, 1]
            strand = LATTICE[((x * 7 + (y // 3) * 131) * 97 + (y // 3) * 29) & 32767]
            angle = 6.2832 * LATTICE[((x // 9) * 53 + (y // 9) * 419) & 32767] + 1.6 * strand
            far = strand * longest * pixels * max(depth[y, x], 0.25)
            u, v = int(round(x + far * math.cos(angle))), int(round(y + far * math.sin(angle)))
            if u < 0 or v < 0 or u >= size or v >= size or hit[v, u] < 0:
                continue
            other = hit[v, u]
            if shag[other] * pixels * depth[v, u] >= far and depth[v, u] > depth[y, x] and far > 0.5:
                hits[y, x], depths[y, x] = other, depth[v, u]
                barys[y, x, 0], barys[y, x, 1] = bary[v, u, 0], bary[v, u, 1]


@njit(cache=True, nogil=True, error_model="numpy")
def defocus(picture, weight, radius, out):
    """Blur where weight is high, with a disc, as an open lens does.

    picture: (S, S, 3) linear; weight: (S, S) in [0, 1], 0 = sharp (never bleeds into the rest); radius: in pixels; out:
    like picture. The disc is gathered on a grid coarse enough to need about forty samples.
    """
    size = picture.shape[0]
    step = max(1, int(math.ceil(radius / 3.5)))
    small = (size + step - 1) // step
    soft, near = np.zeros((small, small, 4)), np.zeros((small, small, 4))
    for y in range(size):
        for x in range(size):
            i, j, w = y // step, x // step, weight[y, x]
            near[i, j, 3] += w
            for c in range(3):
                near[i, j, c] += w * picture[y, x, c]
    reach = int(math.floor(radius / step))
    for i in range(small):
        for j in range(small):
            for di in range(-reach, reach + 1):
                for dj in range(-reach, reach + 1):
                    p, q = i + di, j + dj
                    inside = (di * di + dj * dj) * step * step <= radius * radius
                    if inside and 0 <= p < small and 0 <= q < small:
                        for c in range(4):
                            soft[i, j, c] += near[p, q, c]
    for y in range(size):
        for x in range(size):
            w = weight[y, x]
            a, b = (y + 0.5) / step - 0.5, (x + 0.5) / step - 0.5
            i, j = min(max(int(math.floor(a)), 0), small - 2), min(max(int(math.floor(b)), 0), small - 2)
            fa, fb = min(max(a - i, 0.0), 1.0), min(max(b - j, 0.0), 1.0)
            total = 0.0
            for c in range(3, -1, -1):
                top = soft[i, j, c] * (1 - fb) + soft[i, j + 1, c] * fb
                value = top * (1 - fa) + (soft[i + 1, j, c] * (1 - fb) + soft[i + 1, j + 1, c] * fb) * fa
                if c == 3:
                    total = value
                elif total > 1e-6:
                    out[y, x, c] = picture[y, x, c] * (1 - w) + w * value / total
                else:
                    out[y, x, c] = picture[y, x, c]
