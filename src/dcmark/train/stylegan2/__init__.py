"""StyleGAN2: generator and the discriminator that StyleGAN3 shares, in plain PyTorch."""

from __future__ import annotations

from dcmark.train.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from dcmark.train.stylegan2.discriminator import Discriminator
from dcmark.train.stylegan2.generator import Generator

__all__ = ["Discriminator", "DiscriminatorConfig", "Generator", "GeneratorConfig"]
