"""Where frames stand: from pixels of a frame to mm in the patient and back, from UIDs to frames.

Pixels are (row, column) with whole numbers at centres; mm are (x, y, z), LPS (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcmark.annotate.model import Level, Target
from dcmark.archive.store import Archive
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import UnsupportedError, UsageError
from dcmark.geometry import directions
from dcmark.read.volume_model import FrameId

Floats = NDArray[np.float64]

_COLUMNS = (
    "sha256", "patient_id", "study_instance_uid", "series_instance_uid", "sop_instance_uid",
    "sop_class_uid", "modality", "kind", "frames", "number_of_frames", "rows", "columns", "frame_of_reference_uid",
    "image_position_patient", "image_orientation_patient", "pixel_spacing", "instance_number",
)  # fmt: skip
MOST_FRAMES_INDEXED = 50_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Where the pixels of one frame are.

    Attributes:
        origin: centre of the first pixel, mm, LPS.
        down, across: steps to the next row and the next column, mm.
    """

    origin: Floats
    down: Floats
    across: Floats

    def to_mm(self, points: ArrayLike) -> Floats:
        """(..., 2) pixels (row, column) to (..., 3) mm."""
        pixels = np.asarray(points, np.float64)
        return self.origin + pixels[..., :1] * self.down + pixels[..., 1:2] * self.across

    def to_pixels(self, points: ArrayLike) -> tuple[Floats, Floats]:
        """(..., 3) mm to (..., 2) pixels (row, column), and how far off the plane each point is, mm (signed)."""
        steps = np.stack([self.down, self.across, self.normal], axis=1)
        found = (np.asarray(points, np.float64) - self.origin) @ np.linalg.inv(steps).T
        return found[..., :2], found[..., 2]

    @property
    def normal(self) -> Floats:
        """Unit normal: row direction x column direction."""
        normal = np.cross(self.across, self.down)
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def spacing(self) -> tuple[float, float]:
        """mm between rows, between columns."""
        return float(np.linalg.norm(self.down)), float(np.linalg.norm(self.across))


class Places:
    """The frames of an archive by what they are called and where they stand; made once for an import or export."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    # -- files ------------------------------------------------------------------------------------

    @cached_property
    def _files(self) -> dict[str, dict[str, Any]]:
        rows = self.archive.read("files", _COLUMNS).to_pylist()
        seen = self.archive.read("paths", ["path", "patient", "sha256"], "sha256 IS NOT NULL")
        first: dict[bytes, tuple[str, str]] = {}
        for path, patient, sha256 in zip(*(column.to_pylist() for column in seen.columns), strict=True):
            if sha256 not in first or path < first[sha256][0]:
                first[sha256] = (path, patient)
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            path, patient = first.get(row["sha256"], ("", ""))
            digest = row["sha256"].hex()
            found.setdefault(digest, {**row, "sha256": digest, "path": path, "patient": patient})
        return found

    @cached_property
    def _instances(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for sha256, row in self._files.items():
            if row["sop_instance_uid"]:
                found.setdefault(row["sop_instance_uid"], []).append(sha256)
        return found

    def file(self, sha256: str) -> dict[str, Any]:
        """Columns of a file. Raises UsageError where the archive has none of that hash."""
        if sha256 not in self._files:
            raise UsageError(f"expected the SHA-256 of a file of the archive, found {sha256!r}, which is not there")
        return self._files[sha256]

    def known(self, *columns: str) -> dict[str, str]:
        """For each value of a column (or of the next ones, where it is empty) one file that has it."""
        found: dict[str, str] = {}
        for sha256, row in self._files.items():
            for column in columns:
                if row[column]:
                    found.setdefault(str(row[column]), sha256)
        return found

    def frame_of_instance(self, sop_instance_uid: str, frame: int = 0) -> FrameId | None:
        """A frame by the UID of its instance and its number from 0; None where it is not in the archive.

        Where several files carry one UID, that which stands in a volume is taken.
        """
        files = self._instances.get(sop_instance_uid, [])
        there = [sha256 for sha256 in files if frame < max(1, self._files[sha256]["frames"] or 0)]
        placed = [sha256 for sha256 in there if FrameId(sha256, frame) in self._slices] if len(there) > 1 else there
        chosen = (placed or there)[:1]
        return FrameId(chosen[0], frame) if chosen else None

    def file_of_instance(self, sop_instance_uid: str) -> str | None:
        """SHA-256 of the file of an instance, whether it has frames or not."""
        return next(iter(self._instances.get(sop_instance_uid, ())), None)

    def instance(self, frame: FrameId) -> tuple[str, str]:
        """(SOP Class UID, SOP Instance UID) of a frame's file.

        Raises:
            UnsupportedError: it has none, for it is no DICOM file.
        """
        row = self.file(frame.file)
        if not row["sop_instance_uid"] or not row["sop_class_uid"]:
            raise UnsupportedError(
                "expected annotations on DICOM images for a DICOM object, found them on a file without a SOP Instance "
                "UID; export to another format"
            )
        return row["sop_class_uid"], row["sop_instance_uid"]

    def size(self, frame: FrameId) -> tuple[int, int]:
        """(rows, columns) of a frame."""
        row = self.file(frame.file)
        if not row["rows"] or not row["columns"]:
            raise UsageError("expected a frame with pixels, found a file without; check the frame of the annotation")
        return int(row["rows"]), int(row["columns"])

    @cached_property
    def by_path(self) -> dict[str, list[str]]:
        """Files by path, and by the last part of it."""
        found: dict[str, list[str]] = {}
        seen = self.archive.read("paths", ["path", "sha256"], "sha256 IS NOT NULL")
        for path, sha256 in zip(*(column.to_pylist() for column in seen.columns), strict=True):
            for name in dict.fromkeys((path, path.rpartition("/")[2])):
                found.setdefault(name, []).append(sha256.hex())
        return found

    # -- volumes ----------------------------------------------------------------------------------

    @cached_property
    def volumes(self) -> dict[str, StoredVolume]:
        """Volumes of the archive by id; no segmentations, which are no images."""
        return {one.id: one for one in self.archive.volumes("modality IS NULL OR modality <> 'SEG'")}

    @cached_property
    def _slices(self) -> dict[FrameId, tuple[str, int]]:
        """Volume and slice of every frame that has a place in one."""
        found: dict[FrameId, tuple[str, int]] = {}
        for name, volume in self.volumes.items():
            if volume.tiles is None and len(found) + len(volume.frames) <= MOST_FRAMES_INDEXED:
                found.update((frame, (name, k)) for k, frame in enumerate(volume.frames))
        return found

    def slice_of(self, frame: FrameId) -> tuple[StoredVolume, int] | None:
        """The volume a frame stands in, and its number there."""
        found = self._slices.get(frame)
        return None if found is None else (self.volumes[found[0]], found[1])

    def volume_of(self, frames: Iterable[FrameId]) -> StoredVolume | None:
        """The one volume that all frames stand in; None where there is none."""
        names = {self._slices[frame][0] if frame in self._slices else "" for frame in frames}
        name = names.pop() if len(names) == 1 else ""
        return self.volumes.get(name)

    def of_series(self, series: Iterable[str]) -> list[StoredVolume]:
        """Volumes of series."""
        wanted = set(series)
        return [one for one in self.volumes.values() if one.series_instance_uid in wanted and wanted]

    def in_frame_of_reference(self, uid: str) -> list[StoredVolume]:
        """Volumes of which a frame names this Frame of Reference."""
        if not uid:
            return []
        return [one for one in self.volumes.values() if self.reference(one.frames[0]) == uid]

    def reference(self, frame: FrameId) -> str:
        """Frame of Reference UID of a frame's file; empty where it has none."""
        return str(self.file(frame.file)["frame_of_reference_uid"] or "")

    # -- geometry ---------------------------------------------------------------------------------

    def plane(self, frame: FrameId) -> Plane | None:
        """Where a frame stands; None where its file does not say."""
        found = self.slice_of(frame)
        if found is not None:
            volume, k = found
            if volume.affine is None or volume.positions is None:
                return self._own_plane(frame)
            return Plane(np.asarray(volume.positions[k]), volume.affine[:3, 1], volume.affine[:3, 2])
        return self._own_plane(frame)

    def _own_plane(self, frame: FrameId) -> Plane | None:
        """By the attributes of a file with one frame."""
        row = self.file(frame.file)
        position, cosines, spacing = (
            row[name] for name in ("image_position_patient", "image_orientation_patient", "pixel_spacing")
        )
        whole = len(position or ()) == 3 and len(cosines or ()) == 6 and len(spacing or ()) == 2
        if not whole or (row["number_of_frames"] or 1) > 1:
            return None
        try:
            across, down = directions(cosines)
        except UsageError:
            return None
        if min(spacing) <= 0 or not np.isfinite([*position, *spacing]).all():
            return None
        return Plane(np.array(position, np.float64), down * spacing[0], across * spacing[1])

    def nearest(self, points: Floats, volumes: Sequence[StoredVolume], within: float = 0.5) -> FrameId | None:
        """The frame whose plane holds all points.

        Args:
            points: (n, 3) mm.
            volumes: to look in.
            within: largest distance from the plane, as a part of the distance between slices.
        """
        best: tuple[float, FrameId] | None = None
        for volume in volumes:
            if volume.affine is None or volume.positions is None or volume.spacing is None:
                continue
            normal = np.cross(volume.affine[:3, 2], volume.affine[:3, 1])
            normal = normal / np.linalg.norm(normal)
            heights = volume.positions @ normal
            off = points @ normal
            k = int(np.argmin(np.abs(heights - off.mean())))
            distance = float(np.abs(off - heights[k]).max())
            if distance <= within * volume.spacing[0] and (best is None or distance < best[0] - 1e-6):
                best = distance, FrameId(*volume.frames[k])
        return None if best is None else best[1]

    # -- targets ----------------------------------------------------------------------------------

    def target(self, level: Level, frames: Sequence[FrameId] = (), volume: StoredVolume | None = None) -> Target:
        """A target filled in from frames of one patient, as far as they agree."""
        if not frames and volume is not None:
            frames = [volume.frames[0]]
        rows = [self.file(file) for file in dict.fromkeys(frame.file for frame in frames)]

        def common(*names: str) -> str:
            values = {next((str(row[name]) for name in names if row[name]), "") for row in rows}
            return values.pop() if len(values) == 1 else ""

        one = frames[0] if len(frames) == 1 and level in ("instance", "frame", "region") else None
        if volume is None and level in ("volume", "frame", "region") and frames:
            volume = self.volume_of(frames)
        return Target(
            level,
            common("patient_id", "patient"),
            common("study_instance_uid") if level != "patient" else "",
            common("series_instance_uid") if level not in ("patient", "study") else "",
            volume.id if volume is not None and level not in ("patient", "study", "series") else "",
            one.file if one is not None else "",
            one.frame if one is not None and level != "instance" else None,
        )
