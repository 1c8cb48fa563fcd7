"""The learner behind `identisim train foreground`: which pixels show the object, from exact masks."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from identisim.models.foreground import GRID, SIDE, ForegroundNet
from identisim.models.weights import load_into, load_weights, save_weights
from identisim.records import file_sha256
from identisim.training.augment import augment
from identisim.training.loop import Stateful, cosine_schedule, descend
from identisim.training.losses import foreground_loss, patch_masks
from identisim.training.shards import ShardFolder, open_shard


@dataclass(frozen=True)
class ForegroundTraining:
    """How the foreground network is trained: `families` × members × `views` images a batch.

    initial: weights to start from, None for random numbers. margin: the widest crop, in lengths of the object.
    """

    initial: Path | None = None
    seed: int = 0
    families: int = 32
    views: int = 1
    margin: float = 4.0
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: float = 0.05
    ema_decay: float = 0.998
    device: str = "cpu"


class ForegroundLearner:
    """Training of a `ForegroundNet` and of its running average on a folder of shards.

    held: a shard that is only ever measured, None for none.
    """

    def __init__(self, config: ForegroundTraining, shards: Path, held: Path | None = None) -> None:
        self.config = config
        self.folder = ShardFolder(shards)
        self.held = held
        self.on_refresh: Callable[[], object] = lambda: None
        self.device = torch.device(config.device)
        torch.manual_seed(config.seed)
        net = ForegroundNet()
        if config.initial is not None:
            load_into(net, load_weights(config.initial))
        self.net = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).eval()
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configuration, with the content of the initial weights instead of their path."""
        initial = self.config.initial
        return dataclasses.asdict(self.config) | {"initial": file_sha256(initial) if initial else None}

    @property
    def state(self) -> Mapping[str, Stateful]:
        """Network, average and optimiser."""
        return {"net": self.net, "average": self.average, "optimiser": self.optimiser}

    def step(self, number: int, done: float) -> dict[str, float]:
        """One step of the optimiser and of the running average; the loss."""
        config = self.config
        batch = self.folder.sample(
            np.random.default_rng([config.seed, number]), config.families, config.views
        )
        pixels = torch.from_numpy(batch.pixels).to(self.device)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number + 1)
        images, masks = augment(pixels, SIDE, generator, margin=config.margin)
        loss = foreground_loss(self.net(images), patch_masks(masks, SIDE // GRID))
        value = descend(
            loss,
            self.net,
            self.average,
            self.optimiser,
            learning_rate=config.learning_rate * cosine_schedule(done, config.warm_up),
            decay=min(config.ema_decay, (number + 1) / (number + 11)),
        )
        return {"loss": value, "families": self.folder.families}

    def measure(self) -> dict[str, float]:
        """Mean overlap of the average with the masks of the held-out shard."""
        if self.held is None or not self.held.exists():
            return {}
        return {"held_iou": held_out_overlap(self.average, open_shard(self.held)).mean().item()}

    def refresh(self) -> None:
        """Take in shards rendered since, after `on_refresh`."""
        self.on_refresh()
        self.folder.refresh()

    def export(self, path: Path) -> Path:
        """Write the averaged weights as safetensors, atomically."""
        return save_weights(self.average, path)


@torch.inference_mode()
def held_out_overlap(net: ForegroundNet, shard: np.ndarray, views: int = 2) -> Tensor:
    """Intersection over union of whole pictures: (families · members · views,), at the size of the shard."""
    device = next(net.parameters()).device
    chosen = torch.from_numpy(np.ascontiguousarray(shard[:, :, :views])).flatten(0, 2)
    overlaps = []
    for part in torch.split(chosen, 64):
        images = part[..., :3].permute(0, 3, 1, 2).to(device).float() / 255
        overlaps.append(foreground_overlap(net(images).cpu(), part[..., 3] > 127))
    return torch.cat(overlaps)


def foreground_overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union per image: logits (B, h, w), brought to the size of masks (B, H, W) bool; (B,)."""
    found = F.interpolate(logits[:, None], masks.shape[1:], mode="bilinear")[:, 0] > 0
    common, union = (found & masks).sum((1, 2)), (found | masks).sum((1, 2))
    return torch.where(union > 0, common / union.clamp_min(1), 1.0)
