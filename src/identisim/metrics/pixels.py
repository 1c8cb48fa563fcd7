"""Classical pixel metrics, the floor under every learned one: SSIM, PSNR and a colour histogram.

They compare two (H, W, 3) uint8 pictures of any sizes; each brings both to its own fixed size first.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from identisim.images import Pixels, resize
from identisim.metrics.metric import PairMetric, fingerprint

SIDE: Final = 256
"""Pixels to which SSIM and PSNR bring both pictures, squashing them to a square."""

PSNR_CAP: Final = 100.0
"""dB given to identical pictures, whose PSNR is infinite, and the most that any pair gets."""

HISTOGRAM_SIDE: Final = 96
HISTOGRAM_BINS: Final = (16, 4, 4)
"""Bins of hue, saturation and value."""

HISTOGRAM_SIGMA: Final = 0.25
"""Standard deviation of the centred Gaussian that weighs the pixels, as a fraction of the side."""


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity in [−1, 1], 1 = identical (Wang et al. 2004), of grey pictures at 256×256.

    Gaussian window 11×11 with σ = 1.5, K = (0.01, 0.03), population covariance, mean over the windows wholly
    inside: scikit-image's with gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255.
    """
    x, y = (_grey(image).astype(np.float64) for image in (a, b))
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of the RGB values at 256×256: 0 to 100 dB, the cap for equal ones."""
    difference = resize(a, SIDE, SIDE).astype(np.float64) - resize(b, SIDE, SIDE)
    error = float(np.mean(difference**2))
    return min(PSNR_CAP, 10 * float(np.log10(255**2 / error))) if error > 0 else PSNR_CAP


def histogram_similarity(a: Pixels, b: Pixels) -> float:
    """Intersection of the HSV colour histograms (16×4×4 bins), in [0, 1], 1 = the same colours.

    Pixels at 96×96 count by a centred Gaussian, σ = a quarter of the side: objects tend to be there.
    """
    return float(np.minimum(colour_histogram(a), colour_histogram(b)).sum())


def build_ssim() -> PairMetric:
    """SSIM as a metric; see `ssim`."""
    return PairMetric("ssim", ssim, _identity("ssim", f"bicubic{SIDE}-grey"))


def build_psnr() -> PairMetric:
    """PSNR as a metric; see `psnr`."""
    return PairMetric("psnr", psnr, _identity("psnr", f"bicubic{SIDE}-rgb"))


def build_histogram() -> PairMetric:
    """Colour histogram intersection as a metric; see `histogram_similarity`."""
    name = "colour-histogram"
    return PairMetric(name, histogram_similarity, _identity(name, f"bicubic{HISTOGRAM_SIDE}-hsv"))


def _identity(name: str, preprocessing: str) -> str:
    return fingerprint(name, weights="", preprocessing=preprocessing, version="1")


def _grey(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(resize(image, SIDE, SIDE)).convert("L"))


def _window_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian-weighted mean of every 11×11 window inside (H, W): (H − 10, W − 10)."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()
    return sliding_window_view(sliding_window_view(values, 11, axis=0) @ taps, 11, axis=1) @ taps


def colour_histogram(image: Pixels) -> NDArray[Any]:
    """Weights of the colours, (16 · 4 · 4,), sum 1."""
    small = Image.fromarray(resize(image, HISTOGRAM_SIDE, HISTOGRAM_SIDE))
    channels = np.moveaxis(np.asarray(small.convert("HSV")), -1, 0).astype(np.intp)
    bins = [channel * count // 256 for channel, count in zip(channels, HISTOGRAM_BINS, strict=True)]
    offsets = np.arange(HISTOGRAM_SIDE) - (HISTOGRAM_SIDE - 1) / 2
    profile = np.exp(-0.5 * (offsets / (HISTOGRAM_SIGMA * HISTOGRAM_SIDE)) ** 2)
    weights = np.outer(profile, profile)
    histogram = np.bincount(
        np.ravel_multi_index(tuple(bins), HISTOGRAM_BINS).ravel(),
        (weights / weights.sum()).ravel(),
        minlength=int(np.prod(HISTOGRAM_BINS)),
    )
    return histogram
