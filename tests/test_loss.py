"""The loss: values of the public metric, gradients against finite differences, a network that nobody can change."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import identisim
from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.loss import IdentityLoss
from identisim.metrics.ffa import isolated
from identisim.metrics.foregrounds import find_foreground
from identisim.metrics.metric import SCORES, EmbeddingMetric
from identisim.metrics.network import NetworkEncoder, network_of
from identisim.models.checkpoints import load_backbone
from identisim.models.dreamsim import Branch, DreamSim
from identisim.models.idsim import IDSim
from identisim.models.tokens import Tokens
from toy_backbones import DINOV2, DINOV3, Toy, meta_state, picture

IMAGENET = Preprocessing(32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
COMPACT = identisim.load_metric("compact", device="cpu")


def backbone(folder: Path, toy: Toy, feature: str = "final") -> nn.Module:
    torch.save(meta_state(toy), folder / "toy.pth")
    return load_backbone(folder / "toy.pth", feature)  # type: ignore[arg-type]


def toy_metric(net: nn.Module, preprocessing: Preprocessing = IMAGENET) -> EmbeddingMetric:
    return EmbeddingMetric("toy", NetworkEncoder(net, "cpu"), preprocessing, "toy:0")


@pytest.fixture
def dinov2(tmp_path: Path) -> EmbeddingMetric:
    return toy_metric(backbone(tmp_path, DINOV2))


def smooth(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A picture (H, W, 3) uint8 without the finest detail, as photographs are."""
    coarse = torch.from_numpy(picture(seed, 6, 6)).permute(2, 0, 1)[None].float()
    large = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return large[0].permute(1, 2, 0).round().byte().numpy()


def tensor(*pictures: np.ndarray) -> Tensor:
    """Pictures as (B, 3, H, W) in [0, 1]."""
    return torch.stack([torch.from_numpy(one.copy()).permute(2, 0, 1).float() / 255 for one in pictures])


@pytest.mark.parametrize("score", SCORES)
def test_it_is_one_minus_the_public_similarity_of_compact(score: str) -> None:
    a, b = [smooth(0, 90, 120), smooth(1, 90, 120)], [smooth(2, 300, 250), smooth(1, 300, 250)]
    loss = IdentityLoss(COMPACT, score, reduction="none")(tensor(*a), tensor(*b))
    expected = 1 - replace(COMPACT, score=score).similarity(a, b)  # type: ignore[type-var]
    # the public path rounds the resized picture to grey levels
    np.testing.assert_allclose(loss.detach(), expected, atol=2e-3)
    assert loss.shape == (2,) and float(abs(loss[0] - loss[1])) > 0.01


def test_it_is_one_minus_the_public_similarity_of_every_kind_of_network(tmp_path: Path) -> None:
    last = [backbone(tmp_path, toy, "last-block") for toy in (DINOV2, DINOV3)]
    branches = [Branch(tmp_path, "last-block", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))] * 2
    networks = {
        "dinov2": (backbone(tmp_path, DINOV2), IMAGENET),
        "dinov3": (backbone(tmp_path, DINOV3), IMAGENET),
        "idsim": (IDSim(last[1], hidden=16), IMAGENET),  # type: ignore[arg-type]
        "dreamsim": (DreamSim(last, branches), Preprocessing(32)),  # type: ignore[arg-type]
    }
    for name, (network, preprocessing) in networks.items():
        metric = toy_metric(network, preprocessing)
        a, b = smooth(0, 40, 50), smooth(1, 60, 32)
        expected = 1 - metric.similarity(a, b)[0]
        first = tensor(a).requires_grad_()
        loss = IdentityLoss(metric)(first, tensor(b))
        assert loss.item() == pytest.approx(expected, abs=5e-3) and expected > 0.02, name
        loss.backward()
        assert float(first.grad.abs().max()) > 0, name  # type: ignore[union-attr]


@pytest.mark.parametrize("score", [score for score in SCORES if score != "ot"])
def test_the_gradient_is_that_of_finite_differences(tmp_path: Path, score: str) -> None:
    metric = toy_metric(backbone(tmp_path, DINOV2).double())
    loss = IdentityLoss(metric, score)
    a, b = tensor(smooth(0, 40, 44)).double(), tensor(smooth(1, 36, 40)).double()
    a, b = (0.1 + 0.8 * side for side in (a, b))  # away from where preprocessing clips
    a.requires_grad_(), b.requires_grad_()
    loss(a, b).backward()
    for side in (a, b):
        generator = torch.Generator().manual_seed(5)
        for _ in range(2):
            direction = torch.randn(side.shape, generator=generator).double()
            step = 1e-5 * direction
            with torch.no_grad():
                ends = [loss(*(x + s * step if x is side else x for x in (a, b))) for s in (1, -1)]
            difference = float(ends[0] - ends[1]) / 2e-5
            assert float((side.grad * direction).sum()) == pytest.approx(difference, rel=2e-4, abs=1e-7)  # type: ignore[operator]


def test_a_step_against_the_gradient_of_ot_lowers_it(dinov2: EmbeddingMetric) -> None:
    # it holds the potentials fixed, as geomloss does: a direction of descent, not the slope of unconverged values
    loss, other = IdentityLoss(dinov2, "ot"), tensor(smooth(1))
    pixels = (0.1 + 0.8 * tensor(smooth(0))).requires_grad_()
    before = loss(pixels, other)
    before.backward()
    assert pixels.grad is not None
    step = 0.05 * pixels.grad / pixels.grad.norm()
    assert before.item() - loss(pixels.detach() - step, other).item() > 1e-4


@pytest.mark.parametrize("name", ["compact", "toy"])
def test_descent_on_the_pixels_raises_the_public_similarity(name: str, dinov2: EmbeddingMetric) -> None:
    metric = COMPACT if name == "compact" else dinov2
    start, target = smooth(3, 48, 48), smooth(4, 48, 48)
    loss = IdentityLoss(metric)
    pixels = tensor(start).requires_grad_()
    optimiser = torch.optim.Adam([pixels], lr=0.02)
    for _ in range(6):
        optimiser.zero_grad()
        loss(pixels.clamp(0, 1), tensor(target)).backward()
        optimiser.step()
    moved = (pixels.detach()[0].clamp(0, 1) * 255).round().byte()
    before, after = (float(metric.similarity([x], [target])[0]) for x in (start, moved))
    assert after > before + 0.02


def test_no_optimiser_and_no_checkpoint_sees_the_network(dinov2: EmbeddingMetric) -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "loss": IdentityLoss(dinov2)})
    assert sorted(model.state_dict()) == ["head.bias", "head.weight"]
    assert len(list(model.parameters())) == 2 and len(list(model.modules())) == 3
    network = network_of(dinov2)
    before = copy.deepcopy(network.state_dict())
    model.train().requires_grad_(True)
    assert not any(module.training for module in network.modules())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.5)
    drawn = tensor(smooth(0, 32, 32)).requires_grad_()
    (model["loss"](drawn, tensor(smooth(1, 32, 32))) + model["head"].weight.sum()).backward()
    optimiser.step()
    assert drawn.grad is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_halving_the_model_around_it_changes_no_value(dinov2: EmbeddingMetric) -> None:
    a, b = tensor(smooth(0)), tensor(smooth(1))
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "loss": IdentityLoss(dinov2)})
    before = model["loss"](a, b)
    model.half().bfloat16().to(torch.float16, memory_format=torch.channels_last)
    assert model["head"].weight.dtype == torch.float16
    assert torch.equal(model["loss"](a, b), before)


def test_it_follows_to_another_device_and_leaves_the_metric(dinov2: EmbeddingMetric) -> None:
    # the meta device is always there; it computes shapes only
    model = nn.Sequential(nn.Linear(2, 2), IdentityLoss(dinov2)).to("meta")
    on_meta = tensor(smooth(0)).to("meta")
    assert model[1]._network[0].get_parameter("vit.layernorm.weight").device.type == "meta"
    assert network_of(dinov2).get_parameter("vit.layernorm.weight").device.type == "cpu"
    with pytest.raises(
        InputError, match=r"pictures are on cpu, the network of the loss on meta.*\.to\(device\)"
    ):
        model[1](tensor(smooth(0)), tensor(smooth(1)))
    with pytest.raises(InputError, match="pictures are on meta, the network of the loss on cpu"):
        IdentityLoss(dinov2, check=False)(on_meta, on_meta)
    assert np.isfinite(dinov2.similarity(smooth(0), smooth(1))).all()


def test_copies_and_pickles_give_the_same_value(dinov2: EmbeddingMetric) -> None:
    loss = IdentityLoss(dinov2)
    a, b = tensor(smooth(0)), tensor(smooth(1))
    dinov2.similarity(smooth(0), smooth(1))  # leaves positions behind that were resampled without gradients
    assert torch.equal(copy.deepcopy(loss)(a, b), loss(a, b))
    assert torch.equal(pickle.loads(pickle.dumps(loss))(a, b), loss(a, b))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", ["compact", "toy"])
def test_gradients_are_finite_where_they_are_hard(name: str, score: str, dinov2: EmbeddingMetric) -> None:
    loss = IdentityLoss(COMPACT if name == "compact" else dinov2, score)
    random = tensor(smooth(0, 32, 32))
    cases = {
        "identical": (random, random),
        "constant": (torch.full_like(random, 0.5), torch.full_like(random, 0.5)),
        "black and white": (torch.zeros_like(random), torch.ones_like(random)),
        "one pixel": (random[..., :1, :1], random),
    }
    for case, (a, b) in cases.items():
        a, b = (side.clone().requires_grad_() for side in (a, b))
        value = loss(a, b)
        value.backward()
        assert 0 <= value.item() <= 2, case
        if case in ("identical", "constant"):
            assert value.item() <= (0.02 if score == "ot" else 1e-6), case
        for side in (a, b):
            assert side.grad is not None and bool(side.grad.isfinite().all()), case


@pytest.mark.parametrize("name", ["compact", "toy"])
def test_autocast_is_near_full_precision(name: str, dinov2: EmbeddingMetric) -> None:
    loss = IdentityLoss(COMPACT if name == "compact" else dinov2)
    a, b = tensor(smooth(0)).requires_grad_(), tensor(smooth(1))
    full = loss(a, b)
    (gradient,) = torch.autograd.grad(full, a)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(a, b)
    (rough,) = torch.autograd.grad(value, a)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(full.item(), abs=0.02)
    assert bool(rough.isfinite().all())
    assert float(nn.functional.cosine_similarity(gradient.flatten(), rough.flatten(), dim=0)) > 0.9
    half = loss(a.detach().bfloat16(), b.bfloat16())  # pictures of a model in half precision
    assert half.item() == pytest.approx(full.item(), abs=0.02)


def test_mean_and_single_losses(dinov2: EmbeddingMetric) -> None:
    a, b = tensor(smooth(0), smooth(1)), tensor(smooth(2), smooth(3))
    each = IdentityLoss(dinov2, reduction="none")(a, b)
    assert each.shape == (2,) and IdentityLoss(dinov2)(a, b).item() == pytest.approx(each.mean().item())
    assert "toy, score='cls', reduction='mean'" in repr(IdentityLoss(dinov2))


def test_pictures_out_of_range_are_refused(dinov2: EmbeddingMetric) -> None:
    loss, good = IdentityLoss(dinov2), tensor(smooth(0))
    for bad, words in {
        2 * good - 1: r"values from -.*for pictures in \[−1, 1\] pass \(x \+ 1\) / 2",
        255 * good: r"for pictures in \[0, 255\] pass x / 255",
        good * torch.nan: "got values from nan to nan: look for NaN in the model",
        (255 * good).byte(): r"expected \(B, 3, H, W\) floats in \[0, 1\]; got .* of torch.uint8",
        good[0]: r"expected \(B, 3, H, W\) floats",
        good[:, :1]: r"expected \(B, 3, H, W\) floats",
        good[:, :, :0]: r"expected \(B, 3, H, W\) floats",
    }.items():
        other = torch.stack([good[0]] * len(bad))
        with pytest.raises(InputError, match=words):
            loss(bad, other)
        with pytest.raises(InputError, match=words):
            loss(other, bad)
    with pytest.raises(InputError, match="1 and 2 pictures came"):
        loss(good, torch.cat([good, good]))
    loss(good + 5e-4, good - 5e-4)  # the rounding of an earlier resize
    assert 0 <= IdentityLoss(dinov2, check=False)(2 * good - 1, good).item() <= 2


def test_metrics_without_gradients_are_refused(dinov2: EmbeddingMetric) -> None:
    with pytest.raises(InputError, match=r"ssim compares pictures pair by pair.*such as compact, dinov2-b"):
        IdentityLoss("ssim")
    cut = isolated(dinov2, "toy+crop", find_foreground("whole", "cpu"), crop=True, average=False)
    with pytest.raises(InputError, match=r"toy\+crop cuts objects out of pictures.*without \+crop and \+ffa"):
        IdentityLoss(cut)
    mine = replace(dinov2, name="mine", encode=lambda _: Tokens(torch.ones(1, 2), torch.ones(1, 1, 1, 2)))
    with pytest.raises(InputError, match="the encode of mine has no attribute `network`"):
        IdentityLoss(mine)
    with pytest.raises(InputError, match="unknown score kind 'patches'"):
        IdentityLoss(dinov2, "patches")
    with pytest.raises(InputError, match="compact has no score kind"):
        IdentityLoss("compact", "pixels")
    with pytest.raises(InputError, match="unknown reduction 'sum'"):
        IdentityLoss(dinov2, reduction="sum")  # type: ignore[arg-type]
