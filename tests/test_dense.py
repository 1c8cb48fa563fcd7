"""Matched patches against a slow oracle and shifted images; drawn pictures against what must be in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from identisim.dense import OBJECT, explain_pair, match_patches
from identisim.drawing import colormap, fit, font, png_target, printable, shorten
from identisim.errors import InputError
from identisim.explanation import Side
from identisim.gallery import Hit
from identisim.images import Preprocessing
from identisim.metrics.metric import EmbeddingMetric, PairMetric
from identisim.models.tokens import Tokens
from identisim.sheets import HEAD, MARGIN, TILE, retrieval_sheet

# narrow pictures on purpose
pytestmark = pytest.mark.filterwarnings("ignore::identisim.images.AspectWarning")


def random_tokens(seed: int, grid: tuple[int, int] = (6, 7), dims: int = 24, mask: bool = True) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(1, *grid, dims, generator=generator)
    foreground = torch.rand(1, *grid, generator=generator) if mask else None
    return Tokens(patches.mean((1, 2)), patches, foreground)


def slow_strengths(a: Tokens, b: Tokens) -> np.ndarray:
    """Cosine times both foregrounds, one pair of patches after the other."""
    patches_a, patches_b = a.patches[0].flatten(0, 1), b.patches[0].flatten(0, 1)
    fields = []
    for tokens in (a, b):
        mask = (
            tokens.foreground[0] if tokens.foreground is not None else torch.ones(tokens.patches.shape[1:3])
        )
        fields.append((mask / mask.max()).flatten())
    strengths = np.zeros((len(patches_a), len(patches_b)))
    for i, x in enumerate(patches_a):
        for j, y in enumerate(patches_b):
            cosine = float(x @ y / (x.norm() * y.norm()))
            strengths[i, j] = max(cosine, 0.0) * float(fields[0][i] * fields[1][j])
    return strengths


@pytest.mark.parametrize("mask", [True, False])
def test_heat_maps_equal_the_slow_oracle(mask: bool) -> None:
    a, b = random_tokens(1, mask=mask), random_tokens(2, grid=(4, 9), mask=mask)
    matches = match_patches(a, b)
    strengths = slow_strengths(a, b)
    np.testing.assert_allclose(matches.heat_a, strengths.max(1).reshape(6, 7), atol=1e-6)
    np.testing.assert_allclose(matches.heat_b, strengths.max(0).reshape(4, 9), atol=1e-6)
    for (row_a, column_a), (row_b, column_b), strength in zip(
        matches.patches_a, matches.patches_b, matches.strengths, strict=True
    ):
        assert strength == pytest.approx(strengths[row_a * 7 + column_a, row_b * 9 + column_b], abs=1e-6)


def test_a_shifted_image_matches_at_the_shift() -> None:
    a = random_tokens(3, grid=(8, 8), mask=False)
    b = Tokens(a.cls, a.patches.roll((2, 3), dims=(1, 2)))
    matches = match_patches(a, b, k=9)
    assert len(matches.patches_a) >= 5
    np.testing.assert_array_equal((matches.patches_a + np.array([2, 3])) % 8, matches.patches_b)
    np.testing.assert_allclose(matches.heat_a, 1.0, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_matches_are_mutual_spread_ordered_and_on_the_object(seed: int, k: int) -> None:
    a, b = random_tokens(seed, (7, 5)), random_tokens(seed + 1, (6, 8))
    matches = match_patches(a, b, k)
    count = len(matches.strengths)
    assert 0 < count <= k
    assert (np.diff(matches.strengths) <= 0).all()
    assert 0 < matches.strengths.min() <= matches.strengths.max() <= 1
    for tokens, at in ((a, matches.patches_a), (b, matches.patches_b)):
        assert tokens.foreground is not None
        mask = tokens.foreground[0] / tokens.foreground.max()
        assert (mask[at[:, 0], at[:, 1]] >= OBJECT).all()
        assert len({tuple(position) for position in at}) == count
        least = 0.8 * (float((mask >= OBJECT).sum()) / k) ** 0.5
        distances = np.linalg.norm(at[:, None] - at[None], axis=-1)[~np.eye(count, dtype=bool)]
        assert (distances >= least - 1e-9).all()
    swapped = match_patches(b, a, k)
    np.testing.assert_allclose(swapped.heat_a, matches.heat_b, atol=1e-6)
    np.testing.assert_array_equal(swapped.patches_a, matches.patches_b)


def test_an_empty_foreground_counts_as_unknown() -> None:
    a, b = random_tokens(5, mask=False), random_tokens(6, mask=False)
    empty = Tokens(a.cls, a.patches, torch.zeros(1, 6, 7))
    np.testing.assert_array_equal(match_patches(empty, b).heat_a, match_patches(a, b).heat_a)


def test_nothing_in_common_gives_no_match() -> None:
    a = Tokens(torch.ones(1, 2), torch.tensor([1.0, 0.0]).expand(1, 3, 3, 2))
    b = Tokens(torch.ones(1, 2), torch.tensor([-1.0, 0.0]).expand(1, 3, 3, 2))
    matches = match_patches(a, b)
    assert len(matches.patches_a) == len(matches.patches_b) == len(matches.strengths) == 0
    assert matches.heat_a.max() == 0


def test_what_cannot_be_matched_is_refused() -> None:
    a = random_tokens(1)
    with pytest.raises(InputError, match="one image each; got 2 and 1"):
        match_patches(Tokens.concatenate([a, a]), a)
    with pytest.raises(InputError, match="24 and 8 dimensions"):
        match_patches(a, random_tokens(1, dims=8))
    with pytest.raises(InputError, match="at least 1; got 0"):
        match_patches(a, a, k=0)


def grid_of_means(pixels: np.ndarray) -> Tokens:
    tiles = torch.from_numpy(pixels).unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)).permute(0, 2, 3, 1) - 0.5
    return Tokens(tiles.flatten(1), tiles)


def toy_metric(mode: str = "square", score: str = "cls") -> EmbeddingMetric:
    return EmbeddingMetric("toy", grid_of_means, Preprocessing(64, mode), "toy:feed", score)


@pytest.mark.parametrize("mode", ["square", "pad", "crop"])
@pytest.mark.parametrize("shape", [(100, 100), (60, 200), (200, 60), (1, 1), (60, 300)])
def test_patches_come_back_to_where_the_network_saw_them(mode: str, shape: tuple[int, int]) -> None:
    """Preprocess a picture of its own coordinates: the value in the middle of a patch says where that is."""
    height, width = shape
    preprocessing = Preprocessing(64, mode)
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.rint((np.arange(width) + 0.5) / width * 255)[None, :]
    ramp[..., 1] = np.rint((np.arange(height) + 0.5) / height * 255)[:, None]
    ramp[..., 2] = 255
    seen = preprocessing(ramp).reshape(3, 8, 8, 8, 8)[:, :, 3:5, :, 3:5].mean((2, 4))
    patches = np.stack(np.unravel_index(np.arange(64), (8, 8)), axis=-1)
    side = Side("", ramp, preprocessing, np.zeros((8, 8), np.float32), patches)
    picture = Image.new("RGB", (400, 240))
    centres = side.patch_centres(picture).reshape(8, 8, 2)
    inside = seen[2] > 0.99
    # the last half pixel of a ramp is flat, and a resize smears over the filter's support
    bound = 255 * max(0.03, 0.5 / min(shape))
    assert inside.any()
    assert np.abs(seen[0] * 255 - centres[..., 0] / 400 * 255)[inside].max() < bound
    assert np.abs(seen[1] * 255 - centres[..., 1] / 240 * 255)[inside].max() < bound


@pytest.mark.parametrize("mode", ["square", "pad", "crop"])
def test_heat_lies_over_what_was_seen(mode: str) -> None:
    pixels = np.full((100, 200, 3), 120, np.uint8)
    side = Side("", pixels, Preprocessing(64, mode), np.ones((8, 8), np.float32), np.zeros((0, 2), int))
    overlay = np.asarray(side.heat_overlay(Image.fromarray(pixels)))
    coloured = (overlay != 120).any(-1)
    assert coloured[:, 60:140].all()
    assert coloured[:, :40].all() == coloured[:, 160:].all() == (mode != "crop")


@pytest.mark.parametrize("mode", ["square", "pad", "crop"])
@pytest.mark.parametrize("shapes", [((90, 120), (300, 100)), ((1, 1), (5, 4000)), ((4000, 5), (700, 900))])
def test_explanations_of_any_shape_are_drawn_whole(
    tmp_path: Path, mode: str, shapes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes)
    out = explain_pair(a, b, toy_metric(mode), tmp_path / "x.png")
    with Image.open(out) as picture:
        assert 900 <= picture.width <= 1500
        assert picture.height <= 1200
        margin = np.asarray(picture)[:, -20:]
    assert (margin == 255).all()


def test_explanation_shows_both_pictures_and_states_the_score_of_the_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    import identisim.dense as dense

    original = dense.draw_explanation

    def note(a: Side, b: Side, *, title: str, subtitle: str) -> Image.Image:
        titles.extend([title, subtitle, a.caption, b.caption])
        return original(a, b, title=title, subtitle=subtitle)

    monkeypatch.setattr(dense, "draw_explanation", note)
    red, blue = np.full((80, 80, 3), (200, 0, 0), np.uint8), np.full((80, 80, 3), (0, 0, 200), np.uint8)
    Image.fromarray(blue).save(tmp_path / "blue.png")
    metric = toy_metric(score="joint")
    out = explain_pair(red, tmp_path / "blue.png", metric, tmp_path / "x.png")
    expected = float(metric.similarity(red, tmp_path / "blue.png")[0])
    assert titles[0] == f"similarity {expected:.4f}"
    assert "joint" in titles[1]
    assert "toy:feed" in titles[1]
    assert titles[2:] == ["A", "B  blue.png"]
    with Image.open(out) as picture:
        pixels = np.asarray(picture).reshape(-1, 3)
    for colour in ((200, 0, 0), (0, 0, 200)):
        assert (pixels == colour).all(-1).sum() > 100_000


def test_a_metric_without_patches_is_refused(tmp_path: Path) -> None:
    pair = PairMetric("pair", lambda _a, _b: 0.0, "pair:0")
    with pytest.raises(InputError, match=r"pair has no patches to match; .*such as compact"):
        explain_pair(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), pair, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name, words in (
        ("x.jpg", "ends in .png"),
        ("no/x.png", "does not exist"),
        ("folder.png", "is a folder"),
    ):
        with pytest.raises(InputError, match=words):
            png_target(tmp_path / name)


def make_hits(folder: Path, identities: list[str | None], same: int | None = None) -> list[Hit]:
    hits = []
    for index, identity in enumerate(identities):
        path = folder / f"{index}.png"
        Image.fromarray(np.full((50, 30 + 10 * index, 3), 20 * index, np.uint8)).save(path)
        hits.append(Hit(path, 1.0 - index / 10, index + 1, identity, index == same))
    return hits


def green_frames(sheet: Path) -> int:
    """How many tiles have a green frame, by the pixels of their upper edges."""
    pixels = np.asarray(Image.open(sheet))
    green = (pixels == (24, 150, 72)).all(-1).sum()
    per_frame = (TILE + 8) ** 2 - TILE**2
    assert green % per_frame == 0
    return int(green // per_frame)


def test_sheet_frames_the_hits_of_the_same_identity(tmp_path: Path) -> None:
    hits = make_hits(tmp_path, ["mug", "mug", "cup", None, "mug", "cup", "cup"])
    named = retrieval_sheet(hits[0].path, hits, tmp_path / "a.png", identity="mug")
    assert green_frames(named) == 3
    assert green_frames(retrieval_sheet(hits[0].path, hits, tmp_path / "b.png")) == 0


def test_sheet_learns_the_identity_from_the_hit_that_is_the_query(tmp_path: Path) -> None:
    hits = make_hits(tmp_path, ["cup", "mug", "mug"], same=1)
    assert green_frames(retrieval_sheet(hits[1].path, hits, tmp_path / "a.png")) == 2


def test_sheet_wraps_and_shows_the_query_at_the_left(tmp_path: Path) -> None:
    hits = make_hits(tmp_path, [None] * 12)
    query = np.full((40, 40, 3), (0, 0, 200), np.uint8)
    heights = []
    for count in (1, 5, 6, 12):
        with Image.open(retrieval_sheet(query, hits[:count], tmp_path / "s.png")) as sheet:
            heights.append(sheet.height)
            assert sheet.getpixel((MARGIN + TILE // 2, HEAD + TILE // 2)) == (0, 0, 200)
    assert heights[0] == heights[1] < heights[2] < heights[3]
    assert heights[3] - heights[2] == heights[2] - heights[1]


def test_a_hit_that_is_gone_is_drawn_as_such(tmp_path: Path) -> None:
    hits = make_hits(tmp_path, ["mug", "mug"])
    full = retrieval_sheet(hits[0].path, hits, tmp_path / "full.png").read_bytes()
    hits[1].path.unlink()
    sheet = retrieval_sheet(hits[0].path, hits, tmp_path / "gone.png", identity="mug")
    assert sheet.read_bytes() != full
    assert green_frames(sheet) == 2


def test_sheet_without_hits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        retrieval_sheet(np.zeros((8, 8, 3), np.uint8), [], tmp_path / "x.png")


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=40), st.integers(8, 24), st.integers(20, 300))
def test_shortened_text_fits_and_keeps_both_ends(text: str, size: int, width: int) -> None:
    shown = shorten(text, size, width)
    plain = printable(text)
    assert shown == "…" or font(size).getlength(shown) <= width
    if shown != plain and shown != "…":
        head, tail = shown.split("…")
        assert plain.startswith(head)
        assert plain.endswith(tail)
        assert 0 <= len(head) - len(tail) <= 1


def test_printable_keeps_what_the_font_can_draw() -> None:
    assert printable("Crème brûlée 中·~") == "Creme brulee ?·~"


def test_colormap_is_monotonous_in_lightness_between_its_ends() -> None:
    colours = colormap(np.linspace(0, 1, 101)).astype(float)
    lightness = colours @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
    assert colormap(np.array([0.0, 1.0, -3.0, 9.0])).tolist() == [
        [68, 1, 84],
        [253, 231, 37],
        [68, 1, 84],
        [253, 231, 37],
    ]


def test_fit_keeps_the_aspect_inside_the_box() -> None:
    assert fit(np.zeros((10, 20, 3), np.uint8), 400, 400).size == (400, 200)
    assert fit(np.zeros((4000, 2, 3), np.uint8), 640, 420).size == (1, 420)
