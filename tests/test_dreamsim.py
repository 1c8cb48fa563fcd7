"""DreamSim from the files of its archives, every variant, against a computation by hand."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import toy_backbones as toys
from identisim.errors import InputError
from identisim.metrics import registry
from identisim.models.weights import WeightsError

RANK = 4

# 224 pixels in few patches
DINO = toys.Toy(patch=56, grid=4)
DINOV2 = toys.Toy(patch=56, grid=5, scales=True)
CLIP = toys.Toy(patch=56, grid=4, eps=1e-5, activation="quick_gelu")
OPEN_CLIP = toys.Toy(patch=56, grid=4, eps=1e-5)


@dataclass(frozen=True)
class Branch:
    """A backbone as the release uses it. file: in the folder of the archive, or of Meta below the root."""

    toy: toys.Toy
    file: str
    scaling: toys.Scaling = toys.IMAGENET
    clip: bool = False


META_DINO = "meta/dino_vitb16/dino_vitbase16_pretrain.pth"
META_DINOV2 = "meta/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
VARIANTS: dict[str, tuple[str, str, list[Branch], bool]] = {
    "ensemble": (
        "dreamsim_ensemble_checkpoint",
        "ensemble_lora",
        [
            Branch(DINO, META_DINO),
            Branch(CLIP, "clip_vitb16_pretrain.pth.tar", toys.OPENAI, clip=True),
            Branch(OPEN_CLIP, "open_clip_vitb16_pretrain.pth.tar", toys.OPENAI, clip=True),
        ],
        False,
    ),
    "dino": ("dreamsim_dino_vitb16_checkpoint", "dino_vitb16_single_lora", [Branch(DINO, META_DINO)], False),
    "clip": (
        "dreamsim_clip_vitb32_checkpoint",
        "clip_vitb32_single_lora",
        [Branch(CLIP, "clip_vitb32_pretrain.pth.tar", toys.OPENAI, clip=True)],
        False,
    ),
    "openclip": (
        "dreamsim_open_clip_vitb32_checkpoint",
        "open_clip_vitb32_single_lora",
        [Branch(OPEN_CLIP, "open_clip_vitb32_pretrain.pth.tar", toys.OPENAI, clip=True)],
        False,
    ),
    "dinov2": (
        "dreamsim_dinov2_vitb14_checkpoint",
        "dinov2_vitb14_single_lora",
        [Branch(DINOV2, META_DINOV2)],
        False,
    ),
    "synclr": (
        "dreamsim_synclr_vitb16_checkpoint",
        "synclr_vitb16_single_lora",
        [Branch(DINO, "synclr_vit_b_16.pth")],
        False,
    ),
    "dino-patch": (
        "dreamsim_dino_vitb16_patch_checkpoint",
        "dino_vitb16_patch_lora",
        [Branch(DINO, META_DINO)],
        True,
    ),
    "dinov2-patch": (
        "dreamsim_dinov2_vitb14_patch_checkpoint",
        "dinov2_vitb14_patch_lora",
        [Branch(DINOV2, META_DINOV2)],
        True,
    ),
}
"""Name -> folder of the archive, folder of the adapter in it, backbones in order, whether patches count."""


def branch_state(branch: Branch, index: int) -> toys.State:
    return toys.dreamsim_clip_state(branch.toy, index) if branch.clip else toys.meta_state(branch.toy, index)


def adapter_pairs(branches: list[Branch]) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        f"extractor_list.{i}.model.blocks.{n}.attn.qkv": toys.random_pair(384, 128, RANK, seed=10 * i + n)
        for i, branch in enumerate(branches)
        for n in range(branch.toy.depth)
    }


def weights_folder(root: Path, variant: str) -> Path:
    """The files that the archive and Meta's server leave in the cache."""
    folder, adapter, branches, _ = VARIANTS[variant]
    archive = root / "dreamsim" / folder
    for index, branch in enumerate(branches):
        state: dict[str, Any] = branch_state(branch, index)
        path = (root if branch.file.startswith("meta/") else archive) / branch.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if branch.clip:
            state = {"state_dict": state}
        elif branch.file.startswith("synclr"):
            state = {
                "model": {f"module.visual.{name}": tensor for name, tensor in state.items()},
                "epoch": 90,
            }
        torch.save(state, path)
    toys.save_adapter(archive / adapter, adapter_pairs(branches), lora_alpha=10)
    return root


def tokens_by_hand(variant: str, index: int, image: np.ndarray) -> Tensor:
    """Tokens of one branch behind the last block."""
    branch = VARIANTS[variant][2][index]
    state = {name: tensor.double() for name, tensor in branch_state(branch, index).items()}
    for layer, (a, b) in adapter_pairs(VARIANTS[variant][2]).items():
        if layer.startswith(f"extractor_list.{index}."):
            name = f"{layer.removeprefix(f'extractor_list.{index}.model.')}.weight"
            state[name] = state[name] + 10 / RANK * (b.double() @ a.double())
    positions = None
    if branch.toy.grid != 4:  # DINOv2's are resampled, as its hub code does
        positions = toys.bicubic_positions(state["pos_embed"][0], (4, 4), offset=0.1)
    tokens = toys.last_block(state, branch.toy, toys.squashed(image, 224, branch.scaling), positions)
    if branch.clip:
        return (toys.final_norm(state, branch.toy, tokens[0]) @ state["proj"])[None]
    return tokens


def vector_by_hand(variant: str, image: np.ndarray) -> Tensor:
    """The embedding of the release, of unit length."""
    _, _, branches, patches = VARIANTS[variant]
    if not patches:
        vector = torch.cat([tokens_by_hand(variant, i, image)[0] for i in range(len(branches))])
        return unit(vector - vector.mean())
    tokens = torch.stack([unit(token - token.mean()) for token in tokens_by_hand(variant, 0, image)])
    return unit(torch.cat([tokens[0], tokens[1:].mean(0)]))


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_that_of_the_release(tmp_path: Path, variant: str) -> None:
    root = weights_folder(tmp_path, variant)
    metric: Any = registry.build(f"dreamsim-{variant}", device="cpu", weights=root)
    pictures = [toys.picture(1), toys.picture(2, 60, 30)]
    vectors = [vector_by_hand(variant, image) for image in pictures]
    found = metric.embed(pictures)
    expected = torch.stack(vectors).float().numpy()
    assert found.shape == {"ensemble": (2, 128 + 96 + 96), "dino-patch": (2, 256)}.get(
        variant, expected.shape
    )
    assert found == pytest.approx(expected, abs=1e-5)
    similarity = float(vectors[0] @ vectors[1])
    assert metric.similarity(*pictures)[0] == pytest.approx(similarity, abs=1e-5)
    assert similarity < 0.98
    assert metric.similarity(pictures[0], pictures[0])[0] == pytest.approx(1, abs=1e-6)


def test_a_variant_with_one_source_takes_its_own_folder(tmp_path: Path) -> None:
    root = weights_folder(tmp_path, "clip")
    folder = root / "dreamsim" / "dreamsim_clip_vitb32_checkpoint"
    a, b = (registry.build("dreamsim-clip", device="cpu", weights=path) for path in (root, folder))
    assert a.fingerprint == b.fingerprint
    assert a.similarity(toys.picture(1), toys.picture(2)) == b.similarity(toys.picture(1), toys.picture(2))


def change_adapter(root: Path, variant: str, changes: dict[str, str]) -> Path:
    """Rename what begins with a key to what begins with its value, "" to drop it; the path of the file."""
    folder, adapter, _, _ = VARIANTS[variant]
    path = root / "dreamsim" / folder / adapter / "adapter_model.safetensors"
    state = load_file(path)
    for start, replacement in changes.items():
        for name in [name for name in state if f".{start}." in name]:
            tensor = state.pop(name)
            if replacement:
                state[name.replace(start, replacement)] = tensor
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extractor_list.1": ""}, "has nothing for backbone 1 of the ensemble"),
        ({"extractor_list.2": "extractor_list.3"}, "has nothing for backbone 2 of the ensemble"),
        ({"extractor_list.0": "extractor_list.first"}, "has nothing for backbone 0 of the ensemble"),
        (
            {"extractor_list.1.model.blocks.1": ""},
            r"does not fit this network: .*missing \(blocks\.1\.k\.weight",
        ),
    ],
)
def test_an_adapter_without_a_branch_is_refused(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    root = weights_folder(tmp_path, "ensemble")
    path = change_adapter(root, "ensemble", changes)
    with pytest.raises(WeightsError, match=message) as caught:
        registry.build("dreamsim-ensemble", device="cpu", weights=root)
    assert str(path) in str(caught.value)


def test_an_adapter_of_more_branches_is_refused(tmp_path: Path) -> None:
    root = weights_folder(tmp_path, "dino")
    ensemble = weights_folder(tmp_path / "other", "ensemble") / "dreamsim" / "dreamsim_ensemble_checkpoint"
    shutil.copytree(
        ensemble / "ensemble_lora",
        root / "dreamsim" / "dreamsim_dino_vitb16_checkpoint" / "dino_vitb16_single_lora",
        dirs_exist_ok=True,
    )
    with pytest.raises(
        WeightsError, match=r"adapts 4 layers of no backbone here, such as extractor_list\.[12]\."
    ):
        registry.build("dreamsim-dino", device="cpu", weights=root)


@pytest.mark.parametrize("name", ["clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar"])
def test_each_backbone_of_the_archive_is_needed(tmp_path: Path, name: str) -> None:
    root = weights_folder(tmp_path, "ensemble")
    path = root / "dreamsim" / "dreamsim_ensemble_checkpoint" / name
    state = torch.load(path, weights_only=True)
    for content, message in (
        ({"model": state["state_dict"]}, "holds no 'state_dict'"),
        (
            {"state_dict": {k: t for k, t in state["state_dict"].items() if k != "proj"}},
            r"missing \(projection\)",
        ),
        (
            {"state_dict": state["state_dict"] | {"head.bias.x": torch.ones(1)}},
            r"unexpected \(head\.bias\.x\)",
        ),
        ({"state_dict": {k: t for k, t in state["state_dict"].items() if "pos_drop" not in k}}, "unexpected"),
    ):
        torch.save(content, path)
        with pytest.raises(WeightsError, match=message) as caught:
            registry.build("dreamsim-ensemble", device="cpu", weights=root)
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(WeightsError, match=rf"{name}: no such weights file"):
        registry.build("dreamsim-ensemble", device="cpu", weights=root)


def test_fingerprints_change_with_every_file(tmp_path: Path) -> None:
    first = weights_folder(tmp_path / "0", "ensemble")
    seen = {registry.build("dreamsim-ensemble", device="cpu", weights=first).fingerprint}
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 5
    for i, name in enumerate(files):
        root = shutil.copytree(first, tmp_path / f"changed{i}")
        if name.suffix == ".json":
            (root / name).write_text(
                (root / name).read_text().replace('"lora_alpha": 10', '"lora_alpha": 11')
            )
        elif name.suffix == ".safetensors":
            state = load_file(root / name)
            next(iter(state.values())).view(-1)[0] += 1e-3
            save_file(state, root / name)
        else:
            content = torch.load(root / name, weights_only=True)
            inner = content.get("state_dict", content)
            inner["cls_token"].view(-1)[0] += 1e-3
            torch.save(content, root / name)
        seen.add(registry.build("dreamsim-ensemble", device="cpu", weights=root).fingerprint)
    assert len(seen) == 6


def test_other_sizes_and_scores_are_refused(tmp_path: Path) -> None:
    root = weights_folder(tmp_path, "dino")
    with pytest.raises(InputError, match="one input size only: leave @448 out"):
        registry.build("dreamsim-dino@448", device="cpu", weights=root)
    with pytest.raises(InputError, match="no score kind 'ot'; choose one of: cls"):
        registry.build("dreamsim-dino", score="ot", device="cpu", weights=root)
