"""Labels of label maps: what the values of voxels mean, and the file ``NAME.labels.json`` that says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcmark.annotate.formats.base import Reader, read_json
from dcmark.annotate.formats.volumes import VolumeMask
from dcmark.annotate.model import Code, Label


class Segment:
    """A label of a label map: the value of its voxels, in which layer, and what it means."""

    def __init__(self, value: int, layer: int, label: Label, properties: Mapping[str, str] | None = None) -> None:
        self.value, self.layer, self.label, self.properties = value, layer, label, dict(properties or {})


def side_path(path: Path) -> Path:
    stem = re.sub(r"(\.seg)?\.(nii\.gz|nii|nrrd|mha|mhd)$", "", path.name, flags=re.IGNORECASE)
    return path.with_name(f"{stem}.labels.json")


def side_labels(path: Path) -> list[Segment]:
    """What ``NAME.labels.json`` beside a label map says its values mean; nothing where there is none."""
    place = side_path(path)
    if not place.is_file():
        return []
    root = Reader(place.name, read_json(place))
    if not isinstance(root.value, dict):
        raise root.fail("an object of label values")
    segments = []
    for key in root.value:
        one = root.at(key)
        if not key.isdigit():
            raise root.fail("whole numbers as names of members")
        segments.append(Segment(int(key), 0, label_from(one)))
    return segments


def label_from(one: Reader) -> Label:
    """A label from JSON: a name, or an object with name, code, category and colour."""
    if isinstance(one.value, str):
        return Label(one.value)
    codes: list[Code | None] = []
    for key in ("code", "category"):
        words = [word.text() for word in one.at(key).items()] if key in one else []
        if words and len(words) != 3:
            raise one.at(key).fail("value, scheme and meaning")
        codes.append(Code(words[0], words[1], words[2]) if words else None)
    colour = one.at("colour").text("")
    if colour and not re.fullmatch("#[0-9a-f]{6}", colour):
        raise one.at("colour").fail("a colour such as #00ff00")
    return Label(one.at("name").text(), codes[0], codes[1], colour)


def label_json(label: Label) -> dict[str, Any]:
    """The inverse of ``label_from``."""
    return {
        "name": label.name,
        **({"code": list(label.code)} if label.code else {}),
        **({"category": list(label.category)} if label.category else {}),
        **({"colour": label.colour} if label.colour else {}),
    }


def write_side_labels(path: Path, masks: Sequence[VolumeMask], values: Sequence[int]) -> Path:
    """Write ``NAME.labels.json``."""
    place = side_path(path)
    rows = {
        str(worth): label_json(one.annotation.label)
        for worth, one in sorted(zip(values, masks, strict=True), key=_first)
    }
    place.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return place


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]
