"""The StyleGAN2 networks against recorded outputs of the published ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcmark.errors import UnsupportedError, UsageError
from dcmark.train.checkpoint import export_official_state, load_official_state
from dcmark.train.losses import logistic_telling, r1_penalty
from dcmark.train.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    worst = float((found - expected).detach().abs().max())
    assert worst <= tolerance * max(1.0, float(expected.abs().max())), worst


def assert_gradients(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    parameters, names = dict(model.named_parameters()), model.official_names()  # type: ignore[operator]
    assert {names[name] for name in expected} == parameters.keys()
    for name, reference in expected.items():
        found = parameters[names[name]].grad
        assert found is not None
        assert float((found - reference).abs().max()) <= 1e-4 * float(reference.abs().max()), name


@pytest.fixture
def recorded(vectors: Callable[[str], Any]) -> tuple[Any, Generator]:
    data = vectors("sg2_r32_c1_uncond")
    model = Generator(GeneratorConfig.from_official(data.meta["config"]))
    load_official_state(model, data.group("state/"))
    return data, model


@pytest.fixture(params=["sg2d_r32_c1_uncond", "sg2d_r64_c3_cond2"])
def judge(request: pytest.FixtureRequest, vectors: Callable[[str], Any]) -> tuple[Any, Discriminator]:
    data = vectors(request.param)
    model = Discriminator(DiscriminatorConfig.from_official(data.meta["config"]))
    load_official_state(model, data.group("state/"))
    return data, model


@torch.no_grad()
def test_styles_and_images(recorded: tuple[Any, Generator]) -> None:
    data, model = recorded
    z, c = data("z"), data("c")
    assert_near(model.mapping(z, c), data("w"))
    assert_near(model(z, c), data("img"))
    assert_near(model.mapping(z, c, truncation=0.6, truncated=4), data("w_trunc"))
    assert_near(model(z, c, truncation=0.6, truncated=4), data("img_trunc"))
    assert_near(model.double()(z.double(), c.double()), data("img_f64"), 1e-13)


def test_gradients(recorded: tuple[Any, Generator]) -> None:
    data, model = recorded
    z = data("z").requires_grad_()
    (model(z, data("c")) * data("probe")).sum().backward()
    assert z.grad is not None
    assert float((z.grad - data("grad_z")).abs().max()) <= 1e-4 * float(data("grad_z").abs().max())
    assert_gradients(model, data.group("grad/"))


@torch.no_grad()
def test_running_mean(recorded: tuple[Any, Generator]) -> None:
    data, model = recorded
    model(data("z"), data("c"), update=True)
    assert_near(export_official_state(model)["mapping.w_avg"], data("after_update/mapping.w_avg"), 1e-6)


@torch.no_grad()
def test_noise_is_fresh_where_asked_for(recorded: tuple[Any, Generator]) -> None:
    data, model = recorded
    z = data("z")
    assert torch.equal(model(z), model(z)) and not torch.equal(model(z, random=True), model(z, random=True))


@torch.no_grad()
def test_scores(judge: tuple[Any, Discriminator]) -> None:
    data, model = judge
    assert_near(model(data("img"), data("c")), data("logits"), 2e-6)
    x = model.entry(data("img"))
    for block, side in zip(model.blocks, model.resolutions, strict=True):
        x = block(x, model.blur)
        assert_near(x[:1, :4], data(f"act/b{side}"))
    assert_near(model.double()(data("img").double(), data("c").double()), data("logits_f64"), 1e-13)


def test_penalty_and_gradients(judge: tuple[Any, Discriminator]) -> None:
    data, model = judge
    images = data("img").requires_grad_()
    scores = model(images, data("c"))
    penalty = r1_penalty(images, scores)
    slopes = torch.autograd.grad(scores.sum(), images, retain_graph=True)[0]
    assert float((slopes - data("r1_grad_img")).abs().max()) <= 1e-4 * float(data("r1_grad_img").abs().max())
    torch.testing.assert_close(penalty.detach(), data("r1_penalty"), rtol=1e-4, atol=0)
    loss = logistic_telling(scores, None).mean() + (5 * penalty).mean()
    torch.testing.assert_close(loss.detach(), data("loss_real_plus_r1_gamma10"), rtol=1e-5, atol=0)
    loss.backward()
    assert_gradients(model, data.group("grad/"))


def test_official_names_go_both_ways(recorded: tuple[Any, Generator], judge: tuple[Any, Discriminator]) -> None:
    for data, model in (recorded, judge):
        exported, expected = export_official_state(model), data.group("state/")
        assert exported.keys() == expected.keys()
        assert all(torch.equal(exported[name], expected[name]) for name in expected)
        assert type(model.config).from_official(model.config.to_official()) == model.config


@pytest.mark.parametrize("wrong", [{"resolution": 48}, {"channels": 0}, {"group": 0}, {"capacity": True}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        DiscriminatorConfig(**{"resolution": 16, "channels": 1, **wrong})


def test_a_batch_that_makes_no_groups_is_refused() -> None:
    model = Discriminator(DiscriminatorConfig(16, 1, capacity=64, widest=8))
    with pytest.raises(UsageError, match="multiple of 4"):
        model(torch.zeros(6, 1, 16, 16))


def test_another_network_of_the_checkpoint_is_refused(recorded: tuple[Any, Generator]) -> None:
    data, model = recorded
    with pytest.raises(UnsupportedError, match="missing"):
        load_official_state(model, {k: v for k, v in data.group("state/").items() if "b8" not in k})
