"""What changed between two moments of the log: who, when, what, and how far masks moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dcmark.annotate.agree import dice
from dcmark.annotate.log import Log, State
from dcmark.annotate.model import Annotation
from dcmark.annotate.places import Places
from dcmark.annotate.raster import regions


@dataclass(frozen=True, slots=True)
class Change:
    """One annotation that differs.

    Attributes:
        annotation: its id.
        what: ``added``, ``changed`` or ``removed``.
        kind, label: of the later version, or of the earlier one where it was removed.
        author, time: of the last event that touched it, up to the later moment.
        fields: what differs, for ``changed``.
        dice: between the regions of both versions; None where there is none.
    """

    annotation: str
    what: str
    kind: str
    label: str
    author: str
    time: str
    fields: tuple[str, ...] = ()
    dice: float | None = None


def diff(log: Log, before: int | str, after: int | str | None = None) -> Iterator[Change]:
    """Changes from one state to another, in the order of the ids.

    Args:
        log: of the archive.
        before, after: see ``Log.state``.
    """
    then, now = log.state(before), log.state(after)
    places = Places(log.archive)
    touched = _touched(log, now.last)
    for name in sorted(then.keys() | now.keys()):
        author, time = touched.get(name, ("", ""))
        if name not in then:
            one = now[name]
            yield Change(name, "added", one.kind, one.label.name, author, time)
        elif name not in now:
            one = then[name]
            yield Change(name, "removed", one.kind, one.label.name, author, time)
        elif then.row(name)["seq"] != now.row(name)["seq"]:
            fields = _fields(then, now, name)
            if fields:
                one, other = then[name], now[name]
                overlap = _overlap(one, other, places) if "mask" in fields or "contours" in fields else None
                yield Change(name, "changed", other.kind, other.label.name, author, time, fields, overlap)


def _touched(log: Log, last: int) -> dict[str, tuple[str, str]]:
    table = log.archive.read("annotations", ["annotation", "author", "time_ns", "seq"], f"seq <= {last}")
    found: dict[str, tuple[int, str, str]] = {}
    for row in table.to_pylist():
        if row["annotation"] not in found or found[row["annotation"]][0] < row["seq"]:
            time = datetime.fromtimestamp(row["time_ns"] / 1e9, UTC).isoformat(timespec="seconds")
            found[row["annotation"]] = (row["seq"], row["author"], time)
    return {name: (author, time) for name, (_, author, time) in found.items()}


def _fields(then: State, now: State, name: str) -> tuple[str, ...]:
    one, other = then[name], now[name]
    names = ["kind", "target", "label", "contours", "value", "unit", "text", "status", "properties", "author", "time"]
    found = [field for field in names if getattr(one, field) != getattr(other, field)]
    if then.row(name)["digest"] != now.row(name)["digest"]:
        found.append("mask")
    return tuple(found)


def _overlap(one: Annotation, other: Annotation, places: Places) -> float | None:
    a, b = regions(one, places.size), regions(other, places.size)
    return dice(a, b) if a or b else None
