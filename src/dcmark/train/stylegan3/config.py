"""What a StyleGAN3 generator looks like, and the plan of its layers (Karras et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcmark.train.settings import Precision, check_range, check_resolution, in_official_words, renamed


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of a StyleGAN3 generator.

    Attributes:
        resolution: pixels of a side of the image; a power of two.
        channels: channels of the image, any number.
        latent: length of the latent vector z.
        style: length of the style vector w.
        labels: length of the label vector; 0 for an unconditional model.
        layers: alias-free layers before the last one, which only makes channels into an image.
        capacity: feature maps of a layer times twice its cutoff frequency.
        widest: most feature maps of a layer.
        mapping_layers: dense layers from z to w.
        kernel: side of the convolutions: 3 gives StyleGAN3-T, 1 gives StyleGAN3-R.
        radial: filters of the same response in every direction (StyleGAN3-R).
        taps: length of the filters, in samples of the lower of the two rates.
        margin: pixels that every layer computes beyond each border of the image.
        first_cutoff, first_stopband: of the input, cycles per image.
        last_stopband: of the last layers, in units of their cutoff.
        critical: last layers whose cutoff is at half of their sampling rate.
        oversampling: of the rate at which the activation acts.
        output_gain: factor of the image.
        statistics_decay: of the running mean square of every layer's input, per update.
        clamp: activations are cut to ± this; None leaves them. Only ever reached in half precision.
        precision: number format of the layers at the highest resolutions.
        half_levels: how many octaves below the image's sampling rate use ``precision``.
    """

    resolution: int
    channels: int
    latent: int = 512
    style: int = 512
    labels: int = 0
    layers: int = 14
    capacity: int = 32768
    widest: int = 512
    mapping_layers: int = 2
    kernel: int = 3
    radial: bool = False
    taps: int = 6
    margin: int = 10
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband: float = 2**0.3
    critical: int = 2
    oversampling: int = 2
    output_gain: float = 0.25
    statistics_decay: float = 0.999
    clamp: float | None = 256.0
    precision: Precision = "float32"
    half_levels: int = 4

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        check_range(self, "layers", self.critical + 1, 128)
        check_range(self, "critical", 1, 64)
        check_range(self, "kernel", 1, 31)
        check_range(self, "taps", 1, 64)
        check_range(self, "margin", 0, 1024)
        check_range(self, "oversampling", 1, 8)
        check_range(self, "mapping_layers", 1, 64)
        check_range(self, "half_levels", 0, 16)
        for name in ("channels", "latent", "style", "widest"):
            check_range(self, name, 1, 65536)
        check_range(self, "labels", 0, 65536)
        check_range(self, "capacity", 1, 1 << 26)
        check_range(self, "first_cutoff", 2**-4, self.resolution / 2)
        check_range(self, "first_stopband", self.first_cutoff, self.resolution)
        check_range(self, "last_stopband", 1.0, 4.0)

    @classmethod
    def from_official(cls, settings: Mapping[str, Any]) -> Config:
        """The configuration from the keyword arguments that official checkpoints carry.

        Raises:
            UnsupportedError: a setting that this implementation has no counterpart for.
        """
        return cls(**renamed(settings, _OFFICIAL_NAMES, "mapping_kwargs", {"num_layers": "mapping_layers"}))

    def to_official(self) -> dict[str, Any]:
        """The inverse of :meth:`from_official`; ``precision`` is not part of it."""
        return in_official_words(self, _OFFICIAL_NAMES, "mapping_kwargs", {"num_layers": "mapping_layers"})


_OFFICIAL_NAMES = {
    "z_dim": "latent",
    "c_dim": "labels",
    "w_dim": "style",
    "img_resolution": "resolution",
    "img_channels": "channels",
    "channel_base": "capacity",
    "channel_max": "widest",
    "num_layers": "layers",
    "num_critical": "critical",
    "first_cutoff": "first_cutoff",
    "first_stopband": "first_stopband",
    "last_stopband_rel": "last_stopband",
    "margin_size": "margin",
    "output_scale": "output_gain",
    "num_fp16_res": "half_levels",
    "conv_kernel": "kernel",
    "filter_size": "taps",
    "lrelu_upsampling": "oversampling",
    "use_radial_filters": "radial",
    "conv_clamp": "clamp",
    "magnitude_ema_beta": "statistics_decay",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the synthesis network.

    Attributes:
        index: its number, from 0.
        channels_in, channels_out: feature maps.
        size_in, size_out: samples of a side, margins included.
        rate_in, rate_out: samples per image side.
        cutoff_in, cutoff_out, half_width_in, half_width_out: of the filters, cycles per image side.
        kernel: side of the convolution.
        up, down: rate changes around the activation.
        up_taps, down_taps: filter lengths; 1 for no filter.
        padding: samples put before and after each axis at the rate of the activation, so that the
            centres of input and output stay on one another.
        radial: the filter on the way down has no preferred direction.
        image: the last layer: it makes the image, without demodulation and activation.
        half: computed in the configured precision.
    """

    index: int
    channels_in: int
    channels_out: int
    size_in: int
    size_out: int
    rate_in: int
    rate_out: int
    cutoff_in: float
    cutoff_out: float
    half_width_in: float
    half_width_out: float
    kernel: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    padding: tuple[int, int]
    radial: bool
    image: bool
    half: bool


def plan_layers(config: Config) -> tuple[Layer, ...]:
    """All layers, from rates and cutoffs that grow geometrically to those of the image.

    Karras et al. 2021, section 3.2 and appendix: cutoff and stopband frequencies are interpolated
    on a logarithmic scale over the layers that are not critically sampled; the sampling rate is
    the lowest power of two that holds the stopband, or that of the image.
    """
    last_cutoff = config.resolution / 2
    last_stopband = last_cutoff * config.last_stopband
    cutoffs, rates, half_widths, sizes, widths = [], [], [], [], []
    for index in range(config.layers + 1):
        progress = min(index / (config.layers - config.critical), 1.0)
        cutoff = config.first_cutoff * (last_cutoff / config.first_cutoff) ** progress
        stopband = config.first_stopband * (last_stopband / config.first_stopband) ** progress
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, config.resolution)))
        cutoffs.append(cutoff)
        rates.append(rate)
        half_widths.append(max(stopband, rate / 2) - cutoff)
        inner = index < config.layers - 1
        sizes.append(rate + 2 * config.margin if inner else config.resolution)
        widths.append(max(round(min(config.capacity / 2 / cutoff, config.widest)), 1))
    widths[-1] = config.channels

    layers = []
    for index in range(config.layers + 1):
        before = max(index - 1, 0)
        image = index == config.layers
        kernel = 1 if image else config.kernel
        inner_rate = max(rates[before], rates[index]) * (1 if image else config.oversampling)
        up, down = inner_rate // rates[before], inner_rate // rates[index]
        up_taps = config.taps * up if up > 1 and not image else 1
        down_taps = config.taps * down if down > 1 and not image else 1
        # The convolution keeps all samples it touches; the grids of input and output share their centre.
        wanted = (sizes[index] - 1) * down + 1 + (up_taps - 1) + (down_taps - 1)
        missing = wanted - (sizes[before] + kernel - 1) * up
        first = (missing + up) // 2
        critical = 2 * cutoffs[index] >= rates[index]
        layers.append(
            Layer(
                index=index,
                channels_in=widths[before],
                channels_out=widths[index],
                size_in=sizes[before],
                size_out=sizes[index],
                rate_in=rates[before],
                rate_out=rates[index],
                cutoff_in=cutoffs[before],
                cutoff_out=cutoffs[index],
                half_width_in=half_widths[before],
                half_width_out=half_widths[index],
                kernel=kernel,
                up=up,
                down=down,
                up_taps=up_taps,
                down_taps=down_taps,
                padding=(first, missing - first),
                radial=config.radial and not critical,
                image=image,
                half=rates[index] * 2**config.half_levels > config.resolution,
            )
        )
    return tuple(layers)
