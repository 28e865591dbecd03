"""The training step of StyleGAN3, and of StyleGAN2 without path length regularisation.

Karras et al. 2021, with the lazy regularisation of Karras et al. 2020: the R1 penalty is computed
every so many steps only, that many times stronger, and the discriminator's Adam is adjusted for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dcmark.train.adversarial import Adversaries, agree, processes
from dcmark.train.losses import (
    average_decay,
    faded_blur,
    logistic_fooling,
    logistic_telling,
    r1_penalty,
    update_average,
)
from dcmark.train.signal import gaussian_blur


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Settings of a training step.

    Attributes:
        rate_generator, rate_discriminator: learning rates, before the adjustment for lazy regularisation.
        betas: of Adam.
        gamma: weight of the R1 penalty; grows with the square of the resolution.
        r1_interval: steps from one penalty to the next.
        blur: initial width of the blur of what the discriminator sees, pixels; 10 for StyleGAN3-R, else 0.
        blur_images: images over which the blur fades to none.
        half_life: of the running average of the generator, images.
        ramp_up: the half life is at most this part of the images seen; 0 switches that off.
    """

    rate_generator: float = 0.0025
    rate_discriminator: float = 0.002
    betas: tuple[float, float] = (0.0, 0.99)
    gamma: float = 2.0
    r1_interval: int = 16
    blur: float = 0.0
    blur_images: float = 200_000
    half_life: float = 10_000
    ramp_up: float = 0.05


class TrainingStep(Adversaries):
    """Shows one batch to both networks."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, settings: StepSettings) -> None:
        self.settings, self.steps = settings, 0
        lazy = settings.r1_interval / (settings.r1_interval + 1)
        betas = (settings.betas[0] ** lazy, settings.betas[1] ** lazy)
        super().__init__(
            generator,
            discriminator,
            (
                {"lr": settings.rate_generator, "betas": settings.betas, "eps": 1e-8},
                {"lr": settings.rate_discriminator * lazy, "betas": betas, "eps": 1e-8},
            ),
        )

    def __call__(
        self,
        real: Tensor,
        real_labels: Tensor | None,
        latents: tuple[Tensor, Tensor],
        labels: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> dict[str, float]:
        """One step: generator, discriminator, and the penalty when it is due.

        Args:
            real: (N, channels, resolution, resolution), from -1 to 1.
            real_labels: (N, labels) of the real images, None for an unconditional model.
            latents: (N, latent) for the generator's turn, and for the discriminator's.
            labels: (N, labels) for the images made in both turns.

        Returns:
            The means of losses, scores and signs of scores, by turn.
        """
        blur = faded_blur(self.images_seen, self.settings.blur, self.settings.blur_images)
        report = self._teach_generator(latents[0], labels[0], blur)
        report |= self._teach_discriminator((real, real_labels), (latents[1], labels[1]), blur)
        if self.settings.gamma > 0 and self.steps % self.settings.r1_interval == 0:
            report |= self._penalize(real, real_labels, blur)
        self.steps += 1
        batch = real.shape[0] * processes()
        self.images_seen += batch
        half_life = self.settings.half_life
        if self.settings.ramp_up > 0:
            half_life = min(half_life, self.images_seen * self.settings.ramp_up)
        update_average(self.average, self.generator, average_decay(batch, half_life))
        return report

    def _score(self, images: Tensor, labels: Tensor | None, blur: float) -> Tensor:
        scores: Tensor = self.discriminator(self.seen(images, partial(gaussian_blur, sigma=blur)), labels)
        return scores

    def _teach_generator(self, latents: Tensor, labels: Tensor | None, blur: float) -> dict[str, float]:
        report = _Means("generator")

        def losses() -> Iterator[Tensor]:
            for share, z, c in self._parts(latents, labels):
                scores = self._score(self.generator(z, c), c, blur)
                loss = logistic_fooling(scores).mean()
                report.add(share, loss=loss, fake=scores)
                yield loss * share

        self._learn("generator", losses())
        return report.means

    def _teach_discriminator(
        self, real: tuple[Tensor, Tensor | None], made_from: tuple[Tensor, Tensor | None], blur: float
    ) -> dict[str, float]:
        report = _Means("discriminator")

        def losses() -> Iterator[Tensor]:
            for share, images, real_labels, z, c in self._parts(*real, *made_from):
                with torch.no_grad():
                    fake = self.generator(z, c, update=True)
                fake_scores = self._score(fake, c, blur)
                real_scores = self._score(images, real_labels, blur)
                loss = logistic_telling(real_scores, fake_scores).mean()
                report.add(share, loss=loss, fake=fake_scores, real=real_scores)
                yield loss * share

        self._learn("discriminator", losses())
        agree([value for value in self.generator.buffers() if value.is_floating_point()])
        return report.means

    def _penalize(self, real: Tensor, labels: Tensor | None, blur: float) -> dict[str, float]:
        report = _Means("penalty")

        def losses() -> Iterator[Tensor]:
            for share, part, c in self._parts(real, labels):
                images = part.detach().requires_grad_()
                scores = self._score(images, c, blur)
                penalty = r1_penalty(images, scores).mean()
                loss = penalty * (self.settings.gamma / 2)
                report.add(share, loss=loss, r1=penalty, real=scores)
                yield loss * self.settings.r1_interval * share

        self._learn("discriminator", losses())
        return report.means

    def state_dict(self) -> dict[str, Tensor]:
        """As :meth:`Adversaries.state_dict`, with the number of steps."""
        return super().state_dict() | {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """As :meth:`Adversaries.load_state_dict`."""
        super().load_state_dict(state)
        self.steps = int(state["steps"])


class _Means:
    """Means of what a turn reports, over the parts of a batch."""

    def __init__(self, turn: str) -> None:
        self.turn, self.means = turn, dict[str, float]()

    def add(self, share: float, **values: Tensor) -> None:
        """Add a part's means, weighted by its share; scores are also reported by their signs."""
        for name, value in values.items():
            self._add(name, share, value)
            if name in {"fake", "real"}:
                self._add(f"{name}_sign", share, value.sign())

    def _add(self, name: str, share: float, value: Tensor) -> None:
        key = f"{self.turn}/{name}"
        self.means[key] = self.means.get(key, 0.0) + share * float(value.detach().mean())
