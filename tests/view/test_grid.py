"""Sampling: means that are means, ways back that lead back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmark.view.grid import Grid, Turn, standard_turn

turns = st.builds(Turn, st.booleans(), st.booleans(), st.booleans())
sides = st.integers(1, 17)


@given(turns, sides, sides, st.floats(-9, 9), st.floats(-9, 9), st.floats(0.3, 5), st.floats(0.3, 5), sides, sides)
def test_a_plane_stays_a_plane_where_the_image_lies_inside(turn, rows, columns, y, x, dy, dx, height, width):
    """Sampling a linear ramp gives the ramp at the centres of the pixels, by the grid's own matrix."""
    grid = Grid((rows, columns), (height, width), (y, x), (dy, dx), turn)
    down, across = np.mgrid[:rows, :columns].astype(np.float32)
    matrix = grid.to_frame()
    at = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))])
    place = np.einsum("ij,jrc->irc", matrix, at)
    for values, expected in ((across, place[0]), (down, place[1])):
        image = grid.sample(values)
        assert image.shape == (height, width)
        # Away from the borders, where means are cut and interpolation ends.
        reach = [max(step, 1) / 2 for step in (dx, dy)]
        if turn.transpose:
            reach.reverse()
        deep = (place[0] >= reach[0]) & (place[0] <= columns - 1 - reach[0])
        deep &= (place[1] >= reach[1]) & (place[1] <= rows - 1 - reach[1])
        # A mean over pixels that are cut counts them as flat: up to an eighth of a pixel at each edge.
        whole = all(float(one).is_integer() for one in (y, x, dy, dx)) or max(dy, dx) < 1
        np.testing.assert_allclose(image[deep], expected[deep], atol=1e-3 if whole else 0.26)
        outside = (place[0] < -1 - reach[0]) | (place[0] > columns + reach[0])
        assert np.isnan(image[outside]).all()


@given(turns, sides, sides, st.integers(1, 3))
def test_classes_come_back_exactly_from_an_image_that_was_not_shrunk(turn, rows, columns, factor):
    """nearest and back are inverse where every pixel of the frame has one of its own."""
    frame = np.random.default_rng(rows * 31 + columns).integers(0, 5, (rows, columns))
    shape = turn.shape((rows, columns))
    grid = Grid((rows, columns), (shape[0] * factor, shape[1] * factor), (0, 0), (1 / factor, 1 / factor), turn)
    assert np.array_equal(grid.back(grid.nearest(frame)), frame)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 40), st.integers(1, 40))
def test_the_mean_of_an_image_is_the_mean_of_the_frame(rows, columns, height, width):
    """Box filters keep the integral, whatever the sizes."""
    height, width = min(height, rows), min(width, columns)
    frame = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    image = Grid((rows, columns), (height, width), (0, 0), (rows / height, columns / width)).sample(frame)
    assert image.mean() == pytest.approx(frame.mean(), abs=1e-5)


def test_pixels_without_a_value_have_no_weight():
    frame = np.array([[np.nan, 4.0, 1.0, 1.0], [2.0, 6.0, np.nan, np.nan]], np.float32)
    for start in ((0.0, 0.0), (0.0, 1e-9)):  # the quick way and the general one
        image = Grid((2, 4), (1, 2), start, (2.0, 2.0)).sample(frame)
        np.testing.assert_allclose(image, [[3.5, 1.0]], rtol=1e-4)
    whole = np.full((2, 2), np.nan, np.float32)
    assert np.isnan(Grid((2, 2), (1, 1), (0, 0), (2, 2)).sample(whole)).all()


@pytest.mark.parametrize(
    ("across", "down", "turn"),
    [
        ((1, 0, 0), (0, 1, 0), Turn()),
        ((-1, 0, 0), (0, 1, 0), Turn(flip_columns=True)),
        ((0, 1, 0), (1, 0, 0), Turn(transpose=True)),
        ((0, 1, 0), (0, 0, -1), Turn()),
        ((0, 0, 1), (0, 1, 0), Turn(transpose=True, flip_rows=True)),
        ((1, 0, 0), (0, 0, 1), Turn(flip_rows=True)),
    ],
)
def test_the_standard_turn_of_each_plane(across, down, turn):
    assert standard_turn(np.array(across, float), np.array(down, float)) == turn
