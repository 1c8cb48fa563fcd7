"""The network of a metric as a file for other programs: PyTorch's exported program, ONNX, OpenVINO.

The file takes preprocessed pixels (B, 3, S, S), any B, and gives `cls` (B, D) of unit length, whose dot products are
the score kind `cls`, `patches` (B, h, w, D') of any length and, where the network knows it, `foreground` (B, h, w). A
JSON file beside it says what the preprocessing is. What was written is read back and compared with PyTorch before it
gets its name.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from identisim.errors import InputError
from identisim.extras import require_extra
from identisim.images import Preprocessing
from identisim.metrics.metric import Array, EmbeddingMetric, Metric
from identisim.metrics.network import network_of
from identisim.models.formats import FORMATS, Format, Outputs, Run
from identisim.models.preprocess import resampling_weights
from identisim.models.tokens import Tokens
from identisim.records import file_sha256, write_json

LEAST_COSINE: Final = 0.9999
"""An exported network one of whose vectors has a lower cosine with PyTorch's is not kept."""

BATCHES: Final = (1, 3)
"""Sizes of the batches that are compared."""


class ExportError(RuntimeError):
    """The network cannot be exported, or what was exported computes something else; nothing was kept."""


@dataclass(frozen=True)
class Parity:
    """How one output differs from PyTorch in float32, over all pictures compared.

    difference: largest absolute one. cosine: smallest of any vector (of a picture, a patch; all of a foreground).
    """

    difference: float
    cosine: float


@dataclass(frozen=True)
class Export:
    """What was written. path: the file to open. files: all of them. parity: of every output, by name."""

    path: Path
    files: tuple[Path, ...]
    parity: dict[str, Parity]


def export_metric(metric: Metric, to: str, out: str | os.PathLike[str]) -> Export:
    """Write the network of a metric to `out`, in float32, for inference with batches of any size.

    to: "pt2" (read by `torch.export.load`), "onnx" (extra `export`) or "openvino" (extra `openvino`); out must end in
    .pt2, .onnx or .xml. The weights of OpenVINO, and those of ONNX above 2 GB, lie in a second file beside it. Older
    files of these names are replaced when all went well. Raises InputError for a metric without such a network, another
    name and a missing extra, ExportError when the network cannot be exported or the result differs from PyTorch.
    """
    out = Path(out)
    kind = _format(to, out)
    network = _Exported(copy.deepcopy(network_of(metric)).cpu().float())
    assert isinstance(metric, EmbeddingMetric)  # what has a network is one
    require_extra(kind.extra, f"export to {to}")
    pictures = _pictures(metric.preprocessing)
    with _folder_beside(out) as folder, _quiet(), torch.no_grad():
        reference = _reference(network, pictures)
        program = _program(network, pictures[:2], metric.name)
        metadata = _metadata(metric, to, reference)
        kind.write(program, folder / out.name, metadata)
        parity = _compare(reference, kind.load(folder / out.name, list(reference[0])), pictures)
        _require_parity(parity, metric.name, to)
        sums = {path.name: file_sha256(path) for path in folder.iterdir()}
        figures = {name: asdict(values) for name, values in parity.items()}
        write_json(folder / f"{out.name}.json", metadata | {"parity": figures, "sha256": sums})
        files = _publish(folder, out)
    return Export(out, files, parity)


class _Exported(nn.Module):
    """A network as the file has it: named tensors, the global vectors of unit length."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        tokens: Tokens = self.network(pixels)
        found = {"cls": F.normalize(tokens.cls, dim=1), "patches": tokens.patches}
        return found if tokens.foreground is None else found | {"foreground": tokens.foreground}


class _MatrixResizes(TorchFunctionMode):
    """Compute antialiased resizes as products with constant matrices, the same up to rounding.

    OpenVINO cannot read them, and takes those of an ONNX file for plain ones, without a word.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrices: dict[tuple[int, int, str], Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Called in place of every function of torch."""
        named = named or {}
        if function is not F.interpolate or not named.get("antialias"):
            return function(*arguments, **named)
        x, (height, width), kernel = arguments[0], named["size"], named["mode"]
        rows, columns = self._matrix(x.shape[2], height, kernel), self._matrix(x.shape[3], width, kernel)
        return rows @ (x @ columns.T)

    def _matrix(self, length: int, out_length: int, kernel: str) -> Tensor:
        key = (length, out_length, kernel)
        if key not in self.matrices:
            self.matrices[key] = resampling_weights(length, 0, length, out_length, kernel).float()
        return self.matrices[key]


def _program(network: _Exported, example: Array, name: str) -> ExportedProgram:
    pixels = torch.from_numpy(example)
    with _MatrixResizes():
        # once for real, so that what networks compute once and keep are tensors and not traces
        network(pixels)
        try:
            return torch.export.export(
                network,
                (pixels,),
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}},
                strict=False,
            )
        except Exception as error:  # torch has no common class for what it cannot trace
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ExportError(f"torch.export cannot follow the network of {name}: {reason}") from error


def _metadata(metric: EmbeddingMetric, to: str, reference: list[Outputs]) -> dict[str, Any]:
    from identisim import __version__

    size = metric.preprocessing.size
    return {
        "format": to,
        "name": metric.name,
        "fingerprint": metric.fingerprint,
        "score": "the dot product of two cls is the similarity of score kind cls; higher = more alike",
        "preprocessing": asdict(metric.preprocessing),
        "input": {"name": "pixels", "shape": ["batch", 3, size, size], "type": "float32"},
        "outputs": {name: ["batch", *values.shape[1:]] for name, values in reference[0].items()},
        # OpenVINO takes bfloat16 where the processor has it, and parity is that of float32
        "run": "compile with INFERENCE_PRECISION_HINT=f32" if to == "openvino" else "as it is",
        "identisim": __version__,
        "torch": torch.__version__,
    }


def _format(to: str, out: Path) -> Format:
    if to not in FORMATS:
        raise InputError(f"unknown format {to!r}; choose one of: {', '.join(FORMATS)}")
    if out.suffix != FORMATS[to].suffix:
        raise InputError(f"{out}: a file of format {to} must end in {FORMATS[to].suffix}")
    return FORMATS[to]


def _pictures(preprocessing: Preprocessing) -> Array:
    """Random pictures, from coarse to fine, preprocessed: (B, 3, S, S)."""
    random = np.random.default_rng(0)
    details = (4, 16, 64)
    return np.stack([preprocessing(random.integers(0, 256, (side, side, 3), np.uint8)) for side in details])


def _reference(network: _Exported, pictures: Array) -> list[Outputs]:
    """Outputs of the network itself, for every size of batch."""
    found = [network(torch.from_numpy(pictures[:size])) for size in BATCHES]
    return [{name: tensor.numpy() for name, tensor in outputs.items()} for outputs in found]


def _compare(reference: list[Outputs], run: Run, pictures: Array) -> dict[str, Parity]:
    found = [run(pictures[:size]) for size in BATCHES]
    parity = {}
    for name in reference[0]:
        pairs = [
            (a[name].astype(np.float64), b[name].astype(np.float64))
            for a, b in zip(reference, found, strict=True)
        ]
        difference = max(float(np.abs(a - b).max()) for a, b in pairs)
        parity[name] = Parity(difference, min(_least_cosine(a, b) for a, b in pairs))
    return parity


def _least_cosine(a: Array, b: Array) -> float:
    a, b = (x.reshape(len(x), -1) if x.ndim == 3 else x.reshape(-1, x.shape[-1]) for x in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.where((a == b).all(1), 1.0, (a * b).sum(1) / np.where(lengths > 0, lengths, 1))
    return float(cosines.min())


def _require_parity(parity: dict[str, Parity], name: str, to: str) -> None:
    # not "<": NaN must not pass
    wrong = {output: found.cosine for output, found in parity.items() if not found.cosine >= LEAST_COSINE}
    if wrong:
        listed = ", ".join(f"{output} {cosine:.6f}" for output, cosine in wrong.items())
        raise ExportError(
            f"{name} as {to} differs from PyTorch, so nothing was kept: least cosine {listed}, "
            f"expected at least {LEAST_COSINE}"
        )


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """An empty folder on the file system of `out`, gone afterwards."""
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist; make it first")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _publish(folder: Path, out: Path) -> tuple[Path, ...]:
    """Give the files their names, the one to open last: who sees it has all."""
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: name == out.name)
    for name in names:
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
        (folder / name).replace(out.parent / name)
    return tuple(out.parent / name for name in reversed(names))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(before)
