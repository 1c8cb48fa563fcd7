"""The learner behind `identisim train compact`: the compact network, from nothing, on procedurally rendered objects."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from identisim.errors import InputError
from identisim.models.compact import APPEARANCE_SHARE, PATCH_SIZE, STRIDE, CompactNet
from identisim.models.weights import load_into, load_weights, save_weights
from identisim.records import file_sha256
from identisim.similarity import MATCH_SHARE
from identisim.training.augment import augment
from identisim.training.foreground import foreground_overlap
from identisim.training.loop import Stateful, cosine_schedule, descend
from identisim.training.losses import (
    best_match_similarity,
    contrastive_loss,
    foreground_loss,
    patch_masks,
    pooled_similarity,
    sample_patches,
    take_patches,
)
from identisim.training.shards import Batch, ShardFolder, open_shard


@dataclass(frozen=True)
class CompactTraining:
    """How the compact network is trained.

    initial: weights to start from, None for whitened cells and random numbers. foreground: weights of a trained
    `ForegroundNet`, which then stay as they are; None to train it along. A batch holds `families` × members ×
    `views` images of size × size pixels, of final_size in the last `final_share` of the run; alike: share of its
    families that are of one kind (all animals, say).
    guided: share of the run in which pooling passes from the true masks to those found, and the temperature falls.
    omit: names of augmentations to leave out (see `augment`), for ablations. precision: "auto" = bfloat16 where the
    hardware multiplies it fast (CUDA, AMX), else float32; "float32" or "bfloat16" decide it.
    """

    initial: Path | None = None
    foreground: Path | None = None
    seed: int = 0
    size: int = 96
    final_size: int = 128
    final_share: float = 0.3
    families: int = 24
    views: int = 2
    alike: float = 0.5
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    first_temperature: float = 0.2
    temperature: float = 0.07
    guided: float = 0.25
    query_patches: int = 16
    key_patches: int = 48
    near_identities: bool = True
    omit: tuple[str, ...] = ()
    ema_decay: float = 0.998
    widths: tuple[int, int, int] = (48, 80, 160)
    depths: tuple[int, int, int] = (0, 2, 2)
    device: str = "cpu"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if any(size % STRIDE or size < 2 * STRIDE for size in (self.size, self.final_size)):
            raise InputError(
                f"sizes must be multiples of {STRIDE} from {2 * STRIDE}; got {self.size} and {self.final_size}"
            )


class CompactLearner:
    """Contrastive training of a `CompactNet` and of its running average on a folder of shards.

    held: a shard that is only ever measured, None for none. Raises InputError for weights that do not fit.
    """

    def __init__(self, config: CompactTraining, shards: Path, held: Path | None = None) -> None:
        self.config = config
        self.folder = ShardFolder(shards)
        self.held = held
        self.on_refresh: Callable[[], object] = lambda: None
        self.device = torch.device(config.device)
        net = self._start()
        self.net = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).eval()
        learnt = [p for p in self.net.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learnt if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)

    def _start(self) -> CompactNet:
        """Whitened cells of the first images and random numbers, or the weights given."""
        config = self.config
        torch.manual_seed(config.seed)
        net = CompactNet(widths=config.widths, depths=config.depths)
        first = self.folder.sample(np.random.default_rng(config.seed), min(64, self.folder.families), 1)
        net.start_from(augment(torch.from_numpy(first.pixels), config.size, _generator(config.seed, -1))[0])
        if config.initial is not None:
            load_into(net, load_weights(config.initial))
        if config.foreground is not None:
            load_into(net.foreground, load_weights(config.foreground))
            net.foreground.requires_grad_(False)
        return net

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configuration, with the content of given weights instead of their paths."""
        files = {name: getattr(self.config, name) for name in ("initial", "foreground")}
        return dataclasses.asdict(self.config) | {
            name: path and file_sha256(path) for name, path in files.items()
        }

    @property
    def state(self) -> Mapping[str, Stateful]:
        """Network, average and optimiser."""
        return {"net": self.net, "average": self.average, "optimiser": self.optimiser}

    def step(self, number: int, done: float) -> dict[str, float]:
        """One step of the optimiser and of the running average; the losses."""
        config = self.config
        rng = np.random.default_rng([config.seed, number])
        batch = self.folder.sample(rng, config.families, config.views, config.alike)
        if not config.near_identities:
            batch = batch.first_members()
        self.net.train()
        losses = self._losses(batch, _generator(config.seed, number), done)
        total = descend(
            torch.stack(list(losses.values())).sum(),
            self.net,
            self.average,
            self.optimiser,
            learning_rate=config.learning_rate * cosine_schedule(done, config.warm_up),
            decay=min(config.ema_decay, (number + 1) / (number + 11)),
        )
        values = {"loss": total, **{name: value.item() for name, value in losses.items()}}
        return values | {"families": self.folder.families}

    def _losses(self, batch: Batch, generator: torch.Generator, done: float) -> dict[str, Tensor]:
        """Weighted terms: global vector and its halves, patches matched and pooled, both fused, foreground."""
        config, device = self.config, self.device
        pixels = torch.from_numpy(batch.pixels).to(device)
        size = config.size if done < 1 - config.final_share else config.final_size
        images, masks = augment(pixels, size, generator, omit=config.omit)
        truth = patch_masks(masks, PATCH_SIZE)
        identity = torch.from_numpy(batch.identity).to(device)
        with self._autocast():
            trust = min(1.0, done / config.guided) if config.guided else 1.0
            tokens, logits = self.net.forward_with_mask(images, truth, trust)
        assert tokens.foreground is not None
        weights = tokens.foreground.detach().flatten(1).float()
        patches = F.normalize(tokens.patches.flatten(1, 2).float(), dim=2)
        appearance, residuals = (half @ half.T for half in tokens.cls.float().chunk(2, dim=1))
        counts = (min(n, patches.shape[1]) for n in (config.query_patches, config.key_patches))
        queries, keys = (take_patches(patches, sample_patches(weights, n, generator)) for n in counts)
        matched = best_match_similarity(queries, keys)
        matched = (matched + matched.T) / 2
        cls = APPEARANCE_SHARE * appearance + (1 - APPEARANCE_SHARE) * residuals
        sharpness = temperature(config, done)

        def contrast(similarity: Tensor) -> Tensor:
            return contrastive_loss(similarity, identity, sharpness)

        return {
            "cls": contrast(cls),
            "appearance": 0.2 * contrast(appearance),
            "residuals": 0.3 * contrast(residuals),
            "matched": 0.5 * contrast(matched),
            "fused": contrast(MATCH_SHARE * matched + (1 - MATCH_SHARE) * cls),
            "pooled": 0.2 * contrast(pooled_similarity(patches, weights)),
            "foreground": foreground_loss(logits.float(), F.adaptive_avg_pool2d(masks, logits.shape[1:])),
        }

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bfloat16" or (
            self.config.precision == "auto" and _fast_bfloat16(self.device)
        ):
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def measure(self) -> dict[str, float]:
        """Figures of the average on the held-out shard, see `held_out_figures`."""
        if self.held is None or not self.held.exists():
            return {}
        return held_out_figures(self.average, open_shard(self.held), self.config.final_size)

    def refresh(self) -> None:
        """Take in shards rendered since, after `on_refresh`."""
        self.on_refresh()
        self.folder.refresh()

    def export(self, path: Path) -> Path:
        """Write the averaged weights as safetensors, atomically."""
        return save_weights(self.average, path)


def temperature(config: CompactTraining, done: float) -> float:
    """Falls from `first_temperature` to `temperature` while training is guided, then stays."""
    share = min(1.0, done / config.guided) if config.guided else 1.0
    return math.exp((1 - share) * math.log(config.first_temperature) + share * math.log(config.temperature))


@torch.inference_mode()
def held_out_figures(net: CompactNet, shard: np.ndarray, size: int, families: int = 128) -> dict[str, float]:
    """Retrieve each held-out view 0 among all views 1, by the global vector; compare foregrounds with true masks.

    held_top1: share whose best match is the same object; held_siblings: share of near-identical siblings beaten, 0.5 is
    chance; held_iou: mean intersection over union of the foreground with the mask at the size of the shard, of whole
    pictures.
    """
    chosen = np.ascontiguousarray(shard[:families, :, :2])
    device = next(net.parameters()).device
    images = torch.from_numpy(chosen[..., :3]).flatten(0, 2).permute(0, 3, 1, 2)
    vectors, overlaps = [], []
    masks = torch.from_numpy(chosen[..., 3]).flatten(0, 2)
    for part, truth in zip(torch.split(images, 64), torch.split(masks, 64), strict=True):
        resized = F.interpolate(part.to(device).float() / 255, size, mode="bilinear", antialias=True)
        tokens, logits = net.forward_with_mask(resized)
        vectors.append(F.normalize(tokens.cls, dim=1).cpu())
        overlaps.append(foreground_overlap(logits.cpu(), truth > 127))
    query, gallery = torch.cat(vectors).view(-1, 2, vectors[0].shape[1]).unbind(1)
    similarity = query @ gallery.T
    right = similarity.argmax(1) == torch.arange(len(similarity))
    members = chosen.shape[1]
    square = similarity.view(len(chosen), members, len(chosen), members)
    blocks = square.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    own = blocks.diagonal(dim1=1, dim2=2)[..., None]
    beaten = (own > blocks).float().sum((1, 2)).sum() / (len(chosen) * members * max(1, members - 1))
    return {
        "held_top1": right.float().mean().item(),
        "held_siblings": beaten.item(),
        "held_iou": torch.cat(overlaps).mean().item(),
    }


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step + 1)
