"""Similarity matrices of a collection, computed once and kept on disk.

A matrix is kept under the metric's fingerprint, its score and the contents of the photos, so that whatever changes a
number changes the name. It is made in blocks of rows, and a killed run goes on with the next block. Memory: the
descriptions of all photos (for patches of h × w × D numbers 4 · n · h · w · D bytes: 90 MB for 600 photos of `compact`;
330 MB for 600 of `ssim`) and the matrix, 4 · n² bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from identisim.errors import InputError
from identisim.metrics.metric import Array, EmbeddingMetric, Metric, PairMetric, mirrored
from identisim.records import atomic_file, file_sha256, read_json, remove_temporary_files, write_json

if TYPE_CHECKING:
    from identisim.models.tokens import Tokens

ROWS = 8
"""Rows of a block: what a killed run may lose."""


@dataclass(frozen=True)
class Prediction:
    """Similarities of n photos.

    matrix: (n, n) float32, symmetric, NaN where a photo could not be read. failures: index of such a photo -> why.
    """

    matrix: Array
    failures: dict[int, str]


@dataclass(frozen=True)
class Described:
    """What a metric sees of the photos that it could read.

    features: of the photos `good`, in order. failures: index of every other photo -> why.
    """

    fingerprint: str
    features: Tokens | list[Any]
    good: list[int]
    failures: dict[int, str]


def predict(
    metrics: Sequence[Metric],
    photos: Sequence[Path],
    hashes: Sequence[str],
    cache: Path,
    *,
    progress: bool = True,
) -> Iterator[Prediction]:
    """Compare all photos with all others by each metric, or take what the folder `cache` already holds.

    hashes: of the contents of the photos. Score kinds of one network share its features when they come one after the
    other. Raises InputError when no photo can be read, RuntimeError for a metric that gives NaN or infinity.
    """
    described: Described | None = None
    for metric in metrics:
        place = cache / f"{metric.name}-{metric.score}-{_key(metric, hashes)}"
        prediction = _load(place, len(photos))
        if prediction is None:
            if described is None or described.fingerprint != metric.fingerprint:
                described = None  # frees the features of the metric before
                described = describe(metric, photos, progress=progress)
            prediction = _spread(_matrix(metric, described, place, progress), described, len(photos))
            _store(place, prediction)
        yield prediction


def describe(metric: Metric, photos: Sequence[Path], *, progress: bool = True) -> Described:
    """Read every photo and keep what the metric compares; a photo that it refuses is a failure."""
    found: list[Any] = []
    good: list[int] = []
    failures: dict[int, str] = {}
    for index, photo in enumerate(_bar(photos, f"{metric.name}: describing", "photo", progress)):
        try:
            found.append(_describe_one(metric, photo))
            good.append(index)
        except InputError as error:
            failures[index] = str(error)
    if not found:
        raise InputError(f"{metric.name} could read none of {len(photos)} photos; the first: {failures[0]}")
    return Described(metric.fingerprint, _joined(metric, found), good, failures)


def _describe_one(metric: Metric, photo: Path) -> Any:
    if isinstance(metric, EmbeddingMetric):
        return metric.tokens([photo])
    if isinstance(metric, PairMetric):
        return metric.descriptions([photo])[0]
    raise TypeError(f"{type(metric).__name__} is neither an EmbeddingMetric nor a PairMetric")


def _joined(metric: Metric, found: list[Any]) -> Tokens | list[Any]:
    if not isinstance(metric, EmbeddingMetric):
        return found
    from identisim.models.tokens import Tokens

    return Tokens.concatenate(found)


def _matrix(metric: Metric, described: Described, place: Path, progress: bool) -> Array:
    """Similarities of the photos that were read: (m, m); finished blocks lie in the folder `place`."""
    place.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(place)
    count = len(described.good)
    rows: list[Array] = []
    with tqdm(
        total=count * (count + 1) // 2,
        desc=f"{metric.name}:{metric.score}",
        unit="pair",
        disable=None if progress else True,
    ) as bar:
        for start in range(0, count, ROWS):
            path, shape = place / f"{start:06d}.npy", (min(ROWS, count - start), count - start)
            block = _read_array(path, shape)
            if block is None:
                block = _block(metric, described.features, start, shape)
                _require_finite(metric, block)
                _write_array(path, block)
            rows += [block[i, i:] for i in range(len(block))]
            bar.update(sum(len(row) for row in rows[start:]))
    return mirrored(rows)


def _block(metric: Metric, features: Tokens | list[Any], start: int, shape: tuple[int, int]) -> Array:
    """Rows of the matrix from its diagonal block on; what lies left of the diagonal is left out or not used."""
    if isinstance(features, list):
        assert isinstance(metric, PairMetric)
        block = np.zeros(shape, np.float32)
        for i in range(shape[0]):
            query = features[start + i]
            block[i, i:] = [metric.compare(query, other) for other in features[start + i :]]
        return block
    from identisim.similarity import token_similarity_matrix

    queries, gallery = features[start : start + shape[0]], features[start:]
    return np.asarray(token_similarity_matrix(queries, gallery, metric.score).numpy(), np.float32)


def _require_finite(metric: Metric, block: Array) -> None:
    if not np.isfinite(block).all():
        raise RuntimeError(f"{metric.name} gave NaN or infinite similarities; expected finite numbers")


def _spread(matrix: Array, described: Described, count: int) -> Prediction:
    full = np.full((count, count), np.nan, np.float32)
    full[np.ix_(described.good, described.good)] = matrix
    return Prediction(full, described.failures)


def _key(metric: Metric, hashes: Sequence[str]) -> str:
    isolation = metric.isolation if isinstance(metric, EmbeddingMetric) else None
    masks = [isolation.foreground.content] if isolation is not None and isolation.foreground.content else []
    text = json.dumps([metric.fingerprint, metric.score, list(hashes), *masks])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(place: Path, count: int) -> Prediction | None:
    """A finished matrix, or None when it is missing, damaged or half written."""
    path, note = place.with_name(f"{place.name}.npy"), place.with_name(f"{place.name}.json")
    if not (path.is_file() and note.is_file()):
        return None
    try:
        content = read_json(note)
    except InputError:
        return None
    if content["sha256"] != file_sha256(path):
        return None
    matrix = _read_array(path, (count, count))
    failures = {int(index): reason for index, reason in content["failures"].items()}
    return None if matrix is None else Prediction(matrix, failures)


def _store(place: Path, prediction: Prediction) -> None:
    path = place.with_name(f"{place.name}.npy")
    _write_array(path, prediction.matrix)
    # the note is written last: a matrix without one is made again
    note = {"sha256": file_sha256(path), "failures": prediction.failures}
    write_json(place.with_name(f"{place.name}.json"), note)
    shutil.rmtree(place)


def _read_array(path: Path, shape: tuple[int, int]) -> Array | None:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.float32 else None


def _write_array(path: Path, array: Array) -> None:
    with atomic_file(path) as file:
        np.save(file, array)


def _bar(items: Sequence[Path], description: str, unit: str, shown: bool) -> Iterator[Path]:
    return iter(tqdm(items, desc=description, unit=unit, disable=None if shown else True, leave=False))
