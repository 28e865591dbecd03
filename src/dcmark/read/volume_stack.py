"""From the frames of one stack to a volume: order, affine, and everything worth saying about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcmark.findings import Finding
from dcmark.geometry import AffineLps, PointsLps, affine_of_slices, directions, normal
from dcmark.read.volume_frames import FrameTags
from dcmark.read.volume_grid import Floats, Lattice, fit_lattice, set_aside, tolerance_of
from dcmark.read.volume_model import GridKind, Split, Tiles, Tolerances
from dcmark.read.volume_split import SEGMENTATIONS, SPACING_MM, Geometry

Rows = NDArray[np.int64]

_GAPS_SPELLED_OUT = 5


@dataclass(slots=True)
class Draft:
    """A volume before it is numbered; rows are those of the table of its series."""

    rows: Rows
    grid: GridKind
    shape: tuple[int, int, int]
    family: int
    affine: AffineLps | None = None
    spacing: tuple[float, float, float] | None = None
    slice_index: Floats = field(default_factory=lambda: np.zeros(0))
    positions: PointsLps | None = None
    splits: tuple[Split, ...] = ()
    phase: int = 1
    phases: int = 1
    tiles: Tiles | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frame:
    """The directions a stack is described in: unit vectors, LPS, and pixel spacing in mm."""

    cosines: Floats
    along_row: Floats
    down_column: Floats
    normal: Floats
    spacing: Floats

    @classmethod
    def of(cls, geometry: Geometry, rows: Rows) -> Frame:
        """Directions shared by rows whose directions agree to within the tolerance."""
        cosines, spacing = geometry.cosines[rows], geometry.spacing[rows]
        shared = cosines[0] if (cosines == cosines[0]).all() else cosines.mean(axis=0)
        pixel = spacing[0] if (spacing == spacing[0]).all() else spacing.mean(axis=0)
        along_row, down_column = directions(shared)
        return cls(shared, along_row, down_column, normal(shared), pixel)

    def coordinates(self, positions: Floats) -> tuple[Floats, Floats]:
        """Positions (n, 3) as mm along the normal (n,) and in the plane (n, 2): along a row, down a column."""
        return positions @ self.normal, positions @ np.stack([self.along_row, self.down_column], axis=1)

    def point(self, along: float, inside: Floats) -> Floats:
        """The point in mm, LPS, of coordinates along the normal and in the plane."""
        point: Floats = self.normal * along + self.along_row * inside[0] + self.down_column * inside[1]
        return point


def stack_drafts(
    tags: FrameTags,
    geometry: Geometry,
    rows: Rows,
    frame: Frame,
    wander_mm: float,
    tolerances: Tolerances,
) -> Iterator[Draft]:
    """The volume of frames at places of their own, and single frames set aside as off its grid.

    Args:
        rows: at least one, no two at the same place.
        frame: directions of the stack.
        wander_mm: how far the frames stray from a straight line, where they do.
    """
    along, inside = frame.coordinates(geometry.position[rows])
    order = np.argsort(along, kind="stable")
    rows, along, inside = rows[order], along[order], inside[order]
    if len(rows) == 1:
        yield single_draft(tags, geometry, rows, frame)
        return
    stated = _stated(tags, rows)
    lattice = fit_lattice(along, stated, tolerances)
    aside, lattice = set_aside(along, tags.number("instance_number")[rows], stated, lattice, tolerances)
    keep = ~aside
    yield _build(tags, geometry, rows[keep], frame, lattice, along[keep], inside[keep], wander_mm, tolerances)
    for row in rows[aside]:
        yield off_grid_draft(tags, geometry, np.array([row]), frame)


def _stated(tags: FrameTags, rows: Rows) -> tuple[float, ...]:
    stated = []
    for name in ("spacing_between_slices", "slice_thickness"):
        values = np.abs(tags.number(name)[rows])
        if np.isfinite(values).any():
            stated.append(float(np.nanmedian(values)))
    return tuple(stated)


def _build(
    tags: FrameTags,
    geometry: Geometry,
    rows: Rows,
    frame: Frame,
    lattice: Lattice,
    along: Floats,
    inside: Floats,
    wander_mm: float,
    tolerances: Tolerances,
) -> Draft:
    slope, at_zero = _line(along, inside)
    extent = float(along[-1] - along[0])
    drift = float(np.hypot(*slope)) * extent
    angle = float(np.rad2deg(np.arctan(np.hypot(*slope))))
    tilted = angle > tolerances.angle_degrees and drift > 2 * tolerances.place_mm and not wander_mm
    if wander_mm or drift < 1e-6:
        slope, at_zero = np.zeros(2), inside[0]
    origin = frame.point(lattice.origin, at_zero + slope * lattice.origin)
    step = lattice.step * frame.point(1.0, slope)
    regular = lattice.kind == "even" and not wander_mm
    grid: GridKind = "uneven"
    if tilted and lattice.kind in ("even", "gaps"):
        grid = "tilted"
    elif regular:
        grid = "regular"
    draft = Draft(
        rows,
        grid,
        (len(rows), *_size(tags, rows)),
        0,
        affine_of_slices(origin, frame.cosines, frame.spacing, step),
        (lattice.step, float(frame.spacing[0]), float(frame.spacing[1])),
        lattice.index,
        PointsLps(geometry.position[rows]),
    )
    draft.findings += [
        *_grid_findings(tags, rows, lattice, along, tolerances),
        *_tilt_findings(tags, rows, angle if tilted else 0.0, drift),
        *_spacing_findings(tags, rows, lattice, tolerances),
        *_stack_findings(tags, geometry, rows),
    ]
    if wander_mm:
        draft.findings.append(
            Finding(
                "warning",
                "in-plane-shift",
                f"slices are shifted in their plane by up to {wander_mm:.2f} mm and follow no line",
                "kept as an uneven volume; the affine holds for the first slice only",
            )
        )
    return draft


def _line(along: Floats, inside: Floats) -> tuple[Floats, Floats]:
    """Least squares: slope (2,) in mm per mm and the point (2,) at 0 mm along the normal."""
    middle = along.mean()
    x = along - middle
    slope = x @ inside / (x @ x)
    return slope, inside.mean(axis=0) - slope * middle


def _size(tags: FrameTags, rows: Rows) -> tuple[int, int]:
    return int(tags.number("rows")[rows[0]]), int(tags.number("columns")[rows[0]])


def single_draft(tags: FrameTags, geometry: Geometry, rows: Rows, frame: Frame) -> Draft:
    """One slice with a place: its own thickness stands in for the step to a next slice."""
    stated = _stated(tags, rows)
    known = bool(stated) and SPACING_MM[0] <= stated[-1] <= SPACING_MM[1]
    step, where = (stated[-1], "its thickness") if known else (1.0, "1 mm, for want of a thickness,")
    draft = Draft(
        rows,
        "single",
        (1, *_size(tags, rows)),
        0,
        affine_of_slices(geometry.position[rows[0]], frame.cosines, frame.spacing, step),
        (step, float(frame.spacing[0]), float(frame.spacing[1])),
        np.zeros(1),
        PointsLps(geometry.position[rows]),
    )
    draft.findings.append(
        Finding("info", "single-slice", "one slice, so no distance to a next one is known", f"{where} stands in for it")
    )
    return draft


def off_grid_draft(
    tags: FrameTags, geometry: Geometry, rows: Rows, frame: Frame, *, side_by_side: bool = False
) -> Draft:
    """A frame of the right direction and size that stands off the grid of the others, if they make one."""
    draft = single_draft(tags, geometry, rows, frame)
    draft.splits = (Split("ImagePositionPatient", "off the grid of the others"),)
    code, text = "off-grid-frame", "stands off the grid of the others: a reference image, as a rule"
    if side_by_side:
        code, text = "no-stack", "lies beside others of the same direction, and together they make no stack"
    text = f"a frame{_instance(tags, rows)} {text}"
    draft.findings.append(Finding("warning", code, text, "made a volume of its own"))
    return draft


def _instance(tags: FrameTags, rows: Rows) -> str:
    number = tags.number("instance_number")[rows[0]]
    return f" (instance number {number:.0f})" if np.isfinite(number) else ""


def _grid_findings(
    tags: FrameTags, rows: Rows, lattice: Lattice, along: Floats, tolerances: Tolerances
) -> Iterator[Finding]:
    if lattice.kind == "gaps":
        yield _missing(tags, rows, lattice, along)
    elif lattice.kind in ("zones", "uneven"):
        yield Finding(
            "warning",
            "uneven-spacing",
            f"distances between {len(along)} slices run from {lattice.smallest_mm:.4g} to "
            f"{lattice.largest_mm:.4g} mm, expected one distance",
            "positions kept as they are in slice_index; resample for an even grid",
        )
    if lattice.stray_mm > 0.01:
        yield Finding(
            "info",
            "rounded-positions",
            f"slices stand up to {lattice.stray_mm:.3f} mm off an even grid of {lattice.step:.5g} mm "
            f"(allowed: {tolerance_of(lattice.step, tolerances):.3f} mm)",
            "taken as even",
        )


def _missing(tags: FrameTags, rows: Rows, lattice: Lattice, along: Floats) -> Finding:
    steps = np.diff(lattice.index)
    wide = np.flatnonzero(steps > 1.5)
    count = int(steps[wide].sum()) - len(wide)
    spelled = [f"{steps[i] - 1:.0f} between {along[i]:.2f} and {along[i + 1]:.2f}" for i in wide[:_GAPS_SPELLED_OUT]]
    more = f", and {len(wide) - len(spelled)} more gaps" if len(wide) > len(spelled) else ""
    where = f"{', '.join(spelled)}{more} (mm along the normal)"
    if tags.text("sop_class_uid").at(int(rows[0])) in SEGMENTATIONS:
        return Finding(
            "info", "empty-slices-left-out", f"a segmentation without {count} slices: {where}", "places kept"
        )
    return Finding(
        "error" if count > len(rows) else "warning",
        "missing-slices",
        f"{count} slices missing at {lattice.step:.4g} mm: {where}; {len(rows)} are there",
        "places kept in slice_index; resample to fill the gaps",
    )


def _tilt_findings(tags: FrameTags, rows: Rows, angle: float, drift: float) -> Iterator[Finding]:
    tags_tilt = tags.number("gantry_detector_tilt")[rows]
    stated = float(np.nanmax(np.abs(tags_tilt))) if np.isfinite(tags_tilt).any() else 0.0
    if angle:
        yield Finding(
            "warning",
            "tilted",
            f"slices are stacked {angle:.2f} degrees off their normal and shift by {drift:.1f} mm in their plane "
            f"over the stack" + (f"; Gantry/Detector Tilt says {stated:.2f} degrees" if stated else ""),
            "the affine is sheared; resample to shear back",
        )
    elif stated > 0.5:
        yield Finding(
            "info",
            "tilt-not-seen",
            f"Gantry/Detector Tilt says {stated:.2f} degrees, and the positions show no shear",
            "positions are believed",
        )


def _spacing_findings(tags: FrameTags, rows: Rows, lattice: Lattice, tolerances: Tolerances) -> Iterator[Finding]:
    step = lattice.step
    between = np.abs(tags.number("spacing_between_slices")[rows])
    if np.isfinite(between).any() and lattice.kind != "uneven":
        stated = float(np.nanmedian(between))
        if abs(stated - step) > max(0.01 * step, tolerances.same_place_mm):
            yield Finding(
                "warning",
                "spacing-disagrees",
                f"Spacing Between Slices says {stated:.4g} mm, the positions are {step:.4g} mm apart",
                "positions are believed",
            )
    thickness = tags.number("slice_thickness")[rows]
    if not np.isfinite(thickness).any():
        return
    thin, thick = float(np.nanmin(thickness)), float(np.nanmax(thickness))
    if thick > thin * 1.01:
        yield Finding(
            "info", "thickness-varies", f"Slice Thickness runs from {thin:.4g} to {thick:.4g} mm", "kept together"
        )
    elif thin > 0 and step > tolerances.sparse_ratio * thin:
        yield Finding(
            "warning",
            "sparse-slices",
            f"slices of {thin:.4g} mm stand {step:.4g} mm apart: not imaged in between, or slices missing",
            "kept as found",
        )
    elif thin > 0 and step > 1.01 * thin:
        yield Finding("info", "slice-gap", f"slices of {thin:.4g} mm stand {step:.4g} mm apart", "kept as found")


def _stack_findings(tags: FrameTags, geometry: Geometry, rows: Rows) -> Iterator[Finding]:
    count = len(rows)
    cosines = geometry.cosines[rows]
    if (cosines != cosines[0]).any():
        turn = float(np.rad2deg(np.linalg.norm(cosines - cosines.mean(axis=0), axis=1).max() / np.sqrt(2)))
        if turn > 0.01:
            yield Finding(
                "info",
                "orientation-varies",
                f"slice directions differ by up to {turn:.3f} degrees from their mean",
                "taken as parallel; the mean is used",
            )
    references = np.unique(tags.text("frame_of_reference_uid").codes[rows])
    if len(references) > 1:
        yield Finding(
            "info",
            "frames-of-reference",
            f"{count} slices carry {len(references)} different Frame of Reference UIDs",
            "kept together: they stand on one grid",
        )
    acquisitions = np.unique(tags.number("acquisition_number")[rows])
    if np.isfinite(acquisitions).sum() > 1:
        yield Finding(
            "info",
            "acquisitions-joined",
            f"{count} slices carry {int(np.isfinite(acquisitions).sum())} different acquisition numbers",
            "kept together: no place occurs twice",
        )
    numbers = np.sort(tags.number("instance_number")[rows])
    stride = np.unique(np.diff(numbers)) if count > 2 and np.isfinite(numbers).all() else np.zeros(0)
    if len(stride) == 1 and stride[0] > 1 and count == len(tags):
        yield Finding(
            "info",
            "instance-stride",
            f"instance numbers rise in steps of {stride[0]:.0f}: images in between may be missing",
            "kept as found",
        )
