"""LabelMe: a JSON file a picture with shapes and flags."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dcmark.annotate.formats.base import Context, Imported, Reader, Written, malformed, read_json, reading_file
from dcmark.annotate.formats.pixels import (
    Mask,
    annotation,
    box_contour,
    contour,
    expect_size,
    filled,
    frame_by_frame,
    has_holes,
    mask_annotation,
    meant_mask,
    on_picture,
)
from dcmark.annotate.model import Annotation, Label
from dcmark.annotate.pictures import Picture
from dcmark.annotate.raster import bounding_box, corners, pixel_box

_KINDS = frozenset({"mask", "polygon", "box", "freehand", "ellipse", "point", "line", "label"})
VERSION = "5.5.0"


class LabelMeFormat:
    """Shapes with names; masks as PNG inside; classes of pictures as flags."""

    name = "labelme"
    suffixes = (".json",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every shape, and every flag that is set."""
        with reading_file("LabelMe JSON", source.name):
            root = Reader(source.name, read_json(source))
            name = root.at("imagePath").text(source.stem)
            picture = context.pictures.named(name) or context.pictures.expect(source.stem, source.name, "imagePath")
            if "imageWidth" in root and "imageHeight" in root:
                sides = root.at("imageWidth").whole(1, 1 << 31), root.at("imageHeight").whole(1, 1 << 31)
                expect_size(picture, *sides, source.name, "imageWidth")
            imported = Imported()
            for shape in root.at("shapes").items():
                imported.annotations += self._shape(shape, picture, context)
            flags = root.at("flags").value
            for word, on in flags.items() if isinstance(flags, dict) else ():
                if on is True and word:
                    imported.annotations.append(annotation("label", picture, Label(word), context, origin=source.name))
            return imported

    def _shape(self, one: Reader, picture: Picture, context: Context) -> list[Annotation]:
        label, kind = Label(one.at("label").text()), one.at("shape_type").text("polygon")
        points = [point.numbers(2) for point in one.at("points").items()]
        more: dict[str, Any] = {"origin": one.name}
        expected = {"rectangle": 2, "circle": 2, "mask": 2, "polygon": 1, "linestrip": 1, "line": 2, "point": 1}
        if len(points) < expected.get(kind, 1):
            raise one.at("points").fail(f"{expected.get(kind, 1)} points")
        if kind == "mask":
            mask = _mask(one, points, picture)
            made = mask_annotation(annotation("freehand", picture, label, context, **more), picture, mask, context)
            return [] if made is None else [made]
        if kind == "rectangle":
            (a, b), (c, d) = points[:2]
            return [annotation("box", picture, label, context, (box_contour(picture, a, b, c, d),), **more)]
        if kind == "circle":
            (x, y), (u, v) = points[:2]
            reach = float(np.hypot(u - x, v - y))
            ends = [(x - reach, y), (x + reach, y), (x, y - reach), (x, y + reach)]
            return [annotation("ellipse", picture, label, context, (contour(picture, ends),), **more)]
        if kind in ("point", "points"):
            return [annotation("point", picture, label, context, (contour(picture, points, False),), **more)]
        if kind in ("line", "linestrip"):
            return [annotation("line", picture, label, context, (contour(picture, points, False),), **more)]
        if kind == "polygon":
            return [annotation("polygon", picture, label, context, (contour(picture, points),), **more)]
        raise one.at("shape_type").fail("a known shape type")

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """A file a picture."""
        written = Written()
        by_picture: dict[str, tuple[Picture, list[dict[str, Any]], dict[str, bool]]] = {}
        for picture, part in frame_by_frame(annotations, context, written, _KINDS):
            _, shapes, flags = by_picture.setdefault(picture.name, (picture, [], {}))
            if part.kind == "label":
                if not flags.get(part.label.name):
                    written.meant.append(replace(part, value=None, unit=""))
                flags[part.label.name] = True
            else:
                shapes += self._shapes(part, picture, context, written)
        for name, (picture, shapes, flags) in by_picture.items():
            if not shapes and not flags:
                continue
            stem = re.sub(r"\.\w+$", "", name)
            path = out / f"{stem}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = {
                "version": VERSION, "flags": flags, "shapes": shapes, "imagePath": name, "imageData": None,
                "imageHeight": picture.height, "imageWidth": picture.width,
            }  # fmt: skip
            path.write_text(json.dumps(whole), encoding="utf-8")
            written.files.append(path)
        return written

    def _shapes(
        self, part: Annotation, picture: Picture, context: Context, written: Written
    ) -> list[dict[str, Any]]:  # fmt: skip
        if part.kind in ("polygon", "freehand", "ellipse") and has_holes(
            replace(part, contours=tuple(c for c in part.contours if c.closed)), picture, context
        ):
            mask = filled(part, picture, context)
            if mask is None:
                written.leave_out(part, "no pixel lies inside it")
                return []
            part = mask
        if part.kind == "mask":
            back = meant_mask(part, picture, context, written)
            if back is None:
                return []
            written.meant.append(back)
            return [_mask_shape(part.label.name, on_picture(part, picture))]
        shapes = []
        for one in part.contours:
            c, kind = one, part.kind
            if kind == "box":
                top, left, bottom, right = bounding_box(c.points)
                c = replace(c, points=((top, left), (bottom, right)))
                shape = "rectangle"
            elif kind == "point":
                for point in c.points:
                    single = replace(c, points=(point,), closed=False)
                    written.meant.append(replace(part, contours=(single,)))
                    shapes.append(_plain(part.label.name, "point", picture.to_corner(single.points).tolist()))
                continue
            elif not c.closed:
                kind, shape = "line", "linestrip"
            else:
                kind, shape = "polygon", "polygon"
                c = replace(c, points=tuple(map(tuple, corners(part.kind, c).tolist())))
            written.meant.append(replace(part, kind=kind, contours=(c,)))
            shapes.append(_plain(part.label.name, shape, picture.to_corner(c.points).tolist()))
        return shapes


def _plain(label: str, kind: str, points: Any) -> dict[str, Any]:
    return {
        "label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {},
        "mask": None,
    }  # fmt: skip


def _mask_shape(label: str, mask: Mask) -> dict[str, Any]:
    from PIL import Image

    top, left, bottom, right = (int(edge) for edge in (np.array(pixel_box(mask)) + 0.5).tolist())
    stream = io.BytesIO()
    Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255).save(stream, "PNG")
    shape = _plain(label, "mask", [[left, top], [right - 1, bottom - 1]])
    return {**shape, "mask": base64.b64encode(stream.getvalue()).decode("ascii")}


def _mask(one: Reader, points: list[list[float]], picture: Picture) -> Mask:
    """The PNG of a mask, at its box; bounded by the size of the picture before it is decoded."""
    from PIL import Image

    try:
        data = base64.b64decode(one.at("mask").text(), validate=True)
        image = Image.open(io.BytesIO(data), formats=["PNG"])
    except (binascii.Error, ValueError, OSError) as error:
        raise malformed(one.name, f"{one.place}.mask", "a PNG in base64") from error
    left, top = round(points[0][0]), round(points[0][1])
    inside = left >= 0 and top >= 0 and left + image.width <= picture.width and top + image.height <= picture.height
    if not inside:
        raise malformed(one.name, f"{one.place}.mask", "a mask inside the picture", "one that reaches beyond")
    try:
        pixels = np.asarray(image.convert("L")) != 0
    except (OSError, ValueError, SyntaxError) as error:
        raise malformed(one.name, f"{one.place}.mask", "a whole PNG", "a damaged one") from error
    mask = np.zeros((picture.height, picture.width), bool)
    mask[top : top + image.height, left : left + image.width] = pixels
    return mask
