"""Building blocks that the networks share: equalised dense layer, modulated convolution, mapping."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcmark.errors import UsageError
from dcmark.train.signal import activate


class EqualizedLinear(nn.Module):
    """A dense layer whose stored weights have unit variance (Karras et al. 2018, section 4.1).

    The He constant is applied when the layer is used, so that Adam treats all layers alike;
    ``rate`` scales the learning rate of the layer by scaling what is stored the other way.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        rate: float = 1.0,
        leaky: bool = False,
        spread: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        """``spread``: standard deviation of the initial weights; ``offset``: the initial bias."""
        super().__init__()
        self.rate, self.leaky = rate, leaky
        self.scale = rate / math.sqrt(features_in)
        self.weight = nn.Parameter(torch.randn(features_out, features_in) * (spread / rate))
        self.bias = nn.Parameter(torch.full((features_out,), offset / rate))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features_in) to (N, features_out)."""
        bias = self.bias if self.rate == 1 else self.bias * self.rate
        x = functional.linear(x, self.weight.to(x.dtype) * self.scale, bias.to(x.dtype))
        return activate(x) if self.leaky else x


PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def unit_length(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Vectors (N, C) scaled to a mean square of one."""
    return x * (x.square().mean(dim=1, keepdim=True) + epsilon).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    gain: Tensor | None = None,
    padding: int = 0,
    up: bool = False,
) -> Tensor:
    """A convolution whose input channels are scaled per sample (Karras et al. 2020, section 2.2).

    Scaling the input before, and the output after, one convolution with weights shared by all
    samples is the same as a convolution with weights of its own per sample, without ever
    building those.

    Args:
        x: (N, I, H, W).
        weight: (O, I, k, k).
        style: (N, I), the scales.
        demodulate: bring every output channel back to unit variance, for an input of unit variance.
        gain: a factor of the whole, such as the inverse magnitude of the input.
        padding: zeros around the image.
        up: transposed convolution of stride 2 instead; the result is 2 H + k - 2 on a side.
    """
    shrink: Tensor | float | None = gain
    scale_out = None
    if demodulate:
        if x.dtype in {torch.float16, torch.bfloat16}:
            # Demodulation undoes any factor of the style, so one can be chosen that cannot overflow.
            style = style / style.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
        # The variance of output o of sample n is sum over i of style^2 * sum over the kernel of weight^2.
        power = style.square() @ weight.square().sum(dim=(2, 3)).mT
        # What comes out of the convolution is kept near one, for the sake of half precision.
        fan_in = math.sqrt(weight[0].numel())
        scale_out = (power + 1e-8).rsqrt() * fan_in
        shrink = 1 / fan_in if gain is None else gain / fan_in
    x = x * style.to(x.dtype)[:, :, None, None]
    weight = (weight if shrink is None else weight * shrink).to(x.dtype)
    if up:
        x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2, padding=padding)
    else:
        x = functional.conv2d(x, weight, padding=padding)
    return x if scale_out is None else x * scale_out.to(x.dtype)[:, :, None, None]


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Append a map that says how much the images of a group differ (Karras et al. 2018, section 3).

    (N, C, H, W) to (N, C + 1, H, W). Group m holds the images m, m + N/group, m + 2 N/group, ...

    Raises:
        UsageError: N is not a multiple of the group.
    """
    samples, _, height, width = x.shape
    group = min(group, samples)
    if samples % group:
        raise UsageError(f"expected a batch of a multiple of {group} images, found {samples}")
    y = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(group, samples // group, -1)
    deviation = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)
    extra = deviation.to(x.dtype).repeat(group).view(-1, 1, 1, 1).expand(-1, 1, height, width)
    return torch.cat([x, extra], dim=1)


class Mapping(nn.Module):
    """From latent vectors and labels to styles: z -> w.

    The running mean of w serves the truncation trick (Karras et al. 2019, appendix B).
    """

    mean: Tensor

    def __init__(
        self, latent: int, labels: int, style: int, layers: int, *, copies: int | None, decay: float = 0.998
    ) -> None:
        """``copies``: how many layers a style is for; None gives (N, style) and keeps no mean.

        Where ``latent`` is 0, labels are all there is to map.
        """
        super().__init__()
        self.latent, self.labels, self.copies, self.decay = latent, labels, copies, decay
        self.embedding = EqualizedLinear(labels, style) if labels else None
        widths = [latent + (style if labels else 0)] + [style] * layers
        self.layers = nn.ModuleList(EqualizedLinear(a, b, rate=0.01, leaky=True) for a, b in pairwise(widths))
        if copies is not None:
            self.register_buffer("mean", torch.zeros(style))

    def forward(
        self,
        z: Tensor | None,
        labels: Tensor | None = None,
        *,
        truncation: float = 1.0,
        truncated: int | None = None,
        update: bool = False,
    ) -> Tensor:
        """Styles (N, copies, style), or (N, style).

        Args:
            z: (N, latent), drawn from a normal distribution; None for a mapping of labels alone.
            labels: (N, labels), one-hot or soft.
            truncation: 1 leaves the styles, 0 gives their mean.
            truncated: how many of the first layers are truncated; None for all.
            update: let this batch move the running mean.
        """
        parts = [] if z is None else [unit_length(z)]
        if self.embedding is not None:
            if labels is None:
                raise UsageError(f"expected labels of shape (N, {self.labels}) for a conditional model, found none")
            parts.append(unit_length(self.embedding(labels)))
        x = torch.cat(parts, dim=1)
        for layer in self.layers:
            x = layer(x)
        if self.copies is None:
            return x
        if update:
            with torch.no_grad():
                self.mean.lerp_(x.mean(dim=0).to(self.mean.dtype), 1 - self.decay)
        x = x[:, None].repeat(1, self.copies, 1)
        if truncation != 1:
            moved = self.mean.lerp(x[:, :truncated], truncation)
            x = torch.cat([moved, x[:, moved.shape[1] :]], dim=1)
        return x

    def official_names(self, prefix: str) -> dict[str, str]:
        """Names in official checkpoints -> names here, both with ``prefix`` in front."""
        parts = {f"fc{index}": f"layers.{index}" for index in range(len(self.layers))}
        if self.embedding is not None:
            parts["embed"] = "embedding"
        names = {f"{prefix}{a}.{leaf}": f"{prefix}{b}.{leaf}" for a, b in parts.items() for leaf in ("weight", "bias")}
        if self.copies is not None:
            names[f"{prefix}w_avg"] = f"{prefix}mean"
        return names
