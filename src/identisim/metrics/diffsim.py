"""DiffSim as a metric (Song et al., ICCV 2025): how well the attention of Stable Diffusion 1.5 aligns two pictures.

The setting is that of the authors' script for CUTE: 512 × 512 pixels, first up block with attention, step 600, cosine.
Two things differ. They draw other noise for the second picture than for the first, so that their score depends on the
order; here all pictures get the same noise, which makes it symmetric and lets a picture be described once. And their
prompt for CUTE names the category of the object; here it is their default, which names none.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from identisim.errors import InputError
from identisim.images import Pixels
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import PairMetric, fingerprint
from identisim.sources import hub_source

if TYPE_CHECKING:
    import torch

    from identisim.models.diffsim import DiffSimFeatures, DiffSimNet

SIZE: Final = 512
EXTRA: Final = "diffusion"
REPOSITORY: Final = "stable-diffusion-v1-5/stable-diffusion-v1-5"

NETWORKS: Final = (
    ("diffusers", "AutoencoderKL"),
    ("diffusers", "UNet2DConditionModel"),
    ("transformers", "CLIPTextModel"),
    ("transformers", "CLIPTokenizer"),
)

FILES: Final = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
)


def build_diffsim(device: str, folders: tuple[Path, ...], *, size: int = SIZE) -> PairMetric:
    """Build the metric, in [−1, 1], 1 for equal pictures, from the folder of Stable Diffusion 1.5.

    size: pixels a side, a multiple of 64. A described picture holds 10.5 MB at 512 pixels. Raises InputError without
    the extra `diffusion` and for weights that are missing, damaged or of another network.
    """
    if size < 64 or size % 64:
        raise InputError(f"diffsim takes a size that is a multiple of 64 pixels; got {size}")
    require_diffusers()
    from identisim.metrics.network import choose_device
    from identisim.models.diffsim import aligned_similarity, load_diffsim

    weights = _digest(folders[0])
    return PairMetric(
        "diffsim",
        aligned_similarity,
        fingerprint("diffsim", weights=weights, preprocessing=f"lanczos{size}-rgb", version="1"),
        score="attention",
        describe=DiffSimDescriber(load_diffsim(folders[0]), choose_device(device), size),
    )


class DiffSimDescriber:
    """(H, W, 3) uint8 picture -> `DiffSimFeatures` on the CPU."""

    def __init__(self, net: DiffSimNet, device: torch.device, size: int) -> None:
        self.device = device
        self.net = net.to(device)
        self.size = size

    def __call__(self, image: Pixels) -> DiffSimFeatures:
        """Describe one picture."""
        import torch

        from identisim.models.diffsim import DiffSimFeatures

        values = np.asarray(squash(image, self.size), np.float32) / np.float32(127.5) - 1
        pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]
        with torch.inference_mode():
            features = self.net(pixels.to(self.device))
        return DiffSimFeatures(*(part.cpu() for part in features))


def squash(image: Pixels, size: int) -> Image.Image:
    """Resize (H, W, 3) uint8 to size × size with Pillow's Lanczos filter, columns first in every version of Pillow."""
    picture = Image.fromarray(image)
    columns = picture.resize((size, picture.height), Image.Resampling.LANCZOS)
    return columns.resize((size, size), Image.Resampling.LANCZOS)


def require_diffusers() -> None:
    """Raise InputError, with what to install, unless the networks of the extra can be imported."""
    try:
        for module, network in NETWORKS:
            getattr(importlib.import_module(module), network)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"diffsim needs diffusers and transformers, which cannot be imported ({error}): "
            f"pip install 'identisim[{EXTRA}]'; if both are installed, a torchvision that does not belong to the "
            "installed torch is the usual cause (`identisim doctor` says more)"
        ) from error


def _digest(folder: Path) -> str:
    """Identity of all files that decide a number: their names and sha256."""
    from identisim.downloads import weights_sha256

    lines = (f"{name} {weights_sha256(folder / name)}\n" for name in FILES)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


CARDS: Final = (
    MetricCard(
        name="diffsim",
        what="attention of Stable Diffusion 1.5, aligned between two pictures",
        size="2.1 GB, half precision",
        licence="CreativeML OpenRAIL-M",
        scores=("attention",),
        range=(-1.0, 1.0),
        builder=build_diffsim,
        paper="Song et al., DiffSim, ICCV 2025",
        input=f"{SIZE} × {SIZE}, squashed, lanczos",
        sources=(hub_source(REPOSITORY, dict.fromkeys(FILES), licence="CreativeML OpenRAIL-M"),),
        extra=EXTRA,
    ),
)
