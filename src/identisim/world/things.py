"""Vessels, vehicles, shoes and abstract sculptures."""

from __future__ import annotations

import numpy as np

from identisim.world.identity import Identity, Label, Material, Part
from identisim.world.palette import colour, label, material

Random = np.random.Generator


def vessel(rng: Random) -> Identity:
    """Cup, mug, bowl, pot or vase: open at the top, perhaps with a handle or a plant."""
    height = rng.uniform(0.35, 1.3)
    knots = np.clip(rng.normal(0.5, 0.16, 5), 0.2, 0.85) * rng.uniform(0.7, 1.1)
    outside = [
        value
        for r, t in zip(knots, np.linspace(0, 1, 5), strict=True)
        for value in (float(r), float(t * height))
    ]
    inside = [
        float(knots[4] * 0.92),
        height,
        float(knots[4] * 0.9),
        height,
        float(knots[2] * 0.85),
        0.5 * height,
        0,
        0.1 * height,
    ]
    parts = [
        Part(
            "lathe",
            (float(rng.choice([1.0, 1.0, 0.4])), 0.0, 0.0, *outside[:2], *outside, *inside),
            (1, 1, 1),
            (0, 0, 0),
            label=0 if rng.random() < 0.5 else -1,
            wrap="around",
        )
    ]
    if rng.random() < 0.5:
        size = height * rng.uniform(0.2, 0.36)
        for side in (1, -1) if rng.random() < 0.25 else (1,):
            spot = (side * float(knots[2]) * 0.95, height * rng.uniform(0.45, 0.6), 0.0)
            parts.append(
                Part(
                    "torus",
                    (rng.uniform(0.12, 0.3), -100, 100),
                    (size * 0.8, size, size),
                    spot,
                    (0, 0 if side > 0 else 180, 0),
                    material=int(rng.random() < 0.3),
                )
            )
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(4, 9))):
            turn = (rng.uniform(-50, 50), rng.uniform(0, 360), rng.uniform(-40, 40))
            parts.append(
                Part(
                    "ellipsoid",
                    (1.0, 1.0),
                    (0.09, 0.4, 0.2),
                    (rng.normal(0, 0.12), height + 0.25, rng.normal(0, 0.12)),
                    turn,
                    2,
                )
            )
    return Identity(
        "vessel",
        tuple(parts),
        (material(rng), material(rng), material(rng, "plain", "fur", "clouds")),
        (label(rng, opaque=0.15),),
    )


def vehicle(rng: Random) -> Identity:
    """A toy car, van or truck."""
    length, width, height = rng.uniform(0.5, 0.95), rng.uniform(0.25, 0.42), rng.uniform(0.12, 0.3)
    wheel = rng.uniform(0.1, 0.22)
    parts = [
        Part(
            "box",
            (0.25, rng.uniform(0.85, 1), rng.uniform(0.85, 1)),
            (width, height, length),
            (0, wheel + height, 0),
            label=0 if rng.random() < 0.5 else -1,
            wrap="faces",
        )
    ]
    cabin, at = rng.uniform(0.25, 0.8) * length, rng.uniform(-0.3, 0.3) * length
    roof = rng.uniform(0.1, 0.32)
    parts.append(
        Part(
            "box",
            (0.2, rng.uniform(0.6, 1), rng.uniform(0.5, 1)),
            (width * 0.92, roof, cabin),
            (0, wheel + 2 * height + roof * 0.9, at),
            material=int(rng.random() < 0.5),
        )
    )
    parts.append(
        Part(
            "box",
            (0.1, 0.9, 0.8),
            (width * 0.95, roof * 0.5, cabin * 0.9),
            (0, wheel + 2 * height + roof * 0.95, at),
            material=2,
        )
    )
    for z in (-1, 1):
        for x in (-1, 1):
            parts.append(
                Part(
                    "lathe",
                    (1.0, 0, -1, 0.5, -1, 1, -0.8, 1, 0.8, 0.5, 1, 0, 1),
                    (wheel, wheel * 0.5, wheel),
                    (x * width, wheel, z * length * 0.62),
                    (0, 0, 90),
                    3,
                    joint=f"wheel{z}",
                )
            )
    glass = Material(
        "plain", ((0.05, 0.07, 0.1), (0.2, 0.25, 0.3), (0.5, 0.5, 0.5)), gloss=0.9, sharpness=100, mirror=0.4
    )
    tyre = Material(
        "rings", ((0.04, 0.04, 0.04), colour(rng), colour(rng)), frequency=float(rng.uniform(2, 5))
    )
    return Identity(
        "vehicle",
        tuple(parts),
        (material(rng, "plain", "stripes", "two-tone", "plain"), material(rng), glass, tyre),
        (label(rng, opaque=0.1), label(rng, opaque=0.1), Label("plain", 0, (colour(rng),), False)),
    )


def shoe(rng: Random) -> Identity:
    """A shoe or boot with a sole and laces."""
    length, width, ankle = rng.uniform(0.6, 0.9), rng.uniform(0.22, 0.34), rng.uniform(0.1, 0.6)
    sole, heel = rng.uniform(0.05, 0.14), rng.uniform(0.0, 0.25)
    parts = [
        Part("ellipsoid", (0.5, 0.8), (width * 1.05, sole, length), (0, sole, 0), (-heel * 25, 0, 0), 1),
        Part(
            "ellipsoid",
            (0.8, 0.9),
            (width, rng.uniform(0.16, 0.3), length * 0.62),
            (0, sole * 2 + 0.12, length * 0.33),
            label=0 if rng.random() < 0.4 else -1,
        ),
        Part(
            "lathe",
            (
                0.9,
                width * 0.95,
                0,
                width,
                0.2,
                width * rng.uniform(0.7, 1),
                0.3 + ankle,
                width * 0.6,
                0.3 + ankle,
                width * 0.5,
                0.1,
            ),
            (1, 1, 1.5),
            (0, sole + heel, -length * 0.5),
        ),
    ]
    for row in range(int(rng.integers(0, 6))):
        parts.append(
            Part(
                "capsule",
                (1.0,),
                (0.025, width * 0.9, 0.025),
                (width * 0.45, sole * 2 + 0.38 - row * 0.035, -0.05 + row * 0.1),
                (0, 0, -90),
                2,
            )
        )
    return Identity(
        "shoe",
        tuple(parts),
        (material(rng), material(rng, "plain", "stripes"), material(rng, "plain")),
        (label(rng, opaque=0.2),),
    )


def sculpture(rng: Random) -> Identity:
    """Abstract assembly of a few solids, often mirror-symmetric or stacked."""
    parts = []
    y = 0.0
    stacked = rng.random() < 0.5
    for _ in range(int(rng.integers(2, 6))):
        size = (rng.uniform(0.15, 0.5), rng.uniform(0.12, 0.45), rng.uniform(0.15, 0.5))
        if stacked:
            spot, y = (0.0, y + size[1], 0.0), y + 2 * size[1] * 0.92
        else:
            spot = (rng.uniform(-0.5, 0.5), rng.uniform(0.2, 1.2), rng.uniform(-0.4, 0.4))
        turn = (0.0, rng.uniform(0, 360), 0.0) if stacked else tuple(rng.uniform(0, 360, 3))
        kind = str(rng.choice(["ellipsoid", "box", "torus", "prism", "lathe"]))
        parameters = {
            "ellipsoid": (rng.uniform(0.2, 1.4), rng.uniform(0.2, 1.4)),
            "box": (rng.uniform(0.03, 0.4), rng.uniform(0.3, 1), rng.uniform(0.3, 1)),
            "torus": (rng.uniform(0.15, 0.45),),
            "prism": (float(rng.integers(3, 9)), rng.uniform(0.05, 0.5)),
            "lathe": (
                1.0,
                0,
                -1,
                *np.column_stack([rng.uniform(0.2, 1, 5), np.linspace(-1, 1, 5)]).ravel(),
                0,
                1,
            ),
        }[kind]
        number = int(rng.integers(3))
        parts.append(
            Part(
                kind,
                tuple(map(float, parameters)),
                size,
                spot,
                turn,
                number,
                label=0 if rng.random() < 0.3 else -1,
            )
        )
        if not stacked and rng.random() < 0.5:
            twin = (-spot[0], spot[1], spot[2])
            parts.append(
                Part(kind, tuple(map(float, parameters)), size, twin, (turn[0], -turn[1], -turn[2]), number)
            )
    return Identity(
        "sculpture", tuple(parts), (material(rng), material(rng), material(rng)), (label(rng, opaque=0.3),)
    )
