"""The annotations of an archive stack by stack, and what the page does to them.

One request is one step of the log: all of it is stored or nothing, and a request that comes again, because its answer
was lost, finds itself stored already. Whoever builds on a state that somebody else has changed since is told so.
"""

from __future__ import annotations

import re
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import RLock
from typing import Any

from dcmark.annotate.journal import ChangedSinceError, Journal, NothingToUndoError, kept
from dcmark.annotate.log import Row
from dcmark.annotate.model import STATUSES, Annotation, Label
from dcmark.annotate.raster import regions
from dcmark.errors import UsageError
from dcmark.web import wire
from dcmark.web.catalogue import Catalogue, Item, Snapshot
from dcmark.web.limits import LIMITS, HttpError
from dcmark.web.stacks import Stack

STACKS_KEPT = 32
NO_FINDING = Label("no finding")
_CLIENT = re.compile("[0-9a-fA-F-]{32,36}")
STATES = ("todo", "draft", "reviewed")


@dataclass(slots=True)
class _Edit:
    """An annotation while a request is gone through: as it was and as it is to be; None where there is none."""

    was: Row | None
    now: Annotation | None


class Board:
    """Annotations by stack; safe to use from many threads.

    Args:
        catalogue: of the archive.
        author: of events for which the page names nobody.
    """

    def __init__(self, catalogue: Catalogue, author: str) -> None:
        self.catalogue, self.author = catalogue, author
        self.journal = Journal(catalogue.path)
        self._lock = RLock()
        self._stacks: OrderedDict[str, Stack] = OrderedDict()
        self._homes: dict[int, tuple[str, ...]] = {}
        self._homes_of: Snapshot | None = None

    # -- reading ----------------------------------------------------------------------------------

    def stack(self, name: str, *, pixels: bool = False) -> Stack:
        """A stack by its id.

        Args:
            pixels: only its pixels are looked at: then a stack that grew into another one since is good as well.

        Raises:
            HttpError: there is none, or none any more (404, ``gone``; ``now`` is what it grew into).
        """
        snapshot = self.catalogue.now()
        item = snapshot.items.get(name)
        if item is None:
            with self._lock:
                old = self._stacks.get(name)
            if old is not None and pixels:
                return old
            text = "expected the id of a stack, found none of it; read the list of work again"
            raise HttpError(404, "gone", text, now=self.catalogue.grown(name))
        with self._lock:
            found = self._stacks.get(name)
            if found is None or found.item is not item:
                # The same frames in a newer snapshot: what was found out about them stays good.
                if found is None or found.item.frames != item.frames:
                    found = Stack(item, snapshot)
                else:
                    found.item = item
                self._stacks[name] = found
            self._stacks.move_to_end(name)
            while len(self._stacks) > STACKS_KEPT:
                self._stacks.popitem(last=False)
            return found

    def homes(self, row: Row) -> tuple[str, ...]:
        """Ids of the stacks that an event is about."""
        snapshot = self.catalogue.now()
        with self._lock:
            if self._homes_of is not snapshot:
                self._homes, self._homes_of = {}, snapshot
            found = self._homes.get(row["seq"])
            if found is None:
                found = self._homes[row["seq"]] = self._find_homes(row, snapshot)
            return found

    def _find_homes(self, row: Row, snapshot: Snapshot) -> tuple[str, ...]:
        if not row["kind"]:  # gone: where it was
            before = self.journal.before(row) if row["verb"] != "labels" else None
            return () if before is None else self.homes(before)
        if row["volume"] in snapshot.items:
            return (row["volume"],)
        files = self.journal.files(row)
        if files:
            return tuple(dict.fromkeys(name for file in files for name in snapshot.by_file.get(file, ())))
        if row["level"] == "patient":
            return tuple(name for name, item in snapshot.items.items() if item.person == row["patient"] and item.person)
        groups = snapshot.by_study if row["level"] == "study" else snapshot.by_series
        key = row["study"] if row["level"] == "study" else row["series"]
        return tuple(groups.get(key, ())) if key else ()

    def rows_on(self, stack: str) -> list[Row]:
        """The newest events of the annotations of a stack, in the order they came."""
        with self.journal.lock:
            rows = [row for row in self.journal.live.values() if stack in self.homes(row)]
        return sorted(rows, key=lambda row: int(row["seq"]))

    def annotations(self, name: str, author: str | None = None) -> dict[str, Any]:
        """The annotations of a stack as the page gets them.

        Args:
            author: only those of this reader.
        """
        stack = self.stack(name)
        self.journal.refresh()
        with self.journal.lock:
            head, rows = self.journal.head, self.rows_on(name)
            found = [self.journal.annotation(row) for row in rows]
        shown = [wire.as_json(one, stack) for one in found if author is None or one.author == author]
        return {"head": head, "annotations": [one for one in shown if one is not None]}

    def marked(self) -> dict[str, tuple[int, str]]:
        """By stack: its number of annotations that are not rejected, and ``todo``, ``draft`` or ``reviewed``."""
        self.journal.refresh()
        statuses: dict[str, list[str]] = {}
        with self.journal.lock:
            for row in self.journal.live.values():
                for name in self.homes(row):
                    statuses.setdefault(name, []).append(row["status"])
        return {
            name: (sum(one != "rejected" for one in found), "draft" if "draft" in found else "reviewed")
            for name, found in statuses.items()
        }

    def changed_after(self, head: str | None) -> dict[str, Any]:
        """The newest head, and the stacks that events behind ``head`` are about; all of them where it is unknown."""
        with self.journal.lock:
            start = 0 if head is None else (self.journal.number_of(head) or -1) + 1
            rows = self.journal.rows[start:]
            names = dict.fromkeys(name for row in rows if row["verb"] != "labels" for name in self.homes(row))
            return {"head": self.journal.head, "stacks": list(names)}

    # -- writing ----------------------------------------------------------------------------------

    def act(self, name: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Store what the page did on a stack as one step.

        Raises:
            HttpError: a conflict, or nothing to undo (409).
            UsageError, LimitError: the request is not as expected. Nothing was stored.
            StorageError: the storage refused. Nothing was stored.
        """
        stack = self.stack(name)
        client, actions, author, based_on = self._asked(request)
        base = self._base(based_on)
        try:
            rows = self.journal.commit(client, author, lambda: self._build(stack, actions, author, base))
        except ChangedSinceError as error:
            self.journal.refresh()
            raise HttpError(409, "conflict", str(error), **self._news(stack, base or -1, ())) from error
        except NothingToUndoError as error:
            raise HttpError(409, "nothing", str(error)) from error
        news = self._news(stack, len(self.journal.rows) if base is None else base, rows)
        return {**news, "saved": True}

    def keep_labels(self, request: Mapping[str, Any]) -> None:
        """Add or replace a label set. Raises UsageError where it is none."""
        name, labels = request.get("name"), request.get("labels")
        if not isinstance(name, str) or not 0 < len(name) <= 200 or not isinstance(labels, list) or len(labels) > 1000:
            raise UsageError("expected a name and at most 1000 labels, found something else")
        found = [wire.label_of(one) for one in labels]
        if len({label.name for label, _ in found}) != len(found):
            raise UsageError("expected labels of different names, found one name twice")
        body = {
            "labels": [
                {
                    "name": label.name,
                    **({"code": list(label.code)} if label.code else {}),
                    **({"colour": label.colour} if label.colour else {}),
                    **({"key": key} if key else {}),
                }
                for label, key in found
            ]
        }
        self.journal.commit(uuid.uuid4().hex, self.author, lambda: [("labels", (name, body))])

    def label_sets(self) -> list[dict[str, Any]]:
        """Label sets as the page gets them."""
        self.journal.refresh()
        with self.journal.lock:
            sets = list(self.journal.label_sets.items())
        return [
            {
                "name": name,
                "labels": [
                    {
                        "name": one["name"],
                        "color": one.get("colour", ""),
                        "key": one.get("key") or (str(n) if n < 10 else ""),
                        "code": dict(zip(("value", "scheme", "meaning"), one["code"], strict=True))
                        if one.get("code")
                        else None,
                    }
                    for n, one in enumerate(body["labels"], 1)
                ],
            }
            for name, body in sets
            if body["labels"]
        ]

    # -- one request ------------------------------------------------------------------------------

    def _asked(self, request: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]], str, str | None]:
        client, actions, author = request.get("client"), request.get("actions"), request.get("author") or self.author
        based_on = request.get("based_on")
        if not isinstance(client, str) or not _CLIENT.fullmatch(client):
            raise UsageError("expected a UUID for client, found something else")
        if not isinstance(actions, list) or not all(isinstance(one, dict) for one in actions):
            raise UsageError("expected a list of actions, found something else")
        if not 0 < len(actions) <= LIMITS.actions:
            raise UsageError(f"expected 1 to {LIMITS.actions} actions, found {len(actions)}")
        if not isinstance(author, str) or len(author) > 200:
            raise UsageError("expected at most 200 characters of text for author, found something else")
        if based_on is not None and not isinstance(based_on, str):
            raise UsageError("expected a head for based_on, found something else")
        return client.replace("-", "").lower(), actions, author, based_on

    def _base(self, head: str | None) -> int | None:
        """Number of the event that a request builds on; None where it does not say."""
        if head is None:
            return None
        self.journal.refresh()
        found = self.journal.number_of(head)
        if found is None:
            raise UsageError("expected the head of this archive's log for based_on, found another; read it again")
        return found

    def _build(
        self, stack: Stack, actions: list[dict[str, Any]], author: str, base: int | None
    ) -> list[tuple[str, Any]]:
        kinds = [action.get("type") for action in actions]
        if "undo" in kinds or "redo" in kinds:
            if len(actions) > 1:
                raise UsageError("expected undo and redo to stand alone, found other actions beside")
            name = stack.item.id
            return self.journal.undoing(author, lambda row: name in self.homes(row), again=kinds[0] == "redo")
        edits: dict[str, _Edit] = {}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for action in actions:
            self._go(action, stack, edits, author, base, now)
        found: list[tuple[str, Any]] = []
        for name, edit in edits.items():
            if edit.now is not None:
                found.append(("add" if edit.was is None else "change", edit.now))
            elif edit.was is not None:
                found.append(("remove", name))
        return found

    def _go(
        self,
        action: Mapping[str, Any],
        stack: Stack,
        edits: dict[str, _Edit],
        author: str,
        base: int | None,
        now: str,
    ) -> None:
        kind, plain = action.get("type"), action.get("annotation")
        if kind == "add":
            one = wire.made(plain, stack, author=author, time=now)
            if one.id in edits or one.id in self.journal.history:
                raise UsageError("expected a new id for a new annotation, found one that was used")
            edits[one.id] = _Edit(None, one)
        elif kind == "change":
            if not isinstance(plain, dict):
                raise UsageError("expected an annotation to change, found none")
            name = str(plain.get("id"))
            edit = self._edit(name, stack, edits)
            self._unchanged(edit, base, plain, stack)
            assert edit.now is not None
            edit.now = wire.changed(edit.now, plain, stack, time=now)
        elif kind == "remove":
            edit = self._edit(str(action.get("id")), stack, edits)
            self._unchanged(edit, base, None, stack)
            edit.now = None
        elif kind == "review":
            self._review(action, stack, edits, author, now)
        else:
            raise UsageError("expected an action of type add, change, remove, undo, redo or review, found another")

    def _edit(self, name: str, stack: Stack, edits: dict[str, _Edit]) -> _Edit:
        edit = edits.get(name)
        if edit is None:
            row = self.journal.live.get(name)
            if row is None and name in self.journal.history:
                raise ChangedSinceError("expected an annotation that is there, found it removed by somebody")
            if row is None or stack.item.id not in self.homes(row):
                raise UsageError("expected the id of an annotation of this stack, found another")
            edit = edits[name] = _Edit(row, kept(self.journal, row))
        if edit.now is None:
            raise UsageError("expected an annotation that is there, found it removed in the same request")
        return edit

    def _unchanged(self, edit: _Edit, base: int | None, plain: Mapping[str, Any] | None, stack: Stack) -> None:
        """Raise unless nobody changed an annotation after ``base`` in what is going to be changed of it."""
        if edit.was is None or base is None or edit.was["seq"] <= base:
            return
        mask = None if plain is None else plain.get("mask")
        if plain is not None and isinstance(mask, dict) and mask.get("partial") is True and not plain.keys() - _PARTS:
            seen = [row for row in self.journal.history[edit.was["annotation"]] if row["seq"] <= base]
            named = {stack.frames[k] for k in wire.planes_of(mask, stack)}
            if seen and seen[-1]["planes"]:
                old = {plane.frame: plane.as_row() for plane in self.journal.planes(seen[-1])}
                new = {plane.frame: plane.as_row() for plane in self.journal.planes(edit.was)}
                if all(old.get(frame) == new.get(frame) for frame in named):
                    return
        raise ChangedSinceError("expected nobody to have changed the annotation meanwhile, found a later change")

    def _review(self, action: Mapping[str, Any], stack: Stack, edits: dict[str, _Edit], author: str, now: str) -> None:
        status, comment = action.get("status"), action.get("comment")
        if status not in STATUSES:
            raise UsageError(f"expected status to be one of {', '.join(STATUSES)}, found something else")
        plain = {"status": status, **({} if comment is None else {"comment": comment})}
        name = action.get("id")
        names: Iterable[str] = [str(name)]
        if name is None:
            names = dict.fromkeys([*(row["annotation"] for row in self.rows_on(stack.item.id)), *edits])
            if not names:
                told = {"kind": "label", "label": {"name": NO_FINDING.name}, **plain}
                one = wire.made(told, stack, author=author, time=now)
                edits[one.id] = _Edit(None, one)
                return
        for each in names:
            edit = self._edit(each, stack, edits)
            before = edit.now
            assert before is not None
            made = wire.changed(before, plain, stack, time=before.time)
            assert made is not None
            edit.now = replace(made, mask=before.mask)

    def _news(self, stack: Stack, base: int, own: Iterable[Row]) -> dict[str, Any]:
        """What is new on a stack after event ``base``, by anybody, and what one's own step did."""
        with self.journal.lock:
            head = self.journal.head
            behind = [*own, *(row for row in self.journal.rows[base + 1 :] if row["verb"] != "labels")]
            names = dict.fromkeys(row["annotation"] for row in behind if stack.item.id in self.homes(row))
            found = {name: self.journal.live.get(name) for name in names}
            there = [self.journal.annotation(row) for row in found.values() if row is not None]
        shown = [wire.as_json(one, stack) for one in there]
        removed = [name for name, row in found.items() if row is None]
        return {"head": head, "annotations": [one for one in shown if one is not None], "removed": removed}

    # -- several readers --------------------------------------------------------------------------

    def disagreement(self, name: str, label: str) -> dict[str, Any]:
        """Where readers disagree on a stack: by slice, how many of them are in the minority at which pixels.

        Args:
            label: only regions of this name; empty: of any.
        """
        import numpy as np

        stack = self.stack(name)
        self.journal.refresh()
        with self.journal.lock:
            found = [self.journal.annotation(row) for row in self.rows_on(name) if row["status"] != "rejected"]
        marks: dict[int, dict[str, Any]] = {}
        authors = sorted({one.author for one in found if one.kind != "label"})
        for one in found:
            if label and one.label.name != label:
                continue
            for key, mask in regions(one, lambda _: (stack.rows, stack.columns)).items():
                k = stack.index.get(key)
                if k is not None and mask.shape == (stack.rows, stack.columns):
                    own = marks.setdefault(k, {})
                    own[one.author] = mask | own[one.author] if one.author in own else mask
        slices = []
        for k, own in sorted(marks.items()) if len(authors) > 1 else ():
            total = np.sum(list(own.values()), axis=0, dtype=np.int64)
            fewer = np.minimum(total, len(authors) - total)
            levels = [
                {"count": count, "runs": wire.runs_of_box(fewer == count, 0, 0, stack.columns)}
                for count in range(1, int(fewer.max()) + 1)
                if (fewer == count).any()
            ]
            if levels:
                slices.append({"k": k, "levels": levels})
        return {"authors": authors, "slices": slices}


_PARTS = frozenset({"id", "mask", "tool", "kind"})


def listed(item: Item, marked: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    """An item of the list of work with what was done on it."""
    count, state = marked.get(item.id, (0, "todo"))
    return {**item.as_dict(), "annotated": count, "state": state}
