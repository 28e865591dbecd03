"""What finding volumes yields: the volumes, what is left over, and the tolerances in force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from dcmark.findings import Finding
from dcmark.geometry import AffineLps, PointsLps

Floats = NDArray[np.float64]

GridKind = Literal["regular", "uneven", "tilted", "single", "none"]
"""How the frames of a volume stand.

- ``regular``: parallel, equally spaced, one above the other along their normal; the affine holds for the array.
- ``tilted``: as regular, but each slice is shifted in its plane against the one before (gantry tilt);
  the affine holds for the array and is sheared.
- ``uneven``: parallel, not equally spaced (slices missing, spacing changing) or shifted irregularly;
  ``slice_index`` says where on the affine each slice stands.
- ``single``: one slice with a place; the thickness stands in for the step to a next one.
- ``none``: no place in the patient is known, or the frames are moments of a cine; no affine.
"""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far real files may stray before it counts, each with its unit.

    Attributes:
        same_place_mm: frames nearer than this stand at the same place, mm; never more than a tenth of a pixel.
        place_mm: how far a slice may stand from its place on the grid, mm. Some scanners round positions to 0.1 mm.
        place_fraction: the same as a fraction of the distance between slices; the larger of both counts,
            and never more than a quarter of that distance.
        angle_degrees: directions nearer than this are the same; slices stacked further than this off their
            normal are tilted.
        largest_tilt_degrees: frames stacked further off their normal than this are no stack at all.
        spacing_fraction: relative difference up to which pixel spacings are the same.
        echo_ms: echo, inversion and trigger times nearer than this are the same, ms.
        b_value: b-values nearer than this are the same, s/mm2.
        off_grid_fraction: at most this part of a stack, and always one frame, may be set aside as off the grid.
        far_steps: a frame at the end of a stack, this many slice distances away from the rest and out of the
            order of instance numbers, is a reference image and no slice after a gap.
        sparse_ratio: slices further apart than this many thicknesses are reported.
    """

    same_place_mm: float = 0.01
    place_mm: float = 0.075
    place_fraction: float = 0.02
    angle_degrees: float = 0.1
    largest_tilt_degrees: float = 45.0
    spacing_fraction: float = 1e-3
    echo_ms: float = 0.01
    b_value: float = 1.0
    off_grid_fraction: float = 0.05
    far_steps: float = 10.0
    sparse_ratio: float = 1.9


TOLERANCES = Tolerances()


class FrameId(NamedTuple):
    """A frame: the key of its file, and its number in the file, from 0."""

    file: str
    frame: int


@dataclass(frozen=True, slots=True)
class FrameRange(Sequence[FrameId]):
    """Consecutive frames of one file, not spelled out: a file may declare millions."""

    file: str
    start: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[FrameId]:
        return (FrameId(self.file, self.start + i) for i in range(self.length))

    @overload
    def __getitem__(self, index: int) -> FrameId: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FrameId]: ...
    def __getitem__(self, index: int | slice) -> FrameId | Sequence[FrameId]:
        numbers = range(self.start, self.start + self.length)[index]
        if isinstance(numbers, int):
            return FrameId(self.file, numbers)
        return tuple(FrameId(self.file, number) for number in numbers)


class Split(NamedTuple):
    """One reason why a volume is not the whole series: an attribute and its value in this volume."""

    attribute: str
    value: str


class Tiles(NamedTuple):
    """A mosaic: slices laid out in one frame, row by row, ``per_side`` to a row of tiles."""

    slices: int
    per_side: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Frames of one series that belong together, in order.

    Attributes:
        id: 16 hexadecimal digits, the same whenever the same frames are put in the same order.
        series_instance_uid: of the series; empty where the files have none.
        number: among the volumes of the series, from 1.
        modality: as the files say.
        grid: how the frames stand, see ``GridKind``.
        frames: in the order of the array's first axis: along the normal (row x column direction), ascending;
            a cine in time.
        table_rows: the rows of the frame table in the same order (one for a whole cine or mosaic).
        shape: (slices, rows, columns) of the array.
        affine: 4 x 4, (slice, row, column, 1) to mm in LPS, ``geometry.AffineLps``; None for grid ``none``.
        spacing: mm between slices (along the normal), rows and columns; None for grid ``none``.
        slice_index: shape (slices,): where each slice stands on the affine's slice axis. 0, 1, 2, ... unless the
            grid is ``uneven`` or has gaps; empty for grid ``none``.
        positions: (slices, 3), mm in LPS: the centre of the first pixel of each slice, as the files say.
        split: why this volume is not the whole series; empty where it is.
        phase, phases: this is volume ``phase`` (from 1) of ``phases`` that repeat the same places.
        tiles: how slices lie in the frame of a mosaic; None for anything else.
        findings: what was noticed, and what was done about it.
    """

    id: str
    series_instance_uid: str
    number: int
    modality: str
    grid: GridKind
    frames: Sequence[FrameId]
    table_rows: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: AffineLps | None
    spacing: tuple[float, float, float] | None
    slice_index: Floats
    positions: PointsLps | None
    split: tuple[Split, ...] = ()
    phase: int = 1
    phases: int = 1
    tiles: Tiles | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def missing(self) -> tuple[int, ...]:
        """Places on the slice axis, between first and last, where a slice is missing.

        Empty where the slices do not stand on whole places at all (spacing that changes).
        """
        places = np.rint(self.slice_index).astype(np.int64)
        if len(places) < 2 or np.abs(self.slice_index - places).max() > 0.25 or places[-1] > 1_000_000:
            return ()
        return tuple(np.setdiff1d(np.arange(places[0], places[-1] + 1), places).tolist())

    def as_dict(self) -> dict[str, Any]:
        """The volume as plain data, for JSON and tables; frames of a cine as their range."""
        if isinstance(self.frames, FrameRange):
            frames: Any = {"file": self.frames.file, "start": self.frames.start, "count": self.frames.length}
        else:
            frames = [list(frame) for frame in self.frames]
        return {
            "id": self.id,
            "series_instance_uid": self.series_instance_uid,
            "number": self.number,
            "modality": self.modality,
            "grid": self.grid,
            "frames": frames,
            "shape": list(self.shape),
            "affine": None if self.affine is None else self.affine.tolist(),
            "spacing": None if self.spacing is None else list(self.spacing),
            "slice_index": self.slice_index.tolist(),
            "split": [split._asdict() for split in self.split],
            "phase": self.phase,
            "phases": self.phases,
            "tiles": None if self.tiles is None else self.tiles._asdict(),
            "findings": [finding.as_dict() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Leftover:
    """Frames that are in no volume, and why.

    Attributes:
        frames: of one series.
        table_rows: their rows in the frame table.
        finding: the reason.
    """

    series_instance_uid: str
    frames: Sequence[FrameId]
    table_rows: tuple[int, ...]
    finding: Finding


@dataclass(frozen=True, slots=True)
class VolumeSet:
    """Everything found in a table of frames: every frame is in one volume or in one leftover.

    Attributes:
        volumes: by series (in the order of their UIDs), then by number.
        leftovers: frames without a volume, with reasons.
    """

    volumes: tuple[Volume, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of volumes and leftovers."""
        own = tuple(finding for volume in self.volumes for finding in volume.findings)
        return own + tuple(leftover.finding for leftover in self.leftovers)
