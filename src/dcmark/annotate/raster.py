"""Contours to pixels and back.

Everything here is in pixels of one frame as (row, column), whole numbers at centres. A pixel belongs to a region when
its centre is inside an odd number of contours, or on one of them. So contours that run through the centres of the
outermost pixels (as OpenCV draws them) and contours that run along the edges of pixels both give the same pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcmark.annotate.model import Annotation, Contour, Points
from dcmark.errors import UsageError
from dcmark.read.volume_model import FrameId

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

ON_CONTOUR = 0.005
"""Pixels: a centre nearer than this to a contour lies on it. Files round coordinates."""
INSET = 0.01
"""Pixels: how far outlines for RTSTRUCT stay inside the edges of pixels, so that programs that round to whole pixels
find the same pixels as programs that do not."""
_CROSSINGS = 1 << 21
ELLIPSE_CORNERS = 128


def fill(polygons: Iterable[ArrayLike], rows: int, columns: int) -> Mask:
    """The pixels of a region.

    Args:
        polygons: closed, each (n, 2) of (row, column).
        rows, columns: of the frame.

    Returns:
        (rows, columns).
    """
    parity = np.zeros((rows, columns + 1), np.uint8)
    border = np.zeros((rows, columns), bool)
    for polygon in polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        if len(points):
            _toggle(parity, points, rows, columns)
            _mark(border, points, rows, columns)
    inside = (np.cumsum(parity, axis=1, dtype=np.uint8) & 1).astype(bool)[:, :columns]
    return np.asarray(inside | border)


def _toggle(parity: NDArray[np.uint8], points: Floats, rows: int, columns: int) -> None:
    """At each row that an edge crosses, all pixels to the right of it change sides (half-open: corners count once)."""
    start, end = points, np.roll(points, -1, axis=0)
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    first = np.clip(np.ceil(low), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(high), 0, rows).astype(np.int64)
    count = last - first
    chosen = np.flatnonzero(count > 0)
    for part in _portions(count[chosen]):
        edge = chosen[part]
        repeat = count[edge]
        at = np.repeat(first[edge], repeat) + _within(repeat)
        one, other = np.repeat(start[edge], repeat, axis=0), np.repeat(end[edge], repeat, axis=0)
        across = one[:, 1] + (at - one[:, 0]) * (other[:, 1] - one[:, 1]) / (other[:, 0] - one[:, 0])
        column = np.clip(np.ceil(across), 0, columns).astype(np.int64)
        times = np.bincount(at * (columns + 1) + column, minlength=parity.size)
        parity ^= (times & 1).astype(np.uint8).reshape(parity.shape)


def _mark(border: Mask, points: Floats, rows: int, columns: int) -> None:
    """Centres that lie on the contour."""
    start, end = points, np.roll(points, -1, axis=0)
    near = np.rint(points)
    on = (np.abs(points - near) <= ON_CONTOUR).all(axis=1)
    on &= (near >= 0).all(axis=1) & (near[:, 0] < rows) & (near[:, 1] < columns)
    border[near[on, 0].astype(np.int64), near[on, 1].astype(np.int64)] = True
    for axis in (0, 1):
        size, breadth = (rows, columns) if axis == 0 else (columns, rows)
        low, high = np.minimum(start[:, axis], end[:, axis]), np.maximum(start[:, axis], end[:, axis])
        first = np.clip(np.ceil(low), 0, size).astype(np.int64)
        last = np.clip(np.floor(high) + 1, 0, size).astype(np.int64)
        count = np.where(high > low, last - first, 0)
        chosen = np.flatnonzero(count > 0)
        for part in _portions(count[chosen]):
            edge = chosen[part]
            repeat = count[edge]
            at = np.repeat(first[edge], repeat) + _within(repeat)
            one, other = np.repeat(start[edge], repeat, axis=0), np.repeat(end[edge], repeat, axis=0)
            step = (other[:, 1 - axis] - one[:, 1 - axis]) / (other[:, axis] - one[:, axis])
            cross = one[:, 1 - axis] + (at - one[:, axis]) * step
            whole = np.rint(cross)
            hit = (np.abs(cross - whole) <= ON_CONTOUR) & (whole >= 0) & (whole < breadth)
            pair = (at[hit], whole[hit].astype(np.int64))
            border[pair if axis == 0 else pair[::-1]] = True


def _portions(count: NDArray[np.int64]) -> Iterable[slice]:
    """Runs of edges with a bounded number of crossings in all."""
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        base = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, base + _CROSSINGS, "right")))
        yield slice(start, stop)
        start = stop


def _within(repeat: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... for each run of a ``np.repeat``."""
    ends = np.cumsum(repeat)
    return np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) - np.repeat(ends - repeat, repeat)


# Pixels to contours ---------------------------------------------------------------------------------------------------

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def outline(mask: NDArray[Any], inset: float = 0.0) -> list[Points]:
    """Closed contours along the edges of pixels, outer ones and those of holes; ``fill`` gives the pixels back.

    Pixels that touch in a corner only are not joined. Outer contours run clockwise as seen on the screen, holes the
    other way.

    Args:
        mask: (rows, columns).
        inset: how far inside the marked pixels the contour stays, pixels, below one half.
    """
    flat = np.pad(np.asarray(mask, bool), 1)
    starts: dict[tuple[int, int], list[int]] = {}
    inner = flat[1:-1, 1:-1]
    sides = (
        (inner & ~flat[:-2, 1:-1], 0, 0, 0),  # above: to the right
        (inner & ~flat[1:-1, 2:], 0, 1, 1),  # right: down
        (inner & ~flat[2:, 1:-1], 1, 1, 2),  # below: to the left
        (inner & ~flat[1:-1, :-2], 1, 0, 3),  # left: up
    )
    for found, down, across, way in sides:
        for row, column in np.argwhere(found).tolist():
            starts.setdefault((row + down, column + across), []).append(way)
    contours: list[Points] = []
    while starts:
        corner = next(iter(starts))
        way = starts[corner][0]
        contours.append(_follow(starts, corner, way, inset))
    return contours


def _follow(
    starts: dict[tuple[int, int], list[int]], corner: tuple[int, int], way: int, inset: float
) -> Points:  # fmt: skip
    """One contour from a corner on; its edges are taken out of ``starts``. Turns right where there is a choice."""
    begin = corner, way
    points: list[tuple[float, float]] = []
    while True:
        ways = starts[corner]
        ways.remove(way)
        if not ways:
            del starts[corner]
        corner = (corner[0] + _STEPS[way][0], corner[1] + _STEPS[way][1])
        ways = starts.get(corner, [])
        right = (way + 1) % 4
        onward = right if right in ways else way if way in ways else (way + 3) % 4
        closing = corner == begin[0] and begin[1] not in ways and (not ways or onward not in ways)
        if closing:
            onward = begin[1]
        if onward != way:
            (down, across), (down2, across2) = _STEPS[way], _STEPS[onward]
            # The marked side is to the right of the way: its normal is (across, -down).
            points.append(
                (corner[0] - 0.5 + inset * (across + across2), corner[1] - 0.5 - inset * (down + down2))
            )  # fmt: skip
        if closing:
            return tuple(points)
        way = onward


# Annotations to pixels ------------------------------------------------------------------------------------------------


def corners(kind: str, contour: Contour) -> Floats:
    """The contour of a box or an ellipse as a polygon; of others their own points.

    Raises:
        UsageError: points in mm; put them on a frame first.
    """
    if contour.frame is None:
        raise UsageError("expected a contour on a frame, found one in mm; put it on a frame first")
    points = np.asarray(contour.points, np.float64).reshape(-1, 2)
    if kind == "box":
        (top, left), (bottom, right) = points.min(axis=0), points.max(axis=0)
        return np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
    if kind == "ellipse":
        middle = points[:2].mean(axis=0)
        turn = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)[:, None]
        return np.asarray(
            middle + np.cos(turn) * (points[1] - points[0]) / 2 + np.sin(turn) * (points[3] - points[2]) / 2
        )
    return points


def regions(annotation: Annotation, size: Any) -> dict[FrameId, Mask]:
    """The pixels that an annotation marks, by frame; empty for points, lines and what marks nothing.

    Args:
        annotation: which.
        size: gives (rows, columns) of a frame; ``Places.size``.
    """
    if annotation.kind == "mask":
        return {plane.frame: plane.binary() for plane in annotation.mask}
    grouped: dict[FrameId, list[Floats]] = {}
    for contour in annotation.contours:
        if contour.frame is not None and contour.closed and annotation.kind not in ("point", "line", "text"):
            grouped.setdefault(contour.frame, []).append(corners(annotation.kind, contour))
    return {frame: fill(polygons, *size(frame)) for frame, polygons in grouped.items()}


def bounding_box(points: ArrayLike) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of points (row, column)."""
    array = np.asarray(points, np.float64).reshape(-1, 2)
    (top, left), (bottom, right) = array.min(axis=0), array.max(axis=0)
    return float(top), float(left), float(bottom), float(right)


def pixel_box(mask: NDArray[Any]) -> tuple[float, float, float, float] | None:
    """(top, left, bottom, right) along the edges of the marked pixels; None where there are none."""
    down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(down):
        return None
    return float(down[0]) - 0.5, float(across[0]) - 0.5, float(down[-1]) + 0.5, float(across[-1]) + 0.5


def polygons_of(masks: Sequence[tuple[FrameId, Mask]], inset: float = 0.0) -> tuple[Contour, ...]:
    """Outlines of masks as contours."""
    return tuple(Contour(points, frame) for frame, mask in masks for points in outline(mask, inset))
