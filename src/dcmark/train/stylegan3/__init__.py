"""StyleGAN3: configuration, generator and training step, in plain PyTorch."""

from __future__ import annotations

from dcmark.train.stylegan3.config import Config, Layer, plan_layers
from dcmark.train.stylegan3.generator import Generator
from dcmark.train.stylegan3.training import StepSettings, TrainingStep

__all__ = ["Config", "Generator", "Layer", "StepSettings", "TrainingStep", "plan_layers"]
