"""Compiled solid textures: noise on a lattice, cells, and the patterns of materials.

No fast-math: the same numbers give the same pixels on every run.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="untyped-decorator, no-any-return"

from __future__ import annotations

import math

import numpy as np
from numba import njit

# columns of a material row
PATTERN, COLOURS, FREQUENCY, WARP, DIRECTION, PHASE = 0, 1, 10, 11, 12, 15
GLOSS, SHARPNESS, MIRROR, BUMP, SHAG, CLEAR = 16, 17, 18, 19, 20, 21
MATERIAL = 22
TABBY, GRADIENT, WEAVE, TILES, GRASS, RIPPLES, BOKEH, GOODS, CLUTTER, SCENERY = range(16, 26)
# random numbers on a 32³ lattice: a table look-up is three times faster than hashing, and 256 kB stay in the cache
LATTICE = np.random.default_rng(20260101).random(32768)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _hash(x, y, z, seed):
    i, j, k = (x + seed) & 31, (y + (seed >> 5)) & 31, (z + (seed >> 10)) & 31
    return LATTICE[(i << 10) | (j << 5) | k]


@njit(cache=True, nogil=True, error_model="numpy")
def noise(x, y, z, seed):
    """Smooth value noise in [0, 1]."""
    fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    near = (_hash(i, j, k, seed) * (1 - u) + _hash(i + 1, j, k, seed) * u) * (1 - v)
    near += (_hash(i, j + 1, k, seed) * (1 - u) + _hash(i + 1, j + 1, k, seed) * u) * v
    far = (_hash(i, j, k + 1, seed) * (1 - u) + _hash(i + 1, j, k + 1, seed) * u) * (1 - v)
    far += (_hash(i, j + 1, k + 1, seed) * (1 - u) + _hash(i + 1, j + 1, k + 1, seed) * u) * v
    return near * (1 - w) + far * w


@njit(cache=True, nogil=True, error_model="numpy")
def clouds(x, y, z, seed):
    """Three octaves of noise in [0, 1]."""
    total = noise(x, y, z, seed) * 0.57
    total += noise(2.03 * x, 2.03 * y, 2.03 * z, seed + 1) * 0.29
    return total + noise(4.1 * x, 4.1 * y, 4.1 * z, seed + 2) * 0.14


@njit(cache=True, nogil=True, error_model="numpy")
def cells(x, y, z, seed):
    """Voronoi cells: distances to the two nearest seed points and the nearest one's number in [0, 1]."""
    i, j, k = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
    best, second, bi, bj, bk = 9.0, 9.0, 0, 0, 0
    for di in range(-1, 2):
        for dj in range(-1, 2):
            for dk in range(-1, 2):
                p, q, r = i + di, j + dj, k + dk
                # one hash feeds three coordinates
                h = _hash(p, q, r, seed)
                g, e = h * 253.0, h * 4093.0
                dx, dy, dz = p + h - x, q + (g - math.floor(g)) - y, r + (e - math.floor(e)) - z
                d = dx * dx + dy * dy + dz * dz
                if d < best:
                    second, best, bi, bj, bk = best, d, p, q, r
                elif d < second:
                    second = d
    return math.sqrt(best), math.sqrt(second), _hash(bi, bj, bk, seed + 37)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def smooth(low, high, x):
    """0 below low, 1 above high, smooth between."""
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3 - 2 * t)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _above(low, x):
    return 1.0 if x > low else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def blend(kind, x, y, z, along, across, seed):
    """Mixing weights (second colour, third colour) of a solid texture at a point already scaled by its frequency."""
    if kind == 1:  # stripes
        return smooth(-0.2, 0.2, math.sin(along * 6.283)), 0.0
    if kind == 2:  # check
        return 1.0 * ((int(math.floor(x)) + int(math.floor(y)) + int(math.floor(z))) % 2), 0.0
    if kind == 3:  # dots
        u, v = along - math.floor(along) - 0.5, across - math.floor(across) - 0.5
        return 1.0 - smooth(0.25, 0.32, math.sqrt(u * u + v * v)), 0.0
    if kind == 4:  # clouds
        return smooth(0.25, 0.75, clouds(x, y, z, seed)), 0.0
    if kind == 5:  # patches
        name = cells(x * 0.5, y * 0.5, z * 0.5, seed)[2]
        return _above(0.45, name), _above(0.8, name)
    if kind == 6:  # rings
        return 0.5 + 0.5 * math.sin(6.283 * math.sqrt(x * x + z * z) + 3 * noise(x, y * 0.3, z, seed)), 0.0
    if kind == 7:  # marble
        return smooth(
            0.0, 1.0, abs(math.sin(3.14 * along + 5 * clouds(x * 0.5, y * 0.5, z * 0.5, seed)))
        ), 0.0
    if kind == 8:  # bricks
        row = math.floor(y)
        u = x + z + 0.5 * (int(row) % 2)
        joint = min(u - math.floor(u), 2 * (y - row))
        return _above(joint, 0.09), 0.35 * _hash(int(math.floor(u)), int(row), 0, seed)
    if kind == 9:  # two-tone
        return smooth(
            -0.15, 0.15, math.sin(along * 1.3 + seed % 7) + 0.8 * (clouds(x, y, z, seed) - 0.5)
        ), 0.0
    if kind == 10:  # speckle
        return _above(0.72, noise(x * 5, y * 5, z * 5, seed)), _above(
            0.8, noise(x * 4, y * 4, z * 4, seed + 5)
        )
    if kind == 11:  # planks
        plank = math.floor(x)
        grain = noise(x * 6, y * 0.7, z * 0.7 + 9.0 * _hash(int(plank), 1, 0, seed), seed)
        return grain * 0.8, _above(x - plank, 0.04)
    if kind == 12:  # fur
        grain = noise(x * 4, y * 0.8, z * 4, seed) * 0.6 + clouds(x * 0.4, y * 0.4, z * 0.4, seed + 3) * 0.6
        return smooth(0.3, 0.8, grain), 0.0
    if kind == 13:  # cracks
        near, far, _ = cells(x * 0.6, y * 0.6, z * 0.6, seed)
        return 1.0 - smooth(0.04, 0.12, far - near), 0.0
    if kind == 14:  # tartan
        mixed = 0.5 * _above(0.2, math.sin(along * 6.283)) + 0.5 * _above(0.4, math.sin(across * 6.283))
        return mixed, _above(0.93, math.sin(along * 6.283 + 2))
    if kind == 15:  # spots
        near, _, name = cells(x * 0.8, y * 0.8, z * 0.8, seed)
        return 1.0 - smooth(0.25 + 0.2 * name, 0.3 + 0.2 * name, near), 0.0
    return _later(kind, x, y, z, along, seed)


@njit(cache=True, nogil=True, error_model="numpy")
def _later(kind, x, y, z, along, seed):
    """`blend` of the patterns from tabby on."""
    if kind == TABBY:
        wave = math.sin(6.283 * (0.55 * along + 0.9 * clouds(x * 0.6, y * 0.25, z * 0.6, seed)))
        belly = smooth(-0.2, 0.6, noise(x * 0.5, y * 0.5, z * 0.5, seed + 4))
        return smooth(0.15, 0.6, wave) * belly, 0.0
    if kind == GRADIENT:
        return smooth(-0.9, 0.9, math.sin(along * 0.7 + seed % 7)), 0.0
    if kind == WEAVE:
        u, v = math.sin(x * 12.566), math.sin((y + z) * 12.566)
        return 0.5 + 0.5 * u * v, 0.0
    if kind == TILES:
        i, j, k = math.floor(x), math.floor(y), math.floor(z)
        joint = min(x - i, y - j)
        return _above(joint, 0.05), 0.3 * _hash(int(i), int(j), int(k), seed)
    if kind == GRASS:
        blade = noise(x * 3.5, y * 1.6, z, seed) * 0.65 + noise(x * 0.3, y * 0.3, z, seed + 1) * 0.45
        return smooth(0.25, 0.85, blade), 0.5 * _above(0.8, noise(x * 1.3, y * 1.3, z, seed + 2))
    if kind == RIPPLES:
        wave = math.sin(6.283 * along + 5 * clouds(x * 0.3, y * 0.3, z, seed))
        return 0.35 + 0.3 * wave + 0.5 * (noise(x * 9, y * 9, z, seed + 1) - 0.5), 0.0
    if kind == BOKEH:
        near, _, name = cells(x, y, 0.5, seed)
        disc = 1.0 - smooth(0.3 + 0.2 * name, 0.36 + 0.2 * name, near)
        return disc * name * name, disc * _above(0.75, name)
    return 0.0, 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _goods(x, y, seed, out):
    """Shelves full of packages: rows of boards, runs of the same product, each with a coloured band."""
    row = math.floor(y)
    v, u = y - row, x * 1.7 + 7 * _hash(int(row), 3, 5, seed)
    column = int(math.floor(u))
    run = int(math.floor((column + 3 * _hash(int(row), 1, 1, seed)) / 3))
    u -= math.floor(u)
    tall = 0.5 + 0.4 * _hash(run, int(row), 2, seed)
    for c in range(3):
        if v < 0.08:
            out[c] = 0.5
        elif v > tall or u < 0.06:
            out[c] = 0.02
        else:
            band = 1 if 0.25 * tall < v < 0.62 * tall else 0
            ink = 1 if band == 1 and noise(u * 9, v * 14, run * 1.7, seed) > 0.62 else 0
            value = _hash(run, int(row), 7 + c + 5 * band + 9 * ink, seed)
            value = 0.65 * value + 0.35 * _hash(run, int(row), 20 + band, seed)
            out[c] = value * value * (0.5 + 0.5 * math.sin(3.1416 * u))


@njit(cache=True, nogil=True, error_model="numpy")
def _clutter(x, y, z, seed, out):
    """A jumble of things of any colour."""
    near, far, name = cells(x * 0.5, y * 0.5, z * 0.5, seed)
    stripe = math.sin((x * name + y * (1 - name)) * 9) > 0.3
    for c in range(3):
        value = name * (7.0 + 5 * c + (3.3 if stripe and name > 0.4 else 0.0))
        value = 0.5 * (value - math.floor(value)) + 0.5 * name
        out[c] = value * value * (0.35 + 0.65 * smooth(0.0, 0.25, far - near)) * (1.1 - 0.5 * near)


@njit(cache=True, nogil=True, error_model="numpy")
def albedo(material, x, y, z, out):
    """Linear colour of a material at a point in rest coordinates, written to out (3,); returns a relief height."""
    f, seed, kind = material[FREQUENCY], int(material[PHASE]), int(material[PATTERN])
    if kind == 0:
        for c in range(3):
            out[c] = material[COLOURS + c]
        return 0.0
    x, y, z = x * f, y * f, z * f
    if kind == GOODS:
        _goods(x, y, seed, out)
        return 0.0
    if kind == CLUTTER:
        _clutter(x, y, z, seed, out)
        return 0.0
    if material[WARP] > 0.0:
        w = material[WARP] * 2
        dx, dy = noise(x, y, z, seed + 50) - 0.5, noise(x, y, z, seed + 51) - 0.5
        x, y, z = x + w * dx, y + w * dy, z - w * dx
    dx, dy, dz = material[DIRECTION], material[DIRECTION + 1], material[DIRECTION + 2]
    along = x * dx + y * dy + z * dz
    across = x * dy + y * dz + z * dx
    second, third = blend(kind, x, y, z, along, across, seed)
    for c in range(3):
        value = material[COLOURS + c] * (1 - second) + material[COLOURS + 3 + c] * second
        out[c] = value * (1 - third) + material[COLOURS + 6 + c] * third
    return second
