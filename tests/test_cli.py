"""The command line and the names of `identisim` itself, on a toy metric: no weights, no network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import identisim
from identisim import cli
from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import EmbeddingMetric, Metric, PairMetric
from identisim.metrics.registry import METRICS, build, find_card, weights_present
from identisim.models.tokens import Tokens

RED, ORANGE, BLUE = (220, 30, 20), (220, 90, 20), (10, 40, 230)
START = "import sys; from identisim.cli import main; sys.exit(main())"


def encode(pixels: np.ndarray) -> Tokens:
    """Colours of a 4×4 grid, about grey."""
    tiles = torch.from_numpy(pixels).unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)).permute(0, 2, 3, 1) - 0.5
    return Tokens(tiles.flatten(1), tiles)


def toy(_device: str, _folders: tuple[Path, ...] = ()) -> Metric:
    return EmbeddingMetric("toy", encode, Preprocessing(32), "toy:00000000feedbeef")


def card(name: str, builder: object = toy, **fields: object) -> MetricCard:
    known = {"scores": ("cls", "patch", "ot", "joint"), "range": (-1.0, 1.0), **fields}
    return MetricCard(name=name, what="a toy", size="none", licence="none", builder=builder, **known)


@pytest.fixture(autouse=True)
def toy_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "toy", card("toy"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, in a folder and under names that a shell would trip over."""
    folder = tmp_path / "my photos, été 中"
    folder.mkdir()
    for name, colour in (("red one.png", RED), ("orange é.png", ORANGE), ("blue.png", BLUE)):
        pixels = np.full((40, 60, 3), colour, np.uint8)
        pixels[10:20, 10:30] = colour[::-1]
        Image.fromarray(pixels).save(folder / name)
    return folder


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that misuse leaves on stderr, with nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("identisim: ")
    assert captured.err.count("\n") == 1
    return captured.err


def start(*arguments: object, code: str = START, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)


class TestCompare:
    def test_prints_similarity_with_its_range_direction_and_fingerprint(
        self, photos: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("compare", photos / "red one.png", photos / "red one.png", "--metric", "toy") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            "similarity   1.0000",
            "score        cls, -1 to 1, higher = more alike",
            "metric       toy",
            "fingerprint  toy:00000000feedbeef",
        ]

    def test_json_is_one_object_that_agrees_with_the_function(
        self, photos: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        a, b = photos / "red one.png", photos / "blue.png"
        assert run("compare", a, b, "--metric", "toy", "--score", "joint", "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        result = identisim.compare(a, b, "toy", score="joint")
        assert printed["similarity"] == float(result)
        assert (printed["score"], printed["metric"]) == ("joint", "toy")
        assert (printed["fingerprint"], printed["range"]) == ("toy:00000000feedbeef", [-1.0, 1.0])
        assert (printed["a"], printed["b"]) == (str(a), str(b))

    def test_unit_of_the_score_is_printed(self, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
        same = photos / "red one.png"
        assert run("compare", same, same, "--metric", "psnr") == 0
        assert "100.0000 dB\nscore        pixels, 0 to 100 dB" in capsys.readouterr().out

    def test_explain_draws_and_names_the_picture(
        self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "why so alike.png"
        a, b = photos / "red one.png", photos / "orange é.png"
        assert run("compare", a, b, "--metric", "toy", "--explain", out, "--json") == 0
        assert json.loads(capsys.readouterr().out)["explanation"] == str(out)
        with Image.open(out) as picture:
            assert picture.format == "PNG"

    def test_pixel_metrics_start_without_torch(self, photos: Path) -> None:
        code = START.replace("sys.exit(main())", "main(); print('torch' in sys.modules)")
        done = start("compare", photos / "blue.png", photos / "blue.png", "--metric", "ssim", code=code)
        assert done.stdout.splitlines()[0] == "similarity   1.0000"
        assert done.stdout.splitlines()[-1] == "False"


class TestMisuse:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["compare", "A", "missing.png", "--metric", "ssim"], ["missing.png"]),
            (["compare", "A", "FOLDER", "--metric", "ssim"], ["FOLDER"]),
            (["compare", "A"], ["argument", "B"]),
            (["compare", "A", "A", "--metrc", "ssim"], ["--metrc"]),
            (["compare", "A", "A", "--metric", "sim"], ["did you mean ssim", "colour-histogram"]),
            (["compare", "A", "A", "--metric", "ssim", "--score", "cls"], ["ssim", "'cls'", "pixels"]),
            (["compare", "A", "A", "--metric", "toy", "--score", "cosine"], ["'cosine'", "cls, patch, ot"]),
            (["compare", "A", "A", "--metric", "ssim", "--explain", "x.png"], ["ssim", "compact"]),
            (["compare", "A", "A", "--metric", "toy", "--explain", "x.jpg"], ["x.jpg", ".png"]),
            (["compare", "A", "A", "--metric", "toy", "--explain", "no/x.png"], ["folder", "no"]),
            (["embed", "FOLDER", "--out", "gallery", "--metric", "ssim"], ["ssim", "embed"]),
            (["embed", "nowhere", "--out", "gallery", "--metric", "toy"], ["nowhere"]),
            (["embed", "FOLDER", "--out", "gallery", "--on-error", "ignore"], ["--on-error", "skip"]),
            (["search", "A", "--gallery", "nowhere"], ["nowhere"]),
            (["world", "sample", "out", "--views", "0"], ["--views"]),
            (["frobnicate"], ["frobnicate"]),
        ],
        ids=" ".join,
    )
    def test_one_clear_line_and_exit_code_2(
        self,
        photos: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        words: list[str],
    ) -> None:
        monkeypatch.chdir(photos.parent)
        places = {"A": f"{photos.name}/blue.png", "FOLDER": photos.name}
        assert run(*(places.get(argument, argument) for argument in arguments)) == 2
        line = complaint(capsys)
        assert all(places.get(word, word) in line for word in words)
        assert [path.name for path in photos.parent.iterdir()] == [photos.name]


class TestFailures:
    @pytest.mark.parametrize(
        "error", [OSError(5, "Input/output error"), MemoryError(), RuntimeError("device\nwent away")]
    )
    def test_failing_while_working_is_one_line_and_exit_code_1(
        self,
        photos: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: Exception,
    ) -> None:
        def fail(_a: np.ndarray, _b: np.ndarray) -> float:
            raise error

        monkeypatch.setitem(METRICS, "toy", card("toy", lambda _, __: PairMetric("toy", fail, "toy:0")))
        assert run("compare", photos / "blue.png", photos / "blue.png", "--metric", "toy") == 1
        assert type(error).__name__ in complaint(capsys)

    def test_a_programming_error_keeps_its_traceback(
        self, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_a: np.ndarray, _b: np.ndarray) -> float:
            raise KeyError("bug")

        monkeypatch.setitem(METRICS, "toy", card("toy", lambda _, __: PairMetric("toy", fail, "toy:0")))
        with pytest.raises(KeyError, match="bug"):
            run("compare", photos / "blue.png", photos / "blue.png", "--metric", "toy")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_full_disk(self) -> None:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", START, "metrics"], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 1
        assert done.stderr == "identisim: OSError: [Errno 28] No space left on device\n"

    @pytest.mark.parametrize("cards", [0, 3000], ids=["written at exit", "written while printing"])
    def test_reader_that_leaves_ends_it_quietly(self, cards: int) -> None:
        code = (
            "from dataclasses import replace\n"
            "from identisim.metrics.registry import METRICS\n"
            f"for i in range({cards}): METRICS[str(i)] = replace(METRICS['ssim'], name=str(i))\n{START}"
        )
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-c", code, "metrics"], stdout=writing, stderr=subprocess.PIPE, text=True
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, "")

    @pytest.mark.skipif(os.name == "nt", reason="SIGINT is POSIX")
    def test_ctrl_c_ends_with_130_and_one_line(self, photos: Path) -> None:
        code = (
            # a shell that starts tests in the background has them ignore Ctrl-C
            "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "import time\nfrom dataclasses import replace\n"
            "from identisim.metrics.metric import PairMetric\n"
            "from identisim.metrics.registry import METRICS\n"
            "def wait(a, b): print('working', flush=True); time.sleep(60)\n"
            "slow = replace(METRICS['ssim'], builder=lambda device, folders: PairMetric('ssim', wait, 'ssim:0'))\n"
            f"METRICS['ssim'] = slow\n{START}"
        )
        picture = str(photos / "blue.png")
        process = subprocess.Popen(
            [sys.executable, "-c", code, "compare", picture, picture, "--metric", "ssim"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (130, "identisim: interrupted\n")

    def test_file_names_that_the_terminal_lacks_do_not_end_a_run(self, photos: Path) -> None:
        picture = photos / "orange é.png"
        explained = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = start("compare", picture, photos / "нет.png", "--metric", "ssim", env=explained)
        assert done.returncode == 2
        assert done.stderr.startswith("identisim: ")
        assert "Traceback" not in done.stderr


class TestGallery:
    def test_embed_then_search(
        self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gallery, sheet = tmp_path / "gallery", tmp_path / "sheet.png"
        assert run("embed", photos, "--out", gallery, "--metric", "toy") == 0
        assert capsys.readouterr().out.splitlines() == [
            "3 images, 0 failed",
            f"gallery      {gallery}",
            "fingerprint  toy:00000000feedbeef",
        ]
        query = photos / "red one.png"
        assert run("search", query, "--gallery", gallery, "--json", "--sheet", sheet) == 0
        found = json.loads(capsys.readouterr().out)
        assert [Path(hit["path"]).name for hit in found["hits"]] == [
            "red one.png",
            "orange é.png",
            "blue.png",
        ]
        assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
        assert [hit["same_file"] for hit in found["hits"]] == [True, False, False]
        expected = [float(identisim.compare(query, hit["path"], "toy")) for hit in found["hits"]]
        assert [hit["similarity"] for hit in found["hits"]] == pytest.approx(expected, abs=1e-6)
        assert sheet.is_file()

    def test_hits_for_people(self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        gallery = tmp_path / "gallery"
        assert run("embed", photos, "--out", gallery, "--metric", "toy", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {
            "images": 3,
            "failed": 0,
            "failures": None,
            "gallery": str(gallery),
            "metric": "toy",
            "fingerprint": "toy:00000000feedbeef",
        }
        assert run("search", photos / "blue.png", "--gallery", gallery, "-k", 1) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith("(cls, -1 to 1, higher = more alike; toy:00000000feedbeef)")
        assert lines[1] == f"   1      1.0000  {photos / 'blue.png'}  (same file)"
        assert run("search", photos / "blue.png", "--gallery", gallery, "-k", 4) == 2
        assert "3 images" in complaint(capsys)

    def test_bad_image_stops_or_is_listed(
        self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (photos / "broken.jpg").write_bytes(b"<!DOCTYPE html><p>404")
        gallery = tmp_path / "gallery"
        assert run("embed", photos, "--out", gallery, "--metric", "toy") == 2
        assert "broken.jpg" in complaint(capsys)
        assert run("embed", photos, "--out", gallery, "--metric", "toy", "--on-error", "skip") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "3 images, 1 failed"
        assert str(gallery / "failures.parquet") in lines[-1]
        assert (gallery / "failures.parquet").is_file()

    def test_gallery_of_other_weights_is_refused(
        self,
        photos: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run("embed", photos, "--out", tmp_path / "gallery", "--metric", "toy") == 0
        capsys.readouterr()
        other = card("toy", lambda _, __: EmbeddingMetric("toy", encode, Preprocessing(32), "toy:other"))
        monkeypatch.setitem(METRICS, "toy", other)
        assert run("search", photos / "blue.png", "--gallery", tmp_path / "gallery") == 2
        line = complaint(capsys)
        assert "toy:00000000feedbeef" in line
        assert "toy:other" in line


class TestWorld:
    def test_sample_passes_its_options_on_and_names_the_table(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from identisim.world import sample

        asked: list[object] = []

        def write_world(out: Path, **options: int) -> Path:
            asked.extend([out, options])
            return out / "views.parquet"

        monkeypatch.setattr(sample, "write_world", write_world)
        assert run("world", "sample", tmp_path, "--identities", 3, "--views", 2, "--seed", 7) == 0
        assert asked == [tmp_path, {"identities": 3, "views": 2, "seed": 7}]
        assert capsys.readouterr().out == f"3 identities, 2 views each: {tmp_path / 'views.parquet'}\n"


class TestInformation:
    def test_metrics_lists_every_card(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("metrics", "--json") == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["metrics"]}
        assert set(rows) == set(METRICS) >= {"compact", "toy", "ssim", "sift"}
        assert rows["ssim"]["weights_present"]
        assert not rows["compact"]["gated"]
        assert run("metrics") == 0
        printed = capsys.readouterr().out
        assert all(f"{name}: {row['what']}" in printed for name, row in rows.items())

    def test_version_and_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--version") == 0
        assert capsys.readouterr().out == f"identisim {identisim.__version__}\n"
        assert run() == 0
        overview = capsys.readouterr().out
        for command in ("compare", "embed", "search", "metrics", "pull", "doctor", "world", "evaluate"):
            assert f"\n  {command} " in overview
            assert run(command, "--help") == 0
            assert "Usage: identisim " in capsys.readouterr().out

    def test_help_and_metrics_need_no_torch(self) -> None:
        code = (
            "import sys; from identisim.cli import main\n"
            "codes = [main(a) for a in (['--help'], ['metrics'], ['embed', '--help'], ['compare', 'x'])]\n"
            "print(codes, 'torch' in sys.modules)"
        )
        assert start(code=code).stdout.splitlines()[-1] == "[0, 0, 0, 2] False"


class TestDoctor:
    def test_every_line_has_a_verdict_and_troubles_have_advice(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(METRICS, "lost", card("lost", weights="models/nowhere.safetensors"))
        assert run("doctor") == 1
        printed = capsys.readouterr().out
        assert "fail  metric lost: weights missing: models/nowhere.safetensors\n      -> " in printed
        assert f"ok    torch: {torch.__version__}" in printed
        assert "ok    metric ssim: no weights needed" in printed
        verdicts = [line[:6].strip() for line in printed.splitlines() if not line.startswith("      ->")]
        assert set(verdicts) <= {"ok", "warn", "fail"}

    def test_a_missing_extra_is_no_failure_and_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        run("doctor")
        printed = capsys.readouterr().out
        assert "warn  metric sift: InputError: sift needs cv2" in printed
        assert "-> only this metric needs it: pip install 'identisim[classical]'" in printed
        picture = Path(identisim.__file__)
        assert run("compare", picture, picture, "--metric", "sift") == 2
        assert "pip install 'identisim[classical]'" in complaint(capsys)

    def test_damaged_weights_are_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(_device: str, _folders: tuple[Path, ...]) -> Metric:
            raise InputError("toy.safetensors: sha256 is 0000, expected 1111")

        monkeypatch.setitem(METRICS, "toy", card("toy", refuse))
        assert run("doctor") == 1
        assert "fail  metric toy: InputError: toy.safetensors: sha256 is 0000" in capsys.readouterr().out

    def test_torchvision_of_another_torch_is_named_as_the_cause(self, tmp_path: Path) -> None:
        fault = "raise RuntimeError('operator torchvision::nms does not exist')\n"
        (tmp_path / "torchvision.py").write_text(fault)
        path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        code = (
            "from identisim.doctor import examine\n"
            "found = next(f for f in examine() if f.subject == 'torchvision')\n"
            "print(found.verdict, found.detail, found.advice, sep='|')"
        )
        verdict, detail, advice = start(code=code, env={**os.environ, "PYTHONPATH": path}).stdout.split("|")
        assert verdict == "fail"
        assert "is broken: RuntimeError: operator torchvision::nms does not exist" in detail
        assert "pip uninstall torchvision" in advice


class TestFacade:
    def test_compare_takes_a_name_or_a_loaded_metric(self, photos: Path) -> None:
        a, b = photos / "red one.png", photos / "blue.png"
        loaded = identisim.load_metric("toy", score="patch")
        assert identisim.compare(a, b, loaded) == identisim.compare(a, b, "toy", score="patch")
        with pytest.raises(InputError, match="load_metric"):
            identisim.compare(a, b, loaded, score="cls")

    def test_compare_refuses_more_than_one_pair(self, photos: Path) -> None:
        both = [photos / "red one.png", photos / "blue.png"]
        with pytest.raises(InputError, match="one image on each side, 2 came"):
            identisim.compare(both, both, "toy")

    def test_a_metric_of_the_caller_has_no_known_range(self, photos: Path) -> None:
        own = PairMetric("own", lambda _a, _b: 5.0, "own:0")
        result = identisim.compare(photos / "blue.png", photos / "blue.png", own)
        assert (float(result), result.range, result.metric) == (5.0, None, "own")

    def test_every_score_kind_of_every_card_stays_in_its_range(self, photos: Path) -> None:
        ready = [entry for entry in identisim.list_metrics() if weights_present(entry)]
        for entry in ready:
            for score in entry.scores:
                for other in sorted(photos.iterdir()):
                    similarity = float(identisim.compare(photos / "blue.png", other, entry.name, score))
                    assert entry.range[0] - 1e-5 <= similarity <= entry.range[1] + 1e-5

    def test_names_of_cards_and_metrics_agree(self) -> None:
        for name, entry in METRICS.items():
            assert entry.name == name
            if weights_present(entry):
                built = build(name)
                assert (built.name, built.score) == (name, entry.scores[0])

    @pytest.mark.parametrize("name", ["ssim", "psnr", "colour-histogram", "hog", "sift", "phash"])
    def test_asked_for_device_that_cannot_be_used_is_an_error(self, name: str) -> None:
        with pytest.raises(InputError, match="'cuda'"):
            build(name, device="cuda")

    def test_unknown_name_without_a_near_one(self) -> None:
        with pytest.raises(InputError, match=r"^unknown metric 'xyzzy'; the metrics are: compact, ssim"):
            find_card("xyzzy")
