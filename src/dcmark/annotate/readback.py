"""Every export is read back and compared with what was meant: a flip or a shift must not leave the house."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from dcmark.annotate.formats.base import Written
from dcmark.annotate.model import Annotation, Contour

_VALUE = 1e-6


def differences(written: Written, found: Sequence[Annotation]) -> Iterator[str]:
    """Where what was read differs from what was meant; nothing where both are the same."""
    meant = written.meant
    if len(meant) != len(found):
        yield f"expected {len(meant)} annotations, found {len(found)}"
    groups: dict[tuple[str, str, str], tuple[list[Annotation], list[Annotation]]] = defaultdict(lambda: ([], []))
    for side, members in enumerate((meant, found)):
        for one in members:
            place = (one.target.file, one.target.frame) if not one.frames else min(one.frames)
            groups[one.kind, one.label.name, f"{place}"][side].append(one)
    for (kind, label, _), (ours, theirs) in groups.items():
        if len(ours) != len(theirs):
            yield f"{kind} {label!r}: expected {len(ours)} on a frame, found {len(theirs)}"
            continue
        left = list(theirs)
        for one in ours:
            reasons = [_different(one, other, written) for other in left]
            if "" in reasons:
                left.pop(reasons.index(""))
            else:
                yield f"{kind} {label!r}: {reasons[0]}"


def _different(one: Annotation, other: Annotation, written: Written) -> str:
    """Why two annotations are not the same; empty where they are."""
    if written.exact_labels and one.label.code is not None and one.label.code[:2] != (other.label.code or ("", ""))[:2]:
        return "another code"
    if one.kind == "mask":
        return _different_masks(one, other)
    if len(one.contours) != len(other.contours):
        return f"expected {len(one.contours)} contours, found {len(other.contours)}"
    if not one.contours and one.target.level != other.target.level:
        return f"expected a statement about a {one.target.level}, found one about a {other.target.level}"
    if (one.value is None) != (other.value is None):
        return "a value that is there on one side only"
    if one.value is not None and other.value is not None:
        if abs(one.value - other.value) > _VALUE * max(1.0, abs(one.value)):
            return f"expected the value {one.value}, found {other.value}"
        if one.unit != other.unit:
            return f"expected the unit {one.unit!r}, found {other.unit!r}"
    if one.kind == "text" and one.text != other.text:
        return "another text"
    for mine, theirs in zip(one.contours, other.contours, strict=True):
        reason = _apart(mine, theirs, written.tolerance)
        if reason:
            return reason
    return ""


def _different_masks(one: Annotation, other: Annotation) -> str:
    mine, theirs = {p.frame: p for p in one.mask}, {p.frame: p for p in other.mask}
    if mine.keys() != theirs.keys():
        return f"expected a mask on {len(mine)} frames, found it on {len(theirs)}, or on others"
    for frame, plane in mine.items():
        match = theirs[frame]
        same = plane.levels == match.levels and (
            plane.data == match.data or bool(plane.box().shape == match.box().shape)
        )
        if not same or not np.array_equal(plane.array(), match.array()):
            off = int(np.count_nonzero(plane.binary() != match.binary()))
            return f"expected the same pixels, found {off} different on a frame"
    return ""


def _apart(mine: Contour, theirs: Contour, tolerance: float) -> str:
    if mine.frame != theirs.frame:
        return "a contour on another frame"
    if mine.closed != theirs.closed:
        return "a contour that is open on one side and closed on the other"
    a, b = np.asarray(mine.points, np.float64), np.asarray(theirs.points, np.float64)
    if a.shape != b.shape:
        return f"expected {len(a)} points, found {len(b)}"
    distance = float(np.abs(a - b).max()) if a.size else 0.0
    return f"points {distance:.3g} off, at most {tolerance:g} is allowed" if distance > tolerance else ""
