"""Training pictures in bulk: arrays of families, their near-identities and their views."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from identisim.records import atomic_file, write_json
from identisim.world.alter import alter
from identisim.world.families import sample_identity
from identisim.world.identity import Identity
from identisim.world.render import render
from identisim.world.sample import VERSION
from identisim.world.view import ViewParameters, sample_view

MEMBERS, VIEWS, SIZE, FAMILIES_PER_SHARD = 3, 4, 128, 64
Scene = Callable[[Identity, ViewParameters], tuple[Identity, ViewParameters]]


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


def shard(
    seed: int, numbers: Sequence[int], *, size: int = SIZE, oversample: int = 2, scene: Scene | None = None
) -> np.ndarray:
    """Pictures and masks of families by number: (families, MEMBERS, VIEWS, size, size, 4) uint8, RGB and foreground.

    scene: changes an object and its view before they are drawn (to leave parts of the world out), None for nothing.
    """
    pixels = np.empty((len(numbers), MEMBERS, VIEWS, size, size, 4), np.uint8)
    for index, number in enumerate(numbers):
        for member, identity in enumerate(family(seed, number)):
            for place, view in enumerate(_views(seed, number, member)):
                thing, seen = scene(identity, view) if scene else (identity, view)
                drawn = render(thing, _without_jpeg(seen), size, oversample=oversample)
                pixels[index, member, place, ..., :3] = drawn.image
                pixels[index, member, place, ..., 3] = drawn.mask
    return pixels


def _without_jpeg(view: ViewParameters) -> ViewParameters:
    # compression belongs to the training's own augmentation, after its crops
    return dataclasses.replace(view, film=dataclasses.replace(view.film, jpeg=0))


def write_shards(
    out: Path, *, seed: int, numbers: Iterable[int], families: int = FAMILIES_PER_SHARD, prefix: str = "shard"
) -> None:
    """Write the shards of these numbers as `prefix-00000.npy`; those already there are kept.

    `prefix-00000.json` beside each says what it was made with and the kind (carton, animal, …) of each family.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        target = out / f"{prefix}-{number:05d}.npy"
        if target.exists():
            continue
        chosen = range(number * families, (number + 1) * families)
        kinds = [sample_identity(seed, identity).family for identity in chosen]
        pixels = shard(seed, chosen)
        note = {"world": VERSION, "seed": seed, "first": chosen.start, "kinds": kinds}
        write_json(target.with_suffix(".json"), note)
        with atomic_file(target) as file:
            np.save(file, pixels)


class Renderers:
    """Processes that write shards while something else goes on; use as a context, leaving it ends them."""

    def __init__(
        self, out: Path, *, seed: int, numbers: Sequence[int], processes: int, prefix: str = "shard"
    ) -> None:
        context = get_context("spawn")
        tasks = [numbers[i::processes] for i in range(processes)]
        self._processes = [
            context.Process(
                target=write_shards,
                args=(out,),
                daemon=True,
                kwargs={"seed": seed, "numbers": task, "prefix": prefix},
            )
            for task in tasks
            if task
        ]

    def __enter__(self) -> Renderers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def running(self) -> bool:
        """Whether any still draws; RuntimeError when one has died."""
        codes = [process.exitcode for process in self._processes]
        if any(codes):
            raise RuntimeError(
                f"a renderer ended with exit code {next(filter(None, codes))}; its message is above"
            )
        return None in codes
