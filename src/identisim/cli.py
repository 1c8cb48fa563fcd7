"""The command line: every command parses, calls one function and prints its result.

Exit codes: 0 done, 1 something failed while working, 2 misuse (one line on stderr says what to do), 130
Ctrl-C.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from identisim.errors import InputError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
world_app = typer.Typer(help="Procedural objects whose identity is known exactly.", rich_markup_mode=None)
app.add_typer(world_app, name="world")


class OnError(StrEnum):
    """What to do about an image that cannot be read."""

    RAISE = "raise"
    SKIP = "skip"


MetricName = Annotated[str, typer.Option("--metric", help="Metric name; `identisim metrics` lists them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Do these two pictures show the same thing? Similarities: higher = more alike."""
    if version:
        from identisim import __version__

        print(f"identisim {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="An image file.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="The image file to compare it with.", metavar="B")],
    metric: MetricName = "compact",
    score: Annotated[str | None, typer.Option(help="Kind of score, such as cls or patch.")] = None,
    explain: Annotated[
        Path | None, typer.Option(help="Draw the matching parts into this PNG.", metavar="OUT.png")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how much two pictures show the same thing."""
    import identisim

    loaded = identisim.load_metric(metric, score)
    if explain is not None:
        from identisim.dense import explain_pair

        explain_pair(a, b, loaded, explain)
    result = identisim.compare(a, b, metric=loaded)
    if as_json:
        _print_json(
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


@app.command()
def embed(
    source: Annotated[Path, typer.Argument(help="Image folder, .txt or .parquet list.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option(help="Folder to make or to finish.", metavar="GALLERY")],
    metric: MetricName = "compact",
    on_error: Annotated[OnError, typer.Option(help="Stop at a bad image, or list it.")] = OnError.RAISE,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try listed failures again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Embed a collection once, to search it often.

    Stopped or killed, run the same command again: it goes on where it was.
    """
    import identisim

    loaded = identisim.load_metric(metric)
    gallery = identisim.build_gallery(source, out, loaded, on_error=on_error.value, retry_failed=retry_failed)
    failures = out / "failures.parquet" if gallery.failures else None
    if as_json:
        _print_json(
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


@app.command()
def search(
    query: Annotated[Path, typer.Argument(help="An image file.", metavar="QUERY")],
    gallery: Annotated[Path, typer.Option(help="Folder that `identisim embed` made.")],
    k: Annotated[int | None, typer.Option("-k", help="How many hits; 10, or all of fewer.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw query and hits into this PNG.", metavar="OUT.png")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search a gallery for what the query shows."""
    import identisim

    opened = identisim.Gallery.open(gallery)
    metric = identisim.load_metric(opened.metric_name)
    hits = opened.search(query, metric, min(10, len(opened)) if k is None else k)
    if sheet is not None:
        from identisim.sheets import retrieval_sheet

        retrieval_sheet(query, hits, sheet)
    if as_json:
        _print_json(
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


@world_app.command()
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


@app.command()
def metrics(as_json: AsJson = False) -> None:
    """List the metrics: what they see, licence, readiness."""
    import identisim
    from identisim.metrics.registry import weights_present

    cards = identisim.list_metrics()
    if as_json:
        fields = ("name", "what", "size", "licence", "gated", "scores", "range", "unit")
        _print_json(
            metrics=[
                {field: getattr(card, field) for field in fields} | {"weights_present": weights_present(card)}
                for card in cards
            ]
        )
        return
    for card in cards:
        ready = "ready" if weights_present(card) else "weights missing"
        access = "gated" if card.gated else "free"
        print(f"{card.name}: {card.what}")
        print(f"    {card.size}; {card.licence}, {access}; {ready}; scores: {', '.join(card.scores)}")


@app.command()
def doctor() -> None:
    """Check this installation, with advice.

    Exit code 1 when something essential does not work.
    """
    from identisim.doctor import examine

    worst = 0
    for finding in examine():
        advice = f"\n      -> {finding.advice}" if finding.advice else ""
        print(f"{finding.verdict:4}  {finding.subject}: {finding.detail}{advice}", flush=True)
        worst = max(worst, int(finding.verdict == "fail"))
    raise typer.Exit(worst)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None = the process's own arguments) and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a file name that the terminal's encoding lacks must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = _warn
    try:
        command = typer.main.get_command(app)
        code = command.main(args=arguments, prog_name="identisim", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except InputError as error:
        return _complain(str(error), 2)
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        _drop_unwritable_output()
        if isinstance(error, BrokenPipeError):
            return 1
        return _complain(f"{type(error).__name__}: {error}", 1)
    except Exception as error:
        # typer's own errors (unknown option, missing argument): their class moved between its versions
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), 2)
    return _complain("interrupted", code) if code == 130 else int(code or 0)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"identisim: warning: {message}", file=sys.stderr)


def _complain(message: str, code: int) -> int:
    print("identisim:", *message.split(), file=sys.stderr)
    return code


def _drop_unwritable_output() -> None:
    """Forget what a full disk or a reader that left (`| head`) does not take: Python would fail at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_json(**fields: Any) -> None:
    print(json.dumps(fields, allow_nan=False))
