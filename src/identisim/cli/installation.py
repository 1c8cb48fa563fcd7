"""Commands about what is installed: the metrics, their weights, and whether everything works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from identisim.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from identisim.metrics.card import MetricCard
    from identisim.sources import Source


def metrics(
    name: Annotated[
        str | None, typer.Argument(help="Show this metric only, in full.", metavar="[NAME]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the metrics: what they see, licence, readiness."""
    from identisim.metrics.registry import METRICS, find_card

    cards = list(METRICS.values()) if name is None else [find_card(name)]
    if as_json:
        print_json(metrics=[_facts(card) for card in cards])
        return
    for card in cards:
        licence = card.licence if _commercial(card) else f"{card.licence}, non-commercial"
        access = "gated" if card.gated else "free"
        print(f"{card.name}: {card.what}")
        extra = f"; extra: {card.extra}" if card.extra else ""
        print(
            f"    {card.size}; {licence}, {access}; {_state(card)}; scores: {', '.join(card.scores)}{extra}"
        )
        if name is not None:
            _print_details(card)


def pull(
    names: Annotated[list[str], typer.Argument(help="Metrics whose weights to fetch.", metavar="NAME...")],
    to: Annotated[
        Path | None, typer.Option(help="Folder to fetch to, instead of the cache.", metavar="DIR")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept licences that forbid commercial use.")
    ] = False,
) -> None:
    """Download the weights of metrics, once and verified.

    They go to the cache (IDENTISIM_HOME). Stopped or killed, run the same command again: what is whole is kept.
    """
    from identisim.downloads import fetch
    from identisim.downloads.cache import readable_size
    from identisim.metrics.registry import find_card

    cards = [find_card(name) for name in names]
    for card in cards:
        if not card.sources:
            print(f"{card.name}: nothing to download: part of the package")
        for source in card.sources:
            print(f"{card.name}: {source.folder}, {readable_size(source.size)}, {_terms(source)}", flush=True)
            folder = fetch(source, wanted_by=card.name, accept_licence=accept_licence, to=to)
            print(f"    {folder}", flush=True)
    if to is not None and any(card.sources for card in cards):
        print(f"to use them: IDENTISIM_HOME={to.absolute()}")


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


def _facts(card: MetricCard) -> dict[str, Any]:
    """A card as JSON: its own fields, and how far it is ready here."""
    from identisim.extras import missing_modules
    from identisim.metrics.registry import weights_present

    fields = (
        "name",
        "what",
        "size",
        "licence",
        "gated",
        "scores",
        "range",
        "unit",
        "paper",
        "input",
        "extra",
    )
    return {field: getattr(card, field) for field in fields} | {
        "commercial": _commercial(card),
        "ready": _state(card) == "ready",
        "weights_present": weights_present(card),
        "extra_installed": card.extra is None or not missing_modules(card.extra),
        "sources": [_source_facts(source) for source in card.sources],
    }


def _source_facts(source: Source) -> dict[str, Any]:
    from identisim.downloads import locate

    folder = locate(source)
    return {
        "folder": source.folder,
        "page": source.page,
        "licence": source.licence,
        "gated": source.gated,
        "commercial": source.commercial,
        "instead": source.instead or None,
        "size": source.size,
        "path": None if folder is None else str(folder),
        "files": [
            {"name": file.name, "url": file.url, "size": file.size, "sha256": file.sha256}
            for file in source.files
        ],
    }


def _print_details(card: MetricCard) -> None:
    from identisim.downloads import locate
    from identisim.downloads.cache import readable_size

    low, high = (f"{end:g}" for end in card.range)
    print(f"    similarity {low} to {high} {card.unit}".rstrip() + ", higher = more alike")
    for label, text in (("paper", card.paper), ("input", card.input)):
        if text:
            print(f"    {label}: {text}")
    for source in card.sources:
        print(f"    weights {source.folder}, {readable_size(source.size)}, {_terms(source)}")
        print(f"        {locate(source) or 'not on this machine'}")
        for file in source.files:
            print(f"        {file.name}, {readable_size(file.size)}")
        if source.instead:
            print(f"        free of these hurdles: {source.instead}")


def _terms(source: Source) -> str:
    limits = ("" if source.commercial else ", non-commercial") + (", gated" if source.gated else "")
    return f"{source.licence}{limits} ({source.page})"


def _commercial(card: MetricCard) -> bool:
    return all(source.commercial for source in card.sources)


def _state(card: MetricCard) -> str:
    """What is lacking before the metric can be used here: "ready" for nothing."""
    from identisim.extras import missing_modules
    from identisim.metrics.registry import weights_present

    lacking = []
    if card.extra is not None and missing_modules(card.extra):
        lacking.append(f"needs identisim[{card.extra}]")
    if not weights_present(card):
        lacking.append(
            f"not downloaded (`identisim pull {card.name}`)" if card.sources else "weights missing"
        )
    return ", ".join(lacking) or "ready"
