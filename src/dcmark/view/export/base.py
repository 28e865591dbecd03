"""What all exports share: which frames, under which names, with whom a frame that fails is left out.

An exporter is a function ``export(archive, out, *, where, ..., progress) -> ExportReport``, found by the entry-point
group ``dcmark.exporters``. It writes its side file ``view.json`` last: a folder without one is not whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dcmark.archive.faults import writing
from dcmark.archive.query import query
from dcmark.archive.spread import Pinned, pin
from dcmark.archive.store import Archive
from dcmark.engine import current
from dcmark.errors import DamageError, DcmarkError, OutputExistsError, StorageError, UsageError
from dcmark.findings import Finding
from dcmark.view.export import sidefile
from dcmark.view.export.sidefile import originals
from dcmark.view.frames import RUN, Frame, map_frames

__all__ = ["ExportReport", "Selected", "begin", "each_frame", "finish", "item_name", "originals", "select"]

T = TypeVar("T")
MOST_FINDINGS = 1000
FRAMES_A_UNIT = 256
"""Frames that a worker of an engine is given at once."""
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LONGEST = 180


@dataclass(slots=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        items: pictures, or slices of stacks.
        files: they were made from.
        left_out: frames that could not be exported; each has a finding.
        without_frames: files of the selection that hold no picture, by what they are.
        damaged: frames whose stored bytes are damaged.
        findings: the first 1,000 reasons.
    """

    items: int = 0
    files: int = 0
    left_out: int = 0
    damaged: int = 0
    without_frames: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def leave_out(self, chosen: Selected, error: DcmarkError) -> None:
        """Record a frame that could not be exported."""
        self.left_out += 1
        self.damaged += isinstance(error, DamageError)
        if len(self.findings) < MOST_FINDINGS:
            path = f"{chosen.row['path']} frame {chosen.number}"
            self.findings.append(Finding("error", error.code, str(error), "left out", path))


@dataclass(frozen=True, slots=True)
class Selected:
    """A frame to export.

    Attributes:
        sha256: of the file, hexadecimal.
        number: of the frame in it, from 0.
        row: columns of the view ``files``.
    """

    sha256: str
    number: int
    row: dict[str, Any]


_COLUMNS = (
    "sha256", "path", "source", "dataset", "patient", "image", "kind", "frames", "modality", "patient_id",
    "study_instance_uid", "series_instance_uid", "series_number", "instance_number", "transfer_syntax",
)  # fmt: skip


def select(archive: Archive, where: str | None, columns: Sequence[str] = ()) -> tuple[list[Selected], dict[str, int]]:
    """Frames of the files that meet a condition, in the order of folders, series and instances.

    Args:
        where: SQL condition over the view ``files``; None for all.
        columns: of ``files`` needed beside the usual ones.

    Returns:
        The frames, and the number of chosen files without any, by modality or kind.

    Raises:
        QueryError: the condition is refused.
        UsageError: nothing is chosen.
    """
    names = ", ".join(dict.fromkeys((*_COLUMNS, *columns)))
    rows = query(
        archive,
        f"""SELECT {names} FROM files WHERE ({where or "true"}\n)
            ORDER BY source, dataset, patient, image, series_number, series_instance_uid, instance_number, path,
                     sha256""",
    ).to_pylist()
    chosen: list[Selected] = []
    without: dict[str, int] = {}
    for row in rows:
        if not row["frames"]:
            what = row["modality"] or row["kind"]
            without[what] = without.get(what, 0) + 1
        chosen += [Selected(row["sha256"], number, row) for number in range(row["frames"])]
    if not chosen:
        found = f"{len(rows)} files without a picture" if rows else "no file"
        raise UsageError(f"expected files with pictures to export; found {found}; change --where, or ingest some")
    return chosen, without


def begin(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """An empty folder to write to.

    Raises:
        OutputExistsError: something stands where the output should go.
        StorageError: it cannot be made.
    """
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise OutputExistsError(f"expected a folder to write to at {place}, found a file; choose another name")
    if place.is_dir() and any(place.iterdir()) and not overwrite:
        raise OutputExistsError(
            f"expected an empty folder at {place}, found files in it; choose another or use --overwrite"
        )
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        (place / sidefile.VIEW_FILE).unlink(missing_ok=True)
    return place


def each_frame(
    archive: Archive, chosen: Sequence[Selected], work: Callable[[int, Frame], T], *, threads: int
) -> Iterator[tuple[int, T | DcmarkError]]:
    """What ``work`` makes of each frame, in order; an error in its place where one cannot be given.

    Raises:
        StorageError: the output cannot be written; nothing more is tried.
    """
    keys = [(one.sha256, one.number) for one in chosen]
    engine = current()
    if engine is not None and engine.closures:
        pinned = pin(archive, "files", "frames")
        units = ((start, keys[start : start + FRAMES_A_UNIT]) for start in range(0, len(keys), FRAMES_A_UNIT))
        for some in engine.map(partial(_frames_unit, pinned, work), units):
            yield from some
        return
    yield from _each_here(archive, keys, work, threads)


def _frames_unit(
    pinned: Pinned, work: Callable[[int, Frame], T], unit: tuple[int, list[tuple[str, int]]]
) -> list[tuple[int, T | DcmarkError]]:
    """In a worker: what ``work`` makes of some frames, with their places in the list of all."""
    start, keys = unit
    found = _each_here(pinned.opened(), keys, lambda at, one: work(start + at, one), 1)
    return [(start + at, made) for at, made in found]


def _each_here(
    archive: Archive, keys: list[tuple[str, int]], work: Callable[[int, Frame], T], threads: int
) -> Iterator[tuple[int, T | DcmarkError]]:
    place = 0
    while place < len(keys):
        start = place
        try:
            for made in map_frames(archive, keys[start:], lambda at, one, s=start: work(s + at, one), threads=threads):  # type: ignore[misc]
                yield place, made
                place += 1
        except StorageError:
            raise
        except DcmarkError:
            # One of the next run fails: they are done one by one, so that only it is left out.
            for _ in range(min(RUN, len(keys) - place)):
                yield place, _alone(archive, keys[place], place, work)
                place += 1


def _alone(archive: Archive, key: tuple[str, int], place: int, work: Callable[[int, Frame], T]) -> T | DcmarkError:
    try:
        (made,) = map_frames(archive, [key], lambda _, one: work(place, one))
    except StorageError:
        raise
    except DcmarkError as error:
        return error
    return made


class Names:
    """Names of items: the paths that the files had, safe on every system and each used once."""

    def __init__(self, chosen: Sequence[Selected]) -> None:
        self._sources = len({one.row["source"] for one in chosen}) > 1
        self._taken: set[str] = set()

    def of(self, one: Selected, suffix: str) -> str:
        """The name of an item, ``/`` between folders, relative to OUT."""
        return item_name(one, suffix, with_source=self._sources, taken=self._taken)


def item_name(one: Selected, suffix: str, *, with_source: bool, taken: set[str]) -> str:
    """A name of its own for an item, made from the path of its file; added to ``taken``."""
    path = one.row["path"] or one.sha256
    parts = [*([one.row["source"] or "source"] if with_source else []), *path.split("/")]
    *folders, name = [_safe(part) for part in parts]
    stem = re.sub(r"\.(dcm|ima|dicom|png|jpe?g|tiff?)$", "", name, flags=re.IGNORECASE)
    if one.row["frames"] > 1:
        stem = f"{stem}_{one.number + 1:04}"
    chosen, number = "/".join([*folders, stem + suffix]), 1
    while chosen.casefold() in taken:
        number += 1
        chosen = "/".join([*folders, f"{stem}~{number}{suffix}"])
    taken.add(chosen.casefold())
    return chosen


def _safe(part: str) -> str:
    part = _FORBIDDEN.sub("_", part).rstrip(". ") or "_"
    if part in (".", "..") or _RESERVED.match(part):
        part = f"_{part}"
    return part[:_LONGEST]


def finish(place: Path, about: dict[str, Any], items: Iterable[str], report: ExportReport) -> None:
    """Write the side file as the items come; it gets its name when all are there, so that half a set looks like none.

    Raises:
        StorageError: it cannot be written.
    """
    draft = place / f"{sidefile.VIEW_FILE}.draft"
    whole = {"format": "dcmark view", "version": sidefile.VIEW_VERSION, **about}
    with writing(place):
        left_out = (item_line(finding.as_dict()) for finding in report.findings)
        sidefile.write(draft, whole, items, left_out)
        draft.replace(place / sidefile.VIEW_FILE)


def item_line(record: dict[str, Any]) -> str:
    """A line of the side file."""
    return json.dumps(record, separators=(", ", ": "))
