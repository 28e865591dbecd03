"""The log of annotations: every event is kept, the state is what the newest events say.

Every event carries the whole annotation as it is after it, so the state at any moment is the last event of each
annotation up to then. Undoing is an event too. How events are chained and committed: ``dcmark.archive.events``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from dcmark.annotate.masks import StoredPlanes
from dcmark.annotate.model import (
    Annotation,
    LabelSet,
    annotation_of,
    check,
    columns_of,
    label_set_body,
    label_set_of,
)
from dcmark.archive.events import append_events, append_planes, check_events, planes_digest
from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.findings import Finding

Row = dict[str, Any]

GONE = frozenset({"remove"})
VERBS = ("add", "change", "remove", "undo", "restore", "labels")
_EMPTY = {
    "of": None, "kind": "", "status": "", "label": "", "code": "", "level": "", "patient": "", "study": "",
    "series": "", "volume": "", "file": "", "frame": None, "value": None, "unit": "", "body": "{}", "batch": None,
    "first_row": None, "planes": 0, "digest": None,
}  # fmt: skip
_MASK = ("batch", "first_row", "planes", "digest")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the log.

    Attributes:
        seq: its number, from 0 without gaps.
        time: when it was committed, ISO 8601, UTC.
        verb: ``add``, ``change``, ``remove``, ``undo``, ``restore`` (to an earlier state), ``labels`` (a label set).
        annotation: id of the annotation, or name of the label set.
        of: number of the event that is undone.
        together: the same for all events of one call, so that an import can be undone at once.
        author, tool: of the event.
        kind, label, status: of the annotation after it; empty when it is gone.
    """

    seq: int
    time: str
    verb: str
    annotation: str
    of: int | None
    together: str
    author: str
    tool: str
    kind: str
    label: str
    status: str


class State(Mapping[str, Annotation]):
    """Annotations by id as they were after some event; read from the log as they are asked for."""

    def __init__(
        self, archive: Archive, table: pa.Table, rows: dict[str, int], sets: dict[str, int], last: int
    ) -> None:
        self._archive, self._table, self._rows, self._sets = archive, table, rows, sets
        self.last = last
        """Number of the event; -1 before the first."""

    def __getitem__(self, name: str) -> Annotation:
        return self._at(self.row(name))

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, name: str) -> Row:
        """The event that made an annotation what it is. Raises UsageError where there is none."""
        if name not in self._rows:
            raise UsageError(f"expected the id of an annotation, found {name!r}; see: dcmark annotations show ARCHIVE")
        return dict(self._table.slice(self._rows[name], 1).to_pylist()[0])

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The events that make up the state, in the order they came."""
        places = pa.array(sorted(self._rows.values()), pa.int64())
        table = self._table if columns is None else self._table.select(list(columns))
        return table.take(places)

    def annotations(self, where: Callable[[Row], bool] | None = None) -> Iterator[Annotation]:
        """All annotations in the order they were last touched.

        Args:
            where: looks at the columns of the event; only those for which it is true.
        """
        for batch in self.rows().to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                if where is None or where(row):
                    yield self._at(row)

    @property
    def label_sets(self) -> dict[str, LabelSet]:
        """Label sets by name."""
        bodies = {name: self._table["body"][place].as_py() for name, place in self._sets.items()}
        return {name: label_set_of(name, body) for name, body in bodies.items()}

    def _at(self, row: Row) -> Annotation:
        planes: Any = ()
        if row["planes"]:
            planes = StoredPlanes(self._archive, row["batch"], row["first_row"], row["planes"])
        return annotation_of(row, planes)


class Log:
    """The log of an archive. Cheap to make; ``state()`` sees what was committed up to its call, by anybody.

    Args:
        archive: which.
        author: of the events written through this.
        tool, tool_version: likewise.
    """

    def __init__(self, archive: Archive, author: str = "", tool: str = "dcmark", tool_version: str = "") -> None:
        from dcmark import __version__

        self.archive, self.author, self.tool = archive, author, tool
        self.tool_version = tool_version or (__version__ if tool == "dcmark" else "")

    # -- reading ----------------------------------------------------------------------------------

    def state(self, at: int | str | None = None) -> State:
        """Annotations as they are, or were.

        Args:
            at: number of the last event that counts (-1 for none), or a moment in ISO 8601; None: all events.

        Raises:
            UsageError: no such moment.
            DamageError: the log cannot be read.
        """
        self.archive._tables.pop("annotations", None)
        table = self.archive.read("annotations")
        table = _ordered(table)
        last = _moment(table, at)
        rows: dict[str, int] = {}
        sets: dict[str, int] = {}
        gone = table["verb"].to_pylist()
        kinds = table["kind"].to_pylist()
        for place, (seq, verb, name, kind) in enumerate(
            zip(table["seq"].to_pylist(), gone, table["annotation"].to_pylist(), kinds, strict=True)
        ):
            if last is not None and seq > last:
                break
            if verb == "labels":
                sets[name] = place
            elif not kind:  # removed, or undone to before it was
                rows.pop(name, None)
            else:
                rows[name] = place
        newest = len(table) - 1 if last is None else min(last, len(table) - 1)
        return State(self.archive, table, rows, sets, newest)

    def events(self, annotation: str | None = None, last: int | None = None) -> list[Event]:
        """Events in order.

        Args:
            annotation: only those about this one.
            last: only so many of the newest.
        """
        self.archive._tables.pop("annotations", None)
        columns = [
            "seq",
            "time_ns",
            "verb",
            "annotation",
            "of",
            "together",
            "author",
            "tool",
            "kind",
            "label",
            "status",
        ]
        where = None if annotation is None else f"annotation = '{annotation.replace(chr(39), chr(39) * 2)}'"
        table = _ordered(self.archive.read("annotations", columns, where))
        if last is not None:
            table = table.slice(max(0, len(table) - last))
        found = []
        for row in table.to_pylist():
            row["time"] = _iso(row.pop("time_ns"))
            found.append(Event(**row))
        return found

    # -- writing ----------------------------------------------------------------------------------

    def add(self, annotations: Iterable[Annotation], *, sets: Iterable[LabelSet] = ()) -> list[int]:
        """Add annotations in one commit: all of them or none. Numbers of the events.

        Raises:
            UsageError: one cannot be, or there already.
            StorageError: the storage refused; nothing was added.
        """
        rows = self._rows_of(annotations, "add")
        rows += [{**self._event("labels", one.name, uuid.uuid4().hex), "body": label_set_body(one)} for one in sets]
        ids = {row["annotation"] for row in rows if row["verb"] == "add"}
        if len(ids) != sum(row["verb"] == "add" for row in rows):
            raise UsageError("expected annotations of different ids, found one id twice")
        return [row["seq"] for row in append_events(self.archive, lambda _last: rows)] if rows else []

    def change(self, annotation: Annotation) -> int:
        """Put a new version of an annotation in the place of the one of its id; the earlier one stays in the log."""
        self.state().row(annotation.id)
        (row,) = self._rows_of([annotation], "change")
        return int(append_events(self.archive, lambda _last: [row])[0]["seq"])

    def remove(self, *ids: str) -> list[int]:
        """Take annotations out of the state; their events stay."""
        together = uuid.uuid4().hex
        state = self.state()
        for name in ids:
            state.row(name)
        rows = [self._event("remove", name, together) for name in ids]
        return [row["seq"] for row in append_events(self.archive, lambda _last: rows)]

    def set_status(self, annotation: str, status: str) -> int:
        """Mark an annotation as ``draft``, ``reviewed`` or ``rejected``; its mask is not stored again."""
        found = self.state()
        row = found.row(annotation)
        check(replace(found[annotation], status=status))  # type: ignore[arg-type]
        event = {**self._event("change", annotation, uuid.uuid4().hex), **_kept(row), "status": status}
        return int(append_events(self.archive, lambda _last: [event])[0]["seq"])

    def keep_labels(self, labels: LabelSet) -> int:
        """Add or replace a label set."""
        row = {**self._event("labels", labels.name, uuid.uuid4().hex), "body": label_set_body(labels)}
        return int(append_events(self.archive, lambda _last: [row])[0]["seq"])

    def undo(self, seq: int) -> list[int]:
        """Undo an event, or all events that were committed together with it; an undo can be undone.

        Raises:
            UsageError: there is no such event, or one of the annotations was changed after it (undo that first).
        """

        def build(_last: int) -> list[Row]:
            self.archive._tables.pop("annotations", None)
            table = _ordered(self.archive.read("annotations"))
            if not 0 <= seq < len(table):
                raise UsageError(f"expected the number of an event from 0 to {len(table) - 1}, found {seq}")
            group = table["together"][seq].as_py()
            together = uuid.uuid4().hex
            names, groups = table["annotation"].to_pylist(), table["together"].to_pylist()
            rows = []
            for place in [i for i, one in enumerate(groups) if one == group]:
                name = names[place]
                later = [i for i in range(place + 1, len(table)) if names[i] == name]
                if later:
                    raise UsageError(
                        f"expected event {place} to be the last one of its annotation, found event {later[-1]} after "
                        "it; undo that one first"
                    )
                before = next((i for i in range(place - 1, -1, -1) if names[i] == name), None)
                event = self._event("undo", name, together)
                if before is not None:
                    event |= _kept(table.slice(before, 1).to_pylist()[0])
                if table["verb"][place].as_py() == "labels":
                    event["verb"] = "labels"
                    event["body"] = event["body"] if before is not None else '{"labels":[]}'
                rows.append({**event, "of": place})
            return rows

        return [row["seq"] for row in append_events(self.archive, build)]

    def restore(self, at: int | str) -> list[int]:
        """Make the state what it was at a moment, by new events; empty where nothing differs.

        Args:
            at: see ``state``.
        """

        def build(_last: int) -> list[Row]:
            then, now = self.state(at), self.state()
            together = uuid.uuid4().hex
            rows = [self._event("restore", name, together) for name in now if name not in then]
            for name in then:
                was = then.row(name)
                if name not in now or _kept(now.row(name)) != _kept(was):
                    rows.append({**self._event("restore", name, together), **_kept(was)})
            return rows

        return [row["seq"] for row in append_events(self.archive, build)]

    # -- rows -------------------------------------------------------------------------------------

    def _event(self, verb: str, annotation: str, together: str) -> Row:
        return {
            **_EMPTY,
            "time_ns": time.time_ns(),
            "verb": verb,
            "annotation": annotation,
            "together": together,
            "author": self.author,
            "tool": self.tool,
            "tool_version": self.tool_version,
        }

    def _rows_of(self, annotations: Iterable[Annotation], verb: str) -> list[Row]:
        """Events that carry whole annotations; masks are committed here, before them."""
        together = uuid.uuid4().hex
        rows: list[Row] = []
        planes: list[Row] = []
        masked: list[Row] = []
        for one in annotations:
            row = {**self._event(verb, one.id, together), **columns_of(check(one))}
            mask = one.mask
            if isinstance(mask, StoredPlanes) and mask.archive is self.archive:
                # Already stored here: only pointed to.
                digest = planes_digest([plane.as_row() for plane in mask])
                row |= {"batch": mask.batch, "first_row": mask.first_row, "planes": len(mask), "digest": digest}
            elif len(mask):
                own = [plane.as_row() for plane in mask]
                row |= {"first_row": len(planes), "planes": len(own), "digest": planes_digest(own)}
                planes += own
                masked.append(row)
            rows.append(row)
        if planes:
            batch = append_planes(self.archive, planes)
            for row in masked:
                row["batch"] = batch
        return rows


def verify(archive: Archive) -> list[Finding]:
    """What is wrong with the log and the masks of an archive; empty when it is whole. See ``archive.events``."""
    return list(check_events(archive))


def _kept(row: Row) -> Row:
    """Columns that say what the annotation is."""
    return {name: row[name] for name in _EMPTY if name != "of"}


def _ordered(table: pa.Table) -> pa.Table:
    numbers = table["seq"].to_numpy()
    if len(numbers) < 2 or bool((numbers[1:] > numbers[:-1]).all()):
        return table
    return table.sort_by("seq")


def _moment(table: pa.Table, at: int | str | None) -> int | None:
    if at is None or isinstance(at, int):
        return at
    if at.lstrip("-").isdigit():
        return int(at)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise UsageError(f"expected the number of an event or a time such as 2026-01-31T12:00, found {at!r}") from None
    limit = int(moment.astimezone().timestamp() * 1e9)
    times = table["time_ns"].to_numpy()
    return int((times <= limit).sum()) - 1


def _iso(time_ns: int) -> str:
    from datetime import UTC

    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
