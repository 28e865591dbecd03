"""DICOM Segmentation (PS3.3 A.51, C.8.20): binary, fractional and label map; written through highdicom.

Frames of a segmentation are put on the images by where they stand in the patient. References to images are used where
the segmentation has no place in the patient (radiographs, slides). Their order in the file says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate import grids, objects
from dcmark.annotate.formats.base import Context, Imported, Written, reading_file
from dcmark.annotate.formats.volumes import VolumeMask, layers, volume_masks
from dcmark.annotate.masks import MaskPlane, make_plane
from dcmark.annotate.model import Annotation, Label
from dcmark.annotate.objects import DicomObject, code, text
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import MissingExtraError, SourceError, UnsupportedError, UsageError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, affine_of_slices
from dcmark.read.attributes import frame_group, frame_items, items, number, numbers, word
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[Any]

_BACKGROUND = ("125040", "DCM")
MOST_OPTIONS = ("binary", "fractional", "labelmap")


@dataclass(slots=True)
class _Segment:
    number: int
    label: Label
    properties: dict[str, str]
    tool: str
    planes: dict[FrameId, Array] = field(default_factory=dict)
    volume: StoredVolume | None = None


class SegFormat:
    """DICOM SEG. Option ``type``: ``binary`` (default), ``fractional`` or ``labelmap``."""

    name = "seg"
    suffixes = (".dcm", ".seg")

    def read(self, source: Path, context: Context) -> Imported:
        """Every segment of the file as a mask."""
        with reading_file("a DICOM segmentation", source.name):
            return self.read_object(objects.of_file(source, context.limits), context)

    def read_object(self, found: DicomObject, context: Context) -> Imported:
        """Every segment of the object as a mask."""
        if found.sop_class not in (objects.SEG, objects.LABEL_MAP):
            raise SourceError(f"{found.name}: expected a DICOM segmentation, found another SOP class")
        return _Reading(found, context).imported()

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """One object a volume; where a label map cannot hold masks that overlap, several."""
        try:
            import highdicom  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("highdicom", "annotate", "writing DICOM segmentations") from error
        kind = context.options.get("type", "binary").lower()
        if kind not in MOST_OPTIONS:
            raise UsageError(f"expected binary, fractional or labelmap for the option type, found {kind!r}")
        written = Written(exact_labels=True)
        for volume_id, masks in volume_masks(annotations, context, written, binary=kind != "fractional").items():
            volume = context.places.volumes[volume_id]
            groups = layers(masks) if kind == "labelmap" else _by_levels(masks, kind)
            for place, group in enumerate(groups, 1):
                path = out / (f"{volume_id}.dcm" if len(groups) == 1 else f"{volume_id}_{place}.dcm")
                from dcmark.annotate.formats.seg_write import write_seg

                write_seg(path, volume, group, kind, context)
                written.files.append(path)
                written.meant += [one.annotation for one in group]
        return written


def _by_levels(masks: Sequence[VolumeMask], kind: str) -> list[list[VolumeMask]]:
    """Fractional objects hold one Maximum Fractional Value."""
    if kind == "binary":
        return [list(masks)]
    groups: dict[int, list[VolumeMask]] = {}
    for one in masks:
        levels = {plane.levels for plane in one.planes.values()}
        if len(levels) > 1:
            raise UnsupportedError("expected the same number of levels in all planes of a mask, found several")
        groups.setdefault(levels.pop(), []).append(one)
    return [groups[level] for level in sorted(groups)]


class _Reading:
    """One object on its way into masks."""

    def __init__(self, found: DicomObject, context: Context) -> None:
        self.found, self.context, self.name = found, context, found.name
        self.dataset = found.dataset
        self.kind = word(self.dataset, "SegmentationType")
        self.levels = 1
        if self.kind == "FRACTIONAL":
            self.levels = int(number(self.dataset, "MaximumFractionalValue") or 255)
            if not 1 <= self.levels <= 255:
                raise SourceError(f"{self.name}: expected Maximum Fractional Value from 1 to 255, found {self.levels}")
        elif self.kind not in ("BINARY", "LABELMAP"):
            raise SourceError(f"{self.name}: expected BINARY, FRACTIONAL or LABELMAP, found another Segmentation Type")
        self.segments = {one.number: one for one in self._segments()}
        self.findings: list[Finding] = []
        self.fits: dict[tuple[float, ...], grids.Fit] = {}
        self.volumes = self._volumes()
        self.padding = number(self.dataset, "PixelPaddingValue")

    def imported(self) -> Imported:
        declared = int(number(self.dataset, "NumberOfFrames") or 1)
        if declared > self.found.frames:
            raise SourceError(
                f"{self.name}: expected {declared} frames, found {self.found.frames}; the file is cut short"
            )
        used: set[str] = set()
        for place in range(declared):
            frame, volume, marked = self._frame(place)
            if marked is None or frame is None:
                continue
            used.add(volume.id if volume is not None else "")
            for segment, chosen in self._split(place, marked):
                known = segment.planes.get(frame)
                segment.planes[frame] = chosen if known is None else np.maximum(known, chosen)
                segment.volume = volume if known is None or segment.volume is volume else None
        author = text(self.dataset, "ContentCreatorName") or self.context.author
        made = []
        for segment in self.segments.values():
            drawn = [self._plane(frame, segment.planes[frame]) for frame in sorted(segment.planes, key=self._order)]
            planes = [one for one in drawn if one is not None]
            if not planes:
                if segment.label.code is None or segment.label.code[:2] != _BACKGROUND:
                    text_ = f"segment {segment.number} marks no pixel"
                    self.findings.append(Finding("info", "empty-segment", text_, "left out"))
                continue
            frames = [plane.frame for plane in planes]
            made.append(
                Annotation(
                    "mask",
                    self.context.places.target(
                        "volume" if segment.volume is not None else "region", frames, segment.volume
                    ),
                    segment.label,
                    mask=planes,
                    author=author,
                    tool=segment.tool,
                    time=date_time(self.dataset),
                    origin=self.found.uid,
                ).with_properties(**segment.properties)
            )
        return Imported(made, findings=self.findings)

    def _plane(self, frame: FrameId, marked: Array) -> MaskPlane | None:
        return make_plane(frame, marked, self.levels)

    def _order(self, frame: FrameId) -> tuple[str, int, int]:
        found = self.context.places.slice_of(frame)
        return ("", frame.frame, 0) if found is None else (found[0].id, found[1], 0)

    # -- the header -------------------------------------------------------------------------------

    def _segments(self) -> list[_Segment]:
        found = []
        for item in items(self.dataset, "SegmentSequence"):
            worth = number(item, "SegmentNumber")
            if worth is None:
                raise SourceError(f"{self.name}, SegmentSequence: expected Segment Number, found none")
            colour = objects.rgb_of_lab(numbers(item, "RecommendedDisplayCIELabValue"))
            kind = code(item, "SegmentedPropertyTypeCodeSequence")
            category = code(item, "SegmentedPropertyCategoryCodeSequence") if kind is not None else None
            name = text(item, "SegmentLabel") or (kind.meaning if kind else "") or str(int(worth))
            properties = {
                "algorithm_type": text(item, "SegmentAlgorithmType"),
                "algorithm_name": text(item, "SegmentAlgorithmName"),
                "tracking_id": text(item, "TrackingID"),
                "tracking_uid": text(item, "TrackingUID"),
                "segment_number": str(int(worth)),
                "description": text(item, "SegmentDescription"),
            }
            region = code(item, "AnatomicRegionSequence")
            if region is not None:
                properties["anatomic_region"] = "^".join(region)
            label = Label(name, kind, category, colour)
            found.append(_Segment(int(worth), label, properties, properties["algorithm_name"]))
        if not found:
            raise SourceError(f"{self.name}: expected at least one item in SegmentSequence, found none")
        return found

    def _volumes(self) -> list[StoredVolume]:
        """Volumes the object may belong to: of the series it names, else in its frame of reference."""
        places = self.context.places
        named = [text(item, "SeriesInstanceUID") for item in items(self.dataset, "ReferencedSeriesSequence")]
        found = places.of_series(named) or places.in_frame_of_reference(text(self.dataset, "FrameOfReferenceUID"))
        study = text(self.dataset, "StudyInstanceUID")
        if not found and study:
            found = [one for one in places.volumes.values() if self._study(one) == study]
        return self.context.candidates(found) if found or self.context.volumes else []

    def _study(self, volume: StoredVolume) -> str:
        return str(self.context.places.file(volume.frames[0].file)["study_instance_uid"] or "")

    # -- frames -----------------------------------------------------------------------------------

    def _frame(self, place: int) -> tuple[FrameId | None, StoredVolume | None, Array | None]:
        """The image a frame of the object lies on, its volume, and the pixels there."""
        marked = self.found.frame(place)
        if marked.ndim != 2:
            raise SourceError(f"{self.name}, frame {place}: expected one value a pixel, found several")
        if not marked.any():
            return None, None, None
        affine = self._affine(place)
        placed = [one for one in self.volumes if one.affine is not None]
        if affine is not None and placed:
            fit = self._fit(affine, marked.shape, placed, place)
            if fit.axes[0] != 0:
                raise UnsupportedError(
                    f"{self.name}, frame {place}: expected frames parallel to the slices of the images, found others"
                )
            turned = marked if fit.axes[1] == 1 else marked.T
            plane = grids.Placer(fit, 1, f"{self.name}, frame {place}").put(0, turned.astype(np.uint8), levels=255)
            return (None, None, None) if plane is None else (plane.frame, fit.volume, plane.array())
        frame = self._referenced(place)
        if frame is None:
            hint = "" if affine is None else f" The frame: {grids.describe(affine, (1, *marked.shape))}."
            raise UsageError(
                f"{self.name}, frame {place}: expected images of the archive that the segmentation belongs to, found "
                f"none by series, frame of reference, study or reference; ingest the images first.{hint}"
            )
        if marked.shape != self.context.places.size(frame):
            raise SourceError(
                f"{self.name}, frame {place}: expected the size of the image it refers to "
                f"{self.context.places.size(frame)}, found {marked.shape}"
            )
        found = self.context.places.slice_of(frame)
        return frame, None if found is None else found[0], marked

    def _affine(self, place: int) -> AffineLps | None:
        """Where a frame stands (PS3.3 C.7.6.16.2); None where it does not say."""
        position = numbers(frame_group(self.dataset, place, "PlanePositionSequence"), "ImagePositionPatient")
        cosines = numbers(frame_group(self.dataset, place, "PlaneOrientationSequence"), "ImageOrientationPatient")
        measures = frame_group(self.dataset, place, "PixelMeasuresSequence")
        spacing = numbers(measures, "PixelSpacing")
        if not (len(position) == 3 and len(cosines) == 6 and len(spacing) == 2):
            return None
        thickness = number(measures, "SpacingBetweenSlices") or number(measures, "SliceThickness") or 1.0
        try:
            return affine_of_slices(position, cosines, spacing, abs(thickness) or 1.0)
        except UsageError as error:
            raise SourceError(f"{self.name}, frame {place}: {error}") from error

    def _fit(
        self, affine: AffineLps, shape: tuple[int, ...], volumes: Sequence[StoredVolume], place: int
    ) -> grids.Fit:  # fmt: skip
        reference = self._referenced(place)
        if reference is not None:
            # Repeated volumes (phases) stand on the same grid: the reference says which one is meant.
            found = self.context.places.slice_of(reference)
            if found is not None and grids.fit(affine, (1, *shape), found[0]) is not None:
                volumes = [found[0]]
        return grids.choose(affine, (1, *shape), volumes, f"{self.name}, frame {place}")

    def _referenced(self, place: int) -> FrameId | None:
        """The image that a frame names as its source (PS3.3 C.7.6.16.2.6)."""
        for derivation in frame_items(self.dataset, place, "DerivationImageSequence"):
            for source in items(derivation, "SourceImageSequence"):
                frame = int(number(source, "ReferencedFrameNumber") or 1) - 1
                found = self.context.places.frame_of_instance(text(source, "ReferencedSOPInstanceUID"), frame)
                if found is not None:
                    return found
        named = [
            text(one, "ReferencedSOPInstanceUID")
            for series in items(self.dataset, "ReferencedSeriesSequence")
            for one in items(series, "ReferencedInstanceSequence")
        ]
        found = self.context.places.frame_of_instance(named[0], place) if len(named) == 1 else None
        tiles = "TotalPixelMatrixRows" in self.dataset
        return found if found is not None and (tiles or int(number(self.dataset, "NumberOfFrames") or 1) == 1) else None

    def _split(self, place: int, marked: Array) -> list[tuple[_Segment, Array]]:
        """The segments in a frame, each with its pixels."""
        if self.kind != "LABELMAP":
            group = frame_group(self.dataset, place, "SegmentIdentificationSequence")
            worth = number(group, "ReferencedSegmentNumber")
            segment = self.segments.get(int(worth)) if worth is not None else None
            if segment is None:
                if worth is None and len(self.segments) == 1:
                    segment = next(iter(self.segments.values()))
                else:
                    raise SourceError(
                        f"{self.name}, frame {place}: expected the number of a segment, found one that is not listed"
                    )
            if self.levels > 1 and int(marked.max()) > self.levels:
                raise SourceError(
                    f"{self.name}, frame {place}: expected values up to {self.levels}, found {int(marked.max())}"
                )
            return [(segment, marked.astype(np.uint8) if self.levels > 1 else (marked != 0).astype(np.uint8))]
        found = []
        for worth in np.unique(marked).tolist():
            segment = self.segments.get(int(worth))
            if worth == 0 or (self.padding is not None and worth == self.padding):
                continue
            if segment is None:
                raise SourceError(
                    f"{self.name}, frame {place}: expected the numbers of segments, found {int(worth)}, which is none"
                )
            if segment.label.code is None or segment.label.code[:2] != _BACKGROUND:
                found.append((segment, (marked == worth).astype(np.uint8)))
        return found


def date_time(dataset: Dataset, which: str = "Content") -> str:
    """Content Date and Time (or those of another name) as ISO 8601; empty where they are none."""
    from datetime import datetime

    day, clock = text(dataset, f"{which}Date"), text(dataset, f"{which}Time").partition(".")[0]
    try:
        return datetime.strptime(f"{day} {clock or '000000'}", "%Y%m%d %H%M%S").isoformat()  # noqa: DTZ007
    except ValueError:
        return ""
