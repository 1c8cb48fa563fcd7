"""The winner of the Google Universal Image Embedding challenge: CLIP ViT-H/14 on overlapping patches, 64 dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

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
        """Features of B images."""
        found = self.vit(pixel_values=pixels)
        patches = found.last_hidden_state[:, 1:].unflatten(1, (self.grid, self.grid))
        return Tokens(self.fc1(found.image_embeds), patches)


def load_uned(path: Path, head: int = HEAD) -> Uned:
    """Load the winners' file: `backbone.` in open_clip's names, `fc1.`; their classifier `fc2.weight` is left out.

    head: dimensions of an attention head. Raises WeightsError for any other content.
    """
    published = {name.removeprefix("module."): tensor for name, tensor in load_weights(path).items()}
    fc1 = {name: published.get(f"fc1.{name}") for name in ("weight", "bias")}
    tower = {
        name.removeprefix("backbone."): tensor
        for name, tensor in published.items()
        if not name.startswith(("fc1.", "fc2."))
    }
    state = canonical_state(tower)
    needed = ("cls", "patch.weight", "positions", "projection", "blocks.0.mlp_in.weight")
    if fc1["weight"] is None or fc1["bias"] is None or any(name not in state for name in needed):
        raise WeightsError(
            f"{path} is not the winner's file: expected fc1.* and backbone.* in open_clip's names"
        )
    patch, grid = state["patch.weight"].shape[-1], round((len(state["positions"]) - 1) ** 0.5)
    config = CLIPVisionConfig(
        hidden_size=state["cls"].numel(),
        num_hidden_layers=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_attention_heads=state["cls"].numel() // head,
        intermediate_size=len(state["blocks.0.mlp_in.weight"]),
        projection_dim=len(state["projection"]),
        patch_size=patch,
        image_size=grid * patch,
        hidden_act="gelu",
    )
    model = Uned(config, grid, patch, len(fc1["weight"]))
    load_canonical(model.vit, state, state["cls"].dtype)
    load_into(model.fc1, {name: tensor for name, tensor in fc1.items() if tensor is not None}, torch.float32)
    return model.eval().requires_grad_(False)
