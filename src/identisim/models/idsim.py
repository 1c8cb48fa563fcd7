"""ID-Sim: a frozen backbone with an adapter and two heads (CVPR 2026; details from the authors' release).

Shapes: B images, h × w patches, D dimensions of the backbone, which are also those of the embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from identisim.models.backbone import Backbone
from identisim.models.checkpoints import about, load_backbone
from identisim.models.lora import merge, read_adapter
from identisim.models.tokens import Tokens
from identisim.models.weights import WeightsError, load_into, load_weights

HIDDEN: Final = 512
"""Width inside a head (suppl. C.2 calls it the dimension of the head; the output has the backbone's width)."""

FIRST_BETA: Final = -4.0
"""Logit of the residual's gate before training: sigmoid(−4) = 0.018."""

HEADS: Final = ("mlp_cls", "mlp_patch")


class Head(nn.Module):
    """(…, D) -> (…, D): layer norm, two layers with SiLU between, and a gated residual of the input itself.

    The second layer starts at zero: before training a head gives a multiple of its input. `beta_logit` is learnt.
    """

    def __init__(self, width: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.beta_logit = nn.Parameter(torch.tensor(FIRST_BETA))
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project features."""
        projected: Tensor = self.fc2(F.silu(self.fc1(self.ln(x))))
        return projected + torch.sigmoid(self.beta_logit) * x


class IDSim(nn.Module):
    """Normalised pixels (B, 3, H, W) -> `Tokens` whose cls (B, D) and patches (B, h, w, D) are embeddings.

    Each embedding is centred: the mean over its D features is subtracted, as the release does before it scales to unit
    length, which the similarity functions do here.
    """

    def __init__(self, backbone: Backbone, hidden: int = HIDDEN) -> None:
        super().__init__()
        if backbone.feature != "last-block":
            raise ValueError(
                "ID-Sim takes the output of the last block: load the backbone with feature='last-block'"
            )
        self.backbone = backbone
        self.mlp_cls = Head(backbone.width, hidden)
        self.mlp_patch = Head(backbone.width, hidden)

    def forward(self, pixels: Tensor) -> Tokens:
        """Embeddings of B images."""
        tokens = self.backbone(pixels)
        return Tokens(_centred(self.mlp_cls(tokens.cls)), _centred(self.mlp_patch(tokens.patches)))


def load_idsim(checkpoint: Path, backbone: Path) -> IDSim:
    """Load a released checkpoint on its backbone, the adapter merged, ready for inference.

    checkpoint: folder with adapter_config.json, adapter_model.safetensors, mlp_cls.pth and mlp_patch.pth, as on the
    hub (chaenayo/id-sim_*). backbone: what `load_backbone` takes, of the size that the checkpoint was trained on.
    Raises WeightsError when any file is missing or damaged and when checkpoint and backbone do not belong together.
    """
    heads = {name: _read_head(checkpoint / f"{name}.pth") for name in HEADS}
    adapter = read_adapter(checkpoint)
    loaded = load_backbone(backbone, "last-block")
    widths = {name: state["ln.weight"].numel() for name, state in heads.items()}
    if set(widths.values()) != {loaded.width}:
        raise WeightsError(
            f"{checkpoint}: its heads are for a backbone of width {sorted(set(widths.values()))}, "
            f"{backbone} has width {loaded.width}: take the backbone that the checkpoint names"
        )
    model = IDSim(loaded, hidden=len(heads["mlp_cls"]["fc1.weight"]))
    modules = {"mlp_cls": model.mlp_cls, "mlp_patch": model.mlp_patch}
    for name, module in modules.items():
        with about(checkpoint / f"{name}.pth"):
            load_into(module, heads[name], torch.float32)
    merge(adapter, model.backbone.vit, modules)
    return model.eval().requires_grad_(False)


def _read_head(path: Path) -> dict[str, Tensor]:
    state = load_weights(path)
    missing = {"ln.weight", "fc1.weight", "beta_logit"} - state.keys()
    if missing or state["beta_logit"].numel() != 1 or state["fc1.weight"].ndim != 2:
        raise WeightsError(
            f"{path} is no head of ID-Sim: expected ln.*, fc1.*, fc2.* and a scalar beta_logit"
        )
    # one number, written as () or (1,)
    return {**state, "beta_logit": state["beta_logit"].reshape(())}


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
