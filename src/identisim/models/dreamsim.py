"""DreamSim: one or several adapted backbones whose vectors are put together (Fu et al., NeurIPS 2023; release 0.2.1).

Shapes: B images, 224 × 224 pixels, h × w patches, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from identisim.models.backbone import Backbone
from identisim.models.checkpoints import load_backbone
from identisim.models.lora import Adapter, merge, read_adapter
from identisim.models.tokens import Tokens
from identisim.models.weights import WeightsError


@dataclass(frozen=True)
class Branch:
    """One backbone of DreamSim.

    path: its weights. inside, activation: see `load_backbone`. feature: last-block for the CLS token of the last block
    (DINO, DINOv2, SynCLR), final for CLIP's embedding. mean, std: of its normalisation.
    """

    path: Path
    feature: Literal["final", "last-block"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    inside: str = ""
    activation: str = "gelu"


class DreamSim(nn.Module):
    """Pixels (B, 3, S, S) in [0, 1] -> `Tokens`.

    cls is the vectors of all branches one behind the other, centred over its features. With `pooled` the means of the
    patches, each centred and scaled to unit length, follow the CLS token treated likewise (the patch variants). The
    patches are those of all branches, which have one grid, one behind the other.
    """

    def __init__(
        self, backbones: Sequence[Backbone], branches: Sequence[Branch], pooled: bool = False
    ) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.pooled = pooled
        for index, branch in enumerate(branches):
            self.register_buffer(f"mean{index}", torch.tensor(branch.mean)[:, None, None])
            self.register_buffer(f"std{index}", torch.tensor(branch.std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tokens:
        """Features of B images."""
        found = [
            backbone((pixels - self.get_buffer(f"mean{index}")) / self.get_buffer(f"std{index}"))
            for index, backbone in enumerate(self.backbones)
        ]
        cls = torch.cat([tokens.cls for tokens in found], 1)
        patches = torch.cat([tokens.patches for tokens in found], 3)
        if self.pooled:
            cls = torch.cat([_unit(_centred(cls)), _unit(_centred(patches)).mean((1, 2))], 1)
        else:
            cls = _centred(cls)
        return Tokens(cls, patches)


def load_dreamsim(branches: Sequence[Branch], adapter_folder: Path, pooled: bool = False) -> DreamSim:
    """Load the backbones, merge the part of the adapter that belongs to each, ready for inference.

    Raises WeightsError when a file is missing or damaged and when the adapter does not fit.
    """
    adapter = read_adapter(adapter_folder)
    backbones = []
    for index, branch in enumerate(branches):
        backbone = load_backbone(
            branch.path, branch.feature, inside=branch.inside, activation=branch.activation
        )
        merge(_part(adapter, index), backbone.vit)
        backbones.append(backbone)
    strangers = [layer for layer in adapter.layers if _index(layer) not in range(len(branches))]
    if strangers:
        raise WeightsError(
            f"{adapter.path} adapts {len(strangers)} layers of no backbone here, such as {strangers[0]}"
        )
    return DreamSim(backbones, branches, pooled).eval().requires_grad_(False)


def _part(adapter: Adapter, index: int) -> Adapter:
    layers = {layer: pair for layer, pair in adapter.layers.items() if _index(layer) == index}
    if not layers:
        raise WeightsError(f"{adapter.path} has nothing for backbone {index} of the ensemble")
    return replace(adapter, layers=layers)


def _index(layer: str) -> int:
    """Place of a layer's backbone in the list: 2 of extractor_list.2.model.blocks…; 0 of a single one."""
    start, _, rest = layer.partition("extractor_list.")
    number = rest.partition(".")[0]
    return int(number) if number.isdigit() else (0 if not rest and start else -1)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)
