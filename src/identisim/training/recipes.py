"""Named training recipes: settings by name, and the stage that carries one out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from identisim.records import remove_temporary_files
from identisim.training.compact import CompactLearner, CompactTraining
from identisim.training.foreground import ForegroundLearner, ForegroundTraining
from identisim.training.loop import Duration, fit
from identisim.world.shards import Renderers

TRAINING_SEED, HELD_SEED = 1, 2
"""Worlds that networks learn from, and that they are only measured on."""
FIRST_SHARDS = 2
"""Shards that must be there before training begins by the clock."""


@dataclass(frozen=True)
class Recipe:
    """What to train, how long, and how many shards of 768 pictures to render (49 MB each)."""

    settings: CompactTraining | ForegroundTraining
    duration: Duration
    shards: int = 102


def compact(initial: Path | None = None, foreground: Path | None = None) -> Recipe:
    """The compact network from nothing, or a further stage from the weights of an earlier one.

    A further stage keeps a lower learning rate and starts with the final temperature.
    """
    if initial is None:
        return Recipe(CompactTraining(foreground=foreground), Duration(minutes=78))
    settings = CompactTraining(
        initial=initial, foreground=foreground, seed=1, learning_rate=1e-3, first_temperature=0.07, guided=0.1
    )
    return Recipe(settings, Duration(minutes=95))


def foreground(initial: Path | None = None) -> Recipe:
    """The foreground network alone, with wider crops than those of `compact`."""
    return Recipe(ForegroundTraining(initial=initial), Duration(minutes=50))


def carry_out(recipe: Recipe, out: Path, shards: Path | None = None) -> Path:
    """Render, unless `shards` is a folder that already holds shards to learn from, and train; the path of the weights.

    Pictures go to out/shards. With a number of steps all are rendered first, with all cores, and the run repeats
    exactly; by the clock half of the cores render while the rest trains on what is there. Everything already rendered
    and trained is kept when the stage is called again. Raises InputError for settings that differ from those of `out`.
    """
    if shards is not None:
        return _fit(recipe, out, shards)
    folder = out / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)
    cores = os.cpu_count() or 1
    with Renderers(folder, seed=HELD_SEED, numbers=[0], processes=1, prefix="held") as held:
        _wait(held, folder, 1, "held")
    by_clock = recipe.duration.steps is None
    first = min(recipe.shards, FIRST_SHARDS) if by_clock else recipe.shards
    with Renderers(folder, seed=TRAINING_SEED, numbers=range(first), processes=cores) as renderers:
        _wait(renderers, folder, first, "shard")
    with Renderers(
        folder, seed=TRAINING_SEED, numbers=range(first, recipe.shards), processes=max(1, cores // 2)
    ) as renderers:
        return _fit(recipe, out, folder, renderers)


def _fit(recipe: Recipe, out: Path, shards: Path, renderers: Renderers | None = None) -> Path:
    settings, held = recipe.settings, shards / "held-00000.npy"
    learner: CompactLearner | ForegroundLearner
    if isinstance(settings, CompactTraining):
        learner = CompactLearner(settings, shards, held)
    else:
        learner = ForegroundLearner(settings, shards, held)
    if renderers is not None:
        learner.on_refresh = renderers.running  # a renderer that died must not go unnoticed
    return fit(learner, recipe.duration, out)


def _wait(renderers: Renderers, folder: Path, count: int, prefix: str) -> None:
    with tqdm(total=count, unit="shard", desc=f"rendering {prefix}", disable=None) as bar:
        while True:
            running = renderers.running()
            bar.update(len(list(folder.glob(f"{prefix}-*.npy"))) - bar.n)
            if not running:
                return
            time.sleep(0.2)
