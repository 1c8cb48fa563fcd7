"""Published vision transformers as metrics: DINO, DINOv2, DINOv3, CLIP, OpenCLIP, SigLIP 2, and folders of one's own.

The similarity is the cosine of the vectors that a network was published to give: CLS behind the final norm, for CLIP
its projection, for SigLIP its attention pooling. Patches are those behind the final norm (CLIP: of the last block).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

from identisim.errors import InputError
from identisim.images import Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import SCORES, EmbeddingMetric, fingerprint
from identisim.sources import RemoteFile, Source, hub_source

if TYPE_CHECKING:
    from identisim.models.backbone import Backbone

EXTRA: Final = "backbones"


class Scaling(TypedDict):
    """Normalisation of pixels in [0, 1], per channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET: Final[Scaling] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP: Final[Scaling] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
HALF: Final[Scaling] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

META: Final = "https://dl.fbaipublicfiles.com"


def build_backbone_metric(
    name: str, preprocessing: Preprocessing, device: str, folders: tuple[Path, ...]
) -> EmbeddingMetric:
    """Build the metric of a backbone from its folder, or file, of weights (see `load_backbone`).

    Raises InputError without transformers and for weights that are missing, damaged or of another network.
    """
    require_transformers(name)
    from identisim.metrics.network import NetworkEncoder
    from identisim.models.checkpoints import load_backbone

    backbone = load_backbone(folders[0])
    return EmbeddingMetric(
        name=name,
        encode=NetworkEncoder(backbone, device, backbone.patch),
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            name, weights=weights_digest(folders), preprocessing=preprocessing.fingerprint, version="1"
        ),
    )


def build_local_backbone(path: Path, device: str = "auto") -> EmbeddingMetric:
    """Build a metric from any folder or file that `load_backbone` reads.

    The picture is squashed to the size that the network was made for (CLIP: its central square is taken), and
    normalised as the publishers of that kind of network do.
    """
    require_transformers(str(path))
    from identisim.metrics.network import NetworkEncoder
    from identisim.models.checkpoints import load_backbone

    backbone = load_backbone(path)
    preprocessing = _usual_preprocessing(backbone)
    return EmbeddingMetric(
        name=path.name,
        encode=NetworkEncoder(backbone, device, backbone.patch),
        preprocessing=preprocessing,
        fingerprint=fingerprint(
            path.name, weights=weights_digest((path,)), preprocessing=preprocessing.fingerprint, version="1"
        ),
    )


def _usual_preprocessing(backbone: Backbone) -> Preprocessing:
    size = backbone.size
    if backbone.kind == "clip_vision_model":
        return Preprocessing(size, mode="crop", **CLIP)
    if backbone.kind == "siglip_vision_model":
        return Preprocessing(size, filter="bilinear", **HALF)
    return Preprocessing(size, **IMAGENET)


DECISIVE: Final = (".json", ".safetensors", ".pth", ".pt", ".bin", ".tar")
"""Endings of the files, in a folder of weights, that may decide a number."""


def weights_digest(folders: tuple[Path, ...]) -> str:
    """Identity of all files that may decide a number in folders, or of single files: names and sha256 of each."""
    import hashlib

    from identisim.downloads import weights_sha256

    digest = hashlib.sha256()
    for folder in folders:
        files = [folder]
        if folder.is_dir():
            files = [
                file for file in sorted(folder.iterdir()) if file.suffix in DECISIVE and file.name[0] != "."
            ]
        for file in files:
            digest.update(f"{file.name} {weights_sha256(file)}\n".encode())
    return digest.hexdigest()


def require_transformers(name: str) -> None:
    """Raise InputError that says what to install, or what is broken, unless transformers can be imported."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{name} needs transformers, which cannot be imported ({error}): pip install 'identisim[{EXTRA}]'"
        ) from error
    try:
        from transformers import Dinov2Model  # noqa: F401
    except (ImportError, RuntimeError) as error:
        # transformers imports torchvision when it is there, and a broken one breaks every model
        raise InputError(
            f"{name}: transformers is installed but its models cannot be imported ({error}); the usual cause is a "
            "torchvision that does not belong to the installed torch: uninstall torchvision (identisim needs none), "
            "or install the matching one; `identisim doctor` says more"
        ) from error


def _card(
    name: str, what: str, parameters: str, source: Source, preprocessing: Preprocessing, paper: str
) -> MetricCard:
    fitted = {"square": "squashed", "crop": "central square", "pad": "padded"}[preprocessing.mode]
    return MetricCard(
        name=name,
        what=what,
        size=f"{parameters} parameters",
        licence=source.licence,
        scores=SCORES,
        range=(-1.0, 1.0),
        builder=partial(build_backbone_metric, name, preprocessing),
        paper=paper,
        input=f"{preprocessing.size} × {preprocessing.size}, {fitted}, {preprocessing.filter}",
        sources=(source,),
        extra=EXTRA,
    )


def meta_source(folder: str, path: str, licence: str, page: str, sha256: str | None = None) -> Source:
    """Source of one file on Meta's server."""
    return Source(folder, (RemoteFile(path.rpartition("/")[2], f"{META}/{path}", sha256),), licence, page)


DINO_PAGE: Final = "https://github.com/facebookresearch/dino"
DINOV2_PAGE: Final = "https://github.com/facebookresearch/dinov2"
DINOV2_SHA256: Final = {"vitb14": "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"}
DINOV3_SHA256: Final = {"vitb16": "73cec8be", "vitl16": "8aa4cbdd", "vith16plus": "7c1da9a5"}
"""First digits, as in the names of Meta's files."""

DINOV3_LICENCE: Final = "DINOv3 License (custom, Meta)"


def dino_source() -> Source:
    """Source of DINO ViT-B/16, as Meta published it."""
    path = "dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
    return meta_source("meta/dino_vitb16", path, "Apache-2.0", DINO_PAGE)


def dinov2_source(size: str) -> Source:
    """Source of a DINOv2 backbone, as Meta published it. size: vits14, vitb14, vitl14, vitg14, or with _reg4."""
    path = f"dinov2/dinov2_{size.removesuffix('_reg4')}/dinov2_{size}_pretrain.pth"
    return meta_source(f"meta/dinov2_{size}", path, "Apache-2.0", DINOV2_PAGE, DINOV2_SHA256.get(size))


def dinov3_source(size: str, instead: str) -> Source:
    """Source of a DINOv3 backbone on the hub, or the file that Meta sends. size: vitb16, vitl16, vith16plus."""
    return hub_source(
        f"facebook/dinov3-{size}-pretrain-lvd1689m",
        {"config.json": None, "model.safetensors": None},
        licence=DINOV3_LICENCE,
        gated=True,
        instead=instead,
        alternatives=(f"dinov3_{size}_pretrain_lvd1689m-{DINOV3_SHA256[size]}.pth",),
    )


def _hub_bin(repository: str, licence: str) -> Source:
    return hub_source(repository, {"config.json": None, "pytorch_model.bin": None}, licence=licence)


_DINOV2 = "Oquab et al., DINOv2, TMLR 2024"
_CLIP = "Radford et al., CLIP, ICML 2021"
_OPENCLIP = "Cherti et al., OpenCLIP, CVPR 2023"

CARDS: Final = (
    _card(
        "dinov1-b16",
        "DINO ViT-B/16, CLS: a baseline of CUTE",
        "86 M",
        dino_source(),
        Preprocessing(224, **IMAGENET),
        "Caron et al., DINO, ICCV 2021",
    ),
    *(
        _card(
            f"dinov2-{letter}{suffix}",
            f"DINOv2 ViT-{letter.upper()}/14{' with registers' if suffix else ''}, CLS",
            parameters,
            dinov2_source(f"vit{letter}14{'_reg4' if suffix else ''}"),
            Preprocessing(336, **IMAGENET),
            _DINOV2,
        )
        for suffix in ("", "-reg")
        for letter, parameters in (("s", "22 M"), ("b", "87 M"), ("l", "304 M"), ("g", "1,136 M"))
    ),
    *(
        _card(
            f"dinov3-{letter}",
            f"DINOv3 ViT-{label}, CLS: the backbone of ID-Sim without its training",
            parameters,
            dinov3_source(size, f"dinov2-{'l' if letter != 'b' else 'b'}"),
            Preprocessing(448, **IMAGENET),
            "Siméoni et al., DINOv3, 2025",
        )
        for letter, label, parameters, size in (
            ("b", "B/16", "86 M", "vitb16"),
            ("l", "L/16", "303 M", "vitl16"),
            ("h", "H+/16", "841 M", "vith16plus"),
        )
    ),
    _card(
        "clip-l14-336",
        "CLIP ViT-L/14 at 336 pixels, image embedding: the CLIPScore of CUTE",
        "304 M",
        _hub_bin("openai/clip-vit-large-patch14-336", "MIT (code); weights as published by OpenAI"),
        Preprocessing(336, mode="crop", **CLIP),
        _CLIP,
    ),
    *(
        _card(
            f"openclip-{letter}",
            f"OpenCLIP ViT-{letter.upper()} trained on LAION-2B, image embedding",
            parameters,
            _hub_bin(repository, "MIT"),
            Preprocessing(224, mode="crop", **CLIP),
            _OPENCLIP,
        )
        for letter, parameters, repository in (
            ("b32", "88 M", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
            ("l14", "304 M", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"),
            ("h14", "633 M", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        )
    ),
    _card(
        "siglip2",
        "SigLIP 2 So400m/14 at 384 pixels, image embedding",
        "428 M",
        hub_source(
            "google/siglip2-so400m-patch14-384",
            {"config.json": None, "model.safetensors": None},
            licence="Apache-2.0",
        ),
        Preprocessing(384, filter="bilinear", **HALF),
        "Tschannen et al., SigLIP 2, 2025",
    ),
)
