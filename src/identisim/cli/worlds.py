"""Commands on the procedural world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Procedural objects whose identity is known exactly.", rich_markup_mode=None)


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="Folder to fill with images and views.parquet.", metavar="OUT")],
    identities: Annotated[int, typer.Option(min=1, help="How many different objects.")] = 20,
    views: Annotated[int, typer.Option(min=1, help="How many pictures of each.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other objects.")] = 0,
) -> None:
    """Render objects from several views, each with its exact identity and mask."""
    from identisim.world.sample import write_world

    table = write_world(out, identities=identities, views=views, seed=seed)
    print(f"{identities} identities, {views} views each: {table}")
