"""Uneven and tilted volumes on an even grid."""

from __future__ import annotations

import numpy as np
import pytest

from dcmark.errors import LimitError, UsageError
from dcmark.geometry import shear_degrees, to_mm, voxels
from dcmark.read.volumes import regular_grid, resample
from volume_series import AXIAL, changing, only, series, tilted, wandering


def linear_field(points: np.ndarray) -> np.ndarray:
    """A quantity that grows evenly in space: linear interpolation must give it back exactly."""
    return points @ [0.3, -0.2, 0.5] + 7


def sampled(volume) -> np.ndarray:
    """The field at every voxel, by the positions the files state and not by the affine."""
    r, c = np.mgrid[: volume.shape[1], : volume.shape[2]]
    inside = r[..., None] * volume.affine[:3, 1] + c[..., None] * volume.affine[:3, 2]
    return linear_field(volume.positions[:, None, None, :] + inside)


@pytest.mark.parametrize(
    "awkward",
    [lambda rows: rows[:7] + rows[9:], tilted, wandering, changing, lambda rows: tilted(rows)[:5] + tilted(rows)[8:]],
    ids=["gap", "tilt", "wander", "uneven", "tilt-and-gap"],
)
def test_resampling_gives_back_a_linear_field(awkward):
    volume = only(awkward(series(image_orientation_patient=AXIAL, rows=24, columns=20)))
    array, affine, finding = resample(sampled(volume), volume)
    assert finding.code == "resampled"
    assert shear_degrees(affine) == pytest.approx(0, abs=1e-6)
    grid = regular_grid(volume)
    assert array.shape == grid.shape
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), axis=-1).astype(float)
    expected = linear_field(to_mm(affine, voxels(index)))
    inside = np.isfinite(array)
    assert inside.mean() > 0.5
    assert np.allclose(array[inside], expected[inside], atol=1e-6)
    assert inside.all() or finding.message.count("moved")


def test_slices_that_stand_on_the_grid_are_copied_unchanged():
    rows = series()
    volume = only(rows[:7] + rows[9:])
    array = np.random.default_rng(0).integers(-1000, 3000, volume.shape).astype(np.int16)
    result, affine, finding = resample(array, volume)
    assert result.dtype == np.float32
    assert result.shape == (20, 64, 48)
    present = [i for i in range(20) if i not in volume.missing]
    assert np.array_equal(result[present], array)
    assert np.allclose(result[7], array[6] * (2 / 3) + array[7] * (1 / 3), atol=1e-3)
    assert "18 slices became 20 at 2 mm" in finding.message
    assert "2 of them linear" in finding.message
    assert np.allclose(affine, only(rows).affine)


def test_labels_are_resampled_without_new_values_and_without_a_new_type():
    volume = only(tilted(series(rows=24, columns=20)))
    labels = np.random.default_rng(1).choice(np.array([0, 3, 200], np.uint8), volume.shape)
    result, _, _ = resample(labels, volume, interpolation="nearest")
    assert result.dtype == np.uint8
    assert set(np.unique(result)) <= {0, 3, 200}
    assert np.count_nonzero(result) == np.count_nonzero(labels)


def test_missing_labels_are_those_of_the_nearer_slice():
    rows = series()
    volume = only(rows[:7] + rows[9:])
    labels = np.arange(18, dtype=np.uint8)[:, None, None] * np.ones(volume.shape[1:], np.uint8)
    result, _, _ = resample(labels, volume, interpolation="nearest")
    assert result[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 7, *range(7, 18)]


def test_colour_slices_are_resampled_too():
    volume = only(tilted(series(rows=24, columns=20)))
    grey = sampled(volume)
    result, _, _ = resample(np.stack([grey, 2 * grey, -grey], axis=-1), volume)
    one, _, _ = resample(grey, volume)
    assert np.allclose(result[..., 1], 2 * one, equal_nan=True)


def test_a_regular_volume_is_left_alone():
    volume = only(series())
    array = np.zeros(volume.shape, np.int16)
    result, affine, finding = resample(array, volume)
    assert result is array
    assert affine is volume.affine
    assert finding.code == "already-regular"


def test_resampling_refuses_what_it_cannot_do():
    rows = series(500)
    volume = only(rows[:3] + rows[-3:])
    with pytest.raises(LimitError, match="times the voxels"):
        resample(np.zeros(volume.shape, np.int16), volume)
    with pytest.raises(UsageError, match="shape"):
        resample(np.zeros((3, 4, 5)), volume)
