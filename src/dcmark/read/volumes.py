"""From frames to volumes: which belong together, in what order, on what grid, and what is odd about them.

Needs tags only: no pixels, no DICOM library. ``find_volumes`` takes a table of frames (``FrameTags``), made from
the archive's columns or from data sets by ``frames_of``, and puts every frame into one volume or one leftover.
Nothing is decided in silence: each decision is a finding of the volume it touches. What is done in which case,
and why, is told in docs/concepts/volumes.md.

Order and affine follow PS3.3 C.7.6.2.1.1 (Image Plane) and C.7.6.16 (functional groups).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dcmark.findings import Finding, Level
from dcmark.geometry import PointsLps, affine_of_slices
from dcmark.read.volume_dicom import frames_of
from dcmark.read.volume_frames import COLUMN_NAMES, Floats, FrameRow, FrameTags, Texts
from dcmark.read.volume_grid import cluster, find_lines
from dcmark.read.volume_model import (
    TOLERANCES,
    FrameId,
    FrameRange,
    GridKind,
    Leftover,
    Split,
    Tiles,
    Tolerances,
    Volume,
    VolumeSet,
)
from dcmark.read.volume_resample import RegularGrid, regular_grid, resample, split_mosaic
from dcmark.read.volume_split import (
    LARGEST_SIDE,
    SEGMENTATIONS,
    SPACING_MM,
    Geometry,
    Group,
    Rows,
    Separated,
    geometry_of,
    hard_groups,
    is_localizer,
    is_mosaic,
    needs_dataset,
    separate,
)
from dcmark.read.volume_stack import Draft, Frame, off_grid_draft, stack_drafts

__all__ = [
    "COLUMN_NAMES",
    "TOLERANCES",
    "FrameId",
    "FrameRange",
    "FrameRow",
    "FrameTags",
    "GridKind",
    "Leftover",
    "RegularGrid",
    "Split",
    "Texts",
    "Tiles",
    "Tolerances",
    "Volume",
    "VolumeSet",
    "find_volumes",
    "frames_of",
    "needs_dataset",
    "regular_grid",
    "resample",
    "split_mosaic",
]

_TOMOGRAPHIC = frozenset({"CT", "MR", "PT", "NM", "OPT", "IVUS", "IVOCT", "OPTENF", "RTDOSE", "SEG"})
"""Modalities whose images are slices: without a place something is missing, elsewhere it is as it should be."""
_MOST_TILES = 10_000
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def find_volumes(tags: FrameTags, tolerances: Tolerances = TOLERANCES) -> VolumeSet:
    """Put the frames of any number of series into volumes.

    The result is the same whatever the order of the rows. Never raises for what files say.

    Args:
        tags: a row a frame.
        tolerances: how far files may stray, with units.

    Returns:
        Volumes (by series, then number) and leftovers; every frame is in exactly one of them.
    """
    number, frame = tags.number("instance_number"), tags.number("frame")
    order = np.lexsort((frame, tags.text("file").codes, np.where(np.isfinite(number), number, np.inf)))
    series = tags.text("series_instance_uid").codes[order]
    volumes: list[Volume] = []
    leftovers: list[Leftover] = []
    for code in np.unique(series):
        rows = order[series == code] if len(series) else order
        found = _Series(tags.take(rows), rows, tolerances)
        found.sort()
        volumes += found.volumes()
        leftovers += found.leftovers
    return VolumeSet(tuple(volumes), tuple(leftovers))


class _Series:
    """The frames of one series on their way into volumes."""

    def __init__(self, tags: FrameTags, table_rows: Rows, tolerances: Tolerances) -> None:
        self.tags, self.table_rows, self.tolerances = tags, table_rows, tolerances
        self.geometry: Geometry = geometry_of(tags)
        self.uid = tags.text("series_instance_uid").at(0)
        self.drafts: list[Draft] = []
        self.leftovers: list[Leftover] = []
        self._families: list[int] = []

    def sort(self) -> None:
        """Fill ``drafts`` and ``leftovers``."""
        sides = np.stack([self.tags.number("rows"), self.tags.number("columns")])
        image = ((sides >= 1) & (sides <= LARGEST_SIDE)).all(axis=0)
        self._leave(np.flatnonzero(~image), "info", "no-image", "objects without an image (no Rows and Columns)")
        mosaic = is_mosaic(self.tags)
        rows = np.flatnonzero(image)
        if not len(rows):
            return
        for group in hard_groups(self.tags, self.geometry, rows, self.tolerances):
            placed = self.geometry.state[group.rows[0]] == 0
            if mosaic[group.rows[0]]:
                self._mosaics(group)
            elif placed:
                self._stacks(group)
            else:
                self._without_place(group)

    # Frames with a place

    def _stacks(self, group: Group) -> None:
        frame = Frame.of(self.geometry, group.rows)
        along, inside = frame.coordinates(self.geometry.position[group.rows])
        steepest = float(np.tan(np.deg2rad(self.tolerances.largest_tilt_degrees)))
        lines = find_lines(along, inside, self.tolerances.place_mm, steepest)
        if lines.wander_mm and self._side_by_side(along, inside):
            for row in group.rows:
                alone = off_grid_draft(self.tags, self.geometry, np.array([row]), frame, side_by_side=True)
                self._add([alone], group.splits)
            return
        same = min(self.tolerances.same_place_mm, 0.1 * float(frame.spacing.min()))
        for code in range(int(lines.codes.max()) + 1):
            chosen = lines.codes == code
            self._stack(group, group.rows[chosen], frame, cluster(along[chosen, None], same), lines.wander_mm)
        for row in group.rows[lines.codes < 0]:
            self._add([off_grid_draft(self.tags, self.geometry, np.array([row]), frame)], group.splits)

    def _side_by_side(self, along: Floats, inside: Floats) -> bool:
        """Are there frames at one height, and beside each other?"""
        order = np.lexsort((inside[:, 0], along))
        level = np.diff(along[order]) <= self.tolerances.same_place_mm
        apart = np.abs(np.diff(inside[order], axis=0)).max(axis=1) > self.tolerances.same_place_mm
        return bool((level & apart).any())

    def _stack(self, group: Group, rows: Rows, frame: Frame, places: Rows, wander_mm: float) -> None:
        found = separate(self.tags.take(rows), places, self.tolerances)
        family: list[Draft] = []
        for part in found.parts:
            drafts = list(stack_drafts(self.tags, self.geometry, rows[part.rows], frame, wander_mm, self.tolerances))
            for draft in drafts:
                draft.splits = part.splits + draft.splits
            family += drafts[:1]
            self._add(drafts[1:], group.splits)
        distinct = len(np.unique(places))
        if len(found.parts) > 1 and sum(len(part.rows) for part in found.parts) > distinct:
            self._number_phases(family, found, distinct)
        self._report_repeats(family, found, rows)
        self._add(family, group.splits)

    def _number_phases(self, family: list[Draft], found: Separated, places: int) -> None:
        attributes = list(dict.fromkeys(name for part in found.parts for name in part.attributes))
        guessed = "InstanceNumber" in attributes
        why = "no attribute says why, instance numbers run in step"
        if not guessed:
            why = f"told apart by {', '.join(attributes)}"
        for k, draft in enumerate(family):
            draft.phase, draft.phases = k + 1, len(family)
            draft.findings.append(
                Finding(
                    "warning" if guessed else "info",
                    "phases-by-instance-number" if guessed else "phases",
                    f"places imaged more than once: up to {len(family)} frames at each of {places}; " + why,
                    f"{len(family)} volumes, this is number {k + 1}",
                )
            )
        sizes = sorted({len(draft.rows) for draft in family})
        if len(sizes) > 1:
            text = f"expected equally many slices in each of {len(family)} phases, found {sizes[0]} to {sizes[-1]}"
            for draft in family:
                draft.findings.append(Finding("warning", "uneven-phases", text, "kept as found"))

    def _report_repeats(self, family: list[Draft], found: Separated, rows: Rows) -> None:
        for left, code, text in (
            (
                found.copies,
                "duplicate",
                "frames that repeat one in a volume (same place; same pixels or SOP Instance UID)",
            ),
            (
                found.reissued,
                "same-instance-twice",
                "frames that share place and SOP Instance UID with one in a volume, and differ in pixels",
            ),
            (
                found.unexplained,
                "repeated-position",
                "frames at places that are taken, told apart by no attribute (image type, echo, b-value, time, "
                "phase, instance numbers in step)",
            ),
        ):
            if left:
                action = "left out; the first of each place is kept"
                finding = self._leave(rows[np.array(left)], "warning", code, text, action)
                for draft in family:
                    draft.findings.append(finding)

    # Mosaics: many slices in one frame

    def _mosaics(self, group: Group) -> None:
        tags, rows = self.tags, group.rows
        position = self.geometry.position[rows]
        places = cluster(np.where(np.isfinite(position), position, 0.0), self.tolerances.same_place_mm)
        found = separate(tags.take(rows), places, self.tolerances)
        family = []
        for part in found.parts:
            for row in rows[part.rows]:
                draft = self._mosaic(int(row))
                draft.splits = part.splits
                family.append(draft)
        if len(found.parts) > 1:
            self._number_phases(family, found, len(np.unique(places)))
        self._report_repeats(family, found, rows)
        self._add(family, group.splits)

    def _mosaic(self, row: int) -> Draft:
        tags, rows = self.tags, np.array([row])
        height, width = int(tags.number("rows")[row]), int(tags.number("columns")[row])
        draft = Draft(rows, "none", (1, height, width), 0)
        count, plane_normal = tags.number("mosaic_tiles")[row], tags.vector("mosaic_normal")[row]
        between = abs(float(tags.number("spacing_between_slices")[row]))
        possible = 1 <= count <= min(_MOST_TILES, min(height, width) ** 2)
        known = possible and float(np.linalg.norm(plane_normal)) > 0.5 and self.geometry.state[row] == 0
        if not known or not SPACING_MM[0] <= between <= SPACING_MM[1]:
            missing = "Spacing Between Slices" if known else "slice count and normal (private CSA header) or plane"
            draft.findings.append(
                Finding("error", "mosaic", f"a mosaic of slices in one frame, without {missing}", "kept as one picture")
            )
            return draft
        per_side = int(np.ceil(np.sqrt(count)))
        tiles = Tiles(int(count), per_side, height // per_side, width // per_side)
        frame = Frame.of(self.geometry, rows)
        # The stated position is that of the mosaic laid over the centre of a slice: move to the slice's own corner.
        shift = np.array([width - tiles.columns, height - tiles.rows]) / 2 * frame.spacing[::-1]
        first = self.geometry.position[row] + frame.along_row * shift[0] + frame.down_column * shift[1]
        step = plane_normal / np.linalg.norm(plane_normal) * between
        draft.grid, draft.tiles = "regular" if tiles.slices > 1 else "single", tiles
        draft.shape = (tiles.slices, tiles.rows, tiles.columns)
        draft.affine = affine_of_slices(first, frame.cosines, frame.spacing, step)
        draft.spacing = (between, float(frame.spacing[0]), float(frame.spacing[1]))
        draft.slice_index = np.arange(tiles.slices, dtype=np.float64)
        draft.positions = PointsLps(first + draft.slice_index[:, None] * step)
        draft.findings.append(
            Finding(
                "info",
                "mosaic",
                f"{tiles.slices} slices of {tiles.rows} x {tiles.columns} pixels lie in one frame, {per_side} to a row",
                "shape and affine are those after split_mosaic",
            )
        )
        return draft

    # Frames without a place

    def _without_place(self, group: Group) -> None:
        tags, rows = self.tags, group.rows
        counts = np.maximum(np.nan_to_num(tags.number("frame_count")[rows], nan=1.0), 1.0)
        if (counts > 1).any():
            for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
                self._add([self._cine(row, int(count))], group.splits)
            return
        first = int(rows[0])
        modality, sop_class = tags.text("modality").at(first), tags.text("sop_class_uid").at(first)
        several = bool(np.unique(tags.text("file").codes[rows]).size < len(rows))
        secondary = sop_class.startswith(_SECONDARY_CAPTURE) or bool(is_localizer(tags)[first])
        if not several and (modality not in _TOMOGRAPHIC or secondary):
            self._leave(
                rows, "info", "not-a-volume", "images without a place in the patient, as is usual for their kind"
            )
            return
        location = tags.number("slice_location")[rows]
        by_location = len(rows) > 1 and np.isfinite(location).all() and len(np.unique(location)) == len(rows)
        if by_location:
            rows = rows[np.argsort(location, kind="stable")]
        draft = Draft(rows, "none", (len(rows), *self._size(first)), 0)
        draft.findings.append(
            Finding(
                "warning",
                "missing-geometry" if self.geometry.state[first] == 1 else "impossible-geometry",
                f"expected position, orientation and pixel spacing of {len(rows)} slices, found {self._lacks(first)}",
                f"no affine; ordered by {'Slice Location' if by_location else 'instance number'}",
            )
        )
        self._add([draft], group.splits)

    def _cine(self, row: int, count: int) -> Draft:
        draft = Draft(np.array([row]), "none", (count, *self._size(row)), 0)
        sop_class, modality = self.tags.text("sop_class_uid").at(row), self.tags.text("modality").at(row)
        if sop_class == _SLIDE or sop_class in SEGMENTATIONS:
            level: Level = "info"
            code, text = "slide", f"{count} frames in the coordinates of a slide, or in none"
        elif modality in _TOMOGRAPHIC:
            level, code = "warning", "missing-geometry"
            text = f"expected the place of each of {count} frames in one file, found {self._lacks(row)}"
        else:
            level, code, text = "info", "cine", f"{count} frames over time, without a place in the patient"
        draft.findings.append(Finding(level, code, text, "no affine; in the order of the file"))
        return draft

    def _size(self, row: int) -> tuple[int, int]:
        return int(self.tags.number("rows")[row]), int(self.tags.number("columns")[row])

    def _lacks(self, row: int) -> str:
        if self.geometry.state[row] == 2:
            return "values that cannot be (directions not at 90 degrees, a spacing or position out of range)"
        lacks = [
            name
            for name, column in (
                ("Image Position (Patient)", "image_position_patient"),
                ("Image Orientation (Patient)", "image_orientation_patient"),
                ("Pixel Spacing", "pixel_spacing"),
            )
            if not np.isfinite(self.tags.vector(column)[row, 0])
        ]
        return f"no {', no '.join(lacks)}"

    # Book-keeping

    def _add(self, drafts: Sequence[Draft], splits: tuple[Split, ...]) -> None:
        """Drafts of one family stay together when volumes are numbered."""
        for draft in drafts:
            draft.family = len(self._families)
            draft.splits = splits + draft.splits
            self.drafts.append(draft)
        self._families.append(sum(len(draft.rows) for draft in drafts))

    def _leave(self, rows: Rows, level: Level, code: str, text: str, action: str = "left out") -> Finding:
        finding = Finding(level, code, f"{text}: {len(rows)}", action)
        if len(rows):
            kept = tuple(self.table_rows[rows].tolist())
            self.leftovers.append(Leftover(self.uid, self._frames(rows), kept, finding))
        return finding

    def _frames(self, rows: Rows) -> Sequence[FrameId]:
        files, numbers = self.tags.text("file"), self.tags.number("frame")[rows]
        numbers = np.where(np.isfinite(numbers), numbers, 0)
        counts = self.tags.number("frame_count")[rows]
        if len(rows) == 1 and counts[0] > 1:
            return FrameRange(files.at(int(rows[0])), int(numbers[0]), int(counts[0]))
        values = (*files.values, "")
        return tuple(
            FrameId(values[code], number)
            for code, number in zip(files.codes[rows].tolist(), numbers.astype(np.int64).tolist(), strict=True)
        )

    def volumes(self) -> Iterator[Volume]:
        """The drafts as volumes: the largest family first, phases in order."""
        sizes, localizer = self._families, is_localizer(self.tags)
        drafts = sorted(self.drafts, key=lambda draft: (-sizes[draft.family], draft.family))
        apart = list(dict.fromkeys(split.attribute for draft in drafts for split in draft.splits))
        for number, draft in enumerate(drafts, 1):
            findings = [*self._of_rows(draft.rows), *draft.findings]
            if localizer[draft.rows[0]]:
                findings.append(Finding("info", "localizer", "localizer images", "kept apart from other images"))
            if len(drafts) > 1:
                text = f"volume {number} of {len(drafts)} of the series"
                by = f", set apart by {', '.join(apart)}" if apart else ", set apart by their places"
                findings.append(Finding("info", "split", text + by, "each is a volume of its own"))
            if any(split.attribute == "Units" for split in draft.splits):
                text = "frames of one series are in different units (Units or Rescale Type)"
                findings.append(Finding("warning", "mixed-units", text, "set apart: their values cannot be compared"))
            frames = self._frames(draft.rows)
            yield Volume(
                _id(self.uid, frames),
                self.uid,
                number,
                self.tags.text("modality").at(int(draft.rows[0])),
                draft.grid,
                frames,
                tuple(self.table_rows[draft.rows].tolist()),
                draft.shape,
                draft.affine,
                draft.spacing,
                draft.slice_index,
                draft.positions,
                draft.splits,
                draft.phase,
                draft.phases,
                draft.tiles,
                tuple(findings),
            )

    def _of_rows(self, rows: Rows) -> Iterable[Finding]:
        """Findings that came with the frames, each once."""
        if not self.tags.findings:
            return ()
        return dict.fromkeys(finding for row in rows.tolist() for finding in self.tags.findings.get(row, ()))


def _id(uid: str, frames: Sequence[FrameId]) -> str:
    if isinstance(frames, FrameRange):
        listed = f"{frames.file}:{frames.start}+{frames.length}"
    else:
        listed = "\n".join(f"{file}:{frame}" for file, frame in frames)
    return hashlib.sha256(f"{uid}\n{listed}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
