"""Making frames smaller or larger by area averaging, and keeping the way back to their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError

Array = NDArray[Any]
Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]

LARGEST_SIZE = 16384
"""Largest side of an exported image, pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies in the image made from it.

    Attributes:
        frame: (rows, columns) of the frame.
        image: (rows, columns) of the image.
        box: (rows, columns) that the whole frame covers in the image; the rest is background.
        corner: (row, column) of the first pixel of ``box`` in the image.
    """

    frame: tuple[int, int]
    image: tuple[int, int]
    box: tuple[int, int]
    corner: tuple[int, int] = (0, 0)

    @property
    def identity(self) -> bool:
        """Is the image the frame, pixel by pixel?"""
        return self.frame == self.image == self.box

    @property
    def padded(self) -> bool:
        """Is there background around the frame?"""
        return self.box != self.image

    def to_original(self) -> Matrix:
        """The affine that takes (column, row, 1) of an image pixel's centre to (column, row) in the frame.

        Centres of pixels are whole numbers, from 0, in both (as in PS3.3 C.7.6.2.1.1).
        """
        down = self.frame[0] / self.box[0]
        across = self.frame[1] / self.box[1]
        return (
            (across, 0.0, (0.5 - self.corner[1]) * across - 0.5),
            (0.0, down, (0.5 - self.corner[0]) * down - 0.5),
        )


def placed(shape: tuple[int, ...], size: int | None) -> Placement:
    """How a frame goes into a square image: whole, its aspect kept, in the middle.

    Args:
        shape: of the frame; rows and columns come first.
        size: side of the image in pixels; None leaves the frame as it is.

    Raises:
        UsageError: the size is not from 1 to 16,384.
    """
    frame = (shape[0], shape[1])
    if size is None:
        return Placement(frame, frame, frame)
    if not 1 <= size <= LARGEST_SIZE:
        raise UsageError(f"expected a size from 1 to {LARGEST_SIZE} pixels, found {size}")
    longer = max(frame)
    rows, columns = (max(1, (side * size * 2 + longer) // (2 * longer)) for side in frame)
    corner = ((size - rows) // 2, (size - columns) // 2)
    return Placement(frame, (size, size), (rows, columns), corner)


def resized(values: Array, placement: Placement, background: float = 0.0) -> Array:
    """The image of a frame: each pixel the mean over the area of the frame that it covers.

    Whole numbers are rounded to the nearest, halves to the nearest even one. An area that holds a
    value that is not finite becomes NaN.

    Args:
        values: (rows, columns) or (rows, columns, samples), of ``placement.frame``.
        placement: where the frame lies in the image.
        background: value of the pixels around it.

    Returns:
        (rows, columns) or (rows, columns, samples) of ``placement.image``, of the type of ``values``.
    """
    if placement.identity:
        return values
    mean = area_mean(values, placement.box)
    if values.dtype.kind in "iu":
        mean = np.rint(mean)
    if not placement.padded:
        return mean.astype(values.dtype)
    image = np.full((*placement.image, *values.shape[2:]), background, values.dtype)
    (top, left), (rows, columns) = placement.corner, placement.box
    image[top : top + rows, left : left + columns] = mean
    return image


def area_mean(values: Array, box: tuple[int, int]) -> NDArray[np.float64]:
    """The exact box filter: means over the areas that ``box`` equal rows and columns cover.

    Args:
        values: (rows, columns, ...).
        box: (rows, columns) to come.

    Returns:
        float64 of (box rows, box columns, ...); NaN where a value below was not finite.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = ~np.isfinite(values)
        mean = area_mean(np.where(bad, 0, values), box)
        mean[area_mean(bad.astype(np.uint8), box) > 0] = np.nan
        return mean
    first = _along_rows(values, box[0])
    across = _along_rows(np.swapaxes(first, 0, 1), box[1])
    return np.ascontiguousarray(np.swapaxes(across, 0, 1))


def _along_rows(values: Array, size: int) -> NDArray[np.float64]:
    """Means over ``size`` equal parts of the first axis."""
    length = values.shape[0]
    if size == length:
        return values.astype(np.float64, copy=False)
    if length % size == 0:
        parts = values.reshape(size, length // size, *values.shape[1:])
        whole_mean: NDArray[np.float64] = parts.mean(axis=1, dtype=np.float64)
        return whole_mean
    # Sums up to each edge, the share of the pixel that an edge cuts through included; then differences.
    steps = np.arange(size + 1, dtype=np.int64) * length
    whole, share = steps // size, (steps % size) / size
    sums = np.zeros((length + 1, *values.shape[1:]))
    np.cumsum(values, axis=0, dtype=np.float64, out=sums[1:])
    cut = values[np.minimum(whole, length - 1)] * share.reshape(-1, *(1,) * (values.ndim - 1))
    mean: NDArray[np.float64] = np.diff(sums[whole] + cut, axis=0) * (size / length)
    return mean
