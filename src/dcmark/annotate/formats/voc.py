"""Pascal VOC: an XML file a picture, boxes with names. Coordinates count from the corner of the first pixel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from dcmark.annotate.formats.base import Context, Imported, Written, malformed, reading_file
from dcmark.annotate.formats.pixels import Xml, annotation, box_contour, expect_size, finite, frame_by_frame, parse_xml
from dcmark.annotate.model import Annotation, Contour, Label
from dcmark.annotate.pictures import Picture
from dcmark.annotate.raster import bounding_box, corners, pixel_box

_KINDS = frozenset({"mask", "polygon", "box", "freehand", "ellipse"})


class VocFormat:
    """Boxes; every region goes as the box around it."""

    name = "voc"
    suffixes = (".xml",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every object of the file."""
        with reading_file("Pascal VOC XML", source.name):
            root = parse_xml(source)
            about = Xml(source.name, root, "annotation")
            if root.tag != "annotation":
                raise malformed(source.name, "the root", "an element 'annotation'", "another")
            picture = context.pictures.expect(about.child("filename"), source.name, "filename")
            size = root.find("size")
            if size is not None:
                sides = [
                    int(finite(Xml(source.name, size, "size").child(tag), source.name, f"size/{tag}"))
                    for tag in ("width", "height")
                ]
                if min(sides) > 0:
                    expect_size(picture, sides[0], sides[1], source.name, "size")
            imported = Imported()
            for place, found in enumerate(root.findall("object"), 1):
                one = Xml(source.name, found, f"object {place}")
                box = found.find("bndbox")
                if box is None:
                    raise malformed(source.name, one.place, "an element 'bndbox'", "none")
                inside = Xml(source.name, box, f"object {place} bndbox")
                left, top, right, bottom = (
                    finite(inside.child(tag), source.name, f"{inside.place}/{tag}")
                    for tag in ("xmin", "ymin", "xmax", "ymax")
                )
                label = Label(one.child("name") or "object")
                drawn = box_contour(picture, left, top, right, bottom)
                imported.annotations.append(
                    annotation("box", picture, label, context, (drawn,), origin=source.name)
                )  # fmt: skip
            return imported

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """A file a picture."""
        written = Written()
        by_picture: dict[str, tuple[Picture, list[Annotation]]] = {}
        for picture, part in frame_by_frame(annotations, context, written, _KINDS):
            if part.kind != "mask" and any(not c.closed for c in part.contours):
                written.leave_out(part, "open contours")
                continue
            for one in _boxes(part):
                by_picture.setdefault(picture.name, (picture, []))[1].append(one)
        for name, (picture, members) in by_picture.items():
            stem = re.sub(r"\.\w+$", "", name)
            path = out / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_xml(picture, members))
            written.files.append(path)
            written.meant += members
        return written


def _boxes(part: Annotation) -> list[Annotation]:
    import uuid

    boxes = []
    if part.kind == "mask":
        around = pixel_box(part.mask[0].binary())
        boxes = [around] if around is not None else []
    else:
        boxes = [bounding_box(corners(part.kind, c)) for c in part.contours]
    frame = part.frames[0]
    return [
        replace(
            part, id=uuid.uuid4().hex, kind="box", mask=(),
            contours=(Contour(((top, left), (bottom, right)), frame),),
        )
        for top, left, bottom, right in boxes
    ]  # fmt: skip


def _xml(picture: Picture, members: Sequence[Annotation]) -> bytes:
    root = Element("annotation")
    SubElement(root, "filename").text = picture.name
    size = SubElement(root, "size")
    for tag, value in (("width", picture.width), ("height", picture.height), ("depth", 1)):
        SubElement(size, tag).text = str(value)
    SubElement(root, "segmented").text = "0"
    for one in members:
        found = SubElement(root, "object")
        SubElement(found, "name").text = one.label.name
        for tag in ("truncated", "difficult"):
            SubElement(found, tag).text = "0"
        box = SubElement(found, "bndbox")
        (left, top), (right, bottom) = picture.to_corner(one.contours[0].points).tolist()
        for tag, edge in (("xmin", left), ("ymin", top), ("xmax", right), ("ymax", bottom)):
            SubElement(box, tag).text = repr(edge)
    indent(root)
    return bytes(tostring(root, encoding="utf-8"))
