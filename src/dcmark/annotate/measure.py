"""What annotations measure: volume, longest diameter, mean value; computed when asked for, never stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcmark.annotate import objects
from dcmark.annotate.model import Annotation
from dcmark.annotate.objects import DicomObject
from dcmark.annotate.places import Places
from dcmark.annotate.raster import corners, regions
from dcmark.errors import DcmarkError
from dcmark.read.pixels import physical
from dcmark.read.volume_model import FrameId

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FrameMeasure:
    """What an annotation measures on one frame.

    Attributes:
        frame: which.
        pixels: marked, by their centres.
        area_mm2: of them; None where the frame has no pixel spacing.
        longest_diameter_mm: between two points of the region in the plane of the frame (edges of pixels); of a line its
            longest stretch. None without spacing, and for single points.
        mean: of the physical values of the marked pixels; None where nothing is marked, or they cannot be decoded.
        quantity, unit: of ``mean``.
    """

    frame: FrameId
    pixels: int
    area_mm2: float | None
    longest_diameter_mm: float | None
    mean: float | None = None
    quantity: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """What an annotation measures as a whole.

    Attributes:
        frames: it marks.
        pixels: marked on all of them.
        volume_ml: pixels by the thickness of their slices; None on single images.
        longest_diameter_mm: the longest on any frame, as is usual for lesions (RECIST).
        mean: over all pixels; None where the frames measure different things.
        quantity, unit: of ``mean``.
    """

    frames: int
    pixels: int
    volume_ml: float | None
    longest_diameter_mm: float | None
    mean: float | None = None
    quantity: str = ""
    unit: str = ""

    @property
    def mean_hu(self) -> float | None:
        """The mean in Hounsfield units; None where it is something else."""
        return self.mean if self.quantity == "hu" else None


class Measures:
    """Measures annotations of one archive; files that were opened are kept as long as this.

    Args:
        places: where frames stand.
        values: decode pixels for the means.
    """

    def __init__(self, places: Places, *, values: bool = True) -> None:
        self.places, self.values = places, values
        self._opened: tuple[str, DicomObject] | None = None

    def frames(self, annotation: Annotation) -> Iterator[FrameMeasure]:
        """One measure a frame, in order."""
        marked = regions(annotation, self.places.size)
        for frame in annotation.frames:
            yield self._frame(annotation, frame, marked.get(frame))

    def whole(self, annotation: Annotation) -> Measure:
        """The measure of the whole."""
        return self.summed(list(self.frames(annotation)))

    def summed(self, parts: list[FrameMeasure]) -> Measure:
        """The whole from its parts."""
        pixels = sum(one.pixels for one in parts)
        meanings = {(one.quantity, one.unit) for one in parts if one.pixels}
        mean: float | None = None
        quantity = unit = ""
        if len(meanings) == 1 and pixels and all(one.mean is not None for one in parts if one.pixels):
            quantity, unit = meanings.pop()
            mean = sum((one.mean or 0.0) * one.pixels for one in parts) / pixels
        longest = [one.longest_diameter_mm for one in parts if one.longest_diameter_mm is not None]
        return Measure(
            len(parts), pixels, self._volume_ml(parts) if pixels else None, max(longest, default=None), mean, quantity,
            unit if quantity else "",
        )  # fmt: skip

    def _volume_ml(self, parts: list[FrameMeasure]) -> float | None:
        total = 0.0
        for one in parts:
            thickness = self._thickness(one.frame)
            if not one.pixels:
                continue
            if one.area_mm2 is None or thickness is None:
                return None
            total += one.area_mm2 * thickness
        return total / 1000.0

    def _thickness(self, frame: FrameId) -> float | None:
        """mm that a slice stands for: the distance between slices, or where that changes half of both sides."""
        found = self.places.slice_of(frame)
        if found is None:
            return None
        volume, k = found
        if volume.spacing is None or volume.grid in ("single", "none"):
            return None
        if volume.grid != "uneven" or volume.missing or volume.positions is None or volume.shape[0] < 2:
            return float(volume.spacing[0])
        plane = self.places.plane(frame)
        assert plane is not None
        heights = volume.positions @ plane.normal
        sides = [abs(float(heights[j] - heights[k])) for j in (k - 1, k + 1) if 0 <= j < len(heights)]
        return sum(sides) / len(sides)

    def _frame(self, annotation: Annotation, frame: FrameId, marked: NDArray[np.bool_] | None) -> FrameMeasure:
        plane = self.places.plane(frame)
        pixels = 0 if marked is None else int(np.count_nonzero(marked))
        points = self._points(annotation, frame, marked)
        longest: float | None = None
        if plane is not None and len(points) > 1 and annotation.kind != "point":
            longest = longest_distance(plane.to_mm(points))
        area: float | None = None
        if plane is not None:
            area = pixels * plane.spacing[0] * plane.spacing[1]
        mean, quantity, unit = (
            self._mean(frame, marked) if pixels and self.values and marked is not None else (None, "", "")
        )
        return FrameMeasure(frame, pixels, area, longest, mean, quantity, unit)

    def _points(self, annotation: Annotation, frame: FrameId, marked: NDArray[np.bool_] | None) -> Floats:
        """Points of which two are the ends of the longest diameter, (row, column)."""
        if annotation.kind == "mask" and marked is not None:
            return edge_points(marked)
        found = [corners(annotation.kind, one) for one in annotation.contours if one.frame == frame]
        return np.concatenate(found) if found else np.empty((0, 2))

    def _mean(self, frame: FrameId, marked: NDArray[np.bool_]) -> tuple[float | None, str, str]:
        try:
            if self._opened is None or self._opened[0] != frame.file:
                self._opened = (frame.file, objects.of_archive(self.places.archive, frame.file))
            opened = self._opened[1]
            values = physical(opened.frame(frame.frame), opened.dataset, frame.frame)
        except DcmarkError:
            return None, "", ""
        if values.values.shape != marked.shape:
            return None, "", ""
        inside = values.values[marked]
        inside = inside[~np.isnan(inside)]
        if not len(inside):
            return None, "", ""
        return float(inside.mean(dtype=np.float64)), values.quantity, values.unit


def edge_points(marked: NDArray[np.bool_]) -> Floats:
    """Corners of the outermost pixels of each row, (row, column): all that a longest diameter can end at."""
    rows = np.flatnonzero(marked.any(axis=1))
    if not len(rows):
        return np.empty((0, 2))
    left = marked[rows].argmax(axis=1) - 0.5
    right = marked.shape[1] - marked[rows][:, ::-1].argmax(axis=1) - 0.5
    sides = [(rows + down, across) for down in (-0.5, 0.5) for across in (left, right)]
    return np.concatenate([np.column_stack(side) for side in sides])


def longest_distance(points: ArrayLike) -> float:
    """The longest distance between two points of a plane, (n, 3) or (n, 2)."""
    array = np.asarray(points, np.float64)
    if array.shape[1] == 3:
        centred = array - array[0]
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        array = centred @ axes[:2].T
    ends = hull(array)
    longest = 0.0
    for start in range(0, len(ends), 512):
        apart = ends[start : start + 512, None, :] - ends[None, :, :]
        longest = max(longest, float((apart**2).sum(axis=2).max()))
    return float(np.sqrt(longest))


def hull(points: Floats) -> Floats:
    """Corners of the convex hull of points (n, 2), by Andrew's monotone chain."""
    unique = np.unique(points, axis=0)
    if len(unique) < 3:
        return unique
    listed = unique.tolist()

    def half(ordered: list[list[float]]) -> list[list[float]]:
        chain: list[list[float]] = []
        for x, y in ordered:
            while len(chain) > 1:
                (a, b), (c, d) = chain[-2], chain[-1]
                if (c - a) * (y - b) - (d - b) * (x - a) > 0:
                    break
                chain.pop()
            chain.append([x, y])
        return chain[:-1]

    return np.array(half(listed) + half(listed[::-1]))
