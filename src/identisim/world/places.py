"""Where an object is seen: floors and walls of rooms, streets, lawns and sand, shelves, jumble, blurred distance.

Angles in degrees, lengths in units of the object, colours sRGB.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from identisim.world.identity import Material, Vector
from identisim.world.palette import material

Random = np.random.Generator


@dataclass(frozen=True)
class Backdrop:
    """What lies around: ground and wall (or an open, distant scene) with their materials.

    blur: radius of the disc that a far point becomes, as a share of the picture's side; 0 = all sharp.
    """

    ground: bool
    wall: bool
    distance: float
    ground_material: Material
    far_material: Material
    blur: float = 0.0


Kind = tuple[str, tuple[str, str, str], float, float]
"""pattern, three colours as hex, lowest and highest frequency."""

OUTDOOR: tuple[Kind, ...] = (
    ("grass", ("3f5a22", "7f9a45", "b8b060"), 5, 14), ("grass", ("5a5a2a", "9a8f50", "d8cfa0"), 4, 10),
    ("ripples", ("c9ac80", "e6d2a8", "a88a60"), 1, 5), ("clouds", ("e8eef5", "ffffff", "c8d4e4"), 1, 4),
    ("speckle", ("80807c", "9a9a95", "606060"), 3, 9), ("tiles", ("6a6660", "a09a90", "8a8078"), 1, 4),
    ("bricks", ("5a5048", "9a6a55", "b08a70"), 1.5, 5), ("cracks", ("8a8478", "5a554c", "9a9488"), 1, 5),
    ("clouds", ("6a5038", "8f7050", "4a3828"), 2, 7), ("speckle", ("5a4a30", "a07a40", "6a6a2a"), 4, 9),
)  # fmt: skip
"""Lawn, dry grass, sand, snow, asphalt, pavement, brick paving, cracked earth, soil, leaves."""

FLOORS: tuple[Kind, ...] = (
    ("planks", ("a87848", "8a5c34", "4a3018"), 1.5, 6), ("planks", ("cfae80", "b88f5c", "7a5838"), 1.5, 6),
    ("planks", ("5a3a26", "46291a", "20120a"), 1.5, 6), ("tiles", ("8a8a86", "e2e0d8", "d0cec6"), 1, 3),
    ("fur", ("b8a890", "9a8870", "d0c4b0"), 6, 14), ("fur", ("5a6478", "465064", "7a8498"), 6, 14),
    ("weave", ("a8a49a", "c2beb4", "8a867c"), 3, 9), ("weave", ("7a3030", "963c3c", "602020"), 3, 9),
    ("tartan", ("b03030", "f0e8d8", "203860"), 1, 4), ("stripes", ("e8e4dc", "7a90a8", "c0c0c0"), 1, 4),
    ("marble", ("e4e2de", "b8b4b0", "8a8480"), 0.5, 2), ("plain", ("dcd8d0", "dcd8d0", "dcd8d0"), 1, 2),
    ("check", ("e4e0d8", "30302e", "808080"), 0.7, 2.5), ("tabby", ("8a3a30", "d8b070", "28303a"), 1, 3),
)  # fmt: skip
"""Oak, pale and dark boards, tiles, carpets, sofa cloth, blankets, stone, table tops, a rug."""

WALLS: tuple[Kind, ...] = (
    ("plain", ("e4e0d8", "e4e0d8", "e4e0d8"), 1, 2), ("plain", ("a8b8b0", "a8b8b0", "a8b8b0"), 1, 2),
    ("bricks", ("c8bcae", "9a5240", "b87860"), 2, 6), ("tiles", ("b0b4b4", "eef0f0", "d8e4e8"), 1.5, 5),
    ("planks", ("a87848", "8a5c34", "4a3018"), 1.5, 5), ("stripes", ("e0d8c4", "c4b494", "b0a080"), 1.5, 5),
    ("dots", ("e8e0d4", "a8b8c8", "c8a8a8"), 2, 5), ("clouds", ("c0bcb4", "a8a49c", "d8d4cc"), 0.7, 3),
    ("goods", ("808080", "808080", "808080"), 0.8, 2.2), ("clutter", ("808080", "808080", "808080"), 0.7, 3),
    ("gradient", ("b0b8c0", "e8e8ec", "b0b8c0"), 0.5, 1.5), ("tiles", ("807468", "4a6a78", "5a8090"), 2, 6),
)  # fmt: skip
"""Painted, brick, tiled and panelled walls, wallpapers, plaster, a shelf of goods, jumble."""

DISTANCES: tuple[Kind, ...] = (
    ("scenery", ("26361a", "5f7a38", "a8c4e4"), 2, 8), ("scenery", ("3a342c", "9a8a78", "c4d0dc"), 2, 8),
    ("scenery", ("5a4626", "b88840", "d8dce0"), 2, 8), ("bokeh", ("182016", "6a8a4a", "e8f0c8"), 2, 7),
    ("bokeh", ("140f18", "c08040", "ffe0a0"), 2, 7), ("clutter", ("808080", "808080", "808080"), 2, 6),
)  # fmt: skip
"""Woods, streets, autumn, light between leaves, lights at night, a busy room."""


def _hex(rng: Random, text: str) -> Vector:
    base = np.array([int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    red, green, blue = np.clip(base * np.exp(rng.normal(0, 0.14) + rng.normal(0, 0.05, 3)), 0.01, 1)
    return float(red), float(green), float(blue)


def _laid(rng: Random, kinds: tuple[Kind, ...]) -> Material:
    pattern, colours, low, high = kinds[int(rng.integers(len(kinds)))]
    first, second, third = (_hex(rng, text) for text in colours)
    shine = rng.random() < 0.2
    turn = rng.uniform(0, np.pi)
    return Material(
        pattern, (first, second, third), float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        float(rng.choice([0.0, rng.uniform(0, 0.15)])), (float(np.cos(turn)), float(np.sin(turn)), 0.0),
        int(rng.integers(1 << 16)), gloss=float(rng.uniform(0, 0.5) if shine else 0.03),
        sharpness=float(rng.uniform(10, 60)),
    )  # fmt: skip


def sample_backdrop(rng: Random) -> Backdrop:
    """A room, a street, a lawn, a table, a shelf or an open distance."""
    kind = rng.random()
    blur = float(rng.choice([0.0, 0.0, rng.uniform(0.01, 0.035), rng.uniform(0.02, 0.06)]))
    distance = float(rng.uniform(0.9, 5))
    if kind < 0.38:
        return Backdrop(
            True, bool(rng.random() < 0.75), distance, _laid(rng, FLOORS), _laid(rng, WALLS), blur
        )
    if kind < 0.64:
        built = bool(rng.random() < 0.15)
        far = _laid(rng, WALLS if built else DISTANCES)
        return Backdrop(True, built, distance, _laid(rng, OUTDOOR), far, blur)
    if kind < 0.76:
        near = float(rng.uniform(0.5, 1.6))
        busy = _laid(rng, tuple(wall for wall in WALLS if wall[0] in ("goods", "clutter")))
        return Backdrop(bool(rng.random() < 0.7), True, near, _laid(rng, FLOORS), busy, blur)
    if kind < 0.82:
        return Backdrop(False, False, distance, _laid(rng, FLOORS), _laid(rng, DISTANCES), blur)
    ground = rng.random() < 0.75
    floor, far = (
        dataclasses.replace(_muted(rng), frequency=float(np.exp(rng.uniform(-0.7, high))))
        for high in (2.5, 2.3)
    )
    return Backdrop(bool(ground), bool(rng.random() < (0.6 if ground else 0.3)), distance, floor, far, blur)


def _muted(rng: Random) -> Material:
    """A material of surroundings: rooms, streets and lawns are greyer and less contrasted than the things in them."""
    loud = material(rng)
    grey, contrast = rng.beta(2, 1.2), rng.uniform(0.1, 1.0)
    colours = np.array(loud.colours)
    colours = colours * (1 - grey) + colours.mean(1, keepdims=True) * grey
    colours = np.clip(colours[:1] + contrast * (colours - colours[:1]), 0.0, 1.0)
    first, second, third = (tuple(map(float, row)) for row in colours)
    return dataclasses.replace(loud, colours=(first, second, third), mirror=0.0)  # type: ignore[arg-type]
