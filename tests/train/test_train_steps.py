"""Three recorded training steps, reproduced from the same weights, images and latent vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcmark.train import stylegan2, stylegan3
from dcmark.train.checkpoint import export_official_state, load_official_state
from dcmark.train.stylegan3.training import StepSettings, TrainingStep

# Our name of a mean -> the recorded one; turns that log to the same name follow one another.
NAMES = {
    "generator/loss": "Loss_G_loss",
    "generator/fake": "Loss_scores_fake",
    "generator/fake_sign": "Loss_signs_fake",
    "discriminator/fake": "Loss_scores_fake",
    "discriminator/fake_sign": "Loss_signs_fake",
    "discriminator/real": "Loss_scores_real",
    "discriminator/real_sign": "Loss_signs_real",
    "discriminator/loss": "Loss_D_loss",
    "penalty/real": "Loss_scores_real",
    "penalty/real_sign": "Loss_signs_real",
    "penalty/r1": "Loss_r1_penalty",
    "penalty/loss": "Loss_D_reg",
}


@pytest.mark.parametrize("name", ["steps_sg3t_r32_c1", "steps_sg3r_r32_c1_cond2"])
def test_three_steps(name: str, vectors: Callable[[str], Any]) -> None:
    data = vectors(name)
    generator = stylegan3.Generator(stylegan3.Config.from_official(data.meta["G"]))
    discriminator = stylegan2.Discriminator(stylegan2.DiscriminatorConfig.from_official(data.meta["D"]))
    load_official_state(generator, data.group("G_init/"))
    load_official_state(discriminator, data.group("D_init/"))
    settings = StepSettings(
        gamma=data.meta["r1_gamma"],
        blur=data.meta["blur_init_sigma"],
        blur_images=data.meta.get("blur_fade_kimg", 200) * 1000,
        rate_generator=data.meta["lrG"],
    )
    step = TrainingStep(generator, discriminator, settings)
    conditional = generator.config.labels > 0
    reports = defaultdict(list)
    for number in range(data.meta["steps"]):
        z = data("z")[number]
        c = data("c")[number] if conditional else [None] * 4
        report = step(data("real")[number], c[3], (z[0], z[1]), (c[0], c[1]))
        for ours, theirs in NAMES.items():
            if ours in report:
                reports[theirs].append(report[ours])
    for theirs, found in reports.items():
        torch.testing.assert_close(
            torch.tensor(found), data(f"report/{theirs}").float(), rtol=1e-4, atol=1e-6, msg=lambda m, t=theirs: t + m
        )
    assert {key.removeprefix("report/") for key in data.keys if key.startswith("report/")} == reports.keys()
    for prefix, model in (("G_final/", generator), ("D_final/", discriminator)):
        exported = export_official_state(model)
        gaps = torch.cat([(exported[k] - v).abs().flatten() for k, v in data.group(prefix).items()])
        assert float((gaps <= 1e-4).float().mean()) >= 0.99
