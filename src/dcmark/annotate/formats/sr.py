"""Structured reports after TID 1500, Imaging Measurement Report (PS3.16): measurements, evaluations, regions, segments.

A measurement group becomes: its region as an annotation (point, line, polygon, ellipse), every number as a measurement
and every code as a label derived from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcmark.annotate import objects
from dcmark.annotate.formats.base import Context, Imported, Written, reading_file, renamed
from dcmark.annotate.formats.seg import date_time
from dcmark.annotate.model import Annotation, Code, Contour, Kind, Label, Target
from dcmark.annotate.objects import DicomObject, code, text
from dcmark.annotate.raster import corners
from dcmark.errors import SourceError
from dcmark.findings import Finding
from dcmark.read.attributes import items, number, numbers, word
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pydicom import Dataset

DEEPEST = 64
MOST_ITEMS = 2_000_000
GROUP = ("125007", "DCM")
FINDING, FINDING_SITE = Code("121071", "DCM", "Finding"), Code("363698007", "SCT", "Finding Site")
FINDING_CATEGORY = Code("276214006", "SCT", "Finding category")
TRACKING_ID = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
REGION = Code("111030", "DCM", "Image Region")
SEGMENT = Code("121191", "DCM", "Referenced Segment")
SEGMENT_FRAME = Code("121214", "DCM", "Referenced Segmentation Frame")
MEASURED_ON = Code("121112", "DCM", "Source of Measurement")
_OLD_SITE = ("G-C0E3", "SRT")
_OLD_CATEGORY = ("G-C29E", "SRT")


def walk(item: Dataset, name: str, depth: int = 0) -> Iterator[Dataset]:
    """A content item and all below it. Raises SourceError where they are nested too deeply."""
    if depth > DEEPEST:
        raise SourceError(f"{name}, content tree: expected at most {DEEPEST} levels, found more")
    yield item
    for child in items(item, "ContentSequence"):
        yield from walk(child, name, depth + 1)


def concept(item: Dataset) -> tuple[str, str]:
    """Value and scheme of a content item's name."""
    found = code(item, "ConceptNameCodeSequence")
    return (found.value, found.scheme) if found is not None else ("", "")


class SrFormat:
    """TID 1500 reports, read from any of the enhanced SR classes, written as Comprehensive 3D SR."""

    name = "sr"
    suffixes = (".dcm",)

    def read(self, source: Path, context: Context) -> Imported:
        """All measurement groups of the report."""
        with reading_file("a structured report", source.name):
            return self.read_object(objects.of_file(source, context.limits), context)

    def read_object(self, found: DicomObject, context: Context) -> Imported:
        """All measurement groups of the report."""
        if not found.sop_class.startswith(objects.SR_PREFIX) or found.sop_class == objects.KOS:
            raise SourceError(f"{found.name}: expected a structured report, found another SOP class")
        return _Reading(found, context).imported()

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """One report a study."""
        from dcmark.annotate.formats.sr_write import write_reports

        return write_reports(annotations, out, context)


class _Reading:
    def __init__(self, found: DicomObject, context: Context) -> None:
        self.found, self.context, self.places = found, context, context.places
        self.dataset, self.name = found.dataset, found.name
        self.findings: list[Finding] = []
        self.author = context.author
        self.nowhere = 0

    def imported(self) -> Imported:
        groups: list[Dataset] = []
        for count, item in enumerate(walk(self.dataset, self.name)):
            if count > MOST_ITEMS:
                raise SourceError(f"{self.name}, content tree: expected at most {MOST_ITEMS} items, found more")
            if concept(item) == GROUP:
                groups.append(item)
            if concept(item) == ("121008", "DCM"):
                self.author = text(item, "PersonName") or self.author
        made: list[Annotation] = []
        for place, group in enumerate(groups):
            made += self._group(group, f"measurement group {place + 1}")
        if not groups:
            text_ = "a report without measurement groups (TID 1500)"
            self.findings.append(Finding("info", "no-groups", text_, "nothing to import"))
        if self.nowhere:
            text_ = f"{self.nowhere} regions lie on images that are not in the archive"
            self.findings.append(Finding("warning", "no-image", text_, "left out, or kept in mm"))
        return Imported(made, findings=self.findings)

    def _group(self, group: Dataset, where: str) -> list[Annotation]:
        children = items(group, "ContentSequence")
        finding = site = category = None
        properties: dict[str, str] = {}
        measured: list[Dataset] = []
        judged: list[Dataset] = []
        regions: list[Dataset] = []
        images: list[FrameId] = []
        segment = ""
        for child in children:
            kind, name = word(child, "ValueType"), concept(child)
            if kind == "NUM":
                measured.append(child)
            elif kind in ("SCOORD", "SCOORD3D"):
                regions.append(child)
            elif kind == "CODE" and name == FINDING[:2]:
                finding = self._coded(child)
            elif kind == "CODE" and name in (FINDING_SITE[:2], _OLD_SITE):
                site = self._coded(child)
            elif kind == "CODE" and name in (FINDING_CATEGORY[:2], _OLD_CATEGORY):
                category = self._coded(child)
            elif name == TRACKING_ID[:2]:
                properties["tracking_id"] = text(child, "TextValue")
            elif name == TRACKING_UID[:2]:
                properties["tracking_uid"] = text(child, "UID")
            elif kind == "IMAGE" and name in (SEGMENT[:2], SEGMENT_FRAME[:2]):
                segment = self._segment(child) or segment
            elif kind == "IMAGE":
                images += self._images(child)
            elif kind == "CODE":
                judged.append(child)
        if segment:
            properties["referenced_segment"] = segment
        if site is not None and site.code is not None:
            properties["anatomic_region"] = "^".join(site.code)
        label = finding or Label(properties.get("tracking_id") or "Measurement group")
        if category is not None:
            label = replace(label, category=category.code)
        common: dict[str, Any] = {
            "author": self.author, "time": date_time(self.dataset), "origin": self.found.uid,
            "status": "reviewed" if word(self.dataset, "VerificationFlag") == "VERIFIED" else "draft",
        }  # fmt: skip
        made: list[Annotation] = []
        region = self._region(regions, label, common, where)
        if region is not None:
            made.append(region.with_properties(**properties))
        frames = list(region.frames) if region is not None else images
        target = region.target if region is not None else self._target(images)
        derived = (region.id,) if region is not None else ()
        for child in measured:
            one = self._measurement(child, target, derived, common, where)
            if one is not None:
                made.append(one.with_properties(**properties, finding=label.name))
        for child in judged:
            one = self._evaluation(child, target, derived, common)
            if one is not None:
                made.append(one.with_properties(**properties, finding=label.name))
        if not made and finding is not None:
            made.append(Annotation("label", target, label, **common).with_properties(**properties))
        del frames
        return made

    def _target(self, images: Sequence[FrameId]) -> Target:
        if images:
            level = "frame" if len(images) == 1 else "series"
            return self.places.target(level, images)  # type: ignore[arg-type]
        return Target("study", text(self.dataset, "PatientID"), text(self.dataset, "StudyInstanceUID"))

    def _coded(self, item: Dataset) -> Label | None:
        found = code(item, "ConceptCodeSequence")
        if found is not None:
            return Label(found.meaning or found.value, found)
        for one in items(item, "ConceptCodeSequence")[:1]:  # a code of our own: a label without one
            return Label(text(one, "CodeMeaning"))
        return None

    def _images(self, item: Dataset) -> list[FrameId]:
        found = []
        for one in items(item, "ReferencedSOPSequence"):
            for number_ in numbers(one, "ReferencedFrameNumber") or [1]:
                uid = text(one, "ReferencedSOPInstanceUID")
                frame = self.places.frame_of_instance(uid, int(number_) - 1)
                if frame is not None:
                    found.append(frame)
        return found

    def _segment(self, item: Dataset) -> str:
        for one in items(item, "ReferencedSOPSequence"):
            worth = number(one, "ReferencedSegmentNumber")
            return f"{text(one, 'ReferencedSOPInstanceUID')}#{int(worth) if worth is not None else ''}"
        return ""

    # -- regions ----------------------------------------------------------------------------------

    def _region(
        self, found: Sequence[Dataset], label: Label, common: dict[str, Any], where: str
    ) -> Annotation | None:  # fmt: skip
        drawn: list[tuple[Kind, Contour]] = []
        for item in found:
            shape = word(item, "GraphicType")
            size = 2 if word(item, "ValueType") == "SCOORD" else 3
            data = numbers(item, "GraphicData")
            if not data or len(data) % size:
                raise SourceError(f"{self.name}, {where}: expected Graphic Data of points, found {len(data)} numbers")
            points = np.array(data, np.float64).reshape(-1, size)
            drawn += self._flat(item, shape, points, where) if size == 2 else self._solid(shape, points)
        kinds = {kind for kind, _ in drawn}
        if not drawn:
            return None
        kind = kinds.pop() if len(kinds) == 1 else "freehand"
        contours = tuple(contour for _, contour in drawn)
        frames = list(dict.fromkeys(c.frame for c in contours if c.frame is not None))
        target = self.places.target("region", frames)
        if not frames:
            target = replace(
                target, patient=text(self.dataset, "PatientID"), study=text(self.dataset, "StudyInstanceUID")
            )
        return Annotation(kind, target, label, contours, **common)

    def _flat(self, item: Dataset, shape: str, points: Any, where: str) -> list[tuple[Kind, Contour]]:
        """SCOORD (PS3.3 C.18.6): column and row from the corner of the first pixel."""
        frames = [
            frame for child in items(item, "ContentSequence") if word(child, "ValueType") == "IMAGE"
            for frame in self._images(child)
        ]  # fmt: skip
        if not frames:
            self.nowhere += 1
            return []
        pixels = points[:, ::-1] - 0.5
        kind, listed, closed = shaped(shape, pixels, self.name, where)
        return [(kind, Contour(listed, frame, closed)) for frame in frames]

    def _solid(self, shape: str, points: Any) -> list[tuple[Kind, Contour]]:
        """SCOORD3D (PS3.3 C.18.9): mm in the patient."""
        if shape == "ELLIPSOID":
            self.findings.append(Finding("warning", "ellipsoid", "an ellipsoid is no contour", "left out"))
            return []
        frame = self.places.nearest(points, list(self.places.volumes.values()), 0.5)
        plane = self.places.plane(frame) if frame is not None else None
        if plane is not None:
            kind, listed, closed = shaped(shape, plane.to_pixels(points)[0], self.name, "SCOORD3D")
            return [(kind, Contour(listed, frame, closed))]
        self.nowhere += 1
        kind, listed, closed = shaped(shape, points, self.name, "SCOORD3D")
        return [(kind, Contour(listed, None, closed))]

    # -- values -----------------------------------------------------------------------------------

    def _measurement(
        self, item: Dataset, target: Target, derived: tuple[str, ...], common: dict[str, Any], where: str
    ) -> Annotation | None:
        name = code(item, "ConceptNameCodeSequence")
        raw = items(item, "ConceptNameCodeSequence")
        for value in items(item, "MeasuredValueSequence")[:1]:
            worth = number(value, "FloatingPointValue")
            worth = number(value, "NumericValue") if worth is None else worth
            if worth is None:
                raise SourceError(f"{self.name}, {where}: expected Numeric Value in a measurement, found none")
            unit = code(value, "MeasurementUnitsCodeSequence")
            meaning = name.meaning if name is not None else (text(raw[0], "CodeMeaning") if raw else "")
            modifiers = {
                f"modifier_{text(items(one, 'ConceptNameCodeSequence')[0], 'CodeMeaning')}": text(
                    items(one, "ConceptCodeSequence")[0], "CodeMeaning"
                )
                for one in items(item, "ContentSequence")
                if word(one, "ValueType") == "CODE" and items(one, "ConceptCodeSequence")
                and items(one, "ConceptNameCodeSequence")
            }  # fmt: skip
            made = Annotation(
                "measurement", target, Label(meaning or "measurement", name), value=worth,
                unit=unit.value if unit is not None else "1", derived_from=derived, **common,
            )  # fmt: skip
            return made.with_properties(**modifiers)
        return None

    def _evaluation(
        self, item: Dataset, target: Target, derived: tuple[str, ...], common: dict[str, Any]
    ) -> Annotation | None:
        found = self._coded(item)
        name = code(item, "ConceptNameCodeSequence")
        raw = items(item, "ConceptNameCodeSequence")
        if found is None:
            return None
        made = Annotation("label", target, found, derived_from=derived, **common)
        about = name.meaning if name is not None else (text(raw[0], "CodeMeaning") if raw else "")
        return made.with_properties(concept=about, concept_code="^".join(name) if name is not None else "")


def shaped(shape: str, points: Any, name: str, where: str) -> tuple[Kind, tuple[tuple[float, ...], ...], bool]:
    """Kind, points and whether closed, of a DICOM graphic type.

    CIRCLE is its centre and a point on it; ELLIPSE the ends of the major, then of the minor axis.
    """
    listed = tuple(map(tuple, points.tolist()))
    if shape in ("POINT", "MULTIPOINT"):
        return "point", listed, False
    if shape == "ELLIPSE" and len(listed) == 4:
        return "ellipse", listed, True
    if shape == "CIRCLE" and len(listed) == 2 and points.shape[1] == 2:
        centre, reach = points[0], points[1] - points[0]
        turned = np.array([-reach[1], reach[0]])
        four = np.stack([centre - reach, centre + reach, centre - turned, centre + turned])
        return "ellipse", tuple(map(tuple, four.tolist())), True
    if shape in ("POLYLINE", "POLYGON", "INTERPOLATED") and listed:
        closed = len(listed) > 2 and listed[0] == listed[-1]
        if closed:
            return ("freehand" if shape == "INTERPOLATED" else "polygon"), listed[:-1], True
        if shape == "POLYGON":
            return "polygon", listed, True
        if len(listed) == 1:
            return "point", listed, False
        return ("freehand" if shape == "INTERPOLATED" else "line"), listed, False
    raise SourceError(f"{name}, {where}: expected a known Graphic Type with its number of points, found another")


def as_graphic(one: Annotation, contour: Contour) -> tuple[str, Any]:
    """(DICOM graphic type, points (row, column)) of a contour; the points of a closed one end where they began."""
    points = np.asarray(contour.points, np.float64)
    if one.kind == "point":
        return ("POINT" if len(points) == 1 else "MULTIPOINT"), points
    if one.kind == "ellipse":
        return "ELLIPSE", points
    if one.kind == "box":
        points = corners("box", contour)
    closed = contour.closed or one.kind == "box"
    if closed:
        points = np.concatenate([points, points[:1]])
    return "POLYLINE", points


def graphic_meant(one: Annotation) -> Annotation:
    """The annotation as a graphic type gives it back: a box as a polygon, a freehand contour as polygon or line."""
    if one.kind == "box":
        drawn = tuple(replace(c, points=tuple(map(tuple, corners("box", c).tolist()))) for c in one.contours)
        return renamed(one, kind="polygon", contours=drawn)
    if one.kind == "freehand":
        return renamed(one, kind="polygon" if all(c.closed for c in one.contours) else "line")
    if one.kind == "point":
        return replace(one, contours=tuple(replace(c, closed=False) for c in one.contours))
    return one
