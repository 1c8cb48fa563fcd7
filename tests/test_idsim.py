"""ID-Sim from the files of the release, against fused-qkv weights adapted by hand and heads written out."""

from __future__ import annotations

import json
import math
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import toy_backbones as toys
from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics import registry
from identisim.models.checkpoints import load_backbone
from identisim.models.idsim import Head, IDSim, load_idsim
from identisim.models.lora import merge, read_adapter
from identisim.models.weights import WeightsError
from toy_backbones import random_pair

HIDDEN, RANK = 48, 4
Pairs = dict[str, tuple[Tensor, Tensor]]

INNER = {
    "attn.qkv": (384, 128),
    "attn.proj": (128, 128),
    "mlp.fc1": (512, 128),
    "mlp.fc2": (128, 512),
}
"""Layers of a block of the toys, and their outputs and inputs."""


def head_state(seed: int, width: int = 128) -> toys.State:
    """A head as in mlp_cls.pth: its second layer is not zero, as after training."""
    shapes = {
        "ln.weight": (width,),
        "ln.bias": (width,),
        "fc1.weight": (HIDDEN, width),
        "fc1.bias": (HIDDEN,),
    }
    shapes |= {"fc2.weight": (width, HIDDEN), "fc2.bias": (width,)}
    state = toys.random_tensors(shapes, seed)
    state["ln.weight"] += 1
    return state | {"beta_logit": torch.tensor(-1.5 + seed / 10)}


def adapted_layers(toy: toys.Toy, targets: list[str]) -> Pairs:
    """A and B of every layer of the release's network that PEFT adapts for these targets."""
    shapes = {
        f"extractor.model.blocks.{n}.{name}": shape for n in range(toy.depth) for name, shape in INNER.items()
    }
    shapes |= {f"mlp_{kind}.fc1": (HIDDEN, toy.width) for kind in ("cls", "patch")}
    shapes |= {f"mlp_{kind}.fc2": (toy.width, HIDDEN) for kind in ("cls", "patch")}
    shapes["extractor.model.patch_embed.proj"] = (toy.width, 3 * toy.patch**2)
    chosen = {
        layer: random_pair(*shape, rank=RANK, seed=i)
        for i, (layer, shape) in enumerate(shapes.items())
        if any(layer.endswith(f".{target}") for target in targets)
    }
    for layer, (a, b) in chosen.items():
        if layer.endswith("patch_embed.proj"):  # of a convolution: A has its kernel, B is 1 × 1
            chosen[layer] = (a.reshape(RANK, 3, toy.patch, toy.patch), b[:, :, None, None])
    return chosen


def save_checkpoint(folder: Path, layers: Pairs, **settings: object) -> Path:
    """A checkpoint of the release, as on the hub."""
    toys.save_adapter(folder, layers, **settings)
    for i, kind in enumerate(("cls", "patch")):
        torch.save(head_state(i), folder / f"mlp_{kind}.pth")
    return folder


def adapted(state: toys.State, pairs: Pairs, prefix: str, scale: float) -> toys.State:
    """W + scale · B A, on the fused weights."""
    found = {name: tensor.double() for name, tensor in state.items()}
    for layer, (a, b) in pairs.items():
        if layer.startswith(prefix):
            name = f"{layer.removeprefix(prefix)}.weight"
            update = scale * (b.double().flatten(1) @ a.double().flatten(1))
            found[name] = found[name] + update.reshape(found[name].shape)
    return found


def project(state: toys.State, x: Tensor) -> Tensor:
    """One embedding: norm, two layers with SiLU, gated residual, centred, of unit length."""
    normed = (x - x.mean()) / ((x - x.mean()).square().mean() + 1e-5).sqrt() * state["ln.weight"] + state[
        "ln.bias"
    ]
    inner = state["fc1.weight"] @ normed + state["fc1.bias"]
    out = state["fc2.weight"] @ (inner / (1 + torch.exp(-inner))) + state["fc2.bias"]
    out = out + x / (1 + math.exp(-float(state["beta_logit"])))
    out = out - out.mean()
    return out / out.square().sum().sqrt()


def embedded_by_hand(
    toy: toys.Toy, state: toys.State, pairs: Pairs, scale: float, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeddings of CLS (D) and of every patch (N, D) of one picture, unit length."""
    positions = None
    grid = (pixels.shape[1] // toy.patch, pixels.shape[2] // toy.patch)
    if not toy.rotary and grid != (toy.grid, toy.grid):
        positions = toys.bicubic_positions(state["pos_embed"][0], grid, offset=0.1)
    tokens = toys.last_block(adapted(state, pairs, "extractor.model.", scale), toy, pixels, positions)
    heads = {
        kind: adapted({k: t.double() for k, t in head_state(i).items()}, pairs, f"mlp_{kind}.", scale)
        for i, kind in enumerate(("cls", "patch"))
    }
    patches = tokens[1 + toy.registers :]
    return project(heads["cls"], tokens[0]), torch.stack(
        [project(heads["patch"], token) for token in patches]
    )


def same_as_by_hand(
    model: IDSim, toy: toys.Toy, state: toys.State, pairs: Pairs, scale: float, side: int = 32
) -> None:
    pixels = toys.random_pixels(2, side, side)
    found = model(pixels)
    for i in range(2):
        cls, patches = embedded_by_hand(toy, state, pairs, scale, pixels[i])
        unit = torch.nn.functional.normalize
        torch.testing.assert_close(unit(found.cls[i], dim=0), cls.float(), rtol=1e-5, atol=1e-5)
        flat = unit(found.patches[i].flatten(0, 1), dim=1)
        torch.testing.assert_close(flat, patches.float(), rtol=1e-5, atol=1e-5)
        assert float(found.cls[i].mean().abs()) < 1e-5


BACKBONES: dict[str, tuple[toys.Toy, str]] = {
    "DINOv2": (toys.DINOV2, "dinov2_vitb14_pretrain.pth"),
    "DINOv3": (toys.Toy(scales=True, registers=4, rotary=True, eps=1e-5), "dinov3_vitl16_pretrain.pth"),
}

TARGETS: dict[str, tuple[list[str] | str, list[str]]] = {
    "qkv": (["qkv"], ["qkv"]),
    "full names": (["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"], list(INNER)),
    # these match the convolution of the patches and the heads too
    "bare names": (["qkv", "proj", "fc1", "fc2"], ["qkv", "proj", "fc1", "fc2"]),
    "pattern": (r".*blocks\.\d+\.(attn\.qkv|mlp\.fc[12])", ["attn.qkv", "mlp.fc1", "mlp.fc2"]),
}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("case", TARGETS)
def test_embeddings_are_those_of_the_fused_original(tmp_path: Path, backbone: str, case: str) -> None:
    (toy, name), (targets, adapted_names) = BACKBONES[backbone], TARGETS[case]
    state, pairs = toys.meta_state(toy), adapted_layers(toy, adapted_names)
    assert (
        any("patch_embed" in layer for layer in pairs)
        == any("mlp_cls" in k for k in pairs)
        == (case == "bare names")
    )
    torch.save(state, tmp_path / name)
    save_checkpoint(tmp_path / "adapter", pairs, target_modules=targets, lora_alpha=6)
    model = load_idsim(tmp_path / "adapter", tmp_path / name)
    same_as_by_hand(model, toy, state, pairs, scale=6 / RANK, side=40 if case == "qkv" else 32)
    if case == "qkv":  # without the adapter it would be another network
        bare, _ = embedded_by_hand(toy, state, {}, 1.0, toys.random_pixels(1, 40, 40)[0])
        found = model(toys.random_pixels(1, 40, 40)).cls[0].double()
        assert float(bare @ found / found.norm()) < 0.999


def test_a_hub_folder_of_dinov3_is_the_same_backbone(tmp_path: Path) -> None:
    """As transformers converts Meta's file: qkv split, masked biases of the keys dropped."""
    toy, _ = BACKBONES["DINOv3"]
    state, pairs = toys.meta_state(toy), adapted_layers(toy, list(INNER))
    network = toys.hub_network("dinov3", intermediate_size=512)
    toys.save_raw(tmp_path / "hub", network, toys.dinov3_in_hub_names(state, toy.depth))
    save_checkpoint(tmp_path / "adapter", pairs, target_modules=list(INNER), lora_alpha=8)
    same_as_by_hand(load_idsim(tmp_path / "adapter", tmp_path / "hub"), toy, state, pairs, scale=8 / RANK)


def test_rank_stabilised_adapters_are_scaled_by_the_root(tmp_path: Path) -> None:
    toy = toys.DINOV2
    state, pairs = toys.meta_state(toy), adapted_layers(toy, ["qkv"])
    torch.save(state, tmp_path / "b.pth")
    save_checkpoint(tmp_path / "adapter", pairs, lora_alpha=3, use_rslora=True)
    model = load_idsim(tmp_path / "adapter", tmp_path / "b.pth")
    same_as_by_hand(model, toy, state, pairs, scale=3 / math.sqrt(RANK))


def test_adapters_in_the_names_of_transformers(tmp_path: Path) -> None:
    toy = toys.DINOV2
    state = toys.meta_state(toy)
    torch.save(state, tmp_path / "b.pth")
    pairs: Pairs = {}
    fused: Pairs = {}
    for n in range(toy.depth):
        parts = {
            part: random_pair(128, 128, seed=3 * n + i) for i, part in enumerate(("query", "key", "value"))
        }
        pairs |= {f"encoder.layer.{n}.attention.attention.{part}": pair for part, pair in parts.items()}
        # stacked: A of all three one below the other, B on the diagonal
        a = torch.cat([pair[0] for pair in parts.values()])
        fused[f"extractor.model.blocks.{n}.attn.qkv"] = (a, torch.block_diag(*(p[1] for p in parts.values())))
    save_checkpoint(tmp_path / "adapter", pairs, target_modules=["query", "key", "value"], lora_alpha=2)
    same_as_by_hand(load_idsim(tmp_path / "adapter", tmp_path / "b.pth"), toy, state, fused, scale=2 / RANK)


def test_adapters_in_todays_names_of_dinov3_and_of_its_patches(tmp_path: Path) -> None:
    network = toys.hub_network("dinov3")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layers = {f"model.layer.{n}.attention.q_proj": random_pair(128, 128, seed=n) for n in (0, 1)}
    a, b = random_pair(128, 192, seed=7)
    patches = "wrapper.embeddings.patch_embeddings"
    layers[patches] = (a.reshape(4, 3, 8, 8), b[:, :, None, None])
    toys.save_adapter(tmp_path, layers, target_modules=["q_proj", "patch_embeddings"], lora_alpha=8)
    merge(read_adapter(tmp_path), network)
    after = network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    patch_weight = "embeddings.patch_embeddings.weight"
    assert changed == {patch_weight, *(f"model.layer.{n}.attention.q_proj.weight" for n in (0, 1))}
    update = (after[patch_weight] - before[patch_weight]).flatten(1)
    torch.testing.assert_close(update, 8 / RANK * b @ a, rtol=1e-4, atol=1e-5)


# what is refused


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint for qkv, and the file of its backbone."""
    torch.save(toys.meta_state(toys.DINOV2), tmp_path / "backbone.pth")
    checkpoint = save_checkpoint(tmp_path / "checkpoint", adapted_layers(toys.DINOV2, ["qkv"]))
    load_idsim(checkpoint, tmp_path / "backbone.pth")  # it is good so far
    return checkpoint, tmp_path / "backbone.pth"


def rewrite(checkpoint: Path, change: Callable[[toys.State], object]) -> None:
    path = checkpoint / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


FIRST = "base_model.model.extractor.model.blocks.0.attn.qkv.lora_"


def moved(state: toys.State, pattern: str, replacement: str) -> None:
    for name in list(state):
        state[name.replace(pattern, replacement)] = state.pop(name)


ADAPTERS: dict[str, tuple[Callable[[toys.State], object], str]] = {
    "untrained": (
        lambda s: s.update({k: torch.zeros_like(t) for k, t in s.items() if "lora_B" in k}),
        "changes nothing: all its updates are zero",
    ),
    "empty": (lambda s: s.clear(), "has no tensors"),
    "half a pair": (
        lambda s: s.pop(f"{FIRST}A.weight"),
        r"expected A \(4, I\) and B \(O, 4\) for .*blocks\.0\.attn\.qkv",
    ),
    "fewer blocks": (
        lambda s: [s.pop(f"{FIRST}{side}.weight") for side in "AB"],
        r"does not fit this network: .*3 names are missing \(blocks\.0\.k\.weight, blocks\.0\.q\.weight, blocks\.0\.v",
    ),
    "more blocks": (
        lambda s: s.update(
            {k.replace("blocks.0", f"blocks.{n}"): t.clone() for k, t in list(s.items()) for n in (2, 3)}
        ),
        r"does not fit.*6 are unexpected \(blocks\.2\.k\.weight, .*, blocks\.3\.q\.weight, …\)",
    ),
    "other names": (
        lambda s: moved(s, "attn.qkv", "attn.Wqkv"),
        r"does not fit.*unexpected \(blocks\.0\.attn\.Wqkv\.weight",
    ),
    "A turned": (
        lambda s: s.update({f"{FIRST}A.weight": s[f"{FIRST}A.weight"].T}),
        r"expected A \(4, I\) and B \(O, 4\).*'A': \(128, 4\)",
    ),
    "B turned": (
        lambda s: s.update({f"{FIRST}B.weight": s[f"{FIRST}B.weight"].T}),
        r"expected A .*'B': \(4, 384\)",
    ),
    "other rank": (
        lambda s: s.update({f"{FIRST}A.weight": torch.ones(5, 128), f"{FIRST}B.weight": torch.ones(384, 5)}),
        r"expected A \(4, I\)",
    ),
    "wider": (
        lambda s: s.update({f"{FIRST}A.weight": torch.ones(4, 192), f"{FIRST}B.weight": torch.ones(576, 4)}),
        r"update of blocks\.0\.q\.weight is \(192, 192\) and the weight \(128, 128\).*different size",
    ),
    "rows": (
        lambda s: s.update({f"{FIRST}B.weight": torch.ones(385, 4)}),
        r"update of blocks\.0\.q\.weight is \(129, 128\)",
    ),
    "few rows": (
        lambda s: s.update({f"{FIRST}B.weight": torch.ones(2, 4)}),
        r"update of blocks\.0\.q\.weight is \(1, 128\)",
    ),
    "NaN": (lambda s: s[f"{FIRST}A.weight"].fill_(torch.nan), "NaN or infinite values"),
    "a norm": (
        lambda s: s.update(
            {
                f"{FIRST.replace('attn.qkv', 'norm1').replace('.0.', f'.{n}.')}{side}.weight": tensor
                for n in (0, 1)
                for side, tensor in zip("AB", random_pair(128, 128), strict=True)
            }
        ),
        r"update of blocks\.\d\.norm1\.weight is \(128, 128\) and the weight \(128,\)",
    ),
    "biases": (
        lambda s: s.update({f"{FIRST}B.bias": torch.ones(384)}),
        r"lora_B\.bias is no tensor of a LoRA adapter",
    ),
    "DoRA": (
        lambda s: s.update({f"{FIRST}magnitude_vector": torch.ones(384)}),
        r"lora_magnitude_vector is no tensor of a LoRA adapter",
    ),
    "a whole layer": (
        lambda s: s.update({"base_model.model.mlp_cls.fc1.weight": torch.ones(2, 2)}),
        "is no tensor of a LoRA",
    ),
    "two adapters": (
        lambda s: s.update({f"{FIRST}A.default.weight": torch.ones(4, 128)}),
        r"has A of extractor\.model\.blocks\.0\.attn\.qkv twice",
    ),
    "one layer under two names": (
        lambda s: s.update(
            {
                f"base_model.model.blocks.0.attn.q_proj.lora_{side}.weight": tensor
                for side, tensor in zip("AB", random_pair(128, 128), strict=True)
            }
        ),
        "adapts the weights of .* twice, under two names",
    ),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_with_one_fault_are_refused(files: tuple[Path, Path], case: str) -> None:
    checkpoint, backbone = files
    change, message = ADAPTERS[case]
    rewrite(checkpoint, change)
    with pytest.raises(WeightsError, match=message) as caught:
        load_idsim(checkpoint, backbone)
    assert str(checkpoint / "adapter_model.safetensors") in str(caught.value)


SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "DoRA": ({"use_dora": True}, r"use_dora = True is not supported; only plain LoRA"),
    "biases": ({"bias": "lora_only"}, r"bias = 'lora_only' is not supported"),
    "ranks": ({"rank_pattern": {"blocks.0.attn.qkv": 2}}, "rank_pattern"),
    "alphas": ({"alpha_pattern": {"blocks.0.attn.qkv": 2}}, "alpha_pattern"),
    "whole modules": ({"modules_to_save": ["mlp_cls"]}, "modules_to_save"),
    "some blocks": ({"layers_to_transform": [0]}, "layers_to_transform"),
    "Conv1D": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "another method": ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
    "a changed backbone": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
    "a setting of tomorrow": ({"use_better_lora": True}, "use_better_lora = True is not supported"),
    "another setting of tomorrow": ({"better_config": {"strength": 1}}, "better_config"),
    "no rank": ({"r": 0}, "expected a rank r > 0"),
    "rank in words": ({"r": "four"}, "expected a rank r > 0"),
    "alpha of nothing": ({"lora_alpha": 0}, "lora_alpha other than 0"),
    "alpha of NaN": ({"lora_alpha": float("nan")}, "lora_alpha"),
    "no targets": ({"target_modules": None}, "target_modules"),
    "targets of numbers": ({"target_modules": [1, 2]}, "target_modules"),
    "no pattern": ({"target_modules": "attn(.qkv"}, r"target_modules; .*attn\("),
    "idle target": (
        {"target_modules": ["qkv", "fc1"]},
        r"contradict each other.*targets without a layer: fc1",
    ),
    "other target": (
        {"target_modules": ["proj"]},
        r"2 layers are no target \(extractor\.model\.blocks\.0\.attn\.qkv, .*proj",
    ),
    "pattern of more": (
        {"target_modules": r".*blocks\.\d+\.(attn\.qkv|mlp\.fc\d)"},
        r"2 weights that are targets are not adapted \(blocks\.0\.mlp_in\.weight, blocks\.0\.mlp_out\.weight\)",
    ),
    "all": (
        {"target_modules": "all-linear"},
        r"3 weights that are targets are not adapted \(blocks\.0\.mlp_in",
    ),
    "excluded": (
        {"exclude_modules": ["blocks.1.attn.qkv"]},
        r"1 layers are no target \(extractor\.model\.blocks\.1",
    ),
    "excluding numbers": ({"exclude_modules": {"a": 1}}, "exclude_modules"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_other_than_plain_lora_are_refused(files: tuple[Path, Path], case: str) -> None:
    checkpoint, backbone = files
    changes, message = SETTINGS[case]
    path = checkpoint / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(WeightsError, match=message) as caught:
        load_idsim(checkpoint, backbone)
    assert str(checkpoint) in str(caught.value)


def test_exclusions_and_harmless_settings_are_accepted(tmp_path: Path) -> None:
    torch.save(toys.meta_state(toys.DINOV2), tmp_path / "b.pth")
    layers = adapted_layers(toys.DINOV2, ["qkv", "attn.proj"])
    settings: dict[str, object] = {
        "target_modules": ["qkv", "proj"],
        "exclude_modules": r".*patch_embed\.proj",
        "init_lora_weights": "gaussian",
        "base_model_name_or_path": "somewhere",
        "runtime_config": {"ephemeral_gpu_offload": False},
        "some_setting_of_tomorrow": False,
    }
    load_idsim(save_checkpoint(tmp_path / "a", layers, **settings), tmp_path / "b.pth")


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "mlp_cls.pth", "mlp_patch.pth"]
)
def test_each_file_is_needed_whole(files: tuple[Path, Path], name: str) -> None:
    checkpoint, backbone = files
    path, content = checkpoint / name, (checkpoint / name).read_bytes()
    faults = {b"": "", b"<!DOCTYPE html><title>Sign in</title>": "", content[: len(content) // 2]: ""}
    for fault in faults:
        path.write_bytes(fault)
        with pytest.raises(WeightsError) as caught:
            load_idsim(checkpoint, backbone)
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(WeightsError, match=r"no such weights file|cannot be read") as caught:
        load_idsim(checkpoint, backbone)
    assert str(path) in str(caught.value)


HEADS: dict[str, tuple[Callable[[toys.State], object], str]] = {
    "no gate": (lambda s: s.pop("beta_logit"), "is no head of ID-Sim"),
    "gate of many": (lambda s: s.update(beta_logit=torch.ones(3)), "is no head of ID-Sim"),
    "no second layer": (lambda s: s.pop("fc2.bias"), r"1 names are missing \(fc2\.bias\)"),
    "one layer more": (
        lambda s: s.update({"fc3.weight": torch.ones(2)}),
        r"1 are unexpected \(fc3\.weight\)",
    ),
    "other widths": (
        lambda s: s.update({"fc2.weight": torch.ones(64, HIDDEN)}),
        r"\(64, 48\) instead of \(128, 48\)",
    ),
    "NaN": (lambda s: s["fc1.bias"].fill_(torch.nan), "NaN or infinite"),
    "half": (lambda s: s.update({k: t.half() for k, t in s.items()}), "another type"),
    "no matrix": (lambda s: s.update({"fc1.weight": torch.tensor(1.0)}), "is no head of ID-Sim"),
}


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize("name", ["mlp_cls.pth", "mlp_patch.pth"])
def test_heads_with_one_fault_are_refused(files: tuple[Path, Path], name: str, case: str) -> None:
    checkpoint, backbone = files
    change, message = HEADS[case]
    state = torch.load(checkpoint / name, weights_only=True)
    change(state)
    torch.save(state, checkpoint / name)
    with pytest.raises(WeightsError, match=message) as caught:
        load_idsim(checkpoint, backbone)
    assert str(checkpoint / name) in str(caught.value)


def test_a_gate_of_one_element_is_a_gate(files: tuple[Path, Path]) -> None:
    checkpoint, backbone = files
    pixels = toys.random_pixels(1, 32, 32)
    expected = load_idsim(checkpoint, backbone)(pixels).cls
    state = torch.load(checkpoint / "mlp_cls.pth", weights_only=True)
    torch.save(state | {"beta_logit": state["beta_logit"][None]}, checkpoint / "mlp_cls.pth")
    assert torch.equal(load_idsim(checkpoint, backbone)(pixels).cls, expected)


def test_a_checkpoint_of_another_backbone_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, _ = files
    deep = toys.Toy(scales=True, depth=3)
    torch.save(toys.meta_state(deep), tmp_path / "deep.pth")
    with pytest.raises(
        WeightsError, match=r"3 names are missing \(blocks\.2\.k\.weight, blocks\.2\.q\.weight"
    ):
        load_idsim(checkpoint, tmp_path / "deep.pth")
    torch.save(toys.meta_state(toys.Toy(width=192, heads=3, hidden=768, scales=True)), tmp_path / "wide.pth")
    with pytest.raises(
        WeightsError, match=r"heads are for a backbone of width \[128\], .*wide\.pth has width 192"
    ):
        load_idsim(checkpoint, tmp_path / "wide.pth")


def test_nothing_changes_where_an_adapter_does_not_fit(files: tuple[Path, Path], tmp_path: Path) -> None:
    deep = toys.Toy(scales=True, depth=3)
    torch.save(toys.meta_state(deep), tmp_path / "deep.pth")
    backbone = load_backbone(tmp_path / "deep.pth", "last-block")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(WeightsError):
        merge(read_adapter(files[0]), backbone.vit)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_untrained_heads_give_a_multiple_of_their_input(tmp_path: Path) -> None:
    x = torch.randn(3, 16)
    assert torch.allclose(Head(16)(x), x / (1 + math.exp(4)))
    torch.save(toys.meta_state(toys.DINOV2), tmp_path / "b.pth")
    with pytest.raises(ValueError, match="feature='last-block'"):
        IDSim(load_backbone(tmp_path / "b.pth"))


# as a metric

LARGE = toys.Toy(patch=56, grid=8, scales=True)
"""448 pixels in few patches."""


def weights_folder(root: Path, toy: toys.Toy = LARGE) -> Path:
    """Checkpoint and backbone, laid out as in the cache."""
    save_checkpoint(root / "chaenayo" / "id-sim_dinov2_vitb14_cls_patch", adapted_layers(toy, ["qkv"]))
    (root / "meta" / "dinov2_vitb14").mkdir(parents=True)
    torch.save(toys.meta_state(toy), root / "meta" / "dinov2_vitb14" / "dinov2_vitb14_pretrain.pth")
    return root


def test_scores_are_those_of_the_release(tmp_path: Path) -> None:
    import geomloss

    root = weights_folder(tmp_path)
    pictures = [toys.picture(1), toys.picture(2, 60, 30)]
    state, pairs = toys.meta_state(LARGE), adapted_layers(LARGE, ["qkv"])
    (cls_a, patches_a), (cls_b, patches_b) = (
        embedded_by_hand(LARGE, state, pairs, 32 / RANK, toys.squashed(image, 448, toys.IMAGENET))
        for image in pictures
    )
    pooled_a, pooled_b = patches_a.mean(0), patches_b.mean(0)
    transport = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.05, diameter=2.0, debias=False)
    distances = {
        "cls": 1 - float(cls_a @ cls_b),
        "patch": 1 - float(pooled_a @ pooled_b / pooled_a.norm() / pooled_b.norm()),
        "ot": float(transport(patches_a, patches_b)),
    }
    expected = {kind: 1 - distance for kind, distance in distances.items()}
    expected["joint"] = 1 - (distances["cls"] + distances["patch"]) / 2
    assert len({round(value, 3) for value in expected.values()}) == 4
    for kind, value in expected.items():
        metric = registry.build("id-sim-dinov2-b14", score=kind, device="cpu", weights=root)
        assert metric.similarity(*pictures)[0] == pytest.approx(value, abs=2e-5), kind
    default: Any = registry.build("id-sim-dinov2-b14", device="cpu", weights=root)
    assert (default.score, default.name) == ("cls", "id-sim-dinov2-b14")
    assert default.preprocessing == Preprocessing(448, "square", *toys.IMAGENET, filter="bicubic")  # type: ignore[arg-type]
    assert default.embed(pictures[0])[0] == pytest.approx(cls_a.float().numpy(), abs=1e-5)


def test_weights_in_the_cache_are_found_without_any_network(
    empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    toy, cache = (
        toys.Toy(patch=56, scales=True, registers=4, rotary=True, eps=1e-5),
        empty_caches / "identisim",
    )
    pairs, state = adapted_layers(toy, list(INNER)), toys.meta_state(toy)
    network = toys.hub_network("dinov3", intermediate_size=512, patch_size=56, image_size=224)
    hub = cache / "facebook" / "dinov3-vitb16-pretrain-lvd1689m"
    toys.save_raw(hub, network, toys.dinov3_in_hub_names(state, toy.depth))
    with pytest.raises(InputError, match=r"adapter_config\.json of chaenayo/id-sim_dinov3_vitb16_cls_patch"):
        monkeypatch.setenv("IDENTISIM_OFFLINE", "1")
        registry.build("id-sim-dinov3-b16", device="cpu")
    folder = cache / "chaenayo" / "id-sim_dinov3_vitb16_cls_patch"
    save_checkpoint(folder, pairs, target_modules=list(INNER))
    assert registry.weights_present(registry.find_card("id-sim-dinov3-b16"))
    metric: Any = registry.build("id-sim-dinov3-b16", device="cpu")
    pixels = toys.squashed(toys.picture(1), 448, toys.IMAGENET)
    cls, _ = embedded_by_hand(toy, state, pairs, 32 / RANK, pixels)
    assert metric.embed(toys.picture(1))[0] == pytest.approx(cls.float().numpy(), abs=1e-5)


def test_fingerprints_change_with_every_file(tmp_path: Path) -> None:
    first = weights_folder(tmp_path / "0", toys.DINOV2)
    fingerprint = registry.build("id-sim-dinov2-b14", device="cpu", weights=first).fingerprint
    again = shutil.copytree(first, tmp_path / "again")
    assert registry.build("id-sim-dinov2-b14", device="cpu", weights=again).fingerprint == fingerprint
    seen = {fingerprint}
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 5
    for i, name in enumerate(files):
        root = shutil.copytree(first, tmp_path / f"changed{i}")
        if name.suffix == ".json":
            (root / name).write_text(
                (root / name).read_text().replace('"lora_alpha": 32', '"lora_alpha": 31')
            )
        elif name.suffix == ".pth":
            state = torch.load(root / name, weights_only=True)
            next(iter(state.values())).view(-1)[0] += 1e-3
            torch.save(state, root / name)
        else:
            rewrite(root / name.parent, lambda s: next(iter(s.values())).view(-1)[0].add_(1e-3))
        seen.add(registry.build("id-sim-dinov2-b14", device="cpu", weights=root).fingerprint)
    assert len(seen) == 6


def test_checkpoints_of_other_sizes_take_any_multiple_of_the_patch(tmp_path: Path) -> None:
    root = weights_folder(tmp_path, toys.DINOV2)
    metric: Any = registry.build("id-sim-dinov2-b14@40", device="cpu", weights=root)
    assert metric.tokens(toys.picture(0)).patches.shape == (1, 5, 5, 128)
    with pytest.raises(InputError, match="multiples of 8; got 41: choose 40 or 48"):
        registry.build("id-sim-dinov2-b14@41", device="cpu", weights=root)


def test_a_folder_without_the_layout_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"mlp_cls\.pth: no such weights file"):
        registry.build("id-sim-dinov2-b14", device="cpu", weights=tmp_path)
    with pytest.raises(InputError, match=r"absent does not exist"):
        registry.build("id-sim-dinov2-b14", device="cpu", weights=tmp_path / "absent")
