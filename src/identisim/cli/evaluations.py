"""Commands that measure how good metrics are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure how well metrics tell identities apart.", rich_markup_mode=None)


@app.callback()
def choose() -> None:
    """Measure how well metrics tell identities apart."""


@app.command()
def folder(
    root: Annotated[Path, typer.Option(help="Photos as ROOT[/GROUP]/IDENTITY/PHOTO.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Folder for results, report and cache.", metavar="DIR")],
    metric: Annotated[
        list[str], typer.Option("--metric", help="Metric to measure; repeat it.", metavar="NAME[:SCORE]")
    ],
    score: Annotated[
        str | None, typer.Option(help="Kind of score, for metrics that have it and name none.")
    ] = None,
    per_identity: Annotated[
        int | None, typer.Option(min=1, help="Take the first photos of each identity only.", metavar="N")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling that gives the intervals.")] = 0,
    foreground: Annotated[
        str | None, typer.Option(help="Masks for +crop and +ffa; see `identisim masks`.", metavar="FROM")
    ] = None,
) -> None:
    """Measure metrics on your own photos, a folder per identity.

    Prints a table and writes results.jsonl, tables and report.html. Stopped or killed, run the same command again:
    it goes on where it was. Exit code 1 when photos could not be read.
    """
    from identisim.evaluation.folder import evaluate_folder
    from identisim.evaluation.results import text_table

    evaluation = evaluate_folder(
        root, metric, out, score=score, per_identity=per_identity, seed=seed, foreground=foreground
    )
    print(f"{evaluation.collection.summary}; in %, [95 % interval over identities]")
    print(text_table(evaluation.results))
    print(f"report: {evaluation.report}")
    for path, reason in evaluation.failures.items():
        print(f"not read: {path}: {reason}")
    if evaluation.failures:
        count = len(evaluation.failures)
        print(f"INCOMPLETE: {count} of {len(evaluation.collection.photos)} photos could not be read")
        raise typer.Exit(1)
