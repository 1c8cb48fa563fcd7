"""Things to wear and carry: backpacks, handbags, sneakers and boots."""

from __future__ import annotations

import numpy as np

from identisim.world.identity import Identity, Part
from identisim.world.palette import label, material, metal
from identisim.world.solids import ball, block, loft, ring, tube, turned

Random = np.random.Generator
CLOTH = (
    "plain",
    "plain",
    "plain",
    "weave",
    "check",
    "two-tone",
    "stripes",
    "dots",
    "patches",
    "tartan",
    "clouds",
)


def backpack(rng: Random) -> Identity:
    """Backpack or handbag: body, pockets, flap, zips, straps and buckles."""
    parts = _rucksack(rng) if rng.random() < 0.65 else _handbag(rng)
    materials = (material(rng, *CLOTH), material(rng, *CLOTH), material(rng, "plain"), metal(rng))
    return Identity("backpack", tuple(parts), materials, (label(rng, opaque=0.15), label(rng, opaque=0.4)))


def _rucksack(rng: Random) -> list[Part]:
    wide, tall, deep = rng.uniform(0.38, 0.56), rng.uniform(0.5, 0.75), rng.uniform(0.18, 0.34)
    soft = rng.uniform(0.35, 0.75)
    stations = [
        (-deep, tall, wide * 0.9, tall * 0.95),
        (-deep * 0.5, tall, wide, tall),
        (deep * 0.5, tall * 0.98, wide, tall),
        (deep, tall * 0.92, wide * 0.92, tall * 0.88),
    ]
    parts = [loft(stations, square=soft, label=0 if rng.random() < 0.4 else -1)]
    if rng.random() < 0.7:
        high, width = tall * rng.uniform(0.3, 0.48), wide * rng.uniform(0.6, 0.92)
        parts.append(
            block((0, high * 1.1, deep), (width, high, 0.1), int(rng.random() < 0.6), rounding=0.6, label=1)
        )
        parts.append(tube([(-width * 0.8, high * 1.75, deep + 0.1), (0, high * 1.85, deep + 0.12),
                           (width * 0.8, high * 1.75, deep + 0.1)], 0.018, 2))  # fmt: skip
    if rng.random() < 0.4:
        parts.append(ball((0, tall * 1.8, deep * 0.2), (wide * 0.98, tall * 0.35, deep * 1.15), 1, boxy=0.6))
        for x in (-1, 1) if rng.random() < 0.6 else (0,):
            parts.append(block((x * wide * 0.45, tall * 1.35, deep * 1.05), (0.035, tall * 0.35, 0.02), 2))
            parts.append(block((x * wide * 0.45, tall * 1.2, deep * 1.1), (0.06, 0.05, 0.02), 3))
    else:
        arch = [(-wide * 0.95, tall, 0.1), (-wide * 0.8, tall * 1.85, 0.1), (0, tall * 2.02, 0.1),
                (wide * 0.8, tall * 1.85, 0.1), (wide * 0.95, tall, 0.1)]  # fmt: skip
        parts.append(tube(arch, 0.02, 2))
    if rng.random() < 0.5:
        for x in (-1, 1):
            parts.append(ball((x * wide, tall * 0.5, 0), (0.09, tall * 0.35, deep * 0.6), 1, boxy=0.6))
    for x in (-1, 1):
        path = [(x * wide * 0.35, tall * 1.8, -deep), (x * wide * 0.55, tall * 1.5, -deep - 0.22),
                (x * wide * 0.65, tall * 0.8, -deep - 0.2), (x * wide * 0.75, tall * 0.25, -deep)]  # fmt: skip
        parts.append(tube(path, 0.075, int(rng.choice([0, 1, 2])), flat=0.3))
    parts.append(
        tube(
            [
                (-0.12, tall * 1.95, -deep * 0.5),
                (0, tall * 2.2, -deep * 0.5),
                (0.12, tall * 1.95, -deep * 0.5),
            ],
            0.03,
            2,
        )
    )
    if rng.random() < 0.3:
        parts.append(
            ball((wide * 0.7, tall * 0.7, deep * 1.2), [rng.uniform(0.06, 0.13)] * 3, 1, joint="charm")
        )
    return parts


def _handbag(rng: Random) -> list[Part]:
    wide, tall, deep = rng.uniform(0.45, 0.75), rng.uniform(0.28, 0.5), rng.uniform(0.12, 0.25)
    taper = rng.uniform(0.7, 1.1)
    parts = [block((0, tall, 0), (wide, tall, deep), rounding=rng.uniform(0.1, 0.4), taper=(taper, 0.7),
                   label=0 if rng.random() < 0.5 else -1)]  # fmt: skip
    if rng.random() < 0.5:
        cover = rng.uniform(0.3, 0.75)
        parts.append(block((0, tall * (2.02 - cover), deep * 0.95), (wide * taper, tall * cover, 0.03),
                           int(rng.random() < 0.5), rounding=0.5, label=1))  # fmt: skip
        parts.append(ball((0, tall * (2.1 - 2 * cover) + 0.06, deep + 0.04), (0.07, 0.06, 0.03), 3, boxy=0.5))
    rise, foot = rng.uniform(0.3, 0.9), wide * rng.uniform(0.35, 0.9) * taper
    for z in (-0.6, 0.6) if rng.random() < 0.6 else (0.0,):
        high = tall * 1.9
        arch = [(-1.0, 0.0), (-0.8, 0.7), (0.0, 1.0), (0.8, 0.7), (1.0, 0.0)]
        path = [(foot * x, high + rise * up, z * deep) for x, up in arch]
        parts.append(tube(path, rng.uniform(0.03, 0.06), 2, flat=rng.uniform(0.4, 1)))
        parts += [ring((x * foot, tall * 1.95, z * deep), (0.06, 0.06, 0.06), 0.25, 3) for x in (-1, 1)]
    return parts


def boot(rng: Random) -> Identity:
    """Sneaker or boot: a sole with a toe cap, panels, laces across the instep, a collar or a shaft."""
    wide, sole = rng.uniform(0.2, 0.27), rng.uniform(0.05, 0.13)
    heel = float(rng.choice([0.0, rng.uniform(0.02, 0.2)]))
    shaft = float(rng.choice([0.0, rng.uniform(0.15, 0.9)]))
    instep = rng.uniform(0.28, 0.4)
    base = 2 * sole
    outline = [(-0.78, 0.72), (-0.62, 0.86), (-0.2, 0.82), (0.3, 1.0), (0.62, 0.95), (0.82, 0.6)]
    tread = [(z, sole + heel * max(0.0, -z), w * wide * 1.1, sole + heel * max(0.0, -z)) for z, w in outline]
    height = np.interp(
        [z for z, _ in outline], [-0.78, -0.5, -0.1, 0.35, 0.62, 0.82], [0.3, 0.36, instep, 0.24, 0.16, 0.08]
    )
    lift = [base + heel * max(0.0, -2 * z) for z, _ in outline]
    upper = [
        (z * 0.98, low + h * 0.75, w * wide, h) for (z, w), low, h in zip(outline, lift, height, strict=True)
    ]
    parts = [loft(tread, 1, square=0.6), loft(upper, 0, square=0.85, label=0 if rng.random() < 0.4 else -1)]
    if rng.random() < 0.6:
        parts.append(loft([(z, y, w * 1.03, h * 1.04) for z, y, w, h in upper[4:]], 2, square=0.85))
    if rng.random() < 0.5:
        parts.append(loft([(z, y, w * 1.03, h * 1.03) for z, y, w, h in upper[:2]], 2, square=0.85))
    top = lift[1] + 0.55 + shaft
    neck = wide * rng.uniform(0.75, 1.0)
    collar = [(wide * 0.85, lift[1] + 0.2), (neck, (lift[1] + 0.4 + top) / 2), (neck * 1.04, top), (neck * 1.04, top),
              (neck * 0.85, top), (neck * 0.7, lift[1] + 0.3)]  # fmt: skip
    parts.append(turned(collar, int(rng.choice([0, 0, 2])), at=(0, 0, -0.42), size=(1, 1, 1.35)))
    if rng.random() < 0.5:
        parts.append(ring((0, top, -0.42), (neck * 1.04, neck * 1.4, 0.2), 0.12, 2, turn=(90, 0, 0)))
    parts += _laces(rng, wide, base + instep * 1.65, shaft)
    if rng.random() < 0.6:
        for x in (-1, 1):
            parts += _stripes(rng, x * wide * 0.98, base)
    upper_material = material(rng, *CLOTH) if rng.random() < 0.8 else material(rng)
    tones = [material(rng, "plain"), material(rng, "plain", "stripes"), material(rng, "plain")]
    pale = material(rng, "plain")
    return Identity(
        "boot", tuple(parts), (upper_material, tones[0], tones[1], pale), (label(rng, opaque=0.15),)
    )


def _laces(rng: Random, wide: float, top: float, shaft: float) -> list[Part]:
    rows, parts = int(rng.integers(0, 7)), []
    for row in range(rows):
        t = row / max(rows - 1, 1)
        z, y = 0.36 - 0.4 * t, top * (0.72 + 0.3 * t)
        tilt = 0.06 * (-1) ** row
        half = wide * 0.55
        parts.append(
            tube([(-half, y - 0.05, z - tilt), (0, y + 0.015, z), (half, y - 0.05, z + tilt)], 0.022, 3)
        )
    for row in range(int(rows * shaft / 0.3)):
        y, z = top + 0.12 + row * 0.11, -0.42 + wide * 1.3
        parts.append(
            tube([(-wide * 0.45, y - 0.03, z - 0.05), (0, y, z), (wide * 0.45, y + 0.03, z - 0.05)], 0.02, 3)
        )
    return parts


def _stripes(rng: Random, x: float, base: float) -> list[Part]:
    count, lean = int(rng.integers(1, 4)), rng.uniform(-0.15, 0.15)
    return [
        tube([(x, base + 0.06, 0.12 - n * 0.12), (x * 1.02, base + 0.18, 0.1 - n * 0.12 + lean),
              (x * 0.8, base + 0.4, -n * 0.12 + lean)], 0.035, 2, flat=0.5)
        for n in range(count)
    ]  # fmt: skip
