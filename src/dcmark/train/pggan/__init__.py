"""Progressive growing of GANs: networks, schedule and training step, in plain PyTorch."""

from __future__ import annotations

from dcmark.train.pggan.networks import Config, Discriminator, Generator
from dcmark.train.pggan.training import Growth, StepSettings, TrainingStep

__all__ = ["Config", "Discriminator", "Generator", "Growth", "StepSettings", "TrainingStep"]
