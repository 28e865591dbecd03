"""PGGAN against recorded outputs of the published networks, at several levels of detail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcmark.errors import UsageError
from dcmark.train.checkpoint import export_official_state, load_official_state
from dcmark.train.losses import wasserstein_penalty
from dcmark.train.pggan import Config, Discriminator, Generator, Growth, StepSettings
from dcmark.train.pggan.training import discriminator_loss, generator_loss, real_at

_SETTINGS = ("num_channels", "resolution", "label_size", "fmap_base", "fmap_max", "mbstd_group_size")


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).detach().abs().max()) / max(1.0, float(expected.abs().max()))


def config_of(settings: dict[str, Any]) -> Config:
    return Config.from_official({key: settings[key] for key in _SETTINGS if key in settings})


Recorded = tuple[Any, Generator, Discriminator]


@pytest.fixture(params=["pggan_r16_c1_uncond", "pggan_r32_c3_lab2"])
def recorded(request: pytest.FixtureRequest, vectors: Callable[[str], Any]) -> Recorded:
    data = vectors(request.param)
    generator, discriminator = Generator(config_of(data.meta["G"])), Discriminator(config_of(data.meta["D"]))
    lod = {"lod": torch.zeros(())}
    load_official_state(generator, lod | data.group("var/G/"))
    load_official_state(discriminator, lod | data.group("var/D/"))
    return data, generator, discriminator


@torch.no_grad()
def test_images_and_scores_at_every_level(recorded: Recorded) -> None:
    data, generator, discriminator = recorded
    for lod in data.meta["lods"]:
        images = generator(data("latents"), data("labels"), lod=lod)
        assert worst(images, data(f"img/lod{lod:g}")) <= 3e-5
        # The scores recorded are those of the recorded real images.
        scores, logits = discriminator(data("real"), lod=lod)
        assert worst(scores, data(f"scores/lod{lod:g}")) <= 2e-6
        if logits.shape[1]:
            assert worst(logits, data(f"label_logits/lod{lod:g}")) <= 2e-6


@torch.no_grad()
def test_small_images_are_those_of_full_size_without_the_repetition(recorded: Recorded) -> None:
    data, generator, discriminator = recorded
    for lod in (0.0, 0.3, 1.0, 1.7):
        whole = generator(data("latents"), data("labels"), lod=lod)
        small = generator(data("latents"), data("labels"), lod=lod, full=False)
        factor = 1 << int(lod)
        assert torch.equal(small.repeat_interleave(factor, 2).repeat_interleave(factor, 3), whole)
        torch.testing.assert_close(discriminator(small, lod=lod)[0], discriminator(whole, lod=lod)[0])


def test_losses_and_gradients(recorded: Recorded) -> None:
    data, generator, discriminator = recorded
    latents, mix = data("latents"), data("mix")
    labels = data("labels") if generator.config.labels else None
    networks = (generator, discriminator)
    fake = generator(latents, labels, lod=0).detach()
    mixed = (data("real") + (fake - data("real")) * mix).requires_grad_()
    scores = discriminator(mixed, lod=0)[0]
    slopes = torch.autograd.grad(scores.sum(), mixed)[0]
    assert float((slopes - data("mixed_grad")).abs().max()) <= 1e-4 * float(data("mixed_grad").abs().max())
    expected = (data("mixed_norms") - 1).square()
    torch.testing.assert_close(
        wasserstein_penalty(mixed, discriminator(mixed, lod=0)[0]).detach(), expected, rtol=1e-4, atol=1e-6
    )
    losses = {
        "G": generator_loss(networks, latents, labels, 0, StepSettings())[0].mean(),
        "D": discriminator_loss(networks, (data("real"), latents, labels, mix), 0, StepSettings())[0].mean(),
    }
    for which, model in (("G", generator), ("D", discriminator)):
        torch.testing.assert_close(losses[which].detach(), data(f"{which}_loss"), rtol=1e-5, atol=1e-5)
        names, parameters = model.official_names(), dict(model.named_parameters())
        recorded_gradients = data.group(f"grad/{which}/")
        used = [names[name] for name in recorded_gradients]
        found = torch.autograd.grad(losses[which], [parameters[name] for name in used], allow_unused=True)
        for (name, reference), gradient in zip(recorded_gradients.items(), found, strict=True):
            axes = model.official_axes.get(reference.ndim)
            reference = reference if axes is None else reference.permute(axes)
            gradient = torch.zeros_like(reference) if gradient is None else gradient
            assert float((gradient - reference).abs().max()) <= 1e-4 * float(reference.abs().max()), name


def test_official_names_go_both_ways(recorded: Recorded) -> None:
    data, *models = recorded
    for which, model in zip("GD", models, strict=True):
        exported = export_official_state(model)
        expected = data.group(f"var/{which}/")
        assert exported.keys() == expected.keys() | {"lod"}
        assert all(torch.equal(exported[name], expected[name]) for name in expected)


def test_real_images_fade_with_the_networks() -> None:
    config = Config(16, 1)
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(real_at(images, 0, config), images)
    assert real_at(images, 1.0, config).shape == (2, 1, 8, 8)
    half, coarse = real_at(images, 0.5, config), real_at(images, 1.0, config)
    up = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(half, (images + up) / 2)


def test_growth_holds_fades_and_ends() -> None:
    config = Config(32, 1)
    growth = Growth(first_resolution=4, steady=100, fading=50)
    assert [growth.lod(n, config) for n in (0, 100, 125, 150, 249, 275, 450, 10**9)] == [
        3, 3, 2.5, 2, 2, 1.5, 0, 0,
    ]  # fmt: skip


def test_a_level_that_is_not_there_is_refused(recorded: Recorded) -> None:
    data, generator, _ = recorded
    with pytest.raises(UsageError, match="lod"):
        generator(data("latents"), data("labels"), lod=9)
