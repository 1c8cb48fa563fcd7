"""The command that writes the network of a metric for other programs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from identisim.cli.output import AsJson, print_json
from identisim.cli.pictures import Weights


class To(StrEnum):
    """Formats that `identisim.export` writes."""

    PT2 = "pt2"
    ONNX = "onnx"
    OPENVINO = "openvino"


def export(
    name: Annotated[str, typer.Argument(help="Metric name; `identisim metrics` lists them.")],
    to: Annotated[To, typer.Option(help="pt2 (PyTorch), onnx or openvino.")],
    out: Annotated[
        Path, typer.Option(help="File to write: FILE.pt2, FILE.onnx or FILE.xml.", metavar="FILE")
    ],
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Write the embedding network of a metric for other programs.

    It takes preprocessed pixels, of any number of pictures at once, and serves all score kinds. FILE.json says what
    the preprocessing is. Exit code 1, and no file, when the result differs from PyTorch.
    """
    import identisim
    from identisim.export import export_metric

    metric = identisim.load_metric(name, device="cpu", weights=weights)
    done = export_metric(metric, to.value, out)
    if as_json:
        print_json(
            path=str(done.path),
            files=[str(path) for path in done.files],
            fingerprint=metric.fingerprint,
            parity={output: asdict(found) for output, found in done.parity.items()},
        )
        return
    for path in done.files:
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    for output, found in done.parity.items():
        print(f"    {output}: largest difference {found.difference:.1e}, least cosine {found.cosine:.7f}")
