"""Colours, materials and labels, drawn at random: what all families of objects share."""

from __future__ import annotations

import colorsys

import numpy as np

from identisim.world.identity import SURFACES, Label, Material, Vector
from identisim.world.labels import STYLES

Random = np.random.Generator


def colour(rng: Random) -> Vector:
    """One surface colour: half saturated, a quarter pale or grey, a quarter brownish."""
    kind = rng.random()
    if kind < 0.5:
        hue, saturation, value = rng.random(), rng.uniform(0.45, 1.0), rng.uniform(0.25, 1.0)
    elif kind < 0.75:
        hue, saturation, value = rng.random(), rng.uniform(0.0, 0.2), rng.uniform(0.05, 1.0)
    else:
        hue, saturation, value = rng.uniform(0.02, 0.13), rng.uniform(0.25, 0.8), rng.uniform(0.12, 0.9)
    return colorsys.hsv_to_rgb(hue, saturation, value)


def _near(rng: Random, base: Vector, spread: float) -> Vector:
    shift = rng.normal(0, spread, 3) + rng.normal(0, spread)
    red, green, blue = np.clip(np.array(base) + shift, 0.02, 1.0)
    return float(red), float(green), float(blue)


def _colours(rng: Random) -> tuple[Vector, Vector, Vector]:
    first = colour(rng)
    second = _near(rng, first, 0.18) if rng.random() < 0.4 else colour(rng)
    return first, second, colour(rng)


def material(rng: Random, *patterns: str) -> Material:
    """A material with one of the patterns (any when none is named)."""
    names = patterns or SURFACES
    shine = rng.random()
    return Material(
        pattern=str(rng.choice(names)),
        colours=_colours(rng),
        frequency=float(np.exp(rng.uniform(np.log(1.5), np.log(14)))),
        warp=float(rng.choice([0.0, rng.uniform(0, 0.6)])),
        direction=_direction(rng),
        phase=int(rng.integers(1 << 16)),
        gloss=float(rng.uniform(0, 0.15) if shine < 0.5 else rng.uniform(0.15, 0.9)),
        sharpness=float(np.exp(rng.uniform(np.log(5), np.log(150)))),
        mirror=float(rng.uniform(0.05, 0.5) if shine > 0.8 else 0.0),
        bump=float(rng.choice([0.0, rng.uniform(0, 0.5)])),
    )


def _direction(rng: Random) -> Vector:
    if rng.random() < 0.6:
        return (1.0, 0.0, 0.0) if rng.random() < 0.4 else (0.0, 1.0, 0.0)
    x, y, z = rng.normal(size=3)
    length = float(np.sqrt(x * x + y * y + z * z)) + 1e-9
    return float(x / length), float(y / length), float(z / length)


def label(rng: Random, *, opaque: float = 0.7, style: str | None = None) -> Label:
    """A label; opaque is the chance that it has its own paper."""
    return Label(
        style or str(rng.choice(STYLES)),
        int(rng.integers(1 << 31)),
        tuple(colour(rng) for _ in range(5)),
        bool(rng.random() < opaque),
    )


def metal(rng: Random) -> Material:
    """Steel, brass, copper, gold or lacquered metal: reflects the surroundings in its own colour."""
    tone = [(0.75, 0.76, 0.78), (0.85, 0.68, 0.35), (0.8, 0.48, 0.33), (0.4, 0.4, 0.42), colour(rng)]
    base = tone[int(rng.integers(len(tone)))]
    return Material(
        str(rng.choice(["plain", "plain", "gradient", "speckle"])),
        (base, _near(rng, base, 0.08), _near(rng, base, 0.08)),
        frequency=float(rng.uniform(1.5, 9)),
        phase=int(rng.integers(1 << 16)),
        gloss=float(rng.uniform(0.6, 1.4)),
        sharpness=float(rng.uniform(25, 160)),
        mirror=float(rng.uniform(0.55, 0.85)),
        bump=float(rng.choice([0.0, rng.uniform(0, 0.3)])),
    )


def glass(rng: Random) -> Material:
    """Clear or coloured glass or plastic, half transparent."""
    base = _near(rng, (0.8, 0.88, 0.88), 0.05) if rng.random() < 0.6 else colour(rng)
    mirror = float(rng.uniform(0.15, 0.45))
    return Material(
        "plain", (base,) * 3, gloss=1.2, sharpness=float(rng.uniform(60, 150)), mirror=mirror, clear=True
    )


COATS: tuple[Vector, ...] = (
    (0.93, 0.91, 0.87), (0.12, 0.11, 0.11), (0.45, 0.44, 0.43), (0.75, 0.48, 0.24), (0.42, 0.27, 0.16),
    (0.86, 0.76, 0.6), (0.63, 0.55, 0.45), (0.25, 0.19, 0.15), (0.58, 0.6, 0.64), (0.85, 0.65, 0.4),
)  # fmt: skip
"""White, black, grey, ginger, brown, cream, fawn, chocolate, blue-grey and golden hair."""


def coat(rng: Random, *patterns: str, natural: float = 0.8) -> Material:
    """Hair or plush: mostly natural colours, soft patterns, a ragged edge when long."""
    if rng.random() < natural:
        first, second, third = (
            _near(rng, COATS[int(i)], 0.04) for i in rng.choice(len(COATS), 3, replace=False)
        )
    else:
        first, second, third = _colours(rng)
    names = patterns or (
        "plain",
        "plain",
        "fur",
        "tabby",
        "spots",
        "patches",
        "gradient",
        "clouds",
        "two-tone",
    )
    shag = float(rng.choice([0.004, rng.uniform(0.01, 0.03), rng.uniform(0.02, 0.07)]))
    return Material(
        str(rng.choice(names)), (first, second, third), frequency=float(np.exp(rng.uniform(0.7, 2.1))),
        warp=float(rng.uniform(0, 0.7)), direction=(0.0, 0.3, 0.954) if rng.random() < 0.7 else (0.0, 1.0, 0.0),
        phase=int(rng.integers(1 << 16)), gloss=float(rng.uniform(0, 0.12)), sharpness=8.0,
        bump=float(rng.uniform(0.2, 0.7)), shag=shag,
    )  # fmt: skip
