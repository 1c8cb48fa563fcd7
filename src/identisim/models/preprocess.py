"""`Preprocessing` as a differentiable torch function, for gradients that reach the pixels.

Shapes: B images, H × W source pixels, size × size output pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from identisim.errors import InputError
from identisim.images import PAD_GREY, RANGE_TOLERANCE, Preprocessing

SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
"""Half-width of a kernel in (output) pixels."""


def differentiable_preprocess(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Preprocess (B, 3, H, W) floats in [0, 1] to (B, 3, size, size), on the same device with the same dtype.

    Filters and clips as `Preprocessing.__call__` does, pass by pass, but rounds nowhere, so that the gradient
    is that of the value returned. For 8-bit pictures the result, before mean and std and once rounded to 8
    bits, is at most one grey level from the canonical one.
    Raises InputError for other shapes or integer pixels.
    """
    require_pictures(images)
    height, width = images.shape[2:]
    place = preprocessing.placement(height, width)
    left, top, right, bottom = place.box
    columns = resampling_weights(width, left, right, place.width, preprocessing.filter).to(images)
    rows = resampling_weights(height, top, bottom, place.height, preprocessing.filter).to(images)
    if place.rows_first:
        resized = ((rows @ images).clamp(0, 1) @ columns.mT).clamp(0, 1)
    else:
        resized = (rows @ (images @ columns.mT).clamp(0, 1)).clamp(0, 1)
    size = preprocessing.size
    pad_right, pad_bottom = size - place.width - place.left, size - place.height - place.top
    padded = torch.nn.functional.pad(
        resized, (place.left, pad_right, place.top, pad_bottom), value=PAD_GREY / 255
    )
    return normalise(padded, preprocessing)


def require_pictures(images: Tensor) -> None:
    """Raise InputError unless this is (B, 3, H, W) floats, of no empty dimension."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise InputError(
            f"expected (B, 3, H, W) floats in [0, 1]; got {tuple(images.shape)} of {images.dtype}"
        )


def require_unit_range(images: Tensor) -> None:
    """Raise InputError that guesses the cause for floats outside [0, 1] and NaN; what is on a GPU is waited for."""
    low, high = (float(end) for end in torch.stack(images.detach().float().aminmax()))
    if low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE:
        return
    advice = "look for NaN in the model"
    if low < -RANGE_TOLERANCE:
        advice = "for pictures in [−1, 1] pass (x + 1) / 2; clamp what a model lets overshoot"
    elif high > 1:
        advice = "for pictures in [0, 255] pass x / 255; clamp what a model lets overshoot"
    raise InputError(f"expected pictures in [0, 1]; got values from {low:.4g} to {high:.4g}: {advice}")


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel: (B, 3, S, S) -> the same shape."""
    mean, std = (
        pixels.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    return (pixels - mean) / std


def resampling_weights(
    length: int, start: float, stop: float, out_length: int, kernel: str = "bicubic"
) -> Tensor:
    """Matrix (out_length, length), float64, rows sum to 1: Pillow's antialiased resize along one axis.

    start, stop: the stretch of the source that is resized, in pixels; neighbours outside it still contribute.
    """
    scale = (stop - start) / out_length
    widening = max(scale, 1.0)  # a kernel as wide as the output pixel is what removes aliasing
    centres = start + (torch.arange(out_length, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(length, dtype=torch.float64)
    reach = SUPPORT[kernel] * widening
    first = (centres - reach + 0.5).trunc().clamp(min=0)
    beyond = (centres + reach + 0.5).trunc().clamp(max=length)
    inside = (pixels >= first[:, None]) & (pixels < beyond[:, None])
    weights = KERNELS[kernel]((pixels + 0.5 - centres[:, None]) / widening) * inside
    return weights / weights.sum(dim=1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = −0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


KERNELS = {"bicubic": _cubic, "bilinear": _triangle}
