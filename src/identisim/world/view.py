"""How an object is seen: pose, camera, light, background, neighbours, occluders and film, drawn from a seed.

Angles in degrees, lengths in units of the object (it fits a sphere of radius 1), colours linear.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from identisim.world.identity import Vector
from identisim.world.places import Backdrop, sample_backdrop

Random = np.random.Generator


NEIGHBOURS = 512
"""How many different things stand around in the world: few enough to keep them all ready to draw."""
PROPS = 32
"""How many different hands and twigs get in the way; their seeds follow those of the neighbours."""


@dataclass(frozen=True)
class Camera:
    """azimuth 0 looks at the front; fill: the share of the frame's side that the object takes; shift: off centre."""

    azimuth: float
    elevation: float
    roll: float
    field: float
    fill: float
    shift: tuple[float, float]
    stretch: float


@dataclass(frozen=True)
class Light:
    """Key light (direction towards it), fill light, ambient light from above (sky) and below (floor).

    gobo: what the key light passes through: kind (0 nothing, 1 leaves, 2 a window's bars, 3 an edge that shades one
    half), its scale and its seed.
    """

    key: Vector
    key_colour: Vector
    fill: Vector
    fill_colour: Vector
    sky: Vector
    floor: Vector
    exposure: float
    gobo: tuple[int, float, int] = (0, 1.0, 0)


@dataclass(frozen=True)
class Neighbour:
    """Another object in the scene, by its seed; `twin` repeats the object itself (a shelf of one product)."""

    seed: int
    place: Vector
    scale: float
    azimuth: float
    twin: bool = False


@dataclass(frozen=True)
class Film:
    """Sensor and processing.

    blur: sigma in pixels at size 128; noise: sd in [0, 1]; tint: white balance gains; jpeg: quality, 0 = none.
    """

    blur: float
    noise: float
    tint: Vector
    contrast: float
    vignette: float
    jpeg: int


@dataclass(frozen=True)
class ViewParameters:
    """Everything about a picture but the object."""

    camera: Camera
    light: Light
    backdrop: Backdrop
    neighbours: tuple[Neighbour, ...]
    film: Film
    pose: int  # seed of the joints' angles

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return dataclasses.asdict(self)


def sample_view(seed: int, identity: int, view: int) -> ViewParameters:
    """The view number `view` of identity number `identity` in the world `seed`; the same on every machine."""
    rng = np.random.default_rng([seed, 2, identity, view])
    camera = sample_camera(rng)
    light, backdrop = sample_light(rng, camera), sample_backdrop(rng)
    return ViewParameters(
        camera, light, backdrop, sample_neighbours(rng), sample_film(rng), int(rng.integers(1 << 31))
    )


def sample_camera(rng: Random) -> Camera:
    """A camera; most look at the front half, as people do."""
    azimuth = rng.normal(0, 38) if rng.random() < 0.75 else rng.uniform(-180, 180)
    size = rng.random()
    fill = rng.uniform(-1.2, -0.75) if size < 0.14 else rng.uniform(-0.75, 0.35)
    cut = 0.3 if size > 0.9 else 0.1  # some objects are cut by the frame
    return Camera(
        float(azimuth),
        float(np.clip(rng.normal(16, 16), -8, 70)),
        float(rng.normal(0, 7)),
        float(rng.uniform(18, 60)),
        float(np.exp(fill)),
        (float(np.clip(rng.normal(0, cut), -0.6, 0.6)), float(np.clip(rng.normal(0, cut), -0.6, 0.6))),
        float(np.exp(rng.normal(0, 0.12))),
    )


def _warmth(rng: Random, strength: float, spread: float = 0.25) -> Vector:
    warm = rng.normal(0, spread)
    red, green, blue = strength * np.exp([0.5 * warm, rng.normal(0, 0.05), -0.5 * warm])
    return float(red), float(green), float(blue)


def _direction(heading: float, height: float) -> Vector:
    flat = np.cos(height)
    return float(flat * np.sin(heading)), float(np.sin(height)), float(flat * np.cos(heading))


def sample_light(rng: Random, camera: Camera) -> Light:
    """Sun, lamp, overcast or coloured light, from behind the object at times, or the camera's own flash."""
    heading, height = np.radians(rng.uniform(0, 360)), np.radians(rng.uniform(15, 80))
    hard, dim, spread = rng.uniform(0.1, 2.2), 1.0, 0.25
    kind = rng.random()
    if kind < 0.1:  # back light
        heading, height = (
            np.radians(camera.azimuth + 180 + rng.normal(0, 25)),
            np.radians(rng.uniform(15, 45)),
        )
        hard = rng.uniform(1.2, 2.8)
    elif kind < 0.17:  # flash
        heading, height = np.radians(camera.azimuth + rng.normal(0, 4)), np.radians(camera.elevation + 6)
        hard, dim = rng.uniform(1.5, 2.6), rng.uniform(0.08, 0.4)
    elif kind < 0.27:  # evening, neon
        hard, dim, spread = rng.uniform(0.3, 1.6), rng.uniform(0.1, 0.5), 0.9
    side = np.radians(rng.uniform(0, 360))
    gobo = (0, 1.0, 0)
    if hard > 0.9 and rng.random() < 0.45:
        which = int(rng.integers(1, 4))
        gobo = (which, float(np.exp(rng.uniform(1.2, 2.9))), int(rng.integers(1 << 16)))
    return Light(
        _direction(heading, max(height, 0.05)),
        _warmth(rng, hard, spread),
        (float(np.sin(side)), 0.0, float(np.cos(side))),
        _warmth(rng, dim * rng.uniform(0, 0.5), 0.4 + spread / 3),
        _warmth(rng, dim * rng.uniform(0.35, 0.9), spread),
        _warmth(rng, dim * rng.uniform(0.1, 0.5), spread),
        float(np.exp(rng.normal(0, 0.28))) * 1.5 / (0.7 * dim**0.7 + 0.55 * hard),
        gobo,
    )


def sample_neighbours(rng: Random) -> tuple[Neighbour, ...]:
    """Clutter beside and behind, sometimes a shelf of the same product, sometimes something in front."""
    kind = rng.random()
    found: list[Neighbour] = []
    if kind < 0.15:
        gap = rng.uniform(0.95, 1.5)
        twin, depth = bool(rng.random() < 0.5), rng.uniform(-0.5, 0.1)
        for slot in (-2, -1, 1, 2):
            place = (slot * gap, 0.0, float(depth + rng.normal(0, 0.06)))
            found.append(
                Neighbour(
                    int(rng.integers(NEIGHBOURS)),
                    place,
                    float(rng.uniform(0.85, 1.15)),
                    float(rng.normal(0, 12)),
                    twin,
                )
            )
    elif kind < 0.6:
        for _ in range(int(rng.integers(1, 6))):
            angle, far = rng.uniform(-1.9, 1.9), rng.uniform(1.3, 3.5)
            place = (float(far * np.sin(angle)), 0.0, float(-far * np.cos(angle) * 0.8))
            found.append(
                Neighbour(
                    int(rng.integers(NEIGHBOURS)),
                    place,
                    float(rng.uniform(0.5, 1.6)),
                    float(rng.uniform(0, 360)),
                )
            )
    if rng.random() < 0.2:
        # in front, to one side: it hides part of the object
        place = (
            float(rng.choice([-1, 1]) * rng.uniform(0.45, 0.9)),
            float(rng.uniform(-0.7, 0.2)),
            float(rng.uniform(0.9, 1.4)),
        )
        held = rng.random() < 0.55
        seed = NEIGHBOURS + int(rng.integers(PROPS)) if held else int(rng.integers(NEIGHBOURS))
        scale = float(rng.uniform(0.4, 0.9) if held else rng.uniform(0.25, 0.6))
        found.append(Neighbour(seed, place, scale, float(rng.uniform(0, 360))))
    return tuple(found)


def sample_film(rng: Random) -> Film:
    """A phone's or a camera's defects."""
    return Film(
        float(max(0.0, rng.normal(0.2, 0.45))),
        float(abs(rng.normal(0, 0.018))),
        _warmth(rng, 1.0, 0.12),
        float(rng.uniform(0.8, 1.25)),
        float(max(0.0, rng.normal(0, 0.25))),
        int(rng.choice([0, 0, int(rng.integers(35, 95))])),
    )
