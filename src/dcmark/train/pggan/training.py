"""The training step of progressive growing: WGAN-GP with label loss, and the schedule of growth.

Karras et al. 2018, section 2 and appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcmark.train.adversarial import Adversaries, processes
from dcmark.train.losses import label_loss, update_average, wasserstein_penalty
from dcmark.train.pggan.networks import Config, Discriminator, Generator, double, fade, shrink


@dataclass(frozen=True, slots=True)
class Growth:
    """When the networks grow, counted in images seen.

    Attributes:
        first_resolution: where training starts, pixels of a side.
        steady: images at every resolution.
        fading: images over which the next resolution fades in.
    """

    first_resolution: int = 4
    steady: int = 600_000
    fading: int = 600_000

    def lod(self, images_seen: int, config: Config) -> float:
        """Level of detail left out, from ``config.levels - 1`` at the most down to 0."""
        start = max(int(math.log2(config.resolution / self.first_resolution)), 0)
        phase, within = divmod(images_seen, self.steady + self.fading)
        faded = max(within - self.steady, 0) / self.fading if self.fading else 0.0
        return max(start - phase - faded, 0.0)


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Settings of a training step.

    Attributes:
        rate: learning rate of both networks.
        betas: of Adam.
        penalty: weight of the gradient penalty.
        target: norm of the gradient that the penalty asks for.
        drift: weight of the square of real scores, which keeps them from running away.
        label_weight: weight of the label loss, for a conditional model.
        average_decay: of the running average of the generator, per step.
        fresh_start: forget the moments of Adam whenever a new resolution begins to fade in.
    """

    rate: float = 0.001
    betas: tuple[float, float] = (0.0, 0.99)
    penalty: float = 10.0
    target: float = 1.0
    drift: float = 0.001
    label_weight: float = 1.0
    average_decay: float = 0.999
    fresh_start: bool = True


def real_at(images: Tensor, lod: float, config: Config) -> Tensor:
    """Real images as the discriminator is to see them at ``lod``, at the size of lod rounded down.

    While a resolution fades in, real images fade from the coarser to the finer one as well.
    """
    fine = math.floor(lod)
    images = shrink(images, config.size(fine))
    if lod > fine:
        images = fade(images, double(shrink(images, config.size(fine + 1))), lod)
    return images


def generator_loss(
    networks: tuple[Generator, Discriminator],
    latents: Tensor,
    labels: Tensor | None,
    lod: float,
    settings: StepSettings,
    seen: Callable[[Tensor], Tensor] = lambda images: images,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the generator, (N,), and what to report: -score, plus the label loss."""
    generator, discriminator = networks
    scores, logits = discriminator(seen(generator(latents, labels, lod=lod, full=False)), lod=lod)
    loss = -scores.squeeze(1)
    if labels is not None and logits.shape[1]:
        loss = loss + settings.label_weight * label_loss(logits, labels)
    return loss, {"generator/loss": loss, "generator/fake": scores}


def discriminator_loss(
    networks: tuple[Generator, Discriminator],
    batch: tuple[Any, ...],
    lod: float,
    settings: StepSettings,
    seen: Callable[[Tensor], Tensor] = lambda images: images,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the discriminator, (N,), and what to report.

    Fake score - real score, the gradient penalty at images mixed from both, the drift, and the
    label losses. ``batch``: real images at ``lod``, latents, labels of both, and the mixing
    factors (N, 1, 1, 1) from 0 (real) to 1 (fake). ``seen`` is what images made go through before
    they are judged; real ones have gone through it.
    """
    generator, discriminator = networks
    real, latents, labels, mix = batch
    with torch.no_grad():
        fake = seen(generator(latents, labels, lod=lod, full=False))
    real_scores, real_logits = discriminator(real, lod=lod)
    fake_scores, fake_logits = discriminator(fake, lod=lod)
    mixed = real.lerp(fake, mix).requires_grad_()
    penalty = wasserstein_penalty(mixed, discriminator(mixed, lod=lod)[0], settings.target)
    loss = (fake_scores - real_scores + settings.drift * real_scores.square()).squeeze(1)
    loss = loss + settings.penalty * penalty
    if labels is not None and real_logits.shape[1]:
        both = label_loss(real_logits, labels) + label_loss(fake_logits, labels)
        loss = loss + settings.label_weight * both
    parts = {"loss": loss, "penalty": penalty, "real": real_scores, "fake": fake_scores}
    return loss, {f"discriminator/{name}": value for name, value in parts.items()}


class TrainingStep(Adversaries):
    """Shows one batch to both networks, at the level of detail that the schedule says."""

    generator: Generator
    discriminator: Discriminator
    average: Generator

    def __init__(
        self, generator: Generator, discriminator: Discriminator, growth: Growth, settings: StepSettings
    ) -> None:
        self.growth, self.settings = growth, settings
        adam = {"lr": settings.rate, "betas": settings.betas, "eps": 1e-8}
        super().__init__(generator, discriminator, (adam, adam))
        self._set_lod(growth.lod(0, generator.config))

    @property
    def lod(self) -> float:
        """Level of detail that the next batch will be shown at."""
        return self.growth.lod(self.images_seen, self.generator.config)

    def _set_lod(self, lod: float) -> None:
        for network in (self.generator, self.discriminator, self.average):
            network.lod.fill_(lod)

    def __call__(
        self, real: Tensor, latents: tuple[Tensor, Tensor], labels: Tensor | None = None, mix: Tensor | None = None
    ) -> dict[str, float]:
        """One step: discriminator, then generator.

        Args:
            real: (N, channels, resolution, resolution), from -1 to 1.
            latents: (N, latent_size) for the discriminator's turn, and for the generator's.
            labels: (N, labels) of the real images, and for those to be made.
            mix: (N, 1, 1, 1) from 0 to 1, drawn where None.

        Returns:
            The means of losses and scores, and ``lod``.
        """
        lod, before = self.lod, float(self.generator.lod)
        if self.settings.fresh_start and math.floor(lod) != math.floor(before):
            for optimizer in self._optimizers.values():
                optimizer.state.clear()
        self._set_lod(lod)
        if mix is None:
            mix = torch.rand(real.shape[0], 1, 1, 1, device=real.device, dtype=real.dtype)
        networks = (self.generator, self.discriminator)
        shown = self.seen(real_at(real, lod, self.generator.config))
        means: dict[str, float] = {}

        def add(share: float, report: dict[str, Tensor]) -> None:
            for name, value in report.items():
                means[name] = means.get(name, 0.0) + share * float(value.detach().mean())

        def telling() -> Iterator[Tensor]:
            for share, *part in self._parts(shown, latents[0], labels, mix):
                loss, report = discriminator_loss(networks, (*part,), lod, self.settings, self.seen)
                add(share, report)
                yield loss.mean() * share

        def fooling() -> Iterator[Tensor]:
            for share, z, c in self._parts(latents[1], labels):
                loss, report = generator_loss(networks, z, c, lod, self.settings, self.seen)
                add(share, report)
                yield loss.mean() * share

        self._learn("discriminator", telling())
        self._learn("generator", fooling())
        self.images_seen += real.shape[0] * processes()
        update_average(self.average, self.generator, self.settings.average_decay)
        return means | {"lod": lod}
