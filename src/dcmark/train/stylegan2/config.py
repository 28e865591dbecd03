"""What the StyleGAN2 networks look like (Karras et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcmark.errors import UnsupportedError
from dcmark.train.settings import Precision, check_range, check_resolution, in_official_words, renamed


@dataclass(frozen=True, slots=True)
class _Pyramid:
    """Settings that discriminator and generator share.

    Attributes:
        resolution: pixels of a side of the image; a power of two.
        channels: channels of the image, any number.
        labels: length of the label vector; 0 for an unconditional model.
        capacity: feature maps at a resolution times that resolution.
        widest: most feature maps of a layer.
        mapping_layers: dense layers of the mapping network.
        clamp: activations are cut to ± this; None leaves them. Only ever reached in half precision.
        precision: number format at the highest resolutions.
        half_levels: how many of the highest resolutions use ``precision``.
    """

    resolution: int
    channels: int
    labels: int = 0
    capacity: int = 32768
    widest: int = 512
    mapping_layers: int = 8
    clamp: float | None = 256.0
    precision: Precision = "float32"
    half_levels: int = 4

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        check_range(self, "channels", 1, 65536)
        check_range(self, "labels", 0, 65536)
        check_range(self, "capacity", 1, 1 << 26)
        check_range(self, "widest", 1, 65536)
        check_range(self, "mapping_layers", 1, 64)
        check_range(self, "half_levels", 0, 16)

    def width(self, resolution: int) -> int:
        """Feature maps at a resolution."""
        return max(min(self.capacity // resolution, self.widest), 1)

    def precision_at(self, resolution: int) -> Precision:
        """Number format at a resolution; float32 stands for the format of the weights."""
        half = resolution * 2**self.half_levels > self.resolution
        return self.precision if half else "float32"


@dataclass(frozen=True, slots=True)
class DiscriminatorConfig(_Pyramid):
    """Settings of a discriminator.

    Attributes:
        group: images that are compared with one another in the minibatch statistic.
    """

    group: int = 4

    def __post_init__(self) -> None:
        _Pyramid.__post_init__(self)
        check_range(self, "group", 1, 65536)

    @classmethod
    def from_official(cls, settings: Mapping[str, Any]) -> DiscriminatorConfig:
        """The configuration from the keyword arguments that official checkpoints carry.

        Raises:
            UnsupportedError: a setting that this implementation has no counterpart for.
        """
        settings = dict(settings)
        for key in (
            "block_kwargs",
            "mapping_kwargs",
        ):  # freezing and options of training leave the network alone
            inner = settings.pop(key, None) or {}
            if set(inner) - {"freeze_layers"}:
                raise UnsupportedError(f"the checkpoint sets options in {key} that are not supported")
        return cls(**renamed(settings, _OFFICIAL_NAMES, "epilogue_kwargs", {"mbstd_group_size": "group"}))

    def to_official(self) -> dict[str, Any]:
        """The inverse of :meth:`from_official`; ``precision`` is not part of it."""
        return in_official_words(self, _OFFICIAL_NAMES, "epilogue_kwargs", {"mbstd_group_size": "group"})


@dataclass(frozen=True, slots=True)
class GeneratorConfig(_Pyramid):
    """Settings of a StyleGAN2 generator.

    Attributes:
        latent: length of the latent vector z.
        style: length of the style vector w.
    """

    latent: int = 512
    style: int = 512

    def __post_init__(self) -> None:
        _Pyramid.__post_init__(self)
        check_range(self, "latent", 1, 65536)
        check_range(self, "style", 1, 65536)

    @classmethod
    def from_official(cls, settings: Mapping[str, Any]) -> GeneratorConfig:
        """As :meth:`DiscriminatorConfig.from_official`."""
        return cls(**renamed(settings, _OFFICIAL_NAMES, "mapping_kwargs", {"num_layers": "mapping_layers"}))

    def to_official(self) -> dict[str, Any]:
        """The inverse of :meth:`from_official`; ``precision`` is not part of it."""
        return in_official_words(self, _OFFICIAL_NAMES, "mapping_kwargs", {"num_layers": "mapping_layers"})


_OFFICIAL_NAMES = {
    "z_dim": "latent",
    "w_dim": "style",
    "c_dim": "labels",
    "img_resolution": "resolution",
    "img_channels": "channels",
    "channel_base": "capacity",
    "channel_max": "widest",
    "num_fp16_res": "half_levels",
    "conv_clamp": "clamp",
}
