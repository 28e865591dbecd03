"""Losses of adversarial training, and the running average of a generator.

Every loss comes per sample, (N,), before any mean is taken. Scores are (N, 1), higher for more real.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def logistic_fooling(fake_scores: Tensor) -> Tensor:
    """Non-saturating loss of the generator: -log sigmoid(fake) (Goodfellow et al. 2014)."""
    return functional.softplus(-fake_scores).squeeze(1)


def logistic_telling(real_scores: Tensor | None, fake_scores: Tensor | None) -> Tensor:
    """Loss of the discriminator: -log sigmoid(real) - log(1 - sigmoid(fake)), or one of the terms."""
    terms = [] if real_scores is None else [functional.softplus(-real_scores)]
    terms += [] if fake_scores is None else [functional.softplus(fake_scores)]
    return torch.stack(terms).sum(dim=0).squeeze(1)


def _slopes(images: Tensor, scores: Tensor) -> Tensor:
    (slopes,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return slopes


def r1_penalty(images: Tensor, scores: Tensor) -> Tensor:
    """|gradient of the score|^2 at real images (Mescheder et al. 2018), (N,); times gamma / 2 it is the loss.

    ``images`` must require a gradient, and ``scores`` must have been computed from them.
    """
    return _slopes(images, scores).square().sum(dim=(1, 2, 3))


def wasserstein_penalty(images: Tensor, scores: Tensor, target: float = 1.0) -> Tensor:
    """(|gradient of the score| - target)^2 / target^2 (Gulrajani et al. 2017), (N,)."""
    norms = (_slopes(images, scores).square().sum(dim=(1, 2, 3)) + 1e-16).sqrt()  # the root has no slope at 0
    return (norms - target).square() / target**2


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of label logits (N, L) with labels (N, L), as in the auxiliary-classifier GAN."""
    return functional.cross_entropy(logits, labels.to(logits.dtype), reduction="none")


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor | None = None) -> Tensor:
    """Lengths of the steps that images take as styles move (Karras et al. 2020, section 3.2), (N,).

    Args:
        images: (N, C, H, W), computed from ``styles``.
        styles: (N, layers, style), requiring a gradient.
        noise: random image; drawn where None. The penalty is (length - running mean)^2.
    """
    noise = torch.randn_like(images) if noise is None else noise
    noise = noise / math.sqrt(images.shape[2] * images.shape[3])
    (slopes,) = torch.autograd.grad((images * noise).sum(), styles, create_graph=True)
    return slopes.square().sum(dim=2).mean(dim=1).sqrt()


def faded_blur(images_seen: int, start: float, images: float) -> float:
    """Standard width of the blur of all that the discriminator sees, in pixels.

    StyleGAN3-R starts from ``start`` and fades to none over the first ``images`` images, so that the
    discriminator cannot dwell on high frequencies early (Karras et al. 2021, appendix).
    """
    return start * max(1 - images_seen / images, 0.0) if images > 0 else 0.0


def average_decay(batch: int, half_life: float) -> float:
    """Decay per step of a running average whose half life is counted in images."""
    return float(0.5 ** (batch / half_life)) if half_life > 0 else 0.0


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the weights of ``average`` towards those of ``model``; buffers are copied."""
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copied.copy_(buffer)
