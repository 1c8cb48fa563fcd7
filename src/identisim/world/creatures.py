"""Four-legged animals and plush toys, with joints."""

from __future__ import annotations

import numpy as np

from identisim.world.identity import Identity, Material, Part
from identisim.world.palette import colour, label, material

Random = np.random.Generator


def animal(rng: Random) -> Identity:
    """A four-legged animal: coat, proportions, ears, tail."""
    coat = material(
        rng, "plain", "patches", "stripes", "spots", "two-tone", "fur", "clouds", "cracks", "dots"
    )
    second = coat if rng.random() < 0.5 else material(rng, "plain", "fur", "two-tone")
    dark = Material("plain", ((0.03, 0.03, 0.03), (0.1, 0.05, 0.03), colour(rng)), gloss=0.8, sharpness=60)
    length, girth, leg = rng.uniform(0.35, 0.75), rng.uniform(0.16, 0.34), rng.uniform(0.15, 0.7)
    thick = rng.uniform(0.25, 0.45) * girth
    body_y = leg + girth * 0.8
    parts = [Part("ellipsoid", (1.0, 1.0), (girth, girth * rng.uniform(0.9, 1.2), length), (0, body_y, 0))]
    for x in (-1, 1):
        for z in (-1, 1):
            hip = (x * girth * 0.6, body_y - girth * 0.3, z * length * 0.65)
            parts.append(
                Part(
                    "capsule",
                    (rng.uniform(0.5, 0.9),),
                    (thick, leg + girth * 0.4, thick),
                    hip,
                    joint=f"leg{x * z}",
                    material=int(rng.random() < 0.25),
                )
            )
    neck, head = rng.uniform(0.05, 0.5), rng.uniform(0.14, 0.3)
    head_at = (0.0, body_y + girth * 0.4 + neck, length + neck * rng.uniform(0.1, 0.7))
    if neck > 0.12:
        parts.append(
            Part(
                "capsule",
                (1.3,),
                (girth * 0.45, neck * 1.5, girth * 0.45),
                head_at,
                (rng.uniform(20, 50), 0, 0),
            )
        )
    parts.append(
        Part(
            "ellipsoid",
            (1.0, 1.0),
            (head, head, head * rng.uniform(0.9, 1.3)),
            head_at,
            material=int(rng.random() < 0.3),
            joint="head",
        )
    )
    snout = head * rng.uniform(0.25, 0.65)
    parts.append(
        Part(
            "ellipsoid",
            (1.0, 1.0),
            (snout, snout * 0.8, snout * 1.4),
            (0, head_at[1] - head * 0.25, head_at[2] + head),
            material=1,
            joint="head",
        )
    )
    parts.append(
        Part(
            "ellipsoid",
            (1.0, 1.0),
            (snout * 0.3,) * 3,
            (0, head_at[1] - head * 0.15, head_at[2] + head + snout * 1.3),
            material=2,
            joint="head",
        )
    )
    ear, droop = head * rng.uniform(0.2, 0.9), rng.uniform(-20, 140)
    for x in (-1, 1):
        parts.append(
            Part(
                "ellipsoid",
                (1.0, 1.0),
                (ear * 0.5, ear, ear * 0.2),
                (x * head * 0.7, head_at[1] + head * 0.8, head_at[2]),
                (0, 0, -x * droop),
                1,
                joint="head",
            )
        )
        parts.append(
            Part(
                "ellipsoid",
                (1.0, 1.0),
                (head * 0.14,) * 3,
                (x * head * 0.45, head_at[1] + head * 0.25, head_at[2] + head * 0.85),
                material=2,
                joint="head",
            )
        )
    tail = rng.uniform(0.05, 0.6)
    parts.append(
        Part(
            "capsule",
            (rng.uniform(0.3, 1.2),),
            (thick * 0.6, tail, thick * 0.6),
            (0, body_y + girth * 0.4, -length * 0.9),
            (rng.uniform(30, 130), 0, 0),
            joint="tail",
        )
    )
    return Identity("animal", tuple(parts), (coat, second, dark))


def plush(rng: Random) -> Identity:
    """Toy with a head and limbs, sitting or standing."""
    skin, second = material(rng), material(rng)
    dark = Material("plain", ((0.04, 0.04, 0.05), colour(rng), colour(rng)), gloss=0.9, sharpness=80)
    boxy = float(rng.choice([1.0, 1.0, rng.uniform(0.3, 0.6)]))
    body, head = rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.45)
    tall = body * rng.uniform(0.9, 1.5)
    leg = rng.uniform(0.15, 0.5)
    y = leg + tall
    parts = [
        Part(
            "ellipsoid",
            (boxy, 1.0),
            (body, tall, body * rng.uniform(0.6, 1)),
            (0, y, 0),
            label=0 if rng.random() < 0.5 else -1,
        )
    ]
    top = y + tall * 0.85 + head
    parts.append(
        Part(
            "ellipsoid",
            (boxy, boxy),
            (head * rng.uniform(0.8, 1.2), head, head * rng.uniform(0.7, 1)),
            (0, top, 0),
            material=int(rng.random() < 0.4),
            joint="head",
        )
    )
    eye = head * rng.uniform(0.08, 0.22)
    nose = head * rng.uniform(0.1, 0.35)
    parts.append(
        Part(
            "ellipsoid",
            (1.0, 1.0),
            (nose, nose * 0.7, nose),
            (0, top - head * 0.2, head * 0.85),
            material=int(rng.integers(1, 3)),
            joint="head",
        )
    )
    arm, thick = rng.uniform(0.2, 0.6), rng.uniform(0.07, 0.18)
    ear = head * rng.uniform(0.15, 0.8)
    for x in (-1, 1):
        parts.append(
            Part(
                "ellipsoid",
                (1.0, 1.0),
                (eye,) * 3,
                (x * head * 0.38, top + head * 0.15, head * 0.78),
                material=2,
                joint="head",
            )
        )
        parts.append(
            Part(
                "ellipsoid",
                (1.0, 1.0),
                (ear * 0.7, ear, ear * 0.4),
                (x * head * 0.65, top + head * 0.85, 0),
                (0, 0, -x * 25),
                int(rng.random() < 0.5),
                joint="head",
            )
        )
        parts.append(
            Part(
                "capsule",
                (rng.uniform(0.7, 1.3),),
                (thick, arm, thick),
                (x * body * 0.85, y + tall * 0.5, 0),
                (0, 0, x * rng.uniform(15, 80)),
                int(rng.random() < 0.4),
                joint=f"arm{x}",
            )
        )
        parts.append(
            Part(
                "capsule",
                (1.1,),
                (thick * 1.2, leg + thick, thick * 1.2),
                (x * body * 0.5, y - tall * 0.6, 0),
                (0, 0, 0),
                int(rng.random() < 0.4),
                joint=f"leg{x}",
            )
        )
    if rng.random() < 0.35:
        parts.append(
            Part(
                "lathe",
                (1.0, 0.0, 0.9, 0.55, 0.8, 0.6, 0.2, 1.1, 0.0, 0.6, 0.0),
                (head * 0.9,) * 3,
                (0, top + head * 0.7, 0),
                material=3,
                joint="head",
            )
        )
    return Identity("plush", tuple(parts), (skin, second, dark, material(rng)), (label(rng, opaque=0.3),))
