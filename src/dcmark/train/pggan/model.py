"""PGGAN as a model to train: its settings in one place, its presets, its learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dcmark.errors import UsageError
from dcmark.train.augment import Augmentation
from dcmark.train.base import Capabilities, ImageShape, filled
from dcmark.train.learning import Seen, check_square, latents_of
from dcmark.train.pggan.networks import Config, Discriminator, Generator
from dcmark.train.pggan.training import Growth, StepSettings, TrainingStep
from dcmark.train.settings import Precision, check_range


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be chosen; see :class:`Config`, :class:`Growth` and :class:`StepSettings`.

    Attributes:
        precision: number format of the convolutions, ``float32`` or ``bfloat16``; the gradient penalty leaves
            the range of float16.
    """

    capacity: int = 8192
    widest: int = 512
    decay: float = 1.0
    latent: int | None = None
    group: int = 4
    first_resolution: int = 4
    steady: int = 600_000
    fading: int = 600_000
    rate: float = 0.001
    beta1: float = 0.0
    beta2: float = 0.99
    penalty: float = 10.0
    target: float = 1.0
    drift: float = 0.001
    label_weight: float = 1.0
    average_decay: float = 0.999
    fresh_start: bool = True
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_range(self, "steady", 0, 1 << 40)
        check_range(self, "fading", 0, 1 << 40)
        for name in ("rate", "beta1", "beta2", "average_decay"):
            check_range(self, name, 0, 1)
        for name in ("penalty", "drift", "label_weight"):
            check_range(self, name, 0, 1e6)
        check_range(self, "target", 1e-6, 1e6)
        if self.first_resolution not in [4 << i for i in range(13)]:
            raise UsageError(f"expected first_resolution to be a power of two from 4, found {self.first_resolution!r}")
        if self.precision not in {"float32", "bfloat16"}:
            raise UsageError(f"expected precision float32 or bfloat16, found {self.precision!r}")
        if self.steady + self.fading == 0:
            raise UsageError("expected steady or fading to be above 0 images, found 0 for both")

    def networks(self, shape: ImageShape) -> Config:
        """The networks' configuration for images of a shape."""
        return Config(
            resolution=shape.rows,
            channels=shape.channels,
            labels=shape.labels,
            latent=self.latent,
            capacity=self.capacity,
            widest=self.widest,
            decay=self.decay,
            group=self.group,
        )

    def step(self) -> StepSettings:
        """Those of a training step."""
        return StepSettings(
            rate=self.rate,
            betas=(self.beta1, self.beta2),
            penalty=self.penalty,
            target=self.target,
            drift=self.drift,
            label_weight=self.label_weight,
            average_decay=self.average_decay,
            fresh_start=self.fresh_start,
        )


class Learner(TrainingStep):
    """PGGAN in training."""

    augmentation: Augmentation | None = None

    def __init__(self, settings: Settings, shape: ImageShape, device: Any = "cpu") -> None:
        config = settings.networks(shape)
        networks = Generator(config).to(device), Discriminator(config).to(device)
        growth = Growth(settings.first_resolution, settings.steady, settings.fading)
        super().__init__(*networks, growth, settings.step())
        self.device = torch.device(device)
        self._half = settings.precision == "bfloat16"
        self._seen = Seen()
        self.seen = self._seen

    @property
    def mask(self) -> Tensor | None:
        """Where there is image, (rows, columns); None where all is."""
        return self._seen.mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._seen.mask = mask

    def step(self, images: Tensor, labels: Tensor | None) -> dict[str, float]:
        """One step with random latent vectors."""
        latent = self.generator.config.latent_size
        first, second = torch.randn(2, len(images), latent).to(images.device)
        with self._autocast():
            return self(images, (first, second), labels)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """The latent vectors of seeds, (N, latent_size)."""
        return latents_of(seeds, self.average.config.latent_size, self.device)

    def sample(
        self, seeds: Sequence[int], labels: Tensor | None, *, truncation: float = 1.0, transform: Tensor | None = None
    ) -> Tensor:
        """An image for each seed."""
        return self.sample_latents(self.latents(seeds), labels, truncation=truncation, transform=transform)

    @torch.no_grad()
    def sample_latents(
        self, latents: Tensor, labels: Tensor | None, *, truncation: float = 1.0, transform: Tensor | None = None
    ) -> Tensor:
        """An image for each latent vector."""
        if truncation != 1 or transform is not None:
            raise UsageError("expected truncation 1 and no transform for PGGAN, which has neither; leave them out")
        with self._autocast():
            images: Tensor = self.average(latents, labels)
        return images

    def networks(self) -> dict[str, nn.Module]:
        """By official name."""
        return {"G": self.generator, "D": self.discriminator, "Gs": self.average}


def _size(side: int) -> dict[str, Any]:
    """The published networks, in bfloat16; small sizes need fewer images at each of their few resolutions."""
    images = 600_000 if side >= 256 else 300_000
    return {"capacity": 8192, "widest": 512, "steady": images, "fading": images, "precision": "bfloat16"}


class PGGAN:
    """The model, as :class:`dcmark.train.base.Model` describes."""

    name = "pggan"
    summary = "PGGAN: progressive growing with a Wasserstein loss"
    capabilities = Capabilities(sizes="squares of a power of two from 8 to 16384", augmentation=False)
    presets: Mapping[str, Mapping[str, Any]] = {
        "tiny": {"capacity": 512, "widest": 32, "steady": 3000, "fading": 3000, "average_decay": 0.99, "rate": 0.002},
        "full": {},
        **{f"ct-{side}": _size(side) for side in (64, 128, 256, 512, 1024)},
    }

    def settings(self, shape: ImageShape, given: Mapping[str, Any]) -> Settings:
        """All settings for images of a shape."""
        check_square(shape)
        settings = filled(Settings, given)
        settings.networks(shape)
        return settings

    def learner(self, settings: Any, shape: ImageShape, device: Any = "cpu") -> Learner:
        """A model with fresh weights."""
        return Learner(cast(Settings, settings), shape, device)


MODEL = PGGAN()
