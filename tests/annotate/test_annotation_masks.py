"""Masks, contours and the way between them, with oracles that know nothing of each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dcmark.annotate import masks, raster
from dcmark.errors import DamageError, UsageError
from dcmark.read.volume_model import FrameId

FRAME = FrameId("ab" * 32, 0)
planes = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


@given(planes)
def test_a_plane_gives_its_pixels_back(mask):
    plane = masks.make_plane(FRAME, mask)
    if plane is None:
        assert not mask.any()
    else:
        assert np.array_equal(plane.array(), mask)
        assert plane.box().any(axis=1)[[0, -1]].all()
        assert plane.box().any(axis=0)[[0, -1]].all()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(0, 200)))
def test_a_fractional_plane_gives_its_values_back(values):
    plane = masks.make_plane(FRAME, values, 200)
    if plane is not None:
        assert np.array_equal(plane.array(), values)
        assert np.array_equal(plane.binary(), values >= 100)


def test_a_damaged_plane_is_told():
    packed = masks.pack(np.ones((9, 9), bool), 1)
    for bad in (b"", packed[:-3], b"\x00" * 20, masks.pack(np.ones((90, 90), bool), 1)):
        with pytest.raises(DamageError):
            masks.unpack(bad, 9, 9, 1)
    with pytest.raises(DamageError):
        masks.unpack(packed, 1 << 20, 1 << 20, 1)
    with pytest.raises(UsageError):
        masks.make_plane(FRAME, np.full((2, 2), 9), 5)


@given(planes, st.sampled_from([0.0, 0.01, 0.2, 0.49]))
def test_the_outline_of_a_mask_filled_is_the_mask(mask, inset):
    assert np.array_equal(raster.fill(raster.outline(mask, inset), *mask.shape), mask)


def _inside(row: float, column: float, polygon: np.ndarray) -> bool:
    """Even-odd by a ray, edge by edge."""
    odd = False
    for (a, b), (c, d) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (a > row) != (c > row) and column < b + (row - a) * (d - b) / (c - a):
            odd = not odd
    return odd


def _distance(row: float, column: float, polygon: np.ndarray) -> float:
    start, end = polygon, np.roll(polygon, -1, axis=0)
    way, to = end - start, np.array([row, column]) - start
    length = (way**2).sum(axis=1)
    part = np.clip((to * way).sum(axis=1) / np.where(length > 0, length, 1), 0, 1)
    return float(np.linalg.norm(to - part[:, None] * way, axis=1).min())


@settings(max_examples=60)
@given(hnp.arrays(np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(-3, 15, width=32)))
def test_filling_agrees_with_a_ray_cast_from_every_centre(polygon):
    found = raster.fill([polygon], 12, 11)
    for row in range(12):
        for column in range(11):
            near = _distance(row, column, polygon)
            if near > 2 * raster.ON_CONTOUR:
                assert found[row, column] == _inside(row, column, polygon)
            elif near < raster.ON_CONTOUR / 4:
                assert found[row, column], "a centre on the contour belongs to the region"


def test_contours_through_the_centres_of_pixels_give_the_same_pixels():
    """As OpenCV draws them: the outer contour and that of the hole run through marked pixels."""
    outer = [(2, 2), (2, 9), (9, 9), (9, 2)]
    hole = [(4, 4), (4, 7), (7, 7), (7, 4)]
    expected = np.zeros((12, 12), bool)
    expected[2:10, 2:10] = True
    expected[5:7, 5:7] = False
    noise = np.random.default_rng(0).uniform(-1e-4, 1e-4, (8, 2))
    drawn = [np.array(outer) + noise[:4], np.array(hole) + noise[4:]]
    assert np.array_equal(raster.fill(drawn, 12, 12), expected)


def test_one_and_two_point_contours_mark_the_pixels_they_touch():
    assert np.argwhere(raster.fill([[(3, 4)]], 8, 8)).tolist() == [[3, 4]]
    assert np.argwhere(raster.fill([[(3, 4), (3, 6)]], 8, 8)).tolist() == [[3, 4], [3, 5], [3, 6]]


def test_a_contour_far_outside_costs_nothing():
    huge = [(-1e9, -1e9), (-1e9, 1e9), (1e9, 1e9), (1e9, -1e9)]
    assert raster.fill([huge], 5, 6).all()
    assert not raster.fill([[(1e8, 1e8), (1e8, 1e9), (1e9, 1e9)]], 5, 6).any()


def test_rounding_an_inset_outline_gives_pixels_of_the_mask():
    """Programs that round contours to whole pixels and fill with their border find the same pixels."""
    mask = np.zeros((20, 20), bool)
    mask[3:15, 4:11] = True
    mask[7:9, 6:8] = False
    mask[15, 11] = True
    for points in raster.outline(mask, raster.INSET):
        row, column = np.rint(np.array(points)).astype(int).T
        assert mask[row, column].all()
