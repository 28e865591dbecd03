"""What an archive holds, as a page and DICOMweb list it: a snapshot that is renewed when files were added."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from dcmark.archive.query import connection
from dcmark.archive.schema import VOLUMES
from dcmark.archive.store import Archive, open_archive
from dcmark.archive.volumes import StoredVolume, current, volume_of_row
from dcmark.errors import UsageError
from dcmark.read.tags import COLUMNS

RARELY = 4
"""A snapshot is kept for so many times the time it took to make, while files keep coming."""
_FILES = """
    CREATE TABLE images AS SELECT sha256, path, dataset, patient, image, size, kind, transfer_syntax, frames,
        {columns}, coalesce(patient_name, nullif(patient, ''), patient_id, '') AS shown
    FROM files"""
_VOLUMES = """
    SELECT v.id, v.modality, v.number, v.slices, v.rows, v.columns, v.spacing, v.level, v.sha256,
           v.series_instance_uid AS series, i.shown, i.patient AS folder, i.patient_id, i.study_instance_uid AS study,
           i.study_date, i.study_description, i.series_description, i.series_number, i.path, i.samples_per_pixel
    FROM volumes v JOIN images i ON i.sha256 = v.sha256
    WHERE coalesce(v.modality, '') <> 'SEG'
    ORDER BY v.dataset, v.patient, i.patient_id, i.study_date, i.study_instance_uid, v.series_number,
             v.series_instance_uid, v.number"""
_REST = """
    SELECT sha256, frames, shown, patient AS folder, patient_id, modality, study_instance_uid AS study, study_date,
           study_description, series_instance_uid AS series, series_description, series_number, path, rows, columns,
           samples_per_pixel
    FROM images WHERE frames > 0 AND kind <> 'opaque' AND coalesce(modality, '') <> 'SEG'
    ORDER BY dataset, patient, patient_id, study_date, study, series_number, series, instance_number, path"""
_GIVEN = ("sha256", "path", "dataset", "patient", "image", "size", "kind", "transfer_syntax", "frames")


@dataclass(frozen=True, slots=True)
class Item:
    """A stack to be looked at: a volume, or the frames of one size of a series, or of a single file.

    Attributes:
        id: 16 hexadecimal digits, by the frames and their order.
        kind: ``volume`` or ``series``.
        patient, patient_id, study, study_date, series, description, modality: as the files say; empty where they
            do not. ``series`` and ``study`` are UIDs.
        frames, rows, columns: of the stack.
        spacing: mm between slices, rows and columns; None where no place in the patient is known.
        runs: (SHA-256, frames) of each file of a ``series``, in order; empty for a ``volume``.
        person: Patient ID, or the name of the patient's folder where the files hold none.
        words: to be searched, in lower case.
    """

    id: str
    kind: str
    patient: str
    patient_id: str
    study: str
    study_date: str
    series: str
    description: str
    modality: str
    frames: int
    rows: int
    columns: int
    spacing: tuple[float, ...] | None
    runs: tuple[tuple[str, int], ...] = ()
    person: str = ""
    words: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As the list of work gives it."""
        return {
            "id": self.id, "kind": self.kind, "patient": self.patient, "patient_id": self.patient_id,
            "study": self.study, "study_date": self.study_date, "series": self.series,
            "description": self.description, "modality": self.modality, "frames": self.frames, "rows": self.rows,
            "columns": self.columns, "spacing": None if self.spacing is None else list(self.spacing),
        }  # fmt: skip


@dataclass(eq=False)
class Snapshot:
    """An archive as it was at a moment.

    Attributes:
        archive: opened then; never refreshed.
        volumes: rows of the table of volumes.
        items: by id, in the order of the list.
        counts: patients, studies, series, volumes, files, frames.
        by_file, by_series, by_study: ids of the items they are in.
        held: keeps the database open for as long as anybody holds the snapshot.
    """

    archive: Archive
    database: duckdb.DuckDBPyConnection | None
    volumes: pa.Table
    items: Mapping[str, Item]
    counts: Mapping[str, int]
    by_file: Mapping[str, Sequence[str]]
    by_series: Mapping[str, Sequence[str]]
    by_study: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a statement over ``images``, of which only the values may come from a request."""
        if self.database is None:
            return []
        with self.database.cursor() as cursor:
            return _rows(cursor.execute(sql, list(values)))

    def volume(self, name: str) -> StoredVolume:
        """A volume by its id.

        Raises:
            UsageError: there is none.
        """
        rows = self.volumes.filter(pc.equal(self.volumes["id"], name)).to_pylist()
        if not rows:
            raise UsageError("expected the id of a volume, found another")
        return volume_of_row(self.archive, rows[0])


class Catalogue:
    """The newest snapshot of an archive; safe to use from many threads.

    Args:
        path: of the archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._mark: tuple[str, ...] | None = None
        self._snapshot: Snapshot | None = None
        self._past: dict[str, str] = {}
        self._made = self._took = 0.0

    def now(self) -> Snapshot:
        """The archive as it is.

        Raises:
            DamageError: a table cannot be read.
        """
        with self._lock:
            mark, began = self._newest(), time.monotonic()
            if self._snapshot is None or (mark != self._mark and began - self._made > RARELY * self._took):
                before, self._snapshot = self._snapshot, _snapshot(open_archive(self.path))
                if before is not None:
                    self._remember(before, self._snapshot)
                self._mark, self._made = mark, time.monotonic()
                self._took = self._made - began
            return self._snapshot

    def grown(self, name: str) -> str | None:
        """The item that holds a file of an item which is no more, as files were added to it; None where none does."""
        snapshot = self.now()
        with self._lock:
            file = self._past.get(name)
        return next(iter(snapshot.by_file.get(file, ())), None) if file is not None else None

    def _remember(self, before: Snapshot, now: Snapshot) -> None:
        gone = before.items.keys() - now.items.keys() - self._past.keys()
        if gone:
            for file, names in before.by_file.items():
                for name in gone.intersection(names):
                    self._past.setdefault(name, file)

    def renew(self) -> None:
        """Look at the archive anew the next time, however short ago that was: files were just added."""
        with self._lock:
            self._took = 0.0

    def _newest(self) -> tuple[str, ...]:
        """Names of the newest versions of the tables that are listed."""
        marks = []
        for name in ("files", "paths"):
            versions = self.path / f"{name}.lance" / "_versions"
            try:
                # Lance counts them upward, or downward from the largest number in its second naming.
                marks += sorted(place.name for place in versions.iterdir())
            except OSError:
                marks.append("")
        return tuple(marks)


def _snapshot(archive: Archive) -> Snapshot:
    if archive.table("files") is None:
        counts = dict.fromkeys(("patients", "studies", "series", "volumes", "files", "frames"), 0)
        return Snapshot(archive, None, VOLUMES.empty_table(), {}, counts, {}, {})
    runs = current(archive)
    held = ExitStack()
    database = held.enter_context(connection(archive))
    columns = ", ".join(f'"{column.name}"' for column in COLUMNS if column.name not in _GIVEN)
    database.execute(_FILES.format(columns=columns))
    items, placed = _of_volumes(_rows(database.execute(_VOLUMES)), runs)
    items += _of_series(_rows(database.execute(_REST)), set(placed))
    by_file: dict[str, list[str]] = dict(placed)
    by_series: dict[str, list[str]] = {}
    by_study: dict[str, list[str]] = {}
    for item in items:
        for file, _ in item.runs:
            by_file.setdefault(file, []).append(item.id)
        by_series.setdefault(item.series, []).append(item.id)
        by_study.setdefault(item.study, []).append(item.id)
    (counts,) = _rows(
        database.execute("""
        SELECT count(DISTINCT (dataset, patient, patient_id)) AS patients,
               count(DISTINCT study_instance_uid) AS studies, count(DISTINCT series_instance_uid) AS series,
               count(*) AS files, coalesce(sum(frames), 0)::BIGINT AS frames
        FROM images""")
    )
    counts["volumes"] = sum(item.kind == "volume" for item in items)
    for groups in (by_series, by_study):
        groups.pop("", None)
    return Snapshot(
        archive, database, runs, {item.id: item for item in items}, counts, by_file, by_series, by_study, held
    )


def _rows(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _of_volumes(rows: Iterable[dict[str, Any]], runs: pa.Table) -> tuple[list[Item], dict[str, list[str]]]:
    """Items of volumes, and the volumes that files are in. A mosaic is one picture: its frame has no slices."""
    listed = runs.filter(pc.equal(runs["what"], "volume"))
    files: dict[str, set[str]] = {}
    for name, tiles, parts in zip(*(listed[key].to_pylist() for key in ("id", "tiles", "frames")), strict=True):
        if tiles is None:
            files[name] = {part["file"].hex() for part in parts}
    items: list[Item] = []
    placed: dict[str, list[str]] = {}
    for row in rows:
        if row["id"] not in files:
            continue
        for file in files[row["id"]]:
            placed.setdefault(file, []).append(row["id"])
        size = {"frames": row["slices"], "spacing": None if row["spacing"] is None else tuple(row["spacing"])}
        items.append(_item(row, row["id"], "volume", **size))
    return items, placed


def _of_series(rows: Iterable[dict[str, Any]], placed: set[str]) -> list[Item]:
    """Items of what stands in no volume: frames of one size of a series; a file without a series on its own."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["sha256"] not in placed:
            key = (row["series"] or row["sha256"], row["rows"], row["columns"], row["samples_per_pixel"])
            groups.setdefault(key, []).append(row)
    items = []
    for group in groups.values():
        runs = tuple((row["sha256"], int(row["frames"])) for row in group)
        name = hashlib.blake2b(repr(runs).encode(), digest_size=8).hexdigest()
        items.append(_item(group[0], name, "series", frames=sum(count for _, count in runs), runs=runs))
    return items


def _item(
    row: Mapping[str, Any],
    name: str,
    kind: str,
    *,
    frames: int,
    spacing: tuple[float, ...] | None = None,
    runs: tuple[tuple[str, int], ...] = (),
) -> Item:
    description = row["series_description"] or row["study_description"] or row["path"].rpartition("/")[2]
    person = row["patient_id"] or row["folder"] or ""
    said = (row["shown"], row["patient_id"], row["study_date"], row["study_description"], description, row["modality"])
    return Item(
        name, kind, row["shown"], row["patient_id"] or "", row["study"] or "", row["study_date"] or "",
        row["series"] or "", description, row["modality"] or "", frames, row["rows"] or 0, row["columns"] or 0,
        spacing, runs, person, " ".join(text for text in (*said, row["path"]) if text).lower(),
    )  # fmt: skip
