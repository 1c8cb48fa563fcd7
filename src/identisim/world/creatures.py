"""Cats, dogs and other four-legged animals, and plush toys, with joints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from identisim.world.identity import Identity, Material, Part, Vector
from identisim.world.palette import coat, colour, label, material
from identisim.world.solids import ball, limb, loft, tube, turned

Random = np.random.Generator
# materials of an animal, by number; the parts that are not marked wear the coat
COAT, MUZZLE, DARK, SOCKS, MASK, BELLY, TIP, IRIS, COLLAR = range(9)


@dataclass(frozen=True)
class _Build:
    """Proportions of a breed, lengths in units; ear: "point", "round", "drop" or "long"."""

    leg: float
    length: float
    girth: float
    neck: float
    head: float
    muzzle: float
    ear: str
    ear_size: float
    tail: float
    bushy: float


def _build(rng: Random) -> _Build:
    kind, u = rng.random(), rng.uniform
    if kind < 0.32:  # cat
        head = u(0.17, 0.22)
        return _Build(u(0.26, 0.36), u(0.42, 0.52), u(0.15, 0.22), u(0.04, 0.1), head, u(0.32, 0.42), "point",
                      head * u(0.55, 0.75), u(0.4, 0.7), u(0.7, 1.8))  # fmt: skip
    if kind < 0.75:  # dog
        ear = str(rng.choice(["point", "drop", "drop", "long", "round"]))
        return _Build(u(0.12, 0.62), u(0.4, 0.62), u(0.15, 0.28), u(0.05, 0.25), u(0.16, 0.25), u(0.4, 0.72), ear,
                      u(0.1, 0.22), u(0.1, 0.5), u(0.6, 2.4))  # fmt: skip
    ear = str(rng.choice(["point", "round", "drop", "long"]))
    return _Build(u(0.15, 0.7), u(0.35, 0.7), u(0.16, 0.34), u(0.05, 0.5), u(0.12, 0.24), u(0.35, 0.7), ear,
                  u(0.05, 0.25), u(0.05, 0.5), u(0.5, 1.6))  # fmt: skip


def _hair(rng: Random) -> tuple[Material, ...]:
    """Materials of all body parts: one coat with marks of a lighter, darker or other colour."""
    main = coat(rng)
    other = dataclasses.replace(
        coat(rng, "plain", "plain", "fur", "gradient"), shag=main.shag, bump=main.bump
    )
    dark = Material("plain", ((0.04, 0.03, 0.03),) * 3, gloss=0.9, sharpness=60)
    nose = dark if rng.random() < 0.7 else dataclasses.replace(dark, colours=((0.55, 0.35, 0.33),) * 3)
    marks = [other if rng.random() < share else main for share in (0.5, 0.4, 0.4, 0.5, 0.35)]
    muzzle, socks, mask, belly, tip = (dataclasses.replace(m, shag=m.shag * 0.6) for m in marks)
    eye = [(0.75, 0.6, 0.15), (0.45, 0.6, 0.25), (0.35, 0.5, 0.7), (0.25, 0.14, 0.07), (0.25, 0.14, 0.07)]
    iris = Material("plain", (eye[int(rng.integers(5))],) * 3, gloss=1.0, sharpness=90)
    return main, muzzle, nose, socks, mask, belly, tip, iris, material(rng, "plain", "stripes", "check")


def animal(rng: Random) -> Identity:
    """A cat, a dog or another four-legged animal: breed, coat, marks, ears, tail, perhaps a collar."""
    b = _build(rng)
    y = b.leg + b.girth * 0.85
    chest, waist, rump = rng.uniform(0.95, 1.2), rng.uniform(0.75, 1.05), rng.uniform(0.85, 1.1)
    g = b.girth
    back = [
        (-b.length, y, g * 0.5, g * 0.6),
        (-b.length * 0.75, y, g * rump * 0.9, g * rump),
        (0, y, g * waist * 0.9, g * waist),
        (b.length * 0.55, y, g * chest * 0.9, g * chest * 1.05),
        (b.length * 0.95, y + g * 0.1, g * 0.55, g * 0.75),
    ]
    parts = [loft(back, COAT)]
    chest_at = (0.0, y - g * 0.25, b.length * 0.62)
    parts.append(ball(chest_at, (g * chest * 0.68, g * chest * 0.85, g * 0.8), BELLY))
    parts.append(ball((0, y - g * 0.32, 0), (g * waist * 0.7, g * waist * 0.75, b.length * 0.7), BELLY))
    parts += _legs(rng, b, y)
    at = (
        0.0,
        y + g * 0.55 + b.neck + b.head * 0.4,
        b.length + b.neck * rng.uniform(0.1, 0.5) + b.head * 0.35,
    )
    shoulder = (0.0, y + g * 0.25, b.length * 0.6)
    parts.append(
        tube([shoulder, (0, (shoulder[1] + at[1]) / 2, at[2] * 0.88), at], g * 0.72, COAT, tip=b.head * 0.75)
    )
    parts += _head(rng, b, at)
    if rng.random() < 0.35:
        rim = b.head * 0.86
        throat = (0, at[1] - b.head * 0.75, at[2] - b.head * 0.3)
        parts.append(turned([(rim, -0.03), (rim * 1.05, 0.03)], COLLAR, at=throat, turn=(35, 0, 0)))
    root, rise = (0.0, y + g * 0.45, -b.length * 0.9), rng.uniform(-0.5, 0.9) * b.tail
    thick = g * 0.2 * b.bushy
    path = [root, (0, root[1] + rise * 0.4, root[2] - b.tail * 0.5),
            (rng.uniform(-0.2, 0.2) * b.tail, root[1] + rise, root[2] - b.tail * rng.uniform(0.4, 0.9))]  # fmt: skip
    parts.append(tube(path, thick * 0.8, COAT, tip=thick * 0.6, joint="tail"))
    parts.append(ball(path[2], (thick * 0.75, thick * 0.75, thick * 1.1), TIP, joint="tail"))
    return Identity("animal", tuple(parts), _hair(rng))


def _legs(rng: Random, b: _Build, y: float) -> list[Part]:
    parts, thick, sock = [], b.girth * rng.uniform(0.26, 0.38), rng.uniform(0.25, 0.6)
    for x in (-1, 1):
        for name, z in (("foreleg", 0.68), ("hindleg", -0.72)):
            hip = (x * b.girth * 0.55, y - b.girth * 0.25, z * b.length)
            joint, long = f"{name}{x}", hip[1]
            wide = thick * (1.35 if name == "hindleg" else 1.0)
            knee = (hip[0], long * 0.5, hip[2] + (0.0 if name == "foreleg" else 0.12 * long))
            ankle = (hip[0], long * sock, hip[2] - (0.0 if name == "foreleg" else 0.1 * long))
            parts.append(tube([hip, knee, ankle], wide * 1.25, COAT, tip=thick * 0.8, joint=joint))
            sole = (hip[0], thick * 0.5, ankle[2] + 0.02)
            parts.append(tube([ankle, sole], thick * 0.85, SOCKS, tip=thick * 0.75, joint=joint))
            parts.append(
                ball(
                    (sole[0], thick * 0.5, sole[2] + thick * 0.6),
                    (thick, thick * 0.55, thick * 1.3),
                    SOCKS,
                    joint=joint,
                )
            )
    return parts


def _head(rng: Random, b: _Build, at: Vector) -> list[Part]:
    head, snout = b.head, b.head * b.muzzle
    x0, y0, z0 = at
    parts = [
        ball(at, (head, head * rng.uniform(0.85, 1), head * rng.uniform(0.95, 1.15)), COAT, joint="head")
    ]
    tilt = head * rng.uniform(0.2, 0.4)
    parts.append(
        ball(
            (x0, y0 - tilt, z0 + head * 0.75),
            (snout, snout * 0.75, snout * rng.uniform(1.0, 1.6)),
            MUZZLE,
            joint="head",
        )
    )
    tip = z0 + head * 0.75 + snout * 1.15
    parts.append(
        ball(
            (x0, y0 - tilt + snout * 0.35, tip),
            (snout * 0.32, snout * 0.24, snout * 0.22),
            DARK,
            joint="head",
        )
    )
    blaze = rng.random() < 0.3
    if blaze:
        parts.append(
            ball(
                (x0, y0 + head * 0.3, z0 + head * 0.62),
                (head * 0.2, head * 0.6, head * 0.42),
                MUZZLE,
                joint="head",
            )
        )
    for x in (-1, 1):
        eye = (x * head * 0.42, y0 + head * 0.2, z0 + head * 0.86)
        size = head * 0.16
        parts.append(
            ball(
                (x * head * 0.5, y0 + head * 0.15, z0 + head * 0.45),
                (head * 0.48, head * 0.6, head * 0.52),
                MASK,
                joint="head",
            )
        )
        parts.append(ball(eye, (size, size, size * 0.7), IRIS, joint="head"))
        parts.append(
            ball(
                (eye[0], eye[1], eye[2] + size * 0.5),
                (size * 0.5, size * 0.65, size * 0.3),
                DARK,
                joint="head",
            )
        )
        parts.append(_ear(b, x, at))
    return parts


def _ear(b: _Build, x: int, at: Vector) -> Part:
    head, size = b.head, b.ear_size
    place = (x * head * 0.6, at[1] + head * 0.7, at[2])
    if b.ear == "point":
        cone = [(0.55, 0), (0.42, 0.5), (0.05, 1.3), (0, 1.35)]
        return turned(cone, MASK, at=place, size=(size, size, size * 0.5), turn=(0, 0, -x * 18), joint="head")
    if b.ear == "round":
        return ball(
            (x * head * 0.75, place[1] + size * 0.3, place[2]),
            (size * 0.7, size * 0.8, size * 0.3),
            MASK,
            joint="head",
        )
    drop = size * (1.2 if b.ear == "drop" else 2.0)
    middle = (x * head * 0.98, at[1] + head * 0.5 - drop * 0.55, at[2] + head * 0.1)
    return ball(middle, (head * 0.15, drop, head * 0.4), MASK, turn=(0, 0, x * 14), joint="head")


def plush(rng: Random) -> Identity:
    """Toy with a head and limbs, of plush, cloth or rubber; sits, stands or lies."""
    soft = rng.random() < 0.65
    skin, second = (
        (coat(rng, natural=0.5), coat(rng, "plain", natural=0.5)) if soft else (material(rng), material(rng))
    )
    dark = Material("plain", ((0.04, 0.04, 0.05), colour(rng), colour(rng)), gloss=0.9, sharpness=80)
    boxy = float(rng.choice([1.0, 1.0, rng.uniform(0.3, 0.6)]))
    body, head, leg = rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.45), rng.uniform(0.15, 0.5)
    tall = body * rng.uniform(0.9, 1.5)
    y, deep = leg + tall, body * rng.uniform(0.6, 1)
    printed = 0 if rng.random() < (0.2 if soft else 0.5) else -1
    parts = [ball((0, y, 0), (body, tall, deep), boxy=boxy, label=printed)]
    if rng.random() < 0.45:
        parts.append(ball((0, y - tall * 0.1, deep * 0.35), (body * 0.7, tall * 0.72, deep * 0.72), 1))
    top = y + tall * 0.85 + head
    face = int(rng.random() < 0.3)
    size = (head * rng.uniform(0.8, 1.2), head, head * rng.uniform(0.7, 1))
    parts.append(ball((0, top, 0), size, face, joint="head", boxy=boxy))
    nose, eye = head * rng.uniform(0.1, 0.35), head * rng.uniform(0.08, 0.22)
    if rng.random() < 0.5:
        parts.append(
            ball(
                (0, top - head * 0.25, size[2] * 0.75), (head * 0.5, head * 0.38, head * 0.4), 1, joint="head"
            )
        )
    snout = (0, top - head * 0.15, size[2] * 0.75 + head * 0.36)
    parts.append(ball(snout, (nose, nose * 0.7, nose * 0.6), int(rng.integers(1, 3)), joint="head"))
    parts += _limbs(rng, body, head, leg, y, tall, top, eye, size[2])
    if rng.random() < 0.3:
        brim = [(0.9, 0.0), (0.9, 0.0), (0.55, 0.08), (0.6, 0.2), (0.5, 1.1), (0, 1.1)]
        parts.append(turned(brim, 3, at=(0, top + head * 0.7, 0), size=(head * 0.9,) * 3, joint="head"))
    if rng.random() < 0.3:
        neck = (0, y + tall * 0.82, 0)
        parts.append(turned([(body * 0.62, -0.05), (body * 0.66, 0), (body * 0.62, 0.06)], 3, at=neck))
    return Identity("plush", tuple(parts), (skin, second, dark, material(rng)), (label(rng, opaque=0.3),))


def _limbs(
    rng: Random,
    body: float,
    head: float,
    leg: float,
    y: float,
    tall: float,
    top: float,
    eye: float,
    deep: float,
) -> list[Part]:
    """Eyes, ears, arms and legs, left and right alike."""
    arm, thick, spread = rng.uniform(0.2, 0.6), rng.uniform(0.07, 0.18), rng.uniform(15, 80)
    ear, ear_skin, skin = head * rng.uniform(0.15, 0.8), int(rng.random() < 0.5), int(rng.random() < 0.4)
    tip, pad, inner = rng.uniform(0.7, 1.3), int(rng.random() < 0.5), rng.random() < 0.5
    parts = []
    for x in (-1, 1):
        parts.append(ball((x * head * 0.38, top + head * 0.2, deep * 0.9), (eye,) * 3, 2, joint="head"))
        spot = (x * head * 0.65, top + head * 0.85, 0.0)
        parts.append(ball(spot, (ear * 0.7, ear, ear * 0.4), ear_skin, joint="head", turn=(0, 0, -x * 25)))
        if inner:
            spot = (spot[0], spot[1], ear * 0.25)
            parts.append(
                ball(spot, (ear * 0.45, ear * 0.7, ear * 0.25), 1, joint="head", turn=(0, 0, -x * 25))
            )
        shoulder, hip = (x * body * 0.85, y + tall * 0.5, 0.0), (x * body * 0.5, y - tall * 0.6, 0.0)
        parts.append(limb(shoulder, thick, arm, skin, tip=tip, turn=(0, 0, x * spread), joint=f"arm{x}"))
        parts.append(limb(hip, thick * 1.2, leg + thick, skin, tip=1.1, joint=f"leg{x}"))
        foot = (hip[0], hip[1] - leg - thick * 1.3, thick * 0.5)
        parts.append(ball(foot, (thick * 1.25, thick * 0.8, thick * 1.7), pad, joint=f"leg{x}"))
    return parts
