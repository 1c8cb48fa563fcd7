from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from identisim.bulk import exclusive
from identisim.errors import InputError
from identisim.gallery import Gallery, Hit, build_gallery
from identisim.images import Preprocessing, load_image
from identisim.metrics.metric import EmbeddingMetric, PairMetric
from identisim.models.tokens import Tokens
from identisim.records import View, read_table, write_views


def encode(pixels: np.ndarray) -> Tokens:
    """Mean colours of the four quarters, less mid grey."""
    patches = torch.from_numpy(pixels - 0.45).reshape(-1, 3, 2, 4, 2, 4).mean((3, 5)).permute(0, 2, 3, 1)
    return Tokens(patches.reshape(len(pixels), 12), patches)


METRIC = EmbeddingMetric("toy", encode, Preprocessing(8), "toy:0123456789abcdef")


def make_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{'ab'[i % 2]} ü" / f"{i:03d}.png" for i in range(count)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    return sorted(paths, key=Path.as_posix)


def build(source: Path, out: Path, metric: EmbeddingMetric = METRIC, **options: object) -> Gallery:
    return build_gallery(source, out, metric, **{"shard_size": 4, "progress": False, **options})  # type: ignore[arg-type]


def counting(metric: EmbeddingMetric = METRIC) -> tuple[EmbeddingMetric, list[int]]:
    """The same metric, and a list that grows by one for each image it encodes."""
    calls: list[int] = []

    def counted(pixels: np.ndarray) -> Tokens:
        calls.append(len(pixels))
        return metric.encode(pixels)

    return replace(metric, encode=counted), calls


def shard_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_images(tmp_path / "photos", 10)
    return tmp_path / "photos"


def test_a_gallery_holds_every_image_once_in_order(photos: Path, tmp_path: Path) -> None:
    gallery = build(photos, tmp_path / "g")
    files = sorted((p for p in photos.rglob("*.png")), key=Path.as_posix)
    assert [gallery.root / path for path in gallery.paths] == files
    assert gallery.identities == [None] * 10
    assert len(gallery) == 10 and gallery.summary == "10 images, 0 failed" and gallery.failures == ()
    assert gallery.embeddings.dtype == np.float32
    np.testing.assert_array_equal(gallery.embeddings, METRIC.embed(files))
    rows = [row for i in range(3) for row in read_table(tmp_path / f"g/shards/0000{i}.parquet").to_pylist()]
    assert [row["sha256"] for row in rows] == [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
    assert str(read_table(tmp_path / "g/shards/00002.parquet")["embedding"].type) == (
        "fixed_size_list<element: float>[12]"
    )
    header = json.loads((tmp_path / "g/gallery.json").read_text())
    assert (
        header["fingerprint"] == METRIC.fingerprint and header["dim"] == 12 and header["root"] == str(photos)
    )


def test_search_finds_what_the_metric_finds(photos: Path, tmp_path: Path) -> None:
    gallery = build(photos, tmp_path / "g")
    files = [gallery.root / path for path in gallery.paths]
    queries = make_images(tmp_path / "queries", 3, seed=1)
    expected = METRIC.similarity_matrix(queries, files)
    for row, hits in zip(expected, gallery.search_many(queries, METRIC, k=10), strict=True):
        assert [hit.path for hit in hits] == [files[i] for i in np.argsort(-row, kind="stable")]
        np.testing.assert_allclose([hit.similarity for hit in hits], -np.sort(-row), atol=1e-6)
        assert [hit.rank for hit in hits] == list(range(1, 11))
        assert not any(hit.same_file for hit in hits)
    assert gallery.search(queries[1], METRIC, 3) == gallery.search_many(queries, METRIC, 3)[1]


def test_the_query_file_itself_is_kept_and_marked(photos: Path, tmp_path: Path) -> None:
    gallery = build(photos, tmp_path / "g")
    path = photos / gallery.paths[6]
    for query in (path, str(path), path.read_bytes()):
        best, second = gallery.search(query, METRIC, k=2)
        assert best == Hit(path, best.similarity, 1, None, same_file=True)
        assert best.similarity == pytest.approx(1, abs=1e-6)
        assert not second.same_file
    assert not gallery.search(load_image(path), METRIC, k=1)[0].same_file  # pixels are no file


def test_a_list_keeps_its_order_and_views_their_identities(photos: Path, tmp_path: Path) -> None:
    folder = build(photos, tmp_path / "g1")
    names = list(reversed(folder.paths))
    (photos / "list.txt").write_text("\n".join(names))
    listed = build(photos / "list.txt", tmp_path / "g2")
    assert listed.paths == names and listed.root == photos
    np.testing.assert_array_equal(listed.embeddings, folder.embeddings[::-1])

    views = write_views(photos / "v.parquet", [View(name, name[0], "toy", "gallery") for name in names])
    viewed = build(views, tmp_path / "g3")
    assert viewed.paths == names and viewed.identities == [name[0] for name in names]
    hit = viewed.search(photos / names[3], METRIC, k=1)[0]
    assert hit.identity == names[3][0] and hit.path == photos / names[3]


def test_a_relative_source_gives_absolute_hits(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(Path("photos"), Path("g"))
    monkeypatch.chdir(photos)
    gallery = Gallery.open("../g")
    assert gallery.search(gallery.paths[0], METRIC, k=1)[0].path == photos / gallery.paths[0]


def break_images(photos: Path) -> dict[str, str]:
    """Broken pictures, path -> a word of the reason."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(photos / "truncated.jpg")
    (photos / "truncated.jpg").write_bytes((photos / "truncated.jpg").read_bytes()[:1500])
    (photos / "empty.png").touch()
    (photos / "page.png").write_text("<!DOCTYPE html><html>404</html>")
    os.mkfifo(photos / "pipe.png")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    return {
        "empty.png": "empty",
        "gone.png": "No such file",
        "page.png": "HTML",
        "pipe.png": "regular file",
        "truncated.jpg": "truncated",
    }


def test_broken_images_are_listed_never_dropped(photos: Path, tmp_path: Path) -> None:
    clean = build(photos, tmp_path / "clean")
    reasons = break_images(photos)
    gallery = build(photos, tmp_path / "g", on_error="skip")
    assert gallery.summary == "10 images, 5 failed"
    assert gallery.paths == clean.paths
    np.testing.assert_array_equal(gallery.embeddings, clean.embeddings)
    table = read_table(tmp_path / "g/failures.parquet").to_pylist()
    assert [row["path"] for row in table] == [failure.key for failure in gallery.failures] == sorted(reasons)
    for row in table:
        assert row["error"] == "ImageError"
        assert str(photos / row["path"]) in row["message"] and reasons[row["path"]] in row["message"]


def test_raise_names_the_image_and_a_later_run_goes_on(photos: Path, tmp_path: Path) -> None:
    bad = photos / "b ü" / "001.png"  # the sixth: in the second shard
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    with pytest.raises(InputError, match=r"001\.png"):
        build(photos, tmp_path / "g")
    assert sorted(shard_bytes(tmp_path / "g")) == ["00000.json", "00000.parquet"]
    with pytest.raises(InputError, match=r"shards 1 of 3 are done; run identisim embed .*photos .* again"):
        Gallery.open(tmp_path / "g")
    bad.write_bytes(good)
    metric, calls = counting()
    assert len(build(photos, tmp_path / "g", metric)) == 10
    assert len(calls) == 6


def test_failed_images_are_tried_again_when_asked_or_changed(photos: Path, tmp_path: Path) -> None:
    bad = photos / "a ü" / "000.png"
    good = bad.read_bytes()
    bad.write_bytes(b"")
    build(photos, tmp_path / "g", on_error="skip")
    metric, calls = counting()
    assert build(photos, tmp_path / "g", metric, on_error="skip").summary == "9 images, 1 failed"
    assert calls == []
    build(photos, tmp_path / "g", metric, on_error="skip", retry_failed=True)
    assert len(calls) == 3  # the good images of the one shard with a failure
    bad.write_bytes(good)
    assert build(photos, tmp_path / "g").summary == "10 images, 0 failed"


def test_a_metric_fault_names_the_image(photos: Path, tmp_path: Path) -> None:
    broken = replace(
        METRIC, encode=lambda pixels: Tokens(encode(pixels).cls * torch.nan, encode(pixels).patches)
    )
    with pytest.raises(InputError, match="NaN"):
        build(photos, tmp_path / "g", broken)
    calls = []

    def breaks_later(pixels: np.ndarray) -> Tokens:
        calls.append(0)
        return (broken if len(calls) > 1 else METRIC).encode(pixels)

    with pytest.raises(InputError, match=r"a ü/000\.png: .*NaN"):
        build(photos, tmp_path / "g2", replace(METRIC, encode=breaks_later))


def test_a_changed_image_is_embedded_again(photos: Path, tmp_path: Path) -> None:
    gallery = build(photos, tmp_path / "g")
    changed = photos / gallery.paths[5]
    Image.new("RGB", (9, 9), (250, 10, 10)).save(changed)
    metric, calls = counting()
    again = build(photos, tmp_path / "g", metric)
    assert len(calls) == 4
    np.testing.assert_array_equal(again.embeddings[5], METRIC.embed(changed)[0])
    build(photos, tmp_path / "clean")
    assert shard_bytes(tmp_path / "g") == shard_bytes(tmp_path / "clean")


def test_an_image_replaced_while_it_is_read_is_a_failure(photos: Path, tmp_path: Path) -> None:
    victim = photos / "b ü" / "003.png"
    calls: list[int] = []

    def replacing(pixels: np.ndarray) -> Tokens:
        calls.append(0)
        if len(calls) == 8:  # one grey square first, and the victim is the seventh image
            Image.new("RGB", (5, 5)).save(victim)
        return METRIC.encode(pixels)

    gallery = build(photos, tmp_path / "g", replace(METRIC, encode=replacing), on_error="skip")
    assert [(f.key, "changed while it was read" in f.message) for f in gallery.failures] == [
        ("b ü/003.png", True)
    ]
    build(photos, tmp_path / "g")
    build(photos, tmp_path / "clean")
    assert shard_bytes(tmp_path / "g") == shard_bytes(tmp_path / "clean")


@pytest.mark.parametrize("fault", ["truncate", "flip"])
def test_a_damaged_shard_is_refused_and_redone(photos: Path, tmp_path: Path, fault: str) -> None:
    build(photos, tmp_path / "g")
    clean = shard_bytes(tmp_path / "g")
    path = tmp_path / "g/shards/00001.parquet"
    data = bytearray(clean["00001.parquet"])
    data[len(data) // 2] ^= 4
    path.write_bytes(data if fault == "flip" else data[:-100])
    with pytest.raises(InputError, match=r"00001\.parquet: damaged.*run identisim embed"):
        Gallery.open(tmp_path / "g")
    metric, calls = counting()
    build(photos, tmp_path / "g", metric)
    assert len(calls) == 4 and shard_bytes(tmp_path / "g") == clean


def test_numbers_of_two_metrics_are_never_mixed(photos: Path, tmp_path: Path) -> None:
    gallery = build(photos, tmp_path / "g")
    other = replace(METRIC, fingerprint="toy:ffff")
    with pytest.raises(
        InputError, match=r"fingerprint toy:ffff, not toy:0123456789abcdef.*another output folder"
    ):
        build(photos, tmp_path / "g", other)
    with pytest.raises(
        InputError, match=r"made with metric toy:0123456789abcdef, but searched with toy:ffff"
    ):
        gallery.search(photos / gallery.paths[0], other)
    assert (
        build(photos, tmp_path / "g", replace(METRIC, score="ot")).paths == gallery.paths
    )  # vectors are the same
    with pytest.raises(InputError, match="compares pairs"):
        build_gallery(photos, tmp_path / "g", PairMetric("ssim", lambda a, b: 1.0, "ssim:1"))


def test_a_gallery_is_of_one_source_and_shard_size(photos: Path, tmp_path: Path) -> None:
    build(photos, tmp_path / "g")
    with pytest.raises(InputError, match="shard_size 5, not 4"):
        build(photos, tmp_path / "g", shard_size=5)
    make_images(tmp_path / "others", 10)
    with pytest.raises(InputError, match=r"source .*others, not .*photos"):
        build(tmp_path / "others", tmp_path / "g")
    make_images(photos / "more", 1)
    with pytest.raises(InputError, match=r"images 11, not 10.*delete this one to embed the images again"):
        build(photos, tmp_path / "g")


def test_k_beyond_the_gallery(photos: Path, tmp_path: Path) -> None:
    gallery = build(photos, tmp_path / "g")
    for k in (0, 11):
        with pytest.raises(InputError, match=f"k={k} hits were asked for, but it holds 10 images"):
            gallery.search(photos / gallery.paths[0], METRIC, k)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "missing", "does not exist; expected a folder of images"),
        (lambda p: next(p.rglob("*.png")), "cannot be used as a source; expected a folder"),
        (lambda p: (p / "none").mkdir() or p / "none", "no picture in"),
        (lambda p: (p / "l.txt").write_text("../x.png") and p / "l.txt", "leaves its folder"),
        (lambda p: (p / "v.parquet").write_text("no") and p / "v.parquet", "no parquet file"),
        (lambda p: Path(os.fsdecode(bytes(p) + b"/\xff.png")).write_bytes(b"x") and p, "not UTF-8"),
    ],
)
def test_useless_sources(photos: Path, tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(make(photos), tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_useless_folders_and_options(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds other files and no gallery\.json"):
        build(photos, photos)
    with pytest.raises(InputError, match="is a file"):
        build(photos, next(photos.rglob("*.png")))
    for wrong in ({"shard_size": 0}, {"on_error": "ignore"}):
        with pytest.raises(InputError, match="shard_size >= 1, on_error raise or skip"):
            build(photos, tmp_path / "g", **wrong)
    for folder, words in ((photos, "is no gallery"), (tmp_path / "missing", "does not exist")):
        with pytest.raises(InputError, match=words):
            Gallery.open(folder)
    build(photos, tmp_path / "g")
    header = tmp_path / "g/gallery.json"
    for content in (header.read_text().replace('"format": 1', '"format": 2'), "[]", "{"):
        header.write_text(content)
        with pytest.raises(InputError, match="damaged"):
            Gallery.open(tmp_path / "g")


def test_two_builds_of_one_gallery(photos: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "g", "gallery.json"), pytest.raises(InputError, match="another process"):
        build(photos, tmp_path / "g")
    assert len(build(photos, tmp_path / "g")) == 10


@pytest.mark.slow
def test_ten_kills_at_random_moments_end_in_the_same_table(tmp_path: Path) -> None:
    make_images(tmp_path / "photos", 60)
    command = [sys.executable, __file__, str(tmp_path / "photos"), str(tmp_path / "g")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    killed, finished_before = json.loads(done.stdout)
    assert killed == 10
    assert finished_before > 0  # shards that a kill left behind and the next run kept
    build(tmp_path / "photos", tmp_path / "clean", shard_size=2)
    assert shard_bytes(tmp_path / "g") == shard_bytes(tmp_path / "clean")
    for name in ("failures.parquet", "_SUCCESS", "gallery.json"):
        assert (tmp_path / "g" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    assert not list((tmp_path / "g").rglob("*.tmp"))
    gallery = Gallery.open(tmp_path / "g")
    assert len(set(gallery.paths)) == len(gallery) == 60


def _embed_under_fire(photos: Path, out: Path, seed: int) -> tuple[int, int]:
    """Kill an embedding ten times at random moments, then let it finish: kills, shards that its last run kept.

    Every other kill waits until the first image is being embedded, so that not all come too early on a slow machine.
    """
    rng = random.Random(seed)
    killed = 0
    for attempt in range(11):
        kept = len(list(out.glob("shards/*.json")))
        at_work, started = os.pipe()

        def slow(pixels: np.ndarray, started: int = started) -> Tokens:
            os.write(started, b".")
            time.sleep(0.025)
            return encode(pixels)

        child = os.fork()  # of a process that has computed nothing yet, so has no threads to lose
        if child == 0:
            build(photos, out, replace(METRIC, encode=slow), shard_size=2)
            os._exit(0)
        if attempt < 10:
            if attempt % 2:
                os.read(at_work, 1)
            time.sleep(rng.uniform(0, 0.28))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status)
    return killed, kept if status == 0 else -1


if __name__ == "__main__":
    for slow_to_import in ("pyarrow.parquet", "tqdm", "identisim.similarity"):
        importlib.import_module(slow_to_import)
    print(json.dumps(_embed_under_fire(Path(sys.argv[1]), Path(sys.argv[2]), seed=0)))
