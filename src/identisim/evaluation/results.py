"""Rows of results, and how they are written: JSON lines, CSV, and tables for terminal and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from identisim.records import atomic_file

DIFFERENCE = " minus "
"""In the name of a measure: its difference to another metric."""


@dataclass(frozen=True)
class Result:
    """One measure of one metric on one benchmark.

    value, low, high: fraction and its 95 % interval, NaN when it could not be measured (null in JSON, empty in CSV).
    n: queries or pairs measured; seed: of the resamples; missing: photos that could not be read.
    """

    benchmark: str
    metric: str
    score: str
    measure: str
    value: float
    low: float
    high: float
    n: int
    seed: int
    fingerprint: str
    missing: int

    @property
    def cell(self) -> str:
        """Value and interval in %, such as `70.5 [65.1, 75.3]`; a star marks a measure with photos missing."""
        if math.isnan(self.value):
            return "–"
        star = "*" if self.missing else ""
        return f"{100 * self.value:.1f}{star} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """Write results.jsonl, results.csv and results.md into a folder, each atomically."""
    lines = [json.dumps(_plain(result), allow_nan=False, ensure_ascii=False) + "\n" for result in results]
    contents = {"jsonl": "".join(lines), "csv": csv_table(results), "md": markdown_table(results)}
    for suffix, content in contents.items():
        with atomic_file(folder / f"results.{suffix}") as file:
            file.write(content.encode())


def text_table(results: Sequence[Result]) -> str:
    """Metrics down, measures across, aligned for a terminal; differences between metrics are left out."""
    rows = _wide(results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in padded)


def markdown_table(results: Sequence[Result]) -> str:
    """The table of `text_table` in Markdown, in %."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in _wide(results))
    rule = ["---"] * len(head)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *body))


def csv_table(results: Sequence[Result]) -> str:
    """Every row of the results, differences included, as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(result) for result in results)
    return text.getvalue()


def _plain(result: Result) -> dict[str, str | int | float | None]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(result).items()
    }


def _wide(results: Sequence[Result]) -> list[list[str]]:
    shown = [result for result in results if DIFFERENCE not in result.measure]
    measures = list(dict.fromkeys(result.measure for result in shown))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for result in shown:
        cells.setdefault((result.metric, result.score), {})[result.measure] = result.cell
    body = [[name, score, *(row.get(m, "") for m in measures)] for (name, score), row in cells.items()]
    return [["metric", "score", *measures], *body]
