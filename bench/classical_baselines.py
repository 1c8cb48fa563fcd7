"""Weight-free baselines on a collection of real photos: GROUP/IDENTITY/*.jpg, the protocol of `compact_quality.py`.

`python bench/classical_baselines.py FOLDER`: colour histogram and SSIM as in the package, HOG and SIFT matches and
perceptual hash with OpenCV and scikit-image. SSIM compares pair by pair and is slow: it sees the first four photos of
each identity; the rest see all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.fft import dctn
from skimage.feature import hog

from compact_quality import Photos, quality, read_photos, subset
from identisim.images import resize
from identisim.metrics.pixels import colour_histogram, ssim

Images = list[np.ndarray]


def grey(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(cv2.cvtColor(resize(image, side, side), cv2.COLOR_RGB2GRAY))


def histogram_matrix(images: Images) -> np.ndarray:
    rows = np.stack([colour_histogram(image).ravel() for image in images])
    return np.stack([np.minimum(row, rows).sum(1) for row in rows])


def hog_matrix(images: Images) -> np.ndarray:
    rows = np.stack(
        [hog(grey(image, 112), pixels_per_cell=(14, 14), cells_per_block=(2, 2)) for image in images]
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9
    return np.asarray(rows @ rows.T)


def phash_matrix(images: Images) -> np.ndarray:
    """64-bit perceptual hash: signs of the low DCT frequencies about their median; minus the Hamming distance."""
    low = np.stack([dctn(grey(image, 32).astype(float))[:8, :8].ravel() for image in images])
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return -np.stack([(bits != row).sum(1) for row in bits]).astype(float)


def sift_matrix(images: Images, features: int = 250) -> np.ndarray:
    """log(1 + number of matches that pass Lowe's ratio test at 0.8), sum of both directions."""
    detector = cv2.SIFT_create(nfeatures=features)
    described = torch.zeros(len(images), features, 128)
    for number, image in enumerate(images):
        found = detector.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)[1]
        if found is not None:
            described[number, : len(found)] = torch.from_numpy(found[:features])
    described = torch.nn.functional.normalize(described, dim=2)  # nearly all SIFT descriptors have one length
    present = described.abs().sum(2) > 0
    counts = np.zeros((len(images), len(images)))
    for i, query in enumerate(described):
        cosines = (query[present[i]] @ described.flatten(0, 1).T).view(-1, len(images), features)
        distances = (2 - 2 * cosines.masked_fill_(~present, -1.0)).clamp_min_(0).sqrt_()
        first, second = distances.topk(2, dim=2, largest=False).values.unbind(2)
        counts[i] = (first < 0.8 * second).sum(0).numpy()
    return np.log1p(counts) + np.log1p(counts.T)


def ssim_matrix(images: Images) -> np.ndarray:
    matrix = np.eye(len(images))
    for i in range(len(images)):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = ssim(images[i], images[j])
    return matrix


BASELINES: dict[str, Callable[[Images], np.ndarray]] = {
    "colour-histogram": histogram_matrix,
    "HOG": hog_matrix,
    "perceptual hash": phash_matrix,
    "SSIM (4 each)": ssim_matrix,
    "SIFT matches": sift_matrix,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-identity", type=int, default=20)
    parser.add_argument("--only", choices=list(BASELINES), action="append")
    options = parser.parse_args()
    photos = read_photos(options.folder, options.per_identity)
    print(f"{len(photos.images)} photos, {len(set(photos.identity))} identities")
    for name in options.only or BASELINES:
        chosen: Photos = subset(photos, 4) if name.startswith("SSIM") else photos
        start = time.perf_counter()
        row = "  ".join(
            f"{key} {value:5.1f}" for key, value in quality(BASELINES[name](chosen.images), chosen).items()
        )
        print(
            f"{name:18s} {row}  ({len(chosen.images)} photos, {time.perf_counter() - start:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
