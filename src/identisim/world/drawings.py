"""Cartoons and dials: the flat pictures whose outlines are black and whose areas are one colour."""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw

Ink = tuple[int, int, int, int]
Random = np.random.Generator
BLACK: Ink = (20, 18, 20, 255)
WHITE: Ink = (250, 250, 245, 255)


def _blob(
    pen: ImageDraw.ImageDraw,
    x: float,
    y: float,
    wide: float,
    tall: float,
    fill: Ink,
    line: int,
    turn: float = 0.0,
) -> None:
    angle, lean = np.linspace(0, 2 * np.pi, 28), np.radians(turn)
    a, b = wide * np.cos(angle), tall * np.sin(angle)
    points = list(
        zip(x + a * np.cos(lean) - b * np.sin(lean), y + a * np.sin(lean) + b * np.cos(lean), strict=True)
    )
    outline = [(float(px), float(py)) for px, py in points]
    pen.polygon(outline, fill=fill)
    if line:
        pen.line(outline, fill=BLACK, width=line, joint="curve")


def cartoon(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink], side: float) -> None:
    """A creature or an emblem that fills a picture of `side` pixels."""
    line = int(rng.integers(0, 7))
    if rng.random() < 0.25:
        _emblem(pen, rng, inks, side, line)
        return
    x, skin, cloth = side / 2, inks[1], inks[2]
    head = side * rng.uniform(0.17, 0.27)
    y = side * rng.uniform(0.3, 0.38)
    wide, tall = head * rng.uniform(0.55, 1.1), side * rng.uniform(0.16, 0.24)
    chest = y + head * 0.8 + tall * 0.8
    for s in (-1, 1):
        _blob(pen, x + s * wide * 0.5, chest + tall, wide * 0.35, tall * 0.45, inks[3], line)
        lean = s * float(rng.uniform(-70, 70))
        _blob(pen, x + s * wide * 1.2, chest - tall * 0.2, wide * 0.5, head * 0.2, skin, line, lean)
    _blob(pen, x, chest, wide, tall, cloth, line)
    if rng.random() < 0.5:
        _blob(pen, x, chest + tall * 0.1, wide * 0.55, tall * 0.65, inks[4], 0)
    _ears(pen, rng, inks, x, y, head, line)
    _blob(pen, x, y, head * rng.uniform(0.9, 1.25), head, skin, line)
    if rng.random() < 0.4:
        _blob(pen, x, y + head * 0.35, head * 0.6, head * 0.45, inks[4], 0)
    size, apart = head * rng.uniform(0.12, 0.3), head * rng.uniform(0.35, 0.5)
    for s in (-1, 1):
        _blob(pen, x + s * apart, y - head * 0.1, size, size * rng.uniform(1, 1.5), WHITE, line // 2 + 1)
        _blob(pen, x + s * apart * 0.9, y - head * 0.08, size * 0.5, size * 0.6, BLACK, 0)
    if rng.random() < 0.6:
        _blob(pen, x, y + head * 0.22, head * 0.16, head * 0.11, inks[3], line // 2)
    mouth = (x - head * 0.4, y + head * 0.1, x + head * 0.4, y + head * 0.65)
    pen.arc(tuple(map(float, mouth)), 20, 160, fill=BLACK, width=max(2, line))


def _ears(
    pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink], x: float, y: float, head: float, line: int
) -> None:
    kind, long = int(rng.integers(4)), rng.uniform(0.3, 0.9) * head
    if kind == 3:
        brim = (x - head, y - head * 1.0, x + head, y - head * 0.7)
        pen.rectangle(tuple(map(float, brim)), fill=inks[3], outline=BLACK, width=max(1, line))
        _blob(pen, x, y - head * 1.1, head * 0.65, head * 0.4, inks[3], line)
        return
    for s in (-1, 1):
        if kind == 0:
            _blob(pen, x + s * head * 0.75, y - head * 0.8, long * 0.5, long * 0.5, inks[1], line)
        elif kind == 1:
            _blob(pen, x + s * head * 0.45, y - head * 1.1, long * 0.35, long * 0.9, inks[1], line, s * 12)
        else:
            points = [(x + s * head * 0.9, y - head * 0.3), (x + s * head * 0.85, y - head * 0.7 - long),
                      (x + s * head * 0.2, y - head * 0.85)]  # fmt: skip
            corners = [(float(px), float(py)) for px, py in points]
            pen.polygon(corners, fill=inks[1], outline=BLACK, width=max(1, line))


def _emblem(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink], side: float, line: int) -> None:
    middle, radius = side / 2, side * rng.uniform(0.35, 0.46)
    for step, share in enumerate((1.0, 0.84, 0.78)):
        _blob(
            pen, middle, middle, radius * share, radius * share, inks[1 + step % 3], line if step == 0 else 0
        )
    count, inner = int(rng.integers(3, 8)), rng.uniform(0.35, 0.8)
    angles = np.linspace(0, 2 * np.pi, 2 * count, endpoint=False) - np.pi / 2
    reach = np.where(np.arange(2 * count) % 2, inner, 1.0) * radius * 0.65
    corners = [
        (float(middle + r * np.cos(a)), float(middle + r * np.sin(a)))
        for r, a in zip(reach, angles, strict=True)
    ]
    pen.polygon(corners, fill=inks[4], outline=BLACK, width=max(1, line))


def dial(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink], side: float) -> None:
    """Face of a clock: twelve marks or fewer, perhaps a ring and a second colour in the middle."""
    middle = side / 2
    if rng.random() < 0.5:
        _blob(
            pen, middle, middle, middle * rng.uniform(0.3, 0.65), middle * rng.uniform(0.3, 0.65), inks[2], 0
        )
    if rng.random() < 0.4:
        ring = (side * 0.06, side * 0.06, side * 0.94, side * 0.94)
        pen.ellipse(ring, outline=inks[3], width=int(rng.integers(3, 12)))
    count, length = int(rng.choice([12, 12, 12, 4])), rng.uniform(0.06, 0.2)
    width, outer = int(rng.integers(3, 10)), rng.uniform(0.8, 0.92)
    dots = rng.random() < 0.3
    for number in range(count):
        angle = 2 * np.pi * number / count
        c, s = float(np.cos(angle)) * middle, float(np.sin(angle)) * middle
        grow = 1.4 if number % (count // 4) == 0 else 1.0
        if dots:
            _blob(pen, middle + c * outer, middle + s * outer, width * grow, width * grow, inks[1], 0)
        else:
            near = outer - length * grow
            line = [(middle + c * near, middle + s * near), (middle + c * outer, middle + s * outer)]
            pen.line(line, fill=inks[1], width=width)
