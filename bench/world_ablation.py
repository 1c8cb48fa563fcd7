"""Which parts of the world and of the training help `compact`: one short run from nothing for each part left out.

`python bench/world_ablation.py PHOTOS OUT [--shards 2] [--steps 80] [--foreground FILE]`: renders a small world for
every part of the pictures left out, trains each row on the same number of steps, seeds and families, and measures it on
real photos (PHOTOS/GROUP/IDENTITY/*.jpg) and on held-out pictures of the whole world. Rows in OUT/rows.jsonl are kept.
The runs are short: the table says what matters early, differences within the interval say nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from identisim.evaluation.folder import read_collection
from identisim.evaluation.measures import collection_estimates, percentile_interval, resample
from identisim.images import load_image
from identisim.metrics.compact import build_compact
from identisim.records import atomic_file, write_json
from identisim.similarity import token_similarity_matrix
from identisim.training.compact import CompactLearner, CompactTraining, held_out_figures
from identisim.training.loop import Duration, fit
from identisim.training.shards import open_shard
from identisim.world import shards as world
from identisim.world.families import FAMILIES, sample_identity
from identisim.world.identity import Identity
from identisim.world.view import ViewParameters, sample_view

Scene = tuple[Identity, ViewParameters]
PACKAGES = ("carton", "bottle", "bag", "flat")
"""The families that a shop's shelf holds."""


def plain_materials(identity: Identity, view: ViewParameters) -> Scene:
    plain = tuple(dataclasses.replace(m, pattern="plain", bump=0.0) for m in identity.materials)
    return dataclasses.replace(identity, materials=plain), view


def no_labels(identity: Identity, view: ViewParameters) -> Scene:
    parts = tuple(dataclasses.replace(p, label=-1) for p in identity.parts)
    return dataclasses.replace(identity, parts=parts), view


def empty_studio(identity: Identity, view: ViewParameters) -> Scene:
    backdrop = view.backdrop
    grey = ((0.5, 0.5, 0.5),) * 3
    materials = {
        name: dataclasses.replace(getattr(backdrop, name), pattern="plain", colours=grey, bump=0.0)
        for name in ("ground_material", "far_material")
    }
    plain: Any = dataclasses.replace(backdrop, **materials)
    return identity, dataclasses.replace(view, backdrop=plain, neighbours=())


def one_light(identity: Identity, view: ViewParameters) -> Scene:
    return identity, dataclasses.replace(view, light=FIXED_LIGHT)


def no_occluders(identity: Identity, view: ViewParameters) -> Scene:
    return identity, dataclasses.replace(view, neighbours=())


FIXED_LIGHT = sample_view(0, 0, 0).light


@dataclass(frozen=True)
class Row:
    """scene: what is left out of the pictures; kinds: families kept; settings: what is changed in training."""

    name: str
    scene: Callable[[Identity, ViewParameters], Scene] | None = None
    kinds: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row("everything"),
    Row("another seed", settings={"seed": 1}),
    Row("no near-identities", settings={"near_identities": False, "families": 72}),
    Row("batches of mixed kinds", settings={"alike": 0.0}),
    Row("no occlusion in training", settings={"omit": ("occlude",)}),
    Row("no change of colour", settings={"omit": ("recolour",)}),
    Row("no blur, noise, JPEG", settings={"omit": ("soften", "noise", "compress")}),
    Row("empty studio", empty_studio),
    Row("plain materials", plain_materials),
    Row("packages only", kinds=PACKAGES),
    Row("one light", one_light),
    Row("no labels", no_labels),
    Row("no neighbours", no_occluders),
)


def rendered(out: Path, row: Row, count: int) -> Path:
    """Folder of the shards of a row: rendered without a part, or with some families only."""
    name = row.scene.__name__ if row.scene else "-".join(row.kinds or ["everything"])
    folder = out / ("shards-" + name[:60])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        target = folder / f"shard-{number:05d}.npy"
        if not target.exists():
            numbers = chosen_numbers(row.kinds, number * 64, 64)
            kinds = [sample_identity(1, n).family for n in numbers]
            pixels = world.shard(1, numbers, scene=row.scene)
            write_json(target.with_suffix(".json"), {"kinds": kinds})
            with atomic_file(target) as file:
                np.save(file, pixels)
    return folder


def chosen_numbers(kinds: tuple[str, ...] | None, first: int, count: int) -> list[int]:
    """Identity numbers `first` … `first + count` among those of these kinds."""
    names = list(FAMILIES)
    places = [i for i, name in enumerate(names) if kinds is None or name in kinds]
    return [len(names) * (n // len(places)) + places[n % len(places)] for n in range(first, first + count)]


def measured(weights: Path, photos: Path, per_identity: int, held: Path) -> dict[str, Any]:
    """Figures on the photos, at 128 pixels, with their 95 % intervals, and on held-out pictures."""
    metric = build_compact(weights, size=128)
    collection = read_collection(photos, per_identity)
    tokens = metric.tokens([load_image(photo) for photo in collection.photos])
    draws = resample(len(set(collection.identity)), 500, 0)
    figures: dict[str, Any] = {}
    for kind in ("cls", "match"):
        matrix = token_similarity_matrix(tokens, tokens, kind).numpy()
        for name, estimate in collection_estimates(
            matrix, collection.identity, collection.group, draws
        ).items():
            figures[f"{kind} {name}"] = [
                round(100 * v, 1) for v in (estimate.value, *percentile_interval(estimate.samples))
            ]
    return figures | held_out_figures(metric.encode.net.net, open_shard(held), 128)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--foreground", type=Path, help="weights of a trained foreground, for all rows")
    parser.add_argument("--per-identity", type=int, default=6)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "rows.jsonl"
    done = {json.loads(line)["row"] for line in rows.read_text().splitlines()} if rows.exists() else set()
    held = options.out / "held" / "held-00000.npy"
    world.write_shards(held.parent, seed=2, numbers=[0], prefix="held")
    for row in ROWS:
        if row.name in done:
            continue
        shards = rendered(options.out, row, options.shards)
        common = {"size": 64, "final_size": 64, "ema_decay": 0.98, "foreground": options.foreground}
        config = CompactTraining(**(common | row.settings))
        weights = fit(CompactLearner(config, shards), Duration(steps=options.steps), options.out / row.name)
        figures = measured(weights, options.photos, options.per_identity, held)
        with rows.open("a") as file:
            file.write(json.dumps({"row": row.name, **figures}) + "\n")
        print(row.name, figures, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
