"""What an annotation is.

Points lie on one frame, in pixels as (row, column), whole numbers at **centres** as in ``dcmark.geometry``;
or in the patient, in mm as (x, y, z), LPS. ``annotate.places`` turns one into the other.

The region of closed contours is what lies inside an odd number of them on a frame, so a contour inside another one is
a hole. A pixel belongs to it when its centre lies inside or on a contour (``annotate.raster``).
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast, get_args

from dcmark.annotate.masks import MaskPlane
from dcmark.errors import UsageError
from dcmark.read.volume_model import FrameId

Kind = Literal[
    "label", "measurement", "point", "line", "box", "ellipse", "polygon", "freehand", "mask", "text"
]  # fmt: skip
"""
- ``label``: the target is of this class. ``measurement``: ``value`` in ``unit``, perhaps with contours that show where.
- ``point``: one contour a point or more. ``line``: open, two points or more; three make an angle.
- ``box``: two opposite corners a contour. ``ellipse``: ends of the major axis, then of the minor axis.
- ``polygon``: closed contours of corners. ``freehand``: drawn contours, closed or open.
- ``mask``: pixels, on one frame or through a volume. ``text``: words, perhaps at points.
"""
Level = Literal["patient", "study", "series", "volume", "instance", "frame", "region"]
Status = Literal["draft", "reviewed", "rejected"]
KINDS: tuple[str, ...] = get_args(Kind)
LEVELS: tuple[str, ...] = get_args(Level)
STATUSES: tuple[str, ...] = get_args(Status)
CLOSED_KINDS = frozenset({"box", "ellipse", "polygon"})
MOST_POINTS = 20_000_000
"""Points of one annotation."""
_LARGEST = 1e9
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FILE = re.compile(r"[0-9a-f]{64}|")

Point = tuple[float, ...]
Points = tuple[Point, ...]


class Code(NamedTuple):
    """A concept: value, scheme and meaning, as in a code sequence (PS3.3 section 8.1), e.g. 10200004 SCT Liver."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Label:
    """What is stated.

    Attributes:
        name: free words, or the name in a label set.
        code: the concept, where it is coded.
        category: the wider concept, e.g. 91723000 SCT Anatomical Structure.
        colour: ``#rrggbb``; empty for none.
    """

    name: str
    code: Code | None = None
    category: Code | None = None
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What an annotation is about. Filled in down to ``level``; above it as far as known.

    Attributes:
        level: of the statement; ``region`` is a part of frames.
        patient: Patient ID, or the name of the patient's folder where the files hold none.
        study, series: instance UIDs.
        volume: id of a volume.
        file: SHA-256 of a file in hexadecimal digits (level ``instance``, ``frame``).
        frame: number of a frame in ``file``, from 0.
    """

    level: Level
    patient: str = ""
    study: str = ""
    series: str = ""
    volume: str = ""
    file: str = ""
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Contour:
    """Points that belong together.

    Attributes:
        points: (row, column) in pixels of ``frame``, or (x, y, z) in mm, LPS, where there is none.
        frame: they lie on.
        closed: the last point leads back to the first, which is not repeated.
    """

    points: Points
    frame: FrameId | None = None
    closed: bool = True


@dataclass(frozen=True, slots=True)
class Annotation:
    """A statement about images.

    Attributes:
        kind: see ``Kind``.
        target: what it is about.
        label: what is stated.
        contours: where, for all kinds but ``mask`` and ``label``.
        mask: planes, one a frame, for ``mask``; none of them is empty.
        value, unit: of a measurement, unit in UCUM; or a probability of a label (unit ``1``).
        text: words of kind ``text``, or a remark.
        author: who made it, as the user or the file says.
        tool, tool_version: with what.
        time: when, ISO 8601 with offset; empty where not known.
        status: ``draft``, ``reviewed`` or ``rejected``.
        derived_from: ids of annotations it was made from.
        origin: UID of the object, or name of the file, it was imported from.
        properties: what a format holds beside this, e.g. ``tracking_uid``; sorted pairs.
        id: 32 hexadecimal digits; stays when the annotation is changed.
    """

    kind: Kind
    target: Target
    label: Label
    contours: tuple[Contour, ...] = ()
    mask: Sequence[MaskPlane] = ()
    value: float | None = None
    unit: str = ""
    text: str = ""
    author: str = ""
    tool: str = ""
    tool_version: str = ""
    time: str = ""
    status: Status = "draft"
    derived_from: tuple[str, ...] = ()
    origin: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def prop(self, name: str) -> str:
        """The value of a property; empty where there is none of that name."""
        return dict(self.properties).get(name, "")

    def with_properties(self, **values: str) -> Annotation:
        """The same with properties added; empty ones are left out."""
        merged = {**dict(self.properties), **{k: v for k, v in values.items() if v}}
        return replace(self, properties=tuple(sorted(merged.items())))

    @property
    def frames(self) -> tuple[FrameId, ...]:
        """Frames it marks, each once, in order of appearance."""
        found = [contour.frame for contour in self.contours if contour.frame is not None]
        found += [plane.frame for plane in self.mask]
        if not found and self.target.frame is not None:
            found = [FrameId(self.target.file, self.target.frame)]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels that may be chosen from, kept in the archive; labels have different names."""

    name: str
    labels: tuple[Label, ...]


def check(annotation: Annotation) -> Annotation:
    """The annotation itself, when it can be.

    Raises:
        UsageError: naming what was expected and found.
    """

    def expect(good: bool, what: str) -> None:
        if not good:
            raise UsageError(f"expected {what} in an annotation of kind {annotation.kind!r}, found something else")

    one = annotation
    expect(one.kind in KINDS, f"a kind of {', '.join(KINDS)}")
    expect(one.status in STATUSES, f"a status of {', '.join(STATUSES)}")
    expect(one.target.level in LEVELS, f"a level of {', '.join(LEVELS)}")
    expect(bool(_FILE.fullmatch(one.target.file)), "a SHA-256 for file")
    expect(bool(one.label.name) or one.kind == "text", "a name for the label")
    expect(not one.label.colour or bool(_COLOUR.fullmatch(one.label.colour)), "a colour such as #00ff00")
    expect(bool(re.fullmatch("[0-9a-f]{32}", one.id)), "an id of 32 hexadecimal digits")
    expect(one.value is None or math.isfinite(one.value), "a finite value")
    expect((one.kind == "mask") == bool(len(one.mask)), "planes for a mask, and for nothing else")
    expect(one.kind != "measurement" or one.value is not None, "a value")
    fewest = {"line": 2, "box": 2, "ellipse": 4, "polygon": 1, "freehand": 1, "point": 1}.get(one.kind, 0)
    exactly = one.kind in ("box", "ellipse")
    expect(not fewest or bool(one.contours), "contours")
    count = 0
    for contour in one.contours:
        size = 3 if contour.frame is None else 2
        count += len(contour.points)
        expect(len(contour.points) >= fewest and not (exactly and len(contour.points) != fewest), f"{fewest} points")
        good = all(
            len(point) == size and all(-_LARGEST <= number <= _LARGEST for number in point) for point in contour.points
        )
        expect(good, f"points of {size} finite numbers")
    expect(count <= MOST_POINTS, f"at most {MOST_POINTS} points")
    if one.kind == "mask":
        frames = [plane.frame for plane in one.mask] if len(one.mask) < 100_000 else []
        expect(len(set(frames)) == len(frames), "one plane a frame")
    return annotation


# Plain data -----------------------------------------------------------------------------------------------------------


def body_of(annotation: Annotation) -> str:
    """What the columns of an event do not hold, as JSON; without the planes of a mask."""
    one = annotation
    plain: dict[str, Any] = {}
    if one.label.code is not None:
        plain["code"] = list(one.label.code)
    if one.label.category is not None:
        plain["category"] = list(one.label.category)
    if one.label.colour:
        plain["colour"] = one.label.colour
    if one.contours:
        files = list(dict.fromkeys(contour.frame.file for contour in one.contours if contour.frame is not None))
        number = {file: i for i, file in enumerate(files)}
        plain["files"] = files
        plain["contours"] = [
            {
                "points": contour.points,
                **({} if contour.frame is None else {"on": [number[contour.frame.file], contour.frame.frame]}),
                **({} if contour.closed else {"open": True}),
            }
            for contour in one.contours
        ]
    for name in ("text", "time", "derived_from", "origin", "properties", "author", "tool", "tool_version"):
        value = getattr(one, name)
        if value:
            plain[name] = value
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def annotation_of(row: Mapping[str, Any], mask: Sequence[MaskPlane] = ()) -> Annotation:
    """The annotation of an event: columns and body.

    Args:
        row: of ``annotations``.
        mask: its planes.
    """
    plain = json.loads(row["body"])
    files = plain.get("files", ())
    contours = tuple(
        Contour(
            tuple(tuple(point) for point in one["points"]),
            FrameId(files[one["on"][0]], one["on"][1]) if "on" in one else None,
            not one.get("open", False),
        )
        for one in plain.get("contours", ())
    )
    target = Target(
        cast(Level, row["level"]), row["patient"], row["study"], row["series"], row["volume"], row["file"], row["frame"]
    )
    label = Label(row["label"], _code(plain.get("code")), _code(plain.get("category")), plain.get("colour", ""))
    return Annotation(
        cast(Kind, row["kind"]),
        target,
        label,
        contours,
        mask,
        row["value"],
        row["unit"],
        plain.get("text", ""),
        plain.get("author", ""),
        plain.get("tool", ""),
        plain.get("tool_version", ""),
        plain.get("time", ""),
        cast(Status, row["status"]),
        tuple(plain.get("derived_from", ())),
        plain.get("origin", ""),
        tuple((name, value) for name, value in plain.get("properties", ())),
        row["annotation"],
    )


def columns_of(annotation: Annotation) -> dict[str, Any]:
    """Columns of an event that an annotation fills, but those of its mask."""
    one, target = annotation, annotation.target
    return {
        "annotation": one.id,
        "kind": one.kind,
        "status": one.status,
        "label": one.label.name,
        "code": "" if one.label.code is None else f"{one.label.code.value}^{one.label.code.scheme}",
        "level": target.level,
        "patient": target.patient,
        "study": target.study,
        "series": target.series,
        "volume": target.volume,
        "file": target.file,
        "frame": target.frame,
        "value": one.value,
        "unit": one.unit,
        "body": body_of(one),
    }


def _code(values: Sequence[str] | None) -> Code | None:
    return None if values is None else Code(*values)


def label_set_body(labels: LabelSet) -> str:
    """A label set as JSON."""
    rows = [
        {
            "name": one.name,
            **({"code": list(one.code)} if one.code else {}),
            **({"category": list(one.category)} if one.category else {}),
            **({"colour": one.colour} if one.colour else {}),
        }
        for one in labels.labels
    ]
    return json.dumps({"labels": rows}, separators=(",", ":"))


def label_set_of(name: str, body: str) -> LabelSet:
    """The inverse of ``label_set_body``."""
    rows = json.loads(body)["labels"]
    return LabelSet(
        name,
        tuple(
            Label(row["name"], _code(row.get("code")), _code(row.get("category")), row.get("colour", ""))
            for row in rows
        ),
    )
