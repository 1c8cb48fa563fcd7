"""The differentiable preprocessing against Pillow, finite differences and the linear map it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from identisim.errors import InputError
from identisim.images import Preprocessing, load_image
from identisim.models.preprocess import differentiable_preprocess, resampling_weights

# narrow pictures on purpose
pytestmark = pytest.mark.filterwarnings("ignore::identisim.images.AspectWarning")

MODES = ("square", "pad", "crop")


def picture(kind: str, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "black and white noise":
        return rng.integers(0, 2, (height, width, 3)).astype(np.uint8) * 255
    edges = np.zeros((height, width, 3), np.uint8)
    edges[height // 3 :, width // 2 :] = (255, 200, 0)
    return edges


def as_tensor(pixels: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(dtype) / 255


def grey_levels_apart(pixels: np.ndarray, preprocessing: Preprocessing) -> tuple[float, float]:
    """Largest difference from the canonical pixels, before and after rounding to 8 bits."""
    canonical = preprocessing(pixels).astype(np.float64) * 255
    ours = differentiable_preprocess(as_tensor(pixels), preprocessing)[0].numpy() * 255
    return float(np.abs(ours - canonical).max()), float(np.abs(np.rint(ours) - canonical).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["noise", "black and white noise", "edges"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(64, 64, 128), (50, 39, 112), (300, 211, 64), (33, 200, 56), (64, 64, 64), (65, 64, 64), (250, 3, 37)],
)
def test_agrees_with_the_canonical_pixels(mode: str, kind: str, height: int, width: int, size: int) -> None:
    before, after = grey_levels_apart(picture(kind, height, width), Preprocessing(size, mode))
    # Pillow rounds twice: by half a level after the first pass, which the second amplifies by at most 1.25
    assert before <= 0.5 * 1.25 + 0.5 + 1e-3
    assert after <= 1 + 1e-3
    if kind == "edges":
        assert before <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 450), (450, 2)])
def test_agrees_for_thin_pictures(mode: str, height: int, width: int) -> None:
    _, after = grey_levels_apart(picture("noise", height, width), Preprocessing(16, mode))
    assert after <= 1 + 1e-3


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from(MODES), st.integers(0, 2**32)
)
@settings(deadline=None, max_examples=80)
def test_agrees_for_any_size(height: int, width: int, size: int, mode: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    _, after = grey_levels_apart(pixels, Preprocessing(size, mode))
    assert after <= 1 + 1e-3


def test_mean_std_and_batches() -> None:
    preprocessing = Preprocessing(20, "pad", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = [picture("noise", 30, 44), picture("edges", 30, 44)]
    batch = torch.cat([as_tensor(one, torch.float32) for one in pixels])
    out = differentiable_preprocess(batch, preprocessing)
    assert (out.shape, out.dtype) == ((2, 3, 20, 20), torch.float32)
    for result, one in zip(out.numpy(), pixels, strict=True):
        np.testing.assert_allclose(result, preprocessing(one), atol=1.13 / 255 / 0.2)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_equals_finite_differences(mode: str) -> None:
    # away from black and white nothing is clipped, so that the map is smooth
    images = 0.4 + 0.2 * torch.rand(1, 3, 7, 9, dtype=torch.float64, generator=torch.manual_seed(0))
    images.requires_grad_()
    for size in (4, 13):
        preprocessing = Preprocessing(size, mode, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
        assert torch.autograd.gradcheck(
            lambda x, preprocessing=preprocessing: differentiable_preprocess(x, preprocessing), (images,)
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [5, 40])
def test_gradients_are_finite_at_the_limits_of_the_range(mode: str, size: int) -> None:
    for value in (0.0, 1.0):
        images = torch.full((1, 3, 12, 18), value, requires_grad=True)
        differentiable_preprocess(images, Preprocessing(size, mode)).sum().backward()
        assert images.grad is not None
        assert torch.isfinite(images.grad).all()
        assert images.grad.abs().sum() > 0


def test_a_picture_can_be_optimised_through_it() -> None:
    target = torch.from_numpy(Preprocessing(16)(picture("edges", 24, 24)))[None]
    images = torch.full((1, 3, 24, 24), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([images], lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (differentiable_preprocess(images, Preprocessing(16)) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]
    done = Preprocessing(16)(load_image(images[0].detach().clamp(0, 1)))
    assert np.square(done - target[0].numpy()).mean() < 0.03 * losses[0]


@pytest.mark.parametrize(
    ("length", "out_length"), [(40, 7), (7, 40), (10, 10), (1, 5), (5, 1), (3, 2), (97, 96)]
)
def test_weights_equal_pillow_in_floating_point(length: int, out_length: int) -> None:
    # Pillow's float mode filters an identity matrix without rounding: its columns are the weights
    identity = Image.fromarray(np.eye(length, dtype=np.float32))
    expected = np.asarray(identity.resize((out_length, length), Image.Resampling.BICUBIC)).T
    weights = resampling_weights(length, 0.0, float(length), out_length)
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(out_length, dtype=torch.float64))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 0, 8), torch.zeros(1, 3, 8, 8).byte()],
)
def test_other_tensors_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"\(B, 3, H, W\)"):
        differentiable_preprocess(wrong, Preprocessing(8))
