"""Microscopy Bulk Simple Annotations (PS3.3 A.87, C.37), as far as they lie on frames: 2-D coordinates.

A point of the total pixel matrix lies on the frame (tile) that holds the first point of its annotation; coordinates
count from the corner of the first pixel. Coordinates on the slide in mm (3-D) are left out and said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate import objects
from dcmark.annotate.formats.base import Context, Imported, Written, reading_file
from dcmark.annotate.formats.dicom_write import (
    TISSUE,
    begin,
    dataset,
    header,
    now,
    own_code,
    person,
    save,
    sequence,
)
from dcmark.annotate.formats.seg import date_time
from dcmark.annotate.formats.sr import graphic_meant
from dcmark.annotate.model import Annotation, Contour, Kind, Label
from dcmark.annotate.objects import DicomObject, code, text
from dcmark.annotate.raster import corners
from dcmark.errors import SourceError, UnsupportedError
from dcmark.findings import Finding
from dcmark.read.attributes import frame_group, items, number, word
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pydicom import Dataset

_KINDS: dict[str, Kind] = {
    "POINT": "point", "POLYLINE": "line", "POLYGON": "polygon", "RECTANGLE": "polygon", "ELLIPSE": "ellipse",
}  # fmt: skip
_FIXED = {"POINT": 1, "RECTANGLE": 4, "ELLIPSE": 4}


@dataclass(frozen=True, slots=True)
class _Tiles:
    """How the frames of a slide lie in its total pixel matrix: (row, column) of each corner, from 0."""

    file: str
    rows: int
    columns: int
    corners: dict[tuple[int, int], int]

    def frame_at(self, row: float, column: float) -> tuple[FrameId, int, int] | None:
        """Frame that holds a point, and its corner."""
        top, left = int(row // self.rows) * self.rows, int(column // self.columns) * self.columns
        found = self.corners.get((top, left))
        if found is None:
            for (a, b), frame in self.corners.items():
                if a <= row < a + self.rows and b <= column < b + self.columns:
                    return FrameId(self.file, frame), a, b
            return None
        return FrameId(self.file, found), top, left


def _tiles(context: Context, file: str) -> _Tiles:
    row = context.places.file(file)
    about = header(context, file)
    rows, columns = context.places.size(FrameId(file, 0))
    count = max(1, row["frames"] or 1)
    whole = int(number(about, "TotalPixelMatrixColumns") or columns)
    across = max(1, -(-whole // columns))
    corners_: dict[tuple[int, int], int] = {}
    if items(about, "PerFrameFunctionalGroupsSequence") and word(about, "DimensionOrganizationType") != "TILED_FULL":
        for frame in range(count):
            place = frame_group(about, frame, "PlanePositionSlideSequence")
            top = int(number(place, "RowPositionInTotalImagePixelMatrix") or 1) - 1
            left = int(number(place, "ColumnPositionInTotalImagePixelMatrix") or 1) - 1
            corners_.setdefault((top, left), frame)
    else:
        down = max(1, -(-int(number(about, "TotalPixelMatrixRows") or rows) // rows))
        for frame in range(min(count, across * down)):
            corners_[(frame // across * rows, frame % across * columns)] = frame
    return _Tiles(file, rows, columns, corners_)


class AnnFormat:
    """ANN."""

    name = "ann"
    suffixes = (".dcm",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every annotation of every group, with its measurements."""
        with reading_file("bulk annotations", source.name):
            return self.read_object(objects.of_file(source, context.limits), context)

    def read_object(self, found: DicomObject, context: Context) -> Imported:
        """Every annotation of every group, with its measurements."""
        if found.sop_class != objects.ANN:
            raise SourceError(f"{found.name}: expected microscopy bulk simple annotations, found another SOP class")
        if word(found.dataset, "AnnotationCoordinateType") != "2D":
            text_ = "coordinates on the slide in mm; only those on pixels are read"
            return Imported(findings=[Finding("warning", "slide-coordinates", text_, "left out")])
        images = items(found.dataset, "ReferencedImageSequence")
        uid = text(images[0], "ReferencedSOPInstanceUID") if images else ""
        file = context.places.file_of_instance(uid)
        if file is None:
            text_ = "the image the annotations are for is not in the archive"
            return Imported(findings=[Finding("warning", "no-image", text_, "left out")])
        tiles = _tiles(context, file)
        if word(found.dataset, "PixelOriginInterpretation") == "FRAME":
            frame = int(number(images[0], "ReferencedFrameNumber") or 1) - 1
            tiles = replace(tiles, corners={(0, 0): frame})
        imported = Imported()
        for place, group in enumerate(items(found.dataset, "AnnotationGroupSequence")):
            self._group(found, group, f"AnnotationGroupSequence item {place + 1}", tiles, context, imported)
        return imported

    def _group(
        self, found: DicomObject, group: Dataset, where: str, tiles: _Tiles, context: Context, imported: Imported
    ) -> None:
        shape = word(group, "GraphicType")
        if shape not in _KINDS:
            raise SourceError(f"{found.name}, {where}: expected a known Graphic Type, found another")
        kind_code = code(group, "AnnotationPropertyTypeCodeSequence")
        category = code(group, "AnnotationPropertyCategoryCodeSequence") if kind_code is not None else None
        name = text(group, "AnnotationGroupLabel") or (kind_code.meaning if kind_code else "group")
        label = Label(name, kind_code, category, _colour(group))
        made: list[Annotation] = []
        outside = 0
        for points in _primitives(group, shape, found.name, where):
            pixels = points[:, 1::-1] - 0.5
            at = tiles.frame_at(float(pixels[0, 0]) + 0.5, float(pixels[0, 1]) + 0.5)
            if at is None:
                outside += 1
                continue
            frame, top, left = at
            listed = tuple(map(tuple, (pixels - (top, left)).tolist()))
            contour = Contour(listed, frame, shape not in ("POINT", "POLYLINE"))
            made.append(
                Annotation(
                    _KINDS[shape],
                    context.places.target("region", [frame]),
                    label,
                    (contour,),
                    author=text(found.dataset, "ContentCreatorName") or context.author,
                    time=date_time(found.dataset),
                    origin=found.uid,
                ).with_properties(group_uid=text(group, "AnnotationGroupUID"))
            )
        if outside:
            text_ = f"{outside} annotations of {where} begin outside of the frames"
            imported.findings.append(Finding("warning", "outside", text_, "left out"))
        imported.annotations += made
        if not outside:
            imported.annotations += _measurements(group, made, found.name, where)

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """One object a slide image; a group for each label and kind."""
        written = Written(tolerance=1e-6, exact_labels=True)
        by_file: dict[str, list[Annotation]] = {}
        for one in annotations:
            reason = _unfit(one, context)
            if reason:
                written.leave_out(one, reason)
                continue
            for part in _apart(graphic_meant(one)):
                by_file.setdefault(part.frames[0].file, []).append(part)
        for place, file in enumerate(sorted(by_file), 1):
            path = out / f"annotations_{place}.dcm"
            _write(path, file, by_file[file], context, written)
            if by_file[file]:
                written.files.append(path)
        return written


def _colour(group: Dataset) -> str:
    from dcmark.read.attributes import numbers

    return objects.rgb_of_lab(numbers(group, "RecommendedDisplayCIELabValue"))


def _floats(group: Dataset, single: str, double: str) -> NDArray[np.float64] | None:
    for keyword, kind in ((single, "<f4"), (double, "<f8")):
        raw = group.get(keyword)
        if raw is not None:
            data = bytes(raw) if isinstance(raw, bytes | bytearray) else np.asarray(raw, kind).tobytes()
            return np.frombuffer(data, kind).astype(np.float64)
    return None


def _primitives(group: Dataset, shape: str, name: str, where: str) -> list[NDArray[np.float64]]:
    """Points (n, 2) as column and row of every annotation of a group (PS3.3 C.37.1.2)."""
    data = _floats(group, "PointCoordinatesData", "DoublePointCoordinatesData")
    if data is None or len(data) % 2 or not np.isfinite(data).all() or (len(data) and np.abs(data).max() > 1e9):
        raise SourceError(f"{name}, {where}: expected pairs of finite coordinates, found something else")
    points = data.reshape(-1, 2)
    if shape in _FIXED:
        if len(points) % _FIXED[shape]:
            raise SourceError(f"{name}, {where}: expected {_FIXED[shape]} points an annotation, found others")
        return list(points.reshape(-1, _FIXED[shape], 2)) if len(points) else []
    raw = group.get("LongPrimitivePointIndexList")
    if raw is None:
        raise SourceError(f"{name}, {where}: expected Long Primitive Point Index List, found none")
    index = np.frombuffer(bytes(raw), "<u4") if isinstance(raw, bytes | bytearray) else np.asarray(raw)
    starts = (index.astype(np.int64) - 1) // 2
    if len(starts) and (starts[0] != 0 or (np.diff(starts) < 1).any() or starts[-1] >= len(points)):
        raise SourceError(f"{name}, {where}: expected growing indices of points, found others")
    return np.split(points, starts[1:]) if len(starts) else []


def _measurements(group: Dataset, made: Sequence[Annotation], name: str, where: str) -> list[Annotation]:
    found = []
    for one in items(group, "MeasurementsSequence"):
        about = code(one, "ConceptNameCodeSequence")
        unit = code(one, "MeasurementUnitsCodeSequence")
        for values in items(one, "MeasurementValuesSequence"):
            worth = _floats(values, "FloatingPointValues", "")
            raw = values.get("AnnotationIndexList")
            which = list(range(len(made)))
            if raw is not None:
                index = np.frombuffer(bytes(raw), "<u4") if isinstance(raw, bytes | bytearray) else np.asarray(raw)
                which = [int(k) - 1 for k in index]
            fits = worth is not None and len(worth) == len(which) and np.isfinite(worth).all()
            if not fits or any(not 0 <= k < len(made) for k in which) or worth is None:
                raise SourceError(f"{name}, {where}: expected a value for each listed annotation, found others")
            for k, value in zip(which, worth.tolist(), strict=True):
                parent = made[k]
                found.append(
                    Annotation(
                        "measurement",
                        parent.target,
                        Label(about.meaning if about else "measurement", about),
                        value=value,
                        unit=unit.value if unit else "1",
                        author=parent.author,
                        time=parent.time,
                        origin=parent.origin,
                        derived_from=(parent.id,),
                    )
                )
    return found


# Writing --------------------------------------------------------------------------------------------------------------

_SHAPES = {"point": "POINT", "line": "POLYLINE", "polygon": "POLYGON", "ellipse": "ELLIPSE"}


def _unfit(one: Annotation, context: Context) -> str:
    if one.kind not in ("point", "line", "box", "ellipse", "polygon", "freehand"):
        return "the format holds graphics only"
    if any(contour.frame is None for contour in one.contours):
        return "contours in mm that lie on no frame"
    if one.kind == "freehand" and len({c.closed for c in one.contours}) > 1:
        return "open and closed contours in one annotation"
    if any(context.places.file(frame.file)["modality"] != "SM" for frame in one.frames):
        return "the format holds annotations of slide images only"
    return ""


def _apart(one: Annotation) -> list[Annotation]:
    """Each contour, and each point, on its own."""
    import uuid

    parts = [
        replace(contour, points=(point,)) for contour in one.contours for point in contour.points
    ] if one.kind == "point" else list(one.contours)  # fmt: skip
    return [replace(one, contours=(part,), id=uuid.uuid4().hex) for part in parts]


def _write(path: Path, file: str, parts: list[Annotation], context: Context, written: Written) -> None:
    tiles = _tiles(context, file)
    places = {frame: corner for corner, frame in tiles.corners.items()}
    groups: dict[tuple[str, str], list[tuple[Annotation, Any]]] = {}
    for one in list(parts):
        contour = one.contours[0]
        assert contour.frame is not None
        corner = places.get(contour.frame.frame)
        row, column = contour.points[0]
        if corner is None or not (-0.5 <= row < tiles.rows - 0.5 and -0.5 <= column < tiles.columns - 0.5):
            written.leave_out(one, "it begins outside of its frame")
            parts.remove(one)
            continue
        points = (corners(one.kind, contour) if one.kind == "polygon" else np.array(contour.points)) + corner
        groups.setdefault((one.label.name, one.kind), []).append((one, points[:, ::-1] + 0.5))
        written.meant.append(one)
    if not groups:
        return
    from pydicom.uid import generate_uid

    made = begin(context, file, objects.ANN, "ANN", 6, "Annotations")
    moment = now()
    sop_class, uid = context.places.instance(FrameId(file, 0))
    image = dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)
    made.ContentDate, made.ContentTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    made.ContentLabel, made.ContentDescription = "ANNOTATIONS", "Annotations"
    made.ContentCreatorName = person(parts)
    made.Laterality = ""
    made.AnnotationCoordinateType, made.PixelOriginInterpretation = "2D", "VOLUME"
    made.ReferencedImageSequence = sequence([image])
    made.ReferencedSeriesSequence = sequence(
        [
            dataset(
                SeriesInstanceUID=context.places.file(file)["series_instance_uid"],
                ReferencedInstanceSequence=sequence(
                    [dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)]
                ),
            )
        ]
    )  # fmt: skip
    made.AnnotationGroupSequence = sequence(
        _group_item(place, kind, members, str(generate_uid()))
        for place, ((_, kind), members) in enumerate(sorted(groups.items(), key=lambda pair: pair[0]), 1)
    )
    save(made, path)


def _group_item(place: int, kind: str, members: Sequence[tuple[Annotation, Any]], uid: str) -> Dataset:
    first = members[0][0]
    if kind not in _SHAPES:
        raise UnsupportedError(f"expected a graphic for bulk annotations, found {kind!r}")
    points = [part for _, part in members]
    made = dataset(
        AnnotationGroupNumber=place,
        AnnotationGroupUID=uid,
        AnnotationGroupLabel=first.label.name[:64],
        AnnotationGroupGenerationType="MANUAL",
        AnnotationPropertyCategoryCodeSequence=objects.code_items(first.label.category or TISSUE),
        AnnotationPropertyTypeCodeSequence=objects.code_items(first.label.code or own_code(first.label.name)),
        NumberOfAnnotations=len(members),
        AnnotationAppliesToAllOpticalPaths="YES",
        AnnotationAppliesToAllZPlanes="YES",
        GraphicType=_SHAPES[kind],
        DoublePointCoordinatesData=np.concatenate(points).astype("<f8").tobytes(),
    )
    if kind in ("line", "polygon"):
        starts = np.cumsum([0] + [len(part) for part in points[:-1]]) * 2 + 1
        made.LongPrimitivePointIndexList = starts.astype("<u4").tobytes()
    if first.label.colour:
        made.RecommendedDisplayCIELabValue = objects.lab_of_rgb(first.label.colour)
    return made
