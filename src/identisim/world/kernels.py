"""Compiled inner loops of the renderer: rasterise triangles, look up solid textures, shade pixels.

Shapes: V vertices, F triangles, S × S pixels, K materials (rows of `MATERIAL` numbers), L labels. No fast-math:
the same numbers give the same pixels on every run.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# columns of a material row
PATTERN, COLOURS, FREQUENCY, WARP, DIRECTION, PHASE, GLOSS, SHARPNESS, MIRROR, BUMP = (
    0,
    1,
    10,
    11,
    12,
    15,
    16,
    17,
    18,
    19,
)
MATERIAL = 20
# columns of the light row
KEY, KEY_COLOUR, FILL, FILL_COLOUR, SKY, FLOOR, EXPOSURE = 0, 3, 6, 9, 12, 15, 18
LIGHT = 19
# random numbers on a 32³ lattice: a table look-up is three times faster than hashing, and 256 kB stay in the cache
LATTICE = np.random.default_rng(20260101).random(32768)
LINEAR = (np.arange(256) / 255.0) ** 2.2  # light of an 8-bit value


@njit(cache=True, nogil=True, error_model="numpy")
def rasterise(screen, faces, size, depth, hit, bary):
    """Nearest triangle of every pixel.

    screen: (V, 3) x, y in pixels and 1/z (0 or less = behind the camera). depth: (S, S) 1/z, filled; hit: (S, S) int32
    triangle or −1; bary: (S, S, 2) screen-space weights of corners 0 and 1.
    """
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        za, zb, zc = screen[a, 2], screen[b, 2], screen[c, 2]
        if za <= 0.0 or zb <= 0.0 or zc <= 0.0:
            continue
        ax, ay, bx, by, cx, cy = (
            screen[a, 0],
            screen[a, 1],
            screen[b, 0],
            screen[b, 1],
            screen[c, 0],
            screen[c, 1],
        )
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        x0 = max(0, int(math.ceil(min(ax, bx, cx) - 0.5)))
        x1 = min(size - 1, int(math.floor(max(ax, bx, cx) - 0.5)))
        y0 = max(0, int(math.ceil(min(ay, by, cy) - 0.5)))
        y1 = min(size - 1, int(math.floor(max(ay, by, cy) - 0.5)))
        inverse = 1.0 / area
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
                wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
                wc = 1.0 - wa - wb
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                z = wa * za + wb * zb + wc * zc
                if z > depth[y, x]:
                    depth[y, x] = z
                    hit[y, x] = f
                    bary[y, x, 0] = wa
                    bary[y, x, 1] = wb


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
def _smooth(low, high, x):
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3 - 2 * t)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _above(low, x):
    return 1.0 if x > low else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def blend(kind, x, y, z, along, across, seed):
    """Mixing weights (second colour, third colour) of a solid texture at a point already scaled by its frequency."""
    if kind == 1:  # stripes
        return _smooth(-0.2, 0.2, math.sin(along * 6.283)), 0.0
    if kind == 2:  # check
        return 1.0 * ((int(math.floor(x)) + int(math.floor(y)) + int(math.floor(z))) % 2), 0.0
    if kind == 3:  # dots
        u, v = along - math.floor(along) - 0.5, across - math.floor(across) - 0.5
        return 1.0 - _smooth(0.25, 0.32, math.sqrt(u * u + v * v)), 0.0
    if kind == 4:  # clouds
        return _smooth(0.25, 0.75, clouds(x, y, z, seed)), 0.0
    if kind == 5:  # patches
        name = cells(x * 0.5, y * 0.5, z * 0.5, seed)[2]
        return _above(0.45, name), _above(0.8, name)
    if kind == 6:  # rings
        return 0.5 + 0.5 * math.sin(6.283 * math.sqrt(x * x + z * z) + 3 * noise(x, y * 0.3, z, seed)), 0.0
    if kind == 7:  # marble
        return _smooth(
            0.0, 1.0, abs(math.sin(3.14 * along + 5 * clouds(x * 0.5, y * 0.5, z * 0.5, seed)))
        ), 0.0
    if kind == 8:  # bricks
        row = math.floor(y)
        u = x + z + 0.5 * (int(row) % 2)
        joint = min(u - math.floor(u), 2 * (y - row))
        return _above(joint, 0.09), 0.35 * _hash(int(math.floor(u)), int(row), 0, seed)
    if kind == 9:  # two-tone
        return _smooth(
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
        return _smooth(0.3, 0.8, grain), 0.0
    if kind == 13:  # cracks
        near, far, _ = cells(x * 0.6, y * 0.6, z * 0.6, seed)
        return 1.0 - _smooth(0.04, 0.12, far - near), 0.0
    if kind == 14:  # tartan
        mixed = 0.5 * _above(0.2, math.sin(along * 6.283)) + 0.5 * _above(0.4, math.sin(across * 6.283))
        return mixed, _above(0.93, math.sin(along * 6.283 + 2))
    if kind == 15:  # spots
        near, _, name = cells(x * 0.8, y * 0.8, z * 0.8, seed)
        return 1.0 - _smooth(0.25 + 0.2 * name, 0.3 + 0.2 * name, near), 0.0
    return 0.0, 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def albedo(material, x, y, z, out):
    """Linear colour of a material at a point in rest coordinates, written to out (3,); returns a relief height."""
    f, seed = material[FREQUENCY], int(material[PHASE])
    x, y, z = x * f, y * f, z * f
    if material[WARP] > 0.0:
        w = material[WARP] * 2
        dx, dy = noise(x, y, z, seed + 50) - 0.5, noise(x, y, z, seed + 51) - 0.5
        x, y, z = x + w * dx, y + w * dy, z - w * dx
    dx, dy, dz = material[DIRECTION], material[DIRECTION + 1], material[DIRECTION + 2]
    along = x * dx + y * dy + z * dz
    across = x * dy + y * dz + z * dx
    second, third = blend(int(material[PATTERN]), x, y, z, along, across, seed)
    for c in range(3):
        value = material[COLOURS + c] * (1 - second) + material[COLOURS + 3 + c] * second
        out[c] = value * (1 - third) + material[COLOURS + 6 + c] * third
    return second


@njit(cache=True, nogil=True, error_model="numpy")
def lit(shadow, frame, x, y, z, bias):
    """Share of the key light that reaches a point: 2 × 2 samples of the shadow map.

    frame: rows right, up, towards the light, (half-width of the map, 0, 0), heading of the camera.
    """
    size = shadow.shape[0]
    u = (x * frame[0, 0] + y * frame[0, 1] + z * frame[0, 2]) / frame[3, 0]
    v = (x * frame[1, 0] + y * frame[1, 1] + z * frame[1, 2]) / frame[3, 0]
    height = x * frame[2, 0] + y * frame[2, 1] + z * frame[2, 2]
    px, py = (u * 0.5 + 0.5) * size - 0.5, (v * 0.5 + 0.5) * size - 0.5
    i, j = int(math.floor(px)), int(math.floor(py))
    if i < 0 or j < 0 or i + 1 >= size or j + 1 >= size:
        return 1.0
    fx, fy = px - i, py - j
    total = 0.0
    for dj in range(2):
        for di in range(2):
            weight = (fx if di else 1 - fx) * (fy if dj else 1 - fy)
            if shadow[j + dj, i + di] <= height + 10.0 + bias:
                total += weight
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def sky(light, dx, dy, dz, material, out):
    """Surroundings in a direction: a vertical gradient with the texture of a distant scene."""
    t = _smooth(-0.4, 0.5, dy)
    albedo(material, dx + 3.0, dy + 3.0, dz + 3.0, out)
    for c in range(3):
        gradient = light[FLOOR + c] * (1 - t) + light[SKY + c] * t
        out[c] = gradient * (0.35 + 1.3 * out[c])


@njit(cache=True, nogil=True, error_model="numpy")
def surface(material, light, base, n, view, shade, occlusion, far, reflection, out):
    """Light that a surface point sends to the camera, written to out (3,); reflection (3,) is scratch.

    n, view: unit vectors away from the surface.
    """
    key = n[0] * light[KEY] + n[1] * light[KEY + 1] + n[2] * light[KEY + 2]
    fill = n[0] * light[FILL] + n[1] * light[FILL + 1] + n[2] * light[FILL + 2]
    hx, hy, hz = light[KEY] + view[0], light[KEY + 1] + view[1], light[KEY + 2] + view[2]
    length = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
    spark = 0.0
    if key > 0.0 and material[GLOSS] > 0.01:
        cosine = max(0.0, (n[0] * hx + n[1] * hy + n[2] * hz) / length)
        if material[SHARPNESS] * (1.0 - cosine) < 8.0:  # else below a thousandth: not worth a power
            spark = material[GLOSS] * cosine ** material[SHARPNESS] * shade
    up = 0.5 + 0.5 * n[1]
    facing = max(0.0, n[0] * view[0] + n[1] * view[1] + n[2] * view[2])
    mirror = material[MIRROR] * (0.35 + 0.65 * (1 - facing) ** 3)
    if mirror > 0.0:
        sky(
            light,
            2 * facing * n[0] - view[0],
            2 * facing * n[1] - view[1],
            2 * facing * n[2] - view[2],
            far,
            reflection,
        )
    for c in range(3):
        ambient = (light[FLOOR + c] * (1 - up) + light[SKY + c] * up) * occlusion
        diffuse = (
            ambient + light[KEY_COLOUR + c] * max(0.0, key) * shade + light[FILL_COLOUR + c] * max(0.0, fill)
        )
        out[c] = base[c] * diffuse * (1 - mirror) + light[KEY_COLOUR + c] * spark
        if mirror > 0.0:
            out[c] += reflection[c] * mirror


@njit(cache=True, nogil=True, error_model="numpy")
def shade(hit, bary, depth, faces, screen, points, normals, rest, uv, face_material, face_label, materials, labels,
          camera, light, shadow, frame, scene, block, image):  # fmt: skip
    """Colour of every pixel, linear, exposed, before the film curve, written to image (S, S, 3).

    camera: rows position, right, up, forward, (tan of half the field of view, shift x, shift y). scene: (has
    ground, has wall, wall distance, ground material, wall material, contact radius). block: pixels of a side
    that share one sample of the background. The rest as in `Mesh`, posed.
    """
    size = hit.shape[0]
    base, n, view, out, scratch = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    far_row = materials[int(scene[4])]
    for row in range(size):
        for column in range(size):
            f = hit[row, column]
            if f < 0 and (row % block > 0 or column % block > 0):
                # surroundings are mostly soft: one sample for a block of background pixels
                i, j = row - row % block, column - column % block
                if hit[i, j] < 0:
                    for k in range(3):
                        image[row, column, k] = image[i, j, k]
                    continue
            sx = (2 * (column + 0.5) / size - 1 - camera[4, 1]) * camera[4, 0]
            sy = (1 - 2 * (row + 0.5) / size - camera[4, 2]) * camera[4, 0]
            dx = camera[3, 0] + sx * camera[1, 0] + sy * camera[2, 0]
            dy = camera[3, 1] + sx * camera[1, 1] + sy * camera[2, 1]
            dz = camera[3, 2] + sx * camera[1, 2] + sy * camera[2, 2]
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx / length, dy / length, dz / length
            view[0], view[1], view[2] = -dx, -dy, -dz
            if f >= 0:
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                wa, wb = bary[row, column, 0], bary[row, column, 1]
                # weights are linear on the screen; divide by depth to make them linear on the surface
                z = depth[row, column]
                wa, wb, wc = wa * screen[a, 2] / z, wb * screen[b, 2] / z, (1 - wa - wb) * screen[c, 2] / z
                px = wa * points[a, 0] + wb * points[b, 0] + wc * points[c, 0]
                py = wa * points[a, 1] + wb * points[b, 1] + wc * points[c, 1]
                pz = wa * points[a, 2] + wb * points[b, 2] + wc * points[c, 2]
                for k in range(3):
                    n[k] = wa * normals[a, k] + wb * normals[b, k] + wc * normals[c, k]
                material = materials[face_material[f]]
                rx = wa * rest[a, 0] + wb * rest[b, 0] + wc * rest[c, 0]
                ry = wa * rest[a, 1] + wb * rest[b, 1] + wc * rest[c, 1]
                rz = wa * rest[a, 2] + wb * rest[b, 2] + wc * rest[c, 2]
                albedo(material, rx, ry, rz, base)
                if material[BUMP] > 0.0:
                    g = material[FREQUENCY] * 2.5
                    seed = int(material[PHASE])
                    for k in range(3):
                        n[k] += material[BUMP] * (noise(rx * g + 7.0 * k, ry * g, rz * g, seed) - 0.5)
                length = math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
                sign = -1.0 if n[0] * dx + n[1] * dy + n[2] * dz > 0.0 else 1.0
                for k in range(3):
                    n[k] *= sign / length
                if face_label[f] >= 0:
                    side = labels.shape[1]
                    u = wa * uv[a, 0] + wb * uv[b, 0] + wc * uv[c, 0]
                    v = wa * uv[a, 1] + wb * uv[b, 1] + wc * uv[c, 1]
                    i = min(side - 1, max(0, int(u * side)))
                    j = min(side - 1, max(0, int((1 - v) * side)))
                    ink = labels[face_label[f], j, i, 3] / 255.0
                    for k in range(3):
                        base[k] = base[k] * (1 - ink) + LINEAR[labels[face_label[f], j, i, k]] * ink
                reach = lit(shadow, frame, px + 0.03 * n[0], py + 0.03 * n[1], pz + 0.03 * n[2], 0.01)
                near_floor = 1.0
                if scene[0] > 0.0 and n[1] < 0.3:
                    near_floor = 0.55 + 0.45 * _smooth(0.0, 0.35, py)
                surface(material, light, base, n, view, reach, near_floor, far_row, scratch, out)
            else:
                t_ground = -camera[0, 1] / dy if scene[0] > 0.0 and dy < -1e-4 else 1e9
                # the wall stands behind the object, square to the camera's heading
                ahead = dx * frame[4, 0] + dz * frame[4, 2]
                room = scene[2] - (camera[0, 0] * frame[4, 0] + camera[0, 2] * frame[4, 2])
                t_wall = room / ahead if scene[1] > 0.0 and ahead > 1e-4 else 1e9
                t = min(t_ground, t_wall)
                if t < 40.0:
                    px, py, pz = camera[0, 0] + t * dx, camera[0, 1] + t * dy, camera[0, 2] + t * dz
                    if t_ground <= t_wall:
                        material = materials[int(scene[3])]
                        n[0], n[1], n[2] = 0.0, 1.0, 0.0
                        albedo(material, px, pz, 0.37, base)
                        reach = lit(shadow, frame, px, py, pz, 0.02)
                        contact = 0.45 + 0.55 * _smooth(0.3, 1.3, math.sqrt(px * px + pz * pz) / scene[5])
                    else:
                        material = far_row
                        n[0], n[1], n[2] = -frame[4, 0], 0.0, -frame[4, 2]
                        albedo(material, px * frame[4, 2] - pz * frame[4, 0], py, 0.37, base)
                        reach, contact = 1.0, 1.0
                    surface(material, light, base, n, view, reach, contact, far_row, scratch, out)
                else:
                    sky(light, dx, dy, dz, far_row, out)
            for k in range(3):
                image[row, column, k] = out[k] * light[EXPOSURE]
