"""Annotations as the page sends and gets them: slices of a stack instead of files, runs instead of packed planes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.masks import MaskPlane, boxed_plane
from dcmark.annotate.model import KINDS, LEVELS, MOST_POINTS, STATUSES, Annotation, Code, Contour, Label, Level, Target
from dcmark.errors import LimitError, UsageError
from dcmark.read.volume_model import FrameId
from dcmark.web.limits import LIMITS

PAGE_PIXELS = 1 << 28
"""Pixels of the rows of one slice that a mask covers."""
LONGEST_TEXT = 20_000
_ID = re.compile("[0-9a-f]{32}")
_SET_BY_SERVER = ("author", "time")


class Stacked(Protocol):
    """What of a stack is needed here."""

    rows: int
    columns: int

    @property
    def frames(self) -> Sequence[FrameId]:
        """In order."""
        ...

    @property
    def index(self) -> Mapping[FrameId, int]:
        """Number of each frame."""
        ...

    def target(self, level: Level, frames: Sequence[FrameId]) -> Target:
        """Of an annotation on these frames."""
        ...


# Masks ----------------------------------------------------------------------------------------------------------------


def runs_of(plane: MaskPlane) -> list[int]:
    """The marked pixels of a plane: start, length, start, ... over its frame row by row."""
    box = plane.box() if plane.levels == 1 else plane.box() * 2.0 >= plane.levels
    return runs_of_box(box, plane.top, plane.left, plane.columns)


def runs_of_box(box: NDArray[Any], top: int, left: int, columns: int) -> list[int]:
    """Runs of the pixels of a part of a frame; see ``runs_of``."""
    height, width = box.shape
    padded = np.zeros((height, width + 1), np.int8)
    padded[:, :width] = box
    edges = np.flatnonzero(np.diff(padded.ravel(), prepend=np.int8(0)))
    down, across = np.divmod(edges, width + 1)
    places = (top + down) * columns + left + across
    starts, ends = places[::2], places[1::2]
    if width == columns and len(starts) > 1:  # runs that go on in the next row
        inner = starts[1:] == ends[:-1]
        starts, ends = starts[np.concatenate([[True], ~inner])], ends[np.concatenate([~inner, [True]])]
    return np.stack([starts, ends - starts], axis=1).ravel().tolist()


def plane_of(frame: FrameId, rows: int, columns: int, runs: object) -> MaskPlane | None:
    """A plane from runs; None where there are none.

    Raises:
        UsageError: they are no runs in order inside of the frame.
        LimitError: the rows they cover hold too many pixels.
    """
    if not isinstance(runs, list) or len(runs) % 2 or not all(type(one) is int for one in runs):
        raise UsageError("expected runs as a list of starts and lengths in turn, found something else")
    if not runs:
        return None
    if min(runs) < 0 or max(runs) > rows * columns:
        raise UsageError("expected runs inside of the frame, found some outside of it")
    pairs = np.array(runs, np.int64).reshape(-1, 2)
    starts, ends = pairs[:, 0], pairs.sum(axis=1)
    if (pairs[:, 1] < 1).any() or ends[-1] > rows * columns or (starts[1:] < ends[:-1]).any():
        raise UsageError("expected runs of one pixel or more, in order and inside of the frame, found others")
    top, bottom = int(starts[0]) // columns, (int(ends[-1]) - 1) // columns + 1
    if (bottom - top) * columns > PAGE_PIXELS:
        raise LimitError(f"expected a mask of at most {PAGE_PIXELS} pixels a slice, found a larger one")
    change = np.zeros((bottom - top) * columns + 1, np.int8)
    change[starts - top * columns] += 1  # starts are all different, and so are ends
    change[ends - top * columns] -= 1
    box = np.cumsum(change[:-1], dtype=np.int8).reshape(bottom - top, columns) > 0
    return boxed_plane(frame, (rows, columns), box, top, 0)


def planes_of(mask: object, stack: Stacked) -> dict[int, MaskPlane | None]:
    """The slices that a mask names; None for one that is empty. Errors as for ``plane_of``."""
    slices = mask.get("slices") if isinstance(mask, dict) else None
    if not isinstance(slices, list):
        raise UsageError("expected a mask with slices, found something else")
    found: dict[int, MaskPlane | None] = {}
    pixels = 0
    for one in slices:
        k = _slice(one.get("k") if isinstance(one, dict) else None, stack)
        if k in found:
            raise UsageError("expected every slice of a mask once, found one twice")
        plane = found[k] = plane_of(stack.frames[k], stack.rows, stack.columns, one.get("runs"))
        pixels += 0 if plane is None else plane.height * plane.width
        if pixels > LIMITS.pixels:
            raise LimitError(f"expected a mask of at most {LIMITS.pixels} pixels, found a larger one")
    return found


# Annotations ----------------------------------------------------------------------------------------------------------


def as_json(one: Annotation, stack: Stacked) -> dict[str, Any] | None:
    """An annotation as the page gets it; None where none of it lies on the stack."""
    index = stack.index
    contours = [
        {
            "slice": None if contour.frame is None else index[contour.frame],
            "closed": contour.closed,
            "points": [list(point) for point in contour.points],
        }
        for contour in one.contours
        if contour.frame is None or contour.frame in index
    ]
    planes = sorted((index[plane.frame], plane) for plane in one.mask if plane.frame in index) if one.mask else []
    if (one.mask and not planes) or (one.contours and not contours):
        return None
    first = min([k for k, _ in planes] + [c["slice"] for c in contours if c["slice"] is not None], default=None)
    if first is None and one.target.frame is not None:
        first = index.get(FrameId(one.target.file, one.target.frame))
        if first is None:
            return None
    return {
        "id": one.id, "kind": one.kind, "level": one.target.level, "slice": first,
        "label": {"name": one.label.name, "color": one.label.colour, "code": _code_json(one.label.code)},
        "contours": contours,
        "mask": {"slices": [{"k": k, "runs": runs_of(plane)} for k, plane in planes]} if planes else None,
        "value": one.value, "unit": one.unit, "text": one.text, "author": one.author, "tool": one.tool,
        "time": one.time, "status": one.status, "comment": one.prop("comment"),
        "derived_from": list(one.derived_from),
        "properties": {name: text for name, text in one.properties if name != "comment"},
    }  # fmt: skip


def made(plain: object, stack: Stacked, *, author: str, time: str) -> Annotation:
    """A new annotation from what the page sent.

    Raises:
        UsageError: something in it is not as expected. (``annotate.model.check`` looks at the whole.)
        LimitError: a mask is too large.
    """
    plain = _object(plain, "an annotation")
    kind = _word(plain, "kind", "", KINDS)
    planes = [one for one in planes_of(plain["mask"], stack).values() if one is not None] if plain.get("mask") else []
    if (kind == "mask") != bool(planes):
        raise UsageError("expected pixels in a mask, and in nothing else; found otherwise")
    contours = _contours(plain.get("contours") or [], stack)
    frames = _frames(contours, planes)
    if not frames and plain.get("slice") is not None:
        frames = [stack.frames[_slice(plain["slice"], stack)]]
    usual = "region" if kind not in ("label", "mask", "text") or (kind == "text" and contours) else "volume"
    level = cast(Level, _word(plain, "level", usual, LEVELS))
    name = plain.get("id")
    one = Annotation(
        kind,  # type: ignore[arg-type]
        stack.target(level, frames),
        _label(plain.get("label")),
        contours,
        planes,
        _number(plain.get("value")),
        _text(plain, "unit"),
        _text(plain, "text"),
        author,
        _text(plain, "tool") or "dcmark",
        "",
        time,
        _word(plain, "status", "draft", STATUSES),  # type: ignore[arg-type]
        _ids(plain.get("derived_from") or []),
    )
    if name is not None:
        one = replace(one, id=_id(name))
    return one.with_properties(**_properties(plain), comment=_text(plain, "comment"))


def changed(one: Annotation, plain: Mapping[str, Any], stack: Stacked, *, time: str) -> Annotation | None:
    """An annotation with what the page sent put in its place; fields left out stay. None: its mask became empty.

    Raises:
        UsageError, LimitError: as for ``made``.
    """
    new: dict[str, Any] = {"time": time}
    if plain.get("kind") not in (None, one.kind):
        raise UsageError("expected the kind of an annotation to stay, found another; remove it and add a new one")
    if "label" in plain:
        label = _label(plain["label"])
        new["label"] = replace(label, category=one.label.category if label.code == one.label.code else None)
    if plain.get("mask") is not None:
        named = planes_of(plain["mask"], stack)
        partial = plain["mask"].get("partial") is True
        elsewhere = [plane for plane in one.mask if plane.frame not in stack.index]
        here = {stack.index[plane.frame]: plane for plane in one.mask if plane.frame in stack.index}
        merged = (here if partial else {}) | named
        planes = elsewhere + [plane for _, plane in sorted(merged.items()) if plane is not None]
        if not planes:
            return None
        new["mask"] = planes
    if "contours" in plain:
        elsewhere_drawn = tuple(c for c in one.contours if c.frame is not None and c.frame not in stack.index)
        new["contours"] = elsewhere_drawn + _contours(plain["contours"] or [], stack)
    if "value" in plain:
        new["value"] = _number(plain["value"])
    for name in ("unit", "text", "tool"):
        if name in plain:
            new[name] = _text(plain, name)
    if "status" in plain:
        new["status"] = _word(plain, "status", one.status, STATUSES)
    if "derived_from" in plain:
        new["derived_from"] = _ids(plain["derived_from"] or [])
    found = replace(one, **new)
    if "contours" in new or "mask" in new:
        frames = _frames(found.contours, found.mask)
        if all(frame in stack.index for frame in frames):
            found = replace(found, target=stack.target(found.target.level, frames))
    if "comment" in plain or "properties" in plain:
        kept = dict(found.properties) if "properties" not in plain else {"comment": found.prop("comment")}
        kept |= _properties(plain) | ({"comment": _text(plain, "comment")} if "comment" in plain else {})
        found = replace(found, properties=tuple(sorted((k, v) for k, v in kept.items() if v)))
    return found


def _frames(contours: Sequence[Contour], planes: Sequence[MaskPlane]) -> list[FrameId]:
    found = [contour.frame for contour in contours if contour.frame is not None] + [plane.frame for plane in planes]
    return list(dict.fromkeys(found))


def _contours(plain: object, stack: Stacked) -> tuple[Contour, ...]:
    if not isinstance(plain, list):
        raise UsageError("expected a list of contours, found something else")
    found, count = [], 0
    for each in plain:
        one = _object(each, "a contour")
        points = one.get("points")
        if not isinstance(points, list):
            raise UsageError("expected a list of points, found something else")
        count += len(points)
        if count > MOST_POINTS:
            raise LimitError(f"expected at most {MOST_POINTS} points, found more")
        frame = None if one.get("slice") is None else stack.frames[_slice(one["slice"], stack)]
        size = 3 if frame is None else 2
        for point in points:
            if not isinstance(point, list) or len(point) != size or not all(type(x) in (int, float) for x in point):
                raise UsageError(f"expected points of {size} numbers, found something else")
            if not all(-1e9 <= x <= 1e9 for x in point):
                raise UsageError("expected points near the image, found one far away")
        exact = tuple(tuple(float(x) for x in point) for point in points)
        found.append(Contour(exact, frame, one.get("closed", True) is True))
    return tuple(found)


# Parts ----------------------------------------------------------------------------------------------------------------


def label_of(plain: object) -> tuple[Label, str]:
    """A label of a label set, and its key."""
    plain = _object(plain, "a label")
    key = _text(plain, "key")
    if len(key) > 1:
        raise UsageError("expected one character for the key of a label, found more")
    return _label(plain), key


def _label(plain: object) -> Label:
    plain = _object(plain, "a label")
    name, colour = _text(plain, "name"), _text(plain, "color").lower()
    if not name or len(name) > 200:
        raise UsageError("expected a name of 1 to 200 characters for a label, found another")
    if colour and not re.fullmatch("#[0-9a-f]{6}", colour):
        raise UsageError("expected a colour such as #00ff00, found something else")
    code = plain.get("code")
    if code is None:
        return Label(name, colour=colour)
    code = _object(code, "a code")
    words = [_text(code, part) for part in ("value", "scheme", "meaning")]
    if not words[0] or not words[1]:
        raise UsageError("expected value and scheme in a code, found none")
    return Label(name, Code(*words), colour=colour)


def _code_json(code: Code | None) -> dict[str, str] | None:
    return None if code is None else code._asdict()


def _object(plain: object, what: str) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise UsageError(f"expected {what} as an object, found something else")
    return plain


def _slice(k: object, stack: Stacked) -> int:
    if type(k) is not int or not 0 <= k < len(stack.frames):
        raise UsageError(f"expected the number of a slice from 0 to {len(stack.frames) - 1}, found something else")
    return k


def _word(plain: Mapping[str, Any], name: str, usual: str, known: Sequence[str]) -> str:
    found = plain.get(name) or usual
    if found not in known:
        raise UsageError(f"expected {name} to be one of {', '.join(known)}, found something else")
    return str(found)


def _text(plain: Mapping[str, Any], name: str) -> str:
    found = plain.get(name)
    if found is None:
        return ""
    if not isinstance(found, str) or len(found) > LONGEST_TEXT:
        raise UsageError(f"expected at most {LONGEST_TEXT} characters of text for {name}, found something else")
    return found.encode("utf-8", "replace").decode()  # half a surrogate pair is no text


def _number(found: object) -> float | None:
    if found is None:
        return None
    if type(found) not in (int, float) or not -1e300 < found < 1e300:  # type: ignore[operator]
        raise UsageError("expected a finite number for value, found something else")
    return float(found)  # type: ignore[arg-type]


def _properties(plain: Mapping[str, Any]) -> dict[str, str]:
    found = _object(plain.get("properties") or {}, "properties")
    if len(found) > 100:
        raise LimitError("expected at most 100 properties, found more")
    return {_text({"name": name}, "name"): _text(found, name) for name in found if name not in ("comment", "self")}


def _id(found: object) -> str:
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise UsageError("expected an id of 32 hexadecimal digits, found something else")
    return found


def _ids(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or len(found) > 1000:
        raise UsageError("expected a list of ids, found something else")
    return tuple(_id(one) for one in found)
