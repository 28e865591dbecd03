"""What exporters of training sets share: rendering in order, going on where an interrupted export stopped, and a side
file that comes last.

A set is written under a draft name beside a journal of one JSON line an item. Both get their place only when all of it
is there, so that half a set never looks like a whole one; the same call goes on after an interruption.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import DcmarkError, OutputExistsError, UnsupportedError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.read.windows import Window
from dcmark.view.export import sidefile
from dcmark.view.export.base import ExportReport, item_line
from dcmark.view.render import Item, Plan
from dcmark.view.view import View, window_named

T = TypeVar("T")
E_contra = TypeVar("E_contra", contravariant=True)
_LEFT_OUT = '{"left_out"'
FLUSHED = 256
"""Items after which what was written is made known to the system: what a kill may cost."""


class Sink(Protocol[E_contra]):
    """Where the items of a set go.

    Contract: ``kept`` is how many items the draft holds whole; ``cut`` leaves at most so many and brings ``kept`` up to
    date; ``add`` appends one and names it; ``flush`` hands all of it to the system; ``finish`` makes the draft a set
    under its own name; ``close`` lets go of it as it is.
    """

    kept: int

    def cut(self, count: int) -> None:
        """Drop all but the first ``count`` items, or more; ``kept`` are left."""

    def add(self, number: int, encoded: E_contra) -> str:
        """Append item ``number``; its name in the set."""

    def flush(self) -> None:
        """Hand what was added to the system."""

    def finish(self, journal: Journal) -> None:
        """Complete the set."""

    def close(self) -> None:
        """Let go of the files."""


class Journal:
    """What was done so far, a JSON line each, behind a head that says which set it is of.

    Attributes:
        items: lines of items.
        done: places of the plan that are done with, as items or left out.
    """

    def __init__(self, place: Path, head: Mapping[str, Any]) -> None:
        self.place, self._head = place, json.dumps(head, sort_keys=True)
        self.items = self.done = 0
        with writing(place):
            if not place.exists():
                place.write_text(self._head + "\n", "utf-8")
            with place.open("rb+") as stream:
                whole = 0
                for number, line in enumerate(stream):
                    if not line.endswith(b"\n") or (number and _parsed(line) is None):
                        break
                    if number == 0 and line.decode("utf-8", "replace").rstrip("\n") != self._head:
                        raise OutputExistsError(
                            f"expected nothing, or the same set begun before, at {place.parent}; found what is left of "
                            "another one; choose another place or use --overwrite"
                        )
                    whole += len(line)
                    self.done += number > 0
                    self.items += number > 0 and not line.startswith(_LEFT_OUT.encode())
                stream.truncate(whole)
                if not whole:
                    stream.write(self._head.encode() + b"\n")
            self._stream = place.open("a", encoding="utf-8", newline="\n")

    def cut(self, items: int) -> None:
        """Drop all behind the first so many items."""
        if items >= self.items:
            return
        self._stream.close()
        with writing(self.place):
            with self.place.open("rb+") as stream:
                whole, found, done = len(stream.readline()), 0, 0
                for line in stream:
                    found += not line.startswith(_LEFT_OUT.encode())
                    if found > items:
                        break
                    done += 1
                    whole += len(line)
                stream.truncate(whole)
            self._stream = self.place.open("a", encoding="utf-8", newline="\n")
        self.items, self.done = items, done

    def add(self, record: Mapping[str, Any]) -> None:
        """Note an item."""
        self._stream.write(item_line(dict(record)) + "\n")
        self.items += 1
        self.done += 1

    def leave_out(self, finding: Finding) -> None:
        """Note a place of the plan that gave no item."""
        self._stream.write(json.dumps({"left_out": finding.as_dict()}) + "\n")
        self.done += 1

    def flush(self) -> None:
        """Hand what was noted to the system."""
        with writing(self.place):
            self._stream.flush()

    def records(self) -> Iterator[dict[str, Any]]:
        """Of the items, in order."""
        for line in self._lines():
            if "left_out" not in line:
                yield line

    def item_lines(self) -> Iterator[str]:
        """The lines of the items, as they stand in a side file."""
        self.flush()
        with self.place.open(encoding="utf-8") as stream:
            stream.readline()
            for line in stream:
                if not line.startswith(_LEFT_OUT):
                    yield line.rstrip("\n")

    def left_out(self) -> Iterator[dict[str, Any]]:
        """Findings of what was left out."""
        for line in self._lines():
            if "left_out" in line:
                yield line["left_out"]

    def _lines(self) -> Iterator[dict[str, Any]]:
        self.flush()
        with self.place.open("rb") as stream:
            stream.readline()
            for line in stream:
                yield json.loads(line)

    def close(self, *, done: bool) -> None:
        """Let go of it; remove it when the set is done."""
        with suppress(OSError):
            self._stream.close()
        if done:
            self.place.unlink(missing_ok=True)


def _parsed(line: bytes) -> Any | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def write_set(
    plan: Plan,
    exporter: str,
    side_file: Path,
    encode: Callable[[Item], T],
    sink: Callable[[], Sink[T]],
    *,
    journal: Path,
    order: Sequence[int] | None = None,
    about: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Render a plan into a sink, with a side file.

    Args:
        plan: of the view.
        exporter: its name, for the side file.
        side_file: to write, last.
        encode: makes of an image what the sink takes; called in several threads.
        sink: opens it, on what an interrupted export left.
        journal: its place.
        order: of the images; None: as planned.
        about: more for the side file.
        threads: None: one a processor.
        progress: is told of each image.

    Raises:
        OutputExistsError: the draft of another set is in the way.
        UnsupportedError: not one image could be made.
        StorageError: it cannot be written; the same call goes on where it stopped.
    """
    progress = progress or NoProgress()
    report = ExportReport(without_frames=plan.without_frames)
    places = range(len(plan)) if order is None else order
    told = {"exporter": exporter, **plan.about, **(about or {})}
    notes = Journal(journal, {"exporter": exporter, "about": told, "images": len(plan)})
    target: Sink[T] | None = None
    done = False
    progress.start(f"export {exporter}", len(plan))
    try:
        target = sink()
        target.cut(min(notes.items, target.kept))
        notes.cut(min(notes.items, target.kept))  # cutting may have dropped more: shards are whole
        progress.advance(notes.done, 0)
        files = {record["sha256"] for record in notes.records()}
        since = 0
        for index, made in plan.each(places[notes.done :], threads=threads or os.cpu_count() or 1, work=_both(encode)):
            if isinstance(made, DcmarkError):
                report.leave_out(plan.chosen[index], made)
                notes.leave_out(Finding("error", made.code, str(made), "left out", f"image {index}"))
            else:
                encoded, record = made
                name = target.add(notes.items, encoded)
                notes.add({"item": name, "index": notes.items, **record})
                files.add(record["sha256"])
            since += 1
            if since == FLUSHED:
                target.flush()
                notes.flush()
                since = 0
            progress.advance(1, 0)
        report.items = notes.items
        report.files = len(files)
        report.left_out = notes.done - notes.items
        if not notes.items:
            reason = next(notes.left_out(), {"message": "there were none"})["message"]
            raise UnsupportedError(f"expected at least one image that can be rendered; found none; the first: {reason}")
        target.finish(notes)
        _write_side_file(side_file, told, notes)
        done = True
    finally:
        if target is not None:
            target.close()
        notes.close(done=done)
        progress.finish()
    return report


def _both(encode: Callable[[Item], T]) -> Callable[[Item], tuple[T, dict[str, Any]]]:
    return lambda item: (encode(item), item.record)


def _write_side_file(place: Path, about: Mapping[str, Any], notes: Journal) -> None:
    draft = place.with_name(f"{place.name}.draft")
    whole = {"format": "dcmark view", "version": sidefile.VIEW_VERSION, **about}
    with writing(place):
        items = notes.item_lines()
        sidefile.write(draft, whole, items, (item_line(finding) for finding in notes.left_out()))
        draft.replace(place)


def square_power_of_two(view: View, what: str, *, least: int = 4) -> int:
    """The side of the images of a view.

    Raises:
        UsageError: they are not square with a power of two; the message names sizes that are.
    """
    rows, columns = view.size or (0, 0)
    if rows != columns or rows < least or rows & (rows - 1):
        near = max(least, 1 << (max(rows, columns, least) - 1).bit_length())
        found = f"{rows} x {columns}" if view.size else "the size of each frame"
        raise UsageError(
            f"expected square images with a side that is a power of two for {what}; found {found}; use --size {near}"
        )
    return rows


def one_or_three_channels(view: View, what: str) -> int:
    """The channels of a view.

    Raises:
        UsageError: others than 1 or 3.
    """
    if view.channels not in (1, 3):
        raise UsageError(f"expected 1 or 3 channels for {what}; found {view.channels} windows; give one or three")
    return view.channels


def open_place(out: Path, *, folder: bool, overwrite: bool) -> None:
    """Make sure that a set may be written to ``out``.

    Raises:
        OutputExistsError: something other than the draft of a set stands there.
        StorageError: the folder cannot be made.
    """
    side, notes = side_file_of(out, folder=folder), journal_of(out, folder=folder)
    with writing(out):
        if overwrite:
            for place in (side, notes, *([] if folder else [out, draft_of(out)])):
                if place.is_file():
                    place.unlink()
        if folder:
            if out.exists() and not out.is_dir():
                raise OutputExistsError(f"expected a folder to write to at {out}, found a file; choose another name")
            if out.is_dir() and not notes.exists() and any(out.iterdir()) and not overwrite:
                raise OutputExistsError(
                    f"expected an empty folder at {out}, found files in it; choose another or use --overwrite"
                )
            out.mkdir(parents=True, exist_ok=True)
        else:
            if out.exists():
                raise OutputExistsError(f"expected nothing at {out}, found something; choose another name")
            out.parent.mkdir(parents=True, exist_ok=True)
            if draft_of(out).exists() and not notes.exists():
                draft_of(out).unlink()


def side_file_of(out: Path, *, folder: bool) -> Path:
    """Where the side file of a set goes."""
    return out / sidefile.VIEW_FILE if folder else out.with_name(f"{out.name}.{sidefile.VIEW_FILE}")


def journal_of(out: Path, *, folder: bool) -> Path:
    """Where the journal of a set goes while it is written."""
    return out / ".journal.jsonl" if folder else out.with_name(f"{out.name}.journal.jsonl")


def draft_of(out: Path) -> Path:
    """The name of a set in one file while it is written."""
    return out.with_name(f"{out.name}.draft")


def meaning(view: View) -> dict[str, Any] | None:
    """What the levels of an image stand for, as trainers read it from ``meaning.json``; None where windows differ.

    ``low`` and ``high`` are the darkest and brightest level; physical = level x ``slope`` + ``intercept`` in ``unit``.
    """
    window = window_named(view.windows[0]) if len(view.windows) == 1 else None
    if not isinstance(window, Window) or view.colour:
        return None
    low, high = window.bounds
    top = 1 if view.bits == 32 else (1 << view.bits) - 1
    unit = "HU" if window.explanation or view.quantity == "hu" else view.quantity or ""
    return {"low": 0.0, "high": float(top), "slope": (high - low) / top, "intercept": low, "unit": unit}


def planned(archive: Archive, view: View, needs: Callable[[View], object]) -> Plan:
    """The plan of a view that meets what a format needs; its errors come before the archive is looked at."""
    needs(view)
    return Plan(archive, view)
