"""Pixel metrics against scikit-image, OpenCV and values known in closed form."""

from __future__ import annotations

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from identisim.images import resize
from identisim.metrics.pixels import (
    build_histogram,
    build_psnr,
    build_ssim,
    histogram_similarity,
    psnr,
    ssim,
)

METRICS = (ssim, psnr, histogram_similarity)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y // height, 255 * x // width, (x + y) % 256], axis=-1).astype(np.uint8)


def flat(*colour: int, side: int = 40) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    blurred = cv2.GaussianBlur(smooth(256, 256), (0, 0), 3)
    return [
        (noise(256, 256, 1), noise(256, 256, 2)),
        (smooth(256, 256), blurred),
        (smooth(300, 200), noise(90, 120)),
        (smooth(256, 256), 255 - smooth(256, 256)),
        (flat(0, 0, 0), flat(255, 255, 255)),
    ]


@pytest.mark.parametrize(("a", "b"), pairs())
def test_ssim_equals_scikit_image(a: np.ndarray, b: np.ndarray) -> None:
    grey_a, grey_b = (np.asarray(Image.fromarray(resize(image, 256, 256)).convert("L")) for image in (a, b))
    expected = structural_similarity(
        grey_a, grey_b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_flat_pictures_in_closed_form() -> None:
    # no variance anywhere: only the luminance term (2xy + C1) / (x² + y² + C1) is left
    c1 = 2.55**2
    assert ssim(flat(100, 100, 100), flat(150, 150, 150)) == pytest.approx(
        (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), rel=1e-9
    )


@pytest.mark.parametrize(("a", "b"), pairs())
def test_psnr_equals_scikit_image(a: np.ndarray, b: np.ndarray) -> None:
    expected = peak_signal_noise_ratio(resize(a, 256, 256), resize(b, 256, 256), data_range=255)
    assert psnr(a, b) == pytest.approx(expected, abs=1e-9)


def test_psnr_in_closed_form() -> None:
    assert psnr(flat(10, 20, 30), flat(15, 25, 35)) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(flat(0, 0, 0), flat(255, 255, 255)) == pytest.approx(0)


def test_histogram_equals_a_slow_count() -> None:
    a, b = smooth(96, 96), noise(96, 96)
    histograms = []
    for image in (a, b):
        hsv = np.asarray(Image.fromarray(image).convert("HSV"))
        counts = np.zeros((16, 4, 4))
        for y in range(96):
            for x in range(96):
                h, s, v = (int(value) for value in hsv[y, x])
                distance = (y - 47.5) ** 2 + (x - 47.5) ** 2
                counts[h // 16, s // 64, v // 64] += math.exp(-distance / (2 * 24**2))
        histograms.append(counts / counts.sum())
    expected = np.minimum(*histograms).sum()
    assert 0.05 < expected < 0.95
    assert histogram_similarity(a, b) == pytest.approx(expected, rel=1e-9)


def test_histogram_in_closed_form() -> None:
    assert histogram_similarity(flat(255, 0, 0), flat(0, 255, 0)) == 0
    halves = flat(255, 0, 0, side=96)
    halves[:, 48:] = (0, 255, 0)
    # the middle lies on a pixel border, so that half of the weight is on either side
    assert histogram_similarity(halves, flat(255, 0, 0)) == pytest.approx(0.5)


def test_histogram_counts_the_middle_most() -> None:
    red, border, middle = flat(255, 0, 0, side=96), flat(255, 0, 0, side=96), flat(0, 255, 0, side=96)
    border[:8] = (0, 255, 0)
    middle[:] = red
    middle[44:52] = (0, 255, 0)
    assert histogram_similarity(red, border) > histogram_similarity(red, middle) > 0.8


@pytest.mark.parametrize("metric", METRICS)
def test_identical_pictures_score_highest(metric: object) -> None:
    best = {ssim: 1.0, psnr: 100.0, histogram_similarity: 1.0}[metric]  # type: ignore[index]
    for image in (noise(50, 70), smooth(10, 300), flat(0, 0, 0), noise(1, 1)):
        assert metric(image, image) == pytest.approx(best)  # type: ignore[operator]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32))
@settings(deadline=None, max_examples=15)
def test_symmetric_finite_and_in_range(height: int, width: int, seed: int) -> None:
    a, b = noise(height, width, seed), smooth(width + 1, height + 2)
    for metric, low, high in ((ssim, -1, 1), (psnr, 0, 100), (histogram_similarity, 0, 1)):
        value = metric(a, b)
        assert low <= value <= high
        assert metric(b, a) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_falls_as_noise_grows(metric: object) -> None:
    clean = smooth(128, 128)
    rng = np.random.default_rng(0)
    scores = []
    for strength in (0, 5, 20, 80):
        noisy = np.clip(clean + rng.normal(0, strength, clean.shape), 0, 255).astype(np.uint8)
        scores.append(metric(clean, noisy))  # type: ignore[operator]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_builders() -> None:
    built = [build_ssim(), build_psnr(), build_histogram()]
    assert [metric.name for metric in built] == ["ssim", "psnr", "colour-histogram"]
    assert len({metric.fingerprint for metric in built}) == 3
    images = [noise(20, 20, seed) for seed in range(3)]
    for metric, function in zip(built, METRICS, strict=True):
        assert metric.fingerprint.startswith(f"{metric.name}:")
        matrix = metric.similarity_matrix(images, images)
        assert matrix.shape == (3, 3)
        assert matrix[0, 1] == pytest.approx(function(images[0], images[1]), rel=1e-6)
        np.testing.assert_allclose(metric.similarity(images, images), np.diag(matrix))


def test_no_torch_is_loaded() -> None:
    code = "import sys, identisim.metrics.pixels; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
