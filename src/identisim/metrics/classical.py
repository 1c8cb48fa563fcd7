"""Classical baselines: HOG, SIFT matches, a perceptual hash, and the compact network before any training.

They see two (H, W, 3) uint8 pictures of any sizes. HOG needs scikit-image and SIFT needs OpenCV, the extra `classical`.
"""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from identisim.errors import InputError
from identisim.images import Pixels
from identisim.metrics.metric import PairMetric, fingerprint
from identisim.metrics.pixels import grey

if TYPE_CHECKING:
    from identisim.metrics.metric import EmbeddingMetric

HOG_SIDE: Final = 112
HOG_CELL: Final = 14
"""Pixels a side of a cell: 8 × 8 cells of 9 orientations, in blocks of 2 × 2."""

HASH_SIDE: Final = 32
HASH_FREQUENCIES: Final = 8
"""Lowest frequencies in both directions that the hash keeps: 64 bits."""

SIFT_POINTS: Final = 250
SIFT_RATIO: Final = 0.8
"""A match counts when its distance is below this share of the second best's (Lowe, IJCV 2004)."""

SIFT_SIDE: Final = 320
"""SIFT sees a picture reduced by the largest whole factor that leaves its shorter side this long."""

SIFT_MOST: Final = 2 * float(np.log1p(SIFT_POINTS))
"""Similarity of two pictures of which every point of either has a match in the other."""


def build_hog() -> PairMetric:
    """Cosine of histograms of oriented gradients (Dalal and Triggs, CVPR 2005) at 112 × 112, in [0, 1].

    A picture without any edge is like nothing: 0, also with itself. InputError without scikit-image.
    """
    feature = _require("skimage.feature", "hog")

    def describe(image: Pixels) -> NDArray[np.float32]:
        cells = (HOG_CELL, HOG_CELL)
        values = feature.hog(grey(image, HOG_SIDE), pixels_per_cell=cells, cells_per_block=(2, 2))
        return np.asarray(values / (np.linalg.norm(values) + 1e-9), dtype=np.float32)

    return PairMetric("hog", _dot, _identity("hog", f"bicubic{HOG_SIDE}-grey"), describe=describe)


def build_phash() -> PairMetric:
    """Share of equal bits of two 64-bit perceptual hashes, in [0, 1]; two unrelated pictures share about half."""
    return PairMetric(
        "phash", _equal_bits, _identity("phash", f"bicubic{HASH_SIDE}-grey"), describe=hash_bits
    )


def build_sift() -> PairMetric:
    """log(1 + matches) of SIFT points, summed over both directions, in [0, 11.05]; see `sift_similarity`.

    The 250 strongest points of a picture count. InputError without OpenCV.
    """
    cv2 = _require("cv2", "sift")
    detector = cv2.SIFT_create(nfeatures=SIFT_POINTS)

    def describe(image: Pixels) -> NDArray[np.float32]:
        step = max(1, min(image.shape[:2]) // SIFT_SIDE)
        small = Image.fromarray(image).convert("L").reduce(step)
        found = detector.detectAndCompute(np.asarray(small), None)[1]
        points = np.zeros((0, 128), np.float32) if found is None else found[:SIFT_POINTS]
        # nearly all SIFT descriptors have one length, so that nearest is the same as highest cosine
        return np.asarray(
            points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9), np.float32
        )

    return PairMetric(
        "sift", sift_similarity, _identity("sift", f"reduce{SIFT_SIDE}-grey"), describe=describe
    )


def build_random_weights(device: str = "auto") -> EmbeddingMetric:
    """The network of `compact` with random weights: what its architecture gives without any training.

    The weights are drawn with seed 0, without the whitening that training starts from, which needs images.
    device: as for `compact`.
    """
    import torch

    from identisim.images import Preprocessing
    from identisim.metrics.compact import SIZE, WeightedHalves
    from identisim.metrics.metric import EmbeddingMetric
    from identisim.metrics.network import NetworkEncoder
    from identisim.models.compact import STRIDE, CompactNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = CompactNet()
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    preprocessing = Preprocessing(size=SIZE, mode="square")
    return EmbeddingMetric(
        name="random-weights",
        encode=NetworkEncoder(WeightedHalves(net), device, STRIDE),
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            "random-weights",
            weights=digest.hexdigest(),
            preprocessing=preprocessing.fingerprint,
            version="1",
        ),
    )


def hash_bits(image: Pixels) -> NDArray[np.bool_]:
    """64 bits of a picture: which of its low DCT frequencies, at 32 × 32, lie above their median."""
    low = _cosines() @ grey(image, HASH_SIDE).astype(np.float64) @ _cosines().T
    # the mean brightness is no structure: it counts as a bit, not for the median
    return (low > np.median(low.ravel()[1:])).ravel()


def sift_similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """log(1 + matches from a to b) + log(1 + matches from b to a) of unit descriptors (n, 128) and (m, 128).

    A point matches when its nearest neighbour is nearer than 0.8 times its second nearest; a second neighbour
    that does not exist counts as the farthest possible.
    """
    if not (len(a) and len(b)):
        return 0.0
    cosines = a @ b.T
    return float(np.log1p(_matches(cosines)) + np.log1p(_matches(np.ascontiguousarray(cosines.T))))


def _matches(cosines: NDArray[np.float32]) -> int:
    rows = np.arange(len(cosines))
    nearest = cosines.argmax(1)
    first = cosines[rows, nearest]
    others = cosines.copy()
    others[rows, nearest] = -1
    distances = np.sqrt(np.maximum(2 - 2 * np.stack([first, others.max(1)]), 0))
    return int((distances[0] < SIFT_RATIO * distances[1]).sum())


@cache
def _cosines() -> NDArray[np.float64]:
    """The first rows of the DCT-II: (8, 32)."""
    places = (np.arange(HASH_SIDE) + 0.5) / HASH_SIDE
    return np.asarray(np.cos(np.pi * np.arange(HASH_FREQUENCIES)[:, None] * places))


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b)


def _equal_bits(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a == b).mean())


def _identity(name: str, preprocessing: str) -> str:
    return fingerprint(name, weights="", preprocessing=preprocessing, version="1")


def _require(module: str, metric: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"{metric} needs {package}, which is not installed: pip install 'identisim[classical]'"
        ) from error
