"""Identity × view -> picture and mask."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from identisim.world import kernels, optics, textures
from identisim.world.families import FAMILIES
from identisim.world.identity import PATTERNS, Identity, Material
from identisim.world.labels import SIZE, draw
from identisim.world.mesh import Mesh, build, rotation
from identisim.world.poses import posed
from identisim.world.props import PROPS
from identisim.world.view import NEIGHBOURS, Camera, Light, ViewParameters

Array = np.ndarray
SHADOW = 160  # pixels of a side of the shadow map


@dataclass(frozen=True)
class Rendering:
    """image: (S, S, 3) uint8 sRGB; mask: (S, S) uint8, 255 where the object is seen, else 0."""

    image: Array
    mask: Array


@dataclass(frozen=True)
class _Model:
    """An identity ready to draw: centred on x = z = 0, standing on y = 0, scaled to a bounding sphere of radius 1."""

    mesh: Mesh
    joints: tuple[tuple[str, tuple[float, float, float]], ...]  # of every part
    scale: float
    shift: Array
    materials: Array
    labels: Array


def linear(colour: Array) -> Array:
    """Linear light of sRGB values in [0, 1]."""
    return np.asarray(np.power(colour, 2.2), dtype=np.float64)


def _material_row(material: Material) -> Array:
    row = np.zeros(textures.MATERIAL)
    row[textures.PATTERN] = PATTERNS.index(material.pattern)
    row[textures.COLOURS : textures.COLOURS + 9] = linear(np.array(material.colours).ravel())
    row[textures.FREQUENCY], row[textures.WARP] = material.frequency, material.warp
    row[textures.DIRECTION : textures.DIRECTION + 3] = material.direction
    row[textures.PHASE] = material.phase
    row[textures.GLOSS : textures.CLEAR + 1] = (
        material.gloss, material.sharpness, material.mirror, material.bump, material.shag, material.clear,
    )  # fmt: skip
    return row


@lru_cache(maxsize=640)
def _model(identity: Identity) -> _Model:
    mesh = build(identity)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    shift = -np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    radius = np.linalg.norm(mesh.vertices + shift - [0, (high[1] - low[1]) / 2, 0], axis=1).max()
    labels = (
        np.stack([draw(label) for label in identity.labels])
        if identity.labels
        else np.zeros((0, SIZE, SIZE, 4), np.uint8)
    )
    joints = tuple((part.joint, part.position) for part in identity.parts)
    return _Model(
        mesh,
        joints,
        1 / float(radius),
        shift,
        np.stack([_material_row(m) for m in identity.materials]),
        labels,
    )


@lru_cache(maxsize=NEIGHBOURS)
def _neighbour(seed: int) -> Identity:
    rng = np.random.default_rng([seed, 3])
    if seed >= NEIGHBOURS:
        return PROPS[seed % len(PROPS)](rng)
    return FAMILIES[list(FAMILIES)[int(rng.integers(len(FAMILIES)))]](rng)


def _camera_rows(camera: Camera, height: float) -> Array:
    """Camera as `kernels.shade` wants it: position, right, up, forward, (tangent, shift x, shift y)."""
    azimuth, elevation, roll = np.radians([camera.azimuth, camera.elevation, camera.roll])
    away = np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    tangent = np.tan(np.radians(camera.field) / 2)
    distance = 1 / (camera.fill * tangent) + 0.15
    position = np.array([0, height / 2, 0]) + away * distance
    position[1] = max(position[1], 0.04)  # never below the ground
    forward = np.array([0, height / 2, 0]) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    return np.stack([position, right / camera.stretch, up, forward, [tangent, *camera.shift]])


def _project(points: Array, camera: Array, size: int) -> Array:
    """Screen position (V, 3): x, y in pixels, 1/z."""
    relative = points - camera[0]
    # rows of camera[1] carry the stretch of the picture: divide by their squared length to invert it
    x = relative @ camera[1] / (camera[1] @ camera[1])
    y, z = relative @ camera[2], relative @ camera[3]
    inverse = np.where(z > 0.05, 1 / np.maximum(z, 0.05), 0.0)
    column = ((x * inverse / camera[4, 0] + 1 + camera[4, 1]) / 2) * size
    row = ((1 - camera[4, 2] - y * inverse / camera[4, 0]) / 2) * size
    return np.stack([column, row, inverse], axis=-1)


def _light_row(light: Light) -> Array:
    lamps = (*light.key, *light.key_colour, *light.fill, *light.fill_colour)
    return np.array([*lamps, *light.sky, *light.floor, light.exposure, *light.gobo])


def _shadow_map(points: Array, faces: Array, clear: Array, key: Array, heading: Array) -> tuple[Array, Array]:
    """Height of the highest surface towards the light (SHADOW, SHADOW), and the axes to look it up with."""
    helper = np.array([0.0, 1.0, 0.0]) if abs(key[1]) < 0.95 else np.array([1.0, 0.0, 0.0])
    right = np.cross(helper, key)
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(key, right), key, [2.6, 0, 0], heading])
    screen = np.column_stack(
        [
            (points @ frame[0] / 2.6 * 0.5 + 0.5) * SHADOW,
            (points @ frame[1] / 2.6 * 0.5 + 0.5) * SHADOW,
            points @ key + 10,
        ]
    )
    heights = np.zeros((SHADOW, SHADOW))
    hit, bary = np.full((SHADOW, SHADOW), -1, np.int32), np.zeros((SHADOW, SHADOW, 2))
    kernels.rasterise(screen, faces, SHADOW, heights, hit, bary, clear)
    return heights, frame


def _assemble(identity: Identity, view: ViewParameters) -> tuple[dict[str, Array], int, float, float]:
    """All objects of a scene in one set of arrays; the object itself comes first.

    Returns the arrays, the number of the object's triangles, its height and the radius of its foot.
    """
    heading = np.radians(view.camera.azimuth)
    # neighbours are placed as the camera sees the scene, so that "beside" is beside
    turn = np.array(
        [[np.cos(heading), 0, np.sin(heading)], [0, 1, 0], [-np.sin(heading), 0, np.cos(heading)]]
    )
    objects = [(identity, np.zeros(3), 1.0, 0.0, view.pose)]
    for other in view.neighbours:
        who = identity if other.twin else _neighbour(other.seed)
        objects.append(
            (
                who,
                turn @ np.array(other.place),
                other.scale,
                other.azimuth + (view.camera.azimuth if other.twin else 0),
                other.seed,
            )
        )
    columns: dict[str, list[Array]] = {
        name: []
        for name in (
            "points",
            "normals",
            "rest",
            "uv",
            "faces",
            "face_material",
            "face_label",
            "materials",
            "labels",
        )
    }
    vertices = rows = inks = 0
    own_faces, height, foot = 0, 1.0, 1.0
    for number, (who, place, scale, azimuth, pose) in enumerate(objects):
        model = _model(who)
        points, normals = posed(model.mesh, who.family, model.joints, pose)
        points = (points + model.shift) * model.scale
        if number == 0:
            own_faces, height = len(model.mesh.faces), float(points[:, 1].max())
            foot = max(float(np.linalg.norm(points[:, [0, 2]], axis=1).max()), 0.15)
        else:
            matrix = rotation((0, azimuth, 0))
            points, normals = points @ matrix.T * scale + place, normals @ matrix.T
        values = (
            points,
            normals,
            model.mesh.rest,
            model.mesh.uv,
            model.mesh.faces + np.int32(vertices),
            model.mesh.materials + np.int32(rows),
            np.where(model.mesh.labels >= 0, model.mesh.labels + np.int32(inks), np.int32(-1)),
            model.materials,
            model.labels,
        )
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
        vertices, rows, inks = vertices + len(points), rows + len(model.materials), inks + len(model.labels)
    far = [
        _material_row(view.backdrop.ground_material)[None],
        _material_row(view.backdrop.far_material)[None],
    ]
    columns["materials"] += far
    arrays = {name: np.concatenate(value) for name, value in columns.items()}
    return arrays, own_faces, height, foot


def render(identity: Identity, view: ViewParameters, size: int = 256, *, oversample: int = 2) -> Rendering:
    """Draw an identity as a view shows it.

    The same identity, view and size give the same bytes, in any process and any order. oversample: rays per pixel side.
    """
    arrays, own_faces, height, foot = _assemble(identity, view)
    side = size * oversample
    camera = _camera_rows(view.camera, height)
    screen = _project(arrays["points"], camera, side)
    depth, hit, bary = np.zeros((side, side)), np.full((side, side), -1, np.int32), np.zeros((side, side, 2))
    worn = arrays["materials"][arrays["face_material"]]
    clear = worn[:, textures.CLEAR] > 0
    kernels.rasterise(screen, arrays["faces"], side, depth, hit, bary, clear)
    shag = worn[:, textures.SHAG]
    if shag.any():
        bare = hit, bary, depth
        hit, bary, depth = np.empty_like(hit), np.empty_like(bary), np.empty_like(depth)
        optics.ruffle(*bare, shag, side / 2 / camera[4, 0], hit, bary, depth)
    heading = np.array([camera[3, 0], 0.0, camera[3, 2]])
    heading /= max(float(np.linalg.norm(heading)), 1e-9)
    shadow, frame = _shadow_map(arrays["points"], arrays["faces"], clear, np.array(view.light.key), heading)
    backdrop = view.backdrop
    count = len(arrays["materials"])
    scene = np.array(
        [backdrop.ground, backdrop.wall, backdrop.distance + 0.8, count - 2, count - 1, foot * 1.1],
        np.float64,
    )
    picture = np.zeros((side, side, 3))
    kernels.shade(
        hit,
        bary,
        depth,
        arrays["faces"],
        screen,
        arrays["points"],
        arrays["normals"],
        arrays["rest"],
        arrays["uv"],
        arrays["face_material"],
        arrays["face_label"],
        arrays["materials"],
        arrays["labels"],
        camera,
        _light_row(view.light),
        shadow,
        frame,
        scene,
        oversample,
        picture,
    )
    own = ((hit >= 0) & (hit < own_faces)).astype(np.float64)
    mask = _shrink(own, oversample) >= 0.5
    picture = _shrink(picture, oversample)
    if backdrop.blur > 0:
        distance = float(np.linalg.norm(camera[0] - [0, height / 2, 0]))
        weight = _shrink(_beyond(depth, distance) * (1 - own), oversample)
        sharp, picture = picture, picture.copy()
        optics.defocus(sharp, weight, backdrop.blur * size, picture)
    return Rendering(develop(picture, view), (mask * 255).astype(np.uint8))


def _beyond(depth: Array, distance: float) -> Array:
    """How far out of focus a point of the given 1/z is, in [0, 1]: sharp up to a little behind the object."""
    far = np.where(depth > 0, 1 / np.maximum(depth, 1e-3), 1e3)
    return np.asarray(np.clip((far - distance - 0.5) / 1.2, 0, 1))


def _shrink(picture: Array, factor: int) -> Array:
    """Mean of blocks of factor × factor pixels."""
    total = sum(picture[i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.asarray(total / factor**2)


def develop(picture: Array, view: ViewParameters) -> Array:
    """Film: linear light (S, S, 3) -> sRGB uint8 with the camera's defects."""
    film, size = view.film, len(picture)
    picture = picture * film.tint
    if film.vignette > 0:
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        picture = picture * (1 - 0.5 * min(film.vignette, 1) * (x * x + y * y) / 2)[..., None]
    curve = np.power(1 - np.exp(-np.maximum(picture, 0) * 1.1), 1 / 2.2)
    curve = np.clip(0.5 + (curve - 0.5) * film.contrast, 0, 1)
    image = Image.fromarray((curve * 255 + 0.5).astype(np.uint8))
    if film.blur > 0.2:
        image = image.filter(ImageFilter.GaussianBlur(film.blur * size / 128))
    pixels = np.asarray(image)
    if film.noise > 0.002:
        grain = np.random.default_rng([view.pose, 6]).standard_normal((size, size, 3), dtype=np.float32)
        pixels = np.clip(pixels + grain * np.float32(255 * film.noise), 0, 255).astype(np.uint8)
    if film.jpeg:
        store = io.BytesIO()
        Image.fromarray(pixels).save(store, "JPEG", quality=film.jpeg)
        pixels = np.asarray(Image.open(store))
    return pixels
