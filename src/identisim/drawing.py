"""What the explanation pictures and the retrieval sheets share: text, scaling, colours, saving."""

from __future__ import annotations

import os
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFont

from identisim.errors import InputError
from identisim.images import save_png

WHITE = (255, 255, 255)
INK = (32, 33, 36)
GREY = (110, 113, 119)
LINE = (218, 220, 224)
GREEN = (24, 150, 72)

# Anchors of matplotlib's viridis (CC0), dark = low: perceptually even and readable without colour vision.
_STOPS = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ],
    dtype=np.float32,
)


@cache
def font(size: int) -> Any:
    """Pillow's own scalable font, no file to ship; it knows basic Latin letters only, see `printable`."""
    return ImageFont.load_default(size)


def printable(text: str) -> str:
    """The text in basic Latin letters: accents fall off, what is left over becomes "?"."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return "".join(char if " " <= char <= "~" or char == "·" else "?" for char in bare)


def shorten(text: str, size: int, width: int) -> str:
    """Printable text cut in the middle until it is at most `width` pixels wide in the font of this size."""
    text = printable(text)
    if font(size).getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        head = (kept + 1) // 2
        candidate = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if font(size).getlength(candidate) <= width:
            return candidate
    return "…"


def fit(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """Scale an (H, W, 3) uint8 image to the largest size inside width × height, aspect kept."""
    image = Image.fromarray(pixels)
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def colormap(values: np.ndarray) -> np.ndarray:
    """Colour numbers in [0, 1]: any shape -> shape + (3,) uint8; values outside are clipped."""
    positions = np.clip(values, 0.0, 1.0) * (len(_STOPS) - 1)
    below = np.minimum(positions.astype(np.int64), len(_STOPS) - 2)
    share = (positions - below)[..., None]
    return np.asarray(np.rint(_STOPS[below] * (1 - share) + _STOPS[below + 1] * share), dtype=np.uint8)


def png_target(out: str | os.PathLike[str]) -> Path:
    """Path of a picture to write; InputError, before any work, if it is no .png or has no folder."""
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise InputError(f"cannot draw {path}: pictures are PNG, give a name that ends in .png")
    if not path.parent.is_dir():
        raise InputError(f"cannot draw {path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise InputError(f"cannot draw {path}: it is a folder; give the name of a file")
    return path


def save(canvas: Image.Image, path: Path) -> Path:
    """Write the finished picture atomically and return its path."""
    save_png(path, np.asarray(canvas.convert("RGB")))
    return path
