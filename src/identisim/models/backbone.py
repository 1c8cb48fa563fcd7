"""Vision transformers of `transformers` behind one class that returns `Tokens`.

Shapes: B images, H × W pixels, h = H / patch rows and w = W / patch columns of patches, D dimensions.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from identisim.errors import InputError
from identisim.models.tokens import Tokens

Feature = Literal["final", "last-block"]
"""final: behind the final norm (and CLIP's projection, SigLIP's attention pooling), what the network was published to
give. last-block: the output of the last block, before the final norm, as ID-Sim takes it (its release, `extractor`)."""

KINDS: Final[dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]]] = {
    "vit": (ViTConfig, ViTModel),
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    "dinov3_vit": (DINOv3ViTConfig, DINOv3ViTModel),
    "clip_vision_model": (CLIPVisionConfig, CLIPVisionModelWithProjection),
    "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
}
"""`model_type` of a configuration -> its classes."""

OFFSET: Final = 0.1
"""DINO and DINOv2 scale their positions to a grid this much larger than the one they need (their hub code)."""


class Backbone(nn.Module):
    """A vision transformer: normalised pixels (B, 3, H, W) -> `Tokens`, with H and W multiples of the patch.

    The size that it was made for may be none (SigLIP: 384 pixels, patches of 14); the remainder is left out then.
    The weights are random until `load_canonical` fills them. Attributes: kind, `model_type` of the configuration;
    patch, pixels a side of a patch; width, D of the patches; size, pixels a side of the pictures it was made for.
    """

    def __init__(self, config: PreTrainedConfig, feature: Feature = "final") -> None:
        super().__init__()
        if config.model_type not in KINDS:
            raise InputError(f"no backbone of type {config.model_type!r}; known are {', '.join(KINDS)}")
        self.kind: str = config.model_type
        self.feature = feature
        self.patch = _side(config.patch_size)
        self.size = _side(config.image_size)
        self.width = int(config.hidden_size)
        if self.kind == "siglip_vision_model" and not config.vision_use_head:
            raise InputError(
                "SigLIP without its attention pooling (vision_use_head is false) has no vector for a picture"
            )
        self.vit = _build(config)
        if feature == "last-block":
            _cut_behind_blocks(self.vit, self.kind)
        if self.kind in ("vit", "dinov2"):
            self.vit.embeddings.interpolate_pos_encoding = self._positions
        # what comes before the patches: CLS and registers
        registers = int(getattr(config, "num_register_tokens", 0))
        self.before = 0 if self.kind == "siglip_vision_model" else 1 + registers
        self._resampled: dict[tuple[int, int], Tensor] = {}

    def forward(self, pixels: Tensor) -> Tokens:
        """Features of B images; cls has the width of the projection for CLIP with feature "final"."""
        rows, columns = self._grid(pixels)
        if self.kind in ("vit", "clip_vision_model", "siglip_vision_model"):
            found = self.vit(pixel_values=pixels, interpolate_pos_encoding=True)
        else:
            found = self.vit(pixel_values=pixels)
        tokens = found.last_hidden_state
        cls = tokens[:, 0]
        if self.feature == "final" and self.kind == "clip_vision_model":
            cls = found.image_embeds
        elif self.kind == "siglip_vision_model":
            cls = found.pooler_output
        patches = tokens[:, self.before :]
        return Tokens(cls, patches.unflatten(1, (rows, columns)))

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(f"expected pixels (B, 3, H, W); got {tuple(pixels.shape)}")
        height, width = pixels.shape[2:]
        fits = height % self.patch == width % self.patch == 0 or height == width == self.size
        if not (fits and height and width):
            raise InputError(
                f"a backbone with patches of {self.patch} pixels takes sides that are multiples of {self.patch}; "
                f"got {height} × {width}"
            )
        return height // self.patch, width // self.patch

    def _positions(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Position embeddings for a picture of height × width pixels, as the hub code of DINO and DINOv2 has them.

        transformers scales them without the offset, which is a slightly different network off the native size.
        """
        positions = self.vit.embeddings.position_embeddings
        grid = (height // self.patch, width // self.patch)
        if positions.requires_grad:
            return resample_positions(positions, grid, OFFSET)
        if grid not in self._resampled:
            # what is kept must serve gradients and export too, whoever asked for it first
            with torch.inference_mode(False):
                self._resampled = {grid: resample_positions(positions, grid, OFFSET)}
        return self._resampled[grid].to(embeddings)

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self._resampled.clear()
        super()._load_from_state_dict(*arguments, **named)


def resample_positions(positions: Tensor, grid: tuple[int, int], offset: float = 0.0) -> Tensor:
    """Bring position embeddings (1, 1 + M², D) of CLS and an M × M grid to another grid: (1, 1 + h·w, D).

    Bicubic, not antialiased; the scale is that of a grid of h + offset rows and w + offset columns.
    """
    count, dimensions = positions.shape[1] - 1, positions.shape[2]
    side = math.isqrt(count)
    if grid == (side, side):
        return positions
    patches = positions[:, 1:].reshape(1, side, side, dimensions).permute(0, 3, 1, 2)
    scales = tuple((length + offset) / side for length in grid)
    # computed in float32: bicubic weights in half precision shift the positions
    resampled = F.interpolate(patches.float(), scale_factor=scales, mode="bicubic").to(positions.dtype)
    if resampled.shape[2:] != grid:
        raise InputError(f"positions of a {side} × {side} grid cannot be brought to {grid[0]} × {grid[1]}")
    return torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)


def _build(config: PreTrainedConfig) -> Any:
    if isinstance(config, ViTConfig):
        return ViTModel(config, add_pooling_layer=False)
    return KINDS[config.model_type][1](config)


def _cut_behind_blocks(vit: Any, kind: str) -> None:
    if kind == "siglip_vision_model":
        raise InputError(
            "SigLIP has no CLS token before its attention pooling: it has no feature 'last-block'"
        )
    if kind == "clip_vision_model":
        vit.vision_model.post_layernorm = nn.Identity()
        vit.visual_projection = nn.Identity()
    elif kind == "dinov3_vit":
        vit.norm = nn.Identity()
    else:
        vit.layernorm = nn.Identity()


def _side(length: int | list[int] | tuple[int, ...]) -> int:
    sides = {length} if isinstance(length, int) else set(length)
    if len(sides) != 1:
        raise InputError(f"expected square patches and pictures in the configuration; got {length}")
    return sides.pop()
