"""Reading rendered training images: a folder of .npy shards that may still be growing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from identisim.errors import InputError
from identisim.records import read_json

Array = np.ndarray


@dataclass(frozen=True)
class Batch:
    """Images of one training step, grouped by family and member.

    pixels: (n, S, S, 4) uint8, RGB and the object's mask (0 or 255). family: (n,) and identity: (n,) integers that are
    equal for images of one family (near-identical objects) and of one object.
    """

    pixels: Array
    family: Array
    identity: Array

    def first_members(self) -> Batch:
        """Without the near-identities."""
        kept = (self.identity & 255) == 0
        return Batch(self.pixels[kept], self.family[kept], self.identity[kept])


def open_shard(path: Path) -> Array:
    """Memory-map one shard: (families, members, views, S, S, 4) uint8."""
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is not a readable shard: {error}; render it again") from error
    if shard.ndim != 6 or shard.dtype != np.uint8 or shard.shape[3] != shard.shape[4] or shard.shape[5] != 4:
        raise InputError(
            f"{path} holds {shard.dtype} {shard.shape}; expected uint8 (families, members, views, S, S, 4)"
        )
    return shard  # type: ignore[no-any-return]


class ShardFolder:
    """The shards `shard-*.npy` of a folder; `refresh` takes in those that came since.

    Beside each may lie a `shard-*.json` that names the kind of each of its families, see `world.shards`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[Path, Array] = {}
        self.kinds = np.empty(0, dtype=str)
        self.refresh()
        if not self.shards:
            raise InputError(f"no shard-*.npy in {folder}; render training images into it first")

    @property
    def families(self) -> int:
        """Families in all shards seen so far."""
        return sum(len(shard) for shard in self.shards.values())

    def refresh(self) -> None:
        """Take in shards that appeared since; a shard once seen stays."""
        for path in sorted(self.folder.glob("shard-*.npy")):
            if path not in self.shards:
                self.shards[path] = open_shard(path)
                self.kinds = np.concatenate([self.kinds, _kinds(path, len(self.shards[path]))])

    def sample(self, rng: np.random.Generator, families: int, views: int, alike: float = 0.0) -> Batch:
        """Draw families without replacement, all their members, and the same random views of each member.

        alike: share of the families that are all of one kind, drawn first: things of a kind are the harder negatives.
        """
        shards = list(self.shards.values())
        ends = np.cumsum([len(shard) for shard in shards])
        if families > ends[-1]:
            raise InputError(
                f"a batch of {families} families was asked for, but {self.folder} holds {ends[-1]}"
            )
        if views > min(shard.shape[2] for shard in shards):
            raise InputError(f"{views} views of each object were asked for; {self.folder} holds fewer")
        pixels: list[Array] = []
        family_of: list[int] = []
        identity_of: list[int] = []
        for family in self._draw(rng, families, alike):
            which = int(np.searchsorted(ends, family, side="right"))
            members = shards[which][family - ends[which]]
            # the same views of all members: siblings rendered with the original's camera, light and background meet it
            chosen = rng.choice(members.shape[1], views, replace=False)
            for number, member in enumerate(members):
                pixels.extend(member[view] for view in chosen)
                family_of.extend([int(family)] * views)
                identity_of.extend([(int(family) << 8) + number] * views)
        return Batch(np.stack(pixels), np.array(family_of), np.array(identity_of))

    def _draw(self, rng: np.random.Generator, families: int, alike: float) -> Array:
        if not alike:
            return rng.choice(self.families, families, replace=False)
        kind = self.kinds[rng.integers(self.families)]
        same = np.flatnonzero(self.kinds == kind)
        chosen = rng.choice(same, min(len(same), round(alike * families)), replace=False)
        others = np.setdiff1d(np.arange(self.families), chosen, assume_unique=True)
        return np.concatenate([chosen, rng.choice(others, families - len(chosen), replace=False)])


def _kinds(path: Path, families: int) -> Array:
    """Kind of each family of a shard; all "" where nothing tells."""
    note = path.with_suffix(".json")
    if not note.exists():
        return np.full(families, "")
    names = read_json(note).get("kinds", [])
    if len(names) != families:
        raise InputError(f"{note} names {len(names)} kinds, but {path.name} holds {families} families")
    return np.array(names, dtype=str)
