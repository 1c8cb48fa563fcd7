"""Commands on one's own pictures: compare two, embed a collection, search it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from identisim.cli.output import AsJson, print_json

MetricName = Annotated[str, typer.Option("--metric", help="Metric name; `identisim metrics` lists them.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Weights = Annotated[Path | None, typer.Option(help="Use these weights; download none.", metavar="FOLDER")]
Foreground = Annotated[
    str | None,
    typer.Option(
        help="Masks for +crop and +ffa: compact, alpha, tracer-b7, rembg:MODEL, a folder.", metavar="FROM"
    ),
]


class OnError(StrEnum):
    """What to do about an image that cannot be read."""

    RAISE = "raise"
    SKIP = "skip"


def compare(
    a: Annotated[Path, typer.Argument(help="An image file.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="The image file to compare it with.", metavar="B")],
    metric: MetricName = "compact",
    score: Annotated[str | None, typer.Option(help="Kind of score, such as cls or patch.")] = None,
    explain: Annotated[
        Path | None, typer.Option(help="Draw the matching parts into this PNG.", metavar="OUT.png")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    foreground: Foreground = None,
    as_json: AsJson = False,
) -> None:
    """Say how much two pictures show the same thing."""
    import identisim

    loaded = identisim.load_metric(metric, score, device, weights=weights, foreground=foreground)
    if explain is not None:
        from identisim.dense import explain_pair

        explain_pair(a, b, loaded, explain)
    result = identisim.compare(a, b, metric=loaded)
    if as_json:
        print_json(
            similarity=result.similarity,
            score=result.score,
            metric=result.metric,
            fingerprint=result.fingerprint,
            range=result.range,
            unit=result.unit,
            higher_is_better=True,
            a=str(a),
            b=str(b),
            explanation=None if explain is None else str(explain),
            notes=list(result.notes),
        )
        return
    unit = f" {result.unit}" if result.unit else ""
    low, high = result.range or (float("-inf"), float("inf"))
    print(f"similarity   {result.similarity:.4f}{unit}")
    print(f"score        {result.score}, {low:g} to {high:g}{unit}, higher = more alike")
    print(f"metric       {result.metric}")
    print(f"fingerprint  {result.fingerprint}")
    if explain is not None:
        print(f"explanation  {explain}")


def embed(
    source: Annotated[Path, typer.Argument(help="Image folder, .txt or .parquet list.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option(help="Folder to make or to finish.", metavar="GALLERY")],
    metric: MetricName = "compact",
    on_error: Annotated[OnError, typer.Option(help="Stop at a bad image, or list it.")] = OnError.RAISE,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try listed failures again.")] = False,
    device: Device = "auto",
    weights: Weights = None,
    foreground: Foreground = None,
    as_json: AsJson = False,
) -> None:
    """Embed a collection once, to search it often.

    Stopped or killed, run the same command again: it goes on where it was.
    """
    import identisim

    loaded = identisim.load_metric(metric, device=device, weights=weights, foreground=foreground)
    gallery = identisim.build_gallery(source, out, loaded, on_error=on_error.value, retry_failed=retry_failed)
    failures = out / "failures.parquet" if gallery.failures else None
    if as_json:
        print_json(
            images=len(gallery),
            failed=len(gallery.failures),
            failures=None if failures is None else str(failures),
            gallery=str(out),
            metric=loaded.name,
            fingerprint=loaded.fingerprint,
        )
        return
    print(gallery.summary)
    print(f"gallery      {out}")
    print(f"fingerprint  {loaded.fingerprint}")
    if failures is not None:
        print(f"failures     {failures}  (not in the gallery; --retry-failed tries them again)")


def search(
    query: Annotated[Path, typer.Argument(help="An image file.", metavar="QUERY")],
    gallery: Annotated[Path, typer.Option(help="Folder that `identisim embed` made.")],
    k: Annotated[int | None, typer.Option("-k", help="How many hits; 10, or all of fewer.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw query and hits into this PNG.", metavar="OUT.png")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    foreground: Foreground = None,
    as_json: AsJson = False,
) -> None:
    """Search a gallery for what the query shows."""
    import identisim

    opened = identisim.Gallery.open(gallery)
    metric = identisim.load_metric(opened.metric_name, device=device, weights=weights, foreground=foreground)
    hits = opened.search(query, metric, min(10, len(opened)) if k is None else k)
    if sheet is not None:
        from identisim.sheets import retrieval_sheet

        retrieval_sheet(query, hits, sheet)
    if as_json:
        print_json(
            query=str(query),
            gallery=str(gallery),
            metric=metric.name,
            fingerprint=metric.fingerprint,
            score="cls",
            range=(-1.0, 1.0),
            higher_is_better=True,
            hits=[
                {
                    "rank": hit.rank,
                    "similarity": hit.similarity,
                    "path": str(hit.path),
                    "identity": hit.identity,
                    "same_file": hit.same_file,
                }
                for hit in hits
            ],
            sheet=None if sheet is None else str(sheet),
        )
        return
    print(f"rank  similarity  (cls, -1 to 1, higher = more alike; {metric.fingerprint})")
    for hit in hits:
        notes = [f"identity {hit.identity}"] if hit.identity else []
        notes += ["same file"] if hit.same_file else []
        note = f"  ({', '.join(notes)})" if notes else ""
        print(f"{hit.rank:4d}  {hit.similarity:10.4f}  {hit.path}{note}")
    if sheet is not None:
        print(f"sheet: {sheet}")


def masks(
    source: Annotated[Path, typer.Argument(help="A folder of pictures.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option(help="Folder for the masks, laid out like SOURCE.", metavar="MASKS")],
    foreground: Annotated[
        str, typer.Option(help="compact, alpha, tracer-b7, rembg:MODEL, or a folder.", metavar="FROM")
    ] = "compact",
    sheet: Annotated[
        Path | None, typer.Option(help="Draw pictures and objects into this PNG.", metavar="OUT.png")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write the foreground masks of a folder of pictures.

    Masks that are there are kept. Use them with `--metric NAME+crop --foreground MASKS`. Exit code 1 when a picture
    failed.
    """
    from identisim.masks import write_masks
    from identisim.metrics.foregrounds import find_foreground

    report = write_masks(source, out, find_foreground(foreground, device), sheet)
    print(report.summary)
    for picture, reason in report.failures.items():
        print(f"not made: {picture}: {reason}")
    if sheet is not None:
        print(f"sheet: {sheet}")
    if report.failures:
        raise typer.Exit(1)
