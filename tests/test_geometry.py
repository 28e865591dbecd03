"""Geometry: points, indices and affines, against the standard's formula and nibabel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmark.errors import UsageError
from dcmark.geometry import (
    affine_from_nifti,
    affine_lps,
    affine_of_slices,
    affine_to_lps,
    affine_to_nifti,
    affine_to_ras,
    angle_degrees,
    crop,
    directions,
    flip,
    inverse,
    largest_distance_mm,
    lps_to_ras,
    normal,
    orientation_letters,
    plane_name,
    points_lps,
    points_ras,
    ras_to_lps,
    resize,
    same_grid,
    shear_degrees,
    spacing_mm,
    to_mm,
    to_voxels,
    voxels,
)

AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def turned(seed: int) -> tuple[float, ...]:
    """Image Orientation of a plane turned at random."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return (*matrix[:, 0], *matrix[:, 1])


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    mm = st.floats(0.1, 10)
    return affine_of_slices(
        draw(st.tuples(*[st.floats(-500, 500)] * 3)),
        turned(draw(st.integers(0, 10**6))),
        (draw(mm), draw(mm)),
        draw(mm),
    )


def test_the_affine_is_the_equation_of_the_standard():
    """PS3.3 equation C.7.6.2.1-1: P = S + X * column spacing * column index + Y * row spacing * row index."""
    orientation = np.array(turned(7))
    position, (between_rows, between_columns) = np.array([10.0, -20.0, 30.0]), (0.7, 1.3)
    affine = affine_of_slices(position, orientation, (between_rows, between_columns), 2.5)
    row, column = 11, 5
    expected = position + orientation[:3] * between_columns * column + orientation[3:] * between_rows * row
    assert np.allclose(to_mm(affine, voxels([0, row, column])), expected, atol=1e-10)


def test_slices_are_stacked_along_row_direction_times_column_direction():
    affine = affine_of_slices((0, 0, 0), AXIAL, (1, 1), 2.5)
    assert np.allclose(to_mm(affine, voxels([3, 0, 0])), (0, 0, 7.5))
    assert np.allclose(normal(CORONAL), (0, 1, 0))
    assert np.allclose(normal(SAGITTAL), (-1, 0, 0))


def test_an_oblique_slice_step_makes_a_sheared_affine():
    affine = affine_of_slices((0, 0, 0), AXIAL, (1, 1), (0, 1, np.sqrt(3)))
    assert shear_degrees(affine) == pytest.approx(30)
    assert spacing_mm(affine) == pytest.approx((2, 1, 1))
    assert shear_degrees(affine_of_slices((0, 0, 0), turned(3), (1, 2), 3)) == pytest.approx(0, abs=1e-6)


def test_rounded_cosines_are_made_perpendicular():
    along_row, down_column = directions((0.99699, 0.07589, -0.01559, -0.07469, 0.99494, 0.06722))
    assert along_row @ down_column == pytest.approx(0, abs=1e-15)
    assert np.linalg.norm(along_row) == np.linalg.norm(down_column) == pytest.approx(1)


@pytest.mark.parametrize(
    "orientation",
    [(0, 0, 0, 0, 1, 0), (1, 0, 0, 1, 0, 0), (1, 0, 0, 0, 1), (1, 0, 0, 0, np.nan, 0), (1, 0, 0, 0.1, 1, 0)],
)
def test_directions_that_cannot_be_are_refused(orientation):
    with pytest.raises(UsageError, match="expected"):
        normal(orientation)


@pytest.mark.parametrize("spacing", [(0, 1), (1, -1), (1, np.inf), (1,)])
def test_pixel_spacing_that_cannot_be_is_refused(spacing):
    with pytest.raises(UsageError, match="Pixel Spacing"):
        affine_of_slices((0, 0, 0), AXIAL, spacing, 1)


def test_matrices_and_points_of_the_wrong_kind_are_refused():
    with pytest.raises(UsageError, match="4 x 4"):
        affine_lps(np.eye(3))
    with pytest.raises(UsageError, match="parallel"):
        affine_lps(np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(UsageError, match=r"\(\.\.\., 3\)"):
        points_lps([[1, 2]])
    with pytest.raises(UsageError, match="finite"):
        voxels([np.nan, 0, 0])


@given(affines(), st.integers(0, 2**32 - 1))
def test_mm_and_back_is_where_it_began(affine, seed):
    indices = voxels(np.random.default_rng(seed).uniform(-50, 600, (4, 5, 3)))
    points = to_mm(affine, indices)
    assert points.shape == (4, 5, 3)
    assert np.allclose(to_voxels(affine, points), indices, atol=1e-6)
    assert np.allclose(inverse(affine) @ affine, np.eye(4), atol=1e-9)


@given(affines(), st.integers(0, 2**32 - 1))
def test_lps_and_ras_differ_in_the_sign_of_x_and_y(affine, seed):
    indices = voxels(np.random.default_rng(seed).uniform(0, 100, (7, 3)))
    points = to_mm(affine, indices)
    ras = lps_to_ras(points)
    assert np.array_equal(ras, points * [-1, -1, 1])
    assert np.array_equal(ras_to_lps(points_ras(ras)), points)
    homogeneous = np.concatenate([indices, np.ones((7, 1))], axis=1)
    assert np.allclose((affine_to_ras(affine) @ homogeneous.T)[:3].T, ras)
    assert np.array_equal(affine_to_lps(affine_to_ras(affine)), affine)
    nifti = affine_to_nifti(affine)
    assert np.allclose((nifti @ homogeneous[:, [2, 1, 0, 3]].T)[:3].T, ras)
    assert np.array_equal(affine_from_nifti(nifti), affine)


@given(affines(), st.tuples(*[st.integers(1, 30)] * 3), st.tuples(*[st.integers(-5, 20)] * 3))
def test_crop_and_flip_keep_every_voxel_at_its_place(affine, shape, start):
    cropped = crop(affine, start)
    assert np.allclose(to_mm(cropped, voxels([1, 2, 3])), to_mm(affine, voxels(np.add(start, (1, 2, 3)))))
    for axis in range(3):
        index, mirrored = np.array([0.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.0])
        mirrored[axis] = shape[axis] - 1
        flipped = flip(affine, shape, axis)
        assert np.allclose(to_mm(flipped, voxels(index)), to_mm(affine, voxels(mirrored)))
        assert np.allclose(flip(flipped, shape, axis), affine, atol=1e-9)


@given(affines(), st.tuples(*[st.integers(1, 64)] * 3), st.tuples(*[st.integers(1, 64)] * 3))
def test_resize_keeps_the_edges(affine, shape, new_shape):
    resized = resize(affine, shape, new_shape)
    for end_old, end_new in ((np.full(3, -0.5), np.full(3, -0.5)), (np.array(shape) - 0.5, np.array(new_shape) - 0.5)):
        assert np.allclose(to_mm(affine, voxels(end_old)), to_mm(resized, voxels(end_new)), atol=1e-6)
    assert same_grid(resize(resized, new_shape, shape), affine, shape, 1e-6)
    with pytest.raises(UsageError, match="positive"):
        resize(affine, shape, (0, 1, 1))


def test_orientation_letters_are_those_of_nibabel():
    nibabel = pytest.importorskip("nibabel")
    assert orientation_letters(affine_of_slices((0, 0, 0), AXIAL, (1, 1), 1)) == "SPL"
    assert orientation_letters(affine_of_slices((0, 0, 0), SAGITTAL, (1, 1), 1)) == "RIP"
    for seed in range(50):
        affine = affine_of_slices((1, 2, 3), turned(seed), (0.5, 2), 5)
        assert tuple(orientation_letters(affine)) == nibabel.aff2axcodes(affine_to_ras(affine))


def test_planes_have_their_names():
    assert [plane_name(cosines) for cosines in (AXIAL, CORONAL, SAGITTAL)] == ["axial", "coronal", "sagittal"]
    lean = np.deg2rad(20)
    assert plane_name((1, 0, 0, 0, np.cos(lean), np.sin(lean))) == "oblique"
    assert plane_name((1, 0, 0, 0, np.cos(lean), np.sin(lean)), within_degrees=25) == "axial"


def test_small_angles_are_exact():
    assert angle_degrees((1, 0, 0), (1, 1e-9, 0)) == pytest.approx(np.rad2deg(1e-9))
    assert angle_degrees((1, 0, 0), (-2, 0, 0)) == pytest.approx(180)


def test_the_largest_distance_of_two_grids_lies_in_a_corner():
    affine = affine_of_slices((0, 0, 0), AXIAL, (1, 1), 1)
    wider = affine_of_slices((0, 0, 0), AXIAL, (1, 1.01), 1)
    assert largest_distance_mm(affine, wider, (10, 10, 101)) == pytest.approx(1.0)
    assert same_grid(affine, wider, (10, 10, 2), tolerance_mm=0.02)
    assert not same_grid(affine, wider, (10, 10, 101))
