"""Pictures and masks as arrays: load, resize, crop, compose, measure, save (Pillow and numpy only).

A picture is (H, W, 3) uint8 RGB, a mask is (H, W): bool, integers (non-zero = object) or floats in [0, 1].
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from identisim.decoding import (
    DEFAULT_LIMITS,
    FORMATS,
    RANGE_TOLERANCE,
    SUFFIXES,
    AspectWarning,
    ImageError,
    ImageLimits,
    Pixels,
    decode,
    errors_naming,
    flatten,
    is_tensor,
    picture_of,
    pillow_settings,
    read_file,
)
from identisim.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DEFAULT_LIMITS",
    "FORMATS",
    "PAD_GREY",
    "RANGE_TOLERANCE",
    "SUFFIXES",
    "AspectWarning",
    "ImageError",
    "ImageLike",
    "ImageLimits",
    "Pixels",
    "Placement",
    "Preprocessing",
    "as_sequence",
    "blur_score",
    "composite",
    "coverage",
    "crop_to_mask",
    "list_images",
    "load_image",
    "resize",
    "save_png",
]

ImageLike: TypeAlias = Union[str, os.PathLike[str], bytes, Image.Image, NDArray[Any], "Tensor"]
"""What `load_image` reads: path, encoded bytes, PIL image, numpy array (H, W, C), torch tensor (C, H, W)."""

PAD_GREY: Final = 128
"""Grey level of the borders that `Preprocessing(mode="pad")` adds."""

ASPECT: Final = 10
FILTERS: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}


def load_image(
    source: ImageLike,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    frame: int = 0,
    value_range: tuple[float, float] = (0.0, 1.0),
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Pixels:
    """Read one picture as (H, W, 3) uint8 RGB.

    source: path, encoded bytes, PIL image, numpy array (H, W) or (H, W, 1 | 3 | 4), tensor with
    channels first; arrays and tensors hold uint8, uint16 or floats.
    background: colour under transparent pixels; alpha is always composited, so hidden colour never shows.
    frame: of an animation or multi-page TIFF, counted from 0; the default takes the first one silently, with
    no warning that there are more. Only for paths and bytes, as are the limits.
    value_range: (black, white) of floats; integers ignore it.
    The EXIF orientation that a file or PIL image records is applied. 16-bit grey becomes round(v / 257);
    of 16-bit colour Pillow keeps the high byte, at most one level away.
    Raises ImageError when the picture cannot be read whole and unambiguously.
    """
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    with errors_naming(name), pillow_settings(limits):
        if isinstance(source, (str, os.PathLike)):
            return decode(read_file(Path(source), limits), background, frame, limits)
        if isinstance(source, bytes):
            return decode(source, background, frame, limits)
        if frame != 0:
            raise ImageError(f"frame {frame} was asked of one picture in memory; pass its path or bytes")
        if isinstance(source, Image.Image):
            return flatten(ImageOps.exif_transpose(source), background)
        return flatten(picture_of(source, value_range), background)


def as_sequence(images: ImageLike | Iterable[ImageLike]) -> Sequence[ImageLike]:
    """List the pictures: one becomes a list of one, a 4-D array or tensor its n, any iterable its items."""
    if isinstance(images, (str, os.PathLike, bytes, Image.Image)):
        return [images]
    if isinstance(images, np.ndarray) or is_tensor(images):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Iterable):
        return list(images)
    raise InputError(f"expected a picture or an iterable of pictures; got {type(images).__name__}")


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Pictures in a folder and its sub-folders, by suffix in any case, sorted by relative path.

    Hidden files and folders are skipped, links to folders not followed.
    Raises InputError when the folder is missing, is a file, or holds no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        fault = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root} {fault}; expected a folder of pictures")
    found = [
        path.relative_to(root)
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    ]
    visible = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    if not visible:
        raise InputError(f"no picture in {root}: looked for names ending in {', '.join(SUFFIXES)}")
    return [root / path for path in sorted(visible, key=Path.as_posix)]


class Placement(NamedTuple):
    """Which box (left, top, right, bottom) of a picture becomes height × width pixels, and where they go.

    rows_first: the rows are resampled before the columns; the results are rounded and clipped in between, so
    the order decides pixels.
    """

    box: tuple[float, float, float, float]
    height: int
    width: int
    top: int
    left: int
    rows_first: bool


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a network; the same file gives the same bits anywhere.

    size: side of the square output, pixels.
    mode: "square" squashes to the square (the ID-Sim release); "pad" keeps the aspect and adds borders of
    grey 128 around it; "crop" takes the central square of the shorter side.
    mean, std: per channel, of values in [0, 1].
    version: of this code; raise it when the same fields come to mean other pixels.
    filter: how pixels are resampled, always antialiased.
    """

    size: int
    mode: Literal["square", "pad", "crop"] = "square"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    version: int = 1
    filter: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        if self.mode not in ("square", "pad", "crop"):
            raise InputError(f"unknown mode {self.mode!r}; choose square, pad or crop")
        if self.filter not in ("bicubic", "bilinear"):
            raise InputError(f"unknown filter {self.filter!r}; choose bicubic or bilinear")
        if self.size < 1 or len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise InputError(f"expected size ≥ 1, 3 means and 3 positive stds; got {astuple(self)}")
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))

    def __call__(self, rgb: Pixels) -> NDArray[np.float32]:
        """Turn (H, W, 3) uint8 into (3, size, size) float32: Pillow's filter on uint8, /255, −mean, /std."""
        _require_pixels(rgb)
        if (longer := max(rgb.shape[:2])) > ASPECT * min(rgb.shape[:2]):
            message = f"a picture {longer} pixels long is over {ASPECT} times as long as wide"
            warnings.warn(message, AspectWarning, stacklevel=2)
        place = self.placement(*rgb.shape[:2])
        resized = _resampled(Image.fromarray(rgb), place, self.filter)
        canvas = Image.new("RGB", (self.size, self.size), (PAD_GREY,) * 3)
        canvas.paste(resized, (place.left, place.top))
        values = np.asarray(canvas, dtype=np.float32) / np.float32(255)
        normalised = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def placement(self, height: int, width: int) -> Placement:
        """Place a picture of height × width pixels in the output square."""
        box, out_height, out_width = (0.0, 0.0, float(width), float(height)), self.size, self.size
        if self.mode == "crop":
            # cropping inside the resize: a 10000×1 picture never becomes 10000·size pixels wide
            side = min(height, width)
            x, y = (width - side) / 2, (height - side) / 2
            box = (x, y, x + side, y + side)
        elif self.mode == "pad":
            scale = self.size / max(height, width)
            out_height, out_width = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (self.size - out_height) // 2, (self.size - out_width) // 2
        return Placement(box, out_height, out_width, top, left, _rows_first(height, width))

    def mask(self, mask: NDArray[Any], grid: tuple[int, int]) -> NDArray[np.float32]:
        """Bring a mask of the picture to patches: (H, W), a bool or float in [0, 1], -> `grid`, (h, w) in [0, 1].

        Each value is the share of the patch that the object covers; what `pad` adds is no object.
        """
        inside = _boolean_mask(mask)
        weights = mask if np.issubdtype(mask.dtype, np.floating) else inside
        place = self.placement(*mask.shape)
        resized = _resampled(Image.fromarray(np.asarray(weights, np.float32)), place, "box")
        canvas: NDArray[np.float32] = np.zeros((self.size, self.size), np.float32)
        canvas[place.top : place.top + place.height, place.left : place.left + place.width] = np.asarray(
            resized
        )
        patches = Image.fromarray(canvas).resize((grid[1], grid[0]), Image.Resampling.BOX)
        return np.asarray(patches, np.float32).clip(0, 1)

    @property
    def fingerprint(self) -> str:
        """Short text that differs when any field differs, the same in every process."""
        # bicubic is left out, so that the text is that of the versions before there was a choice
        fields = astuple(self)[: 6 if self.filter != "bicubic" else 5]
        digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:12]
        return f"{self.mode}{self.size}-v{self.version}-{digest}"


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize (H, W, 3) or (H, W) uint8 to height × width pixels with Pillow bicubic (antialiased)."""
    _require_pixels(image, grey=True)
    source_height, source_width = image.shape[:2]
    box = (0.0, 0.0, float(source_width), float(source_height))
    place = Placement(box, height, width, 0, 0, _rows_first(source_height, source_width))
    return np.array(_resampled(Image.fromarray(image), place))


def crop_to_mask(image: Pixels, mask: NDArray[Any], margin: float = 0.0) -> Pixels:
    """Cut the mask's bounding box out of (H, W, 3), widened by margin × its side, within the picture.

    Raises InputError when the mask is empty.
    """
    inside = _boolean_mask(mask, image)
    if not inside.any():
        raise InputError("the mask is empty: there is no object to crop to")
    window = []
    for other_axis, length in ((1, inside.shape[0]), (0, inside.shape[1])):
        indices = np.flatnonzero(inside.any(axis=other_axis))
        start, stop = int(indices[0]), int(indices[-1]) + 1
        border = round(margin * (stop - start))
        window.append(slice(max(0, start - border), min(length, stop + border)))
    return image[tuple(window)]


def composite(foreground: Pixels, mask: NDArray[Any], background: Pixels | tuple[int, int, int]) -> Pixels:
    """Put the masked part of a picture on a background of the same size, or on one colour: (H, W, 3) uint8.

    A float mask blends; any other cuts.
    """
    inside = _boolean_mask(mask, foreground)
    under = np.asarray(background, dtype=np.uint8)
    if under.shape not in (foreground.shape, (3,)):
        raise InputError(f"background is {under.shape}; expected {foreground.shape} or one colour (3,)")
    weight = mask if np.issubdtype(mask.dtype, np.floating) else inside
    alpha = np.asarray(weight, dtype=np.float32)[..., None]
    return np.rint(foreground * alpha + under * (1 - alpha)).astype(np.uint8)


def coverage(mask: NDArray[Any]) -> float:
    """Fraction of the pixels that belong to the object, in [0, 1]; a float mask counts from 0.5 on."""
    return float(_boolean_mask(mask).mean())


def blur_score(image: Pixels) -> float:
    """Variance of the Laplacian of the grey picture, ≥ 0; low = blurred (ID-Sim, supplement A.2.1).

    4-neighbour kernel on uint8 grey, mirrored borders: OpenCV's `Laplacian(grey, CV_64F).var()`.
    """
    _require_pixels(image, grey=True)
    grey = np.pad(np.asarray(Image.fromarray(image).convert("L"), dtype=np.int32), 1, mode="reflect")
    centre = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre).var())


def save_png(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write uint8 (H, W) or (H, W, 3 | 4), or a bool mask (H, W); readers see the whole file or none."""
    if array.dtype not in (np.uint8, np.bool_) or array.ndim not in (2, 3):
        raise InputError(f"a PNG is saved from uint8 pixels or a bool mask; got {array.dtype} {array.shape}")
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            Image.fromarray(array).save(file, "PNG")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _rows_first(height: int, width: int) -> bool:
    # columns first, as Pillow did before 13, except where that would blow up a picture one pixel wide
    return height > 100 * width


def _resampled(picture: Image.Image, place: Placement, kernel: str = "bicubic") -> Image.Image:
    """Antialiased resize of Pillow, one axis at a time: which one it takes first changed with Pillow 13."""
    left, top, right, bottom = place.box
    for axis in ("rows", "columns") if place.rows_first else ("columns", "rows"):
        width, height = picture.size
        if axis == "columns":
            size, box = (place.width, height), (left, 0.0, right, float(height))
        else:
            size, box = (width, place.height), (0.0, top, float(width), bottom)
        picture = picture.resize(size, FILTERS[kernel], box=box)
    return picture


def _require_pixels(image: NDArray[Any], *, grey: bool = False) -> None:
    is_colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (is_colour or (grey and image.ndim == 2)) or image.size == 0:
        raise InputError(f"expected (H, W, 3) uint8, as load_image returns; got {image.dtype} {image.shape}")


def _boolean_mask(mask: NDArray[Any], image: Pixels | None = None) -> NDArray[np.bool_]:
    size = mask.shape if image is None else image.shape[:2]
    if mask.ndim != 2 or mask.shape != size or mask.size == 0:
        raise InputError(f"mask is {mask.shape}; expected (H, W){'' if image is None else f' = {size}'}")
    if not np.issubdtype(mask.dtype, np.floating):
        return np.asarray(mask != 0)
    if not ((mask >= 0) & (mask <= 1)).all():
        raise InputError("a float mask lies in [0, 1]; this one has values outside or NaN")
    return np.asarray(mask >= 0.5)
