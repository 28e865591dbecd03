"""Adaptive discriminator augmentation for small data sets (Karras et al. 2020, "limited data").

All that the discriminator sees, real or made, is transformed at random with probability ``p``, and p
follows how sure the discriminator is of real images. The transformations are those that leave
physical values what they are: flips, quarter turns, shifts, rotation and scaling; a small change of
contrast and brightness is there for images without a unit and off by default. Everything is
differentiable, and so are the gradients, as the penalty on them asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dcmark.train.settings import check_range


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """What is done, and how its probability follows the discriminator.

    Attributes:
        target: mean sign of the scores of real images that p steers for.
        images: over so many images p can go from 0 to 1.
        interval: steps between two changes of p.
        flip: mirror left and right. Off where side matters, as it does in most medical images.
        turn: quarter turns.
        shift: largest shift, in parts of the side.
        scale: standard deviation of the binary logarithm of the size.
        rotation: whether to turn by any angle.
        intensity: standard deviation of brightness (and of the logarithm of contrast), in parts of the
            range; 0 leaves physical values alone.
    """

    target: float = 0.6
    images: float = 500_000
    interval: int = 4
    flip: bool = False
    turn: bool = True
    shift: float = 0.125
    scale: float = 0.2
    rotation: bool = True
    intensity: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "target", 0, 1)
        check_range(self, "images", 1, 1e12)
        check_range(self, "interval", 1, 1_000_000)
        check_range(self, "shift", 0, 0.5)
        check_range(self, "scale", 0, 1)
        check_range(self, "intensity", 0, 1)


class Augmentation:
    """Transforms images with probability ``p``, and adapts p.

    Attributes:
        p: probability of every transformation, 0 to 1.
    """

    def __init__(self, settings: AugmentSettings, p: float = 0.0) -> None:
        self.settings, self.p = settings, p
        self._signs, self._steps = 0.0, 0

    def adapt(self, real_sign: float, batch: int) -> None:
        """Learn the mean sign of the scores of a batch of real images; now and then change p."""
        self._signs += real_sign
        self._steps += 1
        if self._steps < self.settings.interval:
            return
        towards = math.copysign(1.0, self._signs / self._steps - self.settings.target)
        step = batch * self._steps / self.settings.images
        self.p = min(max(self.p + towards * step, 0.0), 1.0)
        self._signs, self._steps = 0.0, 0

    def state(self) -> dict[str, float]:
        """All state, as plain numbers."""
        return {"p": self.p, "signs": self._signs, "steps": self._steps}

    def load_state(self, state: dict[str, float]) -> None:
        """Put back what :meth:`state` gave."""
        self.p, self._signs, self._steps = float(state["p"]), float(state["signs"]), int(state["steps"])

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to the same, transformed."""
        if self.p <= 0:
            return images
        settings = self.settings
        if settings.turn or settings.flip or settings.shift or settings.scale or settings.rotation:
            images = sample_affine(images, self._places(len(images)).to(images.device))
        if settings.intensity > 0:
            count = len(images)
            contrast = self._sometimes(torch.exp2(torch.randn(count) * settings.intensity), 1.0)
            brightness = self._sometimes(torch.randn(count) * settings.intensity, 0.0)
            contrast, brightness = (x.to(images)[:, None, None, None] for x in (contrast, brightness))
            images = images * contrast + brightness
        return images

    def _sometimes(self, values: Tensor, else_: float) -> Tensor:
        return torch.where(torch.rand(len(values)) < self.p, values, else_)

    def _places(self, count: int) -> Tensor:
        """Where each image looks for its pixels: (N, 2, 3), in units of half a side, from the centre."""
        settings = self.settings
        turns = torch.randint(0, 4, (count,)) if settings.turn else torch.zeros(count)
        angle = self._sometimes(turns * (math.pi / 2), 0.0)
        if settings.rotation:
            angle = angle + self._sometimes((torch.rand(count) * 2 - 1) * math.pi, 0.0)
        size = self._sometimes(torch.exp2(torch.randn(count) * settings.scale), 1.0)
        flipped = self._sometimes(torch.where(torch.rand(count) < 0.5, -1.0, 1.0), 1.0) if settings.flip else 1.0
        moved = [self._sometimes((torch.rand(count) * 2 - 1) * 2 * settings.shift, 0.0) for _ in range(2)]
        cosine, sine = angle.cos() / size, angle.sin() / size
        rows = [torch.stack([cosine * flipped, -sine, moved[0]], 1), torch.stack([sine * flipped, cosine, moved[1]], 1)]
        return torch.stack(rows, 1)


def sample_affine(images: Tensor, places: Tensor) -> Tensor:
    """Images looked up at affine places, bilinearly; beyond the border they are mirrored.

    PyTorch's own sampler has no second derivative, which the R1 penalty takes; this one is made of
    gathers and has.

    Args:
        images: (N, C, H, W).
        places: (N, 2, 3): maps (x, y, 1) of the result to (x, y) of the images, from -1 to 1 over
            the outer borders.
    """
    count, channels, height, width = images.shape
    y = (torch.arange(height, device=images.device, dtype=torch.float32) + 0.5) * 2 / height - 1
    x = (torch.arange(width, device=images.device, dtype=torch.float32) + 0.5) * 2 / width - 1
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width).to(x)])
    at = (places.float() @ grid.view(3, -1)).view(count, 2, height * width)
    columns, rows = (
        _mirrored((at[:, 0] + 1) * width / 2 - 0.5, width),
        _mirrored((at[:, 1] + 1) * height / 2 - 0.5, height),
    )
    left, top = columns.floor(), rows.floor()
    across, down = (columns - left).to(images.dtype), (rows - top).to(images.dtype)
    flat = images.flatten(2)

    def pick(row: Tensor, column: Tensor) -> Tensor:
        index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
        return flat.gather(2, index[:, None].expand(-1, channels, -1))

    upper = pick(top, left) * (1 - across)[:, None] + pick(top, left + 1) * across[:, None]
    lower = pick(top + 1, left) * (1 - across)[:, None] + pick(top + 1, left + 1) * across[:, None]
    return (upper * (1 - down)[:, None] + lower * down[:, None]).view_as(images)


def _mirrored(at: Tensor, size: int) -> Tensor:
    """Coordinates of pixels folded back into 0 .. size - 1, at the outer pixels."""
    if size == 1:
        return torch.zeros_like(at)
    period = 2 * (size - 1)
    at = at.remainder(period)
    return torch.minimum(at, period - at)
