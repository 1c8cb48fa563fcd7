"""Foregrounds, Crop-Img, Crop-Feat and foreground feature averaging, against computations by hand."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import identisim
from identisim import cli
from identisim.errors import InputError
from identisim.images import Preprocessing, load_image
from identisim.metrics.ffa import isolated
from identisim.metrics.foregrounds import CARVEKIT, MaskFiles, find_foreground
from identisim.metrics.isolation import ForegroundWarning, Isolation
from identisim.metrics.metric import EmbeddingMetric
from identisim.models.tokens import Tokens

GRID = 4
SIZE = 32


@dataclass(frozen=True)
class Given:
    """A foreground that is known beforehand."""

    mask: np.ndarray
    fingerprint: str = "given"
    content: str = ""

    def __call__(self, source: object, picture: np.ndarray) -> np.ndarray:
        assert self.mask.shape == picture.shape[:2]
        return self.mask.astype(np.float32)


def encode(pixels: np.ndarray) -> Tokens:
    """CLS = mean colour of the picture, patches = mean colours of a 4 × 4 grid with a constant beside them."""
    tiles = pixels.reshape(len(pixels), 3, GRID, SIZE // GRID, GRID, SIZE // GRID).mean((3, 5))
    patches = np.concatenate([tiles, np.full_like(tiles[:, :1], 0.5)], 1).transpose(0, 2, 3, 1)
    return Tokens(
        torch.from_numpy(pixels.mean((2, 3))), torch.from_numpy(np.ascontiguousarray(patches, np.float32))
    )


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(20, 255, (64, 48, 3), np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    """Soft left edge, an object in the upper right."""
    matte = np.zeros((64, 48), np.float32)
    matte[:40, 20:] = 1
    matte[:40, 16:20] = 0.4
    return matte


def metric(preprocessing: Preprocessing | None = None) -> EmbeddingMetric:
    return EmbeddingMetric("toy", encode, preprocessing or Preprocessing(SIZE), "toy:0")


def seen(mask: np.ndarray, *, crop: bool, average: bool, compat: str | None = None) -> EmbeddingMetric:
    return isolated(metric(), "toy+x", Given(mask), crop=crop, average=average, compat=compat)


def patches_by_hand(mask: np.ndarray) -> np.ndarray:
    """Which cells of the grid are covered by more than half, pixel by pixel of the picture."""
    height, width = mask.shape
    covered = np.zeros((GRID, GRID), bool)
    for row in range(GRID):
        for column in range(GRID):
            cell = mask[
                row * height // GRID : (row + 1) * height // GRID,
                column * width // GRID : (column + 1) * width // GRID,
            ]
            covered[row, column] = cell.mean() > 0.5
    return covered


class TestIsolation:
    def test_crop_feat_averages_patches_of_the_whole_picture(
        self, picture: np.ndarray, mask: np.ndarray
    ) -> None:
        tokens = seen(mask, crop=False, average=True).tokens(picture)
        whole = encode(Preprocessing(SIZE)(picture)[None]).patches[0].numpy()
        inside = patches_by_hand(mask)
        assert 0 < inside.sum() < GRID**2
        assert tokens.cls[0].numpy() == pytest.approx(whole[inside].mean(0), abs=1e-6)
        assert (tokens.foreground[0].numpy() == inside).all()

    def test_crop_img_averages_patches_of_the_blackened_picture(
        self, picture: np.ndarray, mask: np.ndarray
    ) -> None:
        tokens = seen(mask, crop=True, average=True).tokens(picture)
        blackened = np.rint(picture * mask[..., None]).astype(np.uint8)
        alone = encode(Preprocessing(SIZE)(blackened)[None]).patches[0].numpy()
        assert tokens.cls[0].numpy() == pytest.approx(alone[patches_by_hand(mask)].mean(0), abs=1e-6)

    def test_crop_keeps_the_network_s_own_vector(self, picture: np.ndarray, mask: np.ndarray) -> None:
        tokens = seen(mask, crop=True, average=False).tokens(picture)
        blackened = np.rint(picture * mask[..., None]).astype(np.uint8)
        assert torch.equal(tokens.cls, encode(Preprocessing(SIZE)(blackened)[None]).cls)

    def test_background_does_not_count_under_crop_img(self, picture: np.ndarray, mask: np.ndarray) -> None:
        other = picture.copy()
        other[mask == 0] = 255 - other[mask == 0]
        cropped, whole = seen(mask, crop=True, average=True), metric()
        assert cropped.similarity(picture, other)[0] == pytest.approx(1, abs=1e-6)
        assert whole.similarity(picture, other)[0] < 0.9999

    @pytest.mark.parametrize("label", ["Crop-Feat", "Crop-Img"])
    def test_s_tian_repeats_the_authors_code(self, picture: np.ndarray, mask: np.ndarray, label: str) -> None:
        preprocessing = Preprocessing(SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        made = isolated(
            metric(preprocessing),
            "toy",
            Given(mask),
            crop=label == "Crop-Img",
            average=True,
            compat="s-tian",
        )
        cut = picture.copy()
        cut[mask == 0] = 0  # half-transparent pixels keep their colour
        pixels = preprocessing(cut)
        total = pixels.sum(0)
        ones = Image.fromarray(((total != total.min()) * 255).astype(np.uint8))
        inside = np.array(ones.resize((GRID, GRID), Image.Resampling.BILINEAR)) / 255 > 0.5
        # the labels of the code are exchanged: its Crop-Feat encodes the cut picture
        encoded = (
            encode((pixels if label == "Crop-Feat" else preprocessing(picture))[None]).patches[0].numpy()
        )
        assert 0 < inside.sum() < GRID**2
        assert made.tokens(picture).cls[0].numpy() == pytest.approx(encoded[inside].mean(0), abs=1e-6)

    def test_without_foreground_all_patches_count_and_it_is_said(self, picture: np.ndarray) -> None:
        empty = seen(np.zeros((64, 48)), crop=False, average=True)
        with pytest.warns(ForegroundWarning, match="all of its patches count"):
            tokens = empty.tokens(picture)
        full = seen(np.ones((64, 48)), crop=False, average=True).tokens(picture)
        assert torch.equal(tokens.cls, full.cls)
        assert bool(tokens.foreground.eq(1).all())

    @pytest.mark.filterwarnings("ignore::identisim.metrics.isolation.ForegroundWarning")
    @pytest.mark.parametrize("score", ["cls", "patch", "ot", "match"])
    @pytest.mark.parametrize("crop", [False, True])
    def test_an_empty_mask_gives_finite_scores(self, picture: np.ndarray, crop: bool, score: str) -> None:
        made = replace(seen(np.zeros((64, 48)), crop=crop, average=True), score=score)
        assert np.isfinite(made.similarity(picture, picture)).all()

    def test_the_fingerprint_tells_them_apart(self, mask: np.ndarray) -> None:
        variants = [
            seen(mask, crop=crop, average=average, compat=compat).fingerprint
            for crop in (False, True)
            for average in (False, True)
            for compat in (None, "s-tian")
        ]
        assert len({*variants, metric().fingerprint}) == 9

    def test_unknown_compat_is_refused(self, mask: np.ndarray) -> None:
        with pytest.raises(InputError, match="only 's-tian' is known"):
            Isolation(Given(mask), crop=True, average=True, compat="dreamsim")  # type: ignore[arg-type]


class TestMaskOfPatches:
    @pytest.mark.parametrize("mode", ["square", "pad", "crop"])
    def test_share_of_each_patch(self, mode: str) -> None:
        preprocessing = Preprocessing(64, mode=mode)  # type: ignore[arg-type]
        mask = np.zeros((64, 128), np.float32)
        mask[:, 64:] = 1
        found = preprocessing.mask(mask, (4, 4))
        expected = {
            "square": [[0, 0, 1, 1]] * 4,
            "pad": [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]],
            "crop": [[0, 0, 1, 1]] * 4,
        }[mode]
        assert found == pytest.approx(np.array(expected, np.float32), abs=1e-6)

    def test_parts_of_a_patch(self) -> None:
        mask = np.zeros((40, 40), bool)
        mask[:5, :10] = True
        assert Preprocessing(40).mask(mask, (4, 4))[0, 0] == pytest.approx(0.5)

    def test_a_grid_that_does_not_divide_the_size(self) -> None:
        found = Preprocessing(290).mask(np.ones((30, 50), np.float32), (24, 24))
        assert found == pytest.approx(np.ones((24, 24)), abs=1e-6)

    def test_values_outside_are_refused(self) -> None:
        with pytest.raises(InputError, match="float mask lies in"):
            Preprocessing(32).mask(np.full((8, 8), 2.0), (4, 4))


class TestForegrounds:
    def test_compact_is_the_packaged_network(self, picture: np.ndarray) -> None:
        from identisim.metrics.compact import load_packaged

        found = find_foreground("compact", "cpu")(None, picture)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            logits = load_packaged("cpu").foreground(pixels)[:, None]
            expected = torch.nn.functional.interpolate(logits, (64, 48), mode="bilinear")[0, 0] > 0
        assert found.dtype == np.float32 and (found == expected.numpy()).all()

    def test_alpha(self, tmp_path: Path, picture: np.ndarray) -> None:
        opacity = np.linspace(0, 255, 64 * 48).reshape(64, 48, 1).astype(np.uint8)
        Image.fromarray(np.concatenate([picture, opacity], 2)).save(tmp_path / "cut.png")
        found = find_foreground("alpha")(tmp_path / "cut.png", picture)
        assert found == pytest.approx(opacity[..., 0] / 255, abs=2 / 255)
        Image.fromarray(picture).save(tmp_path / "whole.png")
        with pytest.raises(InputError, match=r"whole\.png has no transparency"):
            find_foreground("alpha")(tmp_path / "whole.png", picture)

    def test_mask_files_nearest_path_first(self, tmp_path: Path, picture: np.ndarray) -> None:
        photos, masks = tmp_path / "photos" / "cup", tmp_path / "masks"
        photos.mkdir(parents=True)
        (masks / "cup").mkdir(parents=True)
        Image.fromarray(picture).save(photos / "1.jpg")
        inner, outer = np.zeros((64, 48), np.uint8), np.zeros((64, 48), np.uint8)
        inner[:32], outer[32:] = 255, 255
        Image.fromarray(inner).save(masks / "cup" / "1.png")
        Image.fromarray(outer).save(masks / "1.png")
        source = find_foreground(masks)
        assert (source(photos / "1.jpg", picture) == inner / 255).all()
        (masks / "cup" / "1.png").unlink()
        assert (source(photos / "1.jpg", picture) == outer / 255).all()
        (masks / "1.png").unlink()
        with pytest.raises(InputError, match=r"no mask for .*1\.jpg: looked for 1\.png"):
            source(photos / "1.jpg", picture)
        with pytest.raises(InputError, match="needs pictures that are files; got ndarray"):
            source(picture, picture)

    def test_mask_files_of_zeros_and_ones_and_of_other_sizes(
        self, tmp_path: Path, picture: np.ndarray
    ) -> None:
        bits = np.zeros((128, 96), np.uint8)
        bits[:64] = 1
        Image.fromarray(bits).save(tmp_path / "a.png")
        found = MaskFiles(tmp_path)(Path("a.jpg"), picture)
        assert found.shape == (64, 48)
        assert found[:30].min() == 1 and found[34:].max() == 0
        Image.fromarray(bits.T.copy()).save(tmp_path / "a.png")
        with pytest.raises(
            InputError, match=r"128 × 96 pixels, a\.jpg 48 × 64: they are of different shapes"
        ):
            MaskFiles(tmp_path)(Path("a.jpg"), picture)

    def test_carvekit_gets_the_settings_of_the_paper(
        self, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray
    ) -> None:
        asked: list[dict[str, object]] = []

        class HiInterface:
            def __init__(self, **settings: object) -> None:
                asked.append(settings)

            def __call__(self, pictures: list[Image.Image]) -> list[Image.Image]:
                cut = pictures[0].convert("RGBA")
                cut.putalpha(Image.new("L", cut.size, 51))
                return [cut]

        high = types.ModuleType("carvekit.api.high")
        high.HiInterface = HiInterface  # type: ignore[attr-defined]
        for name, module in (
            ("carvekit", types.ModuleType("carvekit")),
            ("carvekit.api", types.ModuleType("carvekit.api")),
            ("carvekit.api.high", high),
        ):
            monkeypatch.setitem(sys.modules, name, module)
        found = find_foreground("tracer-b7", "cpu")(None, picture)
        assert found == pytest.approx(np.full((64, 48), 0.2), abs=1e-6)
        assert asked == [{"device": "cpu", **CARVEKIT}]
        assert (CARVEKIT["seg_mask_size"], CARVEKIT["matting_mask_size"]) == (640, 2048)

    @pytest.mark.parametrize("name", ["tracer-b7", "rembg:u2net"])
    def test_a_missing_extra_is_named(
        self, name: str, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray
    ) -> None:
        for module in ("carvekit", "carvekit.api", "carvekit.api.high", "rembg"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=r"pip install 'identisim\[(carvekit|rembg)\]'"):
            find_foreground(name)(None, picture)

    def test_models_that_upload_pictures_are_refused(self) -> None:
        with pytest.raises(InputError, match="'withoutbg' is not one of those that run on this machine"):
            find_foreground("rembg:withoutbg")

    def test_unknown_name(self) -> None:
        with pytest.raises(InputError, match="unknown foreground 'sam'; expected compact, alpha"):
            find_foreground("sam")


class TestNames:
    def test_compact_with_suffixes(self, picture: np.ndarray) -> None:
        other = np.ascontiguousarray(picture[::-1])
        names = ("compact+ffa", "compact+crop", "compact+crop+ffa", "compact@96+ffa")
        made = [identisim.load_metric(name, device="cpu", foreground="whole") for name in names]
        assert [metric.name for metric in made] == list(names)
        assert len({metric.fingerprint for metric in made}) == 4
        assert all(metric.score == "cls" for metric in made)
        for metric in made:
            assert metric.similarity(picture, picture)[0] == pytest.approx(1, abs=1e-5)
            assert metric.similarity(picture, other)[0] < 1

    def test_a_whole_picture_under_ffa_is_the_mean_patch(self, picture: np.ndarray) -> None:
        averaged = identisim.load_metric("compact+ffa", device="cpu", foreground="whole")
        plain = identisim.load_metric("compact", device="cpu")
        assert isinstance(averaged, EmbeddingMetric) and isinstance(plain, EmbeddingMetric)
        expected = plain.tokens(picture).patches.mean((1, 2))
        assert torch.allclose(averaged.tokens(picture).cls, expected, atol=1e-6)
        assert averaged.dimensions() == expected.shape[1]

    def test_a_foreground_for_a_metric_of_whole_pictures_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"compact looks at whole pictures.*compact\+crop"):
            identisim.load_metric("compact", foreground="alpha")

    def test_pixels_have_no_embeddings_to_isolate(self) -> None:
        with pytest.raises(InputError, match="ssim compares pictures pair by pair"):
            identisim.load_metric("ssim+crop")


class TestCommand:
    @pytest.fixture
    def cups(self, tmp_path: Path) -> Callable[[int], Path]:
        def cup(number: int) -> Path:
            pixels = np.full((80, 60, 4), (200, 180, 40 * number, 0), np.uint8)
            pixels[20:60, 20:40, 3] = 255
            path = tmp_path / f"{number}.png"
            Image.fromarray(pixels).save(path)
            return path

        return cup

    @pytest.mark.filterwarnings("always::identisim.metrics.isolation.ForegroundWarning")
    def test_notes_reach_json_and_stderr(
        self, cups: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        masks = tmp_path / "masks"
        masks.mkdir()
        for number in (1, 2):
            Image.new("L", (60, 80), 0).save(masks / f"{number}.png")
        arguments = ["compare", str(cups(1)), str(cups(2)), "--metric", "compact+ffa", "--json"]
        assert cli.main([*arguments, "--foreground", str(masks)]) == 0
        printed = capsys.readouterr()
        assert len(json.loads(printed.out)["notes"]) == 2
        assert "no foreground found in" in printed.err
        assert cli.main([*arguments, "--foreground", "alpha"]) == 0
        assert json.loads(capsys.readouterr().out)["notes"] == []

    def test_a_gallery_of_cut_out_objects(
        self, cups: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = [cups(number) for number in range(3)]
        common = ("--foreground", "alpha")
        folder, gallery = str(paths[0].parent), str(tmp_path / "gallery")
        assert cli.main(["embed", folder, "--out", gallery, "--metric", "compact+crop+ffa", *common]) == 0
        assert cli.main(["search", str(paths[1]), "--gallery", gallery, "-k", "1", "--json", *common]) == 0
        hit = json.loads(capsys.readouterr().out.splitlines()[-1])["hits"][0]
        assert hit["path"].endswith("1.png") and hit["similarity"] == pytest.approx(1, abs=1e-5)
        assert load_image(paths[1]).shape == (80, 60, 3)

    def test_explaining_an_isolated_pair(
        self, cups: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "why.png"
        pair = [str(cups(1)), str(cups(2))]
        assert (
            cli.main(
                ["compare", *pair, "--metric", "compact+ffa", "--foreground", "alpha", "--explain", str(out)]
            )
            == 0
        )
        assert out.is_file()
        capsys.readouterr()


class TestMasksCommand:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        folder = tmp_path / "photos"
        (folder / "cups").mkdir(parents=True)
        for number in range(3):
            pixels = np.full((80, 60, 4), (200, 180, 40 * number, 0), np.uint8)
            pixels[20:60, 20:40, 3] = 255
            Image.fromarray(pixels).save(folder / "cups" / f"{number}.png")
        return folder

    def test_masks_and_sheet(self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out, sheet = tmp_path / "masks", tmp_path / "sheet.png"
        arguments = ["masks", str(photos), "--out", str(out), "--foreground", "alpha", "--sheet", str(sheet)]
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out.splitlines()[0] == "3 masks written"
        mask = np.asarray(Image.open(out / "cups" / "1.png"))
        assert mask.shape == (80, 60) and (mask[20:60, 20:40] == 255).all() and mask.sum() == 255 * 800
        # the right half of the first tile shows the object only, on the tile's grey
        drawn = np.asarray(Image.open(sheet))
        assert (drawn == 244).all(2).sum() > 10_000
        # a mask corrected by hand stays, and is what a metric then takes
        Image.fromarray(np.full((80, 60), 255, np.uint8)).save(out / "cups" / "1.png")
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out.splitlines()[0] == "0 masks written, 3 were there already"
        assert np.asarray(Image.open(out / "cups" / "1.png")).min() == 255
        used = find_foreground(out)(photos / "cups" / "1.png", np.zeros((80, 60, 3), np.uint8))
        assert used.min() == 1

    def test_failures_are_named_and_the_rest_is_done(
        self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (photos / "cups" / "1.png").write_bytes(b"no picture")
        out = tmp_path / "masks"
        assert cli.main(["masks", str(photos), "--out", str(out), "--foreground", "alpha"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "2 masks written, 1 pictures failed"
        assert lines[1].startswith(f"not made: {photos / 'cups' / '1.png'}: ")

    def test_misuse(self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        assert cli.main(["masks", str(photos), "--out", str(tmp_path / "file")]) == 2
        assert cli.main(["masks", str(photos), "--out", str(tmp_path / "m"), "--sheet", "x.jpg"]) == 2
        assert cli.main(["masks", str(tmp_path / "none"), "--out", str(tmp_path / "m")]) == 2
        assert "does not exist; expected a folder of pictures" in capsys.readouterr().err


def test_corrected_masks_are_measured_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(1)
    for identity in "ab":
        for number in range(2):
            for kind in ("photos", "masks"):
                (tmp_path / kind / identity).mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / identity / f"{number}.png")
            half = np.zeros((40, 40), np.uint8)
            half[:20] = 255
            Image.fromarray(half).save(tmp_path / "masks" / identity / f"{number}.png")
    arguments = ["evaluate", "folder", "--root", tmp_path / "photos", "--out", tmp_path / "out"]
    arguments += ["--metric", "compact@96+ffa", "--metric", "ssim", "--foreground", tmp_path / "masks"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    caches = {path.name for path in (tmp_path / "out" / "cache").glob("compact*.npy")}
    Image.fromarray(255 - half).save(tmp_path / "masks" / "a" / "0.png")
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert len({path.name for path in (tmp_path / "out" / "cache").glob("compact*.npy")} | caches) == 2
    capsys.readouterr()
