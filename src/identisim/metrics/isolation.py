"""Tell the object from its background before, or after, a network sees the picture (CUTE, section 3).

Crop-Img blackens the background of the picture and then computes features; Crop-Feat computes the features of the whole
picture and then leaves out the patches of the background. Foreground feature averaging takes the mean of the patches
that are left as the vector of the picture. The authors' code has the two names exchanged; here they mean what the paper
says, and `compat="s-tian"` repeats the code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from identisim.errors import InputError
from identisim.images import ImageLike, Pixels, Preprocessing

if TYPE_CHECKING:
    from identisim.models.tokens import Tokens

COVERED: Final = 0.5
"""A patch counts as foreground when more than this share of it belongs to the object."""


class Foreground(Protocol):
    """Which pixels of a picture show the object.

    fingerprint: identity of the method and its weights, the same for all pictures. content: of files of the user's that
    decide masks, "" for none.
    """

    @property
    def fingerprint(self) -> str:
        """Identity of method and weights."""

    @property
    def content(self) -> str:
        """Identity of the user's files, as they are now."""

    def __call__(self, source: ImageLike, picture: Pixels) -> NDArray[np.float32]:
        """Mask of a picture: (H, W, 3) uint8 -> (H, W) float32 in [0, 1]. source: what the picture was read from."""


class ForegroundWarning(UserWarning):
    """No foreground was found, and the whole picture counts instead."""


@dataclass(frozen=True)
class Isolation:
    """How an `EmbeddingMetric` uses a foreground.

    crop: blacken the background before the network sees the picture (Crop-Img). average: the vector of the picture is
    the mean of its foreground patches (FFA) instead of the network's own. compat: "s-tian" for the behaviour of the
    authors' code, which exchanges the two crops and takes everything but the darkest pixels as foreground.

    A picture without any foreground patch counts as a whole, with a `ForegroundWarning`.
    """

    foreground: Foreground
    crop: bool
    average: bool
    compat: Literal["s-tian"] | None = None

    def __post_init__(self) -> None:
        if self.compat not in (None, "s-tian"):
            raise InputError(f"unknown compat {self.compat!r}; only 's-tian' is known")

    @property
    def fingerprint(self) -> str:
        """Identity of everything here that decides a number."""
        return (
            f"{self.foreground.fingerprint}|crop={self.crop}|average={self.average}|{self.compat or 'paper'}"
        )

    def tokens(
        self,
        source: ImageLike,
        picture: Pixels,
        preprocessing: Preprocessing,
        encode: Callable[[NDArray[Any]], Tokens],
    ) -> Tokens:
        """Features of one picture: `Tokens` whose foreground is 1 on patches of the object and 0 elsewhere."""
        import torch

        from identisim.models.tokens import Tokens

        mask = self.foreground(source, picture)
        cropped = self._without_background(picture, mask)
        # the authors' code encodes the blackened picture where the paper says Crop-Feat
        blacken = self.crop if self.compat is None else not self.crop
        pixels = preprocessing(cropped if blacken else picture)
        found = encode(pixels[None])
        grid: tuple[int, int] = (found.patches.shape[1], found.patches.shape[2])
        if self.compat is None:
            patches = preprocessing.mask(mask, grid) > COVERED
        else:
            patches = brighter_patches(preprocessing(cropped), grid)
        if not patches.any():
            name = source if isinstance(source, str) else getattr(source, "name", "a picture")
            message = f"no foreground found in {name}: all of its patches count"
            warnings.warn(message, ForegroundWarning, stacklevel=2)
            patches = np.ones(grid, np.bool_)
        inside = torch.from_numpy(patches)
        cls = found.patches[:, inside].mean(1) if self.average else found.cls
        return Tokens(cls, found.patches, inside[None].to(found.patches.dtype))

    def _without_background(self, picture: Pixels, mask: NDArray[np.float32]) -> Pixels:
        if self.compat is None:
            return np.asarray(np.rint(picture * mask[..., None]), np.uint8)
        # their semi-transparent pixels keep their full colour
        return np.asarray(np.where(mask[..., None] > 0, picture, 0), np.uint8)


def brighter_patches(pixels: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Patches of which more than half is brighter than the darkest pixel: the rule of the authors' code.

    pixels (3, S, S), normalised -> (h, w).
    """
    # one sum in float32 like theirs: equality with the minimum is meant exactly
    total = pixels.sum(0, dtype=np.float32)
    picture = Image.fromarray((total != total.min()).astype(np.uint8) * 255)
    small = picture.resize((grid[1], grid[0]), Image.Resampling.BILINEAR)
    return np.asarray(np.asarray(small) / 255 > COVERED)
