from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from identisim.errors import InputError
from identisim.models import compact as compact_model
from identisim.models.compact import CompactNet, cell_features, centre_prior, opponent
from identisim.training.augment import augment, object_box
from identisim.training.compact import CompactTraining, export, learning_rate, train_compact
from identisim.training.losses import (
    best_match_similarity,
    contrastive_loss,
    patch_masks,
    pooled_similarity,
    sample_patches,
    take_patches,
)
from identisim.training.shards import ShardFolder, open_shard

SMALL = {"widths": (8, 12, 16), "depths": (1, 1, 1)}
TOY = CompactTraining(steps=3, size=32, families=3, query_patches=4, key_patches=8, **SMALL)  # type: ignore[arg-type]


def toy_shard(
    families: int = 5, members: int = 3, views: int = 4, size: int = 32, seed: int = 0
) -> np.ndarray:
    """Discs of one colour per object on noise, at random places."""
    rng = np.random.default_rng(seed)
    shard = np.zeros((families, members, views, size, size, 4), np.uint8)
    rows, columns = np.mgrid[:size, :size]
    for index in np.ndindex(families, members, views):
        colour = np.random.default_rng([seed, *index[:2]]).integers(0, 256, 3)
        row, column = rng.uniform(0.35, 0.65, 2) * size
        inside = np.hypot(rows - row, columns - column) < size * rng.uniform(0.2, 0.3)
        shard[index][..., :3] = np.where(inside[..., None], colour, rng.integers(0, 256, (size, size, 3)))
        shard[index][..., 3] = 255 * inside
    return shard


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "shard-00000.npy", toy_shard())
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- network


def test_cells_of_a_flat_image_hold_its_colour_and_no_gradient() -> None:
    image = torch.tensor([0.6, 0.3, 0.1])[None, :, None, None].expand(1, 3, 32, 48)
    cells = cell_features(image)
    assert cells.shape == (1, 16, 4, 6)
    expected = torch.tensor([1 / 3, 0.3, 0.35])
    torch.testing.assert_close(cells[0, :3, 1, 1], expected)
    torch.testing.assert_close(cells[0, 3:6], torch.full((3, 4, 6), 0.01))
    torch.testing.assert_close(cells[0, 6:8, 2, 2], expected[1:] / (1 / 3 + 0.1))
    torch.testing.assert_close(cells[0, 8:], torch.full((8, 4, 6), 0.01))


def test_cells_match_a_loop_over_pixels_of_each_cell() -> None:
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    cells = cell_features(image)
    colours = opponent(image)[0].numpy()
    for row, column in np.ndindex(2, 2):
        block = colours[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(3, -1)
        np.testing.assert_allclose(cells[0, :3, row, column], block.mean(1))
        np.testing.assert_allclose(cells[0, 3:6, row, column], np.sqrt(block.var(1) + 1e-4))


@pytest.mark.parametrize(("turns", "strongest"), [(0, 0), (1, 6), (2, 4), (3, 2)])
def test_gradient_energies_follow_the_direction_of_a_ramp(turns: int, strongest: int) -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).rot90(turns, (2, 3))
    assert cell_features(ramp)[0, 8:, 1:-1, 1:-1].argmax(0).eq(strongest).all()


def test_cells_have_finite_gradients_on_flat_and_black_images() -> None:
    for value in (0.0, 0.5):
        image = torch.full((1, 3, 32, 32), value, requires_grad=True)
        cell_features(image).sum().backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()


def test_whitened_patches_are_uncorrelated_and_of_equal_variance() -> None:
    images = torch.rand(64, 3, 64, 64) * torch.rand(64, 3, 1, 1)
    net = CompactNet(**SMALL)
    net.start_from(images)
    patches = net.cells(cell_features(images)).permute(0, 2, 3, 1).flatten(0, 2).double()
    torch.testing.assert_close(torch.cov(patches.T), torch.eye(64, dtype=torch.float64), atol=0.03, rtol=0)
    torch.testing.assert_close(patches.mean(0), torch.zeros(64, dtype=torch.float64), atol=1e-2, rtol=0)


def test_patches_start_as_the_linear_map_of_the_cells_alone() -> None:
    net = CompactNet(**SMALL).eval()
    images = torch.rand(2, 3, 64, 64)
    before = net(images).patches
    with torch.no_grad():
        for parameter in net.trunk.parameters():
            parameter.normal_()
    assert torch.equal(net(images).patches, before)


def test_every_weight_receives_a_gradient() -> None:
    """A block that starts at exactly zero on both sides of a ReLU would never learn."""
    net = CompactNet(widths=(8, 12, 16), depths=(1, 1, 1))
    net.start_from(torch.rand(16, 3, 64, 64))
    torch.nn.init.normal_(net.refine.weight, std=0.1)
    tokens, logits = net.forward_with_mask(torch.rand(8, 3, 64, 64))
    (tokens.cls.square().cumsum(1).sum() + tokens.patches.pow(3).sum() + logits.sum()).backward()
    # BatchNorm removes the bias of the cells
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_training_weighs_patches_by_the_true_mask_until_it_trusts_the_one_found() -> None:
    net = CompactNet(**SMALL).eval()
    images, mask = torch.rand(2, 3, 64, 64), torch.rand(2, 8, 8)
    found = net(images)
    guided = net.forward_with_mask(images, mask, trust=0.0)[0]
    trusting = net.forward_with_mask(images, mask, trust=1.0)[0]
    assert guided.foreground is not None and found.foreground is not None
    torch.testing.assert_close(guided.foreground, mask)
    torch.testing.assert_close(trusting.cls, found.cls)
    assert not torch.allclose(guided.cls, found.cls)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (128, 128), (48, 80)])
def test_tokens_have_the_stated_shapes_and_ranges(height: int, width: int) -> None:
    tokens = CompactNet(**SMALL).eval()(torch.rand(2, 3, height, width))
    assert tokens.cls.shape == (2, 384)
    assert tokens.patches.shape == (2, height // 8, width // 8, 64)
    assert tokens.foreground is not None
    assert tokens.foreground.shape == (2, height // 8, width // 8)
    assert ((tokens.foreground >= 0) & (tokens.foreground <= 1)).all()
    halves = tokens.cls.view(2, 2, 192).norm(dim=2)
    torch.testing.assert_close(halves, torch.ones(2, 2))


@pytest.mark.parametrize("shape", [(1, 3, 40, 32), (1, 4, 32, 32), (3, 32, 32)])
def test_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"multiple of 16; got \("):
        CompactNet(**SMALL)(torch.rand(shape))


def test_the_metric_is_differentiable_in_the_pixels() -> None:
    net = CompactNet(**SMALL).eval()
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    tokens = net(image)
    (tokens.cls.sum() + tokens.patches.sum()).backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_one_image_gets_the_same_features_in_any_batch() -> None:
    net = CompactNet(**SMALL).eval()
    images = torch.rand(5, 3, 64, 64)
    together, alone = net(images), net(images[3:4])
    torch.testing.assert_close(together.cls[3:4], alone.cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.patches[3:4], alone.patches, atol=1e-5, rtol=1e-4)


def test_the_centre_prior_is_one_in_the_middle_and_symmetric() -> None:
    prior = centre_prior(5, 9, 0.7)
    assert prior.shape == (5, 9)
    assert prior[2, 4] == 1
    torch.testing.assert_close(prior, prior.flip(0, 1))
    assert prior[0, 0] == prior.min()


# ---- losses


def slow_contrastive(similarity: Tensor, identity: list[int], temperature: float) -> float:
    anchors = []
    for i, mine in enumerate(identity):
        others = [j for j in range(len(identity)) if j != i]
        total = np.log(sum(np.exp(similarity[i, j].item() / temperature) for j in others))
        positives = [j for j in others if identity[j] == mine]
        anchors.append(np.mean([total - similarity[i, j].item() / temperature for j in positives]))
    return float(np.mean(anchors))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.lists(st.integers(2, 4), min_size=2, max_size=4))
def test_contrastive_loss_equals_a_loop_over_anchors(seed: int, sizes: list[int]) -> None:
    identity = [number for number, size in enumerate(sizes) for _ in range(size)]
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(len(identity), len(identity), generator=generator, dtype=torch.float64) * 2 - 1
    loss = contrastive_loss(similarity, torch.tensor(identity), 0.1)
    assert loss.item() == pytest.approx(slow_contrastive(similarity, identity, 0.1))


def test_contrastive_loss_falls_when_positives_rise() -> None:
    identity = torch.tensor([0, 0, 1, 1])
    positive = (identity[:, None] == identity).float()
    losses = [contrastive_loss(positive * gap, identity, 0.1).item() for gap in (-1.0, 0.0, 1.0)]
    assert losses[0] > losses[1] > losses[2] > 0
    assert losses[1] == pytest.approx(np.log(3))


def test_best_match_similarity_equals_loops() -> None:
    queries = torch.nn.functional.normalize(torch.randn(3, 4, 6), dim=2)
    keys = torch.nn.functional.normalize(torch.randn(3, 5, 6), dim=2)
    similarity = best_match_similarity(queries, keys)
    for i, j in np.ndindex(3, 3):
        expected = np.mean([max((q @ k).item() for k in keys[j]) for q in queries[i]])
        assert similarity[i, j].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(best_match_similarity(keys, keys).diagonal(), torch.ones(3))


def test_pooled_similarity_ignores_patches_without_weight() -> None:
    patches = torch.nn.functional.normalize(torch.randn(2, 3, 4), dim=2)
    weights = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    expected = (patches[0, 0] @ patches[1, 1]).item()
    assert pooled_similarity(patches, weights)[0, 1].item() == pytest.approx(expected, abs=1e-6)


def test_sampled_patches_are_distinct_and_follow_the_weights() -> None:
    weights = torch.zeros(200, 10)
    weights[:, :3] = 1.0
    drawn = sample_patches(weights, 3, torch.Generator().manual_seed(1))
    assert all(len(set(row.tolist())) == 3 for row in drawn)
    assert (drawn < 3).float().mean() > 0.98
    patches = torch.arange(20.0).view(1, 10, 2)
    assert take_patches(patches, torch.tensor([[7, 2]])).tolist() == [[[14.0, 15.0], [4.0, 5.0]]]


def test_patch_masks_are_the_share_of_object_pixels() -> None:
    masks = torch.zeros(1, 16, 16)
    masks[:, :, :12] = 1
    assert patch_masks(masks, 8).tolist() == [[[1.0, 0.5], [1.0, 0.5]]]


# ---- augmentation


def test_augmented_images_keep_shape_range_and_seed() -> None:
    pixels = torch.from_numpy(toy_shard()[:, :, :2].reshape(-1, 32, 32, 4))
    images, masks = augment(pixels, 48, torch.Generator().manual_seed(3))
    again, _ = augment(pixels, 48, torch.Generator().manual_seed(3))
    other, _ = augment(pixels, 48, torch.Generator().manual_seed(4))
    assert images.shape == (30, 3, 48, 48)
    assert masks.shape == (30, 48, 48)
    assert images.min() >= 0 and images.max() <= 1 and masks.min() >= 0 and masks.max() <= 1
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_the_mask_moves_with_the_object() -> None:
    """White disc on black: wherever the picture is clearly white the mask says object, except under an occluder."""
    pixels = torch.from_numpy(toy_shard(families=20)[:, 0, 0]).clone()
    pixels[..., :3] = pixels[..., 3:]
    images, masks = augment(pixels, 32, torch.Generator().manual_seed(0))
    white, dark = images.mean(1) > 0.55, images.mean(1) < 0.1
    assert masks[white].mean() > 0.85
    assert masks[dark].mean() < 0.1


def test_object_boxes_are_found_and_an_empty_mask_is_the_whole_picture() -> None:
    masks = torch.zeros(2, 10, 10)
    masks[0, 2:4, 5:10] = 1
    middle, side = object_box(masks)
    torch.testing.assert_close(middle, torch.tensor([[0.5, -0.4], [0.0, 0.0]]))
    torch.testing.assert_close(side, torch.tensor([0.5, 1.0]))


def test_small_objects_are_framed_larger() -> None:
    pixels = torch.zeros(40, 64, 64, 4, dtype=torch.uint8)
    pixels[:, 4:14, 45:55] = 255
    _, masks = augment(pixels, 64, torch.Generator().manual_seed(0))
    before, after = (10 / 64) ** 2, masks.mean((1, 2))
    assert after.median() > 2 * before


# ---- shards


def test_sampled_batches_hold_all_members_with_the_same_views(shards: Path) -> None:
    shard = open_shard(shards / "shard-00000.npy")
    batch = ShardFolder(shards).sample(np.random.default_rng(0), families=4, views=2)
    assert batch.pixels.shape == (4 * 3 * 2, 32, 32, 4)
    assert len(set(batch.family)) == 4
    assert len(set(batch.identity)) == 12
    for start in range(0, 24, 6):
        family = batch.family[start]
        views = [
            next(
                v
                for v in range(4)
                if np.array_equal(shard[family, member, v], batch.pixels[start + 2 * member + k])
            )
            for member in range(3)
            for k in range(2)
        ]
        assert views[:2] == views[2:4] == views[4:]
        assert views[0] != views[1]


def test_a_new_shard_is_taken_in_and_the_held_out_one_never(shards: Path) -> None:
    folder = ShardFolder(shards)
    np.save(shards / "held-00000.npy", toy_shard(families=7))
    np.save(shards / "shard-00001.npy", toy_shard(families=2, seed=1))
    assert folder.families == 5
    folder.refresh()
    assert folder.families == 7
    families = {
        f for seed in range(20) for f in folder.sample(np.random.default_rng(seed), 3, 2).family.tolist()
    }
    assert families == set(range(7))


def test_shard_errors_say_what_came_and_what_was_expected(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(InputError, match=r"no shard-\*\.npy"):
        ShardFolder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"9 families was asked for, but .* holds 5"):
        ShardFolder(shards).sample(np.random.default_rng(0), 9, 2)
    with pytest.raises(InputError, match="5 views"):
        ShardFolder(shards).sample(np.random.default_rng(0), 2, 5)
    np.save(shards / "shard-00001.npy", np.zeros((2, 3, 32, 32, 4), np.uint8))
    with pytest.raises(InputError, match=r"uint8 \(2, 3, 32, 32, 4\); expected uint8 \(families"):
        ShardFolder(shards)
    content = (shards / "shard-00000.npy").read_bytes()
    (shards / "shard-00001.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a readable shard"):
        ShardFolder(shards)


# ---- training


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "losses.jsonl").read_text().splitlines()]


def test_the_same_seed_gives_the_same_losses_and_weights(shards: Path, tmp_path: Path) -> None:
    first = train_compact(TOY, shards, tmp_path / "a")
    second = train_compact(TOY, shards, tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert len(losses(tmp_path / "a")) == 3
    assert first.read_bytes() == second.read_bytes()


def test_a_run_cut_short_continues_as_if_it_had_not_been(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from identisim.training import compact as training

    config = replace(TOY, steps=4, checkpoint_seconds=0.0)
    whole = train_compact(config, shards, tmp_path / "whole")
    step = training.train_step

    def dying(config: CompactTraining, state: training.TrainingState, *rest: object) -> dict[str, float]:
        if state.step == 2:
            raise KeyboardInterrupt
        return step(config, state, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train_compact(config, shards, tmp_path / "cut")
    monkeypatch.setattr(training, "train_step", step)
    resumed = train_compact(config, shards, tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert resumed.read_bytes() == whole.read_bytes()
    with pytest.raises(InputError, match="other settings"):
        train_compact(replace(config, learning_rate=1e-3), shards, tmp_path / "cut")


def test_training_finds_discs_and_tells_colours_apart(shards: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    config = replace(TOY, steps=40, families=5, warm_up=0.1, first_temperature=0.2, temperature=0.2)
    train_compact(config, shards, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    for name, least in (("cls", 0.85), ("mask", 0.85)):
        values = [row[name] for row in rows]
        assert np.mean(values[-6:]) < least * np.mean(values[:6]), name


def test_the_clock_ends_a_run_and_held_out_figures_are_logged(shards: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    np.save(shards / "held-00000.npy", toy_shard(seed=9))
    config = replace(TOY, steps=None, minutes=0.01, held_seconds=0.0)
    train_compact(config, shards, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert 0 <= rows[-1]["held_top1"] <= 1
    assert 0 <= rows[-1]["held_siblings"] <= 1
    assert rows[-1]["seconds"] < 10


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = CompactTraining(warm_up=0.1)
    rates = [learning_rate(config, done) for done in np.linspace(0, 1, 101)]
    assert np.argmax(rates) == 10
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


# ---- metric


def test_the_metric_compares_images_with_given_weights(tmp_path: Path) -> None:
    from identisim.metrics.compact import build_compact

    path = export(CompactNet(), tmp_path / "net.safetensors")
    metric = build_compact(path, device="cpu")
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(2))
    same, different = metric.similarity([a, a], [a, b])
    assert same == pytest.approx(1, abs=1e-5)
    assert different < same
    assert metric.similarity(a, b)[0] == different
    assert metric.fingerprint.startswith("compact:")
    assert metric.fingerprint == build_compact(path).fingerprint
    other = build_compact(export(CompactNet(), tmp_path / "other.safetensors"))
    assert other.fingerprint != metric.fingerprint


def test_the_global_similarity_weighs_its_two_halves(tmp_path: Path) -> None:
    from identisim.metrics.compact import APPEARANCE_SHARE, build_compact

    net = CompactNet().eval()
    metric = build_compact(export(net, tmp_path / "net.safetensors"), device="cpu")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) // (1 + i) for i in range(2)]
    pixels = torch.stack([torch.from_numpy(metric.preprocessing(image)) for image in images])
    with torch.inference_mode():
        appearance, residuals = net(pixels).cls.chunk(2, dim=1)
    expected = (
        APPEARANCE_SHARE * appearance[0] @ appearance[1]
        + (1 - APPEARANCE_SHARE) * residuals[0] @ residuals[1]
    )
    assert metric.similarity(*images)[0] == pytest.approx(expected.item(), abs=1e-5)


def test_metric_errors_name_the_fault(tmp_path: Path) -> None:
    from identisim.metrics.compact import build_compact

    with pytest.raises(InputError, match=r"absent\.safetensors"):
        build_compact(tmp_path / "absent.safetensors")
    with pytest.raises(InputError):
        build_compact(export(CompactNet(**SMALL), tmp_path / "small.safetensors"))
    with pytest.raises(InputError, match="'nonsense'"):
        build_compact(export(CompactNet(), tmp_path / "net.safetensors"), device="nonsense")


def test_the_packaged_weights_are_those_declared() -> None:
    import hashlib
    from importlib import resources

    content = resources.files("identisim.models").joinpath("compact.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == compact_model.WEIGHTS_SHA256
    assert len(content) <= 25e6
