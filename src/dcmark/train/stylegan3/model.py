"""StyleGAN3 as a model to train: its settings in one place, its presets, its learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dcmark.errors import UsageError
from dcmark.train import stylegan2
from dcmark.train.augment import Augmentation
from dcmark.train.base import Capabilities, ImageShape, filled
from dcmark.train.learning import Seen, check_square, latents_of, shuffled
from dcmark.train.settings import Precision, check_range
from dcmark.train.stylegan3.config import Config
from dcmark.train.stylegan3.generator import Generator
from dcmark.train.stylegan3.training import StepSettings, TrainingStep


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be chosen; see :class:`Config` and :class:`StepSettings` for what the words mean.

    Attributes:
        variant: ``t`` follows translations, ``r`` rotations too (twice the feature maps, slower).
        gamma: weight of the R1 penalty; None for 2 at 256 pixels, growing with the area.
        blur: None for 10 with ``r`` and 0 with ``t``.
        discriminator_capacity, discriminator_widest: None for those of the generator of variant ``t``.
        precision: number format at the four highest resolutions; ``float16`` on a GPU.
    """

    variant: Literal["t", "r"] = "t"
    capacity: int = 32768
    widest: int = 512
    discriminator_capacity: int | None = None
    discriminator_widest: int | None = None
    layers: int = 14
    margin: int = 10
    latent: int = 512
    style: int = 512
    mapping_layers: int = 2
    statistics_decay: float = 0.999
    group: int = 4
    rate_generator: float = 0.0025
    rate_discriminator: float = 0.002
    gamma: float | None = None
    r1_interval: int = 16
    blur: float | None = None
    blur_images: float = 200_000
    half_life: float = 10_000
    ramp_up: float = 0.05
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.variant not in {"t", "r"}:
            raise UsageError(f"expected variant t or r, found {self.variant!r}")
        if self.precision not in {"float32", "float16", "bfloat16"}:
            raise UsageError(f"expected precision float32, float16 or bfloat16, found {self.precision!r}")
        for name, least, most in (
            ("rate_generator", 0, 1),
            ("rate_discriminator", 0, 1),
            ("r1_interval", 1, 1_000_000),
            ("blur_images", 0, 1e12),
            ("half_life", 0, 1e12),
            ("ramp_up", 0, 1),
        ):
            check_range(self, name, least, most)
        for name in ("gamma", "blur"):
            if getattr(self, name) is not None:
                check_range(self, name, 0, 1e6)

    def generator(self, shape: ImageShape) -> Config:
        """The networks' configuration for images of a shape."""
        turning = self.variant == "r"
        return Config(
            resolution=shape.rows,
            channels=shape.channels,
            labels=shape.labels,
            latent=self.latent,
            style=self.style,
            layers=self.layers,
            capacity=self.capacity * (2 if turning else 1),
            widest=self.widest * (2 if turning else 1),
            mapping_layers=self.mapping_layers,
            kernel=1 if turning else 3,
            radial=turning,
            margin=self.margin,
            statistics_decay=self.statistics_decay,
            clamp=None if self.precision == "float32" else 256.0,
            precision=self.precision,
        )

    def discriminator(self, shape: ImageShape) -> stylegan2.DiscriminatorConfig:
        """The discriminator's."""
        return stylegan2.DiscriminatorConfig(
            resolution=shape.rows,
            channels=shape.channels,
            labels=shape.labels,
            capacity=self.discriminator_capacity or self.capacity,
            widest=self.discriminator_widest or self.widest,
            group=self.group,
            clamp=None if self.precision == "float32" else 256.0,
            precision=self.precision,
        )

    def step(self, shape: ImageShape) -> StepSettings:
        """Those of a training step."""
        automatic = max(2 * (shape.rows / 256) ** 2, 0.05)
        return StepSettings(
            rate_generator=self.rate_generator,
            rate_discriminator=self.rate_discriminator,
            gamma=automatic if self.gamma is None else self.gamma,
            r1_interval=self.r1_interval,
            blur=(10.0 if self.variant == "r" else 0.0) if self.blur is None else self.blur,
            blur_images=self.blur_images,
            half_life=self.half_life,
            ramp_up=self.ramp_up,
        )


class Learner(TrainingStep):
    """StyleGAN3 in training."""

    generator: Generator
    average: Generator

    def __init__(self, settings: Settings, shape: ImageShape, device: Any = "cpu") -> None:
        generator = Generator(settings.generator(shape)).to(device)
        discriminator = stylegan2.Discriminator(settings.discriminator(shape)).to(device)
        super().__init__(generator, discriminator, settings.step(shape))
        self.device = torch.device(device)
        self._seen = Seen()
        self.seen = self._seen

    @property
    def mask(self) -> Tensor | None:
        """Where there is image, (rows, columns); None where all is."""
        return self._seen.mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._seen.mask = mask

    @property
    def augmentation(self) -> Augmentation | None:
        """What images go through before they are judged; None for nothing."""
        return self._seen.augmentation

    @augmentation.setter
    def augmentation(self, augmentation: Augmentation | None) -> None:
        self._seen.augmentation = augmentation

    def step(self, images: Tensor, labels: Tensor | None) -> dict[str, float]:
        """One step with random latent vectors."""
        latent = self.generator.config.latent
        first, second = torch.randn(2, len(images), latent).to(images.device)
        return self(images, labels, (first, second), (shuffled(labels), shuffled(labels)))

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """The latent vectors of seeds, (N, latent)."""
        return latents_of(seeds, self.average.config.latent, self.device)

    def sample(
        self, seeds: Sequence[int], labels: Tensor | None, *, truncation: float = 1.0, transform: Tensor | None = None
    ) -> Tensor:
        """An image for each seed."""
        return self.sample_latents(self.latents(seeds), labels, truncation=truncation, transform=transform)

    @torch.no_grad()
    def sample_latents(
        self, latents: Tensor, labels: Tensor | None, *, truncation: float = 1.0, transform: Tensor | None = None
    ) -> Tensor:
        """An image for each latent vector; ``transform`` (3, 3) moves and turns what is made."""
        place = self.average.synthesis.input.transform
        before = place.clone()
        try:
            if transform is not None:
                place.copy_(transform)
            images: Tensor = self.average(latents, labels, truncation=truncation)
        finally:
            place.copy_(before)
        return images

    def networks(self) -> dict[str, nn.Module]:
        """By official name."""
        return {"G": self.generator, "D": self.discriminator, "G_ema": self.average}


def _size(variant: str, side: int, capacity: int = 32768, **more: Any) -> dict[str, Any]:
    return {"variant": variant, "capacity": capacity, "precision": "float16", **more} | {
        "gamma": 2 * (side / 256) ** 2 * (2 if variant == "r" else 1)
    }


_TINY = {
    "capacity": 512,
    "widest": 32,
    "layers": 6,
    "latent": 32,
    "style": 32,
    "margin": 6,
    "half_life": 2000,
    "statistics_decay": 0.99,
}


class StyleGAN3:
    """The model, as :class:`dcmark.train.base.Model` describes."""

    name = "stylegan3"
    summary = "StyleGAN3: alias-free generator, translation (t) or rotation (r) equivariant"
    capabilities = Capabilities(sizes="squares of a power of two from 8 to 16384", truncation=True, transform=True)
    presets: Mapping[str, Mapping[str, Any]] = {
        "tiny": _TINY,
        **{f"t-{side}": _size("t", side, 16384 if side < 512 else 32768) for side in (64, 128, 256, 512, 1024)},
        **{f"r-{side}": _size("r", side, 16384 if side < 512 else 32768) for side in (64, 128, 256, 512, 1024)},
    }

    def settings(self, shape: ImageShape, given: Mapping[str, Any]) -> Settings:
        """All settings for images of a shape."""
        check_square(shape)
        settings = filled(Settings, given)
        settings.generator(shape)
        settings.discriminator(shape)
        return settings

    def learner(self, settings: Any, shape: ImageShape, device: Any = "cpu") -> Learner:
        """A model with fresh weights."""
        return Learner(cast(Settings, settings), shape, device)


MODEL = StyleGAN3()
