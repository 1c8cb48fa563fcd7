"""The stand-in for the ID-Sim release: its call, its distances, and that they are the metric's own scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from identisim import compat
from identisim.compat import id_sim
from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics.embeddings import IMAGENET
from identisim.metrics.idsim import RELEASED
from identisim.metrics.metric import EmbeddingMetric, Metric
from identisim.metrics.network import NetworkEncoder
from identisim.models.backbone import KINDS, Backbone
from identisim.models.idsim import IDSim


def toy_metric() -> EmbeddingMetric:
    """ID-Sim on a tiny DINOv2, at the release's 448 pixels, with heads that do something."""
    torch.manual_seed(0)
    config = KINDS["dinov2"][0](
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=448, patch_size=56
    )
    model = IDSim(Backbone(config, "last-block"), hidden=16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return EmbeddingMetric("toy", NetworkEncoder(model, "cpu", 56), Preprocessing(448, **IMAGENET), "toy:0")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Path | None]]:
    """What `id_sim` asked the registry for, which gives it the toy."""
    calls: list[tuple[str, str, Path | None]] = []

    def build(name: str, *, device: str, weights: Path | None) -> Metric:
        calls.append((name, device, weights))
        return toy_metric()

    monkeypatch.setattr(compat, "build", build)
    return calls


@pytest.fixture
def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (90, 60, 3), np.uint8)) for _ in range(3)]


@pytest.mark.usefixtures("asked")
class TestDistances:
    def test_preprocess_is_the_release_s(self, pictures: list[Image.Image]) -> None:
        _, preprocess = id_sim()
        pixels = preprocess(pictures[0])
        assert pixels.shape == (1, 3, 448, 448) and pixels.dtype == torch.float32
        assert pixels.min() >= 0 and pixels.max() <= 1
        squashed = np.asarray(pictures[0].resize((448, 448), Image.Resampling.BICUBIC), np.float32) / 255
        # Pillow's two passes may be taken in either order, a grey level apart
        assert np.abs(pixels[0].permute(1, 2, 0).numpy() - squashed).max() <= 1.01 / 255

    def test_distances_are_one_minus_the_similarities(self, pictures: list[Image.Image]) -> None:
        model, preprocess = id_sim()
        a, b = preprocess(pictures[0]), preprocess(pictures[1])
        scores = {
            score: float(replace(toy_metric(), score=score).similarity(pictures[0], pictures[1])[0])
            for score in ("cls", "patch", "joint")
        }
        assert float(model(a, b, mode="cls")) == pytest.approx(1 - scores["cls"], abs=1e-5)
        assert float(model(a, b, mode="patch")) == pytest.approx(1 - scores["patch"], abs=1e-5)
        assert float(model(a, b)) == pytest.approx(2 * (1 - scores["joint"]), abs=1e-5)
        assert float(model(a, b, mode="joint")) == float(model(a, b))
        assert float(model(a, a)) == pytest.approx(0, abs=1e-5)

    def test_embeddings_are_centred_units_and_compare_as_pictures_do(
        self, pictures: list[Image.Image]
    ) -> None:
        model, preprocess = id_sim()
        batch = torch.cat([preprocess(picture) for picture in pictures])
        found = model.embed(batch)
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "cls": (3, 32),
            "patch": (3, 64, 32),
        }
        for value in found.values():
            assert torch.allclose(value.norm(dim=-1), torch.ones(value.shape[:-1]), atol=1e-5)
            assert value.mean(-1).abs().max() < 1e-6
        assert model.embed(batch, "cls").keys() == {"cls"}
        pairs = model.compute_pairwise_distances(found, found)
        one = {name: value[:1] for name, value in found.items()}
        other = {name: value[2:] for name, value in found.items()}
        assert pairs.shape == (3, 3)
        assert float(pairs[0, 2]) == pytest.approx(
            float(model.compute_distance_from_embeddings(one, other)), abs=1e-5
        )
        assert float(pairs[0, 2]) == pytest.approx(float(model(batch[:1], batch[2:])), abs=1e-5)
        assert 0 < float(model.sinkhorn_distance(one, other)) < 2

    def test_it_stays_in_evaluation_mode(self) -> None:
        model, _ = id_sim()
        assert not model.train().training and not model.network.training

    def test_unknown_mode(self, pictures: list[Image.Image]) -> None:
        model, preprocess = id_sim()
        with pytest.raises(InputError, match="unknown mode 'sinkhorn'; choose cls, patch, joint"):
            model(preprocess(pictures[0]), preprocess(pictures[1]), mode="sinkhorn")


class TestCall:
    @pytest.mark.parametrize("released", RELEASED)
    def test_every_checkpoint_by_its_name(
        self, released: str, asked: list[tuple[str, str, Path | None]]
    ) -> None:
        id_sim(id_sim_type=released, device="cpu")
        id_sim(model_type=released.removesuffix("_cls_patch"), cache_dir="weights")
        name = RELEASED[released][0]
        assert asked == [(name, "cpu", None), (name, "auto", Path("weights"))]

    @pytest.mark.usefixtures("asked")
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"pretrained": False}, "got pretrained=False"),
            ({"normalize_embeds": False}, "normalize_embeds=False"),
            ({"hf_token": "secret"}, r"its token from HF_TOKEN; .*hf_token=…"),
            (
                {"id_sim_type": "dinov4"},
                "unknown id_sim_type 'dinov4'; choose one of dinov3_vitl16_cls_patch",
            ),
        ],
    )
    def test_what_is_not_offered_is_said(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            id_sim(**arguments)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)
