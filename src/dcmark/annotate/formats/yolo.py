"""YOLO: a text file a picture; class, then a box by its centre, or the corners of a polygon, as parts of the size."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dcmark.annotate.formats.base import Context, Imported, Written, chosen_labels, malformed, read_text, reading_file
from dcmark.annotate.formats.pixels import (
    annotation,
    as_polygons,
    box_contour,
    contour,
    finite,
    frame_by_frame,
    has_holes,
)
from dcmark.annotate.model import Annotation, Label
from dcmark.annotate.pictures import Picture
from dcmark.annotate.raster import bounding_box, corners
from dcmark.errors import SourceError
from dcmark.findings import Finding

_KINDS = frozenset({"mask", "polygon", "box", "freehand", "ellipse"})
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt")


class YoloFormat:
    """A folder: ``labels/*.txt`` and ``data.yaml`` with the names of the classes."""

    name = "yolo"
    suffixes: tuple[str, ...] = ()

    def read(self, source: Path, context: Context) -> Imported:
        """Every line of every text file below a folder."""
        with reading_file("a folder of YOLO labels", source.name):
            if not source.is_dir():
                raise SourceError(f"{source.name}: expected a folder with labels and data.yaml, found a file")
            names = _class_names(source)
            imported = Imported()
            files = [file for file in sorted(source.rglob("*.txt")) if file.name not in _NO_LABELS]
            for file in files:
                picture = context.pictures.expect(file.stem, file.name, "name")
                for number, line in enumerate(read_text(file).splitlines(), 1):
                    if line.strip():
                        imported.annotations.append(
                            self._line(line, file.name, f"line {number}", picture, names, context)
                        )
            return imported

    def _line(
        self, line: str, name: str, place: str, picture: Picture, names: dict[int, str], context: Context
    ) -> Annotation:
        number, *rest = line.split()
        if not number.isdigit() or len(rest) < 4:
            raise malformed(name, place, "the number of a class and four numbers or more")
        values = [finite(word, name, place) for word in rest]
        if not all(-1.0 <= value <= 2.0 for value in values[:4]):
            raise malformed(name, place, "parts of the size of the picture, from 0 to 1")
        label = Label(names.get(int(number), number))
        width, height = picture.width, picture.height
        if len(values) in (4, 5):
            x, y, w, h = np.array(values[:4]) * (width, height, width, height)
            drawn = box_contour(picture, x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            return annotation("box", picture, label, context, (drawn,), origin=name)
        if len(values) % 2 or len(values) < 6:
            raise malformed(name, place, "a box or a polygon of three points or more")
        points = np.array(values).reshape(-1, 2) * (width, height)
        return annotation("polygon", picture, label, context, (contour(picture, points),), origin=name)

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """Boxes as boxes, regions as polygons; holes cannot be held."""
        written = Written(tolerance=1e-3)
        parts = list(frame_by_frame(annotations, context, written, _KINDS))
        labels = chosen_labels([part for _, part in parts])
        numbers = {label.name: number for number, label in enumerate(labels)}
        lines: dict[str, list[str]] = {}
        for picture, part in parts:
            for one in _simple(part, picture, context, written):
                stem = re.sub(r"\.\w+$", "", picture.name)
                lines.setdefault(stem, []).append(_text(one, picture, numbers[one.label.name]))
                written.meant.append(one)
        for stem, found in lines.items():
            path = out / "labels" / f"{stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
            written.files.append(path)
        if lines:
            names = "".join(f"  {number}: {json.dumps(name)}\n" for name, number in numbers.items())
            path = out / "data.yaml"
            path.write_text(f"path: .\ntrain: images\nval: images\nnames:\n{names}", encoding="utf-8")
            written.files.append(path)
        return written


def _simple(part: Annotation, picture: Picture, context: Context, written: Written) -> list[Annotation]:
    """Boxes and polygons of one contour."""
    if part.kind == "mask":
        return as_polygons(part, picture, written)
    if any(not c.closed for c in part.contours):
        written.leave_out(part, "open contours")
        return []
    found = []
    if part.kind != "box" and has_holes(part, picture, context):
        text = f"{part.kind} {part.id[:8]}: contours inside others"
        written.findings.append(Finding("warning", "holes-lost", text, "each becomes a polygon of its own"))
    for c in part.contours:
        if part.kind == "box":
            top, left, bottom, right = bounding_box(c.points)
            found.append(replace(part, contours=(replace(c, points=((top, left), (bottom, right))),)))
        elif len(c.points) < 3:
            written.leave_out(part, "a contour of fewer than three points")
        else:
            points = tuple(map(tuple, corners(part.kind, c).tolist()))
            found.append(replace(part, kind="polygon", contours=(replace(c, points=points),)))
    return found


def _text(one: Annotation, picture: Picture, number: int) -> str:
    flat = picture.to_corner(one.contours[0].points) / (picture.width, picture.height)
    if one.kind == "box":
        low, high = flat.min(axis=0), flat.max(axis=0)
        flat = np.array([(low + high) / 2, high - low])
    return " ".join([str(number), *(f"{value:.9g}" for value in flat.ravel().tolist())])


def _class_names(folder: Path) -> dict[int, str]:
    """``names`` of ``data.yaml`` (a list or numbered), or ``classes.txt``."""
    for file in (
        *sorted(folder.glob("*.yaml")),
        *sorted(folder.glob("*.yml")),
        *sorted(folder.parent.glob("data.yaml")),
    ):
        return _yaml_names(file)
    listed = folder / "classes.txt"
    if listed.is_file():
        return dict(enumerate(line.strip() for line in read_text(listed).splitlines() if line.strip()))
    return {}


def _yaml_names(file: Path) -> dict[int, str]:
    """The key ``names`` of the simple YAML that YOLO tools write: a flow list, a block list or numbered lines."""
    lines = read_text(file).splitlines()
    names: dict[int, str] = {}
    inside = False
    for number, line in enumerate(lines, 1):
        if inside and line.strip() and not line.strip().startswith("#"):
            if not line.startswith((" ", "-", "\t")):
                break
            item = re.fullmatch(r"\s*(?:-|(\d+)\s*:)\s*(.+?)\s*", line)
            if item is None:
                raise malformed(file.name, f"line {number}", "the name of a class")
            names[int(item[1]) if item[1] else len(names)] = _unquoted(item[2])
        found = re.fullmatch(r"names\s*:\s*(.*?)\s*", line)
        if found is not None:
            inside = not found[1]
            if found[1]:
                words = re.findall(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[^,\[\]{}]+', found[1])
                parts = [word.strip() for word in words if word.strip()]
                return {
                    int(m[1]) if (m := re.fullmatch(r"(\d+)\s*:\s*(.+)", part)) else i: _unquoted(m[2] if m else part)
                    for i, part in enumerate(parts)
                }
    return names


def _unquoted(word: str) -> str:
    if word.startswith('"') and word.endswith('"') and len(word) > 1:
        return str(json.loads(word))
    return word[1:-1] if word.startswith("'") and word.endswith("'") and len(word) > 1 else word
