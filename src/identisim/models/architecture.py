"""Configuration of a backbone from the shapes of its tensors, for files that come without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PreTrainedConfig,
    ViTConfig,
)

from identisim.models.weights import WeightsError

PERIOD_TOLERANCE: Final = 0.01
"""Relative; files of DINOv3 may hold their periods in bfloat16."""

HEAD: Final = 64
"""Dimensions of an attention head, where the file or the table below does not say otherwise."""

WIDE_HEADS: Final = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
"""Width of CLIP -> dimensions of a head: ViT-H, g, bigG and e in open_clip's model_configs."""

NEEDED: Final = (
    "cls",
    "patch.weight",
    "blocks.0.norm1.weight",
    "blocks.0.q.weight",
    "blocks.0.mlp_in.weight",
)


def shape_config(
    file: Path, published: Mapping[str, Tensor], state: dict[str, Tensor], activation: str
) -> PreTrainedConfig:
    """Configuration of a file in the layout of DINO, DINOv2, DINOv3 or open_clip.

    published: tensors under the file's own names. state: under canonical names; tensors that are zero by design, for
    which transformers has no place, are checked and taken out. activation: of CLIP, which no shape tells. Raises
    WeightsError for a file that is none of these.
    """
    if missing := [name for name in NEEDED if name not in state]:
        raise WeightsError(
            f"{file} is not a vision transformer in the layout of DINO, DINOv2, DINOv3 or open_clip: "
            f"no {', '.join(missing)}"
        )
    width = state["cls"].numel()
    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth(file, state),
        "patch_size": state["patch.weight"].shape[-1],
    }
    if "rope_embed.periods" in published:
        return _dinov3(file, published["rope_embed.periods"].float(), state, shape)
    if "positions" not in state:
        raise WeightsError(f"{file} has neither position embeddings nor rotary periods")
    side = round((state["positions"].shape[-2] - 1) ** 0.5)
    shape |= {"num_attention_heads": width // HEAD, "image_size": side * shape["patch_size"]}
    hidden = len(state["blocks.0.mlp_in.weight"])
    if "pre_norm.weight" in state:
        _take_out_zeros(file, state, "patch.bias")
        projection = state["projection"].shape[0] if "projection" in state else width
        shape["num_attention_heads"] = width // WIDE_HEADS.get(width, HEAD)
        return CLIPVisionConfig(
            **shape, intermediate_size=hidden, projection_dim=projection, hidden_act=activation
        )
    if "blocks.0.scale1" not in state:
        return ViTConfig(**shape, intermediate_size=hidden, layer_norm_eps=1e-6)
    shape["use_swiglu_ffn"] = "blocks.0.mlp_gate.weight" in state
    if "registers" in state:
        return Dinov2WithRegistersConfig(**shape, num_register_tokens=state["registers"].shape[-2])
    return Dinov2Config(**shape)


def depth(file: Path, state: Mapping[str, Tensor]) -> int:
    """Number of blocks under canonical names. Raises WeightsError unless they are numbered from 0 without a gap."""
    found = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    # strings are compared: a number of any size would be counted up to otherwise
    if strangers := sorted(found - {str(n) for n in range(len(found))}):
        raise WeightsError(
            f"{file}: expected blocks 0 to {len(found) - 1}; got {', '.join(f'blocks.{n}' for n in strangers[:5])}"
        )
    return len(found)


def _dinov3(file: Path, periods: Tensor, state: dict[str, Tensor], shape: dict[str, Any]) -> PreTrainedConfig:
    gated = "blocks.0.mlp_gate.weight" in state
    _take_out_zeros(file, state, "k.bias")
    width = shape["hidden_size"]
    if "registers" not in state or periods.ndim != 1 or not len(periods) or width % (4 * len(periods)):
        raise WeightsError(
            f"{file}: expected register tokens, and rotary periods for a quarter of a head that divides {width} "
            f"dimensions, as all files of DINOv3 have them; got {tuple(periods.shape)} periods"
        )
    config = DINOv3ViTConfig(
        **shape,
        num_attention_heads=width // (4 * len(periods)),
        intermediate_size=len(state["blocks.0.mlp_in.weight"]),
        num_register_tokens=state["registers"].shape[-2],
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        query_bias="blocks.0.q.bias" in state,
        value_bias="blocks.0.v.bias" in state,
    )
    expected = config.rope_theta ** (torch.arange(len(periods)) / len(periods))
    if not torch.allclose(periods, expected, rtol=PERIOD_TOLERANCE):
        raise WeightsError(f"{file}: its rotary periods are not those of base {config.rope_theta:g}")
    return config


def _take_out_zeros(file: Path, state: dict[str, Tensor], ending: str) -> None:
    for name in [name for name in state if name.endswith(ending)]:
        if bool(state[name].any()):
            raise WeightsError(f"{file}: {name} is not zero, as networks of this kind keep it")
        del state[name]
