"""Exported networks: every kind in PyTorch's format, some in the others, faults that must leave nothing behind."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import identisim
import toy_backbones as toys
from identisim.cli import exports
from identisim.errors import InputError
from identisim.export import ExportError, export_metric
from identisim.extras import missing_modules
from identisim.images import Preprocessing
from identisim.metrics.metric import EmbeddingMetric
from identisim.metrics.network import NetworkEncoder
from identisim.models.checkpoints import load_backbone
from identisim.models.dreamsim import Branch, DreamSim
from identisim.models.formats import _openvino
from identisim.models.idsim import IDSim
from identisim.models.tokens import Tokens
from identisim.models.unicom import UnicomNet, UnicomShape
from identisim.records import file_sha256

SIZE = 40  # the toys were made for 32: positions are resampled
IMAGENET = Preprocessing(SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HUB = ("vit", "dinov2 SwiGLU", "dinov2 registers", "dinov3 gated", "clip", "siglip")


def metric_of(net: nn.Module, preprocessing: Preprocessing = IMAGENET) -> EmbeddingMetric:
    return EmbeddingMetric("toy", NetworkEncoder(net, "cpu"), preprocessing, "toy:0123456789abcdef")


def toy(kind: str, folder: Path) -> EmbeddingMetric:
    """A metric with random weights, read from a public layout where there is one."""
    if kind == "unicom":
        shape = UnicomShape(size=SIZE, patch=8, width=24, depth=2, heads=3, dim=10)
        return metric_of(UnicomNet(shape))
    if kind in ("idsim", "dreamsim"):
        torch.save(toys.meta_state(toys.DINOV3), folder / "toy.pth")
        backbone = load_backbone(folder / "toy.pth", "last-block")
        if kind == "idsim":
            return metric_of(IDSim(backbone, hidden=16))
        branches = [Branch(folder, "last-block", IMAGENET.mean, IMAGENET.std)] * 2
        return metric_of(DreamSim([backbone, copy.deepcopy(backbone)], branches), Preprocessing(SIZE))
    toys.hub_network(kind).save_pretrained(folder / "toy")
    return metric_of(load_backbone(folder / "toy"))


def pictures(count: int) -> list[np.ndarray]:
    """Pictures that share more and less of one pattern, so that their similarities differ widely."""
    random = np.random.default_rng(1)
    pattern = random.integers(0, 256, (12, 12, 3))
    mixed = [
        (1 - i / count) * pattern + i / count * random.integers(0, 256, (12, 12, 3)) for i in range(count)
    ]
    return [np.kron(one, np.ones((5, 5, 1))).round().astype(np.uint8) for one in mixed]


def require(to: str) -> None:
    if missing := missing_modules({"onnx": "export"}.get(to, "openvino")) if to != "pt2" else []:
        pytest.skip(f"not installed: {missing}")  # not imported: OpenVINO would report that


def run_pt2(path: Path, pixels: np.ndarray) -> dict[str, np.ndarray]:
    found = torch.export.load(path).module()(torch.from_numpy(pixels))
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def run_onnx(path: Path, pixels: np.ndarray) -> dict[str, np.ndarray]:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"pixels": pixels}), strict=True))


def run_openvino(path: Path, pixels: np.ndarray) -> dict[str, np.ndarray]:
    compiled = _openvino().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"pixels": pixels})
    return {output.any_name: found[output] for output in compiled.outputs}


RUNS = {"pt2": (".pt2", run_pt2), "onnx": (".onnx", run_onnx), "openvino": (".xml", run_openvino)}


def ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort().astype(float)


def check(metric: EmbeddingMetric, to: str, folder: Path) -> None:
    """The file gives the metric's own features and, of pictures, its similarities in their order (S3)."""
    suffix, run = RUNS[to]
    done = export_metric(metric, to, folder / f"net{suffix}")
    assert done.path == folder / f"net{suffix}" and all(path.is_file() for path in done.files)
    assert all(found.cosine > 0.99999 for found in done.parity.values())
    shown = pictures(7)
    found = run(done.path, np.stack([metric.preprocessing(one) for one in shown]))
    tokens = metric.tokens(shown)
    close = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(found["cls"], F.normalize(tokens.cls, dim=1), atol=1e-5)
    np.testing.assert_allclose(found["patches"], tokens.patches, **close)
    assert ("foreground" in found) == (tokens.foreground is not None)
    if tokens.foreground is not None:
        np.testing.assert_allclose(found["foreground"], tokens.foreground, **close)
    pairs = np.triu_indices(len(shown), 1)
    scores = (found["cls"] @ found["cls"].T)[pairs]
    expected = metric.embed(shown) @ metric.embed(shown).T
    assert np.ptp(expected[pairs]) > 1e-3
    assert np.corrcoef(ranks(scores), ranks(expected[pairs]))[0, 1] > 0.999
    described = json.loads((folder / f"net{suffix}.json").read_text())
    assert described["fingerprint"] == metric.fingerprint and described["format"] == to
    assert Preprocessing(**described["preprocessing"]) == metric.preprocessing
    assert described["outputs"] == {name: ["batch", *values.shape[1:]] for name, values in found.items()}
    sums = {path.name: file_sha256(path) for path in done.files if path.suffix != ".json"}
    assert described["sha256"] == sums
    assert sorted(folder.glob(".*")) == []


@pytest.mark.parametrize("kind", ["clip", "dinov3 gated", "idsim"])
def test_pytorchs_format(tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    metric = toy(kind, tmp_path)
    metric.tokens(pictures(1))  # leaves behind what a network computes once, without gradients
    check(metric, "pt2", tmp_path / "out")


def test_onnx(tmp_path: Path) -> None:
    require("onnx")
    (tmp_path / "out").mkdir()
    metric = toy("dinov2 registers", tmp_path)
    check(metric, "onnx", tmp_path / "out")
    written = importlib.import_module("onnx").load(tmp_path / "out" / "net.onnx")
    notes = {note.key.removeprefix("identisim."): note.value for note in written.metadata_props}
    assert notes["fingerprint"] == metric.fingerprint and json.loads(notes["preprocessing"])["size"] == SIZE
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    # others than ONNX Runtime leave antialiasing out without a word
    assert not [node for node in written.graph.node for a in node.attribute if a.name == "antialias"]


@pytest.mark.slow
@pytest.mark.parametrize("to", RUNS)
@pytest.mark.parametrize("kind", [*HUB, "idsim", "dreamsim", "unicom"])
def test_every_kind_of_network_in_every_format(tmp_path: Path, kind: str, to: str) -> None:
    require(to)
    (tmp_path / "out").mkdir()
    check(toy(kind, tmp_path), to, tmp_path / "out")


def test_compact_at_full_size(tmp_path: Path) -> None:
    check(identisim.load_metric("compact", "cls", "cpu"), "pt2", tmp_path)  # type: ignore[arg-type]
    extra = {"identisim.json": ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert json.loads(extra["identisim.json"])["name"] == "compact"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_compact_at_full_size_in_the_other_formats(tmp_path: Path, to: str) -> None:
    require(to)
    check(identisim.load_metric("compact", "cls", "cpu"), to, tmp_path)  # type: ignore[arg-type]


@pytest.mark.slow
def test_openvino_does_not_report_its_use(tmp_path: Path) -> None:
    require("openvino")
    code = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from identisim.models.formats import _openvino\n"
        "_openvino()\n"
        "assert 'openvino' in sys.modules and 'openvino_telemetry' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # its reporter writes an id into the home


class Treacherous(nn.Module):
    """Computes something else while it is exported, as a faulty exporter would make it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, pixels: Tensor) -> Tokens:
        maps = F.avg_pool2d(pixels, 8).permute(0, 2, 3, 1) @ self.weight.T
        if torch.compiler.is_exporting():
            if self.how == "wrong":
                maps = maps + 0.1 * maps.flip(-1)
            if self.how == "nan":
                maps = maps.square().neg().sqrt()
            if self.how == "branch" and maps.sum() > 0:
                maps = -maps
        return Tokens(maps.mean((1, 2)), maps)


def test_a_network_that_differs_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    export_metric(metric_of(Treacherous("right")), "pt2", out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for how, message in {
        "wrong": r"toy as pt2 differs from PyTorch, so nothing was kept: least cosine cls 0\.9.*, patches .*0\.9999",
        "nan": "differs from PyTorch, so nothing was kept: least cosine cls nan",
        "branch": "torch.export cannot follow the network of toy: .*data-dependent",
    }.items():
        with pytest.raises(ExportError, match=message):
            export_metric(metric_of(Treacherous(how)), "pt2", out)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    export_metric(metric_of(Treacherous("right"), Preprocessing(48)), "pt2", out)
    assert json.loads((tmp_path / "net.pt2.json").read_text())["preprocessing"]["size"] == 48
    assert {path.name for path in tmp_path.iterdir()} == set(before)


def test_the_metric_stays_as_it_is(tmp_path: Path) -> None:
    metric = metric_of(Treacherous("right"))
    net: Any = metric.encode.net  # type: ignore[attr-defined]
    weight = net.weight
    net.double()
    export_metric(metric, "pt2", tmp_path / "net.pt2")
    assert net.weight is weight and weight.dtype == torch.float64
    assert run_pt2(tmp_path / "net.pt2", np.zeros((2, 3, SIZE, SIZE), np.float32))["cls"].dtype == np.float32


def test_bad_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = metric_of(Treacherous("right"))
    for to, name, message in (
        ("tflite", "net.tflite", "unknown format 'tflite'; choose one of: pt2, onnx, openvino"),
        ("onnx", "net.pt2", r"net\.pt2: a file of format onnx must end in \.onnx"),
        ("openvino", "net.onnx", r"must end in \.xml"),
        ("pt2", "nowhere/net.pt2", "nowhere does not exist; make it first"),
    ):
        with pytest.raises(InputError, match=message):
            export_metric(metric, to, tmp_path / name)
    with pytest.raises(InputError, match="ssim compares pictures pair by pair"):
        export_metric(identisim.load_metric("ssim"), "pt2", tmp_path / "net.pt2")
    monkeypatch.setattr("identisim.extras.find_spec", lambda name: None)
    for to, extra in (("onnx", "export"), ("openvino", "openvino")):
        with pytest.raises(InputError, match=rf"export to {to} needs .*pip install 'identisim\[{extra}\]'"):
            export_metric(metric, to, tmp_path / f"net{RUNS[to][0]}")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_sizes_and_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toys.hub_network("dinov3").save_pretrained(tmp_path / "mine")
    exports.export(str(tmp_path / "mine"), exports.To.PT2, tmp_path / "a.pt2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path}/a.pt2: ") and lines[0].endswith(" MiB")
    assert "cls: largest difference" in lines[2] and "least cosine 1.0000000" in lines[2]
    exports.export(str(tmp_path / "mine"), exports.To.PT2, tmp_path / "a.pt2", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [str(tmp_path / "a.pt2"), str(tmp_path / "a.pt2.json")]
    assert told["parity"]["patches"]["cosine"] > 0.99999
