"""How far two sets of images, or of feature vectors, lie apart. Numpy only, float64 inside.

Images are (N, C, H, W), nominally -1 to 1; features are (N, D). Everything random takes a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError

Float = NDArray[np.float64]
_PATCH = 7
_PYRAMID_FILTER = np.array([1, 4, 6, 4, 1], dtype=np.float64) / 16


def _features(*sets: NDArray[Any]) -> list[Float]:
    found = [np.asarray(x, dtype=np.float64) for x in sets]
    if any(x.ndim != 2 or len(x) < 2 for x in found) or len({x.shape[1] for x in found}) != 1:
        raise UsageError(f"expected feature vectors (N, D), N at least 2, found {[x.shape for x in found]}")
    return found


def frechet(real: NDArray[Any], made: NDArray[Any]) -> float:
    """Squared Fréchet distance of two normal distributions fitted to features (Heusel et al. 2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Biased upwards by about 1/N; compare equal N only.
    """
    a, b = _features(real, made)
    gap = a.mean(axis=0) - b.mean(axis=0)
    # With centred data A, B scaled by 1/sqrt(n - 1) the trace of (Ca Cb)^(1/2) is the nuclear norm of A B^T:
    # no root of a matrix that may be singular is taken.
    left = (a - a.mean(axis=0)) / math.sqrt(len(a) - 1)
    right = (b - b.mean(axis=0)) / math.sqrt(len(b) - 1)
    if a.shape[1] < min(len(a), len(b)):
        left, right = (np.linalg.qr(x, mode="r") for x in (left, right))
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    return float(max(gap @ gap + (left**2).sum() + (right**2).sum() - 2 * cross, 0.0))


def kernel_distance(real: NDArray[Any], made: NDArray[Any]) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased (Bińkowski et al. 2018)."""
    a, b = _features(real, made)

    def kernel(x: Float, y: Float) -> Float:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    n, m = len(a), len(b)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def distances(a: NDArray[Any], b: NDArray[Any]) -> Float:
    """Euclidean distances (N, M) of two sets of vectors."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


@dataclass(frozen=True, slots=True)
class Coverage:
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Attributes:
        precision: part of what was made that lies among real images.
        recall: part of the real images that lie among what was made.
        density: how many real neighbourhoods hold what was made, over what is expected; 1 is good.
        coverage: part of the real neighbourhoods that hold something that was made.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: NDArray[Any], made: NDArray[Any], neighbours: int = 5) -> Coverage:
    """See :class:`Coverage`; a neighbourhood reaches to the ``neighbours``-th nearest of its own set."""
    a, b = _features(real, made)
    k = min(neighbours, len(a) - 1, len(b) - 1)
    across = distances(a, b)
    radius_a = np.partition(distances(a, a), k, axis=1)[:, k]
    radius_b = np.partition(distances(b, b), k, axis=1)[:, k]
    in_real = across <= radius_a[:, None]
    return Coverage(
        precision=float(in_real.any(axis=0).mean()),
        recall=float((across <= radius_b[None]).any(axis=1).mean()),
        density=float(in_real.sum() / (k * len(b))),
        coverage=float((across.min(axis=1) <= radius_a).mean()),
    )


def _blurred(images: Float) -> Float:
    out = np.pad(images, [(0, 0), (0, 0), (2, 2), (2, 2)], mode="reflect")
    height, width = images.shape[2:]
    out = np.asarray(sum(w * out[:, :, i : i + height] for i, w in enumerate(_PYRAMID_FILTER)))
    return np.asarray(sum(w * out[:, :, :, i : i + width] for i, w in enumerate(_PYRAMID_FILTER)))


def laplacian_pyramid(images: NDArray[Any], least: int = 16) -> list[Float]:
    """Bands of detail from fine to coarse, each of half the size, down to ``least`` pixels (Burt and Adelson 1983)."""
    x = np.asarray(images, dtype=np.float64)
    bands = []
    while min(x.shape[2:]) // 2 >= least:
        small = _blurred(x)[:, :, ::2, ::2]
        up = np.zeros_like(x)
        up[:, :, ::2, ::2] = small * 4
        bands.append(x - _blurred(up))
        x = small
    return [*bands, x]


def _patches(band: Float, count: int, rng: np.random.Generator) -> Float:
    """``count`` patches of 7x7 pixels of every image: (N * count, C, 49)."""
    images, channels, height, width = band.shape
    side = min(_PATCH, height, width)
    rows = rng.integers(0, height - side + 1, (images, count))
    columns = rng.integers(0, width - side + 1, (images, count))
    windows = np.lib.stride_tricks.sliding_window_view(band, (side, side), axis=(2, 3))
    chosen = windows[np.arange(images)[:, None], :, rows, columns]
    return np.asarray(chosen.reshape(images * count, channels, side * side))


def sliced_wasserstein(
    real: NDArray[Any], made: NDArray[Any], *, patches: int = 64, directions: int = 256, least: int = 16, seed: int = 0
) -> dict[int, float]:
    """Sliced Wasserstein distance of patches at every level of a Laplacian pyramid, times 1000, by size in pixels.

    After Karras et al. 2018, section 5. Patches of both sets are standardised by mean and deviation of the
    real ones, channel by channel, so that wrong brightness and contrast count as well.

    Raises:
        UsageError: the images of the two sets differ in shape.
    """
    if real.shape[1:] != made.shape[1:] or real.ndim != 4:
        raise UsageError(f"expected two sets of images (N, C, H, W) of one shape, found {real.shape} and {made.shape}")
    count = min(len(real), len(made))
    rng = np.random.default_rng(seed)
    found = {}
    for ours, theirs in zip(
        laplacian_pyramid(real[:count], least), laplacian_pyramid(made[:count], least), strict=True
    ):
        size = ours.shape[2]
        a, b = _patches(ours, patches, rng), _patches(theirs, patches, rng)
        middle, spread = a.mean(axis=(0, 2), keepdims=True), a.std(axis=(0, 2), keepdims=True) + 1e-12
        a, b = (((x - middle) / spread).reshape(len(x), -1) for x in (a, b))
        lines = rng.normal(size=(a.shape[1], directions))
        lines /= np.linalg.norm(lines, axis=0)
        gaps = np.abs(np.sort(a @ lines, axis=0) - np.sort(b @ lines, axis=0))
        found[size] = float(gaps.mean() * 1000)
    return found


def _ssim(a: Float, b: Float, window: int, span: float) -> tuple[Float, Float]:
    """Means over each image of similarity and of its contrast and structure part alone (Wang et al. 2004): (N,)."""

    def mean(x: Float) -> Float:
        sums = np.pad(x, [(0, 0), (0, 0), (1, 0), (1, 0)]).cumsum(axis=2).cumsum(axis=3)
        w = window
        return np.asarray(
            (sums[:, :, w:, w:] - sums[:, :, :-w, w:] - sums[:, :, w:, :-w] + sums[:, :, :-w, :-w]) / w**2
        )

    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    structure = (2 * cov + c2) / (va + vb + c2)
    whole = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1) * structure
    return whole.mean(axis=(1, 2, 3)), structure.mean(axis=(1, 2, 3))


_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim(a: NDArray[Any], b: NDArray[Any], *, span: float = 2.0) -> Float:
    """Multi-scale structural similarity of pairs of images (Wang, Simoncelli, Bovik 2003): (N,), 1 for equal ones.

    Windows of 8x8 pixels (smaller for small images); as many of the five scales as the size allows, with
    their weights scaled to a sum of one. Negative parts count as 0.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    side = min(x.shape[2:])
    window = min(8, side)
    scales = max(min(int(math.log2(max(side // window, 1))) + 1, 5), 1)
    weights = np.asarray(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    result = np.ones(len(x))
    for scale, weight in enumerate(weights):
        whole, structure = _ssim(x, y, window, span)
        result *= np.maximum(whole if scale == scales - 1 else structure, 0) ** weight
        height, width = (size // 2 * 2 for size in x.shape[2:])
        x, y = (
            (z[:, :, :height:2, :width:2] + z[:, :, 1:height:2, :width:2] + z[:, :, :height:2, 1:width:2]
             + z[:, :, 1:height:2, 1:width:2]) / 4
            for z in (x, y)
        )  # fmt: skip
    return result


def diversity(images: NDArray[Any], *, pairs: int = 200, seed: int = 0) -> Float:
    """MS-SSIM of random pairs within a set, (pairs,): high where images are alike."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(images), pairs)
    second = (first + rng.integers(1, len(images), pairs)) % len(images)
    return ms_ssim(images[first], images[second])


def radial_spectrum(images: NDArray[Any]) -> Float:
    """Mean power by spatial frequency, dB: (side / 2,), index = cycles per image along the shorter side."""
    x = np.asarray(images, dtype=np.float64)
    height, width = x.shape[2:]
    window = np.hanning(height)[:, None] * np.hanning(width)[None]  # borders of the image are no edges in it
    x = (x - x.mean(axis=(2, 3), keepdims=True)) * window
    power = (np.abs(np.fft.fft2(x)) ** 2).mean(axis=(0, 1)) / (window**2).sum()
    side = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) * side
    ring = np.rint(radius).astype(int).ravel()
    rings = side // 2
    kept = ring < rings
    totals = np.bincount(ring[kept], power.ravel()[kept], rings)
    counts = np.bincount(ring[kept], minlength=rings)
    return np.asarray(10 * np.log10(totals / np.maximum(counts, 1) + 1e-12))


def spectrum_gap(real: NDArray[Any], made: NDArray[Any]) -> float:
    """Mean absolute difference of two radial spectra, dB, without frequency 0."""
    return float(np.abs(radial_spectrum(real)[1:] - radial_spectrum(made)[1:]).mean())


def histogram_gap(real: NDArray[Any], made: NDArray[Any]) -> float:
    """Wasserstein-1 distance of the values of two sets, in the unit of the values."""
    grid = (np.arange(2000) + 0.5) / 2000
    return float(np.abs(np.quantile(real, grid) - np.quantile(made, grid)).mean())


TISSUES: dict[str, tuple[float, float]] = {
    "air": (-math.inf, -950),
    "lung": (-950, -500),
    "fat": (-150, -30),
    "soft tissue": (-30, 150),
    "bone": (200, math.inf),
}
"""Ranges in HU, lower end included."""


def tissue_fractions(hu: NDArray[Any]) -> dict[str, float]:
    """Part of all pixels within each range of HU."""
    return {name: float(((hu >= low) & (hu < high)).mean()) for name, (low, high) in TISSUES.items()}
