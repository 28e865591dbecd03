"""COCO: boxes, polygons, run lengths (exact masks), key points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dcmark.annotate.formats.base import (
    Context,
    Imported,
    Reader,
    Written,
    chosen_labels,
    malformed,
    read_json,
    reading_file,
)
from dcmark.annotate.formats.labels import label_from, label_json
from dcmark.annotate.formats.pixels import (
    Mask,
    annotation,
    box_contour,
    contour,
    expect_size,
    filled,
    frame_by_frame,
    from_runs,
    has_holes,
    mask_annotation,
    meant_mask,
    on_picture,
    runs,
)
from dcmark.annotate.model import Annotation, Label
from dcmark.annotate.pictures import Picture
from dcmark.annotate.raster import bounding_box, corners, pixel_box

_KINDS = frozenset({"mask", "polygon", "box", "freehand", "ellipse", "point"})


class CocoFormat:
    """One JSON file. Masks and regions with holes go as run lengths, pixel for pixel."""

    name = "coco"
    suffixes = (".json",)

    def read(self, source: Path, context: Context) -> Imported:
        """Every annotation of every image."""
        with reading_file("COCO JSON", source.name):
            root = Reader(source.name, read_json(source))
            pictures: dict[int, Picture] = {}
            for one in root.at("images").items():
                picture = context.pictures.expect(one.at("file_name").text(), source.name, one.place)
                expect_size(
                    picture,
                    one.at("width").whole(1, 1 << 31),
                    one.at("height").whole(1, 1 << 31),
                    source.name,
                    one.place,
                )
                pictures[one.at("id").whole()] = picture
            labels = {}
            for one in root.at("categories").items():
                labels[one.at("id").whole()] = (
                    label_from(one.at("dcmark")) if "dcmark" in one else Label(one.at("name").text())
                )
            imported = Imported()
            for one in root.at("annotations").items():
                picture_id, category = one.at("image_id").whole(), one.at("category_id").whole()
                if picture_id not in pictures or category not in labels:
                    raise malformed(source.name, one.place, "the ids of a listed image and category", "others")
                imported.annotations += self._annotations(one, pictures[picture_id], labels[category], context)
            return imported

    def _annotations(self, one: Reader, picture: Picture, label: Label, context: Context) -> list[Annotation]:
        more: dict[str, Any] = {"origin": one.name}
        properties = {"score": repr(one.at("score").number())} if "score" in one else {}
        segmentation = one.at("segmentation")
        if isinstance(segmentation.value, dict):
            mask = _from_rle(segmentation, picture)
            made = mask_annotation(annotation("label", picture, label, context, **more), picture, mask, context)
            done = [] if made is None else [replace(made, target=context.places.target("region", [picture.frame]))]
        elif segmentation.value:
            drawn = []
            for polygon in segmentation.items():
                numbers = polygon.numbers()
                if len(numbers) < 6 or len(numbers) % 2:
                    raise polygon.fail("three points or more as x, y, x, y, ...")
                drawn.append(contour(picture, np.array(numbers).reshape(-1, 2)))
            done = [annotation("polygon", picture, label, context, tuple(drawn), **more)]
        elif "keypoints" in one:
            numbers = one.at("keypoints").numbers()
            if len(numbers) % 3:
                raise one.at("keypoints").fail("triples x, y, visibility")
            seen = [numbers[i : i + 2] for i in range(0, len(numbers), 3) if numbers[i + 2] > 0]
            done = (
                [annotation("point", picture, label, context, (contour(picture, seen, False),), **more)] if seen else []
            )
        else:
            left, top, width, height = one.at("bbox").numbers(4)
            drawn_box = box_contour(picture, left, top, left + width, top + height)
            done = [annotation("box", picture, label, context, (drawn_box,), **more)]
        return [made.with_properties(**properties) for made in done]

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """``annotations.json``."""
        written = Written(exact_labels=True)
        images: dict[str, tuple[int, Picture]] = {}
        rows: list[dict[str, Any]] = []
        parts = list(frame_by_frame(annotations, context, written, _KINDS))
        labels = chosen_labels([part for _, part in parts])
        categories = {label.name: number for number, label in enumerate(labels, 1)}
        for picture, part in parts:
            image, _ = images.setdefault(picture.name, (len(images) + 1, picture))
            shown = self._row(part, picture, context, written)
            if shown is not None:
                row = {"id": len(rows) + 1, "image_id": image, "category_id": categories[part.label.name], **shown}
                rows.append({**row, "iscrowd": 0})
        whole = {
            "info": {"description": "annotations of dcmark", "version": "1"},
            "images": [
                {"id": number, "file_name": picture.name, "width": picture.width, "height": picture.height}
                for number, picture in images.values()
            ],
            "categories": [
                {"id": categories[label.name], "name": label.name, "supercategory": "", "dcmark": label_json(label)}
                for label in labels
            ],
            "annotations": rows,
        }
        if rows:
            path = out / "annotations.json"
            path.write_text(json.dumps(whole), encoding="utf-8")
            written.files.append(path)
        return written

    def _row(self, part: Annotation, picture: Picture, context: Context, written: Written) -> dict[str, Any] | None:
        if part.kind == "point":
            points = [p for c in part.contours for p in c.points]
            flat = picture.to_corner(points)
            whole = replace(part.contours[0], points=tuple(points), closed=False)
            written.meant.append(replace(part, contours=(whole,)))
            keypoints = [value for x, y in flat.tolist() for value in (x, y, 2)]
            return {"keypoints": keypoints, "num_keypoints": len(points), "bbox": _bbox(flat), "area": 0}
        if part.kind == "box":
            if len(part.contours) > 1:
                written.leave_out(part, "several boxes on one frame in one annotation")
                return None
            top, left, bottom, right = bounding_box(part.contours[0].points)
            flat = picture.to_corner([(top, left), (bottom, right)])
            written.meant.append(
                replace(part, contours=(replace(part.contours[0], points=((top, left), (bottom, right))),))
            )
            box = _bbox(flat)
            return {"bbox": box, "area": box[2] * box[3], "segmentation": []}
        if part.kind != "mask" and any(not c.closed for c in part.contours):
            written.leave_out(part, "open contours")
            return None
        if part.kind in ("polygon", "freehand", "ellipse"):
            drawn = tuple(replace(c, points=tuple(map(tuple, corners(part.kind, c).tolist()))) for c in part.contours)
            part = replace(part, kind="polygon", contours=drawn)
            few = any(len(c.points) < 3 for c in part.contours)
            if few or has_holes(part, picture, context):
                mask = filled(part, picture, context)
                if mask is None:
                    written.leave_out(part, "no pixel lies inside it")
                    return None
                part = mask
        if part.kind == "mask":
            back = meant_mask(part, picture, context, written)
            if back is None:
                return None
            written.meant.append(back)
            mask_ = on_picture(part, picture)
            box_ = pixel_box(mask_) or (0.0, 0.0, 0.0, 0.0)
            return {
                "segmentation": {"size": [picture.height, picture.width], "counts": runs(mask_, "F")},
                "bbox": [box_[1] + 0.5, box_[0] + 0.5, box_[3] - box_[1], box_[2] - box_[0]],
                "area": int(mask_.sum()),
            }
        written.meant.append(part)
        polygons = [picture.to_corner(c.points) for c in part.contours]
        size = context.places.size(picture.frame)
        shown = filled(part, picture, context)
        area = int(shown.mask[0].binary().sum()) if shown is not None else 0
        del size
        return {
            "segmentation": [polygon.ravel().tolist() for polygon in polygons],
            "bbox": _bbox(np.concatenate(polygons)),
            "area": area,
        }


def _bbox(flat: Any) -> list[float]:
    low, high = flat.min(axis=0), flat.max(axis=0)
    return [float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])]


def _from_rle(one: Reader, picture: Picture) -> Mask:
    height, width = (int(value) for value in one.at("size").numbers(2))
    expect_size(picture, width, height, one.name, one.place)
    counts = one.at("counts")
    if isinstance(counts.value, str):
        return from_runs(_unpacked(counts.value, counts), height, width, "F", one.name, counts.place)
    return from_runs([item.whole() for item in counts.items()], height, width, "F", one.name, counts.place)


def _unpacked(text: str, where: Reader) -> list[int]:
    """The compressed counts of COCO: five bits a character, the lowest first; from the third on differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise where.fail("compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
