"""Things of the household: teapots, clocks and gadgets, glasses, jars and candles, bowls of fruit."""

from __future__ import annotations

import numpy as np

from identisim.world.identity import Identity, Label, Material, Part
from identisim.world.palette import colour, glass, label, material, metal
from identisim.world.solids import ball, block, limb, ring, tube, turned

Random = np.random.Generator


def teapot(rng: Random) -> Identity:
    """Teapot, kettle, jug or watering can: a body with a spout, a handle and perhaps a lid."""
    tall, wide = rng.uniform(0.55, 1.15), rng.uniform(0.36, 0.6)
    foot, neck = rng.uniform(0.5, 1.0) * wide, rng.uniform(0.4, 0.95) * wide
    belly = rng.uniform(0.3, 0.55) * tall
    profile = [
        (0, 0), (foot, 0), (foot, 0), ((foot + wide) / 1.95, belly * 0.4), (wide, belly),
        ((neck + wide) / 1.9, (belly + 1.6 * tall) / 2.6), (neck, tall), (neck, tall), (neck * 0.85, tall * 0.97),
        (neck * 0.8, tall * 0.6), (0, tall * 0.3),
    ]  # fmt: skip
    square = float(rng.choice([1.0, 1.0, rng.uniform(0.4, 0.8)]))
    parts = [turned(profile, label=0 if rng.random() < 0.45 else -1, square=square)]
    accent = int(rng.random() < 0.4)
    start, reach = rng.uniform(0.2, 0.6) * tall, rng.uniform(0.25, 0.65)
    end = tall * rng.uniform(0.85, 1.25)
    mouth = (wide + reach, end, 0.0)
    bend = (wide + reach * rng.uniform(0.3, 0.8), start + (end - start) * rng.uniform(0.25, 0.6), 0.0)
    thick = rng.uniform(0.07, 0.16)
    parts.append(
        tube([(wide * 0.7, start, 0), bend, mouth], thick, accent, tip=thick * rng.uniform(0.4, 0.8))
    )
    if rng.random() < 0.25:
        rose = rng.uniform(0.1, 0.2)
        parts.append(
            turned([(0.03, 0), (rose, 0.16), (rose, 0.16), (0, 0.19)], 2, at=mouth, turn=(0, 0, -50))
        )
    bow = rng.uniform(0.035, 0.075)
    handle = int(rng.random() < 0.6)
    if rng.random() < 0.35:
        arch = tall + rng.uniform(0.25, 0.6)
        parts.append(
            tube([(-neck, tall * 0.9, 0), (-neck * 0.8, arch, 0), (neck * 0.8, arch, 0), (neck, tall * 0.9, 0)],
                 bow, handle)
        )  # fmt: skip
    else:
        out = wide + rng.uniform(0.25, 0.45)
        low, high = rng.uniform(0.15, 0.35) * tall, rng.uniform(0.75, 0.98) * tall
        parts.append(
            tube([(-wide * 0.8, low, 0), (-out, low + 0.1, 0), (-out, high, 0), (-neck * 0.9, high, 0)],
                 bow, handle)
        )  # fmt: skip
    if rng.random() < 0.75:
        rise, cover = rng.uniform(0.04, 0.22), int(rng.random() < 0.4)
        dome = [(neck * 1.04, 0), (neck * 0.9, rise * 0.6), (neck * 0.4, rise), (0, rise * 1.1)]
        parts.append(turned(dome, cover, at=(0, tall, 0)))
        parts.append(ball((0, tall + rise + 0.05, 0), [rng.uniform(0.05, 0.1)] * 3, handle))
    body = metal(rng) if rng.random() < 0.3 else material(rng)
    second = material(rng, "plain", "rings", "stripes")
    return Identity("teapot", tuple(parts), (body, second, metal(rng)), (label(rng, opaque=0.1),))


def clock(rng: Random) -> Identity:
    """Clock, alarm clock or gadget: a case with a dial or a screen, hands and buttons."""
    size, deep = rng.uniform(0.5, 0.8), rng.uniform(0.06, 0.3)
    if rng.random() < 0.4:
        return _gadget(rng, size, deep)
    lobes, wave = (4.0, rng.uniform(0.1, 0.2)) if rng.random() < 0.3 else (float(rng.integers(5, 13)), 0.0)
    if rng.random() < 0.15:
        wave = 0.12
    y = size * 1.1 + rng.uniform(0, 0.15)
    disc = rng.uniform(0.82, 0.94)
    parts = [
        Part("prism", (lobes, wave, 1.0), (size, size, deep), (0, y, 0), material=0),
        Part(
            "prism", (lobes, wave, 1.0), (size * disc, size * disc, 0.02), (0, y, deep), material=1, label=0
        ),
        Part("torus", (rng.uniform(0.06, 0.14),), (size, size, deep * 1.5), (0, y, deep), material=0),
    ]
    for length, thick in ((0.5, 0.045), (0.75, 0.028)):
        angle = rng.uniform(0, 2 * np.pi)
        x, up = np.sin(angle) * size * length * 0.45, np.cos(angle) * size * length * 0.45
        turn = (0, 0, -np.degrees(angle))
        parts.append(block((x, y + up, deep + 0.045), (thick, size * length * 0.45, 0.012), 2, turn=turn))
    parts.append(ball((0, y, deep + 0.05), (0.05, 0.05, 0.03), 2))
    if rng.random() < 0.5:
        for side in (-1, 1):
            parts.append(
                limb((side * size * 0.5, y - size * 0.75, 0), 0.05, size * 0.45, 3, turn=(0, 0, side * 25))
            )
            bell = (side * size * 0.5, y + size * 1.05, 0)
            if rng.random() < 0.9:
                parts.append(ball(bell, (0.24, 0.16, 0.24), 3, turn=(0, 0, -side * 30)))
        parts.append(ring((0, y + size * 1.1, 0), (0.2, 0.25, 0.2), 0.12, 3, start=0, stop=180))
    ink = colour(rng)
    dial = Label("dial", int(rng.integers(1 << 31)), (colour(rng), ink, colour(rng), colour(rng)), False)
    hands = Material("plain", (ink, ink, ink))
    case = metal(rng) if rng.random() < 0.4 else material(rng, "plain", "plain", "planks", "gradient")
    return Identity("clock", tuple(parts), (case, material(rng, "plain"), hands, metal(rng)), (dial,))


def _gadget(rng: Random, size: float, deep: float) -> Identity:
    wide, tall = size * rng.uniform(0.6, 1.3), size * rng.uniform(0.6, 1.1)
    parts = [block((0, tall, 0), (wide, tall, deep), rounding=rng.uniform(0.05, 0.4), label=0)]
    screen_at, half = tall * rng.uniform(1.1, 1.4), rng.uniform(0.25, 0.5) * tall
    parts.append(block((0, screen_at, deep), (wide * rng.uniform(0.5, 0.85), half, 0.02), 1, label=1))
    columns, rows = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    knob, boxy = rng.uniform(0.04, 0.09), float(rng.choice([0.4, 1.0]))
    for row in range(rows):
        for column in range(columns):
            x = (column - (columns - 1) / 2) * wide * 1.6 / columns
            y = tall * 0.2 + row * (screen_at - half - tall * 0.2) / rows
            parts.append(ball((x, y, deep), (knob, knob, 0.05), 2 + (row + column) % 2, boxy=boxy))
    if rng.random() < 0.3:
        parts.append(limb((wide * 0.7, tall * 2.7, 0), 0.025, tall * 0.8, 3))
    inks = tuple(colour(rng) for _ in range(5))
    dark = Material("plain", ((0.06, 0.07, 0.08),) * 3, gloss=0.8, sharpness=90, mirror=0.25)
    screen = dark if rng.random() < 0.6 else material(rng, "plain")
    labels = (label(rng, opaque=0.0), Label("brand", int(rng.integers(1 << 31)), inks, False))
    materials = (material(rng, "plain", "speckle"), screen, material(rng, "plain"), material(rng, "plain"))
    return Identity("clock", tuple(parts), materials, labels)


def glasses(rng: Random) -> Identity:
    """Glasses or sunglasses: two rims with lenses, a bridge and temples."""
    wide, tall = rng.uniform(0.32, 0.42), rng.uniform(0.2, 0.38)
    power, drop = rng.uniform(0.35, 1.0), rng.uniform(-0.12, 0.12)
    gap, rim = wide + rng.uniform(0.05, 0.14), rng.uniform(0.018, 0.06)
    angles = np.linspace(0, 2 * np.pi, 17)
    cosine, sine = np.cos(angles), np.sin(angles)
    x = wide * np.sign(cosine) * np.abs(cosine) ** power
    y = tall * np.sign(sine) * np.abs(sine) ** power
    parts = []
    for side in (-1, 1):
        slant = drop * x / wide * tall
        path = [(side * (gap + a), tall + b + c, 0.0) for a, b, c in zip(x, y, slant, strict=True)]
        parts.append(tube(path, rim, 0, flat=rng.choice([1.0, 0.5])))
        middle = (side * gap, tall, 0.0)
        parts.append(ball(middle, (wide, tall, 0.02), 1, boxy=power))
        hinge = (side * (gap + wide * 0.98), tall * 1.35, 0.0)
        far = [
            (hinge[0] * 0.97, hinge[1], -0.5),
            (hinge[0] * 0.95, hinge[1], -0.85),
            (hinge[0] * 0.92, 0.1, -1.1),
        ]
        parts.append(tube([hinge, *far], rim * 1.1, 2, flat=0.5))
    high = tall * rng.uniform(1.15, 1.6)
    parts.append(tube([(wide - gap, high, 0), (0, high + 0.05, 0.03), (gap - wide, high, 0)], rim * 1.2, 0))
    lens = glass(rng) if rng.random() < 0.4 else _tinted(rng)
    frame = (
        metal(rng) if rng.random() < 0.35 else material(rng, "plain", "spots", "clouds", "stripes", "marble")
    )
    temple = frame if rng.random() < 0.6 else material(rng, "plain", "stripes")
    return Identity("glasses", tuple(parts), (frame, lens, temple))


def _tinted(rng: Random) -> Material:
    dark = tuple(float(c) * rng.uniform(0.05, 0.6) for c in colour(rng))
    shade = (dark[0], dark[1], dark[2])
    fade = tuple(float(min(1.0, c * 2.2)) for c in dark)
    pattern = "gradient" if rng.random() < 0.5 else "plain"
    colours = (shade, (fade[0], fade[1], fade[2]), shade)
    return Material(
        pattern, colours, frequency=3.0, gloss=0.9, sharpness=120, mirror=float(rng.uniform(0.1, 0.6))
    )


def jar(rng: Random) -> Identity:
    """Jar, glass, candle, can or yoghurt pot: perhaps clear, with a filling, a label and a lid."""
    radius, tall = rng.uniform(0.28, 0.52), rng.uniform(0.5, 1.25)
    top = radius * rng.uniform(0.75, 1.3)
    square = float(rng.choice([1.0, 1.0, 1.0, 0.45]))
    wall = [(0, 0), (radius, 0), (radius, 0), ((radius + top) / 2, tall / 2), (top, tall), (top, tall)]
    inside = [(top * 0.93, tall), (radius * 0.92, 0.06 * tall), (0, 0.06 * tall)]
    kind = str(rng.choice(["glass", "glass", "can", "pot", "candle"]))
    level = tall * rng.uniform(0.35, 0.92)
    full = radius + (top - radius) * level / tall
    fill = [
        (0, 0.03),
        (radius * 0.9, 0.03),
        (radius * 0.9, 0.03),
        (full * 0.92, level),
        (full * 0.92, level),
        (0, level),
    ]
    parts = [turned(wall + inside if kind == "glass" else [*wall, (0, tall)], square=square)]
    if kind == "glass":
        parts.append(turned(fill, 1, square=square))
    low, high = tall * rng.uniform(0.05, 0.3), tall * rng.uniform(0.55, 0.95)
    if rng.random() < 0.8:
        rims = [radius + (top - radius) * h / tall for h in (low, high)]
        parts.append(turned([(rims[0] * 1.02, low), (rims[1] * 1.02, high)], 2, square=square, label=0))
    if kind == "candle":
        parts.append(tube([(0, tall, 0), (0.01, tall + 0.1, 0), (0.03, tall + 0.16, 0)], 0.018, 4))
        if rng.random() < 0.5:
            parts.append(
                turned([(0, 0), (0.05, 0.07), (0.035, 0.15), (0, 0.28)], 5, at=(0.02, tall + 0.13, 0))
            )
    elif rng.random() < 0.6:
        cap, rise = top * rng.uniform(0.95, 1.1), rng.uniform(0.03, 0.2)
        parts.append(
            turned([(cap, 0), (cap, rise), (cap, rise), (cap * 0.9, rise), (0, rise)], 3, at=(0, tall, 0))
        )
    shell = {"glass": glass, "can": metal}.get(kind, _wax)(rng)
    black, flame = ((0.05, 0.05, 0.05),) * 3, ((1.0, 0.85, 0.35), (1.0, 0.6, 0.15), (1.0, 0.9, 0.6))
    materials = (
        shell, material(rng), material(rng, "plain", "plain", "stripes"), material(rng, "plain", "tartan"),
        Material("plain", black), Material("gradient", flame),
    )  # fmt: skip
    return Identity("jar", tuple(parts), materials, (label(rng, opaque=0.75),))


def _wax(rng: Random) -> Material:
    return material(rng, "plain", "plain", "gradient", "marble", "stripes")


def fruit(rng: Random) -> Identity:
    """Bowl, plate or basket with fruit."""
    wide, tall = rng.uniform(0.5, 0.85), rng.uniform(0.12, 0.5)
    foot = wide * rng.uniform(0.35, 0.8)
    lip = [(wide, tall), (wide, tall), (wide * 0.94, tall), (foot * 0.95, 0.1 * tall), (0, 0.08 * tall)]
    outside = [(0, 0), (foot, 0), (foot, 0), ((foot + wide) / 1.8, tall * 0.5)]
    parts = [turned([*outside, *lip], label=0 if rng.random() < 0.3 else -1)]
    if rng.random() < 0.25:
        parts.append(ring((0, tall * 0.8, 0), (wide * 0.95, wide * 1.1, wide), 0.05, 0, start=0, stop=180))
    kinds = int(rng.integers(1, 4))
    sizes = [rng.uniform(0.13, 0.26) for _ in range(kinds)]
    stretch = [float(rng.choice([0.9, 1.0, rng.uniform(1.1, 1.5)])) for _ in range(kinds)]
    count = int(rng.integers(4, 10))
    for number in range(count):
        kind = number % kinds
        angle, far = number * 2.4 + rng.uniform(0, 0.6), wide * 0.62 * np.sqrt(number / count)
        at = (
            far * np.sin(angle),
            tall * 0.55 + sizes[kind] * 0.9 + (1 - far / wide) * 0.22,
            far * np.cos(angle),
        )
        turn = (rng.uniform(-70, 70), rng.uniform(0, 360), rng.uniform(-40, 40))
        size = (sizes[kind], sizes[kind] * stretch[kind], sizes[kind])
        parts.append(ball(at, size, 1 + kind, turn=turn))
        if kind == 0 and sizes[0] > 0.16:
            parts.append(limb((at[0], at[1] + size[1] + 0.06, at[2]), 0.015, 0.08, 4))
    for _ in range(int(rng.integers(0, 4))):
        angle, high = rng.uniform(0, 2 * np.pi), tall + rng.uniform(0.2, 0.36)
        spine = [(np.sin(angle + t) * wide * 0.5, high + h, np.cos(angle + t) * wide * 0.5)
                 for t, h in ((-0.7, 0), (0, 0.1), (0.7, 0))]  # fmt: skip
        parts.append(tube(spine, 0.07, 5, tip=0.03))
    peel = [material(rng, "plain", "gradient", "speckle", "clouds") for _ in range(3)]
    bowl = material(rng, "plain", "weave", "planks", "stripes", "dots", "marble")
    yellow = Material("speckle", ((0.95, 0.8, 0.15), (0.6, 0.45, 0.1), (0.9, 0.85, 0.3)), gloss=0.2)
    stalk = Material("plain", ((0.25, 0.16, 0.08),) * 3)
    return Identity("fruit", tuple(parts), (bowl, *peel, stalk, yellow), (label(rng, opaque=0.1),))
