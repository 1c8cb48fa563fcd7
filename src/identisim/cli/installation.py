"""Commands about what is installed: the metrics, and whether everything works."""

from __future__ import annotations

import typer

from identisim.cli.output import AsJson, print_json


def metrics(as_json: AsJson = False) -> None:
    """List the metrics: what they see, licence, readiness."""
    import identisim
    from identisim.metrics.registry import weights_present

    cards = identisim.list_metrics()
    if as_json:
        fields = ("name", "what", "size", "licence", "gated", "scores", "range", "unit", "extra")
        print_json(
            metrics=[
                {field: getattr(card, field) for field in fields} | {"weights_present": weights_present(card)}
                for card in cards
            ]
        )
        return
    for card in cards:
        ready = "ready" if weights_present(card) else "weights missing"
        access = "gated" if card.gated else "free"
        extra = f"; needs identisim[{card.extra}]" if card.extra else ""
        print(f"{card.name}: {card.what}")
        print(f"    {card.size}; {card.licence}, {access}; {ready}; scores: {', '.join(card.scores)}{extra}")


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
