"""Measures against closed forms, slow definitions and what they must not be fooled by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmark.errors import UsageError
from dcmark.out import measures
from dcmark.train.demo import phantom_data


def chests(count: int, seed: int = 0, side: int = 32) -> NDArray[np.float32]:
    data = phantom_data(count, side, seed)
    return np.stack([data.meaning.to_model(data[i][0]) for i in range(count)])


def normal(count: int, size: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, size))


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 12), st.integers(0, 99))
def test_frechet_is_its_definition(n: int, m: int, size: int, seed: int) -> None:
    """Fewer vectors than dimensions, where the matrices have no inverse, included."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, size)), rng.normal(1, 2, size=(m, size))
    ca, cb = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = scipy.linalg.eigh(ca)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    between = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * between
    scale = 1 + np.trace(ca) + np.trace(cb)
    assert abs(measures.frechet(a, b) - expected) < 1e-5 * scale
    assert measures.frechet(a, a) < 1e-9 * scale


def test_frechet_of_known_distributions() -> None:
    """Equal covariance, means 3 apart: 9. Equal means, deviations 1 and 2: one a dimension."""
    a = normal(20_000, 4)
    assert measures.frechet(a, a + np.array([3, 0, 0, 0])) == pytest.approx(9, abs=1e-9)
    assert measures.frechet(a, 2 * normal(20_000, 4, 1)) == pytest.approx(4, rel=0.03)


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    same = [measures.kernel_distance(normal(50, 8, 2 * i), normal(50, 8, 2 * i + 1)) for i in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(60)
    assert measures.kernel_distance(normal(50, 8), normal(50, 8, 1) + 1) > 10 * np.std(same)


def test_precision_recall_density_coverage() -> None:
    real = normal(400, 6)
    alike = measures.coverage(real, normal(400, 6, 1))
    assert min(alike.precision, alike.recall, alike.coverage) > 0.8
    assert alike.density == pytest.approx(1, abs=0.2)
    far = measures.coverage(real, normal(400, 6, 1) + 100)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    narrow = measures.coverage(real, normal(400, 6, 1) * 0.05)  # a model that only makes the typical
    assert narrow.precision > 0.99
    assert narrow.recall < 0.1
    assert narrow.coverage < 0.5


def test_sliced_wasserstein() -> None:
    real, others = chests(64), chests(64, seed=1)
    floor = measures.sliced_wasserstein(real, others)
    assert list(floor) == [32, 16]
    assert max(measures.sliced_wasserstein(real, real).values()) < max(floor.values())
    noise = np.random.default_rng(0).uniform(-1, 1, real.shape).astype(np.float32)
    brighter = others * 0.7 + 0.3
    for bad in (noise, brighter):
        assert np.mean(list(measures.sliced_wasserstein(real, bad).values())) > 5 * np.mean(list(floor.values()))
    with pytest.raises(UsageError, match="one shape"):
        measures.sliced_wasserstein(real, real[:, :, :16])


def test_the_pyramid_has_it_all() -> None:
    """The bands together are the image; a smooth image has nothing in the fine ones."""
    image = chests(2, side=64)
    bands = measures.laplacian_pyramid(image)
    assert [band.shape[2] for band in bands] == [64, 32, 16]
    whole = bands[-1]
    for band in bands[-2::-1]:
        up = np.zeros_like(band)
        up[:, :, ::2, ::2] = whole * 4
        whole = band + measures._blurred(up)
    np.testing.assert_allclose(whole, image, atol=1e-12)
    flat = measures.laplacian_pyramid(np.full((1, 1, 64, 64), 0.5))
    assert np.abs(flat[0][:, :, 8:-8, 8:-8]).max() < 1e-12


def test_similarity_of_pairs() -> None:
    images = chests(20)
    np.testing.assert_allclose(measures.ms_ssim(images, images), 1, atol=1e-9)
    noisy = images + np.random.default_rng(0).normal(0, 0.3, images.shape)
    assert measures.ms_ssim(images, noisy).max() < 0.97
    collapsed = np.repeat(images[:1], 20, axis=0)
    assert measures.diversity(collapsed).mean() > 0.999 > measures.diversity(images).mean()


def test_spectrum() -> None:
    """A wave of 8 cycles has its power at 8; a half of the amplitude is 6 dB less."""
    x = np.arange(64)
    wave = np.cos(2 * np.pi * 8 * x / 64)[None, None, None].repeat(64, axis=2)
    spectrum = measures.radial_spectrum(wave)
    assert spectrum.argmax() == 8
    weaker = measures.radial_spectrum(wave / 2)
    assert spectrum[8] - weaker[8] == pytest.approx(20 * math.log10(2), abs=1e-6)
    assert measures.spectrum_gap(wave, wave) == 0


def test_values_and_tissues() -> None:
    hu = np.array([-1000.0, -951, -950, -700, -500, -100, 0, 40, 149, 150, 199, 200, 1000])
    found = measures.tissue_fractions(hu)
    counts = {name: round(part * hu.size) for name, part in found.items()}
    assert counts == {"air": 2, "lung": 2, "fat": 1, "soft tissue": 3, "bone": 2}
    assert measures.histogram_gap(hu, hu + 25) == pytest.approx(25)


@pytest.mark.parametrize("wrong", [np.zeros((1, 3)), np.zeros(4), np.zeros((5, 2))])
def test_features_that_do_not_fit(wrong: NDArray[np.float64]) -> None:
    for measure in (measures.frechet, measures.kernel_distance, measures.coverage):
        with pytest.raises(UsageError, match="feature vectors"):
            measure(np.zeros((5, 3)), wrong)
