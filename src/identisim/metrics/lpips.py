"""LPIPS as a similarity (Zhang et al., CVPR 2018): what deep features of pixels see, a baseline that knows no objects.

Similarity = 1 − LPIPS 0.1: 1 for equal pictures; it can fall below 0.
Pictures are squashed to 224 × 224 first, so that any two can be compared; the published package compares pictures of
one size at the size they have, where its distances differ.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from identisim.images import Pixels, Preprocessing
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import PairMetric, fingerprint
from identisim.sources import RemoteFile, Source

if TYPE_CHECKING:
    import torch

    from identisim.models.lpips import Lpips, Trunk

SIZE: Final = 224

TRUNKS: Final = "https://download.pytorch.org/models"
HEADS: Final = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"


class Published(NamedTuple):
    """The files of one trunk: classifier of torchvision and its file; sha256 and bytes of the heads."""

    network: str
    file: str
    sha256: str
    size: int


# the heads are those in the wheel lpips 0.1.4
PUBLISHED: Final[dict[Trunk, Published]] = {
    "alex": Published(
        "alexnet",
        "alexnet-owt-7be5be79.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        6009,
    ),
    "vgg": Published(
        "vgg16",
        "vgg16-397923af.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        7289,
    ),
    "squeeze": Published(
        "squeezenet1_1",
        "squeezenet1_1-b8a52dc0.pth",
        "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
        10811,
    ),
}


def build_lpips(trunk: Trunk, device: str, folders: tuple[Path, ...]) -> PairMetric:
    """Build the metric; its range is that of 1 − `lpips_distance`.

    folders: of the classifier from torchvision and of the heads v0.1, with the files under their published names. One
    described picture holds 1.9 MB (alex), 24.5 MB (vgg) or 6.7 MB (squeeze). Raises InputError for weights that are
    missing, damaged or of another network.
    """
    from identisim.metrics.embeddings import weights_digest
    from identisim.metrics.network import choose_device
    from identisim.models.lpips import load_lpips

    files = [folder / source.files[0].name for folder, source in zip(folders, _sources(trunk), strict=True)]
    preprocessing = Preprocessing(SIZE, mode="square")
    name = f"lpips-{trunk}"
    weights = weights_digest(tuple(files))
    return PairMetric(
        name,
        similarity_of_descriptions,
        fingerprint(name, weights=weights, preprocessing=preprocessing.fingerprint, version="1"),
        score="features",
        describe=LpipsDescriber(load_lpips(trunk, *files), choose_device(device), preprocessing),
    )


class LpipsDescriber:
    """(H, W, 3) uint8 picture -> (N,) float32, the vector that `Lpips` gives it."""

    def __init__(self, net: Lpips, device: torch.device, preprocessing: Preprocessing) -> None:
        self.device = device
        self.net = net.to(device)
        self.preprocessing = preprocessing

    def __call__(self, image: Pixels) -> NDArray[np.float32]:
        """Describe one picture."""
        import torch

        pixels = torch.from_numpy(self.preprocessing(image))[None].to(self.device)
        with torch.inference_mode():
            return np.asarray(self.net(pixels)[0].cpu().numpy(), np.float32)


def similarity_of_descriptions(a: NDArray[Any], b: NDArray[Any]) -> float:
    """1 − the squared Euclidean distance of two (N,): the same in either order, 1 for equal ones."""
    difference = a - b
    return 1 - float(difference @ difference)


def _sources(trunk: Trunk) -> tuple[Source, Source]:
    published = PUBLISHED[trunk]
    stated = published.file.removesuffix(".pth").rpartition("-")[2]
    return (
        Source(
            f"torchvision/{published.network}",
            (RemoteFile(published.file, f"{TRUNKS}/{published.file}", stated),),
            "BSD-3-Clause",
            "https://github.com/pytorch/vision",
        ),
        Source(
            f"lpips/{trunk}-v0.1",
            (RemoteFile(f"{trunk}.pth", f"{HEADS}/{trunk}.pth", published.sha256, published.size),),
            "BSD-2-Clause",
            "https://github.com/richzhang/PerceptualSimilarity",
        ),
    )


def _card(trunk: Trunk, what: str, size: str, lowest: float) -> MetricCard:
    return MetricCard(
        name=f"lpips-{trunk}",
        what=what,
        size=size,
        licence="BSD-2-Clause; torchvision BSD-3-Clause",
        scores=("features",),
        range=(lowest, 1.0),
        builder=partial(build_lpips, trunk),
        paper="Zhang et al., The Unreasonable Effectiveness of Deep Features, CVPR 2018",
        input=f"{SIZE} × {SIZE}, squashed, bicubic",
        sources=_sources(trunk),
    )


# the lowest values are 1 − 2 Σ max(head) of the published heads, rounded down; real pictures stay far above
CARDS: Final = (
    _card("alex", "1 − LPIPS on AlexNet, the one its authors advise for scores", "244 MB, 2.5 M used", -7.05),
    _card("vgg", "1 − LPIPS on VGG-16, the one its authors advise as a loss", "553 MB, 14.7 M used", -5.63),
    _card("squeeze", "1 − LPIPS on SqueezeNet 1.1, the smallest", "5 MB, 0.7 M used", -10.32),
)
