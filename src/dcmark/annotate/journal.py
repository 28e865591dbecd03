"""The log as a program that stays open keeps it: read once, then only what came since; steps that can be undone.

A step is what one request of one person did: its events carry the same word in ``together``. The word is chosen by who
asks, so a request that is sent again, because its answer was lost, finds its step there and adds nothing.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from threading import RLock
from typing import Any

from dcmark.annotate.log import GONE, Log, Row, _kept, _ordered
from dcmark.annotate.masks import MaskPlane, plane_of_row
from dcmark.annotate.model import Annotation, annotation_of, check, columns_of
from dcmark.archive.events import append_events, append_planes, frames_of_planes, planes_digest, read_planes
from dcmark.archive.store import open_archive
from dcmark.errors import DamageError, DcmarkError

MASKS_KEPT = 64
"""Masks of which the planes are remembered."""
_MASK = ("batch", "first_row", "planes", "digest")


class NothingToUndoError(DcmarkError):
    """There is no step that could be undone, or done again."""

    code = "nothing"


class ChangedSinceError(DcmarkError):
    """Somebody else changed the annotation after the state that a change was made on."""

    code = "conflict"


class Journal:
    """The events of an archive, and new ones; safe to use from many threads.

    Args:
        path: of the archive.

    Attributes:
        rows: events by number.
        history: by annotation, its events.
        live: by annotation that is there, its newest event.
        steps: by step, its events.
        label_sets: by name, the JSON of the newest event.
    """

    def __init__(self, path: Any) -> None:
        self.lock = RLock()
        self.archive = open_archive(path)  # one of its own: reading through it is guarded by the lock
        self.rows: list[Row] = []
        self.history: dict[str, list[Row]] = {}
        self.live: dict[str, Row] = {}
        self.steps: dict[str, list[Row]] = {}
        self.label_sets: dict[str, dict[str, Any]] = {}
        self._heads: dict[str, int] = {}
        self._planes: OrderedDict[tuple[int, int], list[MaskPlane]] = OrderedDict()
        self._files: dict[tuple[int, int], frozenset[str]] = {}
        self._mark: tuple[str, ...] | None = None

    # -- reading ----------------------------------------------------------------------------------

    @property
    def head(self) -> str | None:
        """Hash of the newest event in hexadecimal digits; None before the first."""
        return self.rows[-1]["hash"].hex() if self.rows else None

    def number_of(self, head: str) -> int | None:
        """Number of the event of this hash; None where there is none."""
        return self._heads.get(head)

    def refresh(self) -> bool:
        """Take in what was committed since, by anybody; False where that is nothing.

        Raises:
            DamageError: the log cannot be read, or an event is missing.
        """
        with self.lock:
            mark = self._newest()
            if mark == self._mark:
                return False
            self.archive._tables.pop("annotations", None)
            table = _ordered(self.archive.read("annotations", where=f"seq >= {len(self.rows)}"))
            for row in table.to_pylist():
                self._take(row)
            self._mark = mark
            return bool(len(table))

    def annotation(self, row: Row) -> Annotation:
        """The annotation as it is after an event, its planes read."""
        return annotation_of(row, self.planes(row))

    def planes(self, row: Row) -> list[MaskPlane]:
        """The planes of the mask of an event.

        Raises:
            DamageError: they are not there.
        """
        if not row["planes"]:
            return []
        key = row["batch"], row["first_row"]
        with self.lock:
            found = self._planes.get(key)
            if found is None:
                found = [plane_of_row(one) for one in read_planes(self.archive, *key, row["planes"])]
                self._remember(key, found)
            self._planes.move_to_end(key)
            return found

    def files(self, row: Row) -> frozenset[str]:
        """SHA-256 of the files whose frames an annotation lies on, in hexadecimal digits; no mask is unpacked."""
        found = {row["file"]} if row["file"] else set()
        found.update(json.loads(row["body"]).get("files", ()))
        if row["planes"]:
            key = row["batch"], row["first_row"]
            with self.lock:
                if key not in self._files:
                    frames = frames_of_planes(self.archive, *key, row["planes"])
                    self._files[key] = frozenset(file for file, _ in frames)
                found |= self._files[key]
        return frozenset(found)

    def before(self, row: Row) -> Row | None:
        """The event before this one about the same annotation."""
        events = self.history[row["annotation"]]
        place = next(i for i, one in enumerate(events) if one["seq"] == row["seq"])
        return events[place - 1] if place else None

    # -- writing ----------------------------------------------------------------------------------

    def commit(self, step: str, author: str, build: Callable[[], Sequence[tuple[str, Any]]]) -> list[Row]:
        """Add the events of one step: all of them or none. A step that is there already is not added again.

        Args:
            step: word of the step, unique to the request.
            author: of the events.
            build: is called when everything committed before is known, under the lock; called again where another
                process was faster. Gives pairs of a verb and what it is about: an ``Annotation`` (``add``, ``change``;
                a mask that is a ``Kept`` one is not stored again), an id (``remove``), an event that is to be undone
                (``undo``), or a name and JSON (``labels``).

        Returns:
            The events of the step, in order.

        Raises:
            StorageError: the storage refused; nothing was added.
            DamageError: the log is damaged.
            Others: what ``build`` raises; nothing was added.
        """
        log = Log(self.archive, author)

        def rows(_last: int) -> list[Row]:
            self._mark = None
            self.refresh()
            return [] if step in self.steps else self._events(log, step, build())

        with self.lock:
            append_events(self.archive, rows)
            self._mark = None
            self.refresh()
            return self.steps.get(step, [])

    def undoing(self, author: str, concerns: Callable[[Row], bool], *, again: bool) -> list[tuple[str, Any]]:
        """What ``commit`` needs to undo the newest step of an author, or to do again what was undone last.

        Args:
            concerns: only steps of which an event is one of those.
            again: redo instead of undo.

        Raises:
            NothingToUndoError: there is none.
            ChangedSinceError: somebody changed one of the annotations since.
        """
        done: list[str] = []
        undone: list[str] = []
        for step, rows in self.steps.items():
            first = rows[0]
            if first["author"] != author or first["verb"] == "labels" or not any(concerns(row) for row in rows):
                continue
            if first["verb"] != "undo":
                done.append(step)
                undone.clear()
                continue
            target = self.rows[first["of"]]["together"]
            if target in done:
                done.remove(target)
                undone.append(step)
            elif target in undone:
                undone.remove(target)
                done.append(step)
        steps = undone if again else done
        if not steps:
            raise NothingToUndoError(f"expected a step to {'do again' if again else 'undo'}, found none")
        rows = self.steps[steps[-1]]
        for row in rows:
            if _kept(self.history[row["annotation"]][-1]) != _kept(row):
                raise ChangedSinceError("expected nobody to have changed the annotation since, found a later change")
        return [("undo", row) for row in rows]

    # -- inside -----------------------------------------------------------------------------------

    def _newest(self) -> tuple[str, ...]:
        versions = self.archive.path / "annotations.lance" / "_versions"
        try:
            return tuple(sorted(place.name for place in versions.iterdir()))
        except OSError:
            return ()

    def _take(self, row: Row) -> None:
        if row["seq"] != len(self.rows):
            raise DamageError(
                f"expected event {len(self.rows)} of the log, found event {row['seq']}; see: dcmark verify"
            )
        self.rows.append(row)
        self._heads[row["hash"].hex()] = row["seq"]
        self.steps.setdefault(row["together"], []).append(row)
        name = row["annotation"]
        if row["verb"] == "labels":
            self.label_sets[name] = json.loads(row["body"])
            return
        self.history.setdefault(name, []).append(row)
        if row["kind"] and row["verb"] not in GONE:
            self.live[name] = row
        else:
            self.live.pop(name, None)

    def _remember(self, key: tuple[int, int], planes: list[MaskPlane]) -> None:
        self._planes[key] = planes
        self._files[key] = frozenset(plane.frame.file for plane in planes)
        while len(self._planes) > MASKS_KEPT:
            self._planes.popitem(last=False)

    def _events(self, log: Log, step: str, found: Iterable[tuple[str, Any]]) -> list[Row]:
        events: list[Row] = []
        masks: list[tuple[Row, list[MaskPlane]]] = []
        for verb, what in found:
            if verb == "labels":
                name, body = what
                text = json.dumps(body, separators=(",", ":"), allow_nan=False)
                events.append({**log._event(verb, name, step), "body": text})
            elif verb == "undo":
                # What it was before the first event of the undone step that is about it.
                before = self.before(what)
                event = log._event(verb, what["annotation"], step) | ({} if before is None else _kept(before))
                events.append({**event, "of": what["seq"]})
            elif isinstance(what, Annotation):
                event = {**log._event(verb, what.id, step), **columns_of(check(what))}
                if isinstance(what.mask, Kept):
                    event |= {name: what.mask.row[name] for name in _MASK}
                elif len(what.mask):
                    masks.append((event, list(what.mask)))
                events.append(event)
            else:
                events.append(log._event(verb, what, step))
        planes: list[Row] = []
        for event, mask in masks:
            own = [plane.as_row() for plane in mask]
            event |= {"first_row": len(planes), "planes": len(own), "digest": planes_digest(own)}
            planes += own
        if planes:
            batch = append_planes(self.archive, planes)
            for event, mask in masks:
                event["batch"] = batch
                self._remember((batch, event["first_row"]), mask)
        return events


class Kept(list[MaskPlane]):
    """The planes of a mask that is stored already: an event that carries it points to them.

    Args:
        row: the event they were stored with.
    """

    def __init__(self, planes: Iterable[MaskPlane], row: Mapping[str, Any]) -> None:
        super().__init__(planes)
        self.row = row


def kept(journal: Journal, row: Row) -> Annotation:
    """The annotation of an event, so that a change of it leaves its mask where it is stored."""
    one = journal.annotation(row)
    return replace(one, mask=Kept(one.mask, row)) if row["planes"] else one
