from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from identisim.errors import InputError
from identisim.models import compact as compact_model
from identisim.models.compact import CompactNet, cell_features, opponent
from identisim.models.weights import save_weights
from identisim.training.augment import augment, object_box
from identisim.training.losses import (
    best_match_similarity,
    contrastive_loss,
    foreground_loss,
    patch_masks,
    pooled_similarity,
    sample_patches,
    take_patches,
)
from toy_shards import toy_shard

SMALL: dict[str, Any] = {"widths": (8, 12, 16), "depths": (1, 1, 1)}


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


def test_foreground_loss_is_cross_entropy_plus_one_minus_soft_jaccard() -> None:
    logits, truth = torch.randn(3, 4, 5), torch.rand(3, 4, 5)
    expected = 0.0
    for found, wanted in zip(logits.sigmoid(), truth, strict=True):
        entropy = -(wanted * found.log() + (1 - wanted) * (1 - found).log()).mean()
        common = (found * wanted).sum()
        jaccard = (common + 1) / (found.sum() + wanted.sum() - common + 1)
        expected += float(entropy + 1 - jaccard) / 3
    assert foreground_loss(logits, truth).item() == pytest.approx(expected, rel=1e-5)
    perfect = 30 * (truth > 0.5).float() - 15
    assert foreground_loss(perfect, (truth > 0.5).float()).item() == pytest.approx(0, abs=1e-4)


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


@pytest.mark.parametrize("stage", ["occlude", "recolour", "soften", "noise", "compress"])
def test_a_stage_can_be_left_out(stage: str) -> None:
    from identisim.training.augment import STAGES

    pixels = torch.from_numpy(toy_shard()[:, 0].reshape(-1, 32, 32, 4))

    def drawn(omit: set[str]) -> Tensor:
        return augment(pixels, 32, torch.Generator().manual_seed(0), omit=omit)[0]

    others = {name for name in STAGES[1:] if name != stage}
    assert not torch.equal(drawn(others), drawn({*others, stage}))
    with pytest.raises(InputError, match="cannot omit"):
        drawn({"reframe"})


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


# ---- metric


def test_the_metric_compares_images_with_given_weights(tmp_path: Path) -> None:
    from identisim.metrics.compact import build_compact

    path = save_weights(CompactNet(), tmp_path / "net.safetensors")
    metric = build_compact(path, device="cpu")
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(2))
    same, different = metric.similarity([a, a], [a, b])
    assert same == pytest.approx(1, abs=1e-5)
    assert different < same
    assert metric.similarity(a, b)[0] == different
    assert metric.fingerprint.startswith("compact:")
    assert metric.fingerprint == build_compact(path).fingerprint
    other = build_compact(save_weights(CompactNet(), tmp_path / "other.safetensors"))
    assert other.fingerprint != metric.fingerprint


def test_the_global_similarity_weighs_its_two_halves(tmp_path: Path) -> None:
    from identisim.metrics.compact import build_compact
    from identisim.models.compact import APPEARANCE_SHARE

    net = CompactNet().eval()
    metric = build_compact(save_weights(net, tmp_path / "net.safetensors"), device="cpu")
    metric = replace(metric, score="cls")
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
        build_compact(save_weights(CompactNet(**SMALL), tmp_path / "small.safetensors"))
    with pytest.raises(InputError, match="'nonsense'"):
        build_compact(save_weights(CompactNet(), tmp_path / "net.safetensors"), device="nonsense")


def test_the_packaged_weights_are_those_declared() -> None:
    import hashlib
    from importlib import resources

    content = resources.files("identisim.models").joinpath("compact.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == compact_model.WEIGHTS_SHA256
    assert len(content) <= 25e6
