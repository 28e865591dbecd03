"""The progressively grown generator and discriminator (Karras et al. 2018).

``lod`` is the level of detail that is left out: 0 for the full resolution, 1 for half of it, and
so on; between two whole numbers one level fades into the next. Images are always of full size.
Weights are equalised: stored with unit variance, and scaled by the He constant where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcmark.errors import UsageError
from dcmark.train.layers import minibatch_deviation, unit_length
from dcmark.train.settings import check_range, check_resolution, in_official_words, renamed


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of both networks.

    Attributes:
        resolution: pixels of a side of the image; a power of two.
        channels: channels of the image, any number.
        labels: length of the label vector; 0 for an unconditional model.
        latent: length of the latent vector; None for the width of a 2x2 layer.
        capacity: feature maps at a resolution times half of that resolution.
        widest: most feature maps of a layer.
        decay: how fast the feature maps fall off: capacity / (resolution / 2) ** decay.
        group: images that are compared with one another in the minibatch statistic.
        normalize_latent: scale latent vectors, labels included, to unit mean square.
    """

    resolution: int
    channels: int
    labels: int = 0
    latent: int | None = None
    capacity: int = 8192
    widest: int = 512
    decay: float = 1.0
    group: int = 4
    normalize_latent: bool = True

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        check_range(self, "labels", 0, 65536)
        check_range(self, "capacity", 1, 1 << 26)
        check_range(self, "decay", 0, 4)
        for name in ("channels", "widest", "group") + (("latent",) if self.latent is not None else ()):
            check_range(self, name, 1, 65536)

    @property
    def levels(self) -> int:
        """Number of resolutions from 4 up; the largest lod is one less."""
        return self.resolution.bit_length() - 2

    def size(self, lod: int) -> int:
        """Pixels of a side at a level."""
        return self.resolution >> lod

    def width(self, lod: int) -> int:
        """Feature maps at a level; that of the latent vector follows the 4x4 level."""
        return max(min(int(self.capacity / (self.size(lod) / 2) ** self.decay), self.widest), 1)

    @property
    def latent_size(self) -> int:
        """Length of the latent vector."""
        return self.width(self.levels) if self.latent is None else self.latent

    @classmethod
    def from_official(cls, settings: Mapping[str, Any]) -> Config:
        """The configuration from the keyword arguments that official checkpoints carry.

        Raises:
            UnsupportedError: a setting that this implementation has no counterpart for.
        """
        return cls(**renamed(settings, _OFFICIAL_NAMES, "", {}))

    def to_official(self) -> dict[str, Any]:
        """The inverse of :meth:`from_official`; ``precision`` is not part of it."""
        return in_official_words(self, _OFFICIAL_NAMES)


_OFFICIAL_NAMES = {
    "num_channels": "channels",
    "resolution": "resolution",
    "label_size": "labels",
    "latent_size": "latent",
    "fmap_base": "capacity",
    "fmap_max": "widest",
    "fmap_decay": "decay",
    "mbstd_group_size": "group",
    "normalize_latents": "normalize_latent",
}


class EqualizedConv(nn.Module):
    """Equalised 3x3 or 1x1 convolution, by itself or with a change of resolution by two built in.

    Convolving after nearest-neighbour doubling, and averaging 2x2 after convolving, are both one
    convolution of stride 2 with the 3x3 kernel summed over its shifts by one pixel.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, gain: float = math.sqrt(2), change: int = 0
    ) -> None:
        """``change``: 1 doubles the resolution, -1 halves it, 0 leaves it."""
        super().__init__()
        self.change, self.padding = change, kernel // 2
        self.scale = gain / math.sqrt(channels_in * kernel**2)
        sides = (channels_in, channels_out) if change == 1 else (channels_out, channels_in)
        self.weight = nn.Parameter(torch.randn(*sides, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) to (N, O, H, W), (N, O, 2H, 2W) or (N, O, H/2, W/2)."""
        weight = self.weight * self.scale
        if self.change == 0:
            return functional.conv2d(x, weight, self.bias, padding=self.padding)
        weight = functional.pad(weight, (1, 1, 1, 1))
        weight = weight[:, :, 1:, 1:] + weight[:, :, :-1, 1:] + weight[:, :, 1:, :-1] + weight[:, :, :-1, :-1]
        if self.change == 1:
            return functional.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)
        return functional.conv2d(x, weight / 4, self.bias, stride=2, padding=1)


class EqualizedDense(nn.Module):
    """Equalised dense layer."""

    def __init__(self, features_in: int, features_out: int, biases: int, *, gain: float) -> None:
        """``biases``: their number; the first dense layer of the generator has one per feature map."""
        super().__init__()
        self.scale = gain / math.sqrt(features_in)
        self.weight = nn.Parameter(torch.randn(features_out, features_in))
        self.bias = nn.Parameter(torch.zeros(biases))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features_in) to (N, features_out), without the bias."""
        return functional.linear(x, self.weight * self.scale)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def fade(fine: Tensor, coarse: Tensor, lod: float) -> Tensor:
    """From ``fine`` to ``coarse`` as lod goes from one whole number to the next."""
    return fine.lerp(coarse, lod - math.floor(lod))


def _check_lod(lod: float, config: Config) -> float:
    if not 0 <= lod <= config.levels - 1:
        raise UsageError(f"expected lod from 0 to {config.levels - 1}, found {lod}")
    return lod


class Generator(nn.Module):
    """From latent vectors to images."""

    family: Literal["pggan"] = "pggan"
    official_axes: ClassVar[dict[int, tuple[int, ...]]] = {2: (1, 0), 4: (3, 2, 0, 1)}
    lod: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        last = config.levels - 1
        width = config.width(last)
        self.register_buffer("lod", torch.zeros(()))
        self.dense = EqualizedDense(config.latent_size + config.labels, width * 16, width, gain=math.sqrt(2) / 4)
        self.first = EqualizedConv(width, width, 3)
        # Index = lod: blocks[lod] goes from the next coarser level to this one.
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    EqualizedConv(config.width(lod + 1), config.width(lod), 3, change=1),
                    EqualizedConv(config.width(lod), config.width(lod), 3),
                ]
            )
            for lod in range(last)
        )
        self.images = nn.ModuleList(
            EqualizedConv(config.width(lod), config.channels, 1, gain=1.0) for lod in range(config.levels)
        )

    def forward(
        self, latents: Tensor, labels: Tensor | None = None, *, lod: float | None = None, full: bool = True
    ) -> Tensor:
        """Images (N, channels, resolution, resolution), nominally from -1 to 1.

        Args:
            latents: (N, latent_size), standard normal.
            labels: (N, labels); needed for a conditional model.
            lod: level of detail left out; None for the stored one.
            full: of full size at any lod; else of the size that lod, rounded down, has.

        Raises:
            UsageError: labels are missing, or lod is out of range.
        """
        config = self.config
        lod = _check_lod(float(self.lod) if lod is None else lod, config)
        x = latents
        if config.labels:
            if labels is None:
                raise UsageError(f"expected labels of shape (N, {config.labels}) for a conditional model, found none")
            x = torch.cat([x, labels.to(x.dtype)], dim=1)
        if config.normalize_latent:
            x = unit_length(x)
        x = self.dense(x).view(x.shape[0], -1, 4, 4) + self.dense.bias[:, None, None]
        x = unit_length(_leaky(x))
        x = unit_length(_leaky(self.first(x)))
        fine, coarse = math.floor(lod), x
        for level in range(config.levels - 2, fine - 1, -1):
            coarse = x
            for convolution in self.blocks[level]:  # type: ignore[attr-defined]
                x = unit_length(_leaky(convolution(x)))
        image: Tensor = self.images[fine](x)
        if lod > fine:
            image = fade(image, double(self.images[fine + 1](coarse)), lod)
        image = image.to(latents.dtype)  # another one within an autocast
        return double(image, fine) if full else image

    def official_names(self) -> dict[str, str]:
        """Names of variables in official checkpoints -> names in ``state_dict``."""
        modules = {"4x4/Dense": "dense", "4x4/Conv": "first"}
        for lod in range(self.config.levels):
            modules[f"ToRGB_lod{lod}"] = f"images.{lod}"
        for lod, side in enumerate(self.config.size(lod) for lod in range(self.config.levels - 1)):
            modules[f"{side}x{side}/Conv0_up"] = f"blocks.{lod}.0"
            modules[f"{side}x{side}/Conv1"] = f"blocks.{lod}.1"
        return _with_leaves(modules)


def double(x: Tensor, times: int = 1) -> Tensor:
    """Twice the size, ``times`` times, every pixel repeated."""
    return x if times == 0 else functional.interpolate(x, scale_factor=2**times, mode="nearest")


def shrink(images: Tensor, side: int) -> Tensor:
    """Images averaged down to ``side`` pixels of a side."""
    factor = images.shape[3] // side
    return images if factor == 1 else functional.avg_pool2d(images, factor)


def _with_leaves(modules: Mapping[str, str]) -> dict[str, str]:
    names = {f"{a}/{leaf}": f"{b}.{leaf}" for a, b in modules.items() for leaf in ("weight", "bias")}
    return {"lod": "lod", **names}


class Discriminator(nn.Module):
    """From images to scores, and to label logits where the model is conditional."""

    family: Literal["pggan-discriminator"] = "pggan-discriminator"
    official_axes: ClassVar[dict[int, tuple[int, ...]]] = Generator.official_axes
    lod: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        last = config.levels - 1
        width, narrow = config.width(last), config.width(config.levels)
        self.register_buffer("lod", torch.zeros(()))
        # Index = lod: blocks[lod] goes from this level to the next coarser one.
        self.entries = nn.ModuleList(
            EqualizedConv(config.channels, config.width(lod), 1) for lod in range(config.levels)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                EqualizedConv(config.width(lod), config.width(lod), 3),
                nn.LeakyReLU(0.2),
                EqualizedConv(config.width(lod), config.width(lod + 1), 3, change=-1),
                nn.LeakyReLU(0.2),
            )
            for lod in range(last)
        )
        self.last = EqualizedConv(width + 1, width, 3)
        self.dense = EqualizedDense(width * 16, narrow, narrow, gain=math.sqrt(2))
        self.score = EqualizedDense(narrow, 1 + config.labels, 1 + config.labels, gain=1.0)

    def forward(self, images: Tensor, *, lod: float | None = None) -> tuple[Tensor, Tensor]:
        """Scores (N, 1) and label logits (N, labels) of images (N, channels, side, side).

        The side is ``resolution``, or already that of lod, rounded down.
        """
        config = self.config
        lod = _check_lod(float(self.lod) if lod is None else lod, config)
        fine = math.floor(lod)
        images = shrink(images, config.size(fine))
        x = _leaky(self.entries[fine](images))
        for level in range(fine, config.levels - 1):
            x = self.blocks[level](x)
            if level == fine and lod > fine:
                x = fade(x, _leaky(self.entries[fine + 1](functional.avg_pool2d(images, 2))), lod)
        x = _leaky(self.last(minibatch_deviation(x, config.group)))
        x = _leaky(self.dense(x.flatten(1)) + self.dense.bias)
        x = self.score(x).to(images.dtype) + self.score.bias
        return x[:, :1], x[:, 1:]

    def official_names(self) -> dict[str, str]:
        """Names of variables in official checkpoints -> names in ``state_dict``."""
        modules = {"4x4/Conv": "last", "4x4/Dense0": "dense", "4x4/Dense1": "score"}
        for lod in range(self.config.levels):
            modules[f"FromRGB_lod{lod}"] = f"entries.{lod}"
        for lod, side in enumerate(self.config.size(lod) for lod in range(self.config.levels - 1)):
            modules[f"{side}x{side}/Conv0"] = f"blocks.{lod}.0"
            modules[f"{side}x{side}/Conv1_down"] = f"blocks.{lod}.2"
        return _with_leaves(modules)
