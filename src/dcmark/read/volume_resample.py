"""Volumes made even, when asked: gaps filled, tilt sheared back, and mosaics cut into slices. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import LimitError, UsageError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, affine_lps
from dcmark.read.volume_model import Volume

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RegularGrid:
    """An even grid under a volume, and where its slices come from.

    Attributes:
        affine: 4 x 4, (slice, row, column, 1) to mm in LPS; square: slices along their normal.
        shape: (slices, rows, columns) of the result; rows and columns grow where slices are shifted in plane.
        below, above: (slices,) numbers of the source slices on either side; equal where one is enough.
        weight: (slices,) weight of ``above``; ``below`` has the rest.
        shift: (source slices, 2): rows and columns, in pixels, that a source slice is moved by.
    """

    affine: AffineLps
    shape: tuple[int, int, int]
    below: NDArray[np.int64]
    above: NDArray[np.int64]
    weight: Floats
    shift: Floats

    @property
    def interpolated(self) -> int:
        """Slices mixed from two sources."""
        return int(np.count_nonzero((self.weight > 0) & (self.weight < 1)))


def regular_grid(volume: Volume, largest_growth: float = 8.0) -> RegularGrid:
    """The even grid that ``resample`` fills: same pixels, one distance between slices, along their normal.

    Where slices are missing, all that are there keep their place and pixels. Where the spacing changes, the
    median distance is fitted to the extent, so the first and last slice stay. Where slices are shifted in their
    plane, rows and columns are added so that nothing is cut off.

    Args:
        volume: of any grid but ``none``.
        largest_growth: largest ratio of voxels after to voxels before.

    Raises:
        UsageError: the volume has no grid.
        LimitError: the grid would grow beyond ``largest_growth``: positions are wrong, or far apart.
    """
    if volume.affine is None or volume.positions is None or volume.spacing is None:
        raise UsageError("expected a volume whose frames have a place, found grid 'none'; it cannot be resampled")
    row_step, column_step = volume.affine[:3, 1], volume.affine[:3, 2]
    down, right = row_step / np.linalg.norm(row_step), column_step / np.linalg.norm(column_step)
    plane_normal = np.cross(right, down)
    if volume.affine[:3, 0] @ plane_normal < 0:
        plane_normal = -plane_normal
    along = volume.positions @ plane_normal
    places, step = _places(volume, along)
    inside = np.stack([volume.positions @ down, volume.positions @ right], axis=1)
    shift = (inside - inside.min(axis=0)) / np.array([volume.spacing[1], volume.spacing[2]])
    shift[np.abs(shift - np.rint(shift)) < 1e-3] = np.rint(shift[np.abs(shift - np.rint(shift)) < 1e-3])
    extra = np.ceil(shift.max(axis=0))
    count = round(float(places[-1])) + 1
    before = float(np.prod(np.array(volume.shape, dtype=np.float64)))
    after = count * (volume.shape[1] + float(extra[0])) * (volume.shape[2] + float(extra[1]))
    if after > largest_growth * before:
        raise LimitError(
            f"an even grid would hold {after / before:.1f} times the voxels of the volume, allowed are "
            f"{largest_growth:g} times; look at its positions, or allow more with largest_growth"
        )
    matrix = np.eye(4)
    matrix[:3, 0] = plane_normal * step
    matrix[:3, 1], matrix[:3, 2] = row_step, column_step
    lowest = inside.min(axis=0)
    matrix[:3, 3] = plane_normal * along[0] + down * lowest[0] + right * lowest[1]
    targets = np.arange(count, dtype=np.float64)
    above = np.clip(np.searchsorted(places, targets - 1e-6), 0, len(places) - 1)
    below = np.where(np.abs(places[above] - targets) < 1e-6, above, np.maximum(above - 1, 0))
    width = places[above] - places[below]
    weight = np.where(width > 0, (targets - places[below]) / np.where(width > 0, width, 1.0), 0.0)
    shape = (count, volume.shape[1] + int(extra[0]), volume.shape[2] + int(extra[1]))
    return RegularGrid(affine_lps(matrix), shape, below, above, np.clip(weight, 0.0, 1.0), shift)


def _places(volume: Volume, along: Floats) -> tuple[Floats, float]:
    """Where each slice stands on the new slice axis (ascending from 0), and its step in mm."""
    if len(along) == 1 or volume.spacing is None:
        return np.zeros(1), volume.spacing[0] if volume.spacing else 1.0
    index = volume.slice_index - volume.slice_index[0]
    whole = np.rint(index)
    extent = float(along[-1] - along[0])
    if np.abs(index - whole).max() < 1e-9:
        return whole, extent / float(whole[-1])
    count = max(1, round(extent / volume.spacing[0]))
    return (along - along[0]) / (extent / count), extent / count


def resample(
    array: NDArray[Any],
    volume: Volume,
    *,
    fill: float = float("nan"),
    interpolation: Literal["linear", "nearest"] = "linear",
    largest_growth: float = 8.0,
) -> tuple[NDArray[Any], AffineLps, Finding]:
    """An uneven, gapped or tilted volume on an even grid.

    Slices are mixed linearly along the normal and shifted in their plane by a linear mix of pixels; whole
    shifts and slices that stand on the grid are copied unchanged. A regular volume comes back as it is. One
    slice is worked on at a time.

    Args:
        array: (slices, rows, columns) or (slices, rows, columns, samples), in the order of ``volume.frames``.
        volume: what the array holds.
        fill: value outside the shifted slices; NaN says "not imaged", air in CT is -1000.
        interpolation: ``nearest`` for masks and labels; keeps the type of the array. ``linear`` gives float32
            (float64 for float64).
        largest_growth: see ``regular_grid``.

    Returns:
        The new array, its affine (LPS, mm), and a finding that says what was done.

    Raises:
        UsageError: the array is not of the volume's shape; the volume has no grid.
        LimitError: see ``regular_grid``.
    """
    if array.ndim not in (3, 4) or tuple(array.shape[:3]) != volume.shape:
        raise UsageError(f"expected an array of shape {volume.shape}, found {tuple(array.shape)}")
    grid = regular_grid(volume, largest_growth)
    if volume.grid in ("regular", "single") and volume.affine is not None:
        return array, volume.affine, Finding("info", "already-regular", "the grid is even already", "left as it is")
    if interpolation == "nearest":
        kind: Any = array.dtype
        if not np.isfinite(fill):
            fill = 0.0 if kind.kind in "biu" else fill
    else:
        kind = np.float64 if array.dtype == np.float64 else np.float32
    result = np.empty((*grid.shape, *array.shape[3:]), dtype=kind)
    for k in range(grid.shape[0]):
        below, above, weight = int(grid.below[k]), int(grid.above[k]), float(grid.weight[k])
        if interpolation == "nearest":
            below, weight = (above, 0.0) if weight > 0.5 else (below, 0.0)
        one = _shifted(array[below], grid.shift[below], grid.shape[1:], kind, fill, interpolation)
        if weight > 0:
            two = _shifted(array[above], grid.shift[above], grid.shape[1:], kind, fill, interpolation)
            one = (1 - weight) * one + weight * two
        result[k] = one
    return result, grid.affine, _what_was_done(volume, grid, interpolation)


def _what_was_done(volume: Volume, grid: RegularGrid, interpolation: str) -> Finding:
    step = float(np.linalg.norm(grid.affine[:3, 0]))
    moved = float((grid.shift.max(axis=0) * np.array(volume.spacing[1:] if volume.spacing else (0, 0))).max())
    parts = [f"{volume.shape[0]} slices became {grid.shape[0]} at {step:.4g} mm along the normal"]
    if grid.interpolated:
        parts.append(f"{grid.interpolated} of them {interpolation} between neighbours")
    if moved > 0:
        parts.append(f"slices moved in their plane by up to {moved:.1f} mm, {interpolation}")
    return Finding("info", "resampled", "; ".join(parts), "values between slices are made up, not measured")


def _shifted(
    picture: NDArray[Any], shift: Floats, size: tuple[int, ...], kind: Any, fill: float, interpolation: str
) -> NDArray[Any]:
    """A slice moved by (rows, columns) pixels into a larger frame."""
    if interpolation == "nearest":
        shift = np.rint(shift)
    moved = picture.astype(kind, copy=False)
    whole = np.floor(shift).astype(np.int64)
    for axis in (0, 1):
        part = float(shift[axis] - whole[axis])
        if part > 0:
            moved = _between(moved, part, axis, fill)
    frame = np.full((*size, *picture.shape[2:]), fill, dtype=kind)
    rows, columns = moved.shape[0], moved.shape[1]
    frame[whole[0] : whole[0] + rows, whole[1] : whole[1] + columns] = moved[: size[0] - whole[0], : size[1] - whole[1]]
    return frame


def _between(picture: NDArray[Any], part: float, axis: int, fill: float) -> NDArray[Any]:
    """Moved by a fraction of a pixel towards higher indices: one longer, both ends outside the picture."""
    edge = np.full_like(np.take(picture, [0], axis), fill)
    inner = (1 - part) * np.delete(picture, 0, axis) + part * np.delete(picture, -1, axis)
    return np.concatenate([edge, inner, edge], axis).astype(picture.dtype, copy=False)


def split_mosaic(picture: NDArray[Any], volume: Volume) -> NDArray[Any]:
    """The slices of a Siemens mosaic: (rows, columns[, samples]) to (slices, rows, columns[, samples]).

    Raises:
        UsageError: the volume is no mosaic, or the picture is smaller than its tiles.
    """
    tiles = volume.tiles
    if tiles is None:
        raise UsageError("expected a volume whose slices lie in a mosaic, found one without tiles")
    if min(picture.shape[0] // tiles.rows, picture.shape[1] // tiles.columns) < tiles.per_side:
        raise UsageError(
            f"expected a picture of {tiles.per_side} x {tiles.per_side} tiles of {tiles.rows} x {tiles.columns} "
            f"pixels, found {picture.shape[0]} x {picture.shape[1]} pixels"
        )
    side = tiles.per_side
    cut = picture[: side * tiles.rows, : side * tiles.columns]
    cut = cut.reshape(side, tiles.rows, side, tiles.columns, *picture.shape[2:]).swapaxes(1, 2)
    return cut.reshape(side * side, tiles.rows, tiles.columns, *picture.shape[2:])[: tiles.slices]
