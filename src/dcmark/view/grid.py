"""Where the pixels of an image lie in the frame it is made from, and the sampling between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Turn:
    """How a frame is turned before it is sampled: transposed, then rows and columns reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, values: Array) -> Array:
        """A turned look at (rows, columns, ...); nothing is copied."""
        if self.transpose:
            values = np.swapaxes(values, 0, 1)
        return values[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def shape(self, frame: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the turned frame."""
        return (frame[1], frame[0]) if self.transpose else frame

    def to_stored(self, frame: tuple[int, int]) -> Floats:
        """3 x 3: (column, row, 1) of the turned frame to (column, row, 1) of the frame as stored."""
        rows, columns = self.shape(frame)
        flip = np.eye(3)
        if self.flip_columns:
            flip[0] = (-1, 0, columns - 1)
        if self.flip_rows:
            flip[1] = (0, -1, rows - 1)
        swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]]) if self.transpose else np.eye(3)
        back: Floats = swap @ flip
        return back


def standard_turn(across: Floats, down: Floats) -> Turn:
    """The turn that shows a slice as pictures are looked at.

    Columns run to the patient's left, in sagittal slices to the back; rows to the back, in coronal and sagittal slices
    to the feet. Oblique slices go by their nearest plane.

    Args:
        across, down: directions of rising column and row, LPS.
    """
    normal = np.abs(np.cross(across, down))
    plane = int(np.argmax(normal))
    wanted_across = np.eye(3)[1] if plane == 0 else np.eye(3)[0]
    wanted_down = np.eye(3)[1] if plane == 2 else -np.eye(3)[2]
    transpose = abs(float(across @ wanted_across)) < abs(float(down @ wanted_across))
    if transpose:
        across, down = down, across
    return Turn(transpose, float(down @ wanted_down) < 0, float(across @ wanted_across) < 0)


@dataclass(frozen=True, slots=True)
class Grid:
    """The pixels of an image on those of a turned frame.

    Attributes:
        frame: (rows, columns) of the frame as stored.
        image: (rows, columns) of the image.
        start: (row, column) of the upper left corner of the image on the turned frame; pixel 0 covers 0 to 1.
        step: (rows, columns) of the turned frame that a pixel of the image covers.
        turn: of the frame.
    """

    frame: tuple[int, int]
    image: tuple[int, int]
    start: tuple[float, float]
    step: tuple[float, float]
    turn: Turn = Turn()

    def to_frame(self) -> Floats:
        """3 x 3: (column, row, 1) of a pixel's centre in the image to (column, row, 1) in the frame as stored.

        Centres of pixels are whole numbers, from 0, in both (as in PS3.3 C.7.6.2.1.1).
        """
        turned = np.array(
            [
                [self.step[1], 0, self.start[1] + self.step[1] / 2 - 0.5],
                [0, self.step[0], self.start[0] + self.step[0] / 2 - 0.5],
                [0, 0, 1.0],
            ]
        )
        whole: Floats = self.turn.to_stored(self.frame) @ turned
        return whole

    def sample(self, values: Array) -> NDArray[np.float32]:
        """The image of a frame: every pixel is the mean over the area it covers; where pixels are made smaller than
        those of the frame, values between their centres are interpolated linearly.

        Args:
            values: (rows, columns) or (rows, columns, samples) as stored; NaN has no weight.

        Returns:
            float32; NaN where a pixel covers nothing that has a value.
        """
        turned = self.turn.apply(values)
        for axis in (0, 1):
            turned = _along(turned, axis, self.start[axis], self.step[axis], self.image[axis])
        return np.ascontiguousarray(turned, np.float32)

    def nearest(self, values: Array, outside: Any = 0) -> Array:
        """The image of a frame of classes: every pixel takes the value of the frame's pixel under its centre."""
        turned = self.turn.apply(values)
        places = [_centres(self.start[axis], self.step[axis], self.image[axis]) for axis in (0, 1)]
        inside = [(place >= 0) & (place < turned.shape[axis]) for axis, place in enumerate(places)]
        kept = [np.clip(place, 0, turned.shape[axis] - 1) for axis, place in enumerate(places)]
        image: Array = turned[np.ix_(*kept)].copy()
        image[~inside[0]] = outside
        image[:, ~inside[1]] = outside
        return image

    def back(self, image: Array, outside: Any = 0) -> Array:
        """An image of classes back on the frame as stored: every pixel of the frame takes the image's pixel over it.

        Pixels of the frame that the image does not cover get ``outside``.
        """
        rows, columns = self.turn.shape(self.frame)
        turned = np.full((rows, columns, *image.shape[2:]), outside, image.dtype)
        at = []
        for axis, length in ((0, rows), (1, columns)):
            place = np.floor((np.arange(length) + 0.5 - self.start[axis]) / self.step[axis]).astype(np.int64)
            at.append((np.flatnonzero((place >= 0) & (place < self.image[axis])), place))
        (good_rows, row_at), (good_columns, column_at) = at
        turned[np.ix_(good_rows, good_columns)] = image[np.ix_(row_at[good_rows], column_at[good_columns])]
        unflipped = turned[:: -1 if self.turn.flip_rows else 1, :: -1 if self.turn.flip_columns else 1]
        return np.ascontiguousarray(np.swapaxes(unflipped, 0, 1) if self.turn.transpose else unflipped)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the side file."""
        turn = [self.turn.transpose, self.turn.flip_rows, self.turn.flip_columns]
        return {
            "frame": list(self.frame),
            "image": list(self.image),
            "start": list(self.start),
            "step": list(self.step),
            "turn": turn,
        }


def _centres(start: float, step: float, count: int) -> NDArray[np.int64]:
    places: NDArray[np.int64] = np.floor(start + (np.arange(count) + 0.5) * step).astype(np.int64)
    return places


def _along(values: Array, axis: int, start: float, step: float, count: int) -> Array:
    """Sample one axis."""
    length = values.shape[axis]
    if start == 0 and step == 1 and count == length:
        return values
    values = np.moveaxis(values, axis, 0)
    whole = step == int(step) and start == int(start)
    if whole and start >= 0 and start + count * step <= length:
        first, factor = int(start), int(step)
        made: Array = values[first : first + count * factor : factor]
        if factor > 1:
            # A mean of floats with NaN in it is NaN: such areas are done again below.
            made = made.astype(np.float32)
            for offset in range(1, factor):
                made += values[first + offset : first + count * factor : factor].astype(np.float32, copy=False)
            made *= np.float32(1 / factor)
            if np.isnan(made).any():
                made = _area(values, start, step, count)
    elif step < 1:
        made = _between(values, start, step, count)
    else:
        made = _area(values, start, step, count)
    return np.moveaxis(made, 0, axis)


def _area(values: Array, start: float, step: float, count: int) -> NDArray[np.float32]:
    """Means over areas of the first axis, weighted by how much of each pixel they cover; NaN and outside weigh none."""
    good = np.isfinite(values) if values.dtype.kind == "f" else None
    if good is not None and good.all():
        good = None
    length = values.shape[0]
    edges = np.clip(start + np.arange(count + 1) * step, 0, length)
    weights = np.diff(edges).reshape(-1, *(1,) * (values.ndim - 1))
    sums = _integral(values if good is None else np.where(good, values, 0), edges)
    if good is not None:
        weights = _integral(good.astype(np.float32), edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(weights > 1e-6 * step, sums / weights, np.nan)
    return mean.astype(np.float32)


def _integral(values: Array, edges: Floats) -> Floats:
    """Integrals of the first axis between edges, each pixel a step function."""
    length = values.shape[0]
    whole = np.minimum(edges.astype(np.int64), length)
    share = (edges - whole).reshape(-1, *(1,) * (values.ndim - 1))
    sums = np.zeros((length + 1, *values.shape[1:]))
    np.cumsum(values, axis=0, dtype=np.float64, out=sums[1:])
    found: Floats = np.diff(sums[whole] + values[np.minimum(whole, length - 1)] * share, axis=0)
    return found


def _between(values: Array, start: float, step: float, count: int) -> NDArray[np.float32]:
    """Linear interpolation between centres of the first axis; up to its outer edges the last pixel holds."""
    length = values.shape[0]
    place = start + (np.arange(count) + 0.5) * step
    inside = (place >= 0) & (place <= length)
    centre = np.clip(place - 0.5, 0, length - 1)
    low = np.minimum(centre.astype(np.int64), max(length - 2, 0))
    high = np.minimum(low + 1, length - 1)
    share = (centre - low).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
    below, above = values[low].astype(np.float32), values[high].astype(np.float32)
    if np.isnan(below).any() or np.isnan(above).any():
        # The nearer one counts where the other has no value.
        near = np.where(share < 0.5, below, above)
        below, above = np.where(np.isnan(below), above, below), np.where(np.isnan(above), below, above)
        made = np.where(np.isnan(near), np.nan, below + (above - below) * share)
    else:
        made = below + (above - below) * share
    made[~inside] = np.nan
    return made.astype(np.float32)
