"""The contract of every metric: a score for two images, higher = more alike.

`Metric` is the one abstract class. It has two final kinds: `EmbeddingMetric` (embed once, then compare vectors or
patches) and `PairMetric` (compare pair by pair). Scores are similarities; distances are negated here and nowhere else.
"""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from identisim.errors import InputError
from identisim.images import ImageLike, Preprocessing, as_sequence, load_image

if TYPE_CHECKING:
    from identisim.metrics.isolation import Isolation
    from identisim.models.tokens import Tokens

SCORES: Final = ("cls", "patch", "ot", "joint", "match", "fused")
"""Score kinds: cls = cosine of the global vectors; patch = cosine of the pooled patches; ot = 1 − optimal-transport
distance of the patches; joint = mean of cls and patch; match = mean best cosine of the patches; fused = ¼ cls +
¾ match. All lie in [−1, 1]."""

Array = np.ndarray
Images = ImageLike | Iterable[ImageLike]


def fingerprint(name: str, *, weights: str, preprocessing: str, version: str) -> str:
    """Short identity of everything that decides a number: 16 hex digits behind the name.

    weights: sha256 of the weights ("" for none); preprocessing: its fingerprint; version: of the metric's own code.
    """
    text = json.dumps([name, weights, preprocessing, version])
    return f"{name}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class Metric(abc.ABC):
    """A similarity of images. Higher = more alike, for every metric and every score."""

    name: str
    score: str
    fingerprint: str
    higher_is_better: Final = True

    @abc.abstractmethod
    def similarity(self, images_a: Images, images_b: Images) -> Array:
        """Compare images_a[i] with images_b[i]: (n,) float32. One image alone counts as a sequence of one."""

    @abc.abstractmethod
    def similarity_matrix(self, queries: Images, gallery: Images) -> Array:
        """Compare every query with every gallery image: (q, g) float32."""


@final
@dataclass(frozen=True)
class EmbeddingMetric(Metric):
    """Embed every image once, then compare embeddings.

    encode: (B, 3, H, W) float32 array of preprocessed pixels -> Tokens on any device.
    Each image is encoded alone, so that its features never depend on its batch mates: the same image gives the same
    bits in any batch and any order. isolation: how the object is told from its background, None to take the picture as
    it is.
    """

    name: str
    encode: Callable[[Array], Tokens]
    preprocessing: Preprocessing
    fingerprint: str
    score: str = "cls"
    isolation: Isolation | None = None

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise InputError(f"unknown score kind {self.score!r}; choose one of {', '.join(SCORES)}")

    def tokens(self, images: Images) -> Tokens:
        """Features of the images: `Tokens` with float32 tensors on the CPU, not normalised."""
        from identisim.models.tokens import Tokens

        parts = list(self._tokens_one_by_one(images))
        if not parts:
            raise InputError("no image was given; expected at least one")
        return Tokens.concatenate(parts)

    def embed(self, images: Images) -> Array:
        """Global vectors of the images: (n, D) float32, L2-normalised; their dot product is the `cls` similarity."""
        from identisim.similarity import unit

        return np.asarray(unit(self.tokens(images).cls).numpy(), dtype=np.float32)

    def dimensions(self) -> int:
        """D of the vectors that `embed` gives: known once one is made, here that of a grey square."""
        tokens = self.encode(self.preprocessing(np.full((32, 32, 3), 128, np.uint8))[None])
        averaged = self.isolation is not None and self.isolation.average
        return int((tokens.patches if averaged else tokens.cls).shape[-1])

    def similarity(self, images_a: Images, images_b: Images) -> Array:
        """Compare images_a[i] with images_b[i]: (n,) float32, in [−1, 1]; see `SCORES`."""
        sequence_a, sequence_b = as_sequence(images_a), as_sequence(images_b)
        _require_pairs(sequence_a, sequence_b)
        scores = [
            self.compare_tokens(a, b)
            for a, b in zip(
                self._tokens_one_by_one(sequence_a), self._tokens_one_by_one(sequence_b), strict=True
            )
        ]
        return np.concatenate(scores) if scores else np.zeros(0, np.float32)

    def similarity_matrix(self, queries: Images, gallery: Images) -> Array:
        """Compare every query with every gallery image: (q, g) float32, in [−1, 1]."""
        from identisim.similarity import token_similarity_matrix

        matrix = token_similarity_matrix(self.tokens(queries), self.tokens(gallery), self.score)
        return np.asarray(matrix.numpy(), dtype=np.float32)

    def compare_tokens(self, a: Tokens, b: Tokens) -> Array:
        """Score of features already computed: two `Tokens` of B images -> (B,) float32."""
        from identisim.similarity import token_similarity

        return np.asarray(token_similarity(a, b, self.score).numpy(), dtype=np.float32)

    def _tokens_one_by_one(self, images: Images) -> Iterator[Tokens]:
        for image in as_sequence(images):
            picture = load_image(image)
            if self.isolation is None:
                yield self.encode(self.preprocessing(picture)[None])
            else:
                yield self.isolation.tokens(image, picture, self.preprocessing, self.encode)


@final
@dataclass(frozen=True)
class PairMetric(Metric):
    """Compare images pair by pair.

    compare: two (H, W, 3) uint8 arrays -> one similarity (higher = more alike), the same in either order.
    describe: one such array -> what `compare` takes instead, so that what concerns one image alone is done once.
    """

    name: str
    compare: Callable[[Any, Any], float]
    fingerprint: str
    score: str = "pixels"
    describe: Callable[[Array], Any] | None = None

    def similarity(self, images_a: Images, images_b: Images) -> Array:
        """Compare images_a[i] with images_b[i]: (n,) float32; the range is the metric's own (`identisim metrics`)."""
        sequence_a, sequence_b = as_sequence(images_a), as_sequence(images_b)
        _require_pairs(sequence_a, sequence_b)
        pairs = zip(
            self._described_one_by_one(sequence_a), self._described_one_by_one(sequence_b), strict=True
        )
        return np.asarray([self.compare(a, b) for a, b in pairs], dtype=np.float32)

    def similarity_matrix(self, queries: Images, gallery: Images) -> Array:
        """Compare every query with every gallery image: (q, g) float32; each image is decoded once.

        Where gallery is the very object queries, each pair is compared once.
        """
        described_q = self.descriptions(queries)
        if gallery is queries:
            rows = [[self.compare(q, g) for g in described_q[i:]] for i, q in enumerate(described_q)]
            return mirrored(rows)
        described_g = self.descriptions(gallery)
        rows = [[self.compare(q, g) for g in described_g] for q in described_q]
        return np.asarray(rows, dtype=np.float32).reshape(len(described_q), len(described_g))

    def descriptions(self, images: Images) -> list[Any]:
        """What `compare` takes, one for each image."""
        return list(self._described_one_by_one(as_sequence(images)))

    def _described_one_by_one(self, images: Sequence[ImageLike]) -> Iterator[Any]:
        for image in images:
            pixels = load_image(image)
            yield pixels if self.describe is None else self.describe(pixels)


def mirrored(rows: Sequence[Sequence[float] | Array]) -> Array:
    """Symmetric (n, n) float32 matrix of its upper half: row i holds its entries i, i + 1, … n − 1."""
    matrix = np.zeros((len(rows), len(rows)), np.float32)
    for i, row in enumerate(rows):
        matrix[i, i:] = matrix[i:, i] = row
    return matrix


def _require_pairs(images_a: Sequence[ImageLike], images_b: Sequence[ImageLike]) -> None:
    if len(images_a) != len(images_b):
        raise InputError(
            f"similarity compares image i with image i, but {len(images_a)} and {len(images_b)} images came; "
            "for all against all use similarity_matrix"
        )
