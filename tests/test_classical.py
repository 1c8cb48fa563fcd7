"""Classical baselines against OpenCV's own matcher, scikit-image, scipy and closed forms."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from skimage.feature import hog

from identisim.errors import InputError
from identisim.images import resize
from identisim.metrics.classical import (
    SIFT_MOST,
    build_hog,
    build_phash,
    build_random_weights,
    build_sift,
    hash_bits,
)
from identisim.metrics.pixels import build_ssim, ssim


def picture(seed: int, height: int = 200, width: int = 240) -> np.ndarray:
    """Blurred noise: blobs that SIFT finds."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
    return np.clip((blurred - 127) * 6 + 127, 0, 255).astype(np.uint8)


def grey(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(resize(image, side, side)).convert("L"))


FLAT = np.full((50, 60, 3), 90, np.uint8)


def test_hog_is_the_cosine_of_scikit_images_features() -> None:
    a, b = (
        hog(grey(picture(seed), 112), pixels_per_cell=(14, 14), cells_per_block=(2, 2)) for seed in (1, 2)
    )
    found = build_hog().similarity(picture(1), picture(2))[0]
    assert found == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert build_hog().similarity(picture(1), picture(1))[0] == pytest.approx(1, abs=1e-6)
    assert build_hog().similarity(FLAT, FLAT)[0] == 0


def test_phash_keeps_the_low_frequencies_of_scipy() -> None:
    for seed in range(5):
        low = dctn(grey(picture(seed), 32).astype(float))[:8, :8].ravel()
        assert (hash_bits(picture(seed)) == (low > np.median(low[1:]))).all()
    scores = build_phash().similarity_matrix([picture(0), picture(1)], [picture(0), picture(1)])
    assert scores[0, 0] == 1
    assert scores[0, 1] == pytest.approx(1 - (hash_bits(picture(0)) != hash_bits(picture(1))).sum() / 64)


def test_sift_counts_the_matches_of_opencvs_matcher() -> None:
    turned = np.ascontiguousarray(np.rot90(picture(1)))
    detector, matcher = cv2.SIFT_create(nfeatures=250), cv2.BFMatcher()
    described = [
        detector.detectAndCompute(np.asarray(Image.fromarray(image).convert("L")), None)[1][:250]
        for image in (picture(1), turned)
    ]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in described]
    counts = [
        sum(first.distance < 0.8 * second.distance for first, second in matcher.knnMatch(x, y, k=2))
        for x, y in (unit, unit[::-1])
    ]
    assert min(counts) > 20
    assert build_sift().similarity(picture(1), turned)[0] == pytest.approx(np.log1p(counts).sum(), abs=0.02)


def test_sift_of_pictures_without_points_and_of_other_pictures() -> None:
    sift = build_sift()
    scores = sift.similarity([FLAT, FLAT, picture(1), picture(1)], [FLAT, picture(1), picture(1), picture(2)])
    assert scores[0] == scores[1] == 0
    assert scores[3] < 0.7 * scores[2] <= SIFT_MOST


@pytest.mark.parametrize("build", [build_hog, build_phash, build_sift, build_ssim])
def test_matrices_are_symmetric_and_describe_each_picture_once(build: object) -> None:
    metric = build()  # type: ignore[operator]
    images = [picture(seed) for seed in range(3)]
    symmetric = metric.similarity_matrix(images, images)
    assert symmetric == pytest.approx(metric.similarity_matrix(images, list(images)), abs=1e-5)
    assert (symmetric == symmetric.T).all()
    assert metric.similarity(images[0], images[2])[0] == symmetric[0, 2]


def test_ssim_in_float32_is_close_to_float64() -> None:
    images = [picture(1), picture(2), FLAT, 255 - picture(1), np.zeros((9, 9, 3), np.uint8)]
    matrix = build_ssim().similarity_matrix(images, images)
    expected = [[ssim(a, b) for b in images] for a in images]
    assert matrix == pytest.approx(np.array(expected), abs=1e-4)


def test_random_weights_are_always_the_same_and_leave_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again = build_random_weights("cpu"), build_random_weights("cpu")
    assert torch.equal(torch.rand(3), expected)
    assert first.fingerprint == again.fingerprint
    matrix = first.similarity_matrix([picture(1), FLAT], [picture(1), FLAT])
    assert (matrix == again.similarity_matrix([picture(1), FLAT], [picture(1), FLAT])).all()
    assert np.diag(matrix) == pytest.approx(1, abs=1e-5)
    assert matrix[0, 1] < 1


@pytest.mark.parametrize(("module", "build"), [("skimage.feature", build_hog), ("cv2", build_sift)])
def test_a_missing_library_is_named_with_what_to_install(
    module: str, build: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"not installed: pip install 'identisim\[classical\]'"):
        build()  # type: ignore[operator]
