"""Signals on a pixel grid: low-pass filters, resampling, alias-free activation, blur.

Images are tensors (samples, channels, rows, columns). Frequencies are in cycles per unit of
length and sampling rates in samples per the same unit, whatever that unit is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Padding = tuple[int, int, int, int]
"""Samples added before and after the columns, then before and after the rows; negative crops."""

_MATRIX_LIMIT = 320
"""Up to this many samples along an axis a dense matrix product beats a depthwise convolution,
whose cost per sample does not grow with the axis; measured on CPU, where it is up to three times faster."""


def kaiser_beta(taps: int, width: float, rate: float) -> float:
    """Shape of the Kaiser window that gives ``taps`` coefficients a transition band of ``width``.

    Kaiser's rule: first the attenuation in dB that length and width allow, then the shape for it.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return float(0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21))
    return 0.0


def lowpass(taps: int, cutoff: float, width: float, rate: float, *, radial: bool = False) -> Tensor | None:
    """A Kaiser-windowed low-pass filter of unit gain at zero frequency.

    Args:
        taps: number of coefficients; 1 means no filter.
        cutoff: where the gain has fallen to one half.
        width: of the transition band around the cutoff.
        rate: sampling rate of the filter.
        radial: a filter of two dimensions with the same response in every direction (the
            ideal response of a disc is a jinc), instead of one to be applied along each axis.

    Returns:
        float32 (taps,), or (taps, taps) if radial; None where there is nothing to filter.
    """
    if taps == 1:
        return None
    at = (np.arange(taps) - (taps - 1) / 2) / rate
    window = np.kaiser(taps, kaiser_beta(taps, width, rate))
    if not radial:
        response = np.sinc(2 * cutoff * at) * window
    else:
        distance = np.hypot.outer(at, at)
        angle = torch.from_numpy(2 * math.pi * cutoff * np.where(distance == 0, 1, distance))
        jinc = torch.special.bessel_j1(angle).numpy() / angle.numpy()
        response = np.where(distance == 0, 0.5, jinc) * np.outer(window, window)
    return torch.from_numpy((response / response.sum()).astype(np.float32))


def binomial() -> Tensor:
    """The filter [1, 3, 3, 1] along both axes, unit gain: float32 (4, 4)."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(line, line)


def _axis_matrix(kernel: Tensor, length: int, up: int, down: int, around: tuple[int, int]) -> Tensor:
    """Resampling along one axis as a matrix (samples out, samples in)."""
    taps, (before, after) = kernel.numel(), around
    out = (length * up + before + after - taps) // down + 1
    row = torch.arange(out, device=kernel.device)[:, None] * down + (taps - 1 - before)
    tap = row - torch.arange(length, device=kernel.device) * up
    return torch.where((tap >= 0) & (tap < taps), kernel[tap.clamp(0, taps - 1)], 0)


def _depthwise(x: Tensor, kernel: Tensor, up: tuple[int, int], down: tuple[int, int], padding: Padding) -> Tensor:
    """The same with one small convolution per channel; ``up`` and ``down`` are (rows, columns)."""
    channels = x.shape[1]
    left, right, top, bottom = padding
    if up != (1, 1):
        # A transposed convolution is insertion of zeros and filtering in one; what it puts out is
        # counted from the first sample touched, so padding becomes a matter of cropping it.
        size = tuple(n * u for n, u in zip(x.shape[2:], up, strict=True))
        x = functional.conv_transpose2d(x, kernel.expand(channels, 1, -1, -1), stride=up, groups=channels)
        rows, columns = kernel.shape
        first = (rows - 1 - top, columns - 1 - left)
        last = (size[0] + bottom, size[1] + right)
        x = functional.pad(x, (-first[1], last[1] - x.shape[3], -first[0], last[0] - x.shape[2]))
        return x[:, :, :: down[0], :: down[1]]
    if left == right >= 0 and top == bottom >= 0:
        around = (top, left)
    else:
        x, around = functional.pad(x, padding), (0, 0)
    weight = kernel.flip(0, 1).expand(channels, 1, -1, -1)
    return functional.conv2d(x, weight, stride=down, padding=around, groups=channels)


def resample(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = (0, 0, 0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Put ``up - 1`` zeros after every sample, pad, convolve with ``kernel``, keep every ``down``-th.

    Args:
        x: (N, C, H, W).
        kernel: (taps,) applied along rows and columns, or (taps, taps).
        padding: on the grid of the inserted zeros.
        gain: factor of the result; upsampling keeps the mean with ``gain=up**2``.

    Returns:
        (N, C, H', W') with H' = (H * up + top + bottom - taps) // down + 1.
    """
    if kernel.ndim == 2:
        return _depthwise(x, kernel.to(x.dtype) * gain, (up, up), (down, down), padding)
    left, right, top, bottom = padding
    kernel = kernel * math.sqrt(gain)
    if max(x.shape[2:]) <= _MATRIX_LIMIT * (down if up == 1 else 1):
        rows = _axis_matrix(kernel, x.shape[2], up, down, (top, bottom)).to(x.dtype)
        columns = _axis_matrix(kernel, x.shape[3], up, down, (left, right)).to(x.dtype)
        # The axis that is not widened by the other goes first.
        return rows @ (x @ columns.mT) if up <= down else (rows @ x) @ columns.mT
    kernel = kernel.to(x.dtype)
    x = _depthwise(x, kernel[None, :], (1, up), (1, down), (left, right, 0, 0))
    return _depthwise(x, kernel[:, None], (up, 1), (down, 1), (0, 0, top, bottom))


def activate(x: Tensor, *, slope: float = 0.2, gain: float = math.sqrt(2), clamp: float | None = None) -> Tensor:
    """Leaky ReLU, then ``gain`` (sqrt 2 keeps the variance), then the values cut to ±``clamp``."""
    if slope != 1:
        x = functional.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def filtered_leaky_relu(
    x: Tensor,
    up_kernel: Tensor | None,
    down_kernel: Tensor | None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = (0, 0, 0, 0),
    slope: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Tensor:
    """A leaky ReLU that adds no aliases (Karras et al. 2021, section 3.2).

    The signal is brought to ``up`` times its rate, where the new frequencies of the bent curve
    fit, and back by ``down`` through a filter that removes what does not fit the output.
    """
    if up_kernel is not None:
        x = resample(x, up_kernel, up=up, padding=padding, gain=up**2)
    x = activate(x, slope=slope, gain=gain, clamp=clamp)
    return x if down_kernel is None else resample(x, down_kernel, down=down)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur with exp2(-(d / sigma)^2), d in pixels, cut off at 3 sigma; zeros outside the image.

    A ``sigma`` below a third of a pixel changes nothing.
    """
    reach = math.floor(sigma * 3)
    if reach <= 0:
        return x
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float32)
    kernel = torch.exp2(-((at / sigma) ** 2))
    return resample(x, (kernel / kernel.sum()).to(x.dtype), padding=(reach, reach, reach, reach))
