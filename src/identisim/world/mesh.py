"""Parts to triangles. Every kind is a grid of points; sharp edges are doubled rows.

Shapes: V vertices, F triangles, R × C grid points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from identisim.world.identity import Identity, Part

Array = np.ndarray
Grid = tuple[Array, Array]  # points (R, C, 3), uv (R, C, 2)


@dataclass(frozen=True)
class Mesh:
    """Triangles of a whole object at rest.

    vertices, normals, rest: (V, 3); rest are the coordinates that solid textures live in. uv: (V, 2). faces: (F, 3).
    materials, labels: (F,), labels −1 where nothing is printed. parts: (V,), the part each vertex belongs to.
    """

    vertices: Array
    normals: Array
    rest: Array
    uv: Array
    faces: Array
    materials: Array
    labels: Array
    parts: Array


def _superellipse(angle: Array, exponent: float) -> tuple[Array, Array]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.sign(cosine) * np.abs(cosine) ** exponent, np.sign(sine) * np.abs(sine) ** exponent


def _uv(rows: int, columns: int) -> Array:
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return np.stack([u, v], axis=-1)


def ellipsoid(latitude: float = 1.0, longitude: float = 1.0) -> list[Grid]:
    """Unit superellipsoid; exponents below 1 make it boxy, 1 is round. Centre at the origin."""
    rows, columns = 13, 21
    c_lat, s_lat = _superellipse(np.linspace(-np.pi / 2, np.pi / 2, rows), latitude)
    c_lon, s_lon = _superellipse(np.linspace(0, 2 * np.pi, columns), longitude)
    points = np.empty((rows, columns, 3))
    points[..., 0] = c_lat[:, None] * s_lon
    points[..., 1] = s_lat[:, None]
    points[..., 2] = c_lat[:, None] * c_lon
    return [(points, _uv(rows, columns))]


def box(rounding: float = 0.1, taper_x: float = 1.0, taper_z: float = 1.0) -> list[Grid]:
    """Box [−1, 1]³ with rounded edges; the top face is scaled by the tapers (a gable has taper_z near 0)."""
    inner = 1.0 - rounding
    steps = np.array([-1.0, -1.0 + 0.4 * rounding, -inner, 0.0, inner, 1.0 - 0.4 * rounding, 1.0])
    v, u = np.meshgrid(steps, steps, indexing="ij")
    one = np.ones_like(u)
    sides = [(u, v, one), (-u, v, -one), (one, v, -u), (-one, v, u), (u, one, -v), (u, -one, v)]
    grids = []
    for side in sides:
        cube = np.stack(side, axis=-1)
        core = np.clip(cube, -inner, inner)
        away = cube - core
        away /= np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-9)
        points = core + rounding * away
        rise = (points[..., 1] + 1) / 2
        points[..., 0] *= 1 + (taper_x - 1) * rise
        points[..., 2] *= 1 + (taper_z - 1) * rise
        grids.append((points, np.stack([(u + 1) / 2, (v + 1) / 2], axis=-1)))
    return grids


def lathe(squareness: float, *profile: float) -> list[Grid]:
    """Surface of revolution; profile = radius, height, radius, height …; squareness 1 is round, 0.3 nearly square.

    A repeated profile point makes a sharp edge.
    """
    radius, height = np.array(profile[0::2]), np.array(profile[1::2])
    columns = 25
    c, s = _superellipse(np.linspace(0, 2 * np.pi, columns), squareness)
    points = np.empty((len(radius), columns, 3))
    points[..., 0] = radius[:, None] * s
    points[..., 1] = height[:, None]
    points[..., 2] = radius[:, None] * c
    uv = _uv(len(radius), columns)
    span = max(float(np.ptp(height)), 1e-6)
    uv[..., 1] = ((height - height.min()) / span)[:, None]
    return [(points, uv)]


def capsule(tip: float = 1.0) -> list[Grid]:
    """Limb from the origin down to (0, −1, 0); radius 1 at the origin and `tip` at the end, before scaling.

    Meant for sizes (radius, length, radius).
    """
    angles = np.linspace(0, np.pi / 2, 5)
    top = [(np.sin(a), 0.35 * np.cos(a)) for a in angles]
    bottom = [(tip * np.cos(a), -1 - 0.35 * tip * np.sin(a)) for a in angles]
    middle = [(1 + (tip - 1) * t, -t) for t in (0.33, 0.66)]
    flat = [value for r, y in top + middle + bottom for value in (r, y)]
    return lathe(1.0, *flat)


def torus(thickness: float = 0.2, start: float = 0.0, stop: float = 360.0) -> list[Grid]:
    """Ring or handle of radius 1 in the x–y plane between two angles in degrees."""
    around = np.radians(np.linspace(start, stop, 25))
    tube = np.linspace(0, 2 * np.pi, 10)
    points = np.empty((len(tube), len(around), 3))
    points[..., 0] = (1 + thickness * np.cos(tube)[:, None]) * np.cos(around)
    points[..., 1] = (1 + thickness * np.cos(tube)[:, None]) * np.sin(around)
    points[..., 2] = thickness * np.sin(tube)[:, None] * np.ones_like(around)
    return [(points, _uv(len(tube), len(around)))]


def prism(lobes: float = 5.0, depth: float = 0.3, power: float = 1.0) -> list[Grid]:
    """Flat piece of thickness 2 in z, outline r = 1 + depth · cos(lobes · angle)^power: star, gear, leaf."""
    columns = 49
    angle = np.linspace(0, 2 * np.pi, columns)
    wave = np.cos(lobes * angle)
    radius = (1 + depth * np.sign(wave) * np.abs(wave) ** power) / (1 + abs(depth))
    outline = np.stack([-radius * np.sin(angle), radius * np.cos(angle)], axis=-1)
    rows = [(0.0, -1.0), (1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (1.0, 1.0), (0.0, 1.0)]
    points = np.stack([np.column_stack([outline * scale, np.full(columns, z)]) for scale, z in rows])
    return [(points, points[..., :2] / 2 + 0.5)]


def _smooth_path(points: Array, count: int) -> Array:
    """`count` points of a Catmull-Rom curve through the points (N, 3)."""
    place = np.linspace(0, len(points) - 1, count)
    index = np.minimum(place.astype(int), len(points) - 2)
    t = (place - index)[:, None]
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    a, b, c, d = (padded[index + shift] for shift in range(4))
    cubic = 2 * a - 5 * b + 4 * c - d + (3 * (b - c) + d - a) * t
    return np.asarray(b + 0.5 * t * (c - a + t * cubic))


def tube(radius: float, tip: float, flat: float, *path: float) -> list[Grid]:
    """Smooth tube along a path x, y, z, x, y, z …, its radius going from `radius` to `tip`; flat squashes it."""
    points = np.array(path).reshape(-1, 3)
    line = _smooth_path(points, max(5, 3 * len(points) - 2))
    ahead = np.gradient(line, axis=0)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
    # the flat side is square to the plane in which the tube bends
    bend = np.cross(ahead[0], line[len(line) // 2] - line[0])
    bend = bend if np.linalg.norm(bend) > 1e-6 else np.cross(ahead[0], [0.31, 0.2, 0.93])
    side = np.cross(ahead, bend / np.linalg.norm(bend))
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    wide = np.cross(side, ahead)
    radii = np.linspace(radius, tip, len(line))
    radii, line = np.r_[0, radii, 0], np.r_[line[:1], line, line[-1:]]
    side, wide = np.r_[side[:1], side, side[-1:]], np.r_[wide[:1], wide, wide[-1:]]
    angle = np.linspace(0, 2 * np.pi, 9)
    round_ = (
        flat * np.cos(angle)[None, :, None] * side[:, None] + np.sin(angle)[None, :, None] * wide[:, None]
    )
    return [(line[:, None] + radii[:, None, None] * round_, _uv(len(line), len(angle)))]


def loft(square: float, *stations: float) -> list[Grid]:
    """Body along z through stations z, centre y, half width, half height …, closed at both ends."""
    table = _smooth_stations(np.array(stations).reshape(-1, 4))
    ends = table[[0, -1]] * [1, 1, 0, 0]
    table = np.concatenate([ends[:1], table, ends[1:]])
    c, s = _superellipse(np.linspace(0, 2 * np.pi, 19), square)
    points = np.empty((len(table), 19, 3))
    points[..., 0] = -table[:, 2, None] * s
    points[..., 1] = table[:, 1, None] - table[:, 3, None] * c
    points[..., 2] = table[:, 0, None]
    return [(points, _uv(len(table), 19))]


def _smooth_stations(table: Array) -> Array:
    """Twice as many stations, rounded by Catmull-Rom."""
    low = _smooth_path(table[:, :3], 2 * len(table) - 1)
    high = _smooth_path(np.column_stack([table[:, 3], table[:, 3], table[:, 3]]), 2 * len(table) - 1)
    return np.asarray(np.maximum(np.column_stack([low, high[:, :1]]), [-9, -9, 1e-3, 1e-3]))


KINDS: dict[str, Callable[..., list[Grid]]] = {
    "ellipsoid": ellipsoid, "box": box, "lathe": lathe, "capsule": capsule, "torus": torus, "prism": prism,
    "tube": tube, "loft": loft,
}  # fmt: skip


def rotation(turn: tuple[float, float, float]) -> Array:
    """Rotation matrix (3, 3) of Euler angles in degrees, applied x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _triangles(rows: int, columns: int) -> Array:
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _normals(points: Array, faces: Array, rows: int, columns: int) -> Array:
    corners = points[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], area)
    grid = normals.reshape(rows, columns, 3)
    if np.allclose(points.reshape(rows, columns, 3)[:, 0], points.reshape(rows, columns, 3)[:, -1]):
        seam = grid[:, 0] + grid[:, -1]
        grid[:, 0] = grid[:, -1] = seam
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 1.0, 0.0])


def _labels(
    part: Part, side: int, rest: Array, normals: Array, uv: Array, faces: Array
) -> tuple[Array, Array]:
    """Which triangles of one grid carry the label, and the uv there."""
    label = np.full(len(faces), -1)
    if part.label < 0:
        return label, uv
    if part.wrap == "faces":
        label[:] = part.label + (0, 0, 1, 1, 2, 2)[side]
    elif part.wrap == "around":
        label[:] = np.where(np.abs(normals[faces][:, :, 1].mean(1)) < 0.6, part.label, -1)
        uv = np.stack([(uv[:, 0] * 2) % 1.0001, uv[:, 1]], axis=-1)
    else:
        label[:] = np.where(normals[faces][:, :, 2].mean(1) > 0.35, part.label, -1)
        low, high = rest.min(0), rest.max(0)
        uv = (rest[:, :2] - low[:2]) / np.maximum(high[:2] - low[:2], 1e-6)
    return label, uv


def build(identity: Identity) -> Mesh:
    """Triangles of an identity at rest."""
    columns: dict[str, list[Array]] = {name: [] for name in Mesh.__dataclass_fields__}
    offset = 0
    for number, part in enumerate(identity.parts):
        for side, (grid, grid_uv) in enumerate(KINDS[part.kind](*part.parameters)):
            rows, cols = grid.shape[:2]
            rest = grid.reshape(-1, 3) * part.size
            faces = _triangles(rows, cols)
            normals = _normals(rest, faces, rows, cols)
            label, uv = _labels(part, side, rest, normals, grid_uv.reshape(-1, 2), faces)
            matrix = rotation(part.turn)
            columns["vertices"].append(rest @ matrix.T + part.position)
            columns["normals"].append(normals @ matrix.T)
            # textures hang on the part, so that a moving leg keeps its stripes
            columns["rest"].append(rest + np.array(part.position))
            columns["uv"].append(uv)
            columns["faces"].append(faces + offset)
            columns["materials"].append(np.full(len(faces), part.material))
            columns["labels"].append(label)
            columns["parts"].append(np.full(len(rest), number))
            offset += len(rest)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    whole = {"faces", "materials", "labels", "parts"}
    return Mesh(
        **{
            name: np.ascontiguousarray(value, np.int32 if name in whole else np.float32)
            for name, value in joined.items()
        }
    )
