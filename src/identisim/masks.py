"""Write the foreground masks of a folder of pictures, to look at, to correct by hand, and to use again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from identisim.drawing import GREY, INK, WHITE, fit, font, png_target, save, shorten
from identisim.errors import InputError
from identisim.images import Pixels, coverage, list_images, load_image, save_png
from identisim.metrics.isolation import Foreground

TILE = 170
GAP = 14
HEAD = 56
CAPTION = 24
COLUMNS = 3
SHOWN = 24


@dataclass
class MaskReport:
    """What `write_masks` did: pictures whose masks were written, were there already, are empty, could not be made."""

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    failures: dict[Path, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line for people."""
        parts = [f"{len(self.written)} masks written"]
        parts += [f"{len(self.kept)} were there already"] if self.kept else []
        parts += [f"{len(self.empty)} empty"] if self.empty else []
        parts += [f"{len(self.failures)} pictures failed"] if self.failures else []
        return ", ".join(parts)


def write_masks(
    source: Path, out: Path, foreground: Foreground, sheet: str | os.PathLike[str] | None = None
) -> MaskReport:
    """Write OUT/A/B/photo.png for every picture A/B/photo.jpg of a folder, white where the object is.

    What is there already is kept, so that a killed run goes on and masks corrected by hand stay. sheet: a PNG with the
    first 24 pictures, their masks and their objects. A picture that fails is reported and does not end the run. Raises
    InputError for a source without pictures, or an OUT that is no folder.
    """
    path = None if sheet is None else png_target(sheet)
    pictures = list_images(source)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; expected a folder for the masks")
    report = MaskReport()
    for picture in tqdm(pictures, unit="picture", desc="masks", disable=None):
        target = (out / picture.relative_to(source)).with_suffix(".png")
        if target.is_file():
            report.kept.append(picture)
            continue
        try:
            mask = foreground(picture, load_image(picture))
        except InputError as error:
            report.failures[picture] = str(error)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        save_png(target, np.rint(mask * 255).astype(np.uint8))
        report.written.append(picture)
        if not (mask > 0).any():
            report.empty.append(picture)
    if path is not None:
        shown = [picture for picture in pictures if picture not in report.failures][:SHOWN]
        masks = [_read(out / picture.relative_to(source)) for picture in shown]
        draw_masks(shown, masks, path, f"foreground {foreground.fingerprint}")
    return report


def draw_masks(pictures: Sequence[Path], masks: Sequence[NDArray[np.float32]], out: Path, title: str) -> Path:
    """Draw pictures beside their objects on white: a PNG. masks: (H, W) in [0, 1], one for each picture."""
    if not pictures:
        raise InputError("no picture came; a sheet needs at least one")
    rows = -(-len(pictures) // COLUMNS)
    cell = 2 * TILE + 4 + GAP
    size = (GAP + COLUMNS * (cell + GAP), HEAD + rows * (TILE + CAPTION + GAP))
    canvas = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 14), shorten(title, 18, size[0] - 2 * GAP), INK, font=font(18))
    for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        left, top = GAP + index % COLUMNS * (cell + GAP), HEAD + index // COLUMNS * (TILE + CAPTION + GAP)
        pixels = load_image(picture)
        canvas.paste(fit(pixels, TILE, TILE), (left, top))
        canvas.paste(fit(_on_white(pixels, mask), TILE, TILE), (left + TILE + 4, top))
        caption = f"{picture.name}  ·  object {coverage(mask):.0%}"
        draw.text((left, top + TILE + 3), shorten(caption, 13, 2 * TILE), GREY, font=font(13))
    return save(canvas, out)


def _on_white(pixels: Pixels, mask: NDArray[np.float32]) -> Pixels:
    alpha = mask[..., None]
    return np.asarray(np.rint(pixels * alpha + 244 * (1 - alpha)), np.uint8)


def _read(path: Path) -> NDArray[np.float32]:
    return np.asarray(load_image(path.with_suffix(".png"))[..., 0] / np.float32(255), np.float32)
