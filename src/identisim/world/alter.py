"""Near-identities: the same object with one intrinsic change of graded strength (a hard negative)."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from identisim.world.identity import SURFACES, Identity, Label, Material, Part, Vector
from identisim.world.labels import draw
from identisim.world.mesh import build
from identisim.world.palette import colour, material

Random = np.random.Generator

CHANGES = ("colour", "pattern", "print", "shape", "part")
"""What can change: a colour, the texture's kind or scale, the printed matter, the proportions, one part."""

_TINY = 0.02  # share of the surface below which a part or a material is not worth changing
_TRIES = 8


def alter(identity: Identity, strength: float, seed: int, change: str | None = None) -> Identity:
    """A different object that differs from `identity` in one intrinsic way.

    strength: in (0, 1]; 0.1 is hard to see, 1 is plain. change: one of `CHANGES`, drawn when None. The result always
    has another `key`.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must lie in (0, 1]; got {strength}")
    rng = np.random.default_rng([seed, 4])
    names = [change] if change else [str(name) for name in rng.permutation(CHANGES)]
    for name in names:
        for _ in range(_TRIES):
            changed = _APPLY[name](identity, strength, rng)
            if changed.key == identity.key:
                break
            if _shows(identity, changed):
                return changed
    raise ValueError(
        f"a {identity.family} has nothing to change of kind {change!r}; choose one of {', '.join(CHANGES)}"
    )


def _shows(old: Identity, new: Identity) -> bool:
    """Whether changed labels look different: an ink may be one that the drawing never uses."""
    pairs = [(a, b) for a, b in zip(old.labels, new.labels, strict=True) if a != b]
    return not pairs or any(np.abs(draw(a).astype(int) - draw(b)).mean() > 1 for a, b in pairs)


def _bare_shares(identity: Identity) -> tuple[np.ndarray, np.ndarray]:
    """Share of the surface that each part (P,) and each material (K,) has and that no opaque label covers."""
    mesh = build(identity)
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    opaque = np.array([*(label.opaque for label in identity.labels), False])
    bare = np.where(opaque[mesh.labels], 0.0, area)
    parts = np.bincount(mesh.parts[mesh.faces[:, 0]], bare, len(identity.parts))
    materials = np.bincount(mesh.materials, bare, len(identity.materials))
    return parts / area.sum(), materials / area.sum()


def _large(shares: np.ndarray, rng: Random) -> int:
    """One of the shares that are not tiny."""
    found = np.flatnonzero(shares > _TINY)
    return int(rng.choice(found if len(found) else np.array([int(shares.argmax())])))


def _shifted(rng: Random, old: Vector, strength: float) -> Vector:
    """A colour moved in hue, saturation or value; a grey one gains a hue."""
    hue, saturation, value = colorsys.rgb_to_hsv(*old)
    sign = float(rng.choice([-1, 1]))
    if rng.random() < 0.55:
        hue = (hue + sign * (0.06 + 0.4 * strength)) % 1
        saturation = max(saturation, 0.25 + 0.5 * strength)
    else:
        step = 0.15 + 0.5 * strength
        value = float(np.clip(value + (step if value < 0.5 else -step), 0.03, 1))
    return colorsys.hsv_to_rgb(hue, saturation, value)


def _seen(identity: Identity, rng: Random) -> int:
    """A material that shows on the object."""
    return _large(_bare_shares(identity)[1], rng)


def _with_material(identity: Identity, index: int, new: Material) -> Identity:
    return replace(identity, materials=(*identity.materials[:index], new, *identity.materials[index + 1 :]))


def _with_label(identity: Identity, index: int, new: Label) -> Identity:
    return replace(identity, labels=(*identity.labels[:index], new, *identity.labels[index + 1 :]))


def _colour(identity: Identity, strength: float, rng: Random) -> Identity:
    printed = [part.label for part in identity.parts if part.label >= 0]
    if printed and rng.random() < 0.6:
        index = int(rng.choice(printed))
        old = identity.labels[index]
        which = 0 if rng.random() < 0.5 and old.opaque else int(rng.integers(1, len(old.colours)))
        colours = tuple(_shifted(rng, c, strength) if i == which else c for i, c in enumerate(old.colours))
        changed = _with_label(identity, index, replace(old, colours=colours))
        for side in (
            range(index + 1, min(index + 3, len(identity.labels))) if identity.family == "carton" else ()
        ):
            changed = _with_label(changed, side, replace(identity.labels[side], colours=colours))
        return changed
    index = _seen(identity, rng)
    first, second, third = identity.materials[index].colours
    colours = (
        _shifted(rng, first, strength),
        second if rng.random() < 0.5 else _shifted(rng, second, strength),
        third,
    )
    return _with_material(identity, index, replace(identity.materials[index], colours=colours))


def _pattern(identity: Identity, strength: float, rng: Random) -> Identity:
    index = _seen(identity, rng)
    old = identity.materials[index]
    if strength > 0.5 or old.pattern == "plain":
        other = str(rng.choice([name for name in SURFACES if name not in (old.pattern, "plain")]))
        first, second, third = old.colours
        if max(abs(a - b) for a, b in zip(first, second, strict=True)) < 0.15:
            second = _shifted(rng, first, strength)  # a pattern of equal colours would not show
        fresh = replace(old, pattern=other, colours=(first, second, third), phase=int(rng.integers(1 << 16)))
        return _with_material(identity, index, fresh)
    factor = float(np.exp(rng.choice([-1, 1]) * (0.25 + 1.2 * strength)))
    return _with_material(
        identity, index, replace(old, frequency=old.frequency * factor, phase=int(rng.integers(1 << 16)))
    )


def _print(identity: Identity, strength: float, rng: Random) -> Identity:
    printed = sorted({part.label for part in identity.parts if part.label >= 0})
    if not printed:
        return identity
    index = int(rng.choice(printed))
    old = identity.labels[index]
    colours = old.colours if strength < 0.6 else tuple(colour(rng) for _ in old.colours)
    return _with_label(identity, index, replace(old, seed=int(rng.integers(1 << 31)), colours=colours))


def _with_part(identity: Identity, index: int, *new: Part) -> Identity:
    return replace(identity, parts=(*identity.parts[:index], *new, *identity.parts[index + 1 :]))


def _shape(identity: Identity, strength: float, rng: Random) -> Identity:
    """Other proportions: all parts stretched along one axis, or one part scaled."""
    factor = float(np.exp(rng.choice([-1, 1]) * (0.15 + 0.55 * strength)))
    if rng.random() < 0.5:
        axis = int(rng.integers(3))
        stretch = tuple(factor if i == axis else 1.0 for i in range(3))
        return replace(identity, parts=tuple(_scaled(part, stretch, move=True) for part in identity.parts))
    index = _large(_bare_shares(identity)[0], rng)
    return _with_part(identity, index, _scaled(identity.parts[index], (factor, factor, factor), move=False))


def _scaled(part: Part, stretch: tuple[float, ...], *, move: bool) -> Part:
    x, y, z = (a * b for a, b in zip(part.size, stretch, strict=True))
    px, py, pz = (a * b for a, b in zip(part.position, stretch, strict=True)) if move else part.position
    return replace(part, size=(x, y, z), position=(px, py, pz))


def _part(identity: Identity, strength: float, rng: Random) -> Identity:
    """One part takes another material, disappears, or a knob is added."""
    index = _large(_bare_shares(identity)[0], rng)
    kind = rng.random()
    if kind < 0.5:
        fresh = replace(identity, materials=(*identity.materials, material(rng)))
        return _with_part(fresh, index, replace(identity.parts[index], material=len(identity.materials)))
    if kind < 0.75 and len(identity.parts) > 1 and index > 0:
        return _with_part(identity, index)
    size = 0.08 + 0.2 * strength
    old = identity.parts[index]
    x, y, z = old.position
    place = (x, y + size, z + max(old.size) * 0.4)
    number = len(identity.materials)
    knob = Part("ellipsoid", (1.0, 1.0), (size, size, size), place, material=number, joint=old.joint)
    return replace(identity, parts=(*identity.parts, knob), materials=(*identity.materials, material(rng)))


_APPLY: dict[str, Callable[[Identity, float, Random], Identity]] = {
    "colour": _colour, "pattern": _pattern, "print": _print, "shape": _shape, "part": _part,
}  # fmt: skip
