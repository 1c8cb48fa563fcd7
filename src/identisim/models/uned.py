"""The winner of the Google Universal Image Embedding challenge: CLIP ViT-H/14 on overlapping patches, 64 dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from identisim.errors import InputError
from identisim.models.architecture import depth
from identisim.models.checkpoints import about
from identisim.models.names import canonical_state, load_canonical
from identisim.models.tokens import Tokens
from identisim.models.weights import WeightsError, load_into, load_weights

STRIDE: Final = 12
"""Pixels from patch to patch of 14 pixels: they overlap by two."""

HEAD: Final = 80
"""Dimensions of an attention head of ViT-H/14."""


class Uned(nn.Module):
    """Normalised pixels (B, 3, 290, 290) -> `Tokens`: cls (B, 64), patches (B, 24, 24, 1280) of the last block.

    The size follows from the position embeddings: grid × stride + overlap.
    """

    def __init__(self, config: CLIPVisionConfig, grid: int, patch: int, dimensions: int) -> None:
        super().__init__()
        self.vit = CLIPVisionModelWithProjection(config)
        self.grid = grid
        self.size = grid * STRIDE + patch - STRIDE
        embeddings = self.vit.vision_model.embeddings
        embeddings.patch_embedding.stride = (STRIDE, STRIDE)
        embeddings.image_size = self.size
        self.fc1 = nn.Linear(config.projection_dim, dimensions)

    def forward(self, pixels: Tensor) -> Tokens:
        """Features of B images. Raises InputError for pixels of another size."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.size, self.size):
            raise InputError(f"expected pixels (B, 3, {self.size}, {self.size}); got {tuple(pixels.shape)}")
        found = self.vit(pixel_values=pixels)
        patches = found.last_hidden_state[:, 1:].unflatten(1, (self.grid, self.grid))
        return Tokens(self.fc1(found.image_embeds), patches)


def load_uned(path: Path, head: int = HEAD) -> Uned:
    """Load the winners' file: `backbone.` in open_clip's names, `fc1.`; their classifier `fc2.weight` is left out.

    head: dimensions of an attention head. Raises WeightsError for any other content.
    """
    published = {name.removeprefix("module."): tensor for name, tensor in load_weights(path).items()}
    fc1 = {
        name.removeprefix("fc1."): published.pop(name)
        for name in ("fc1.weight", "fc1.bias")
        if name in published
    }
    published.pop("fc2.weight", None)
    with about(path):
        state = canonical_state(
            {name.removeprefix("backbone."): tensor for name, tensor in published.items()}
        )
        config, grid = _config(path, state, fc1, head)
        model = Uned(config, grid, state["patch.weight"].shape[-1], len(fc1["weight"]))
        load_canonical(model.vit, state, state["cls"].dtype)
        load_into(model.fc1, fc1, torch.float32)
    return model.eval().requires_grad_(False)


def _config(
    path: Path, state: dict[str, Tensor], fc1: dict[str, Tensor], head: int
) -> tuple[CLIPVisionConfig, int]:
    """Configuration of the tower, for patches side by side, and their number a side."""
    needed = ("cls", "patch.weight", "positions", "projection", "blocks.0.mlp_in.weight")
    width = state["cls"].numel() if "cls" in state else 0
    if len(fc1) != 2 or any(name not in state for name in needed) or width % head:
        raise WeightsError(
            f"{path} is not the winner's file: expected fc1.* and backbone.* in open_clip's names, "
            f"with a width that is a multiple of {head}"
        )
    patch, grid = state["patch.weight"].shape[-1], round((len(state["positions"]) - 1) ** 0.5)
    config = CLIPVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth(path, state),
        num_attention_heads=width // head,
        intermediate_size=len(state["blocks.0.mlp_in.weight"]),
        projection_dim=len(state["projection"]),
        patch_size=patch,
        image_size=grid * patch,
        hidden_act="gelu",
    )
    return config, grid
