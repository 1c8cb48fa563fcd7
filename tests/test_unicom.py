"""Unicom against a forward pass written flat from the state dict; toy sizes and random weights in the public layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics import unicom as metrics
from identisim.metrics.unicom import CARDS, PUBLISHED, build_unicom
from identisim.models.unicom import SHAPES, UnicomNet, UnicomShape, load_unicom
from identisim.models.weights import WeightsError

PUBLIC = dict(SHAPES), dict(PUBLISHED)
TOY = UnicomShape(size=32, patch=8, width=24, depth=2, heads=3, dim=10)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "b32", TOY)
    monkeypatch.setitem(PUBLISHED, "b32", PUBLISHED["b32"]._replace(side=TOY.size))


def published_state(seed: int = 0, shape: UnicomShape = TOY) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of the published files, all in half precision."""
    generator = torch.Generator().manual_seed(seed)
    width, count = shape.width, (shape.size // shape.patch) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, count, width),
        "patch_embed.proj.weight": (width, 3, shape.patch, shape.patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "feature.0.weight": (width, count * width),
        "feature.2.weight": (shape.dim, width),
    }
    for layer, length in ((1, width), (3, shape.dim)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"feature.{layer}.{part}"] = (length,)
    for n in range(shape.depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{n}.{norm}.weight": (width,), f"blocks.{n}.{norm}.bias": (width,)}
        shapes[f"blocks.{n}.attn.qkv.weight"] = (3 * width, width)
        for linear, (rows, columns) in {
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes |= {
                f"blocks.{n}.{linear}.weight": (rows, columns),
                f"blocks.{n}.{linear}.bias": (rows,),
            }
    state = {name: torch.randn(size, generator=generator) * 0.3 for name, size in shapes.items()}
    for layer in (1, 3):
        state[f"feature.{layer}.running_var"] = state[f"feature.{layer}.running_var"].abs() + 0.5
        # more steps than half precision can count
        state[f"feature.{layer}.num_batches_tracked"] = torch.tensor(float("inf"))
    return {name: tensor.half() for name, tensor in state.items()}


def embedding_by_hand(state: dict[str, Tensor], shape: UnicomShape, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Vector and normed patches of one picture (3, S, S), patch by patch and head by head."""
    s = {name: tensor.float() for name, tensor in state.items()}
    p, h = shape.patch, shape.size // shape.patch
    kernel = s["patch_embed.proj.weight"].flatten(1)
    corners = [(row * p, column * p) for row in range(h) for column in range(h)]
    squares = torch.stack([pixels[:, y : y + p, x : x + p].flatten() for y, x in corners])
    x = squares @ kernel.T + s["patch_embed.proj.bias"] + s["pos_embed"][0]
    for n in range(shape.depth):
        block = {
            name.removeprefix(f"blocks.{n}."): t for name, t in s.items() if name.startswith(f"blocks.{n}.")
        }
        y = F.layer_norm(x, (shape.width,), block["norm1.weight"], block["norm1.bias"])
        q, k, v = (y @ block["attn.qkv.weight"].T).split(shape.width, dim=1)
        each = shape.width // shape.heads
        mixed = []
        for start in range(0, shape.width, each):
            part = slice(start, start + each)
            attention = (q[:, part] @ k[:, part].T / each**0.5).softmax(1)
            mixed.append(attention @ v[:, part])
        x = x + torch.cat(mixed, 1) @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        y = F.layer_norm(x, (shape.width,), block["norm2.weight"], block["norm2.bias"])
        y = (y @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"]).clamp(0, 6)
        x = x + y @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
    x = F.layer_norm(x, (shape.width,), s["norm.weight"], s["norm.bias"])
    y = x.flatten()
    for linear, norm in ((0, 1), (2, 3)):
        y = s[f"feature.{linear}.weight"] @ y
        b = {part: s[f"feature.{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
        y = (y - b["running_mean"]) / (b["running_var"] + 2e-5).sqrt() * b["weight"] + b["bias"]
    return y, x.reshape(h, h, -1)


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "FP16-ViT-B-32.pt")
    return folder


def picture(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_vector_and_patches_are_those_of_a_flat_computation(tmp_path: Path) -> None:
    state = published_state()
    net = load_unicom("b32", saved(tmp_path, state) / "FP16-ViT-B-32.pt")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = net(pixels)
    assert found.cls.shape == (2, 10) and found.patches.shape == (2, 4, 4, 24)
    for i in range(2):
        vector, patches = embedding_by_hand(state, TOY, pixels[i])
        torch.testing.assert_close(found.cls[i], vector, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.patches[i], patches, rtol=1e-4, atol=1e-4)
    assert float((found.cls[0] - found.cls[1]).abs().max()) > 0.1


def test_the_metric_takes_the_central_square_as_published(tmp_path: Path) -> None:
    state = published_state()
    metric = build_unicom("b32", "cpu", (saved(tmp_path, state),))
    vectors = []
    for image in (picture(1), picture(2)):
        centre = Preprocessing(32, mode="crop")(image)  # resized in [0, 1], not yet normalised
        mean, std = (
            np.array(values, np.float32)[:, None, None]
            for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        )
        vectors.append(embedding_by_hand(state, TOY, torch.from_numpy((centre - mean) / std))[0])
    expected = float(F.cosine_similarity(vectors[0], vectors[1], dim=0))
    assert metric.similarity([picture(1)], [picture(2)])[0] == pytest.approx(expected, abs=1e-4)
    outside = picture(1)
    outside[:, :3] = 0  # beyond the central square of 40 × 50, and beyond the reach of the bicubic filter
    assert np.array_equal(metric.embed(outside), metric.embed(picture(1)))
    matrix = metric.similarity_matrix([picture(1)], [picture(1), picture(2)])
    assert matrix[0, 0] == pytest.approx(1, abs=1e-6) and matrix[0, 1] == pytest.approx(expected, abs=1e-4)


def test_weights_partly_in_full_precision_are_accepted(tmp_path: Path) -> None:
    state = published_state()
    wide = {name: tensor.float() if "norm" in name else tensor for name, tensor in state.items()}
    pixels = torch.ones(1, 3, 32, 32)
    a, b = (
        load_unicom("b32", saved(tmp_path, one) / "FP16-ViT-B-32.pt")(pixels).cls for one in (state, wide)
    )
    assert torch.equal(a, b)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    state = published_state()
    wrong = {
        "another network": {
            name: tensor for name, tensor in state.items() if name != "blocks.1.attn.qkv.weight"
        },
        "another size of network": published_state(shape=UnicomShape(32, 8, 24, 2, 3, dim=12)),
        "another type": state | {"pos_embed": state["pos_embed"].double()},
        "NaN or infinite": state | {"norm.bias": state["norm.bias"] / 0},
    }
    for message, content in wrong.items():
        with pytest.raises(WeightsError, match=message):
            build_unicom("b32", "cpu", (saved(tmp_path, content),))
    with pytest.raises(InputError, match=r"FP16-ViT-B-16\.pt: no such weights file"):
        build_unicom("b16", "cpu", (tmp_path,))


def test_other_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"pixels \(B, 3, 32, 32\); got \(1, 3, 40, 40\)"):
        UnicomNet(TOY)(torch.zeros(1, 3, 40, 40))


def test_fingerprints_follow_the_weights(tmp_path: Path) -> None:
    a, b = (
        build_unicom("b32", "cpu", (saved(tmp_path / str(i), published_state(i)),)).fingerprint
        for i in (0, 1)
    )
    assert a != b and a.startswith("unicom-vit-b32:")


def test_published_networks_have_the_layout_and_size_that_the_cards_state() -> None:
    counts, (shapes, published) = {}, PUBLIC
    for variant, shape in shapes.items():
        with torch.device("meta"):
            net = UnicomNet(shape)
        patches = (shape.size // shape.patch) ** 2
        assert net.feature[0].weight.shape == (shape.width, patches * shape.width)
        assert net.feature[2].weight.shape == (512 if variant == "b32" else 768, shape.width)
        assert shape.size == published[variant].side
        counts[variant] = f"{sum(p.numel() for p in net.parameters()) / 1e6:.0f} M"
    assert counts == {variant: one.parameters for variant, one in published.items()}
    toy_names = set(UnicomNet(TOY).state_dict())
    assert toy_names == set(published_state())


def test_cards_point_at_the_releases() -> None:
    assert [card.name for card in CARDS] == [f"unicom-vit-{v}" for v in ("b32", "b16", "l14", "l14-336")]
    for card in CARDS:
        (file,) = card.sources[0].files
        assert file.url.startswith(metrics.RELEASES) and file.url.endswith(f"/{file.name}")
        assert len(file.sha256) == 64
