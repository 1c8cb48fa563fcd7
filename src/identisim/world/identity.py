"""What an object is: parts, materials and labels, and nothing that a photographer could change.

Units: the object stands on y = 0, looks towards +z and fits a sphere of radius 1 around (0, height/2, 0). Colours are
sRGB in [0, 1].
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """A solid texture and how it reflects light.

    pattern: a name of `PATTERNS`; the three colours are blended by it. frequency: cycles per unit. gloss: strength of
    the highlight in [0, 1]; sharpness: its exponent; mirror: share of the surroundings reflected, in the material's own
    colour above one half (metal); bump: relief; shag: length of hairs in units; clear: half transparent.
    """

    pattern: str
    colours: tuple[Vector, Vector, Vector]
    frequency: float = 4.0
    warp: float = 0.0
    direction: Vector = (0.0, 1.0, 0.0)
    phase: int = 0
    gloss: float = 0.1
    sharpness: float = 20.0
    mirror: float = 0.0
    bump: float = 0.0
    shag: float = 0.0
    clear: bool = False


PATTERNS = (
    "plain", "stripes", "check", "dots", "clouds", "patches", "rings", "marble", "bricks", "two-tone",
    "speckle", "planks", "fur", "cracks", "tartan", "spots",
    "tabby", "gradient", "weave", "tiles", "grass", "ripples", "bokeh", "goods", "clutter", "scenery",
)  # fmt: skip
"""Solid textures by name; the position is the number that the kernels switch on."""
SURFACES = PATTERNS[: PATTERNS.index("grass")]
"""The textures that objects wear; the others are surroundings."""


@dataclass(frozen=True)
class Label:
    """Printed matter on a part: a small picture drawn from its seed (see `labels.draw`).

    style: one of `labels.STYLES`; opaque paper covers the material, otherwise only the ink does.
    """

    style: str
    seed: int
    colours: tuple[Vector, ...]
    opaque: bool = True


@dataclass(frozen=True)
class Part:
    """One closed or open surface.

    kind and parameters: see `mesh`; size scales them along the axes; position is that of its origin, turn are Euler
    angles (x, y, z) in degrees. joint: name of the joint it hangs on ("" = rigid), which swings it about `position`.
    label: index into the labels or −1; wrap: how the label lies on the part ("front", "around", "faces").
    """

    kind: str
    parameters: tuple[float, ...]
    size: Vector
    position: Vector
    turn: Vector = (0.0, 0.0, 0.0)
    material: int = 0
    joint: str = ""
    label: int = -1
    wrap: str = "front"


@dataclass(frozen=True)
class Identity:
    """One object. `key` is the same for two identities exactly when they are the same object."""

    family: str
    parts: tuple[Part, ...]
    materials: tuple[Material, ...]
    labels: tuple[Label, ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that makes the object, as plain JSON values."""
        return dataclasses.asdict(self)

    @property
    def key(self) -> str:
        """Short content hash: 12 hex digits."""
        text = json.dumps(self.parameters, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
