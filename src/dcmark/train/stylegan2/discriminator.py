"""The residual StyleGAN2 discriminator, with which StyleGAN2-ADA and StyleGAN3 are trained too.

Written from Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN".
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcmark.train.layers import PRECISIONS, EqualizedLinear, Mapping, minibatch_deviation
from dcmark.train.signal import activate, binomial, resample
from dcmark.train.stylegan2.config import DiscriminatorConfig


class Convolution(nn.Module):
    """An equalised convolution, optionally halving the resolution through a low-pass filter."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, clamp: float | None, bias: bool = True
    ) -> None:
        super().__init__()
        self.padding, self.clamp = kernel // 2, clamp
        self.scale = 1 / math.sqrt(channels_in * kernel**2)
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None

    def forward(self, x: Tensor, blur: Tensor | None = None, *, leaky: bool = True, gain: float = 1.0) -> Tensor:
        """(N, I, H, W) to (N, O, H, W), or half of that where a ``blur`` filter is given."""
        weight = self.weight.to(x.dtype) * self.scale
        if blur is None:
            x = functional.conv2d(x, weight, padding=self.padding)
        elif self.padding == 0:
            x = functional.conv2d(resample(x, blur, down=2, padding=(1, 1, 1, 1)), weight)
        else:
            around = self.padding + 1
            x = functional.conv2d(resample(x, blur, padding=(around, around, around, around)), weight, stride=2)
        if self.bias is not None:
            x = x + self.bias.to(x.dtype)[:, None, None]
        clamp = None if self.clamp is None else self.clamp * gain
        return activate(x, slope=0.2 if leaky else 1.0, gain=gain * (math.sqrt(2) if leaky else 1.0), clamp=clamp)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, to half the resolution (section 4.1)."""

    def __init__(self, channels_in: int, channels_out: int, *, clamp: float | None) -> None:
        super().__init__()
        self.keep = Convolution(channels_in, channels_in, 3, clamp=clamp)
        self.halve = Convolution(channels_in, channels_out, 3, clamp=clamp)
        self.shortcut = Convolution(channels_in, channels_out, 1, clamp=clamp, bias=False)

    def forward(self, x: Tensor, blur: Tensor) -> Tensor:
        """(N, I, H, W) to (N, O, H/2, W/2); the sum of both ways keeps the variance."""
        gain = math.sqrt(0.5)
        past: Tensor = self.shortcut(x, blur, leaky=False, gain=gain)
        return torch.add(past, self.halve(self.keep(x), blur, gain=gain))


class Discriminator(nn.Module):
    """Tells real images from generated ones; the higher the score, the more real."""

    family: Literal["stylegan2-discriminator"] = "stylegan2-discriminator"
    blur: Tensor

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        levels = [config.resolution >> i for i in range(config.resolution.bit_length() - 3)]
        self.resolutions = levels
        self.register_buffer("blur", binomial())
        self.entry = Convolution(config.channels, config.width(levels[0]), 1, clamp=config.clamp)
        self.blocks = nn.ModuleList(
            ResidualBlock(config.width(level), config.width(level // 2), clamp=config.clamp) for level in levels
        )
        width = config.width(4)
        self.last = Convolution(width + 1, width, 3, clamp=config.clamp)
        self.dense = EqualizedLinear(width * 16, width, leaky=True)
        self.score = EqualizedLinear(width, width if config.labels else 1)
        self.mapping = Mapping(0, config.labels, width, config.mapping_layers, copies=None) if config.labels else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Scores (N, 1) of images (N, channels, resolution, resolution); labels (N, labels)."""
        x = images
        for index, (level, block) in enumerate(zip(self.resolutions, self.blocks, strict=True)):
            precision = self.config.precision_at(level)
            x = x.to(images.dtype if precision == "float32" else PRECISIONS[precision])
            if index == 0:
                x = self.entry(x)
            x = block(x, self.blur)
        x = minibatch_deviation(x.to(images.dtype), self.config.group)
        scores: Tensor = self.score(self.dense(self.last(x).flatten(1)))
        if self.mapping is not None:  # the projection discriminator of Miyato and Koyama
            match = (scores * self.mapping(None, labels)).sum(dim=1, keepdim=True)
            scores = match / math.sqrt(scores.shape[1])
        return scores

    def official_names(self) -> dict[str, str]:
        """Names of tensors in official checkpoints -> names in ``state_dict``."""
        names = {}
        for index, level in enumerate(self.resolutions):
            parts = {"conv0": "keep", "conv1": "halve", "skip": "shortcut"}
            for theirs, ours in parts.items():
                names[f"b{level}.{theirs}.weight"] = f"blocks.{index}.{ours}.weight"
                if theirs != "skip":
                    names[f"b{level}.{theirs}.bias"] = f"blocks.{index}.{ours}.bias"
            # Every convolution there has a filter of its own; they are all the same one.
            entry = ["fromrgb."] if index == 0 else []
            for owner in ["", *entry, *(f"{theirs}." for theirs in parts)]:
                names[f"b{level}.{owner}resample_filter"] = "blur"
        pairs = {
            f"b{self.resolutions[0]}.fromrgb": "entry",
            "b4.conv": "last",
            "b4.fc": "dense",
            "b4.out": "score",
        }
        names |= {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in pairs.items() for leaf in ("weight", "bias")}
        names["b4.conv.resample_filter"] = "blur"
        if self.mapping is not None:
            names |= self.mapping.official_names("mapping.")
        return names
