"""The StyleGAN2 generator with output skips, written from Karras et al. 2020."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from dcmark.train.layers import PRECISIONS, EqualizedLinear, Mapping, modulated_conv2d
from dcmark.train.signal import activate, binomial, resample
from dcmark.train.stylegan2.config import GeneratorConfig


class StyledConvolution(nn.Module):
    """Modulated convolution with noise, optionally doubling the resolution."""

    noise: Tensor

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        style: int,
        resolution: int,
        *,
        up: bool,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = EqualizedLinear(style, channels_in, offset=1.0)
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.noise_gain = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(resolution, resolution))

    def forward(self, x: Tensor, style: Tensor, blur: Tensor, *, random: bool) -> Tensor:
        """(N, I, H, W) to (N, O, H, W), twice the size where ``up``."""
        scales = self.affine(style)
        if self.up:
            x = modulated_conv2d(x, self.weight, scales, up=True)
            x = resample(x, blur, padding=(1, 1, 1, 1), gain=4)
        else:
            x = modulated_conv2d(x, self.weight, scales, padding=1)
        noise = torch.randn_like(x[:, :1]) if random else self.noise.to(x.dtype)
        x = x + noise * self.noise_gain.to(x.dtype) + self.bias.to(x.dtype)[:, None, None]
        return activate(x, clamp=self.clamp)


class ToImage(nn.Module):
    """Feature maps to image channels: a modulated 1x1 convolution, not demodulated."""

    def __init__(self, channels_in: int, channels_out: int, style: int, *, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = EqualizedLinear(style, channels_in, offset=1.0)
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(N, I, H, W) to (N, O, H, W)."""
        scales = self.affine(style) / math.sqrt(self.weight.shape[1])
        x = modulated_conv2d(x, self.weight, scales, demodulate=False) + self.bias.to(x.dtype)[:, None, None]
        return activate(x, slope=1.0, gain=1.0, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution: feature maps on, and what they add to the image (output skips, section 4.1)."""

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        self.precision = config.precision_at(resolution)
        width, style, clamp = config.width(resolution), config.style, config.clamp
        self.first = (
            StyledConvolution(config.width(resolution // 2), width, style, resolution, up=True, clamp=clamp)
            if resolution > 4
            else None
        )
        self.second = StyledConvolution(width, width, style, resolution, up=False, clamp=clamp)
        self.image = ToImage(width, config.channels, style, clamp=clamp)

    def forward(
        self, x: Tensor, image: Tensor | None, styles: Tensor, blur: Tensor, *, random: bool
    ) -> tuple[Tensor, Tensor]:
        """Feature maps and the image so far, both at this block's resolution."""
        x = x.to(styles.dtype if self.precision == "float32" else PRECISIONS[self.precision])
        *inner, last = styles.unbind(dim=1)
        if self.first is not None:
            x = self.first(x, inner[0], blur, random=random)
        x = self.second(x, inner[-1], blur, random=random)
        more = self.image(x, last).to(styles.dtype)
        if image is not None:
            more = more + resample(image, blur, up=2, padding=(2, 1, 2, 1), gain=4)
        return x, more


class Synthesis(nn.Module):
    """From styles to images, one resolution after the other from a learned constant."""

    blur: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.resolutions = [4 << i for i in range(config.resolution.bit_length() - 2)]
        self.register_buffer("blur", binomial())
        self.start = nn.Parameter(torch.randn(config.width(4), 4, 4))
        self.blocks = nn.ModuleList(SynthesisBlock(config, resolution) for resolution in self.resolutions)

    def forward(self, styles: Tensor, *, random: bool = False) -> Tensor:
        """Styles (N, copies, style) to images; ``random`` draws fresh noise instead of the stored."""
        x = self.start.to(styles.dtype).expand(styles.shape[0], -1, -1, -1)
        image: Tensor | None = None
        used = 0
        for block in self.blocks:
            # The style that makes a block's image also makes the first layer of the next block.
            count = 2 if block.first is None else 3
            x, image = block(x, image, styles[:, used : used + count], self.blur, random=random)
            used += count - 1
        assert image is not None
        return image


class Generator(nn.Module):
    """The StyleGAN2 generator with output skips."""

    family: Literal["stylegan2"] = "stylegan2"

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.synthesis = Synthesis(config)
        copies = 2 * len(self.synthesis.blocks)
        self.mapping = Mapping(config.latent, config.labels, config.style, config.mapping_layers, copies=copies)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        truncation: float = 1.0,
        truncated: int | None = None,
        update: bool = False,
        random: bool = False,
    ) -> Tensor:
        """Images (N, channels, resolution, resolution) of z; as for StyleGAN3.

        ``random`` draws the noise of every layer afresh; else the stored noise is used.
        """
        styles = self.mapping(z, labels, truncation=truncation, truncated=truncated, update=update)
        images: Tensor = self.synthesis(styles, random=random)
        return images

    def official_names(self) -> dict[str, str]:
        """Names of tensors in official checkpoints -> names in ``state_dict``."""
        names = self.mapping.official_names("mapping.")
        names["synthesis.b4.const"] = "synthesis.start"
        shared = {name: name for name in ("weight", "bias", "affine.weight", "affine.bias")}
        styled = shared | {"noise_strength": "noise_gain", "noise_const": "noise"}
        for index, level in enumerate(self.synthesis.resolutions):
            theirs, ours = f"synthesis.b{level}", f"synthesis.blocks.{index}"
            names[f"{theirs}.resample_filter"] = "synthesis.blur"
            for a, b in {"conv0": "first", "conv1": "second"}.items():
                if a == "conv0" and level == 4:
                    continue
                names |= {f"{theirs}.{a}.{x}": f"{ours}.{b}.{y}" for x, y in styled.items()}
                names[f"{theirs}.{a}.resample_filter"] = "synthesis.blur"
            names |= {f"{theirs}.torgb.{x}": f"{ours}.image.{y}" for x, y in shared.items()}
        return names
