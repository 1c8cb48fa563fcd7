"""`identisim evaluate folder` on coloured squares: what it reads, measures, keeps, survives and prints."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from identisim import cli
from identisim.errors import InputError
from identisim.evaluation import prediction
from identisim.evaluation.folder import Evaluation, build_metrics, evaluate_folder, read_collection
from identisim.evaluation.results import Result, csv_table, markdown_table, text_table
from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import EmbeddingMetric, Metric, PairMetric
from identisim.metrics.registry import METRICS
from identisim.models.tokens import Tokens

IDENTITIES, PHOTOS = 6, 4
MEASURES = ["mAP", "top-1", "AUC", "triplets", "hard triplets"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three groups of two identities; the colour of a square tells its identity, its brightness the photo."""
    folder = tmp_path / "my photos"
    for identity in range(IDENTITIES):
        place = folder / f"group é{identity // 2}" / f"thing {identity}"
        place.mkdir(parents=True)
        for photo in range(PHOTOS):
            pixels = np.full((24, 30, 3), (40 * identity, 250 - 40 * identity, 20 * photo), np.uint8)
            Image.fromarray(pixels).save(place / f"{photo}.png")
    return folder


def identity_of(image: np.ndarray) -> int:
    return round(float(image[..., 0].mean()) / 40)


def oracle() -> PairMetric:
    return PairMetric("oracle", lambda a, b: float(a == b), "oracle:1", describe=identity_of)


def inverted() -> PairMetric:
    return PairMetric("inverted", lambda a, b: -float(a == b), "inverted:1", describe=identity_of)


def chance() -> PairMetric:
    """A fixed random number for each pair of photos."""

    def compare(a: int, b: int) -> float:
        return float(np.random.default_rng(sorted((a, b))).random())

    def describe(image: np.ndarray) -> int:
        return identity_of(image) * 100 + int(image[0, 0, 2])

    return PairMetric("chance", compare, "chance:1", describe=describe)


def colours() -> EmbeddingMetric:
    def encode(pixels: np.ndarray) -> Tokens:
        tiles = torch.from_numpy(pixels).unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).permute(0, 2, 3, 1)
        return Tokens(tiles.mean((1, 2)), tiles)

    return EmbeddingMetric("colours", encode, Preprocessing(16), "colours:1")


def counted(metric: PairMetric, stop_after: float = float("inf")) -> tuple[PairMetric, list[int]]:
    """The same metric, whose comparisons are counted, and which breaks down after some."""
    calls = [0]

    def compare(a: object, b: object) -> float:
        if calls[0] >= stop_after:
            raise RuntimeError("the machine was switched off")
        calls[0] += 1
        return metric.compare(a, b)

    return PairMetric(metric.name, compare, metric.fingerprint, describe=metric.describe), calls


def evaluate(root: Path, out: Path, *metrics: Metric | str, **options: object) -> Evaluation:
    return evaluate_folder(root, metrics, out, resamples=200, progress=False, **options)  # type: ignore[arg-type]


def values(evaluation: Evaluation, metric: str) -> dict[str, float]:
    return {row.measure: row.value for row in evaluation.results if row.metric == metric}


class TestCollection:
    def test_identity_is_the_folder_and_group_the_one_above(self, root: Path) -> None:
        found = read_collection(root)
        assert found.summary == "24 photos, 6 identities, 3 groups"
        assert found.identity.tolist() == np.repeat(np.arange(6), 4).tolist()
        assert found.group.tolist() == np.repeat(np.arange(3), 8).tolist()
        assert read_collection(root / "group é0").summary == "8 photos, 2 identities, 1 group"
        assert read_collection(root.parent).summary == found.summary

    def test_first_photos_by_name(self, root: Path) -> None:
        assert {path.name for path in read_collection(root, 2).photos} == {"0.png", "1.png"}

    def test_what_cannot_be_measured_is_refused(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"4 photos lie directly in it.*ROOT\[/GROUP\]/IDENTITY/PHOTO"):
            read_collection(root / "group é0" / "thing 0")
        with pytest.raises(InputError, match="6 identities with at most 1 photos"):
            read_collection(root, 1)
        with pytest.raises(InputError, match="does not exist"):
            read_collection(tmp_path / "nowhere")

    def test_metrics_and_scores(self) -> None:
        chosen = build_metrics(["ssim", "random-weights", "random-weights:joint"], score="patch")
        assert [(metric.name, metric.score) for metric in chosen] == [
            ("ssim", "pixels"),
            ("random-weights", "patch"),
            ("random-weights", "joint"),
        ]
        for names, score, words in (
            (["ssim", "ssim:pixels"], None, "ssim:pixels came twice"),
            ([], None, "no metric came"),
            (["ssim"], "patch", "no metric takes the score kind 'patch'"),
            (["ssim:cls"], None, "no score kind 'cls'"),
            (["sim"], None, "did you mean ssim"),
        ):
            with pytest.raises(InputError, match=words):
                build_metrics(names, score)


class TestMeasuring:
    def test_oracle_chance_and_sign_error(self, root: Path, tmp_path: Path) -> None:
        found = evaluate(root, tmp_path / "out", oracle(), inverted(), chance())
        assert {name: values(found, "oracle")[name] for name in MEASURES} == dict.fromkeys(MEASURES, 1.0)
        wrong = values(found, "inverted")
        assert [wrong[name] for name in MEASURES[1:]] == [0, 0, 0, 0] and wrong["mAP"] < 0.2
        assert 0.3 < values(found, "chance")["AUC"] < 0.7
        assert wrong["AUC minus oracle:pixels"] == -1

    def test_rows_have_what_a_table_of_all_runs_needs(self, root: Path, tmp_path: Path) -> None:
        evaluate(root, tmp_path / "out", "colour-histogram", colours(), seed=3)
        rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
        keys = "benchmark metric score measure value low high n seed fingerprint missing"
        assert all(list(row) == keys.split() for row in rows)
        first = rows[0]
        assert (first["benchmark"], first["metric"], first["measure"]) == (
            "folder my photos",
            "colour-histogram",
            "mAP",
        )
        assert (first["n"], first["seed"], first["missing"]) == (24, 3, 0)
        assert all(row["low"] <= row["value"] + 1e-9 and row["value"] <= row["high"] + 1e-9 for row in rows)
        table = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
        assert [row["measure"] for row in table] == [row["measure"] for row in rows]

    def test_all_score_kinds_of_a_network_from_one_look_at_the_photos(
        self, root: Path, tmp_path: Path
    ) -> None:
        looks = []
        metric = colours()

        def encode(pixels: np.ndarray) -> Tokens:
            looks.append(len(pixels))
            return metric.encode(pixels)

        kinds = [
            EmbeddingMetric("colours", encode, metric.preprocessing, metric.fingerprint, kind)
            for kind in ("cls", "joint", "ot")
        ]
        evaluate(root, tmp_path / "out", *kinds)
        assert len(looks) == 24
        photos = read_collection(root).photos
        for kind in kinds:
            (path,) = (tmp_path / "out" / "cache").glob(f"colours-{kind.score}-*.npy")
            assert np.load(path) == pytest.approx(kind.similarity_matrix(photos, photos), abs=1e-5)

    def test_a_metric_that_gives_nan_is_no_result(self, root: Path, tmp_path: Path) -> None:
        broken = PairMetric("broken", lambda a, b: float("nan"), "broken:1")
        with pytest.raises(RuntimeError, match="broken gave NaN"):
            evaluate(root, tmp_path / "out", broken)


class TestCache:
    def test_killed_run_goes_on_and_a_second_run_compares_nothing(self, root: Path, tmp_path: Path) -> None:
        clean = evaluate(root, tmp_path / "clean", chance())
        pairs, first_block = 24 * 25 // 2, sum(range(24, 24 - prediction.ROWS, -1))
        dying, before = counted(chance(), stop_after=first_block + 5)
        with pytest.raises(RuntimeError, match="switched off"):
            evaluate(root, tmp_path / "out", dying)
        assert before == [first_block + 5]
        resumed, calls = counted(chance())
        found = evaluate(root, tmp_path / "out", resumed)
        assert calls == [pairs - first_block]
        assert found.results == clean.results
        again, none = counted(chance())
        assert evaluate(root, tmp_path / "out", again).results == clean.results
        assert none == [0]

    @pytest.mark.parametrize("what", ["photo", "fingerprint", "matrix", "note"])
    def test_what_changed_or_broke_is_computed_again(self, root: Path, tmp_path: Path, what: str) -> None:
        evaluate(root, tmp_path / "out", oracle())
        metric, calls = counted(oracle())
        (matrix,) = (tmp_path / "out" / "cache").glob("*.npy")
        if what == "photo":
            Image.new("RGB", (9, 9), (0, 250, 99)).save(root / "group é0" / "thing 0" / "0.png")
        elif what == "fingerprint":
            metric = PairMetric("oracle", metric.compare, "oracle:2", describe=metric.describe)
        elif what == "matrix":
            content = bytearray(matrix.read_bytes())
            content[-1] ^= 1
            matrix.write_bytes(content)
        else:
            matrix.with_suffix(".json").write_text("{")
        assert values(evaluate(root, tmp_path / "out", metric), "oracle")["mAP"] == 1
        assert calls == [300]

    def test_a_folder_with_other_things_is_refused(self, root: Path) -> None:
        with pytest.raises(InputError, match="holds other files"):
            evaluate(root, root, oracle())


class TestUnreadable:
    def test_named_counted_and_left_out_for_every_metric(self, root: Path, tmp_path: Path) -> None:
        broken = root / "group é1" / "thing 2" / "2.png"
        broken.write_bytes(b"<!DOCTYPE html><p>404")
        found = evaluate(root, tmp_path / "out", oracle(), colours())
        assert list(found.failures) == [broken]
        assert {row.missing for row in found.results} == {1}
        assert {row.n for row in found.results if row.measure == "mAP"} == {23}
        assert values(found, "oracle")["AUC"] == 1
        assert "100.0* [" in text_table(found.results)
        page = found.report.read_text()
        assert "Incomplete: 1 photo could not be read" in page and "thing 2/2.png" in page
        again, calls = counted(oracle())
        assert list(evaluate(root, tmp_path / "out", again).failures) == [broken]
        assert calls == [0]

    def test_an_identity_that_is_lost_altogether(self, root: Path, tmp_path: Path) -> None:
        for photo in (root / "group é0" / "thing 0").iterdir():
            photo.write_bytes(b"")
        found = evaluate(root, tmp_path / "out", oracle())
        assert len(found.failures) == 4
        assert {values(found, "oracle")[name] for name in MEASURES} == {1.0}

    def test_nothing_readable_is_an_error(self, root: Path, tmp_path: Path) -> None:
        for photo in root.rglob("*.png"):
            photo.write_bytes(b"")
        with pytest.raises(InputError, match=r"none of 24 photos.*0\.png"):
            evaluate(root, tmp_path / "out", oracle())


class TestReport:
    def test_one_file_with_figures_histograms_and_the_worst_pairs(self, root: Path, tmp_path: Path) -> None:
        page = evaluate(root, tmp_path / "out", chance(), oracle()).report.read_text()
        assert not re.search(r"(src|href)=\"(?!data:)", page)
        assert page.count("<polygon") == 4
        assert page.count("data:image/jpeg;base64,") == 2 * (8 + 8)
        assert "oracle" in page and "chance:1" in page

    def test_the_worst_pairs_are_the_worst(self, root: Path, tmp_path: Path) -> None:
        page = evaluate(root, tmp_path / "out", chance()).report.read_text()
        photos = read_collection(root).photos
        matrix, same = chance().similarity_matrix(photos, photos), np.repeat(np.arange(6), 4)
        upper = np.triu(np.ones_like(matrix, bool), 1)
        kind = same[:, None] == same
        shown = [float(text) for text in re.findall(r"<figcaption>([\d.]+)<div", page)]
        assert shown[0] == pytest.approx(matrix[upper & kind].min(), abs=6e-4)
        assert shown[8] == pytest.approx(matrix[upper & ~kind].max(), abs=6e-4)
        assert shown[:8] == sorted(shown[:8]) and shown[8:] == sorted(shown[8:], reverse=True)

    def test_tables(self) -> None:
        row = Result("b", "m|1", "cls", "mAP", 0.705, 0.65, 0.753, 9, 0, "m:0", 0)
        other = Result("b", "m|1", "cls", "AUC", float("nan"), float("nan"), float("nan"), 0, 0, "m:0", 0)
        assert text_table([row, other]).splitlines()[1] == "m|1     cls    70.5 [65.0, 75.3]  –"
        assert markdown_table([row, other]).splitlines()[2] == "| m\\|1 | cls | 70.5 [65.0, 75.3] | – |"
        assert csv_table([other]).splitlines()[1] == "b,m|1,cls,AUC,,,,0,0,m:0,0"


class TestCommand:
    @pytest.fixture(autouse=True)
    def toys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        makers: dict[str, Callable[[], Metric]] = {"oracle": oracle, "chance": chance}
        for name, make in makers.items():
            card = MetricCard(
                name, "a toy", "none", "none", ("pixels",), (0, 1), lambda _, __, make=make: make()
            )
            monkeypatch.setitem(METRICS, name, card)

    @staticmethod
    def run(*arguments: object) -> int:
        return cli.main(["evaluate", "folder", *map(str, arguments)])

    def test_table_and_report(self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        common = ("--root", root, "--out", out)
        assert self.run(*common, "--metric", "oracle", "--metric", "chance:pixels", "--per-identity", 3) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("18 photos, 6 identities, 3 groups")
        assert lines[1].split("  ")[0] == "metric"
        assert lines[2].startswith("oracle  pixels  100.0 [100.0, 100.0]")
        assert lines[-1] == f"report: {out / 'report.html'}"

    def test_unreadable_photos_end_in_1_with_the_table(
        self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (root / "group é1" / "thing 2" / "2.png").write_bytes(b"no picture")
        assert self.run("--root", root, "--out", tmp_path / "out", "--metric", "oracle") == 1
        printed = capsys.readouterr().out
        assert "100.0* [" in printed and "2.png" in printed
        assert "INCOMPLETE: 1 of 24 photos could not be read" in printed

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--root", "nowhere", "--metric", "oracle", "--out", "OUT"], "nowhere"),
            (["--root", "ROOT", "--metric", "orakel", "--out", "OUT"], "did you mean oracle"),
            (["--root", "ROOT", "--metric", "oracle:cls", "--out", "OUT"], "'cls'"),
            (["--root", "ROOT", "--out", "OUT"], "--metric"),
            (["--root", "ROOT", "--metric", "oracle", "--out", "ROOT"], "other files"),
            (
                ["--root", "ROOT", "--metric", "oracle", "--out", "OUT", "--per-identity", "0"],
                "--per-identity",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_misuse_is_one_line_and_exit_code_2(
        self,
        root: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        words: str,
    ) -> None:
        places = {"ROOT": str(root), "OUT": str(tmp_path / "out")}
        assert self.run(*(places.get(word, word) for word in arguments)) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err
        assert not (tmp_path / "out").exists()
