"""Embed a collection of images once, keep it in a folder, search it.

A gallery folder is a run folder of `identisim.bulk` with a `gallery.json` (which metric, which source), that
is written first. Rows, in source order: path, identity, sha256 of the image file, embedding; failures: path,
error, message. Embedding into the same folder again finishes or repairs it. Similarity in a gallery is the
cosine of global vectors: the score kind `cls`, also for a metric whose own score is another kind.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import numpy as np

from identisim.bulk import Failure, OnError, Shard, Task, exclusive, open_finished, run_in_shards
from identisim.errors import InputError
from identisim.images import ImageError, ImageLike, as_sequence, list_images
from identisim.records import file_sha256, read_json, read_path_list, read_views, write_json

if TYPE_CHECKING:
    import pyarrow as pa

    from identisim.metrics.metric import EmbeddingMetric, Metric

FORMAT: Final = 1
"""Version of the folder layout; a gallery of another version is refused."""


HEADER: Final = {"metric", "fingerprint", "source", "root", "images", "entries", "shard_size", "dim"}


class Entry(NamedTuple):
    """One image of a source. path: POSIX, relative to the root; identity: None if the source has none."""

    path: str
    identity: str | None


@dataclass(frozen=True)
class Hit:
    """One found image. path: absolute; similarity: cosine in [−1, 1], higher = more alike; rank: from 1.

    same_file: when it was embedded, the found file held the very bytes of the query.
    """

    path: Path
    similarity: float
    rank: int
    identity: str | None
    same_file: bool = False


@dataclass(frozen=True)
class Gallery:
    """An embedded collection of n images; `Gallery.open` reads one, `build_gallery` makes one.

    path: of the gallery folder; root: folder that the image paths are relative to (absolute); dim: D.
    Paths, identities and embeddings are read from the shards when they are first used.
    """

    path: Path
    metric_name: str
    fingerprint: str
    dim: int
    root: Path
    shards: tuple[Shard, ...] = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Gallery:
        """Open a finished gallery after verifying size and SHA-256 of every shard.

        Raises InputError for a folder that is no gallery, an unfinished one, and one that was damaged.
        """
        path = Path(path)
        header = _read_header(path)
        try:
            shards = open_finished(path, -(-header["images"] // header["shard_size"]))
        except InputError as error:
            again = f"run identisim embed {header['source']} --out {path} again to finish it"
            raise InputError(f"{error}; {again} (what is done and whole is kept)") from error
        metric, fingerprint, dim, root = (header[key] for key in ("metric", "fingerprint", "dim", "root"))
        return cls(path, metric, fingerprint, dim, Path(root), tuple(shards))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Images that are not in the gallery, with the reason; their keys are paths relative to `root`."""
        return tuple(failure for shard in self.shards for failure in shard.failures)

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def summary(self) -> str:
        """How many images are in it and how many failed, as one line."""
        images = "1 image" if len(self) == 1 else f"{len(self)} images"
        return f"{images}, {len(self.failures)} failed"

    @cached_property
    def paths(self) -> list[str]:
        """POSIX paths of the n images relative to `root`, in source order."""
        return self._texts("path")

    @cached_property
    def identities(self) -> list[str | None]:
        """Identities of the n images; None where the source has none."""
        return self._texts("identity")

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Global vectors of the n images: (n, D) float32, each of length 1."""
        vectors = np.empty((len(self), self.dim), np.float32)
        first = 0
        for shard in self.shards:
            column = shard.table(["embedding"])["embedding"].combine_chunks()
            vectors[first : first + shard.rows] = column.flatten().to_numpy().reshape(-1, self.dim)
            first += shard.rows
        return vectors

    def search(self, query: ImageLike, metric: Metric, k: int = 10) -> list[Hit]:
        """The k images most similar to the query, best first; equal similarities in source order.

        metric: the one the gallery was made with. Raises InputError for another metric and for k > n.
        """
        return self.search_many([query], metric, k)[0]

    def search_many(
        self, queries: ImageLike | Iterable[ImageLike], metric: Metric, k: int = 10
    ) -> list[list[Hit]]:
        """`search` for every query, in order."""
        from identisim.similarity import top_k

        if metric.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.path}: made with metric {self.fingerprint}, but searched with {metric.fingerprint}; "
                "their numbers cannot be compared: load the first, or embed the images again with the second"
            )
        if not 1 <= k <= len(self):
            raise InputError(f"{self.path}: k={k} hits were asked for, but it holds {self.summary}")
        images = as_sequence(queries)
        vectors = _with_global_vectors(metric).embed(images)
        similarities, indices = top_k(vectors, self.embeddings, k)
        found = []
        for image, values, rows in zip(images, similarities.tolist(), indices.tolist(), strict=True):
            sha256 = _content_sha256(image)
            ranked = enumerate(zip(rows, values, strict=True), start=1)
            found.append(
                [
                    Hit(self.root / self.paths[i], value, rank, self.identities[i], self._sha256[i] == sha256)
                    for rank, (i, value) in ranked
                ]
            )
        return found

    @cached_property
    def _sha256(self) -> list[str]:
        return self._texts("sha256")

    def _texts(self, column: str) -> list[Any]:
        return [text for shard in self.shards for text in shard.table([column])[column].to_pylist()]


def build_gallery(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    metric: Metric,
    *,
    on_error: OnError = "raise",
    retry_failed: bool = False,
    shard_size: int = 256,
    progress: bool = True,
) -> Gallery:
    """Embed a collection into the gallery folder `out`, or finish, repair and refresh what is already there.

    source: folder of images (with sub-folders), `.txt` list of paths, or `.parquet` of `View` records.
    on_error: "raise" stops at the first image that cannot be read, "skip" lists it in the failures; those are
    not tried again in later runs unless retry_failed. An image whose bytes changed since is embedded again.
    Raises InputError for a source that cannot be read, a metric without global vectors, and an `out` that
    holds something else, is of another metric, source or shard size, or is in use by another process.
    """
    source, out = Path(source), Path(out)
    if shard_size < 1 or on_error not in get_args(OnError):
        raise InputError(f"expected shard_size >= 1, on_error raise or skip; got {shard_size}, {on_error!r}")
    embedder = _with_global_vectors(metric)
    root, entries = _list_source(source)
    work = {
        "format": FORMAT,
        "metric": metric.name,
        "fingerprint": metric.fingerprint,
        "source": str(source.resolve()),
        "root": str(root),
        "images": len(entries),
        "entries": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
        "shard_size": shard_size,
    }
    with exclusive(out, marker="gallery.json"):
        dim = _start(out, embedder, work)
        run_in_shards(
            _embedding_task(embedder, root, dim),
            entries,
            out,
            shard_size=shard_size,
            on_error=on_error,
            retry_failed=retry_failed,
            progress=progress,
        )
    return Gallery.open(out)


def _embedding_task(metric: EmbeddingMetric, root: Path, dim: int) -> Task[Entry, dict[str, Any]]:
    def work(entry: Entry, sha256: str) -> dict[str, Any]:
        path = root / entry.path
        try:
            embedding = metric.embed(path)[0]
        except InputError as error:
            if str(path) in str(error):
                raise
            raise InputError(f"{path}: {error}") from error
        if _content_sha256(path) != sha256:
            raise ImageError(f"{path}: changed while it was read; try it again when it is complete")
        return {**entry._asdict(), "sha256": sha256, "embedding": embedding}

    return Task(
        key=lambda entry: entry.path,
        stamp=lambda entry: _content_sha256(root / entry.path),
        work=work,
        table=lambda rows: _table(rows, dim),
        unit="image",
        key_column="path",
    )


def _content_sha256(image: ImageLike) -> str:
    """SHA-256 of the bytes of an encoded image or a regular file; "" for what has none or cannot be read."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    try:
        if isinstance(image, str | os.PathLike) and Path(image).is_file():
            return file_sha256(image)
    except OSError:
        pass
    return ""


def _table(rows: Sequence[dict[str, Any]], dim: int) -> pa.Table:
    import pyarrow as pa

    columns = {name: pa.string() for name in ("path", "identity", "sha256")}
    columns["embedding"] = pa.list_(pa.float32(), dim)
    return pa.Table.from_pylist(list(rows), schema=pa.schema(columns))


def _list_source(source: Path) -> tuple[Path, list[Entry]]:
    """Root folder (absolute) and entries of a source, in its order."""
    absolute = source.resolve()
    if absolute.is_dir():
        entries = [Entry(path.relative_to(absolute).as_posix(), None) for path in list_images(absolute)]
    elif absolute.suffix.lower() == ".txt":
        entries = [Entry(path, None) for path in read_path_list(absolute)]
    elif absolute.suffix.lower() == ".parquet":
        entries = [Entry(view.path, view.identity) for view in read_views(absolute)]
    else:
        fault = "cannot be used as a source" if absolute.exists() else "does not exist"
        raise InputError(
            f"{source}: {fault}; expected a folder of images, a .txt list or a .parquet of views"
        )
    for name in (str(absolute), *(entry.path for entry in entries)):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the file name {name!r} is not UTF-8; rename it") from error
    return absolute if absolute.is_dir() else absolute.parent, entries


def _start(out: Path, metric: EmbeddingMetric, work: dict[str, Any]) -> int:
    """Write `gallery.json`, or check that the one there was written for the same work; returns D."""
    if not (out / "gallery.json").exists():
        dim = metric.dimensions()
        write_json(out / "gallery.json", {**work, "dim": dim})
        return dim
    header = _read_header(out)
    different = [f"{name} {new}, not {header[name]}" for name, new in work.items() if new != header[name]]
    if different:
        raise InputError(
            f"{out}: was made for other work (asked for: {'; '.join(different)}); "
            "give another output folder, or delete this one to embed the images again"
        )
    return int(header["dim"])


def _read_header(folder: Path) -> dict[str, Any]:
    """What `gallery.json` says: the metric and the source that the vectors come from."""
    file = folder / "gallery.json"
    if not file.is_file():
        fault = "is no gallery (gallery.json is missing)" if folder.exists() else "does not exist"
        raise InputError(f"{folder}: {fault}; make one with: identisim embed SOURCE --out {folder}")
    header = read_json(file)
    if not isinstance(header, dict) or header.get("format") != FORMAT or not header.keys() >= HEADER:
        raise InputError(f"{file}: damaged or not of format {FORMAT}; embed the images into a new folder")
    return header


def _with_global_vectors(metric: Metric) -> EmbeddingMetric:
    from identisim.metrics.metric import EmbeddingMetric

    if not isinstance(metric, EmbeddingMetric):
        raise InputError(f"metric {metric.name!r} compares pairs and has no embeddings; use one that has")
    return metric
