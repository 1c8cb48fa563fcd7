"""Compiled inner loops of the renderer: rasterise triangles, shade pixels.

Shapes: V vertices, F triangles, S × S pixels, K materials (rows of `MATERIAL` numbers), L labels. No fast-math:
the same numbers give the same pixels on every run.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from identisim.world.textures import (
    BUMP,
    COLOURS,
    FREQUENCY,
    GLOSS,
    MIRROR,
    PATTERN,
    PHASE,
    SCENERY,
    SHAG,
    SHARPNESS,
    albedo,
    clouds,
    noise,
    smooth,
)

# columns of the light row
KEY, KEY_COLOUR, FILL, FILL_COLOUR, SKY, FLOOR, EXPOSURE, GOBO = 0, 3, 6, 9, 12, 15, 18, 19
DAPPLED, BARS, EDGE = 1, 2, 3  # kinds of gobo
LINEAR = (np.arange(256) / 255.0) ** 2.2  # light of an 8-bit value


@njit(cache=True, nogil=True, error_model="numpy")
def rasterise(screen, faces, size, depth, hit, bary, clear):
    """Nearest triangle of every pixel.

    screen: (V, 3) x, y in pixels and 1/z (0 or less = behind the camera). depth: (S, S) 1/z, filled; hit: (S, S) int32
    triangle or −1; bary: (S, S, 2) screen-space weights of corners 0 and 1. clear: (F,) bool,
    triangles that fill every other pixel only (half transparent once pixels are averaged in blocks).
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
                if clear[f] and (x + y) % 2 == 1:
                    continue
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


@njit(cache=True, nogil=True, error_model="numpy")
def gobo(light, u, v):
    """Share of the key light that leaves, a window or an edge let through at a place across the beam."""
    kind, scale, seed = int(light[GOBO]), light[GOBO + 1], int(light[GOBO + 2])
    if kind == DAPPLED:
        return 0.1 + 0.9 * smooth(0.44, 0.56, clouds(u * scale, v * scale, 0.5, seed))
    if kind == BARS:
        a, b = u * scale * 0.5 + 0.13 * (seed % 7), v * scale * 0.25
        bar = min(abs(a - math.floor(a) - 0.5), abs(b - math.floor(b) - 0.5) * 2)
        return 0.06 + 0.94 * smooth(0.09, 0.15, bar)
    if kind == EDGE:
        angle = 0.01 * (seed % 628)
        return 0.05 + 0.95 * smooth(-0.02, 0.02, u * math.cos(angle) + v * math.sin(angle) + 0.2)
    return 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def lit(shadow, frame, light, x, y, z, bias):
    """Share of the key light that reaches a point: 2 × 2 samples of the shadow map.

    frame: rows right, up, towards the light, (half-width of the map, 0, 0), heading of the camera.
    """
    size = shadow.shape[0]
    u = (x * frame[0, 0] + y * frame[0, 1] + z * frame[0, 2]) / frame[3, 0]
    v = (x * frame[1, 0] + y * frame[1, 1] + z * frame[1, 2]) / frame[3, 0]
    through = gobo(light, u, v) if light[GOBO] > 0.0 else 1.0
    height = x * frame[2, 0] + y * frame[2, 1] + z * frame[2, 2]
    px, py = (u * 0.5 + 0.5) * size - 0.5, (v * 0.5 + 0.5) * size - 0.5
    i, j = int(math.floor(px)), int(math.floor(py))
    if i < 0 or j < 0 or i + 1 >= size or j + 1 >= size:
        return through
    fx, fy = px - i, py - j
    total = 0.0
    for dj in range(2):
        for di in range(2):
            weight = (fx if di else 1 - fx) * (fy if dj else 1 - fy)
            if shadow[j + dj, i + di] <= height + 10.0 + bias:
                total += weight
    return total * through


@njit(cache=True, nogil=True, error_model="numpy")
def _scenery(light, dx, dy, dz, material, out):
    """Trees or houses (first two colours) below a skyline, sky (third colour) with clouds above."""
    f, seed = material[FREQUENCY], int(material[PHASE])
    line = 0.05 + 0.35 * clouds(dx * 3.1 + 9, 2.5, dz * 3.1 + 9, seed) - 0.1
    leaf = noise((dx + 5) * f * 4, (dy + 5) * f * 4, (dz + 5) * f * 4, seed + 1)
    leaf = smooth(0.2, 0.8, 0.6 * leaf + 0.4 * clouds((dx + 5) * 4, (dy + 5) * 4, (dz + 5) * 4, seed + 2))
    above = smooth(line - 0.02, line + 0.03, dy)
    white = 0.5 * smooth(0.4, 0.8, clouds((dx + 5) * 1.5, (dy + 5) * 4, (dz + 5) * 1.5, seed + 3))
    for c in range(3):
        land = (material[COLOURS + c] * (1 - leaf) + material[COLOURS + 3 + c] * leaf) * (
            0.6 * light[SKY + c] + 0.4 * light[KEY_COLOUR + c]
        )
        air = (material[COLOURS + 6 + c] * (1 - white) + white) * light[SKY + c] * 1.6
        out[c] = land * (1 - above) + air * above


@njit(cache=True, nogil=True, error_model="numpy")
def sky(light, dx, dy, dz, material, out):
    """Surroundings in a direction: a vertical gradient with the texture of a distant scene."""
    t = smooth(-0.4, 0.5, dy)
    if int(material[PATTERN]) == SCENERY:
        _scenery(light, dx, dy, dz, material, out)
        return
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
            # glass reflects in white, metal in its own colour
            metal = smooth(0.45, 0.55, material[MIRROR])
            out[c] += reflection[c] * mirror * (1 - metal + metal * (0.15 + 1.2 * base[c]))


@njit(cache=True, nogil=True, error_model="numpy")
def shade(hit, bary, depth, faces, screen, points, normals, rest, uv, face_material, face_label, materials, labels,
          camera, light, shadow, frame, scene, block, image):  # fmt: skip
    """Colour of every pixel, linear, exposed, before the film curve, written to image (S, S, 3).

    camera: rows position, right, up, forward, (tan of half the field of view, shift x, shift y). scene: (has
    ground, has wall, wall distance, ground material, wall material, contact radius). block: pixels of a side
    that share one sample of the background. depth: as `rasterise` left it; the background's is filled in. The rest
    as in `Mesh`, posed.
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
                    depth[row, column] = depth[i, j]
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
                if material[SHAG] > 0.0:
                    strand = 0.7 + 0.6 * noise(rx * 34.0, ry * 11.0, rz * 22.0, 7)
                    for k in range(3):
                        base[k] *= strand
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
                reach = lit(shadow, frame, light, px + 0.03 * n[0], py + 0.03 * n[1], pz + 0.03 * n[2], 0.01)
                near_floor = 1.0
                if scene[0] > 0.0 and n[1] < 0.3:
                    near_floor = 0.55 + 0.45 * smooth(0.0, 0.35, py)
                surface(material, light, base, n, view, reach, near_floor, far_row, scratch, out)
            else:
                t_ground = -camera[0, 1] / dy if scene[0] > 0.0 and dy < -1e-4 else 1e9
                # the wall stands behind the object, square to the camera's heading
                ahead = dx * frame[4, 0] + dz * frame[4, 2]
                room = scene[2] - (camera[0, 0] * frame[4, 0] + camera[0, 2] * frame[4, 2])
                t_wall = room / ahead if scene[1] > 0.0 and ahead > 1e-4 else 1e9
                t = min(t_ground, t_wall)
                cosine = dx * camera[3, 0] + dy * camera[3, 1] + dz * camera[3, 2]
                depth[row, column] = 1.0 / (t * cosine) if t < 40.0 else 0.0
                if t < 40.0:
                    px, py, pz = camera[0, 0] + t * dx, camera[0, 1] + t * dy, camera[0, 2] + t * dz
                    if t_ground <= t_wall:
                        material = materials[int(scene[3])]
                        n[0], n[1], n[2] = 0.0, 1.0, 0.0
                        albedo(material, px, pz, 0.37, base)
                        worn = (
                            0.7
                            + 0.4 * noise(px * 0.7, pz * 0.7, 3.3, 11)
                            + 0.2 * noise(px * 19, pz * 19, 0.3, 12)
                        )
                        # what is finer than a pixel fades to its mean
                        foot = material[FREQUENCY] * t * 3.0 * camera[4, 0] * block / (size * max(0.1, -dy))
                        fade = foot * foot / (1 + foot * foot)
                        for k in range(3):
                            mean = 0.5 * (material[COLOURS + k] + material[COLOURS + 3 + k])
                            base[k] = (base[k] * (1 - fade) + mean * fade) * worn
                        reach = lit(shadow, frame, light, px, py, pz, 0.02)
                        contact = 0.45 + 0.55 * smooth(0.3, 1.3, math.sqrt(px * px + pz * pz) / scene[5])
                    else:
                        material = far_row
                        n[0], n[1], n[2] = -frame[4, 0], 0.0, -frame[4, 2]
                        albedo(material, px * frame[4, 2] - pz * frame[4, 0], py, 0.37, base)
                        reach, contact = lit(shadow, frame, light, px, py, pz, 0.02), 1.0
                    surface(material, light, base, n, view, reach, contact, far_row, scratch, out)
                else:
                    sky(light, dx, dy, dz, far_row, out)
            for k in range(3):
                image[row, column, k] = out[k] * light[EXPOSURE]
