"""What every network of this package returns for a batch of images.

Shapes: B images, h × w patches, D feature dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Features of B images; register tokens are gone by now.

    cls: (B, D), one vector per image. patches: (B, h, w, D'), one vector per patch (D' may differ from D).
    foreground: (B, h, w) in [0, 1], how much of each patch belongs to the object, or None for a network that does
    not know. Nothing here is normalised: the similarity functions do that.
    """

    cls: Tensor
    patches: Tensor
    foreground: Tensor | None = None

    def __post_init__(self) -> None:
        # shape[0] and not len: len would fix the size of the batch in an exported network
        if self.cls.ndim != 2 or self.patches.ndim != 4 or self.cls.shape[0] != self.patches.shape[0]:
            raise ValueError(
                "Tokens need cls (B, D) and patches (B, h, w, D); "
                f"got {tuple(self.cls.shape)} and {tuple(self.patches.shape)}"
            )
        if self.foreground is not None and self.foreground.shape != self.patches.shape[:3]:
            raise ValueError(
                f"foreground must be (B, h, w) = {tuple(self.patches.shape[:3])}; got {tuple(self.foreground.shape)}"
            )

    def __len__(self) -> int:
        return len(self.cls)

    def __getitem__(self, rows: slice | Tensor) -> Tokens:
        """The same features for some of the images."""
        foreground = None if self.foreground is None else self.foreground[rows]
        return Tokens(self.cls[rows], self.patches[rows], foreground)

    @staticmethod
    def concatenate(parts: list[Tokens]) -> Tokens:
        """Join batches of one network into one, in order."""
        foregrounds = [part.foreground for part in parts]
        known = [mask for mask in foregrounds if mask is not None]
        if known and len(known) != len(parts):
            raise ValueError(
                "some batches have a foreground and some do not: they come from different networks"
            )
        return Tokens(
            torch.cat([part.cls for part in parts]),
            torch.cat([part.patches for part in parts]),
            torch.cat(known) if known else None,
        )
