"""Where foreground masks come from: the packaged network, transparency, mask files, CarveKit, rembg."""

from __future__ import annotations

import hashlib
import importlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from identisim.errors import InputError
from identisim.images import SUFFIXES, ImageLike, Pixels, list_images, load_image, resize
from identisim.metrics.isolation import Foreground
from identisim.records import file_sha256

LOCAL_REMBG: Final = (
    "u2net",
    "u2netp",
    "u2net_human_seg",
    "silueta",
    "isnet-general-use",
    "isnet-anime",
    "birefnet-general",
    "birefnet-general-lite",
)
"""Models of rembg that run on this machine; some of its others upload the pictures, and are refused."""

CARVEKIT: Final = {
    "object_type": "object",
    "batch_size_seg": 5,
    "batch_size_matting": 1,
    "seg_mask_size": 640,
    "matting_mask_size": 2048,
    "trimap_prob_threshold": 231,
    "trimap_dilation": 30,
    "trimap_erosion_iters": 5,
    "fp16": False,
}
"""The settings of CUTE (code): Tracer-B7 at 640 pixels and FBA matting at 2,048."""

KNOWN: Final = "compact, alpha, whole, tracer-b7, rembg:MODEL, or a folder of mask files"


def find_foreground(name: str | os.PathLike[str], device: str = "auto") -> Foreground:
    """Foreground by name, or the path of a folder with mask files.

    compact: the packaged network. alpha: the transparency of the picture's own file. whole: all of the picture.
    tracer-b7: CarveKit with the settings of CUTE. rembg:MODEL: a local model of rembg. Raises InputError for another
    name, a missing extra or a missing folder.
    """
    text = os.fspath(name)
    if text == "compact":
        return CompactForeground(device)
    if text == "alpha":
        return AlphaForeground()
    if text == "whole":
        return WholePicture()
    if text == "tracer-b7":
        return CarveKitForeground(device)
    if text.startswith("rembg:"):
        return RembgForeground(text.removeprefix("rembg:"))
    if Path(text).is_dir():
        return MaskFiles(Path(text))
    raise InputError(f"unknown foreground {text!r}; expected {KNOWN}")


@dataclass(frozen=True)
class WholePicture:
    """No foreground at all: every pixel counts."""

    fingerprint: str = "whole"
    content: str = ""

    def __call__(self, source: ImageLike, picture: Pixels) -> NDArray[np.float32]:
        """Mask of ones."""
        return np.ones(picture.shape[:2], np.float32)


@dataclass(frozen=True)
class CompactForeground:
    """The packaged foreground network of `compact`, cut at ½."""

    device: str = "auto"
    content: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights."""
        from identisim.models.compact import WEIGHTS_SHA256

        return f"compact:{WEIGHTS_SHA256[:16]}"

    @cached_property
    def _network(self) -> Any:
        from identisim.metrics.compact import load_packaged

        return load_packaged(self.device)

    def __call__(self, source: ImageLike, picture: Pixels) -> NDArray[np.float32]:
        """Mask of a picture, of zeros and ones."""
        import torch
        from torch.nn import functional as F  # noqa: N812

        network = self._network
        device = next(network.parameters()).device
        pixels = (
            torch.from_numpy(np.ascontiguousarray(picture)).to(device).permute(2, 0, 1)[None].float() / 255
        )
        with torch.inference_mode():
            logits = network.foreground(pixels)[:, None]
            full = F.interpolate(logits, picture.shape[:2], mode="bilinear")
        return np.asarray((full[0, 0] > 0).cpu().numpy(), np.float32)


@dataclass(frozen=True)
class AlphaForeground:
    """The transparency that the picture itself carries, as tools that cut out objects write it."""

    fingerprint: str = "alpha"
    content: str = ""

    def __call__(self, source: ImageLike, picture: Pixels) -> NDArray[np.float32]:
        """Opacity of a picture; InputError when it has none."""
        black = load_image(source, background=(0, 0, 0)).astype(np.int16)
        white = load_image(source, background=(255, 255, 255)).astype(np.int16)
        # what shows of the background is what the picture lets through
        opacity = 1 - (white - black).max(2) / np.float32(255)
        if opacity.min() >= 1:
            raise InputError(
                f"{source if isinstance(source, str | os.PathLike) else 'a picture'} has no transparency, which "
                "foreground 'alpha' needs: cut the object out, or choose another foreground"
            )
        return np.asarray(np.clip(opacity, 0, 1), np.float32)


@dataclass(frozen=True)
class MaskFiles:
    """Masks in files: for A/B/photo.jpg the first of FOLDER/A/B/photo.png, FOLDER/B/photo.png, FOLDER/photo.png.

    Any picture format does; non-black is object. A mask of another size is resized, which must not change its shape.
    """

    folder: Path

    @property
    def fingerprint(self) -> str:
        """Says only that the masks came from files: new ones may join them, such as those of queries."""
        return "mask-files"

    @property
    def content(self) -> str:
        """Digest of all masks in the folder."""
        digest = hashlib.sha256()
        for path in list_images(self.folder):
            digest.update(f"{path.relative_to(self.folder).as_posix()} {file_sha256(path)}\n".encode())
        return digest.hexdigest()

    def __call__(self, source: ImageLike, picture: Pixels) -> NDArray[np.float32]:
        """Mask that belongs to a picture's path."""
        if not isinstance(source, str | os.PathLike):
            raise InputError(f"a folder of masks needs pictures that are files; got {type(source).__name__}")
        mask = load_image(self.find(Path(source)), background=(0, 0, 0)).max(2)
        height, width = picture.shape[:2]
        if abs(mask.shape[1] / mask.shape[0] - width / height) > 0.02 * width / height:
            raise InputError(
                f"the mask {self.find(Path(source))} is {mask.shape[1]} × {mask.shape[0]} pixels, {source} "
                f"{width} × {height}: they are of different shapes"
            )
        if mask.max(initial=0) == 1:
            mask = mask * np.uint8(255)
        if mask.shape != (height, width):
            mask = resize(mask, height, width)
        return np.asarray(mask / np.float32(255), np.float32)

    def find(self, picture: Path) -> Path:
        """File of the mask of a picture; InputError that names where it was looked for."""
        parts = [part for part in picture.parent.parts if part not in ("..", ".", picture.anchor)]
        for start in range(len(parts) + 1):
            stem = self.folder.joinpath(*parts[start:], picture.stem)
            for suffix in (".png", *SUFFIXES):
                if (found := stem.with_name(stem.name + suffix)).is_file():
                    return found
        raise InputError(
            f"no mask for {picture}: looked for {picture.stem}.png, or another picture format, in {self.folder} "
            f"and below it in {'/'.join(parts[-2:]) or '(nothing)'}"
        )


@dataclass(frozen=True)
class CarveKitForeground:
    """CarveKit's Tracer-B7 with matting, the foreground of CUTE. It downloads its weights itself."""

    device: str = "auto"
    fingerprint: str = "carvekit-tracer-b7"
    content: str = ""

    @cached_property
    def _interface(self) -> Any:
        import torch

        module = _require("carvekit.api.high", "tracer-b7", "carvekit")
        cuda = self.device.startswith("cuda") or (self.device == "auto" and torch.cuda.is_available())
        return module.HiInterface(device="cuda" if cuda else "cpu", **CARVEKIT)

    def __call__(self, source: ImageLike, picture: Pixels) -> NDArray[np.float32]:
        """Matte of a picture."""
        cut = self._interface([Image.fromarray(picture)])[0]
        return np.asarray(cut.getchannel("A"), np.float32) / np.float32(255)


@dataclass(frozen=True)
class RembgForeground:
    """One of rembg's local models."""

    model: str
    content: str = ""

    def __post_init__(self) -> None:
        if self.model not in LOCAL_REMBG:
            raise InputError(
                f"rembg model {self.model!r} is not one of those that run on this machine: {', '.join(LOCAL_REMBG)}"
            )

    @property
    def fingerprint(self) -> str:
        """Name of the model and version of rembg."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"rembg-{version('rembg')}:{self.model}"
        except PackageNotFoundError:
            return f"rembg:{self.model}"

    @cached_property
    def _session(self) -> Any:
        return _require("rembg", f"rembg:{self.model}", "rembg").new_session(self.model)

    def __call__(self, source: ImageLike, picture: Pixels) -> NDArray[np.float32]:
        """Mask of a picture."""
        rembg = _require("rembg", f"rembg:{self.model}", "rembg")
        mask = rembg.remove(Image.fromarray(picture), session=self._session, only_mask=True)
        return np.asarray(mask.convert("L"), np.float32) / np.float32(255)


def _require(module: str, foreground: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"foreground {foreground} needs {package}, which cannot be imported ({error}): "
            f"pip install 'identisim[{extra}]', or choose another foreground ({KNOWN})"
        ) from error
