"""Exported programs of PyTorch as files, and files as functions: PyTorch's own format, ONNX, OpenVINO."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

Outputs = dict[str, NDArray[np.float32]]
Run = Callable[[NDArray[np.float32]], Outputs]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    extra: of identisim, that it needs. write: a program, a path and metadata, whose "input" has a "shape" and whose
    "outputs" are named in order. load: a path and these names -> a function from pixels to outputs.
    """

    suffix: str
    extra: str | None
    write: Callable[[ExportedProgram, Path, dict[str, Any]], None]
    load: Callable[[Path, list[str]], Run]


def _write_pt2(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    torch.export.save(program, path, extra_files={"identisim.json": json.dumps(metadata)})


def _load_pt2(path: Path, names: list[str]) -> Run:
    module = torch.export.load(path).module()
    return lambda pixels: {name: out.numpy() for name, out in module(torch.from_numpy(pixels)).items()}


def _write_onnx(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    written: Any = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["pixels"],
        output_names=list(metadata["outputs"]),
        dynamic_shapes={"pixels": {0: "batch"}},
    )
    written.model.metadata_props.update({f"identisim.{key}": _text(value) for key, value in metadata.items()})
    written.save(path)


def _load_onnx(path: Path, names: list[str]) -> Run:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))


def _write_openvino(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    openvino = _openvino()
    decoder = importlib.import_module("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder
    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    decoded = decoder.from_exported_program(program)  # must outlive the conversion
    model = frontend.convert(frontend.load(decoded))
    model.reshape({"pixels": [-1, *metadata["input"]["shape"][1:]]})
    for output, name in zip(model.outputs, metadata["outputs"], strict=True):
        output.get_tensor().set_names({name})
    for key, value in metadata.items():
        model.set_rt_info(_text(value), ["identisim", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def _load_openvino(path: Path, names: list[str]) -> Run:
    # its default on some processors is bfloat16
    compiled = _openvino().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: {
        name: np.array(out) for name, out in zip(names, compiled(pixels).values(), strict=True)
    }


def _openvino() -> Any:
    """OpenVINO, imported as if the library were missing by which it reports its use to its makers."""
    reporter = "openvino_telemetry"
    if reporter in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[reporter] = None  # type: ignore[assignment]
    try:
        importlib.import_module("openvino.frontend")
        return importlib.import_module("openvino")
    finally:
        del sys.modules[reporter]


FORMATS: Final = {
    "pt2": Format(".pt2", None, _write_pt2, _load_pt2),
    "onnx": Format(".onnx", "export", _write_onnx, _load_onnx),
    "openvino": Format(".xml", "openvino", _write_openvino, _load_openvino),
}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
