"""Things that are printed on: cartons, bottles, bags, books and signs."""

from __future__ import annotations

import numpy as np

from identisim.world.identity import Identity, Label, Part
from identisim.world.palette import label, material

Random = np.random.Generator


def carton(rng: Random) -> Identity:
    """A box with three printed faces, perhaps a gable and a cap."""
    width, height, depth = rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.9), rng.uniform(0.18, 0.5)
    rounding = rng.uniform(0.02, 0.12)
    parts = [Part("box", (rounding, 1.0, 1.0), (width, height, depth), (0, height, 0), label=0, wrap="faces")]
    if rng.random() < 0.45:
        rise = rng.uniform(0.1, 0.3)
        parts.append(
            Part("box", (0.02, 1.0, 0.06), (width, rise, depth), (0, 2 * height + rise, 0), material=0)
        )
    if rng.random() < 0.5:
        cap = rng.uniform(0.06, 0.14)
        spot = (
            rng.uniform(-0.4, 0.4) * width,
            2 * height + rng.uniform(0.05, 0.2),
            rng.uniform(0, 0.6) * depth,
        )
        parts.append(
            Part("lathe", (1.0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1), (cap, cap, cap), spot, material=1)
        )
    front = label(rng, opaque=1.0)
    side = Label(front.style, int(rng.integers(1 << 31)), front.colours, True)
    top = Label("plain", int(rng.integers(1 << 31)), front.colours, True)
    return Identity(
        "carton", tuple(parts), (material(rng, "plain"), material(rng, "plain")), (front, side, top)
    )


def bottle(rng: Random) -> Identity:
    """A bottle, can or jar: a turned body with a sleeve and a cap."""
    radius, height = rng.uniform(0.2, 0.5), rng.uniform(0.6, 1.6)
    neck, shoulder = rng.uniform(0.25, 1.0), rng.uniform(0.5, 0.92)
    waist = rng.uniform(0.75, 1.1)
    profile = (
        0,
        0,
        radius * 0.95,
        0,
        radius * 0.95,
        0,
        radius,
        0.05 * height,
        radius * waist,
        0.4 * height,
        radius,
        shoulder * height,
        radius * (neck + 0.15),
        (shoulder + 0.06) * height,
        radius * neck,
        height,
        radius * neck,
        height,
        0,
        height,
    )
    squareness = float(rng.choice([1.0, 1.0, rng.uniform(0.3, 0.7)]))
    parts = [
        Part(
            "lathe",
            (squareness, *profile),
            (1, 1, 1),
            (0, 0, 0),
            label=0 if rng.random() < 0.3 else -1,
            wrap="around",
        )
    ]
    low, high = rng.uniform(0.05, 0.25) * height, rng.uniform(0.5, shoulder) * height
    sleeve = radius * max(1.0, waist) * 1.02
    if rng.random() < 0.85:
        parts.append(
            Part(
                "lathe",
                (squareness, sleeve, low, sleeve, high),
                (1, 1, 1),
                (0, 0, 0),
                material=1,
                label=1,
                wrap="around",
            )
        )
    if rng.random() < 0.8:
        wide = radius * neck * rng.uniform(0.9, 1.25)
        tall = rng.uniform(0.05, 0.18) * height
        cap = (wide, height, wide, height, wide, height + tall, wide, height + tall, 0, height + tall)
        parts.append(Part("lathe", (1.0, *cap), (1, 1, 1), (0, 0, 0), material=2))
    return Identity(
        "bottle",
        tuple(parts),
        (material(rng), material(rng, "plain"), material(rng, "plain", "stripes")),
        (label(rng, opaque=0.3), label(rng, opaque=0.85)),
    )


def bag(rng: Random) -> Identity:
    """A bag with handles, a pocket and a clasp."""
    width, height, depth = rng.uniform(0.35, 0.7), rng.uniform(0.3, 0.75), rng.uniform(0.12, 0.4)
    body = Part(
        "box",
        (rng.uniform(0.15, 0.6), rng.uniform(0.7, 1.05), rng.uniform(0.3, 1)),
        (width, height, depth),
        (0, height, 0),
        label=0 if rng.random() < 0.6 else -1,
    )
    parts = [body]
    ring = rng.uniform(0.2, 0.45)
    for z in (-1, 1) if rng.random() < 0.6 else (0,):
        parts.append(
            Part(
                "torus",
                (rng.uniform(0.06, 0.16), 0, 180),
                (ring, ring * rng.uniform(0.7, 1.6), ring),
                (0, 2 * height * 0.95, z * depth * 0.5),
                material=1,
            )
        )
    if rng.random() < 0.6:
        parts.append(
            Part(
                "box",
                (0.3, 1, 1),
                (width * rng.uniform(0.4, 0.8), height * rng.uniform(0.25, 0.5), 0.06),
                (0, height * 0.7, depth),
                material=1,
                label=1,
            )
        )
    if rng.random() < 0.5:
        parts.append(
            Part(
                "ellipsoid",
                (0.5, 0.5),
                (0.05, 0.05, 0.03),
                (0, height * rng.uniform(0.8, 1.5), depth * 1.02),
                material=2,
            )
        )
    return Identity(
        "bag",
        tuple(parts),
        (material(rng), material(rng), material(rng, "plain")),
        (label(rng, opaque=0.25), label(rng, opaque=0.4)),
    )


def flat(rng: Random) -> Identity:
    """Book, picture, plate, clock, sign or drawing."""
    if rng.random() < 0.6:
        width, height = rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9)
        parts = [Part("box", (0.02, 1, 1), (width, height, rng.uniform(0.02, 0.15)), (0, height, 0), label=0)]
        if rng.random() < 0.4:
            parts.append(
                Part("box", (0.05, 1, 1), (width * 1.08, height * 1.08, 0.03), (0, height, -0.03), material=1)
            )
    else:
        lobes, depth = float(rng.integers(3, 10)), float(rng.choice([0.0, rng.uniform(0.03, 0.3)]))
        size = rng.uniform(0.5, 0.9)
        parts = [Part("prism", (lobes, depth, 1.0), (size, size, 0.05), (0, size, 0), label=0)]
        parts.append(
            Part("prism", (lobes, depth, 1.0), (size * 1.1, size * 1.1, 0.04), (0, size, -0.03), material=1)
        )
    return Identity("flat", tuple(parts), (material(rng), material(rng)), (label(rng, opaque=0.6),))
