"""The StyleGAN3 generator (Karras, Aittala, Laine, Härkönen, Hellsten, Lehtinen, Aila 2021).

Written from the paper. All signals are continuous functions of position, known by their samples
on a grid: x runs from -0.5 to 0.5 over the columns of the image, y likewise over the rows.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from dcmark.train.layers import PRECISIONS, EqualizedLinear, Mapping, modulated_conv2d
from dcmark.train.signal import filtered_leaky_relu, lowpass
from dcmark.train.stylegan3.config import Config, Layer, plan_layers


class FourierInput(nn.Module):
    """The input signal: sine waves that the style moves and turns as a whole (appendix F).

    ``transform`` is a 3x3 matrix of the user's, applied to positions before the learned one.
    """

    transform: Tensor
    frequencies: Tensor
    phases: Tensor

    def __init__(self, style: int, waves: int, size: int, rate: float, band: float) -> None:
        """``waves`` frequencies within ``band`` cycles per image, on ``size`` samples at ``rate``."""
        super().__init__()
        self.size, self.rate, self.band = size, rate, band
        # Spread evenly over the disc that the band allows: the radius is the root of a uniform number.
        radius = band * torch.rand(waves).sqrt()
        angle = 2 * math.pi * torch.rand(waves)
        self.weight = nn.Parameter(torch.randn(waves, waves))
        self.affine = EqualizedLinear(style, 4, spread=0.0)
        with torch.no_grad():
            self.affine.bias[0] = 1.0
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("frequencies", torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1))
        self.register_buffer("phases", torch.rand(waves) - 0.5)

    def _placement(self, style: Tensor) -> Tensor:
        """Rotation and translation asked for by the style, after the user's transform: (N, 3, 3)."""
        turn = self.affine(style)
        cosine, sine, x, y = (turn / turn[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        rotation = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1).view(-1, 3, 3)
        return rotation @ shift @ self.transform

    def forward(self, style: Tensor) -> Tensor:
        """(N, style) to (N, waves, size, size)."""
        placement = self._placement(style)
        # sin(2 pi (f . (R p + t) + phase)) = sin(2 pi ((f R) . p + (f . t + phase)))
        phases = self.phases + (self.frequencies @ placement[:, :2, 2:]).squeeze(2)
        frequencies = self.frequencies @ placement[:, :2, :2]
        # A transform that magnifies frequencies may push them out of the band: faded before they alias.
        beyond = (frequencies.norm(dim=2) - self.band) / (self.rate / 2 - self.band)
        amplitudes = (1 - beyond).clamp(0, 1)
        at = (torch.arange(self.size, device=style.device, dtype=frequencies.dtype) + 0.5 - self.size / 2) / self.rate
        across = frequencies[:, :, 0, None] * at + phases[:, :, None]
        down = frequencies[:, :, 1, None] * at
        angle = 2 * math.pi * (across[:, :, None, :] + down[:, :, :, None])
        waves = angle.sin() * amplitudes[:, :, None, None]
        return torch.einsum("oc,nchw->nohw", self.weight / math.sqrt(self.weight.shape[1]), waves)


class SynthesisLayer(nn.Module):
    """Modulated convolution and alias-free activation, at the rates the plan says."""

    magnitude: Tensor
    up_kernel: Tensor | None
    down_kernel: Tensor | None

    def __init__(self, config: Config, plan: Layer) -> None:
        super().__init__()
        self.plan, self.clamp, self.decay = plan, config.clamp, config.statistics_decay
        self.dtype = PRECISIONS[config.precision] if plan.half else torch.float32
        self.affine = EqualizedLinear(config.style, plan.channels_in, offset=1.0)
        self.weight = nn.Parameter(torch.randn(plan.channels_out, plan.channels_in, plan.kernel, plan.kernel))
        self.bias = nn.Parameter(torch.zeros(plan.channels_out))
        self.register_buffer("magnitude", torch.ones(()))
        inner = plan.rate_in * plan.up
        self.register_buffer("up_kernel", lowpass(plan.up_taps, plan.cutoff_in, 2 * plan.half_width_in, inner))
        self.register_buffer(
            "down_kernel",
            lowpass(plan.down_taps, plan.cutoff_out, 2 * plan.half_width_out, inner, radial=plan.radial),
        )

    def forward(self, x: Tensor, style: Tensor, *, update: bool = False) -> Tensor:
        """(N, channels_in, size_in, size_in) and (N, style) to (N, channels_out, size_out, size_out).

        ``update`` lets this batch move the running mean square of the input.
        """
        if update:
            with torch.no_grad():
                power = x.detach().to(self.magnitude.dtype).square().mean()
                self.magnitude.lerp_(power, 1 - self.decay)
        scales = self.affine(style)
        weight: Tensor = self.weight
        if self.plan.image:
            scales = scales / math.sqrt(weight[0].numel())
        else:
            # Unit magnitudes cancel in the demodulation; they keep half precision within range.
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
            scales = scales * scales.square().mean().rsqrt()
        dtype = self.dtype if self.dtype != torch.float32 else weight.dtype
        x = modulated_conv2d(
            x.to(dtype),
            weight,
            scales,
            demodulate=not self.plan.image,
            gain=self.magnitude.rsqrt(),
            padding=self.plan.kernel - 1,
        )
        x = x + self.bias.to(x.dtype)[:, None, None]
        return filtered_leaky_relu(
            x,
            self.up_kernel,
            self.down_kernel,
            up=self.plan.up,
            down=self.plan.down,
            padding=(*self.plan.padding, *self.plan.padding),
            slope=1.0 if self.plan.image else 0.2,
            gain=1.0 if self.plan.image else math.sqrt(2),
            clamp=self.clamp,
        )


class Synthesis(nn.Module):
    """From styles to images: the input signal, then every layer of the plan."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.output_gain = config.output_gain
        plan = plan_layers(config)
        first = plan[0]
        self.input = FourierInput(config.style, first.channels_in, first.size_in, first.rate_in, first.cutoff_in)
        self.layers = nn.ModuleList(SynthesisLayer(config, layer) for layer in plan)

    def forward(self, styles: Tensor, *, update: bool = False) -> Tensor:
        """Styles (N, layers + 2, style) to images (N, channels, resolution, resolution)."""
        first, *rest = styles.unbind(dim=1)
        x = self.input(first)
        for layer, style in zip(self.layers, rest, strict=True):
            x = layer(x, style, update=update)
        images: Tensor = x.to(styles.dtype) * self.output_gain
        return images


class Generator(nn.Module):
    """StyleGAN3-T or StyleGAN3-R, as its configuration says."""

    family: Literal["stylegan3"] = "stylegan3"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(
            config.latent, config.labels, config.style, config.mapping_layers, copies=config.layers + 2
        )
        self.synthesis = Synthesis(config)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        truncation: float = 1.0,
        truncated: int | None = None,
        update: bool = False,
    ) -> Tensor:
        """Images of z.

        Args:
            z: (N, latent), standard normal.
            labels: (N, labels), one-hot or soft; needed for a conditional model.
            truncation: 1 for the full variety, less for more typical images.
            truncated: number of first layers that truncation acts on; None for all.
            update: let this batch move the running statistics (in training).

        Returns:
            (N, channels, resolution, resolution), nominally from -1 to 1.
        """
        styles = self.mapping(z, labels, truncation=truncation, truncated=truncated, update=update)
        images: Tensor = self.synthesis(styles, update=update)
        return images

    def official_names(self) -> dict[str, str]:
        """Names of tensors in official checkpoints -> names in ``state_dict``."""
        names = self.mapping.official_names("mapping.")
        pairs = {
            "weight": "weight",
            "transform": "transform",
            "freqs": "frequencies",
            "phases": "phases",
            "affine.weight": "affine.weight",
            "affine.bias": "affine.bias",
        }
        names |= {f"synthesis.input.{theirs}": f"synthesis.input.{ours}" for theirs, ours in pairs.items()}
        pairs = {
            "weight": "weight",
            "bias": "bias",
            "affine.weight": "affine.weight",
            "affine.bias": "affine.bias",
            "magnitude_ema": "magnitude",
            "up_filter": "up_kernel",
            "down_filter": "down_kernel",
        }
        present = self.state_dict().keys()
        for layer in plan_layers(self.config):
            theirs = f"synthesis.L{layer.index}_{layer.size_out}_{layer.channels_out}"
            ours = f"synthesis.layers.{layer.index}"
            names |= {f"{theirs}.{a}": f"{ours}.{b}" for a, b in pairs.items() if f"{ours}.{b}" in present}
        return names
