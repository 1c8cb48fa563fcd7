"""Files, encoded bytes, arrays and tensors as RGB pixels: what is read, what is refused, what it may cost."""

from __future__ import annotations

import io
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from identisim.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Pixels: TypeAlias = NDArray[np.uint8]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
"""Formats that are opened; EPS, PDF and the like are not, since they would start an interpreter."""

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif")

RANGE_TOLERANCE: Final = 1e-3
"""How far floats may leave their range, as a fraction of it: the rounding of an earlier resize."""


class AspectWarning(UserWarning):
    """A picture is so narrow that little of it is left in a square."""


class ImageError(InputError):
    """A picture cannot be read; the message names it, the fault and what to do."""


@dataclass(frozen=True)
class ImageLimits:
    """What an encoded picture may cost: checked in its header, before a pixel is decoded."""

    max_pixels: int = 100_000_000
    max_bytes: int = 256 * 2**20
    max_frames: int = 10_000


DEFAULT_LIMITS: Final = ImageLimits()


def read_file(path: Path, limits: ImageLimits) -> bytes:
    """Read the bytes of a regular file no larger than the limit; ImageError else, OSError when it is missing."""
    status = path.stat()
    # opening a FIFO would wait for ever, and a device might never end
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not a regular file; pass the path of one picture")
    _require_at_most(status.st_size, limits.max_bytes, "bytes", "max_bytes")
    return path.read_bytes()


def decode(data: bytes, background: tuple[int, int, int], frame: int, limits: ImageLimits) -> Pixels:
    """Decode one frame, counted from 0, of encoded bytes to (H, W, 3) uint8 RGB, upright, alpha composited.

    Raises ImageError for what is no picture, costs more than the limits, has no such frame or is ambiguous;
    Pillow raises errors of any kind for damaged bytes. Call it within `errors_naming` and `pillow_settings`.
    """
    _require_at_most(len(data), limits.max_bytes, "bytes", "max_bytes")
    _require_picture_bytes(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        _require_at_most(picture.width * picture.height, limits.max_pixels, "pixels", "max_pixels")
        frames = getattr(picture, "n_frames", 1)
        _require_at_most(frames, limits.max_frames, "frames", "max_frames")
        if not 0 <= frame < frames:
            raise ImageError(f"frame {frame} was asked; it has {frames}, counted from 0")
        picture.seek(frame)
        # a later frame or page may be larger than the first
        _require_at_most(picture.width * picture.height, limits.max_pixels, "pixels", "max_pixels")
        picture.load()
        _mend_colour_key(picture, data)
        ImageOps.exif_transpose(picture, in_place=True)
        return flatten(picture, background)


def _require_at_most(count: int, limit: int, unit: str, field: str) -> None:
    if count > limit:
        raise ImageError(
            f"{count:,} {unit}, the limit is {limit:,}; shrink it or pass limits=ImageLimits({field}=…)"
        )


def _require_picture_bytes(data: bytes) -> None:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        raise ImageError("empty (0 bytes); fetch it again")
    if start.startswith((b"<!doctype html", b"<html")):
        raise ImageError("an HTML page, most likely a failed download; fetch the picture itself")
    if start.startswith(b"version https://git-lfs"):
        raise ImageError("a git-lfs pointer, not the picture; run `git lfs pull`")


def _mend_colour_key(picture: Image.Image, data: bytes) -> None:
    """Scale the transparent colour of a PNG to the decoded pixels; Pillow leaves it as it is in the file."""
    if picture.format != "PNG" or "transparency" not in picture.info:
        return
    bit_depth = data[24]
    if picture.mode == "L" and bit_depth in (2, 4):
        picture.info["transparency"] *= 255 // (2**bit_depth - 1)
    if picture.mode == "RGB" and bit_depth == 16:
        raise ImageError("16-bit colour with one colour transparent (tRNS); save it with an alpha channel")


def flatten(picture: Image.Image, background: tuple[int, int, int]) -> Pixels:
    """Turn a picture in any mode of Pillow into (H, W, 3) uint8 RGB, alpha composited on the background.

    Raises ImageError for 32-bit modes, which do not say what is black and white.
    """
    if picture.mode.startswith("I;16"):
        return _flatten_grey16(picture, background)
    if picture.mode in ("I", "F"):
        raise ImageError(
            f"its pixels are {'32-bit integers' if picture.mode == 'I' else 'floats'}, which do not say "
            "what is black and white; save it with 8 or 16 bits, or pass an array of floats with value_range"
        )
    if picture.mode == "La":  # the one mode that Pillow does not convert to RGBA in one step
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, (*background, 255))
        picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def _flatten_grey16(picture: Image.Image, background: tuple[int, int, int]) -> Pixels:
    values = np.asarray(picture)
    grey = _scale_16_bits(values)
    # Pillow inverts TIFFs in which 0 is white (tag 262 = 0) when they have 8 bits, but not 16
    if getattr(picture, "tag_v2", {}).get(262) == 0:
        grey = 255 - grey
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in picture.info:
        rgb[values == picture.info["transparency"]] = background
    return rgb


def is_tensor(source: object) -> TypeGuard[Tensor]:
    """Tell a torch tensor from other objects, without importing torch."""
    return hasattr(source, "detach")


def picture_of(source: object, value_range: tuple[float, float]) -> Image.Image:
    """Turn an array (H, W) or (H, W, 1 | 3 | 4), or a tensor with channels first, into an 8-bit picture.

    value_range: (black, white) of floats; uint16 is divided by 257, uint8 is taken as it is.
    Raises ImageError when shape, type or values are others.
    """
    array = _channels_last(source)
    if array.dtype == np.uint16:
        array = _scale_16_bits(array)
    elif np.issubdtype(array.dtype, np.floating):
        array = _scale_floats(array, value_range)
    elif array.dtype != np.uint8:
        raise ImageError(
            f"its type is {array.dtype}; expected uint8, uint16 or floats (0–255: .astype('uint8'))"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _channels_last(source: object) -> NDArray[Any]:
    """Array as given, or tensor with its channels moved to the end; the shape is checked."""
    if not isinstance(source, np.ndarray) and not is_tensor(source):
        raise ImageError("not a picture; pass a path, bytes, a PIL image, a numpy array or a tensor")
    shape, order = tuple(source.shape), "HWC" if isinstance(source, np.ndarray) else "CHW"
    axis = order.index("C")
    if 0 in shape or not (len(shape) == 2 or (len(shape) == 3 and shape[axis] in (1, 3, 4))):
        hint = ""
        if len(shape) == 3 and shape[2 - axis] in (1, 3, 4):
            hint = "; use .permute(2, 0, 1)" if axis == 0 else "; use .transpose(1, 2, 0)"
        expected = f"({', '.join(order)}) with C = 1, 3 or 4, or (H, W)"
        raise ImageError(f"its shape is {shape}; expected one picture, {expected}{hint}")
    if isinstance(source, np.ndarray):
        return source
    tensor = source.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array if array.ndim == 2 else np.moveaxis(array, 0, -1)


def _scale_16_bits(values: NDArray[Any]) -> Pixels:
    # round(v / 257) in integers; 257 is odd, so there are no ties
    return np.asarray((values.astype(np.uint32) + 128) // 257, dtype=np.uint8)


def _scale_floats(array: NDArray[Any], value_range: tuple[float, float]) -> Pixels:
    low, high = value_range
    if not low < high:
        raise ImageError(f"value_range is (black, white) with black < white; got {value_range}")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError("it holds NaN or infinity; mend the step that made it")
    scaled = (values - low) / (high - low)
    if scaled.min() < -RANGE_TOLERANCE or scaled.max() > 1 + RANGE_TOLERANCE:
        least, most = float(values.min()), float(values.max())
        raise ImageError(
            f"its values go from {least:.4g} to {most:.4g}, expected {low:g} to {high:g}; "
            + _likely_range(least, most)
        )
    return np.asarray(np.rint(np.clip(scaled, 0, 1) * 255), dtype=np.uint8)


def _likely_range(least: float, most: float) -> str:
    if least >= -1 - RANGE_TOLERANCE and most <= 1 + RANGE_TOLERANCE:
        return "if −1 is black, pass value_range=(-1, 1)"
    if least >= -255 * RANGE_TOLERANCE and most <= 255 * (1 + RANGE_TOLERANCE):
        return "if 255 is white, pass value_range=(0, 255)"
    return (
        "if a mean and standard deviation were applied, pass it without; else pass value_range=(black, white)"
    )


@contextmanager
def errors_naming(name: str) -> Iterator[None]:
    """Turn every failure into an ImageError that names the picture: Pillow raises errors of all kinds."""
    try:
        yield
    except MemoryError:
        raise
    except ImageError as fault:
        raise ImageError(f"cannot read {name}: {fault}") from None
    except UnidentifiedImageError as error:
        raise ImageError(
            f"cannot read {name}: not a readable {', '.join(FORMATS)} file, and others are not opened; "
            "convert it to PNG"
        ) from error
    except FileNotFoundError as error:
        raise ImageError(f"cannot read {name}: No such file; check the path") from error
    except PermissionError as error:
        raise ImageError(f"cannot read {name}: not permitted; check who may read it") from error
    except Exception as error:
        raise ImageError(f"cannot read {name}: {error}; it may be damaged or unsupported") from error


_settings_lock = threading.Lock()
_settings_before = ExitStack()
_readers = 0


@contextmanager
def pillow_settings(limits: ImageLimits) -> Iterator[None]:
    """Let our limits be the ones that count while a picture is read, in any number of threads.

    Pillow keeps its size limit, its leniency towards cut files and its warnings in globals: the first reader
    sets them, the last one puts back what was there.
    """
    global _readers
    with _settings_lock:
        if _readers == 0:
            _settings_before.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            for module, setting in ((Image, "MAX_IMAGE_PIXELS"), (ImageFile, "LOAD_TRUNCATED_IMAGES")):
                _settings_before.callback(setattr, module, setting, getattr(module, setting))
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        # raised, never lifted: Pillow holds it against the tiles inside a TIFF too
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
        _readers += 1
    try:
        yield
    except Image.DecompressionBombError:
        raise ImageError(
            f"more than twice the limit of {limits.max_pixels:,} pixels; "
            "shrink it or pass limits=ImageLimits(max_pixels=…)"
        ) from None
    finally:
        with _settings_lock:
            _readers -= 1
            if _readers == 0:
                _settings_before.close()
