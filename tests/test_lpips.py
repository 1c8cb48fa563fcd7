"""LPIPS against a flat computation from the published state dicts, closed forms and bad input. Random weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from identisim.errors import InputError
from identisim.images import resize
from identisim.metrics.lpips import CARDS, PUBLISHED, build_lpips
from identisim.models.lpips import LAYOUTS, Lpips, load_lpips, lpips_distance
from identisim.models.weights import WeightsError

# layer: ("conv", stride, padding), ("relu",), ("pool", ceil), ("fire",); * = LPIPS reads here.
# From the definitions of torchvision and of the package lpips (pretrained_networks.py), written down apart from ours.
CONV3 = ("conv", 1, 1)
PLANS = {
    "alex": [
        ("conv", 4, 2), "relu*", ("pool", 3, False), ("conv", 1, 2), "relu*", ("pool", 3, False),
        CONV3, "relu*", CONV3, "relu*", CONV3, "relu*",
    ],
    "vgg": [
        CONV3, "relu", CONV3, "relu*", ("pool", 2, False),
        CONV3, "relu", CONV3, "relu*", ("pool", 2, False),
        CONV3, "relu", CONV3, "relu", CONV3, "relu*", ("pool", 2, False),
        CONV3, "relu", CONV3, "relu", CONV3, "relu*", ("pool", 2, False),
        CONV3, "relu", CONV3, "relu", CONV3, "relu*",
    ],
    "squeeze": [
        ("conv", 2, 0), "relu*", ("pool", 3, True), "fire", "fire*", ("pool", 3, True), "fire", "fire*",
        ("pool", 3, True), "fire*", "fire*", "fire*", "fire*",
    ],
}  # fmt: skip
CLASSIFIERS = {
    "alex": {1: (8, 9216), 4: (8, 8), 6: (10, 8)},
    "vgg": {0: (8, 25088), 3: (8, 8), 6: (10, 8)},
    "squeeze": {1: (10, 512, 1, 1)},
}
"""Layers of the classifier and their shapes, narrowed: they are read and dropped."""


def published_files(folder: Path, trunk: str, seed: int = 0) -> tuple[Path, Path]:
    """The two files of one trunk, random, under the published names and in the published layout."""
    generator = torch.Generator().manual_seed(seed)
    net = Lpips(trunk)
    state = {
        # He's scale, so that every layer still tells pictures apart
        name: torch.randn(tensor.shape, generator=generator)
        * (0.1 if tensor.ndim == 1 else (2 / tensor[0].numel()) ** 0.5)
        for name, tensor in net.state_dict().items()
        if name.startswith("features.")
    }
    for layer, shape in CLASSIFIERS[trunk].items():
        state |= {
            f"classifier.{layer}.weight": torch.ones(shape),
            f"classifier.{layer}.bias": torch.ones(shape[0]),
        }
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, count, 1, 1, generator=generator)
        for i, count in enumerate(LAYOUTS[trunk].channels)
    }
    folders = [folder / "trunk", folder / "heads"]
    for one in folders:
        one.mkdir(exist_ok=True)
    paths = folders[0] / PUBLISHED[trunk].file, folders[1] / f"{trunk}.pth"
    torch.save(state, paths[0])
    torch.save(heads, paths[1])
    return paths


def maps_by_hand(state: dict[str, Tensor], trunk: str, images: Tensor) -> list[Tensor]:
    """The maps that LPIPS reads, by calls written flat, of images in [0, 1]."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    x, found = (2 * images - 1 - shift) / scale, []
    for index, step in enumerate(PLANS[trunk]):
        kind = step if isinstance(step, str) else step[0]
        name = f"features.{index}"
        if kind == "conv":
            x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=step[1], padding=step[2])
        elif kind == "pool":
            x = F.max_pool2d(x, step[1], 2, ceil_mode=step[2])
        elif kind.startswith("relu"):
            x = x.clamp(min=0)
        else:
            few = F.conv2d(x, state[f"{name}.squeeze.weight"], state[f"{name}.squeeze.bias"]).clamp(min=0)
            sides = [
                F.conv2d(few, state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"], padding=padding)
                for part, padding in (("expand1x1", 0), ("expand3x3", 1))
            ]
            x = torch.cat(sides, 1).clamp(min=0)
        if kind.endswith("*"):
            found.append(x)
    return found


def lpips_by_hand(files: tuple[Path, Path], trunk: str, a: Tensor, b: Tensor) -> float:
    state, heads = (torch.load(file, weights_only=True) for file in files)
    total = 0.0
    both = zip(maps_by_hand(state, trunk, a), maps_by_hand(state, trunk, b), strict=True)
    for layer, (x, y) in enumerate(both):
        unit = [maps / (maps.square().sum(1, keepdim=True).sqrt() + 1e-10) for maps in (x, y)]
        weights = heads[f"lin{layer}.model.1.weight"]
        total += float(F.conv2d((unit[0] - unit[1]) ** 2, weights).mean())
    return total


class Channels(torch.nn.Module):
    """Dark pictures excite channel 5 of 64 alone, bright ones channel 9."""

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.zeros(len(images), 64, 2, 2)
        maps[:, 9 if float(images.mean()) > 0 else 5] = 7.0
        return maps


def picture(seed: int, height: int = 70, width: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch(seed: int, side: int = 40) -> Tensor:
    return torch.from_numpy(picture(seed, side, side)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("trunk", ["alex", "vgg", "squeeze"])
def test_distance_is_that_of_a_flat_computation(tmp_path: Path, trunk: str) -> None:
    files = published_files(tmp_path, trunk)
    net = load_lpips(trunk, *files)
    # at 44 pixels SqueezeNet pools maps of an even side
    pairs = [(batch(1), batch(2)), (batch(3, 44), batch(3, 44) * 0.9)]
    for a, b in pairs:
        found = lpips_distance(net, a, b)
        assert found.shape == (1,)
        assert float(found) == pytest.approx(lpips_by_hand(files, trunk, a, b), rel=1e-4)
        assert float(found) > 1e-3
    assert float(lpips_distance(net, batch(1), batch(1))) == 0


def test_a_batch_is_its_pictures_and_the_order_is_free(tmp_path: Path) -> None:
    net = load_lpips("alex", *published_files(tmp_path, "alex"))
    a, b = (torch.cat([batch(seed) for seed in seeds]) for seeds in ((1, 2), (3, 4)))
    single = [lpips_distance(net, a[i : i + 1], b[i : i + 1])[0] for i in range(2)]
    torch.testing.assert_close(lpips_distance(net, a, b), torch.stack(single), rtol=1e-4, atol=1e-6)
    assert torch.equal(lpips_distance(net, a, b), lpips_distance(net, b, a))


def test_gradients_reach_the_picture_and_stay_finite(tmp_path: Path) -> None:
    net = load_lpips("alex", *published_files(tmp_path, "alex"))
    target = batch(1)
    moved = (target + 0.2 * (batch(2) - 0.5)).clamp(0, 1).requires_grad_()
    lpips_distance(net, moved, target).sum().backward()
    step = moved.grad
    assert bool(step.isfinite().all()) and float(step.abs().max()) > 0
    with torch.no_grad():
        nearer = (moved - 0.01 * step / step.abs().max()).clamp(0, 1)
        assert float(lpips_distance(net, nearer, target)) < float(lpips_distance(net, moved, target))
    same = target.clone().requires_grad_()
    lpips_distance(net, same, target).sum().backward()
    assert bool(same.grad.isfinite().all())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_features_that_are_all_zero_do_not_break_the_gradient(tmp_path: Path) -> None:
    net = load_lpips("alex", *published_files(tmp_path, "alex"))
    with torch.no_grad():
        net.features[0].bias.fill_(-1e3)
    a = batch(1).requires_grad_()
    lpips_distance(net, a, batch(2)).sum().backward()
    assert bool(a.grad.isfinite().all())


def test_the_range_is_twice_the_largest_weight_of_each_layer(tmp_path: Path) -> None:
    """One layer, two features that share no channel: the farthest that unit features without negative parts can be."""
    net = Lpips("alex").requires_grad_(False)
    net.features, net.taps = torch.nn.Sequential(Channels()), (0,)
    net.heads[0].fill_(0.3)
    apart = float(lpips_distance(net, torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)))
    assert apart == pytest.approx(2 * 0.3, rel=1e-5)
    net.heads[0][0, 5] = 0.1  # one of the two channels counts less
    apart = float(lpips_distance(net, torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)))
    assert apart == pytest.approx(0.3 + 0.1, rel=1e-5)
    published = {
        "lpips-alex": 4.02366,
        "lpips-vgg": 3.31076,
        "lpips-squeeze": 5.65740,
    }  # Σ max of the heads v0.1
    for card in CARDS:
        assert card.range[0] <= 1 - 2 * published[card.name] < card.range[0] + 0.01
        assert card.range[1] == 1


@pytest.mark.parametrize("trunk", ["alex", "squeeze"])
def test_the_metric_squashes_and_turns_the_distance(tmp_path: Path, trunk: str) -> None:
    files = published_files(tmp_path, trunk)
    metric = build_lpips(trunk, "cpu", tuple(file.parent for file in files))
    a, b = picture(1), picture(2, 120, 60)
    squashed = [
        torch.from_numpy(resize(one, 224, 224)).permute(2, 0, 1)[None].float() / 255 for one in (a, b)
    ]
    by_hand = 1 - lpips_by_hand(files, trunk, *squashed)
    assert metric.similarity([a], [b])[0] == pytest.approx(by_hand, abs=1e-4)
    matrix = metric.similarity_matrix([a, b], [a, b])
    assert matrix[0, 0] == matrix[1, 1] == 1
    assert matrix[0, 1] == matrix[1, 0] == metric.similarity([a], [b])[0]


def test_fingerprints_tell_trunk_and_weights_apart(tmp_path: Path) -> None:
    prints = []
    for trunk, seed in (("alex", 0), ("alex", 1), ("squeeze", 0)):
        folder = tmp_path / f"{trunk}{seed}"
        folder.mkdir()
        files = published_files(folder, trunk, seed)
        prints.append(build_lpips(trunk, "cpu", tuple(file.parent for file in files)).fingerprint)
    assert len(set(prints)) == 3
    assert prints[0].startswith("lpips-alex:")


def test_cards_name_what_the_builder_reads() -> None:
    for card in CARDS:
        trunk, heads = card.sources
        file = trunk.files[0]
        assert file.url == f"https://download.pytorch.org/models/{file.name}"
        assert re.fullmatch(r"[\w-]+-[0-9a-f]{8}\.pth", file.name) and f"-{file.sha256}." in file.name
        assert heads.files[0].url.endswith(f"/lpips/weights/v0.1/{card.name.removeprefix('lpips-')}.pth")
        assert len(heads.files[0].sha256) == 64
        assert not card.gated


def test_bad_pictures_are_refused(tmp_path: Path) -> None:
    net = load_lpips("alex", *published_files(tmp_path, "alex"))
    with pytest.raises(InputError, match=r"\(B, 3, H, W\) of at least 32 × 32; got \(1, 3, 31, 40\)"):
        net(torch.zeros(1, 3, 31, 40))
    with pytest.raises(InputError, match=r"got \(3, 40, 40\)"):
        net(torch.zeros(3, 40, 40))
    with pytest.raises(InputError, match=r"\[0, 1\] here, not \[−1, 1\]; got values from -1 to 1"):
        net(batch(1) * 2 - 1)
    with pytest.raises(InputError, match="got values from nan to nan"):
        net(torch.full((1, 3, 40, 40), float("nan")))
    with pytest.raises(InputError, match=r"one size; got \(1, 3, 40, 40\) and \(1, 3, 64, 64\)"):
        lpips_distance(net, batch(1), batch(1, 64))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    trunk, heads = published_files(tmp_path, "alex")
    other = tmp_path / "other"
    other.mkdir()
    wrong_trunk, wrong_heads = published_files(other, "squeeze")
    with pytest.raises(WeightsError, match="another network"):
        load_lpips("alex", wrong_trunk, heads)
    with pytest.raises(WeightsError, match="another network"):
        load_lpips("alex", trunk, wrong_heads)
    state = torch.load(heads, weights_only=True)
    torch.save(state | {"lin2.model.1.weight": -state["lin2.model.1.weight"]}, heads)
    with pytest.raises(WeightsError, match=r"lin2\.model\.1\.weight has negative values"):
        load_lpips("alex", trunk, heads)
    with pytest.raises(InputError, match="no such weights file"):
        build_lpips("alex", "cpu", (tmp_path / "nowhere", tmp_path / "heads"))
