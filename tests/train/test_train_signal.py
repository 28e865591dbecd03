"""Filters against scipy's design, resampling against scipy's upfirdn, gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as scipy_signal
from scipy import special

from dcmark.train import signal


@pytest.mark.parametrize("taps", [2, 12, 24, 37])
@pytest.mark.parametrize("cutoff", [2.0, 9.5137, 16.0])
@pytest.mark.parametrize("width", [3.0, 7.396621, 12.0])
def test_lowpass_is_the_kaiser_design_of_scipy(taps: int, cutoff: float, width: float) -> None:
    expected = scipy_signal.firwin(taps, cutoff, width=width, fs=64.0)
    found = signal.lowpass(taps, cutoff, width, 64.0)
    assert found is not None and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)


def test_one_tap_is_no_filter() -> None:
    assert signal.lowpass(1, 2.0, 3.0, 64.0) is None


@pytest.mark.parametrize("taps", [11, 12])
def test_radial_lowpass_is_a_windowed_jinc(taps: int) -> None:
    found = signal.lowpass(taps, 5.0, 9.0, 32.0, radial=True)
    assert found is not None
    at = (np.arange(taps) - (taps - 1) / 2) / 32.0
    distance = np.maximum(np.hypot.outer(at, at), 1e-12)
    window = np.kaiser(taps, signal.kaiser_beta(taps, 9.0, 32.0))
    expected = special.j1(2 * np.pi * 5.0 * distance) / distance * np.outer(window, window)
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(), atol=1e-7)
    assert torch.equal(found, found.T) and torch.equal(found, found.flip(0))


def test_radial_lowpass_treats_all_directions_alike() -> None:
    def spread(kernel: np.ndarray) -> float:
        """Difference between the responses along an axis and along the diagonal, at one frequency."""
        at = np.arange(24) - 11.5
        straight = abs((kernel * np.exp(-2j * np.pi * 0.2 * at)[None, :]).sum())
        wave = np.exp(-2j * np.pi * 0.2 / math.sqrt(2) * (at[None, :] + at[:, None]))
        return float(abs(straight - abs((kernel * wave).sum())))

    radial = signal.lowpass(24, 0.2, 0.15, 1.0, radial=True)
    line = signal.lowpass(24, 0.2, 0.15, 1.0)
    assert radial is not None and line is not None
    assert spread(radial.numpy()) < 0.02
    assert spread(np.outer(line, line)) > 0.1


def reference(x: np.ndarray, kernel: np.ndarray, up: int, down: int, padding: tuple[int, ...]) -> np.ndarray:
    """The definition, with scipy's polyphase filter along each axis."""
    left, right, top, bottom = padding
    for axis, (before, after) in ((2, (top, bottom)), (3, (left, right))):
        full = scipy_signal.upfirdn(kernel, x, up=up, axis=axis)
        length, taps = x.shape[axis], len(kernel)
        full = np.moveaxis(full, axis, 0)
        wide = np.zeros((200 + len(full) + 200, *full.shape[1:]))
        wide[200 : 200 + len(full)] = full
        start = 200 + taps - 1 - before
        x = np.moveaxis(wide[start : start + length * up + before + after - taps + 1 : down], 0, axis)
    return x


SIDES = st.integers(-4, 9)


@settings(max_examples=60)
@given(
    up=st.integers(1, 4),
    down=st.integers(1, 3),
    taps=st.integers(2, 9),
    padding=st.tuples(SIDES, SIDES, SIDES, SIDES),
    shape=st.tuples(st.integers(9, 14), st.integers(9, 14)),
    two_dimensional=st.booleans(),
)
def test_resample_is_zeros_padding_convolution_decimation(
    up: int,
    down: int,
    taps: int,
    padding: tuple[int, int, int, int],
    shape: tuple[int, int],
    two_dimensional: bool,
) -> None:
    random = np.random.default_rng(taps)
    kernel, x = random.normal(size=taps), random.normal(size=(2, 3, *shape))
    expected = reference(x, kernel, up, down, padding) * 2.5
    given_kernel = torch.from_numpy(np.outer(kernel, kernel) if two_dimensional else kernel)
    arguments = {"up": up, "down": down, "padding": padding, "gain": 2.5}
    if 0 in expected.shape:
        return
    found = signal.resample(torch.from_numpy(x), given_kernel, **arguments)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_long_axes_are_resampled_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = torch.randn(1, 2, 40, 30, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    calls = [{"up": 2, "padding": (9, 8, 9, 8)}, {"down": 2}, {"up": 4, "padding": (-6, -9, -3, 2), "gain": 16.0}]
    dense = [signal.resample(x, kernel, **call) for call in calls]
    monkeypatch.setattr(signal, "_MATRIX_LIMIT", 0)
    for call, expected in zip(calls, dense, strict=True):
        torch.testing.assert_close(signal.resample(x, kernel, **call), expected)


def test_upsampling_keeps_a_constant() -> None:
    kernel = signal.lowpass(12, 8.0, 7.0, 32.0)
    assert kernel is not None
    y = signal.resample(torch.ones(1, 1, 20, 20), kernel, up=2, padding=(5, 6, 5, 6), gain=4)
    torch.testing.assert_close(y[:, :, 10:-10, 10:-10], torch.ones(1, 1, 20, 20), atol=2e-3, rtol=0)


@pytest.mark.parametrize("radial", [False, True])
def test_filtered_leaky_relu_gradients(radial: bool) -> None:
    up = signal.lowpass(12, 3.0, 6.0, 32.0)
    down = signal.lowpass(12, 3.0, 6.0, 32.0, radial=radial)
    assert up is not None and down is not None
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)

    def function(value: torch.Tensor) -> torch.Tensor:
        return signal.filtered_leaky_relu(
            value, up.double(), down.double(), up=2, down=2, padding=(9, 8, 9, 8), clamp=256
        )

    assert torch.autograd.gradcheck(function, x)


def test_clamp_comes_after_the_gain() -> None:
    x = torch.tensor([-100.0, -1.0, 1.0, 100.0])
    expected = torch.tensor([-30.0, -0.4, 2.0, 30.0])
    torch.testing.assert_close(signal.activate(x, slope=0.2, gain=2, clamp=30), expected)


def test_blur_spreads_and_keeps_the_sum() -> None:
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, 16, 16] = 1
    y = signal.gaussian_blur(x, 3.0)
    assert y.shape == x.shape and abs(float(y.sum()) - 1) < 1e-5
    # exp2(-(d / sigma)^2) falls to one half at d = sigma.
    assert float(y[0, 0, 16, 19] / y[0, 0, 16, 16]) == pytest.approx(0.5, rel=1e-5)
    assert signal.gaussian_blur(x, 0.3) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half(dtype: torch.dtype) -> None:
    kernel = signal.lowpass(12, 8.0, 7.0, 32.0)
    assert kernel is not None
    x = torch.randn(1, 2, 16, 16)
    y = signal.resample(x.to(dtype), kernel, up=2, padding=(5, 6, 5, 6), gain=4)
    exact = signal.resample(x, kernel, up=2, padding=(5, 6, 5, 6), gain=4)
    assert y.dtype == dtype and float((y.float() - exact).abs().max()) < 0.05
