"""NearID from its published layout: half precision, names below backbone.vision_model., a type of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import toy_backbones as toys
from identisim.metrics import registry
from identisim.models.weights import WeightsError

SIDE = 384
PATCH = 56
"""384 pixels are no multiple of it, as they are none of the 14 of the published network: 6 × 6 patches fit."""


def network() -> Any:
    """SigLIP's vision tower with weights that half precision holds exactly."""
    found = toys.hub_network("siglip", image_size=SIDE, patch_size=PATCH)
    for parameter in found.parameters():
        parameter.data = parameter.data.half().float()
    return found


def published(folder: Path, prefix: str = "backbone.vision_model.") -> Path:
    """config.json and model.safetensors as NearID's conversion writes them."""
    folder.mkdir(exist_ok=True)
    tower = network()
    state = {f"{prefix}{name}": tensor.half().contiguous() for name, tensor in tower.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    vision = {
        key: getattr(tower.config, key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
    }
    vision |= {key: getattr(tower.config, key) for key in ("num_attention_heads", "image_size", "patch_size")}
    vision |= {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "model_type": "siglip_vision_model"}
    config = {
        "architectures": ["NearIDModel"],
        "auto_map": {
            "AutoConfig": "configuration_nearid.NearIDConfig",
            "AutoModel": "modeling_nearid.NearIDModel",
        },
        "dtype": "float16",
        "embed_dim": 128,
        "model_type": "nearid",
        "normalize_embeddings": True,
        "vision_config": vision,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_nearid.py").write_text("raise SystemExit('foreign code was executed')\n")
    return folder


def prepared(image: np.ndarray) -> Tensor:
    """Squashed bilinearly to 384 × 384, then to [−1, 1]: (1, 3, 384, 384)."""
    return toys.squashed(image, SIDE, toys.HALF, "BILINEAR").float()[None]


@pytest.mark.parametrize("prefix", ["backbone.vision_model.", "backbone.", "vision_model.", ""])
def test_similarity_is_the_cosine_of_the_attention_pooling(tmp_path: Path, prefix: str) -> None:
    metric: Any = registry.build("nearid", device="cpu", weights=published(tmp_path / "w", prefix))
    pictures = [toys.picture(1), toys.picture(2, 60, 30)]
    with torch.no_grad():
        vectors = torch.cat([network()(pixel_values=prepared(image)).pooler_output for image in pictures])
    expected = torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0)
    assert metric.similarity(*pictures)[0] == pytest.approx(float(expected), abs=1e-5)
    assert float(expected) < 0.99
    assert metric.embed(pictures) == pytest.approx(torch.nn.functional.normalize(vectors).numpy(), abs=1e-5)
    assert metric.tokens(pictures[0]).patches.shape == (1, 6, 6, 128)


def test_the_head_is_the_one_in_the_file(tmp_path: Path) -> None:
    """The pooling by hand: one probe attends over all patches, then a two-layer residual."""
    folder = published(tmp_path / "w")
    state = {
        name.removeprefix("backbone.vision_model."): tensor.double()
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    with torch.no_grad():
        patches = network()(pixel_values=prepared(toys.picture(1))).last_hidden_state[0].double()
    weights, biases = (state[f"head.attention.in_proj_{part}"].chunk(3) for part in ("weight", "bias"))
    query = state["head.probe"][0] @ weights[0].T + biases[0]
    keys, values = (patches @ weights[i].T + biases[i] for i in (1, 2))
    mixed = torch.cat(
        [
            (query[:, part] @ keys[:, part].T / 8).softmax(1) @ values[:, part]
            for part in (slice(0, 64), slice(64, 128))
        ],
        dim=1,
    )
    x = mixed @ state["head.attention.out_proj.weight"].T + state["head.attention.out_proj.bias"]
    centred = x - x.mean()
    normed = centred / (centred.square().mean() + 1e-6).sqrt() * state["head.layernorm.weight"]
    inner = (normed + state["head.layernorm.bias"]) @ state["head.mlp.fc1.weight"].T + state[
        "head.mlp.fc1.bias"
    ]
    inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    vector = (x + inner @ state["head.mlp.fc2.weight"].T + state["head.mlp.fc2.bias"])[0]
    metric: Any = registry.build("nearid", device="cpu", weights=folder)
    assert metric.embed(toys.picture(1))[0] == pytest.approx(
        (vector / vector.norm()).float().numpy(), abs=1e-5
    )


def test_its_size_may_be_named_and_changed(tmp_path: Path) -> None:
    folder = published(tmp_path / "w")
    plain, named = (registry.build(name, device="cpu", weights=folder) for name in ("nearid", "nearid@384"))
    pictures = toys.picture(1), toys.picture(2)
    assert plain.similarity(*pictures) == named.similarity(*pictures)
    other: Any = registry.build("nearid@224", device="cpu", weights=folder)
    assert other.tokens(pictures[0]).patches.shape == (1, 4, 4, 128)


def test_foreign_code_beside_the_weights_is_not_needed_nor_run(tmp_path: Path) -> None:
    folder = published(tmp_path / "w")
    registry.build("nearid", device="cpu", weights=folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nearid2"}))
    with pytest.raises(
        WeightsError, match=r"'nearid2' are not supported; it needs code of its own \(auto_map\)"
    ):
        registry.build("nearid", device="cpu", weights=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.probe": None}, r"1 names are missing \(head\.probe\)"),
        ({"classifier2.weight": torch.ones(3).half()}, r"1 are unexpected \(classifier2\.weight\)"),
        ({"head.probe": torch.ones(1, 1, 128)}, r"one type; got .*float16.*float32"),
        ({"head.probe": torch.ones(1, 1, 64).half()}, r"\(1, 1, 64\) instead of \(1, 1, 128\)"),
        ({"post_layernorm.bias": torch.full((128,), torch.inf).half()}, "NaN or infinite"),
    ],
)
def test_files_with_one_fault_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    folder = published(tmp_path / "w")
    state = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        state.pop(f"backbone.vision_model.{name}", None)
        if tensor is not None:
            state[f"backbone.vision_model.{name}"] = tensor
    save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        registry.build("nearid", device="cpu", weights=folder)
    assert str(folder) in str(caught.value)
