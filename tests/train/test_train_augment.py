"""Augmentation: what it does to images, to second derivatives, and how its probability is steered."""

from __future__ import annotations

import pytest
import torch

from dcmark.train.augment import Augmentation, AugmentSettings, sample_affine

STILL = torch.tensor([[1.0, 0, 0], [0, 1, 0]])


def test_standing_still_changes_nothing() -> None:
    x = torch.randn(2, 3, 9, 12)
    torch.testing.assert_close(sample_affine(x, STILL.expand(2, 2, 3)), x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ([[-1.0, 0, 0], [0, 1, 0]], lambda x: x.flip(3)),
        ([[0.0, -1, 0], [1, 0, 0]], lambda x: x.rot90(1, (2, 3))),
        ([[1.0, 0, 2 / 8], [0, 1, 0]], lambda x: torch.cat([x[..., 1:], x[..., -2:-1]], 3)),
    ],
)
def test_flips_turns_and_shifts_are_exact(place: list[list[float]], expected: object) -> None:
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    found = sample_affine(x, torch.tensor([place], dtype=torch.float64))
    torch.testing.assert_close(found, expected(x), atol=1e-5, rtol=0)  # type: ignore[operator]


def test_it_agrees_with_the_sampler_of_pytorch() -> None:
    x = torch.randn(4, 2, 17, 17)
    angle = torch.rand(4) * 0.4
    rows = [torch.stack([angle.cos(), -angle.sin(), angle * 0], 1), torch.stack([angle.sin(), angle.cos(), angle], 1)]
    places = torch.stack(rows, 1) * 0.6
    grid = torch.nn.functional.affine_grid(places, list(x.shape), align_corners=False)
    expected = torch.nn.functional.grid_sample(x, grid, align_corners=False, padding_mode="border")
    torch.testing.assert_close(sample_affine(x, places), expected, atol=1e-4, rtol=1e-4)


def test_second_derivatives() -> None:
    x = torch.randn(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    place = torch.tensor([[[0.9, 0.2, 0.1], [-0.2, 0.8, 0.0]]])
    assert torch.autograd.gradgradcheck(lambda v: sample_affine(v, place).sin(), x)


def test_nothing_at_zero_and_physical_values_at_one() -> None:
    x = torch.rand(8, 1, 16, 16) * 0.5
    assert Augmentation(AugmentSettings())(x) is x
    seen = Augmentation(AugmentSettings(), p=1.0)(x)
    assert not torch.equal(seen, x)
    # Interpolation between pixels never leaves their range: no value appears that the data do not have.
    assert float(seen.min()) >= 0 and float(seen.max()) <= 0.5
    brighter = Augmentation(AugmentSettings(intensity=0.5), p=1.0)(x)
    assert float(brighter.max()) > 0.5


def test_probability_follows_the_discriminator() -> None:
    sure = Augmentation(AugmentSettings(images=1000, interval=4))
    for _ in range(8):
        sure.adapt(0.9, 16)
    assert sure.p == pytest.approx(8 * 16 / 1000)
    state = sure.state()
    for _ in range(100):
        sure.adapt(0.1, 16)
    assert sure.p == 0
    sure.load_state(state)
    assert sure.p == pytest.approx(8 * 16 / 1000)


def test_how_often() -> None:
    torch.manual_seed(1)
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(400, 1, 8, 8)
    settings = AugmentSettings(turn=False, shift=0.0, scale=0.0, rotation=False, flip=True)
    changed = (Augmentation(settings, p=0.5)(x) - x).abs().amax(dim=(1, 2, 3)) > 1
    assert 0.18 < float(changed.float().mean()) < 0.32  # half of a half
