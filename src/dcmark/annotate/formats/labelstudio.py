"""Label Studio JSON: tasks with results in per cent of the picture, brushes as packed run lengths."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.formats.base import Context, Imported, Reader, Written, malformed, read_json, reading_file
from dcmark.annotate.formats.pixels import (
    Mask,
    annotation,
    box_contour,
    contour,
    ellipse_axes,
    ellipse_points,
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
from dcmark.annotate.raster import bounding_box
from dcmark.findings import Finding

_KINDS = frozenset({"mask", "polygon", "box", "freehand", "ellipse", "point", "label"})
_SIZES = (3, 5, 9, 16)
"""Bits of run lengths to choose from when writing."""


class LabelStudioFormat:
    """The export "JSON" of Label Studio."""

    name = "labelstudio"
    suffixes = (".json",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every result of every annotation of every task; predictions are left alone."""
        with reading_file("Label Studio JSON", source.name):
            root = Reader(source.name, read_json(source))
            imported = Imported()
            skipped = 0
            for task in root.items():
                data = task.at("data").value
                names = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
                pictures = [found for found in map(context.pictures.named, names) if found is not None]
                if len(pictures) != 1:
                    context.pictures.expect(names[0] if len(names) == 1 else "", source.name, f"{task.place}.data")
                    raise malformed(source.name, f"{task.place}.data", "one picture of the export or archive")
                for one in task.at("annotations").items():
                    author = one.at("completed_by").value
                    who = str(author.get("email", "")) if isinstance(author, dict) else ""
                    if "was_cancelled" in one and one.at("was_cancelled").value is True:
                        continue
                    when = one.at("created_at").text("")
                    for result in one.at("result").items():
                        made = self._result(result, pictures[0], context)
                        skipped += made is None
                        if made is not None:
                            imported.annotations.append(replace(made, author=who or made.author, time=when))
            if skipped:
                text = f"{skipped} results of types that are no shape and no class"
                imported.findings.append(Finding("warning", "unknown-results", text, "left out"))
            return imported

    def _result(self, one: Reader, picture: Picture, context: Context) -> Annotation | None:
        kind, value = one.at("type").text(), one.at("value")
        more: dict[str, Any] = {"origin": one.name}
        if kind == "choices":
            words = [word.text() for word in value.at("choices").items()]
            return annotation("label", picture, Label(" / ".join(words) or "choice"), context, **more)
        if kind not in ("rectanglelabels", "polygonlabels", "keypointlabels", "ellipselabels", "brushlabels"):
            return None
        words = [word.text() for word in value.at(kind).items()]
        label = Label(words[0] if words else kind)
        size = one.at("original_width").whole(1, 1 << 31), one.at("original_height").whole(1, 1 << 31)
        expect_size(picture, *size, one.name, one.place)
        scale = np.array(size) / 100.0
        if kind == "brushlabels":
            mask = _from_packed(value.at("rle"), size[1], size[0])
            return mask_annotation(annotation("freehand", picture, label, context, **more), picture, mask, context)
        if kind == "polygonlabels":
            points = [point.numbers(2) for point in value.at("points").items()]
            if not points:
                raise value.at("points").fail("points")
            drawn = contour(picture, np.array(points) * scale)
            return annotation("polygon", picture, label, context, (drawn,), **more)
        x, y = (value.at(key).number() * factor for key, factor in zip("xy", scale, strict=True))
        if kind == "keypointlabels":
            return annotation("point", picture, label, context, (contour(picture, [(x, y)], False),), **more)
        degrees = value.at("rotation").number(0.0)
        if kind == "ellipselabels":
            across, down = (value.at(f"radius{axis}").number() * f for axis, f in zip("XY", scale, strict=True))
            ends = ellipse_points(x, y, across, down, degrees)
            return annotation("ellipse", picture, label, context, (contour(picture, ends),), **more)
        width, height = value.at("width").number() * scale[0], value.at("height").number() * scale[1]
        if degrees % 360:
            turn = np.deg2rad(degrees)
            one_way = np.array([np.cos(turn), np.sin(turn)]) * width
            other = np.array([-np.sin(turn), np.cos(turn)]) * height
            corner = np.array([x, y])
            four = [corner, corner + one_way, corner + one_way + other, corner + other]
            return annotation("polygon", picture, label, context, (contour(picture, four),), **more)
        drawn = box_contour(picture, x, y, x + width, y + height)
        return annotation("box", picture, label, context, (drawn,), **more)

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """``tasks.json``, ready to be imported."""
        written = Written(tolerance=0.01)
        tasks: dict[str, tuple[Picture, list[dict[str, Any]]]] = {}
        for picture, part in frame_by_frame(annotations, context, written, _KINDS):
            tasks.setdefault(picture.name, (picture, []))[1].extend(_results(part, picture, context, written))
        rows = [
            {"id": number, "data": {"image": picture.name}, "annotations": [{"id": number, "result": results}]}
            for number, (picture, results) in enumerate(tasks.values(), 1)
            if results
        ]
        if rows:
            path = out / "tasks.json"
            path.write_text(json.dumps(rows), encoding="utf-8")
            written.files.append(path)
        return written


def _results(part: Annotation, picture: Picture, context: Context, written: Written) -> list[dict[str, Any]]:
    def result(kind: str, value: dict[str, Any]) -> dict[str, Any]:
        control = "choice" if kind == "choices" else kind.removesuffix("labels")
        key = {"choices": [part.label.name]} if kind == "choices" else {kind: [part.label.name]}
        return {
            "id": uuid.uuid4().hex[:10], "type": kind, "from_name": control, "to_name": "image",
            "original_width": picture.width, "original_height": picture.height, "image_rotation": 0,
            "value": {**value, **key},
        }  # fmt: skip

    if part.kind == "label":
        written.meant.append(replace(part, value=None, unit=""))
        return [result("choices", {})]
    if part.kind in ("polygon", "freehand") and any(not c.closed for c in part.contours):
        written.leave_out(part, "open contours")
        return []
    if part.kind in ("polygon", "freehand") and has_holes(part, picture, context):
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
        return [result("brushlabels", {"format": "rle", "rle": _packed(on_picture(part, picture))})]
    percent = 100.0 / np.array([picture.width, picture.height])
    found = []
    for one in part.contours:
        c = one
        flat = picture.to_corner(c.points)
        if part.kind == "box":
            top, left, bottom, right = bounding_box(c.points)
            c = replace(c, points=((top, left), (bottom, right)))
            (x, y), (u, v) = (picture.to_corner(c.points) * percent).tolist()
            found.append(result("rectanglelabels", {"x": x, "y": y, "width": u - x, "height": v - y, "rotation": 0}))
            written.meant.append(replace(part, contours=(c,)))
        elif part.kind == "ellipse":
            x, y, across, down, degrees = ellipse_axes(flat)
            c = replace(c, points=picture.from_corner(ellipse_points(x, y, across, down, degrees)))
            value = {"x": x, "y": y, "radiusX": across, "radiusY": down}
            scaled = {key: float(value[key] * percent[i % 2]) for i, key in enumerate(value)}
            found.append(result("ellipselabels", {**scaled, "rotation": degrees}))
            written.meant.append(replace(part, contours=(c,)))
        elif part.kind == "point":
            for point in c.points:
                ((x, y),) = (picture.to_corner([point]) * percent).tolist()
                found.append(result("keypointlabels", {"x": x, "y": y, "width": 0.5}))
                written.meant.append(replace(part, contours=(replace(c, points=(point,), closed=False),)))
        else:
            found.append(result("polygonlabels", {"points": (flat * percent).tolist(), "closed": True}))
            written.meant.append(replace(part, kind="polygon", contours=(c,)))
    return found


# Brushes: the packed run lengths of Label Studio ----------------------------------------------------------------------


class _Bits:
    """A stream of bits, the highest of a byte first."""

    def __init__(self, data: bytes, where: Reader) -> None:
        self.bits: NDArray[np.uint8] = np.unpackbits(np.frombuffer(data, np.uint8))
        self.at, self.where = 0, where

    def take(self, count: int) -> int:
        if self.at + count > len(self.bits):
            raise self.where.fail("run lengths that do not end early")
        value = 0
        for bit in self.bits[self.at : self.at + count].tolist():
            value = value << 1 | bit
        self.at += count
        return value


def _from_packed(one: Reader, height: int, width: int) -> Mask:
    """Marked pixels: those whose fourth channel (opacity) is not 0."""
    numbers = one.value
    if not isinstance(numbers, list) or not all(isinstance(n, int) and 0 <= n < 256 for n in numbers):
        raise one.fail("a list of bytes")
    bits = _Bits(bytes(numbers), one)
    total = bits.take(32)
    if total != height * width * 4:
        raise malformed(one.name, one.place, f"{height * width * 4} values", f"{total}")
    size = bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        same = bits.take(1)
        count = 1 + bits.take(lengths[bits.take(2)])
        stop = min(total, at + count)
        if same:
            values[at:stop] = bits.take(size) & 255
        else:
            for k in range(at, stop):
                values[k] = bits.take(size) & 255
        at = stop
    return np.asarray(values.reshape(height, width, 4)[..., 3] > 0)


def _packed(mask: Mask) -> list[int]:
    """The inverse of ``_from_packed``, as runs only."""
    flat = np.repeat(mask.ravel(), 4)
    words = [f"{len(flat):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    starts = [0, *edges.tolist(), len(flat)]
    for begin, end in pairwise(starts):
        value = "11111111" if flat[begin] else "00000000"
        left = end - begin
        while left:
            count = min(left, 1 << _SIZES[-1])
            which = next(i for i, size in enumerate(_SIZES) if count <= 1 << size)
            words.append(f"1{which:02b}{count - 1:0{_SIZES[which]}b}{value}")
            left -= count
    text = "".join(words)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
