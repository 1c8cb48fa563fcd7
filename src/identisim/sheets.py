"""Drawing of a retrieval: the query at the left, its hits in rank order, as one picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from identisim.drawing import GREEN, GREY, INK, LINE, WHITE, fit, font, png_target, printable, save, shorten
from identisim.errors import InputError
from identisim.images import ImageLike, load_image

if TYPE_CHECKING:
    from identisim.gallery import Hit

TILE = 190
CAPTION = 50
GAP = 22
MARGIN = 32
HEAD = 78
COLUMNS = 5


def retrieval_sheet(
    query: ImageLike, hits: Sequence[Hit], out: str | os.PathLike[str], identity: str | None = None
) -> Path:
    """Draw a query and its hits with similarities and short names; write a PNG and return its path.

    identity: of the query; when None it is taken from a hit that is the very query file, if there is one.
    Hits of the same identity get a green frame, a hit that is the query file itself a grey tag. An image that
    cannot be read any more is drawn as an empty tile that says so. Raises InputError for no hits, an
    unreadable query or no .png name.
    """
    path = png_target(out)
    if not hits:
        raise InputError("no hit came; a sheet needs at least one")
    pixels = load_image(query)
    if identity is None:
        identity = next((hit.identity for hit in hits if hit.same_file and hit.identity is not None), None)
    columns = min(COLUMNS, len(hits))
    rows = -(-len(hits) // columns)
    first = MARGIN + TILE + 2 * GAP
    width = max(first + columns * (TILE + GAP) - GAP + MARGIN, 620)
    canvas = Image.new("RGB", (width, HEAD + rows * (TILE + CAPTION + GAP) - GAP + MARGIN), WHITE)
    _draw_head(canvas, first, len(hits), identity)
    _draw_tile(canvas, MARGIN, HEAD, pixels, "query", _name(query), frame=INK)
    ImageDraw.Draw(canvas).line([(first - GAP, HEAD), (first - GAP, canvas.height - MARGIN)], fill=LINE)
    for position, hit in enumerate(hits):
        x = first + position % columns * (TILE + GAP)
        y = HEAD + position // columns * (TILE + CAPTION + GAP)
        same = identity is not None and hit.identity == identity
        _draw_tile(
            canvas,
            x,
            y,
            hit.path,
            f"{hit.rank}    {hit.similarity:.3f}",
            _name(hit.path),
            frame=GREEN if same else None,
            tag="same file" if hit.same_file else None,
        )
    return save(canvas, path)


def _draw_head(canvas: Image.Image, first: int, count: int, identity: str | None) -> None:
    draw = ImageDraw.Draw(canvas)
    noun = "hit" if count == 1 else f"{count} hits"
    draw.text((first, 22), f"nearest {noun}, rank and similarity", fill=INK, font=font(17))
    note = "higher = more alike"
    if identity is not None:
        note += f"  ·  green = same identity: {identity}"
    note = shorten(note, 13, canvas.width - first - MARGIN)
    draw.text((first, 46), note, fill=GREY, font=font(13))


def _draw_tile(
    canvas: Image.Image,
    x: int,
    y: int,
    image: ImageLike,
    heading: str,
    name: str,
    *,
    frame: tuple[int, int, int] | None = None,
    tag: str | None = None,
) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), fill=(246, 247, 248))
    try:
        picture = fit(load_image(image), TILE, TILE)
    except InputError:
        draw.text((x + TILE // 2, y + TILE // 2), "cannot be read", fill=GREY, font=font(14), anchor="mm")
    else:
        canvas.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))
    if frame is not None:
        draw.rectangle((x - 4, y - 4, x + TILE + 3, y + TILE + 3), outline=frame, width=4)
    if tag is not None:
        right = x + 14 + font(12).getlength(printable(tag))
        draw.rectangle((x, y, right, y + 20), fill=GREY)
        draw.text((x + 7, y + 10), tag, fill=WHITE, font=font(12), anchor="lm")
    draw.text((x, y + TILE + 10), heading, fill=INK, font=font(15))
    draw.text((x, y + TILE + 30), shorten(name, 13, TILE), fill=GREY, font=font(13))


def _name(image: ImageLike) -> str:
    """Folder and file name of a path, which often tell identity and view; nothing for an image in memory."""
    if not isinstance(image, str | os.PathLike):
        return ""
    return "/".join(Path(image).parts[-2:])
