"""Classical pixel metrics, the floor under every learned one: SSIM, PSNR and a colour histogram.

They compare two (H, W, 3) uint8 pictures of any sizes; each brings both to its own fixed size first.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from identisim.images import Pixels, resize
from identisim.metrics.metric import PairMetric, fingerprint

SIDE: Final = 256
"""Pixels to which SSIM and PSNR bring both pictures, squashing them to a square."""

PSNR_CAP: Final = 100.0
"""dB given to identical pictures, whose PSNR is infinite, and the most that any pair gets."""

BAND: Final = 41
"""Windows that SSIM averages by one matrix product; divides the 246 windows of a side."""

HISTOGRAM_SIDE: Final = 96
HISTOGRAM_BINS: Final = (16, 4, 4)
"""Bins of hue, saturation and value."""

HISTOGRAM_SIGMA: Final = 0.25
"""Standard deviation of the centred Gaussian that weighs the pixels, as a fraction of the side."""


class SsimDescription(NamedTuple):
    """What SSIM needs of one picture: grey levels − 128 (256, 256) int8; window means and variances (246, 246)."""

    levels: NDArray[np.int8]
    mean: NDArray[Any]
    variance: NDArray[Any]


def describe_for_ssim(image: Pixels, dtype: type[np.floating[Any]] = np.float32) -> SsimDescription:
    """Describe a picture once for many comparisons; dtype is the precision of everything that follows."""
    levels = (grey(image, SIDE).astype(np.int16) - 128).astype(np.int8)
    # variances do not change with the grey level, and small numbers lose fewer digits in float32
    centred = levels.astype(dtype)
    mean = _window_mean(centred)
    return SsimDescription(levels, mean, _window_mean(centred * centred) - mean * mean)


def ssim_of_descriptions(a: SsimDescription, b: SsimDescription) -> float:
    """SSIM of two pictures already described; float32 descriptions give it to about 1e-5."""
    total = 0.0
    for top in range(0, SIDE - 10, BAND):
        inner, outer = slice(top, top + BAND), slice(top, top + BAND + 10)
        products = np.multiply(a.levels[outer], b.levels[outer], dtype=a.mean.dtype)
        total += _ssim_of_band(products, *(part[inner] for part in (a.mean, b.mean, a.variance, b.variance)))
    return total / (SIDE - 10) ** 2


def _ssim_of_band(
    products: NDArray[Any],
    mean_a: NDArray[Any],
    mean_b: NDArray[Any],
    variance_a: NDArray[Any],
    variance_b: NDArray[Any],
) -> float:
    """Sum of the SSIM of BAND rows of windows; so few that everything stays in the processor's cache."""
    c1, c2 = (mean_a.dtype.type((k * 255) ** 2) for k in (0.01, 0.03))
    covariance = _band_mean(products) - mean_a * mean_b
    x, y = mean_a + mean_a.dtype.type(128), mean_b + mean_b.dtype.type(128)
    numerator = (2 * x * y + c1) * (2 * covariance + c2)
    denominator = (x * x + y * y + c1) * (variance_a + variance_b + c2)
    return float((numerator / denominator).sum())


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity in [−1, 1], 1 = identical (Wang et al. 2004), of grey pictures at 256×256.

    Gaussian window 11×11 with σ = 1.5, K = (0.01, 0.03), population covariance, mean over the windows wholly
    inside: scikit-image's with gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255.
    In float64; the metric `ssim` computes in float32.
    """
    return ssim_of_descriptions(describe_for_ssim(a, np.float64), describe_for_ssim(b, np.float64))


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of the RGB values at 256×256: 0 to 100 dB, the cap for equal ones."""
    return _psnr_of_squares(resize(a, SIDE, SIDE), resize(b, SIDE, SIDE))


def _psnr_of_squares(a: Pixels, b: Pixels) -> float:
    difference = np.subtract(a, b, dtype=np.float64).ravel()
    error = float(difference @ difference) / difference.size
    return min(PSNR_CAP, 10 * float(np.log10(255**2 / error))) if error > 0 else PSNR_CAP


def histogram_similarity(a: Pixels, b: Pixels) -> float:
    """Intersection of the HSV colour histograms (16×4×4 bins), in [0, 1], 1 = the same colours.

    Pixels at 96×96 count by a centred Gaussian, σ = a quarter of the side: objects tend to be there.
    """
    return _shared(colour_histogram(a), colour_histogram(b))


def _shared(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.minimum(a, b).sum())


def build_ssim() -> PairMetric:
    """SSIM as a metric; see `ssim`."""
    identity = _identity("ssim", f"bicubic{SIDE}-grey", "2")
    return PairMetric("ssim", ssim_of_descriptions, identity, describe=describe_for_ssim)


def build_psnr() -> PairMetric:
    """PSNR as a metric; see `psnr`."""
    identity = _identity("psnr", f"bicubic{SIDE}-rgb", "2")
    return PairMetric("psnr", _psnr_of_squares, identity, describe=lambda image: resize(image, SIDE, SIDE))


def build_histogram() -> PairMetric:
    """Colour histogram intersection as a metric; see `histogram_similarity`."""
    name = "colour-histogram"
    identity = _identity(name, f"bicubic{HISTOGRAM_SIDE}-hsv")
    return PairMetric(name, _shared, identity, describe=colour_histogram)


def _identity(name: str, preprocessing: str, version: str = "1") -> str:
    return fingerprint(name, weights="", preprocessing=preprocessing, version=version)


def grey(image: Pixels, side: int) -> Pixels:
    """Grey picture (ITU-R 601) squashed to side × side: (side, side) uint8."""
    return np.asarray(Image.fromarray(resize(image, side, side)).convert("L"))


def _window_mean(values: NDArray[Any]) -> NDArray[Any]:
    """Gaussian-weighted mean of every 11×11 window inside (256, 256): (246, 246).

    As products with a banded matrix, band by band: twice as fast as shifting and adding, and as one product.
    """
    return np.concatenate([_band_mean(values[top : top + BAND + 10]) for top in range(0, SIDE - 10, BAND)])


def _band_mean(values: NDArray[Any]) -> NDArray[Any]:
    """`_window_mean` of as many rows as one product takes: (BAND + 10, 256) -> (BAND, 246)."""
    band = _window_band(values.dtype.str)
    rows = band @ values
    means = np.empty((BAND, SIDE - 10), values.dtype)
    for left in range(0, SIDE - 10, BAND):
        means[:, left : left + BAND] = rows[:, left : left + BAND + 10] @ band.T
    return means


@cache
def _window_band(dtype: str) -> NDArray[Any]:
    """Weights of BAND neighbouring windows: (BAND, BAND + 10)."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    band = np.zeros((BAND, BAND + 10))
    for row in range(BAND):
        band[row, row : row + 11] = taps / taps.sum()
    return band.astype(dtype)


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
