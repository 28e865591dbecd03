"""CVAT for images 1.1: one XML file with images, shapes, masks and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from dcmark.annotate.formats.base import Context, Imported, Written, chosen_labels, malformed, reading_file
from dcmark.annotate.formats.pixels import (
    Xml,
    annotation,
    contour,
    ellipse_axes,
    ellipse_points,
    expect_size,
    filled,
    frame_by_frame,
    from_runs,
    has_holes,
    mask_annotation,
    meant_mask,
    on_picture,
    pairs,
    parse_xml,
    runs,
)
from dcmark.annotate.model import Annotation, Contour, Label
from dcmark.annotate.pictures import Picture
from dcmark.annotate.raster import bounding_box, pixel_box
from dcmark.findings import Finding

_KINDS = frozenset({"mask", "polygon", "box", "freehand", "ellipse", "point", "line", "label"})


class CvatFormat:
    """Images with boxes, ellipses, polygons, polylines, points, masks and tags. Tracks of videos are left out."""

    name = "cvat"
    suffixes = (".xml",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every shape and tag of every image."""
        with reading_file("CVAT XML", source.name):
            root = parse_xml(source)
            if root.tag != "annotations":
                raise malformed(source.name, "the root", "an element 'annotations'", "another")
            imported = Imported()
            colours = {
                (one.findtext("name") or ""): (one.findtext("color") or "").lower()
                for one in root.iterfind("meta//labels/label")
            }
            for place, element in enumerate(root.findall("image"), 1):
                image = Xml(source.name, element, f"image {place}")
                picture = context.pictures.expect(image.text("name"), source.name, image.place)
                expect_size(picture, int(image.number("width")), int(image.number("height")), source.name, image.place)
                for number, shape in enumerate(element, 1):
                    one = Xml(source.name, shape, f"{image.place} {shape.tag} {number}")
                    imported.annotations += _shape(one, picture, colours, context)
            tracks = len(root.findall("track"))
            if tracks:
                text = f"{tracks} tracks of a video"
                imported.findings.append(Finding("warning", "tracks", text, "left out"))
            return imported

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """``annotations.xml``."""
        written = Written(tolerance=0.01)
        images: dict[str, tuple[Picture, list[Element]]] = {}
        parts = list(frame_by_frame(annotations, context, written, _KINDS))
        for picture, part in parts:
            images.setdefault(picture.name, (picture, []))[1].extend(_elements(part, picture, context, written))
        if not any(shapes for _, shapes in images.values()):
            return written
        root = Element("annotations")
        SubElement(root, "version").text = "1.1"
        labels = SubElement(SubElement(SubElement(root, "meta"), "job"), "labels")
        for label in chosen_labels([part for _, part in parts]):
            one = SubElement(labels, "label")
            SubElement(one, "name").text = label.name
            if label.colour:
                SubElement(one, "color").text = label.colour
        for number, (picture, shapes) in enumerate(images.values()):
            image = SubElement(
                root, "image", id=str(number), name=picture.name, width=str(picture.width), height=str(picture.height)
            )
            image.extend(shapes)
        indent(root)
        path = out / "annotations.xml"
        path.write_bytes(tostring(root, encoding="utf-8", xml_declaration=True))
        written.files.append(path)
        return written


def _shape(one: Xml, picture: Picture, colours: dict[str, str], context: Context) -> list[Annotation]:
    name = one.text("label")
    colour = colours.get(name, "")
    label = Label(name, colour=colour if len(colour) == 7 and colour[0] == "#" else "")
    more: dict[str, Any] = {"origin": one.name}
    tag = one.element.tag
    where = f"{one.place} points"
    if tag == "tag":
        made = annotation("label", picture, label, context, **more)
    elif tag == "box":
        left, top, right, bottom = (one.number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        degrees = one.number("rotation", 0.0)
        if degrees % 360:
            middle, half = np.array([left + right, top + bottom]) / 2, np.array([right - left, bottom - top]) / 2
            turn = np.deg2rad(degrees)
            spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            four = [middle + spin @ (half * sign) for sign in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            made = annotation("polygon", picture, label, context, (contour(picture, four),), **more)
        else:
            made = annotation(
                "box", picture, label, context, (contour(picture, [(left, top), (right, bottom)]),), **more
            )
    elif tag == "ellipse":
        ends = ellipse_points(
            one.number("cx"), one.number("cy"), one.number("rx"), one.number("ry"), one.number("rotation", 0.0)
        )  # fmt: skip
        made = annotation("ellipse", picture, label, context, (contour(picture, ends),), **more)
    elif tag == "polygon":
        made = annotation(
            "polygon", picture, label, context, (contour(picture, pairs(one.text("points"), one.name, where)),), **more
        )
    elif tag in ("polyline", "points"):
        drawn = contour(picture, pairs(one.text("points"), one.name, where), False)
        made = annotation("line" if tag == "polyline" else "point", picture, label, context, (drawn,), **more)
    elif tag == "mask":
        found = _mask(one, picture)
        masked = mask_annotation(annotation("freehand", picture, label, context, **more), picture, found, context)
        if masked is None:
            return []
        made = masked
    else:
        raise malformed(
            one.name, one.place, "a box, ellipse, polygon, polyline, points, mask or tag", "another element"
        )
    attributes = {
        f"attribute_{child.get('name', '')}": (child.text or "").strip() for child in one.element.findall("attribute")
    }
    return [made.with_properties(**attributes)]


def _mask(one: Xml, picture: Picture) -> Any:
    left, top, width, height = (int(one.number(key)) for key in ("left", "top", "width", "height"))
    inside = left >= 0 and top >= 0 and 0 < width <= picture.width - left and 0 < height <= picture.height - top
    if not inside:
        raise malformed(one.name, one.place, "a mask inside the picture", "one that reaches beyond")
    words = [word for word in one.text("rle").replace(" ", "").split(",") if word]
    if not all(word.isdigit() for word in words) or len(words) > width * height + 2:
        raise malformed(one.name, f"{one.place} rle", "run lengths")
    mask = np.zeros((picture.height, picture.width), bool)
    mask[top : top + height, left : left + width] = from_runs(
        [int(word) for word in words], height, width, "C", one.name, f"{one.place} rle"
    )
    return mask


def _elements(part: Annotation, picture: Picture, context: Context, written: Written) -> list[Element]:
    common = {"label": part.label.name, "source": "manual", "occluded": "0", "z_order": "0"}
    if part.kind == "label":
        written.meant.append(replace(part, value=None, unit=""))
        return [Element("tag", label=part.label.name, source="manual")]
    closed = [c for c in part.contours if c.closed]
    if part.kind in ("polygon", "freehand") and has_holes(replace(part, contours=tuple(closed)), picture, context):
        mask = filled(replace(part, contours=tuple(closed)), picture, context)
        if mask is None:
            written.leave_out(part, "no pixel lies inside it")
            return []
        part = mask
    if part.kind == "mask":
        back = meant_mask(part, picture, context, written)
        if back is None:
            return []
        written.meant.append(back)
        shown = on_picture(part, picture)
        top, left, bottom, right = (int(edge) for edge in (np.array(pixel_box(shown)) + 0.5).tolist())
        counts = runs(shown[top:bottom, left:right])
        box = {"left": left, "top": top, "width": right - left, "height": bottom - top}
        rle = ", ".join(str(count) for count in counts)
        return [Element("mask", {**common, "rle": rle, **{key: str(value) for key, value in box.items()}})]
    return [_element(part, c, picture, common, written) for c in part.contours]


def _element(part: Annotation, c: Contour, picture: Picture, common: dict[str, str], written: Written) -> Element:
    kind = part.kind
    if kind == "box":
        top, left, bottom, right = bounding_box(c.points)
        c = replace(c, points=((top, left), (bottom, right)))
        (x, y), (u, v) = picture.to_corner(c.points).tolist()
        found = Element("box", {**common, "xtl": repr(x), "ytl": repr(y), "xbr": repr(u), "ybr": repr(v)})
    elif kind == "ellipse":
        x, y, across, down, degrees = ellipse_axes(picture.to_corner(c.points))
        ends = ellipse_points(x, y, across, down, degrees)
        c = replace(c, points=picture.from_corner(ends))
        found = Element(
            "ellipse",
            {**common, "cx": repr(x), "cy": repr(y), "rx": repr(across), "ry": repr(down), "rotation": repr(degrees)},
        )
    else:
        if kind == "freehand":
            kind = "polygon" if c.closed else "line"
        c = replace(c, closed=kind == "polygon")
        tag = {"polygon": "polygon", "line": "polyline", "point": "points"}[kind]
        points = ";".join(f"{x!r},{y!r}" for x, y in picture.to_corner(c.points).tolist())
        found = Element(tag, {**common, "points": points})
    written.meant.append(replace(part, kind=kind, contours=(c,)))
    return found
