"""Backbones from disk: Hugging Face folders and Meta's or open_clip's `.pth` files, strictly, without foreign code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from identisim.errors import InputError
from identisim.models.architecture import depth, shape_config
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
    r"|rope_embed\.|local_cls_norm\.)"
)
"""Names, in published files, that the image features do not need: classifiers, rotary periods (computed from their base
and compared in `architecture`), the norm that only training uses."""

IMPLEMENTATION: Final = (
    *("attn_implementation", "_attn_implementation", "dtype", "torch_dtype", "auto_map"),
    *("return_dict", "use_return_dict", "torchscript", "output_hidden_states", "output_attentions"),
)
"""Settings of a configuration that say how a network was run, not what it computes."""


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
    with about(path):
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
    with about(file):
        state = canonical_state(_used(published))
        config = shape_config(file, published, state, activation)
    return Checkpoint(config, state, (file,), _dtype(file, state))


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Turn what is raised inside into a WeightsError that says which file or folder it is about."""
    try:
        yield
    except InputError as error:
        raise WeightsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except Exception as error:  # impossible numbers and shapes raise anything, in transformers too
        raise WeightsError(
            f"{path}: its configuration, or the shapes of its tensors, make no network ({error!r})"
        ) from error


def _read_hub_folder(folder: Path) -> Checkpoint:
    path = folder / "config.json"
    kind, content = _hub_content(path)
    files = _hub_files(folder)
    published: dict[str, Tensor] = {}
    for file in files:
        shard = load_weights(file)
        if again := sorted(shard.keys() & published.keys()):
            raise WeightsError(f"{file} has {', '.join(again[:5])} again: another shard has them too")
        published |= shard
    with about(folder):
        state = canonical_state(_used(published))
    # before transformers counts up to the number of the configuration, which may be any
    if (told := content.get("num_hidden_layers", blocks := depth(folder, state))) != blocks:
        raise WeightsError(
            f"{path} describes {told} blocks, the weights beside it have {blocks}: they belong to different networks"
        )
    with about(path):
        config = KINDS[kind][0].from_dict(content)
    return Checkpoint(config, state, files, _dtype(folder, state))


def _hub_content(path: Path) -> tuple[str, dict[str, Any]]:
    """Type of a network, one of `KINDS`, and what its configuration says of what it computes."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = str(content["model_type"])
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{path} is no configuration of a network with a model_type ({error!r})"
        ) from error
    if kind in TOWERS:
        kind, content = TOWERS[kind], _tower(path, kind, content)
    if kind not in KINDS:
        needs = (
            "; it needs code of its own (auto_map), which identisim never runs"
            if "auto_map" in content
            else ""
        )
        raise WeightsError(
            f"{path}: networks of type {kind!r} are not supported{needs}; supported: {', '.join([*KINDS, *TOWERS])}"
        )
    return kind, {key: value for key, value in content.items() if key not in IMPLEMENTATION}


def _tower(path: Path, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """Configuration of the vision tower of a larger network."""
    vision = content.get("vision_config")
    if not isinstance(vision, dict):
        raise WeightsError(f"{path} is of type {kind} but has no vision_config")
    if vision.get("model_type", TOWERS[kind]) != TOWERS[kind]:
        raise WeightsError(
            f"{path}: its vision_config is of type {vision['model_type']!r}; expected {TOWERS[kind]!r}"
        )
    shared = {key: content[key] for key in ("projection_dim",) if key in content}
    return vision | shared


def _hub_files(folder: Path) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"{index} is no index of weights ({error!r})") from error
        if not names or not all(isinstance(name, str) for name in names):
            raise WeightsError(f"{index} is no index of weights: its weight_map names no files")
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
