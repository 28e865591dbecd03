"""What the learners of StyleGAN3 and PGGAN share: latent vectors from seeds, masks, augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dcmark.errors import UsageError
from dcmark.train.augment import Augmentation
from dcmark.train.base import ImageShape


def latents_of(seeds: Sequence[int], length: int, device: torch.device) -> Tensor:
    """A standard normal vector for each seed, the same on every device and in any company: (N, length)."""
    rows = [torch.randn(length, generator=torch.Generator().manual_seed(int(seed) % (1 << 63))) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.zeros(0, length, device=device)


def check_square(shape: ImageShape, most: int = 16384) -> None:
    """Refuse images that are no squares of a power of two.

    Raises:
        UsageError: saying what was found and what helps.
    """
    side = shape.rows
    if shape.columns != side or side < 8 or side > most or side & (side - 1):
        raise UsageError(
            f"expected square images whose side is a power of two from 8 to {most}, "
            f"found {shape.rows}x{shape.columns}; resize them, or let them be padded (--pad)"
        )


class Seen:
    """What all images go through before a discriminator sees them: the mask, then augmentation."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self.augmentation: Augmentation | None = None

    def __call__(self, images: Tensor, between: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, C, H, W) to the same. What lies outside the mask is the lowest value, -1, and teaches nothing.

        ``between``: a blur, which comes after the mask, for it would carry what lies outside of it inwards.
        """
        if self.mask is not None:
            inside = self.mask.to(images)[None, None]
            if inside.shape[-1] != images.shape[-1]:
                inside = functional.adaptive_avg_pool2d(inside, images.shape[-1])
            images = (images + 1) * inside - 1
        if between is not None:
            images = between(images)
        return images if self.augmentation is None else self.augmentation(images)


def shuffled(labels: Tensor | None) -> Tensor | None:
    """The labels of a batch for images to be made, which need not be those of the real ones beside them."""
    return None if labels is None else labels[torch.randperm(len(labels)).to(labels.device)]
