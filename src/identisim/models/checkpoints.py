"""Backbones from disk: Hugging Face folders and Meta's or open_clip's `.pth` files, strictly, without foreign code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from identisim.models.architecture import shape_config
from identisim.models.backbone import KINDS, Backbone, Feature
from identisim.models.names import canonical_state, load_canonical
from identisim.models.weights import PICKLES, WeightsError, load_weights

TOWERS: Final = {
    "clip": "clip_vision_model",
    "siglip": "siglip_vision_model",
    "nearid": "siglip_vision_model",
}
"""`model_type` of a network that has a vision tower -> that of the tower."""

UNUSED: Final = re.compile(
    r"((vision_model\.)?embeddings\.position_ids|pooler\.|classifier\.|head\.(weight|bias)$"
    r"|rope_embed\.|local_cls_norm\.|cls_norm\.)"
)
"""Names, in published files, that the image features do not need: classifiers, rotary periods (computed from their base
and compared in `architecture`), norms that only training uses."""


@dataclass(frozen=True)
class Checkpoint:
    """A backbone's configuration and tensors, under canonical names, and the files they came from.

    dtype: of the floating-point tensors.
    """

    config: PreTrainedConfig
    state: dict[str, Tensor]
    files: tuple[Path, ...]
    dtype: torch.dtype


def load_backbone(
    path: Path, feature: Feature = "final", *, inside: str = "", activation: str = "gelu"
) -> Backbone:
    """Load a backbone in float32, ready for inference, from a Hugging Face folder or a file of Meta or open_clip.

    path: a folder with config.json and *.safetensors (one or sharded) or pytorch_model.bin; a `.pth`, `.pt` or
    `.safetensors` file in the layout of Meta (DINO, DINOv2, DINOv3) or open_clip (the image half of CLIP); or a folder
    that holds just one such file. inside: key of the state dict in a file of several. activation: of CLIP in a file
    without configuration: "gelu" for open_clip, "quick_gelu" for OpenAI's. Raises WeightsError for anything else, and
    when a single tensor is missing, left over, of another shape or not finite.
    """
    checkpoint = read_checkpoint(path, inside=inside, activation=activation)
    backbone = Backbone(checkpoint.config, feature)
    state = checkpoint.state
    if feature == "last-block":
        cut = ("norm.", "projection")
        state = {name: tensor for name, tensor in state.items() if not name.startswith(cut)}
    load_canonical(backbone.vit, state, checkpoint.dtype)
    return backbone.eval().requires_grad_(False)


def read_checkpoint(path: Path, *, inside: str = "", activation: str = "gelu") -> Checkpoint:
    """Read what `load_backbone` takes, without building the network."""
    if path.is_dir() and (path / "config.json").is_file():
        return _read_hub_folder(path)
    file = _only_weights(path) if path.is_dir() else path
    published = load_weights(file, inside=inside)
    state = canonical_state(_used(published))
    config = shape_config(file, published, state, activation)
    return Checkpoint(config, state, (file,), _dtype(file, state))


def _read_hub_folder(folder: Path) -> Checkpoint:
    config = _hub_config(folder / "config.json")
    files = _hub_files(folder)
    published: dict[str, Tensor] = {}
    for file in files:
        published |= load_weights(file)
    state = canonical_state(_used(published))
    return Checkpoint(config, state, files, _dtype(folder, state))


def _hub_config(path: Path) -> PreTrainedConfig:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        kind = str(content["model_type"])
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{path} is no configuration of a network with a model_type ({error!r})"
        ) from error
    if kind in TOWERS:
        if "vision_config" not in content:
            raise WeightsError(f"{path} is of type {kind} but has no vision_config")
        vision = dict(content["vision_config"])
        if "projection_dim" in content:
            vision["projection_dim"] = content["projection_dim"]
        kind, content = TOWERS[kind], vision
    if kind not in KINDS:
        needs = (
            "; it needs code of its own (auto_map), which identisim never runs"
            if "auto_map" in content
            else ""
        )
        raise WeightsError(
            f"{path}: networks of type {kind!r} are not supported{needs}; supported: {', '.join([*KINDS, *TOWERS])}"
        )
    content.pop("auto_map", None)
    return KINDS[kind][0].from_dict(content)


def _hub_files(folder: Path) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"{index} is no index of weights ({error!r})") from error
        if any(Path(name).name != name for name in names):
            raise WeightsError(f"{index} names files outside its folder")
        return tuple(folder / name for name in names)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return (folder / name,)
    raise WeightsError(f"{folder} has a config.json but neither model.safetensors nor pytorch_model.bin")


def _only_weights(folder: Path) -> Path:
    found = [file for file in sorted(folder.glob("*")) if file.suffix in (*PICKLES, ".safetensors")]
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise WeightsError(
            f"{folder}: expected a Hugging Face folder (config.json, model.safetensors) or just one weights file; "
            f"weights found: {names}"
        )
    return found[0]


def _used(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that image features need; of a network of images and text the image half."""
    towers = ("vision_model.", "visual.", "visual_projection.")
    if any(name.startswith(towers) for name in published):
        published = {name: tensor for name, tensor in published.items() if name.startswith(towers)}
    return {name: tensor for name, tensor in published.items() if not UNUSED.match(name)}


def _dtype(source: Path, state: dict[str, Tensor]) -> torch.dtype:
    types = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(types) != 1:
        raise WeightsError(
            f"{source}: expected floating-point weights of one type; got {sorted(map(str, types))}"
        )
    return types.pop()
