"""Grayscale Softcopy Presentation State (PS3.3 A.33.1, C.10.5): graphics and text on named layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcmark.annotate import objects
from dcmark.annotate.formats.base import Context, Imported, Written, reading_file
from dcmark.annotate.formats.dicom_write import begin, dataset, now, person, reference, save, sequence
from dcmark.annotate.formats.seg import date_time
from dcmark.annotate.formats.sr import as_graphic, graphic_meant, shaped
from dcmark.annotate.model import Annotation, Contour, Label
from dcmark.annotate.objects import DicomObject, text
from dcmark.errors import SourceError
from dcmark.findings import Finding
from dcmark.read.attributes import items, number, numbers, word
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pydicom import Dataset

_SHAPES = frozenset({"point", "line", "box", "ellipse", "polygon", "freehand", "text"})


class GspsFormat:
    """GSPS. Coordinates are column and row from the corner of the first pixel; those of the display are left out."""

    name = "gsps"
    suffixes = (".dcm",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every graphic and every text, labelled by its layer."""
        with reading_file("a presentation state", source.name):
            return self.read_object(objects.of_file(source, context.limits), context)

    def read_object(self, found: DicomObject, context: Context) -> Imported:
        """Every graphic and every text, labelled by its layer."""
        if found.sop_class != objects.GSPS:
            raise SourceError(f"{found.name}: expected a grayscale presentation state, found another SOP class")
        return _Reading(found, context).imported()

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """One object a series; a layer a label."""
        written = Written(tolerance=0.01)
        by_series: dict[str, list[Annotation]] = {}
        for one in annotations:
            if one.kind not in _SHAPES or not one.contours:
                written.leave_out(one, "the format holds graphics and text on images only")
            elif any(contour.frame is None for contour in one.contours):
                written.leave_out(one, "contours in mm that lie on no frame")
            else:
                series = {context.places.file(f.file)["series_instance_uid"] or "" for f in one.frames}
                if len(series) > 1 or "" in series:
                    written.leave_out(one, "its frames are of several series, or of files that are no DICOM images")
                    continue
                by_series.setdefault(series.pop(), []).append(one)
        for place, members in enumerate((by_series[name] for name in sorted(by_series)), 1):
            path = out / f"presentation_{place}.dcm"
            _write(path, members, context, written)
            written.files.append(path)
        return written


class _Reading:
    def __init__(self, found: DicomObject, context: Context) -> None:
        self.found, self.context, self.places = found, context, context.places
        self.dataset, self.name = found.dataset, found.name
        self.layers = {text(one, "GraphicLayer"): one for one in items(self.dataset, "GraphicLayerSequence")}
        self.findings: list[Finding] = []
        self.missing = self.displayed = self.compound = 0
        self.listed = [
            frame
            for series in items(self.dataset, "ReferencedSeriesSequence")
            for image in items(series, "ReferencedImageSequence")
            for frame in self._frames(image)
        ]

    def imported(self) -> Imported:
        made: list[Annotation] = []
        for place, group in enumerate(items(self.dataset, "GraphicAnnotationSequence")):
            where = f"GraphicAnnotationSequence item {place + 1}"
            named = items(group, "ReferencedImageSequence")
            self.missing_before = self.missing
            frames = [frame for image in named for frame in self._frames(image)] if named else self.listed
            if not frames:
                self.missing += self.missing == self.missing_before
                continue
            layer = text(group, "GraphicLayer")
            for one in items(group, "GraphicObjectSequence"):
                made += self._graphic(one, layer, frames, where)
            for one in items(group, "TextObjectSequence"):
                made += self._text(one, layer, frames)
            self.compound += len(items(group, "CompoundGraphicSequence"))
        for count, code_, text_ in (
            (self.missing, "no-image", "annotations or references are for images that are not in the archive"),
            (self.displayed, "display-units", "objects are placed on the display, not on the image"),
            (self.compound, "compound-graphic", "compound graphics; their plain twins are read"),
        ):
            if count:
                self.findings.append(Finding("warning", code_, f"{count} {text_}", "left out"))
        return Imported(made, findings=self.findings)

    def _frames(self, image: Dataset) -> list[FrameId]:
        uid = text(image, "ReferencedSOPInstanceUID")
        wanted = [int(one) - 1 for one in numbers(image, "ReferencedFrameNumber")]
        if not wanted:
            file = self.places.file_of_instance(uid)
            wanted = list(range(max(1, self.places.file(file)["frames"] or 1))) if file is not None else [0]
        found = [self.places.frame_of_instance(uid, one) for one in wanted]
        self.missing += any(one is None for one in found)
        return [one for one in found if one is not None]

    def _about(self, layer: str) -> tuple[Label, str]:
        found = self.layers.get(layer)
        colour = ""
        name = layer
        if found is not None:
            colour = objects.rgb_of_lab(numbers(found, "GraphicLayerRecommendedDisplayCIELabValue"))
            name = text(found, "GraphicLayerDescription") or layer
        return Label(name or "graphic", colour=colour), layer

    def _made(self, kind: Any, frames: Sequence[FrameId], contours: Any, layer: str, words: str = "") -> Annotation:
        label, name = self._about(layer)
        return Annotation(
            kind,
            self.places.target("region", list(frames)),
            label,
            tuple(contours),
            text=words,
            author=text(self.dataset, "ContentCreatorName") or self.context.author,
            time=_created(self.dataset),
            origin=self.found.uid,
        ).with_properties(layer=name)

    def _graphic(self, one: Dataset, layer: str, frames: Sequence[FrameId], where: str) -> list[Annotation]:
        data = numbers(one, "GraphicData")
        declared = number(one, "NumberOfGraphicPoints")
        if len(data) % 2 or not data or (declared is not None and int(declared) * 2 != len(data)):
            raise SourceError(
                f"{self.name}, {where}: expected pairs of numbers in Graphic Data as declared, found {len(data)}"
            )
        if word(one, "GraphicAnnotationUnits") != "PIXEL":
            self.displayed += 1
            return []
        pixels = np.array(data, np.float64).reshape(-1, 2)[:, ::-1] - 0.5
        kind, listed, closed = shaped(word(one, "GraphicType"), pixels, self.name, where)
        return [self._made(kind, frames, [Contour(listed, frame, closed) for frame in frames], layer)]

    def _text(self, one: Dataset, layer: str, frames: Sequence[FrameId]) -> list[Annotation]:
        words = text(one, "UnformattedTextValue")
        anchor = numbers(one, "AnchorPoint")
        unit = "AnchorPointAnnotationUnits"
        if len(anchor) != 2:
            anchor, unit = numbers(one, "BoundingBoxTopLeftHandCorner"), "BoundingBoxAnnotationUnits"
        if len(anchor) != 2 or word(one, unit) not in ("PIXEL", ""):
            self.displayed += 1
            return []
        point = (anchor[1] - 0.5, anchor[0] - 0.5)
        return [self._made("text", frames, [Contour((point,), frame, False) for frame in frames], layer, words)]


def _created(found: Dataset) -> str:
    return date_time(found, "PresentationCreation")


def _layer_name(label: str, taken: dict[str, str]) -> str:
    """A name of upper-case letters, digits, blanks and underscores, at most 16 (PS3.5 section 6.2, CS)."""
    if label in taken:
        return taken[label]
    stem = re.sub(r"[^A-Z0-9_ ]", "_", label.upper())[:16].strip() or "LAYER"
    name, count = stem, 1
    while name in taken.values():
        count += 1
        name = f"{stem[:12]} {count}"
    taken[label] = name
    return name


def _write(path: Path, members: Sequence[Annotation], context: Context, written: Written) -> None:
    places = context.places
    frames = list(dict.fromkeys(frame for one in members for frame in one.frames))
    made = begin(context, frames[0].file, objects.GSPS, "PR", 4, "Presentation state")
    moment = now()
    made.ContentLabel, made.ContentDescription = "ANNOTATIONS", "Annotations"
    made.ContentCreatorName = person(members)
    made.PresentationCreationDate, made.PresentationCreationTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    made.Laterality = ""
    made.PresentationLUTShape = "IDENTITY"
    images: dict[str, Dataset] = {}
    for frame in frames:
        image = images.setdefault(frame.file, reference(places, frame))
        if "ReferencedFrameNumber" in image:
            del image.ReferencedFrameNumber
    first = places.file(frames[0].file)
    made.ReferencedSeriesSequence = sequence(
        [
            dataset(
                SeriesInstanceUID=first["series_instance_uid"],
                ReferencedImageSequence=sequence(images.values()),
            )
        ]
    )
    rows, columns = places.size(frames[0])
    made.DisplayedAreaSelectionSequence = sequence(
        [
            dataset(
                DisplayedAreaTopLeftHandCorner=[1, 1],
                DisplayedAreaBottomRightHandCorner=[columns, rows],
                PresentationSizeMode="SCALE TO FIT",
                PresentationPixelAspectRatio=[1, 1],
            )
        ]
    )
    taken: dict[str, str] = {}
    colours: dict[str, str] = {}
    graphics = []
    for one in members:
        layer = _layer_name(one.label.name, taken)
        colours.setdefault(layer, one.label.colour)
        meant = graphic_meant(one)
        for contour in one.contours:
            assert contour.frame is not None
            group = dataset(ReferencedImageSequence=sequence([reference(places, contour.frame)]), GraphicLayer=layer)
            if one.kind == "text":
                group.TextObjectSequence = sequence([_text_object(one, contour)])
                written.meant.append(replace(meant, contours=(replace(contour, closed=False),)))
            else:
                points = [contour] if one.kind != "point" else [replace(contour, points=(p,)) for p in contour.points]
                group.GraphicObjectSequence = sequence(_graphic_object(one, part) for part in points)
                matching = meant.contours[one.contours.index(contour)]
                parts = [matching] if one.kind != "point" else [replace(matching, points=(p,)) for p in matching.points]
                written.meant += [replace(meant, contours=(part,)) for part in parts]
            graphics.append(group)
    made.GraphicLayerSequence = sequence(_layer(name, label, place, colours[name]) for place, (label, name) in enumerate(taken.items(), 1))  # noqa: E501  # fmt: skip
    made.GraphicAnnotationSequence = sequence(graphics)
    save(made, path)


def _layer(name: str, label: str, place: int, colour: str) -> Dataset:
    made = dataset(GraphicLayer=name, GraphicLayerOrder=place, GraphicLayerDescription=label[:64])
    if colour:
        made.GraphicLayerRecommendedDisplayCIELabValue = objects.lab_of_rgb(colour)
    return made


def _graphic_object(one: Annotation, contour: Contour) -> Dataset:
    shape, points = as_graphic(one, contour)
    if one.kind == "freehand":
        shape = "POLYLINE"
    data = (points[:, ::-1] + 0.5).astype(np.float32)
    return dataset(
        GraphicAnnotationUnits="PIXEL",
        GraphicDimensions=2,
        NumberOfGraphicPoints=len(data),
        GraphicData=[float(value) for value in data.ravel()],
        GraphicType=shape,
        **({"GraphicFilled": "N"} if contour.closed or shape in ("ELLIPSE",) else {}),
    )


def _text_object(one: Annotation, contour: Contour) -> Dataset:
    row, column = contour.points[0]
    return dataset(
        UnformattedTextValue=(one.text or one.label.name)[:1024],
        AnchorPointAnnotationUnits="PIXEL",
        AnchorPoint=[float(np.float32(column + 0.5)), float(np.float32(row + 0.5))],
        AnchorPointVisibility="N",
    )
