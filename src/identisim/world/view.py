"""How an object is seen: pose, camera, light, background, neighbours, occluders and film, drawn from a seed.

Angles in degrees, lengths in units of the object (it fits a sphere of radius 1), colours linear.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from identisim.world.identity import Material, Vector
from identisim.world.palette import material

Random = np.random.Generator


NEIGHBOURS = 512
"""How many different things stand around in the world: few enough to keep them all ready to draw."""


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
    """Key light (direction towards it), fill light, ambient light from above (sky) and below (floor)."""

    key: Vector
    key_colour: Vector
    fill: Vector
    fill_colour: Vector
    sky: Vector
    floor: Vector
    exposure: float


@dataclass(frozen=True)
class Backdrop:
    """What lies around: ground and wall (or an open, distant scene) with their materials."""

    ground: bool
    wall: bool
    distance: float
    ground_material: Material
    far_material: Material


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
    camera, light, backdrop = sample_camera(rng), sample_light(rng), sample_backdrop(rng)
    return ViewParameters(
        camera, light, backdrop, sample_neighbours(rng), sample_film(rng), int(rng.integers(1 << 31))
    )


def sample_camera(rng: Random) -> Camera:
    """A camera; most look at the front half, as people do."""
    azimuth = rng.normal(0, 38) if rng.random() < 0.75 else rng.uniform(-180, 180)
    return Camera(
        float(azimuth),
        float(np.clip(rng.normal(16, 16), -8, 70)),
        float(rng.normal(0, 7)),
        float(rng.uniform(18, 60)),
        float(np.exp(rng.uniform(-0.75, 0.35))),
        (float(rng.normal(0, 0.1)), float(rng.normal(0, 0.1))),
        float(np.exp(rng.normal(0, 0.12))),
    )


def _warmth(rng: Random, strength: float, spread: float = 0.25) -> Vector:
    warm = rng.normal(0, spread)
    red, green, blue = strength * np.exp([0.5 * warm, rng.normal(0, 0.05), -0.5 * warm])
    return float(red), float(green), float(blue)


def sample_light(rng: Random) -> Light:
    """Sun, lamp or overcast light."""
    heading, height = np.radians(rng.uniform(0, 360)), np.radians(rng.uniform(15, 80))
    key = (
        float(np.cos(height) * np.sin(heading)),
        float(np.sin(height)),
        float(np.cos(height) * np.cos(heading)),
    )
    side = np.radians(rng.uniform(0, 360))
    hard = rng.uniform(0.1, 2.2)
    return Light(
        key,
        _warmth(rng, hard),
        (float(np.sin(side)), 0.0, float(np.cos(side))),
        _warmth(rng, rng.uniform(0, 0.5), 0.4),
        _warmth(rng, rng.uniform(0.35, 0.9)),
        _warmth(rng, rng.uniform(0.1, 0.5)),
        float(np.exp(rng.normal(0, 0.28))) * 1.5 / (0.7 + 0.55 * hard),
    )


def sample_backdrop(rng: Random) -> Backdrop:
    """Room, table, street, lawn or an open distance."""
    ground = rng.random() < 0.75
    return Backdrop(
        bool(ground),
        bool(rng.random() < (0.6 if ground else 0.3)),
        float(rng.uniform(0.9, 5)),
        dataclasses.replace(_muted(rng), frequency=float(np.exp(rng.uniform(-0.7, 2.5)))),
        dataclasses.replace(_muted(rng), frequency=float(np.exp(rng.uniform(-0.7, 2.3)))),
    )


def _muted(rng: Random) -> Material:
    """A material of surroundings: rooms, streets and lawns are greyer and less contrasted than the things in them."""
    loud = material(rng)
    grey, contrast = rng.beta(2, 1.2), rng.uniform(0.1, 1.0)
    colours = np.array(loud.colours)
    colours = colours * (1 - grey) + colours.mean(1, keepdims=True) * grey
    colours = colours[:1] + contrast * (colours - colours[:1])
    first, second, third = (tuple(map(float, row)) for row in colours)
    return dataclasses.replace(loud, colours=(first, second, third), mirror=0.0)  # type: ignore[arg-type]


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
    if rng.random() < 0.15:
        # in front, to one side: it hides part of the object
        place = (
            float(rng.choice([-1, 1]) * rng.uniform(0.45, 0.9)),
            float(rng.uniform(-0.7, 0.2)),
            float(rng.uniform(0.9, 1.4)),
        )
        found.append(
            Neighbour(
                int(rng.integers(NEIGHBOURS)),
                place,
                float(rng.uniform(0.25, 0.6)),
                float(rng.uniform(0, 360)),
            )
        )
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
