"""Low-rank adapters in PEFT's file layout, read strictly and merged into a backbone.

PEFT itself loads leniently: an adapter whose names do not fit leaves the bare backbone, with a warning at most. Here
every tensor of the file finds its layer and every layer that the configuration names is adapted, or it is an error.

Shapes: r rank, I inputs and O outputs of a layer; A (r, I), B (O, r), update scale · B A (O, I).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from identisim.models.names import canonical_names, canonical_views
from identisim.models.weights import WeightsError, load_weights, require_same_names

UNDERSTOOD: Final = {"r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules"}
"""Settings of PEFT that are followed."""

HARMLESS: Final = {
    *(
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "lora_dropout",
        "peft_version",
        "revision",
    ),
    *("task_type", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config"),
}
"""Settings of PEFT that change nothing once an adapter is trained, or without another one that is refused."""

PLAIN: Final[dict[str, tuple[object, ...]]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # the other ways to begin, such as PiSSA, change the backbone, which the adapter then belongs to
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),
}
"""Settings with the only values that are merged here; of all others that is null, false or empty."""

INNER: Final = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.w12", "mlp.w1", "mlp.w2", "mlp.w3")
"""Linear layers of a block in Meta's layout, which the released adapters were trained on."""

_KEY: Final = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
_INSIDE: Final = re.compile(
    r"(?:.*?\.)??((?:blocks|layers?|resblocks|patch_embed|patch_embeddings)\..+|patch_embeddings$)"
)
"""A layer inside a wrapper, such as extractor.model.blocks.3.attn.qkv."""


@dataclass(frozen=True)
class Adapter:
    """A plain LoRA adapter. layers: path of a layer in the network it was trained on -> A and B."""

    rank: int
    scale: float
    targets: tuple[str, ...] | str
    excluded: tuple[str, ...] | str
    layers: Mapping[str, tuple[Tensor, Tensor]]
    path: Path

    def update(self, layer: str) -> Tensor:
        """What the adapter adds to the weight of a layer, as a matrix: (O, I), of a convolution (O, I · kernel)."""
        a, b = self.layers[layer]
        return self.scale * (b.flatten(1).float() @ a.flatten(1).float())

    def matches(self, layer: str) -> bool:
        """Whether PEFT would adapt a layer of that path: by the end of its name, or by a whole pattern."""
        if self.targets == "all-linear":
            return not layer.endswith("patch_embed.proj") and not _named(self.excluded, layer)
        return _named(self.targets, layer) and not _named(self.excluded, layer)


def _named(names: tuple[str, ...] | str, layer: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def read_adapter(folder: Path) -> Adapter:
    """Read adapter_config.json and adapter_model.safetensors (or .bin) of a folder.

    Raises WeightsError for a missing or damaged file, for settings other than plain LoRA, for tensors that are no
    pairs of A and B of the rank stated, for values that are not finite, and for an adapter that changes nothing.
    """
    config = _read_config(folder / "adapter_config.json")
    path = folder / "adapter_model.safetensors"
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        path = folder / "adapter_model.bin"
    rank, targets, excluded = int(config["r"]), config["target_modules"], config.get("exclude_modules") or ()
    root = math.sqrt(rank) if config.get("use_rslora") else rank
    layers = _pairs(path, load_weights(path), rank)
    adapter = Adapter(
        rank=rank,
        scale=float(config["lora_alpha"]) / root,
        targets=targets if isinstance(targets, str) else tuple(targets),
        excluded=excluded if isinstance(excluded, str) else tuple(excluded),
        layers=layers,
        path=path,
    )
    if not any(bool(b.any()) and bool(a.any()) for a, b in layers.values()):
        raise WeightsError(f"{path}: the adapter changes nothing: all its updates are zero (was it trained?)")
    return adapter


def merge(adapter: Adapter, backbone: nn.Module, heads: Mapping[str, nn.Module] | None = None) -> None:
    """Add the updates of an adapter to the weights of a backbone, and of heads beside it, in place.

    The adapter may have been trained on Meta's layout (attn.qkv is split) or on that of transformers. heads: path ->
    module, such as mlp_cls. Raises WeightsError, before any weight changes, for a layer that the network lacks, a kind
    of layer that is not adapted in every block, layers other than those that the configuration names, and other shapes.
    """
    weights = canonical_views(backbone)
    for path, head in (heads or {}).items():
        weights |= {f"{path}.{name}": parameter.detach() for name, parameter in head.named_parameters()}
    updates: dict[str, Tensor] = {}
    for layer in adapter.layers:
        names = _weights_of(layer, heads or {})
        # parts of unequal length do not fit their weights, which is found below
        for name, part in zip(names, adapter.update(layer).tensor_split(len(names)), strict=True):
            if name in updates:
                raise WeightsError(f"{adapter.path} adapts the weights of {layer} twice, under two names")
            updates[name] = part
    _require_fit(adapter, updates, weights)
    _require_all(adapter, updates, weights)
    with torch.no_grad():
        for name, update in updates.items():
            weights[name].add_(update.reshape(weights[name].shape))


def _weights_of(layer: str, heads: Iterable[str]) -> tuple[str, ...]:
    """Names, in the vocabulary of `canonical_views`, of the weights that an adapted layer stands for."""
    for head in heads:
        if layer.startswith(f"{head}.") or f".{head}." in layer:
            return (f"{head}.{layer.rpartition(f'{head}.')[2]}.weight",)
    inside = _INSIDE.match(layer)
    return canonical_names(f"{inside.group(1) if inside else layer}.weight")


def _require_fit(adapter: Adapter, updates: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    kinds = {_kind(name) for name in updates}
    expected = {name for name in weights if _kind(name) in kinds}
    try:
        require_same_names(expected, updates)
    except WeightsError as error:
        raise WeightsError(f"{adapter.path} does not fit this network: {error}") from error
    for name, update in updates.items():
        flat = tuple(weights[name].flatten(1).shape) if weights[name].ndim > 1 else tuple(weights[name].shape)
        if update.shape != flat:
            raise WeightsError(
                f"{adapter.path}: its update of {name} is {tuple(update.shape)} and the weight {flat}: "
                "they belong to backbones of different size"
            )
    strangers = [layer for layer in adapter.layers if not adapter.matches(layer)]
    idle = [
        target
        for target in (() if isinstance(adapter.targets, str) else adapter.targets)
        if not any(_named((target,), layer) for layer in adapter.layers)
        and not _named(adapter.excluded, target)
    ]
    if strangers or idle:
        raise WeightsError(
            f"{adapter.path} and its adapter_config.json contradict each other: {len(strangers)} layers are no target "
            f"({', '.join(strangers[:5]) or 'none'}), targets without a layer: {', '.join(idle) or 'none'}"
        )


def _require_all(adapter: Adapter, updates: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise WeightsError where the configuration names a layer of the backbone that the adapter leaves as it is.

    Only layers under Meta's names are looked for. Every block is like the first, which `_require_fit` has found out.
    """
    found = [start[0] for layer in adapter.layers if (start := re.match(r"(?:.*\.)?(?=blocks\.0\.)", layer))]
    paths = ["patch_embed.proj", *(f"blocks.0.{inner}" for inner in INNER)]
    lacking = {
        name
        for path in (start + path for start in set(found) for path in paths)
        if adapter.matches(path)
        for name in _weights_of(path, ())
        if name in weights and name not in updates
    }
    if lacking:
        raise WeightsError(
            f"{adapter.path} and its adapter_config.json contradict each other: {len(lacking)} weights that are "
            f"targets are not adapted ({', '.join(sorted(lacking)[:5])})"
        )


def _kind(name: str) -> str:
    """Name of a weight without the number of its block."""
    return re.sub(r"^blocks\.\d+\.", "blocks.", name)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
        rank, alpha, targets = config["r"], config["lora_alpha"], config["target_modules"]
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); an adapter needs it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no configuration of a LoRA adapter ({error!r})") from error
    if not (
        isinstance(rank, int)
        and rank > 0
        and isinstance(alpha, (int, float))
        and math.isfinite(alpha)
        and alpha
        and _are_names(targets)
    ):
        raise WeightsError(
            f"{path}: expected a rank r > 0, a finite lora_alpha other than 0 and target_modules; "
            f"got {rank!r}, {alpha!r} and {targets!r}"
        )
    for key, value in config.items():
        if key in UNDERSTOOD | HARMLESS or value is None or value is False or value in ("", [], {}):
            continue
        if value not in PLAIN.get(key, ()):
            raise WeightsError(f"{path}: {key} = {value!r} is not supported; only plain LoRA is")
    if (excluded := config.get("exclude_modules")) and not _are_names(excluded):
        raise WeightsError(f"{path}: exclude_modules = {excluded!r}; expected names or a pattern")
    return dict(config)


def _are_names(value: object) -> bool:
    """Whether a value is a valid pattern, or a list of names, and not empty."""
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error:
            return False
        return bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _pairs(path: Path, state: Mapping[str, Tensor], rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise WeightsError(f"{path}: {name} is no tensor of a LoRA adapter")
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{path}: {name} has NaN or infinite values")
        sides = found.setdefault(match["layer"], {})
        if match["side"] in sides:
            raise WeightsError(f"{path} has {match['side']} of {match['layer']} twice: {name} is another")
        sides[match["side"]] = tensor
    for layer, sides in found.items():
        shapes = {side: tuple(tensor.shape) for side, tensor in sides.items()}
        if (
            sides.keys() != {"A", "B"}
            or sides["B"].ndim < 2
            or not (len(sides["A"]) == sides["B"].shape[1] == rank)
        ):
            raise WeightsError(f"{path}: expected A ({rank}, I) and B (O, {rank}) for {layer}; got {shapes}")
    if not found:
        raise WeightsError(f"{path}: the adapter has no tensors")
    return {layer: (sides["A"], sides["B"]) for layer, sides in found.items()}
