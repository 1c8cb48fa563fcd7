"""What several commands print, and the option that asks for it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def print_json(**fields: Any) -> None:
    """Print the fields as one line of JSON, in the order given."""
    print(json.dumps(fields, allow_nan=False))
