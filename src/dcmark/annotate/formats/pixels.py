"""What the formats of picture tools share: annotations frame by frame, run lengths, XML without entities."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.formats.base import Context, Written, malformed, read_text
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Contour, Kind, Label, Points
from dcmark.annotate.pictures import Picture
from dcmark.annotate.raster import fill, outline
from dcmark.errors import SourceError, UsageError
from dcmark.findings import Finding
from dcmark.read.volume_model import FrameId

Mask = NDArray[np.bool_]
DEEPEST_XML = 64
MOST_ELEMENTS = 5_000_000


# Out ------------------------------------------------------------------------------------------------------------------


def frame_by_frame(
    annotations: Sequence[Annotation], context: Context, written: Written, kinds: frozenset[str]
) -> Iterator[tuple[Picture, Annotation]]:
    """Annotations cut into their frames, with the picture of each; what cannot be held is left out with a reason.

    A label is yielded for its frame, or for all frames of its instance.
    """
    for one in annotations:
        if one.kind not in kinds:
            written.leave_out(one, "the format does not hold this kind")
            continue
        if any(contour.frame is None for contour in one.contours):
            written.leave_out(one, "contours in mm that lie on no frame")
            continue
        frames = one.frames
        if one.kind == "label" and one.target.level == "instance":
            count = max(1, context.places.file(one.target.file)["frames"] or 1)
            frames = tuple(FrameId(one.target.file, k) for k in range(count))
        if not frames or (one.kind == "label" and one.target.level not in ("frame", "instance", "region")):
            written.leave_out(one, f"a statement about a {one.target.level}; the format holds those about pictures")
            continue
        planes = {plane.frame: plane for plane in one.mask}
        for frame in frames:
            try:
                picture = context.pictures.of_frame(frame)
            except UsageError:
                written.leave_out(one, "one of its frames is not among the pictures of the export")
                continue
            part = replace(
                one,
                id=one.id if len(frames) == 1 else uuid.uuid4().hex,
                target=context.places.target("frame" if one.kind == "label" else "region", [frame]),
                contours=tuple(contour for contour in one.contours if contour.frame == frame),
                mask=[planes[frame]] if frame in planes else (),
            )
            yield picture, part


def on_picture(part: Annotation, picture: Picture) -> Mask:
    """The mask of one frame on the pixels of its picture."""
    return picture.mask_to_picture(part.mask[0].binary())


def mask_annotation(
    part: Annotation, picture: Picture, mask: Mask, context: Context
) -> Annotation | None:  # fmt: skip
    """A mask drawn on a picture as an annotation on its frame; None where no pixel is marked."""
    rows, columns = context.places.size(picture.frame)
    plane = make_plane(picture.frame, picture.mask_to_frame(mask, rows, columns))
    return None if plane is None else replace(part, kind="mask", contours=(), mask=[plane])


def meant_mask(part: Annotation, picture: Picture, context: Context, written: Written) -> Annotation | None:
    """What a mask becomes when it goes to the picture and back; says so where pixels are lost."""
    if part.mask[0].levels > 1:
        text = f"mask {part.id[:8]}: the format holds no fractions"
        written.findings.append(Finding("warning", "fractions-lost", text, "pixels of at least one half are marked"))
    back = mask_annotation(part, picture, on_picture(part, picture), context)
    if not picture.identity:
        text = f"mask {part.id[:8]}: the picture has other pixels than the frame"
        written.findings.append(Finding("info", "resampled", text, "nearest pixels"))
    if back is None:
        written.leave_out(part, "no pixel of the picture lies inside it")
    return back


def has_holes(part: Annotation, picture: Picture, context: Context) -> bool:
    """Does the region of closed contours differ from what they cover together?"""
    if len(part.contours) < 2:
        return False
    size = context.places.size(picture.frame)
    polygons = [np.array(contour.points) for contour in part.contours]
    union = np.logical_or.reduce([fill([polygon], *size) for polygon in polygons])
    return bool((fill(polygons, *size) != union).any())


def filled(part: Annotation, picture: Picture, context: Context) -> Annotation | None:
    """A region as a mask on its frame; None where no pixel is inside."""
    plane = make_plane(
        picture.frame, fill([np.array(c.points) for c in part.contours], *context.places.size(picture.frame))
    )
    return None if plane is None else replace(part, kind="mask", contours=(), mask=[plane])


def as_polygons(part: Annotation, picture: Picture, written: Written) -> list[Annotation]:
    """A mask as polygons for formats without masks, one annotation an outer contour; holes are lost and said so."""
    found = outline(part.mask[0].binary())
    outer = [points for points in found if _area(points) > 0]
    if len(outer) < len(found):
        text = f"mask {part.id[:8]}: {len(found) - len(outer)} holes"
        written.findings.append(Finding("warning", "holes-lost", text, "filled"))
    return [
        replace(part, id=uuid.uuid4().hex, kind="polygon", mask=(), contours=(Contour(points, picture.frame),))
        for points in outer
    ]


def _area(points: Points) -> float:
    """Positive for contours that run clockwise on the screen."""
    array = np.array(points)
    row, column = array[:, 0], array[:, 1]
    return float(np.sum(column * np.roll(row, -1) - np.roll(column, -1) * row) / 2)


# In -------------------------------------------------------------------------------------------------------------------


def annotation(
    kind: Kind, picture: Picture, label: Label, context: Context, contours: tuple[Contour, ...] = (), **more: Any
) -> Annotation:
    """An annotation on the frame of a picture."""
    level = "frame" if kind == "label" else "region"
    more.setdefault("author", context.author)
    return Annotation(kind, context.places.target(level, [picture.frame]), label, contours, **more)  # type: ignore[arg-type]


def contour(picture: Picture, points: Any, closed: bool = True) -> Contour:
    """A contour from (x, y) of a picture."""
    return Contour(picture.from_corner(points), picture.frame, closed)


def box_contour(picture: Picture, left: float, top: float, right: float, bottom: float) -> Contour:
    """Two opposite corners from the edges of a box on a picture."""
    return contour(picture, [(min(left, right), min(top, bottom)), (max(left, right), max(top, bottom))])


def ellipse_points(
    x: float, y: float, across: float, down: float, degrees: float
) -> list[tuple[float, float]]:  # fmt: skip
    """Ends of the longer, then of the shorter axis of a turned ellipse, (x, y)."""
    turn = np.deg2rad(degrees)
    one = np.array([np.cos(turn), np.sin(turn)]) * across
    two = np.array([-np.sin(turn), np.cos(turn)]) * down
    if down > across:
        one, two = two, one
    centre = np.array([x, y])
    return [tuple(end) for end in (centre - one, centre + one, centre - two, centre + two)]


def ellipse_axes(points: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    """Centre x and y, half axes, and the turn of the first one in degrees, from the four ends (x, y)."""
    centre = points[:2].mean(axis=0)
    one, two = (points[1] - points[0]) / 2, (points[3] - points[2]) / 2
    return (
        float(centre[0]), float(centre[1]), float(np.hypot(*one)), float(np.hypot(*two)),
        float(np.rad2deg(np.arctan2(one[1], one[0]))),
    )  # fmt: skip


# Run lengths ----------------------------------------------------------------------------------------------------------


def runs(mask: Mask, order: Any = "C") -> list[int]:
    """Lengths of alternating runs of a mask, beginning with one of unmarked pixels (which may be 0)."""
    flat = mask.ravel(order=order).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    ends = [*edges, len(flat)]
    return [b - a for a, b in zip([0, *edges], ends, strict=True)]


def from_runs(counts: Sequence[int], height: int, width: int, order: Any, name: str, place: str) -> Mask:
    """The inverse of ``runs``. The size is that of a real frame, so it may be allocated.

    Raises:
        SourceError: the runs do not cover the picture.
    """
    lengths = np.asarray(counts, np.int64)
    if len(lengths) and (lengths.min() < 0 or lengths.max() > height * width):
        raise malformed(name, place, "run lengths that are not negative", "others")
    if int(lengths.sum()) != height * width:
        raise malformed(name, place, f"runs that cover {height * width} pixels", f"{int(lengths.sum())}")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(flat.reshape((height, width), order=order))


# XML ------------------------------------------------------------------------------------------------------------------


def parse_xml(source: Path) -> Element:
    """The root of an XML file. Document types and entities are refused: nothing is ever expanded or fetched.

    Raises:
        SourceError: with line and column.
    """
    data = read_text(source)
    builder = TreeBuilder()
    parser = expat.ParserCreate("utf-8", "}")
    depth = count = 0

    def refuse(*_: Any) -> Any:
        where = f"line {parser.CurrentLineNumber} column {parser.CurrentColumnNumber}"
        raise malformed(source.name, where, "XML without document type and entities", "a declaration of them")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > DEEPEST_XML or count > MOST_ELEMENTS:
            raise malformed(source.name, f"line {parser.CurrentLineNumber}", "XML of sane size and depth", "more")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.UnparsedEntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data.encode("utf-8"), True)
    except expat.ExpatError as error:
        where = f"line {error.lineno} column {error.offset}"
        raise malformed(source.name, where, "XML", expat.errors.messages[error.code]) from error
    return builder.close()


class Xml:
    """Reads attributes of an element, and says where one was not as expected."""

    def __init__(self, name: str, element: Element, place: str) -> None:
        self.name, self.element, self.place = name, element, place

    def text(self, key: str, default: str | None = None) -> str:
        """An attribute."""
        found = self.element.get(key, default)
        if found is None:
            raise malformed(self.name, self.place, f"the attribute {key!r}", "none")
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """An attribute as a finite number."""
        return finite(self.text(key, None if default is None else repr(default)), self.name, f"{self.place} {key}")

    def child(self, tag: str) -> str:
        """The text of a child element."""
        found = self.element.findtext(tag)
        if found is None:
            raise malformed(self.name, self.place, f"an element {tag!r}", "none")
        return found.strip()


def finite(text: str, name: str, place: str) -> float:
    """A finite number of sane size."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e12:
        raise malformed(name, place, "a finite number")
    return number


def pairs(text: str, name: str, place: str) -> list[tuple[float, float]]:
    """Points written as ``x,y;x,y``."""
    found = []
    for word in text.split(";"):
        parts = word.split(",")
        if len(parts) != 2:
            raise malformed(name, place, "points as x,y;x,y")
        found.append((finite(parts[0], name, place), finite(parts[1], name, place)))
    return found


def expect_size(picture: Picture, width: int, height: int, name: str, place: str) -> None:
    """The size a file says its picture has must be that of the picture."""
    if picture.width and (picture.width, picture.height) != (width, height):
        raise SourceError(
            f"{name}, {place}: expected a picture of {picture.width} x {picture.height} pixels, found {width} x "
            f"{height}; was it made from another export? Give that with --view"
        )
