"""RT Structure Set (PS3.3 A.19, C.8.8.5, C.8.8.6): contours in mm, holes by exclusive or."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcmark.annotate import objects
from dcmark.annotate.formats.base import Context, Imported, Written, reading_file, renamed
from dcmark.annotate.formats.dicom_write import begin, dataset, now, person, reference, save, sequence
from dcmark.annotate.formats.seg import date_time
from dcmark.annotate.formats.volumes import REGION_KINDS
from dcmark.annotate.model import Annotation, Contour, Kind, Label
from dcmark.annotate.objects import DicomObject, code, text
from dcmark.annotate.raster import INSET, corners, polygons_of, regions
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import SourceError
from dcmark.findings import Finding
from dcmark.read.attributes import items, number, numbers, word
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pydicom import Dataset

_KINDS: dict[str, Kind] = {
    "CLOSED_PLANAR": "polygon", "CLOSEDPLANAR_XOR": "polygon", "OPEN_PLANAR": "line", "OPEN_NONPLANAR": "line",
    "POINT": "point",
}  # fmt: skip
_DETACHED_PROCEDURE = "1.2.840.10008.3.1.2.3.1"
WITHIN = 0.5
"""Of the distance between slices: how far a contour may stand off the image it is put on."""


class RtStructFormat:
    """RTSTRUCT."""

    name = "rtstruct"
    suffixes = (".dcm",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every region of interest, an annotation for each kind of contour it has."""
        with reading_file("an RT structure set", source.name):
            return self.read_object(objects.of_file(source, context.limits), context)

    def read_object(self, found: DicomObject, context: Context) -> Imported:
        """Every region of interest of the object."""
        if found.sop_class != objects.RTSTRUCT:
            raise SourceError(f"{found.name}: expected an RT structure set, found another SOP class")
        return _Reading(found, context).imported()

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """One object a volume. Masks become their outlines; programs that fill them find the same pixels."""
        written = Written(exact_labels=True)
        by_volume: dict[str, list[Annotation]] = {}
        for one in annotations:
            drawn = self._drawn(one, context, written)
            if drawn is not None:
                volume = context.places.volume_of(drawn.frames)
                if volume is None or volume.positions is None:
                    written.leave_out(one, "its frames stand in no volume with a place in the patient, or in several")
                    continue
                by_volume.setdefault(volume.id, []).append(drawn)
        for volume_id, drawn_here in by_volume.items():
            path = out / f"{volume_id}.dcm"
            _write(path, context.places.volumes[volume_id], drawn_here, context)
            written.files.append(path)
            written.meant += drawn_here
        return written

    def _drawn(self, one: Annotation, context: Context, written: Written) -> Annotation | None:
        """An annotation as contours that the object can hold."""
        if one.kind not in (*REGION_KINDS, "line", "point"):
            written.leave_out(one, "the format holds regions, lines and points only")
            return None
        if any(contour.frame is None for contour in one.contours):
            written.leave_out(one, "contours in mm that lie on no frame")
            return None
        if one.kind == "mask":
            masks = regions(one, context.places.size)
            return renamed(one, kind="polygon", mask=(), contours=polygons_of(list(masks.items()), INSET))
        if one.kind in ("box", "ellipse"):
            drawn = tuple(
                Contour(tuple(map(tuple, corners(one.kind, contour).tolist())), contour.frame)
                for contour in one.contours
            )
            return renamed(one, kind="polygon", contours=drawn)
        if one.kind == "freehand":
            closed = {contour.closed for contour in one.contours}
            if len(closed) > 1:
                written.leave_out(one, "open and closed contours in one annotation")
                return None
            return renamed(one, kind="polygon" if closed == {True} else "line")
        if one.kind == "point":
            apart = [Contour((point,), c.frame, False) for c in one.contours for point in c.points]
            return replace(one, contours=tuple(apart))
        return one


class _Reading:
    def __init__(self, found: DicomObject, context: Context) -> None:
        self.found, self.context, self.places = found, context, context.places
        self.dataset, self.name = found.dataset, found.name
        self.findings: list[Finding] = []
        self.volumes = self._volumes()
        self.off_plane = self.nowhere = 0

    def _volumes(self) -> list[StoredVolume]:
        series, frames_of_reference = [], []
        for one in items(self.dataset, "ReferencedFrameOfReferenceSequence"):
            frames_of_reference.append(text(one, "FrameOfReferenceUID"))
            for study in items(one, "RTReferencedStudySequence"):
                series += [text(s, "SeriesInstanceUID") for s in items(study, "RTReferencedSeriesSequence")]
        found = self.places.of_series(series)
        for uid in frames_of_reference:
            found = found or self.places.in_frame_of_reference(uid)
        if self.context.volumes:
            return self.context.candidates()
        return found

    def imported(self) -> Imported:
        rois = {
            int(number(one, "ROINumber") or 0): one for one in items(self.dataset, "StructureSetROISequence")
        }  # fmt: skip
        observed = {
            int(number(one, "ReferencedROINumber") or 0): one
            for one in items(self.dataset, "RTROIObservationsSequence")
        }
        made: list[Annotation] = []
        for place, roi in enumerate(items(self.dataset, "ROIContourSequence")):
            worth = number(roi, "ReferencedROINumber")
            if worth is None or int(worth) not in rois:
                raise SourceError(
                    f"{self.name}, ROIContourSequence item {place + 1}: expected the number of a listed region, found "
                    "another"
                )
            made += self._annotations(place, roi, rois[int(worth)], observed.get(int(worth)))
        if self.off_plane:
            text_ = f"{self.off_plane} contours stand off the image they name"
            self.findings.append(Finding("warning", "reference-off", text_, "put on the image they stand on"))
        if self.nowhere:
            text_ = f"{self.nowhere} contours stand on no image of the archive"
            self.findings.append(Finding("warning", "no-image", text_, "kept in mm"))
        return Imported(made, findings=self.findings)

    def _annotations(self, place: int, roi: Dataset, about: Dataset, observed: Dataset | None) -> list[Annotation]:
        by_kind: dict[Kind, list[Contour]] = {}
        contours = items(roi, "ContourSequence")
        for i, one in enumerate(contours):
            where = f"ROIContourSequence item {place + 1}, ContourSequence item {i + 1}"
            kind = _KINDS.get(word(one, "ContourGeometricType"))
            if kind is None:
                raise SourceError(f"{self.name}, {where}: expected a known Contour Geometric Type, found another")
            by_kind.setdefault(kind, []).extend(self._contours(one, kind, where))
        name = text(about, "ROIName") or f"ROI {int(number(about, 'ROINumber') or 0)}"
        if not contours:
            text_ = f"region {int(number(about, 'ROINumber') or 0)} has no contours"
            self.findings.append(Finding("info", "empty-region", text_, "left out"))
        coded = code(observed, "RTROIIdentificationCodeSequence") if observed is not None else None
        colour = numbers(roi, "ROIDisplayColor")
        good = len(colour) == 3 and all(0 <= part <= 255 for part in colour)
        shown = "#" + "".join(f"{int(part):02x}" for part in colour) if good else ""
        made = []
        for kind, drawn in by_kind.items():
            frames = list(dict.fromkeys(c.frame for c in drawn if c.frame is not None))
            target = self.places.target("region", frames)
            if not frames:
                target = replace(
                    target, patient=text(self.dataset, "PatientID"), study=text(self.dataset, "StudyInstanceUID")
                )
            made.append(
                Annotation(
                    kind,
                    target,
                    Label(name, coded, colour=shown),
                    tuple(drawn),
                    author=text(self.dataset, "OperatorsName") or self.context.author,
                    time=date_time(self.dataset, "StructureSet"),
                    origin=self.found.uid,
                ).with_properties(
                    roi_number=str(int(number(about, "ROINumber") or 0)),
                    algorithm_type=text(about, "ROIGenerationAlgorithm"),
                    interpreted_type=text(observed, "RTROIInterpretedType") if observed is not None else "",
                )
            )
        return made

    def _contours(self, one: Dataset, kind: Kind, where: str) -> list[Contour]:
        data = numbers(one, "ContourData")
        if len(data) % 3 or not data:
            raise SourceError(f"{self.name}, {where}: expected triples of numbers in Contour Data, found {len(data)}")
        points = np.array(data, np.float64).reshape(-1, 3)
        frame, pixels = self._on_image(one, points)
        closed = kind == "polygon"
        if closed and len(points) > 1 and np.array_equal(points[0], points[-1]):
            points, pixels = points[:-1], None if pixels is None else pixels[:-1]
        listed = tuple(map(tuple, (points if pixels is None else pixels).tolist()))
        if kind == "point":
            return [Contour((point,), frame, False) for point in listed]
        return [Contour(listed, frame, closed)]

    def _on_image(self, one: Dataset, points: Any) -> tuple[FrameId | None, Any]:
        """The image a contour lies on and its points there; (None, None) where it lies on none."""
        named: FrameId | None = None
        for image in items(one, "ContourImageSequence"):
            number_ = int(number(image, "ReferencedFrameNumber") or 1) - 1
            named = named or self.places.frame_of_instance(text(image, "ReferencedSOPInstanceUID"), number_)
        if named is not None:
            plane = self.places.plane(named)
            if plane is not None:
                pixels, off = plane.to_pixels(points)
                if float(np.abs(off).max()) <= WITHIN * self._step(named):
                    return named, pixels
                self.off_plane += 1
        near = self._volumes_near(named)
        frame = self.places.nearest(points, near, WITHIN) if near else None
        if frame is None:
            self.nowhere += 1
            return None, None
        plane = self.places.plane(frame)
        assert plane is not None
        return frame, plane.to_pixels(points)[0]

    def _volumes_near(self, named: FrameId | None) -> list[StoredVolume]:
        if self.volumes or named is None:
            return self.volumes
        found = self.places.slice_of(named)
        return [] if found is None else [found[0]]

    def _step(self, frame: FrameId) -> float:
        found = self.places.slice_of(frame)
        spacing = found[0].spacing if found is not None else None
        return 1.0 if spacing is None else max(float(spacing[0]), 0.02)


# Writing --------------------------------------------------------------------------------------------------------------


def _write(path: Path, volume: StoredVolume, drawn: Sequence[Annotation], context: Context) -> None:
    from pydicom.uid import generate_uid

    places = context.places
    made = begin(context, volume.frames[0].file, objects.RTSTRUCT, "RTSTRUCT", 1, "Structures")
    moment = now()
    made.StructureSetLabel, made.StructureSetName = "STRUCTURES", "Structures"
    made.StructureSetDate, made.StructureSetTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    made.ApprovalStatus = "UNAPPROVED"
    made.OperatorsName = person(drawn)
    frame_of_reference = places.reference(volume.frames[0]) or str(generate_uid())
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = frame_of_reference, ""
    study = places.file(volume.frames[0].file)["study_instance_uid"]
    images = [reference(places, FrameId(file, 0)) for file in dict.fromkeys(f.file for f in volume.frames)]
    for image in images:
        if "ReferencedFrameNumber" in image:
            del image.ReferencedFrameNumber
    made.ReferencedFrameOfReferenceSequence = sequence(
        [
            dataset(
                FrameOfReferenceUID=frame_of_reference,
                RTReferencedStudySequence=sequence(
                    [
                        dataset(
                            ReferencedSOPClassUID=_DETACHED_PROCEDURE,
                            ReferencedSOPInstanceUID=study,
                            RTReferencedSeriesSequence=sequence(
                                [
                                    dataset(
                                        SeriesInstanceUID=volume.series_instance_uid,
                                        ContourImageSequence=sequence(images),
                                    )
                                ]
                            ),
                        )
                    ]
                ),
            )
        ]
    )
    rois, contours, observations = [], [], []
    for place, one in enumerate(drawn, 1):
        rois.append(
            dataset(
                ROINumber=place,
                ReferencedFrameOfReferenceUID=frame_of_reference,
                ROIName=one.label.name[:64],
                ROIGenerationAlgorithm=one.prop("algorithm_type") or ("AUTOMATIC" if one.tool else "MANUAL"),
            )
        )
        contours.append(_roi(place, one, context))
        observation = dataset(
            ObservationNumber=place,
            ReferencedROINumber=place,
            RTROIInterpretedType=one.prop("interpreted_type"),
            ROIInterpreter="",
        )
        if one.label.code is not None:
            observation.RTROIIdentificationCodeSequence = objects.code_items(one.label.code)
        observations.append(observation)
    made.StructureSetROISequence = sequence(rois)
    made.ROIContourSequence = sequence(contours)
    made.RTROIObservationsSequence = sequence(observations)
    save(made, path)


def _roi(place: int, one: Annotation, context: Context) -> Dataset:
    colour = one.label.colour or "#ff0000"
    geometric = {"polygon": "CLOSED_PLANAR", "line": "OPEN_PLANAR", "point": "POINT"}[one.kind]
    drawn = []
    for contour in one.contours:
        assert contour.frame is not None
        plane = context.places.plane(contour.frame)
        assert plane is not None
        points = plane.to_mm(np.array(contour.points))
        drawn.append(
            dataset(
                ContourImageSequence=sequence([reference(context.places, contour.frame)]),
                ContourGeometricType=geometric,
                NumberOfContourPoints=len(points),
                ContourData=[decimal(value) for value in points.ravel().tolist()],
            )
        )
    return dataset(
        ROIDisplayColor=[int(colour[i : i + 2], 16) for i in (1, 3, 5)],
        ContourSequence=sequence(drawn),
        ReferencedROINumber=place,
    )


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 section 6.2, DS), as near as that allows."""
    for digits in range(14, 0, -1):
        text_ = f"{value:.{digits}g}"
        if len(text_) <= 16:
            return text_
    return f"{value:.8e}"
