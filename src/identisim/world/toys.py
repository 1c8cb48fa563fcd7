"""Robots, figures and drawings."""

from __future__ import annotations

import numpy as np

from identisim.world.identity import Identity, Material, Part
from identisim.world.palette import colour, label, material, metal
from identisim.world.solids import ball, block, limb, ring, tube, turned

Random = np.random.Generator


def robot(rng: Random) -> Identity:
    """Robot, monster or figure toy: body, head, eyes, limbs, antennas, horns or a cape."""
    round_ = rng.random() < 0.4
    wide, tall, deep = rng.uniform(0.25, 0.45), rng.uniform(0.28, 0.5), rng.uniform(0.2, 0.35)
    leg, thick = rng.uniform(0.12, 0.45), rng.uniform(0.06, 0.14)
    y = leg + tall
    parts = [_hull((0, y, 0), (wide, tall, deep), round_, rng, label_=0 if rng.random() < 0.5 else -1)]
    head = (wide * rng.uniform(0.6, 1.3), rng.uniform(0.16, 0.36), deep * rng.uniform(0.7, 1.2))
    gap = rng.uniform(-0.05, 0.08)
    top = y + tall + head[1] + gap
    parts.append(
        _hull(
            (0, top, 0), head, rng.random() < (0.8 if round_ else 0.25), rng, int(rng.random() < 0.5), "head"
        )
    )
    parts.append(limb((0, y + tall + gap + 0.1, 0), thick * 0.9, 0.2, 2))
    parts += _face(rng, top, head)
    arm, spread = rng.uniform(0.25, 0.55), rng.uniform(5, 70)
    for x in (-1, 1):
        joint, skin = f"arm{x}", int(rng.random() < 0.5)
        shoulder = (x * (wide + thick * 0.6), y + tall * 0.6, 0)
        parts.append(
            limb(shoulder, thick, arm, skin, tip=rng.uniform(0.7, 1.2), turn=(0, 0, x * spread), joint=joint)
        )
        reach = np.radians(spread)
        hand = (shoulder[0] + x * np.sin(reach) * arm * 1.2, shoulder[1] - np.cos(reach) * arm * 1.2, 0)
        if rng.random() < 0.5:
            parts.append(ring(hand, (thick * 1.3,) * 3, 0.35, 2, start=-60, stop=240, joint=joint))
        else:
            parts.append(ball(hand, (thick * 1.25,) * 3, 2, joint=joint, boxy=0.6))
        hip = (x * wide * 0.5, y - tall * 0.7, 0)
        parts.append(limb(hip, thick * 1.1, leg + tall * 0.1, skin, joint=f"leg{x}"))
        foot = (thick * 1.5, 0.07, thick * 2.2)
        parts.append(block((hip[0], 0.07, thick * 0.7), foot, 2, rounding=0.4, joint=f"leg{x}"))
    if rng.random() < 0.5:
        parts.append(
            block((0, y - tall * 0.1, deep), (wide * 0.6, tall * 0.45, 0.03), 2, rounding=0.2, label=1)
        )
    if rng.random() < 0.25:
        parts.append(block((0, y + tall * 0.1, -deep - 0.12), (wide * 0.7, tall * 0.7, 0.12), 1))
    shell = metal(rng) if rng.random() < 0.3 else material(rng, *_PAINT)
    black = Material("plain", ((0.04, 0.04, 0.05),) * 3, gloss=0.8, sharpness=80)
    materials = (shell, material(rng, *_PAINT), material(rng, "plain"), black, material(rng, "plain"))
    return Identity("robot", tuple(parts), materials, (label(rng, opaque=0.3), label(rng, opaque=0.5)))


_PAINT = ("plain", "plain", "plain", "two-tone", "gradient", "stripes", "dots", "spots", "patches")


def _hull(
    at: tuple[float, float, float], size: tuple[float, float, float], round_: bool, rng: Random, material_: int = 0,
    joint: str = "", label_: int = -1,
) -> Part:  # fmt: skip
    if round_:
        return ball(at, size, material_, joint=joint, boxy=rng.uniform(0.6, 1), label=label_)
    taper = (rng.uniform(0.75, 1.2), rng.uniform(0.8, 1.1))
    return block(at, size, material_, joint=joint, rounding=rng.uniform(0.05, 0.4), taper=taper, label=label_)


def _face(rng: Random, top: float, head: tuple[float, float, float]) -> list[Part]:
    """Eyes (one to three), a mouth, antennas, horns or a crest."""
    eyes, size = int(rng.choice([1, 2, 2, 2, 3])), rng.uniform(0.18, 0.38) * head[1]
    parts = []
    for number in range(eyes):
        x = (number - (eyes - 1) / 2) * head[0] * (1.0 if eyes < 3 else 0.7)
        at = (x, top + head[1] * 0.2, head[2] * 0.93)
        parts.append(ball(at, (size, size, size * 0.6), 4, joint="head"))
        parts.append(
            ball((x, at[1], at[2] + size * 0.5), (size * 0.5, size * 0.5, size * 0.25), 3, joint="head")
        )
    mouth = (0, top - head[1] * 0.45, head[2] * 0.96)
    parts.append(block(mouth, (head[0] * rng.uniform(0.2, 0.6), head[1] * 0.12, 0.03), 3, joint="head"))
    crest = rng.random()
    for x in (-1, 1) if rng.random() < 0.6 else (0,):
        at, tip = (x * head[0] * 0.6, top + head[1] * 0.85, 0), rng.uniform(0.1, 0.3)
        if crest < 0.4:
            parts.append(
                tube(
                    [at, (at[0] * 1.1, at[1] + tip, 0), (at[0] * 1.3, at[1] + tip * 1.6, 0.05)],
                    0.02,
                    2,
                    joint="head",
                )
            )
            parts.append(ball((at[0] * 1.3, at[1] + tip * 1.6, 0.05), (0.05,) * 3, 1, joint="head"))
        elif crest < 0.7:
            parts.append(
                turned([(0.1, 0), (0.06, tip * 0.6), (0, tip)], 2, at=at, turn=(0, 0, -x * 25), joint="head")
            )
    return parts


def duck(rng: Random) -> Identity:
    """Duck, bird or fish toy: a plump body, a head with a beak or fins, perhaps a hat."""
    long, wide, tall = rng.uniform(0.45, 0.7), rng.uniform(0.25, 0.45), rng.uniform(0.22, 0.42)
    neck, head = rng.uniform(0.0, 0.3), rng.uniform(0.2, 0.32)
    parts = [ball((0, tall, 0), (wide, tall, long), label=0 if rng.random() < 0.3 else -1)]
    parts.append(
        tube(
            [(0, tall * 1.3, -long * 0.7), (0, tall * 1.7, -long * 1.0), (0, tall * 2.1, -long * 1.1)],
            wide * 0.4,
            0,
            tip=0.04,
        )
    )
    at = (0.0, tall * 1.7 + neck + head * 0.6, long * rng.uniform(0.4, 0.8))
    parts.append(
        tube([(0, tall, at[2] * 0.8), (0, (tall + at[1]) / 2, at[2]), at], head * 0.6, 0, tip=head * 0.5)
    )
    skin = int(rng.random() < 0.35)
    parts.append(ball(at, (head, head, head), skin, joint="head"))
    beak = head * rng.uniform(0.25, 0.7)
    parts.append(ball((0, at[1] - head * 0.15, at[2] + head), (beak, beak * 0.35, beak), 2, joint="head"))
    for x in (-1, 1):
        eye = (x * head * 0.5, at[1] + head * 0.3, at[2] + head * 0.75)
        parts.append(ball(eye, (head * 0.17,) * 3, 3, joint="head"))
        wing = (x * wide * 0.92, tall * 1.15, -long * 0.1)
        parts.append(
            ball(wing, (0.08, tall * 0.55, long * 0.55), int(rng.random() < 0.6), turn=(-15, 0, x * 12))
        )
    if rng.random() < 0.35:
        brim = [
            (head * 0.9, 0),
            (head * 0.9, 0.04),
            (head * 0.55, 0.06),
            (head * 0.5, head * 0.8),
            (0, head * 0.8),
        ]
        parts.append(turned(brim, 4, at=(0, at[1] + head * 0.7, at[2]), joint="head"))
    if rng.random() < 0.4:
        parts.append(ring((0, at[1] - head * 0.9, at[2] * 0.95), (head * 0.62,) * 3, 0.2, 4, turn=(90, 0, 0)))
    black = Material("plain", ((0.04, 0.04, 0.05),) * 3, gloss=0.8, sharpness=80)
    materials = (material(rng, *_PAINT), material(rng, *_PAINT), material(rng, "plain"), black, material(rng))
    return Identity("duck", tuple(parts), materials, (label(rng, opaque=0.1),))


def drawing(rng: Random) -> Identity:
    """A cartoon figure or an emblem on paper, board or a framed canvas: large flat colours with outlines."""
    wide, tall = rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.85)
    parts = [block((0, tall, 0), (wide, tall, rng.uniform(0.01, 0.04)), rounding=0.01, label=0)]
    if rng.random() < 0.3:
        parts.append(block((0, tall, -0.04), (wide * 1.07, tall * 1.07, 0.03), 1, rounding=0.05))
    paper = float(rng.uniform(0.85, 1.0))
    white = Material("plain", ((paper, paper, float(rng.uniform(0.8, 1)) * paper),) * 3, gloss=0.05)
    sheet = white if rng.random() < 0.6 else material(rng, "plain", "plain", "gradient", "stripes", "dots")
    art = label(rng, opaque=0.0, style="cartoon")
    tints = tuple(colour(rng) for _ in art.colours)
    return Identity(
        "drawing", tuple(parts), (sheet, material(rng, "plain", "planks")),
        (type(art)(art.style, art.seed, tints, False),),
    )  # fmt: skip
