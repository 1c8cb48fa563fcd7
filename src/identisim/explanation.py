"""Drawing of an explanation: two pictures, lines between matched patches, heat maps, a legend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from identisim.drawing import GREY, INK, LINE, WHITE, colormap, fit, font, shorten
from identisim.images import Preprocessing

# Lengths in pixels of the finished picture.
HEIGHT = 420
WIDEST = 640
NARROWEST = 860
MARGIN = 32
GAP = 72
LABEL = 34
LEGEND = 56
HEAD = 84

SMOOTH = 3  # drawn this much larger, then scaled down
OPACITY = 178  # of the heat map, of 255

# Well apart in hue and lightness, and dark enough to carry a white number.
COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (0, 165, 175),
    (240, 50, 230),
    (128, 128, 0),
    (170, 110, 40),
    (0, 0, 170),
    (128, 0, 0),
    (90, 90, 90),
)


@dataclass(frozen=True)
class Side:
    """One of the two pictures. pixels: (H, W, 3) uint8. preprocessing: what the network saw of it.

    heat: (h, w) in [0, 1]. patches: (n, 2), row and column of the matched patches, in the other side's order.
    """

    caption: str
    pixels: np.ndarray
    preprocessing: Preprocessing
    heat: np.ndarray
    patches: np.ndarray

    def seen_box(self, picture: Image.Image) -> tuple[float, float, float, float]:
        """Rectangle (left, top, right, bottom) that the patch grid covers, in pixels of the picture as drawn.

        It is the picture itself for mode "square", larger for "pad", and a part of it for "crop".
        """
        height, width = self.pixels.shape[:2]
        place = self.preprocessing.placement(height, width)
        box_left, box_top, box_right, box_bottom = place.box
        per_column = (box_right - box_left) / place.width * picture.width / width
        per_row = (box_bottom - box_top) / place.height * picture.height / height
        left = box_left * picture.width / width - place.left * per_column
        top = box_top * picture.height / height - place.top * per_row
        side = self.preprocessing.size
        return left, top, left + side * per_column, top + side * per_row

    def patch_centres(self, picture: Image.Image) -> np.ndarray:
        """Centres (n, 2) of the matched patches: x, y in pixels of the picture as drawn."""
        left, top, right, bottom = self.seen_box(picture)
        rows, columns = self.heat.shape
        x = left + (self.patches[:, 1] + 0.5) / columns * (right - left)
        y = top + (self.patches[:, 0] + 0.5) / rows * (bottom - top)
        # the centre of a patch in the padding lies outside the picture
        return np.stack([np.clip(x, 0, picture.width - 1), np.clip(y, 0, picture.height - 1)], axis=-1)

    def heat_overlay(self, picture: Image.Image) -> Image.Image:
        """Lay the heat map over the picture in grey; what the network did not see stays plain grey."""
        left, top, right, bottom = (round(edge) for edge in self.seen_box(picture))
        size = max(1, right - left), max(1, bottom - top)
        heat = Image.fromarray(self.heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        grey = picture.convert("L").convert("RGB")
        layer, seen = grey.copy(), Image.new("L", picture.size, 0)
        layer.paste(Image.fromarray(colormap(np.asarray(heat))), (left, top))
        seen.paste(OPACITY, (left, top, left + size[0], top + size[1]))
        return Image.composite(layer, grey, seen)


def draw_explanation(side_a: Side, side_b: Side, *, title: str, subtitle: str) -> Image.Image:
    """Both pictures with lines between matched patches above, both heat maps below, a legend at the foot."""
    sides = (side_a, side_b)
    pictures = [fit(side.pixels, WIDEST, HEIGHT) for side in sides]
    content = sum(picture.width for picture in pictures) + GAP
    width = max(content, NARROWEST) + 2 * MARGIN
    tallest = max(picture.height for picture in pictures)
    first = HEAD + LABEL
    second = first + tallest + LABEL + 14
    canvas = Image.new("RGB", (width, second + tallest + LEGEND + MARGIN), WHITE)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 24), title, fill=INK, font=font(26))
    draw.text((MARGIN, 60), shorten(subtitle, 14, width - 2 * MARGIN), fill=GREY, font=font(14))
    x, ends = (width - content) // 2, []
    for side, picture in zip(sides, pictures, strict=True):
        caption = shorten(side.caption, 14, max(picture.width, 200))
        draw.text((x, first - 22), caption, fill=INK, font=font(14))
        canvas.paste(picture, (x, first))
        canvas.paste(side.heat_overlay(picture), (x, second))
        ends.append(side.patch_centres(picture) + np.array([x, first]))
        x += picture.width + GAP
    label = "how well each patch is found in the other picture"
    draw.text(((width - content) // 2, second - 22), label, fill=INK, font=font(14))
    _draw_legend(canvas, MARGIN, second + tallest + 22)
    return _draw_lines(canvas, *ends)


def _draw_lines(canvas: Image.Image, starts: np.ndarray, ends: np.ndarray) -> Image.Image:
    """Join starts (n, 2) and ends (n, 2) by numbered lines; drawn larger and scaled down to be smooth."""
    layer = Image.new("RGBA", (canvas.width * SMOOTH, canvas.height * SMOOTH), (255, 255, 255, 0))
    draw = ImageDraw.Draw(layer)
    lines = [
        (tuple(start), tuple(end), COLOURS[index % len(COLOURS)])
        for index, (start, end) in enumerate(zip(starts * SMOOTH, ends * SMOOTH, strict=True))
    ]
    for start, end, colour in lines:
        draw.line([start, end], fill=(255, 255, 255, 190), width=4 * SMOOTH)
        draw.line([start, end], fill=(*colour, 235), width=2 * SMOOTH)
    # the strongest last, so that no other number hides it
    for number, (start, end, colour) in reversed(list(enumerate(lines, 1))):
        for centre in (start, end):
            draw.circle(centre, 10 * SMOOTH, fill=colour, outline=WHITE, width=SMOOTH)
            draw.text(centre, str(number), fill=WHITE, font=font(12 * SMOOTH), anchor="mm")
    smooth = layer.resize(canvas.size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(canvas.convert("RGBA"), smooth).convert("RGB")


def _draw_legend(canvas: Image.Image, left: int, top: int) -> None:
    draw = ImageDraw.Draw(canvas)
    bar = colormap(np.tile(np.linspace(0, 1, 240), (12, 1)))
    canvas.paste(Image.fromarray(bar), (left, top))
    draw.rectangle((left, top, left + 239, top + 11), outline=LINE)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.text((left + value * 239, top + 16), f"{value:g}", fill=GREY, font=font(12), anchor="ma")
    note = "best cosine x foreground of both patches; numbers join the strongest pairs, 1 = strongest"
    draw.text((left + 262, top - 2), note, fill=GREY, font=font(13))
