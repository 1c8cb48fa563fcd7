"""Commands that train this package's own networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Train a network; a killed run goes on when called again.", rich_markup_mode=None)

Out = Annotated[Path, typer.Option(help="Folder for weights, checkpoint and losses.", metavar="DIR")]
Initial = Annotated[Path | None, typer.Option(help="Go on from these weights.", metavar="FILE")]
Shards = Annotated[
    Path | None, typer.Option(help="Learn from the shards of this folder; render none.", metavar="DIR")
]
Render = Annotated[int | None, typer.Option(min=1, help="Shards of 768 pictures to render.")]
Minutes = Annotated[float | None, typer.Option(help="Train as long as this, rendering meanwhile.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Train as many steps, rendering before: exactly repeatable.")
]
Seed = Annotated[int | None, typer.Option(min=0)]
Families = Annotated[int | None, typer.Option(min=2, help="Families in a batch.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command()
def compact(
    out: Out,
    initial: Initial = None,
    foreground: Annotated[
        Path | None, typer.Option(help="Trained foreground weights, kept as they are.", metavar="FILE")
    ] = None,
    shards: Shards = None,
    render: Render = None,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side, a multiple of 16 from 32.")] = None,
    families: Families = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest of the run.")] = None,
    device: Device = "auto",
) -> None:
    """Train the compact network on rendered objects, from nothing or from weights."""
    from identisim.training import recipes

    recipe = recipes.compact(initial, foreground)
    changes = {
        "seed": seed,
        "size": size,
        "final_size": size,
        "families": families,
        "learning_rate": learning_rate,
    }
    _train(recipe, changes, device, minutes, steps, render, out, shards)


@app.command()
def foreground(
    out: Out,
    initial: Initial = None,
    shards: Shards = None,
    render: Render = None,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = None,
    families: Families = None,
    device: Device = "auto",
) -> None:
    """Train the network that finds the object, a part of compact."""
    from identisim.training import recipes

    recipe = recipes.foreground(initial)
    _train(recipe, {"seed": seed, "families": families}, device, minutes, steps, render, out, shards)


def _train(
    recipe: Any, changes: dict[str, Any], device: str, minutes: float | None, steps: int | None,
    render: int | None, out: Path, shards: Path | None,
) -> None:  # fmt: skip
    from dataclasses import replace

    from identisim.errors import InputError
    from identisim.metrics.network import choose_device
    from identisim.training.recipes import carry_out

    if minutes is not None and steps is not None:
        raise InputError("--minutes and --steps both say when to stop; give one")
    given = {key: value for key, value in changes.items() if value is not None}
    settings = replace(recipe.settings, device=str(choose_device(device)), **given)
    length = recipe.duration.minutes if minutes is None else minutes
    duration = replace(recipe.duration, minutes=length, steps=steps)
    recipe = replace(recipe, settings=settings, duration=duration, shards=render or recipe.shards)
    print(f"weights: {carry_out(recipe, out, shards)}")
