"""Train the compact network from nothing on procedurally rendered objects.

`python -m identisim.training.compact SHARDS OUT --minutes 45`
SHARDS is a folder of `shard-*.npy` (see `identisim.training.shards`) that may still be growing, with an optional
`held-00000.npy` that is only ever measured. OUT receives `compact.safetensors` (averaged weights), `checkpoint.pt`
and `losses.jsonl`. A killed run continues from its last checkpoint.

Where page faults are dear (virtual machines), faster with glibc keeping its memory in huge pages:
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=20000000000`
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from identisim.errors import InputError
from identisim.models.compact import PATCH_SIZE, CompactNet
from identisim.records import atomic_file
from identisim.training.augment import augment
from identisim.training.losses import (
    best_match_similarity,
    contrastive_loss,
    patch_masks,
    pooled_similarity,
    sample_patches,
    take_patches,
)
from identisim.training.shards import Batch, ShardFolder, open_shard


@dataclass(frozen=True)
class CompactTraining:
    """How the compact network is trained; a run ends after `minutes`, or after `steps` where that is given."""

    minutes: float = 78.0
    steps: int | None = None
    seed: int = 0
    size: int = 96
    families: int = 24
    views: int = 2
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    first_temperature: float = 0.2
    temperature: float = 0.07
    guided: float = 0.25
    query_patches: int = 16
    key_patches: int = 48
    ema_decay: float = 0.995
    checkpoint_seconds: float = 120.0
    held_seconds: float = 300.0
    widths: tuple[int, int, int] = (48, 80, 160)
    depths: tuple[int, int, int] = (0, 2, 2)


@dataclass
class TrainingState:
    """All that a checkpoint holds: networks, optimiser, and how far the run has come."""

    net: CompactNet
    average: CompactNet
    optimiser: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path, config: CompactTraining) -> None:
        """Write atomically."""
        content = {
            "config": asdict(config),
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with atomic_file(path) as file:
            torch.save(content, file)

    def load(self, path: Path, config: CompactTraining) -> None:
        """Continue from a checkpoint of the same configuration (minutes and steps may differ)."""
        content = torch.load(path, weights_only=True)
        may_differ = {"minutes", "steps", "checkpoint_seconds", "held_seconds"}
        changed = {
            key: (content["config"].get(key), value)
            for key, value in asdict(config).items()
            if key not in may_differ and content["config"].get(key) != value
        }
        if changed:
            raise InputError(
                f"{path} was made with other settings (then, now): {changed}; use another folder"
            )
        self.net.load_state_dict(content["net"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step, self.seconds = content["step"], content["seconds"]


def train_compact(config: CompactTraining, shards: Path, out: Path) -> Path:
    """Train on the shards of a folder; returns the path of the averaged weights, `out/compact.safetensors`.

    The same seed, shards and number of steps give the same losses on the same machine and number of threads.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = ShardFolder(shards)
    state = start_state(config, folder)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state.load(checkpoint, config)
    held_path = shards / "held-00000.npy"
    with (out / "losses.jsonl").open("a") as log, tqdm(initial=state.step, unit="step", disable=None) as bar:
        last, saved, held = time.monotonic(), state.seconds, state.seconds
        while (done := progress(config, state)) < 1:
            row = train_step(config, state, folder, done)
            state.seconds, last = state.seconds + time.monotonic() - last, time.monotonic()
            if state.seconds - held > config.held_seconds and held_path.exists():
                held, row = (
                    state.seconds,
                    row | held_out_accuracy(state.average, open_shard(held_path), config.size),
                )
                last = time.monotonic()
            log.write(
                json.dumps(row | {"seconds": round(state.seconds, 1), "families": folder.families}) + "\n"
            )
            log.flush()
            bar.update()
            bar.set_postfix_str(f"loss {row['loss']:.3f}, done {done:.0%}, {folder.families} families")
            if state.seconds - saved > config.checkpoint_seconds:
                saved = state.seconds
                state.save(checkpoint, config)
                export(state.average, out / "compact.safetensors")
                folder.refresh()
    state.save(checkpoint, config)
    return export(state.average, out / "compact.safetensors")


def start_state(config: CompactTraining, folder: ShardFolder) -> TrainingState:
    """A fresh network whose patches start as whitened cells of the first images."""
    torch.manual_seed(config.seed)
    net = CompactNet(widths=config.widths, depths=config.depths)
    families = min(64, folder.families)
    first = folder.sample(np.random.default_rng(config.seed), families, 1)
    net.start_from(augment(torch.from_numpy(first.pixels), config.size, _generator(config.seed, -1))[0])
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return TrainingState(net, copy.deepcopy(net).eval(), torch.optim.AdamW(groups, lr=config.learning_rate))


def progress(config: CompactTraining, state: TrainingState) -> float:
    """Share of the run that is done, from 0 to 1: by steps where they are given, else by the clock."""
    if config.steps is not None:
        return state.step / config.steps
    return state.seconds / (60 * config.minutes)


def train_step(
    config: CompactTraining, state: TrainingState, folder: ShardFolder, done: float
) -> dict[str, float]:
    """One step of the optimiser and of the running average; returns the losses."""
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(config, done)
    rng = np.random.default_rng([config.seed, state.step])
    generator = _generator(config.seed, state.step)
    batch = folder.sample(rng, config.families, config.views)
    losses = batch_losses(config, state.net, batch, generator, done)
    total = torch.stack(list(losses.values())).sum()
    values = {name: value.item() for name, value in losses.items()}
    if not math.isfinite(total.item()):
        raise FloatingPointError(f"the loss is {total.item()} at step {state.step}: {values}")
    state.optimiser.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.net.parameters(), 5.0)
    state.optimiser.step()
    state.step += 1
    decay = min(config.ema_decay, state.step / (state.step + 10))
    with torch.no_grad():
        for mean, now in zip(
            state.average.state_dict().values(), state.net.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
    return {"step": state.step, "loss": total.item(), **values}


def learning_rate(config: CompactTraining, done: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if done < config.warm_up:
        return config.learning_rate * (done + 1e-3) / (config.warm_up + 1e-3)
    return (
        config.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - config.warm_up) / (1 - config.warm_up)))
    )


def temperature(config: CompactTraining, done: float) -> float:
    """Falls from `first_temperature` to `temperature` while training is guided, then stays."""
    share = min(1.0, done / config.guided)
    return math.exp((1 - share) * math.log(config.first_temperature) + share * math.log(config.temperature))


def batch_losses(
    config: CompactTraining, net: CompactNet, batch: Batch, generator: torch.Generator, done: float
) -> dict[str, Tensor]:
    """Weighted terms of the loss: global vector and its halves, patches matched and pooled, foreground.

    In the first part of a run (`guided`) pooling passes from the true masks to those the network finds.
    """
    images, masks = augment(torch.from_numpy(batch.pixels), config.size, generator)
    truth = patch_masks(masks, PATCH_SIZE)
    identity = torch.from_numpy(batch.identity)
    tokens, logits = net.forward_with_mask(images, truth, trust=min(1.0, done / config.guided))
    assert tokens.foreground is not None
    weights = tokens.foreground.detach().flatten(1)
    patches = F.normalize(tokens.patches.flatten(1, 2), dim=2)
    appearance, residuals = (half @ half.T for half in tokens.cls.chunk(2, dim=1))
    queries = take_patches(patches, sample_patches(weights, config.query_patches, generator))
    keys = take_patches(patches, sample_patches(weights, config.key_patches, generator))
    matched = best_match_similarity(queries, keys)

    def contrast(similarity: Tensor) -> Tensor:
        return contrastive_loss(similarity, identity, temperature(config, done))

    return {
        "cls": contrast((appearance + residuals) / 2),
        "appearance": 0.3 * contrast(appearance),
        "residuals": 0.3 * contrast(residuals),
        "matched": 0.5 * contrast((matched + matched.T) / 2),
        "pooled": 0.2 * contrast(pooled_similarity(patches, weights)),
        "mask": F.binary_cross_entropy_with_logits(logits, truth),
    }


@torch.inference_mode()
def held_out_accuracy(net: CompactNet, shard: np.ndarray, size: int, families: int = 150) -> dict[str, float]:
    """Retrieve each held-out view 0 among all views 1.

    held_top1: share whose best match is the same object; held_siblings: share of near-identical siblings beaten.
    """
    chosen = np.ascontiguousarray(shard[:families, :, :2])
    images = torch.from_numpy(chosen[..., :3]).flatten(0, 2).permute(0, 3, 1, 2)
    parts = [F.interpolate(part.float() / 255, size, mode="area") for part in torch.split(images, 64)]
    cls = torch.cat([F.normalize(net(part).cls, dim=1) for part in parts])
    query, gallery = cls.view(-1, 2, cls.shape[1]).unbind(1)
    similarity = query @ gallery.T
    right = similarity.argmax(1) == torch.arange(len(similarity))
    members = chosen.shape[1]
    blocks = (
        similarity.view(len(chosen), members, len(chosen), members).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    )
    own = blocks.diagonal(dim1=1, dim2=2)[..., None]
    beaten = (own > blocks).float().sum((1, 2)).sum() / (len(chosen) * members * max(1, members - 1))
    return {"held_top1": right.float().mean().item(), "held_siblings": beaten.item()}


def export(net: CompactNet, path: Path) -> Path:
    """Write the weights as safetensors, atomically."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().contiguous() for name, tensor in net.state_dict().items()}
    content = save(tensors)
    with atomic_file(path) as file:
        file.write(content)
    return path


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step + 1)


def _parse(arguments: list[str] | None = None) -> tuple[CompactTraining, Path, Path]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=CompactTraining.minutes)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", type=int, default=CompactTraining.families)
    parser.add_argument("--size", type=int, default=CompactTraining.size)
    options = vars(parser.parse_args(arguments))
    shards, out = options.pop("shards"), options.pop("out")
    return CompactTraining(**options), shards, out


if __name__ == "__main__":
    train_compact(*_parse())
