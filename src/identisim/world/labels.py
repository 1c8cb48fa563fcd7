"""Printed matter: small pictures with text, logos, stripes and fruit-like blobs, drawn from a seed."""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from identisim.world.drawings import cartoon, dial
from identisim.world.identity import Label, Vector

SIZE = 96  # pixels of a side
Ink = tuple[int, int, int, int]
Random = np.random.Generator

STYLES = ("brand", "banded", "picture", "sticker", "lines", "logo", "grid", "cartoon")


def draw(label: Label) -> np.ndarray:
    """The label as (SIZE, SIZE, 4) uint8 RGBA, first row at the top; transparent where there is no ink."""
    rng = np.random.default_rng([label.seed, 77])
    inks = [_ink(colour) for colour in label.colours]
    paper = inks[0] if label.opaque else (*inks[0][:3], 0)
    picture = Image.new("RGBA", (SIZE * 2, SIZE * 2), paper)
    if label.style != "plain":
        _DRAW[label.style](ImageDraw.Draw(picture), rng, inks)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX))


def _ink(colour: Vector) -> Ink:
    red, green, blue = (round(255 * value) for value in colour)
    return red, green, blue, 255


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def word(rng: Random, low: int = 3, high: int = 9) -> str:
    """A pronounceable made-up word."""
    count = int(rng.integers(low, high))
    letters = [str(rng.choice(list("aeiouy" if i % 2 else "bcdfghklmnprstvwz"))) for i in range(count)]
    text = "".join(letters)
    return (text.upper(), text.capitalize(), text)[int(rng.integers(3))]


def _text(pen: ImageDraw.ImageDraw, rng: Random, ink: Ink, y: float, size: int) -> None:
    text = word(rng)
    font = _font(max(8, size))
    width = pen.textlength(text, font=font)
    x = (2 * SIZE - width) * float(rng.choice([0.5, 0.5, rng.uniform(0, 1)]))
    pen.text((x, y), text, fill=ink, font=font, stroke_width=int(rng.integers(0, 3)), stroke_fill=ink)


def _logo(
    pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink], centre: tuple[float, float], radius: float
) -> None:
    kind, (x, y) = int(rng.integers(5)), centre
    ink = inks[int(rng.integers(1, len(inks)))]
    if kind == 0:
        pen.ellipse(
            (x - radius, y - radius * rng.uniform(0.5, 1), x + radius, y + radius * rng.uniform(0.5, 1)),
            fill=ink,
        )
    elif kind == 1:
        count, inner = int(rng.integers(3, 9)), rng.uniform(0.35, 1.0)
        angles = np.linspace(0, 2 * np.pi, 2 * count, endpoint=False) + rng.uniform(0, 6)
        radii = np.where(np.arange(2 * count) % 2, inner, 1.0) * radius
        pen.polygon(
            [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)], fill=ink
        )
    elif kind == 2:
        for step in range(int(rng.integers(2, 5))):
            r = radius * (1 - step * 0.28)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=inks[1 + step % (len(inks) - 1)])
    elif kind == 3:
        points = [
            (x + radius * rng.uniform(-1, 1), y + radius * rng.uniform(-1, 1))
            for _ in range(int(rng.integers(3, 7)))
        ]
        pen.polygon(points, fill=ink)
    else:
        pen.text(
            (x, y),
            str(rng.choice(list(string.ascii_uppercase + string.digits))),
            fill=ink,
            font=_font(int(radius * 1.8)),
            anchor="mm",
        )


def _brand(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink]) -> None:
    y = rng.uniform(0.05, 0.25) * SIZE * 2
    for row in range(int(rng.integers(1, 4))):
        size = int(rng.uniform(14, 60) / (1 + 0.6 * row))
        _text(pen, rng, inks[1 + row % 2], y, size)
        y += size * rng.uniform(1.0, 1.6)
    _logo(
        pen,
        rng,
        inks,
        (SIZE * rng.uniform(0.6, 1.4), rng.uniform(1.2, 1.6) * SIZE),
        SIZE * rng.uniform(0.25, 0.6),
    )


def _banded(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink]) -> None:
    edges = np.sort(rng.uniform(0, 2 * SIZE, int(rng.integers(2, 6))))
    upright = rng.random() < 0.3
    for number, (low, high) in enumerate(pairwise(edges)):
        place = (low, 0, high, 2 * SIZE) if upright else (0, low, 2 * SIZE, high)
        pen.rectangle(tuple(map(float, place)), fill=inks[1 + number % (len(inks) - 1)])
    _text(
        pen,
        rng,
        inks[int(rng.integers(1, len(inks)))],
        rng.uniform(0.2, 1.4) * SIZE,
        int(rng.uniform(18, 55)),
    )


def _picture(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink]) -> None:
    x, y = rng.uniform(0.6, 1.4, 2) * SIZE
    for _ in range(int(rng.integers(3, 12))):
        spot = (x + rng.normal(0, 0.35) * SIZE, y + rng.normal(0, 0.35) * SIZE)
        _logo(pen, rng, inks, spot, SIZE * rng.uniform(0.08, 0.35))
    if rng.random() < 0.7:
        _text(pen, rng, inks[1], rng.uniform(0.05, 1.6) * SIZE, int(rng.uniform(16, 44)))


def _sticker(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink]) -> None:
    left, top = rng.uniform(0.1, 0.7, 2) * SIZE
    place = (left, top, left + rng.uniform(0.6, 1.2) * SIZE, top + rng.uniform(0.5, 1.1) * SIZE)
    pen.rounded_rectangle(
        tuple(map(float, place)),
        radius=float(rng.uniform(0, 30)),
        fill=inks[1],
        outline=inks[2],
        width=int(rng.integers(0, 8)),
    )
    size = int(rng.uniform(14, 36))
    for row in range(int(rng.integers(1, 4))):
        text_y = top + 8 + row * size * 1.2
        pen.text((left + 8, text_y), word(rng, 2, 7), fill=inks[2 + row % 2], font=_font(size))


def _lines(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink]) -> None:
    for _ in range(int(rng.integers(4, 14))):
        points = rng.uniform(0, 2 * SIZE, (int(rng.integers(2, 6)), 2))
        pen.line(
            [(float(px), float(py)) for px, py in points],
            fill=inks[int(rng.integers(1, len(inks)))],
            width=int(rng.integers(2, 14)),
            joint="curve",
        )


def _logo_only(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink]) -> None:
    _logo(
        pen,
        rng,
        inks,
        (SIZE * rng.uniform(0.8, 1.2), SIZE * rng.uniform(0.7, 1.2)),
        SIZE * rng.uniform(0.4, 0.85),
    )
    if rng.random() < 0.6:
        _text(
            pen,
            rng,
            inks[int(rng.integers(1, len(inks)))],
            rng.uniform(0.8, 1.6) * SIZE,
            int(rng.uniform(20, 50)),
        )


def _grid(pen: ImageDraw.ImageDraw, rng: Random, inks: list[Ink]) -> None:
    cells = int(rng.integers(2, 6))
    side = 2 * SIZE / cells
    for row in range(cells):
        for column in range(cells):
            if rng.random() < 0.7:
                centre = ((column + 0.5) * side, (row + 0.5) * side)
                _logo(pen, rng, inks, centre, side * rng.uniform(0.25, 0.5))


_DRAW: dict[str, Callable[[ImageDraw.ImageDraw, Random, list[Ink]], None]] = {
    "brand": _brand, "banded": _banded, "picture": _picture, "sticker": _sticker, "lines": _lines,
    "logo": _logo_only, "grid": _grid, "cartoon": partial(cartoon, side=2 * SIZE), "dial": partial(dial, side=2 * SIZE),
}  # fmt: skip
