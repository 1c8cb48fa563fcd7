"""The optional dependencies: which modules each extra of the package brings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from identisim.errors import InputError

MODULES: Final = {
    "world": ("numba",),
    "classical": ("cv2", "skimage"),
    "backbones": ("transformers",),
    "diffusion": ("diffusers", "transformers"),
    "rembg": ("rembg",),
    "carvekit": ("carvekit",),
    "torchmetrics": ("torchmetrics",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}
"""Extra of pyproject.toml -> modules that are there once it is installed."""


def missing_modules(extra: str) -> list[str]:
    """Modules of an extra that are not installed; nothing is imported."""
    return [module for module in MODULES[extra] if find_spec(module) is None]


def require_extra(extra: str | None, wanted_by: str) -> None:
    """Raise InputError that says what to install unless an extra is there; None is always there."""
    if extra is not None and (missing := missing_modules(extra)):
        raise InputError(
            f"{wanted_by} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install 'identisim[{extra}]'"
        )
