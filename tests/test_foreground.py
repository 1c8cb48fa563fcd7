"""The network that finds the object."""

from __future__ import annotations

import pytest
import torch

from identisim.metrics.compact import load_packaged
from identisim.models.foreground import ForegroundNet
from identisim.training.foreground import foreground_overlap


@pytest.fixture
def net() -> ForegroundNet:
    torch.manual_seed(0)
    return ForegroundNet().eval()


@pytest.mark.parametrize(("height", "width"), [(96, 96), (32, 48), (224, 160)])
def test_logits_have_one_size_for_pictures_of_any(net: ForegroundNet, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, requires_grad=True)
    logits = net(images)
    assert logits.shape == (2, 48, 48)
    logits.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_a_larger_copy_of_a_picture_gets_the_same_foreground(net: ForegroundNet) -> None:
    blobs = torch.rand(1, 3, 8, 8)
    small, large = (
        net(torch.nn.functional.interpolate(blobs, size, mode="bicubic").clamp(0, 1)) for size in (96, 224)
    )
    assert (small - large).abs().mean() < 0.3 * (small - small.mean()).abs().mean()


def test_every_weight_learns_and_batch_mates_do_not_matter(net: ForegroundNet) -> None:
    images = torch.rand(3, 3, 96, 96)
    net(images).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    torch.testing.assert_close(net(images[1:2]), net(images)[1:2], rtol=1e-4, atol=1e-4)


def test_the_place_in_the_picture_counts(net: ForegroundNet) -> None:
    """Without it a row of equal things could not be told from the one in the middle."""
    tile = torch.rand(1, 3, 32, 32)
    logits = net(tile.repeat(1, 1, 3, 3))
    assert not torch.allclose(logits[:, 16:32, 16:32], logits[:, 16:32, :16], atol=1e-3)


def test_the_packaged_network_finds_a_plain_object() -> None:
    net = load_packaged("cpu").foreground
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    mask = ((rows - 50) ** 2 / 30**2 + (columns - 47) ** 2 / 20**2 < 1)[None]
    for colour, ground in (((0.8, 0.1, 0.1), 0.6), ((0.1, 0.3, 0.8), 0.85), ((0.9, 0.8, 0.2), 0.3)):
        texture = 0.05 * torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        image = torch.where(mask[:, None], torch.tensor(colour)[None, :, None, None], ground) + texture
        with torch.inference_mode():
            assert foreground_overlap(net(image.clamp(0, 1)), mask).item() > 0.7
