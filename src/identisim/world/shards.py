"""Training pictures in bulk: arrays of families, their near-identities and their views."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from tqdm import tqdm

from identisim.records import atomic_file
from identisim.world.alter import alter
from identisim.world.families import sample_identity
from identisim.world.identity import Identity
from identisim.world.render import render
from identisim.world.view import ViewParameters, sample_view

MEMBERS, VIEWS, SIZE = 3, 4, 128


def family(seed: int, number: int) -> list[Identity]:
    """An identity and its near-identities, `MEMBERS` in all."""
    first = sample_identity(seed, number)
    strengths = np.random.default_rng([seed, 8, number]).uniform(0.15, 1.0, MEMBERS - 1)
    return [
        first,
        *(alter(first, float(s), seed * 1_000_003 + number * 16 + i) for i, s in enumerate(strengths)),
    ]


def _views(seed: int, number: int, member: int) -> list[ViewParameters]:
    """Views of one member; the second half of a near-identity's share everything but the object with the original's.

    Shared views forbid background, light and pose as cues.
    """
    own = [sample_view(seed, number * 16 + member, view) for view in range(VIEWS)]
    shared = [sample_view(seed, number * 16, view) for view in range(VIEWS)]
    return own[: VIEWS // 2] + shared[VIEWS // 2 :] if member else own


def shard(seed: int, first: int, families: int, *, size: int = SIZE, oversample: int = 2) -> np.ndarray:
    """Pictures and masks of some families: (families, MEMBERS, VIEWS, size, size, 4) uint8, RGB and foreground."""
    pixels = np.empty((families, MEMBERS, VIEWS, size, size, 4), np.uint8)
    for index in range(families):
        for member, identity in enumerate(family(seed, first + index)):
            for number, view in enumerate(_views(seed, first + index, member)):
                drawn = render(identity, _without_jpeg(view), size, oversample=oversample)
                pixels[index, member, number, ..., :3], pixels[index, member, number, ..., 3] = (
                    drawn.image,
                    drawn.mask,
                )
    return pixels


def _without_jpeg(view: ViewParameters) -> ViewParameters:
    # compression belongs to the training's own augmentation, after its crops
    return dataclasses.replace(view, film=dataclasses.replace(view.film, jpeg=0))


def write_shards(
    out: Path, *, seed: int, first: int, count: int, families: int = 64, prefix: str = "shard"
) -> None:
    """Write shards number first … first + count − 1 as `prefix-00000.npy`; those already there are kept."""
    out.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        target = out / f"{prefix}-{number:05d}.npy"
        if target.exists():
            continue
        pixels = shard(seed, number * families, families)
        with atomic_file(target) as file:
            np.save(file, pixels)


def main() -> None:
    """Render some shards of a world: `python -m identisim.world.shards OUT SEED FIRST COUNT`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    for name in ("seed", "first", "count"):
        parser.add_argument(name, type=int)
    parser.add_argument("--prefix", default="shard", help="held = shards that are only measured on")
    options = parser.parse_args()
    for number in tqdm(range(options.first, options.first + options.count), unit="shard"):
        write_shards(options.out, seed=options.seed, first=number, count=1, prefix=options.prefix)


if __name__ == "__main__":
    main()
