"""The archive as a directory of Lance tables: opening, appending in batches, reading parts.

A file is in the archive when its row in ``files`` is committed. Its frames are committed before,
its path after; what a crash leaves between is invisible, and healed by ingesting again.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import lance.commit
import numpy as np
import pyarrow as pa

from dcmark.archive import codec as codecs
from dcmark.archive.faults import reading, storage_error, writing
from dcmark.archive.parts import Parts
from dcmark.archive.rows import frame_batches, record_batches
from dcmark.archive.schema import (
    FORMAT_VERSION,
    INFO_FILE,
    STORAGE_VERSION,
    TABLES,
    row_check,
)
from dcmark.errors import DamageError, FormatVersionError, OutputExistsError, StorageError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dcmark.archive.volumes import StoredVolume
    from dcmark.read.base import PixelLayout

FLUSH_BYTES = 48 << 20
"""Payload bytes gathered before frames are written: bounds the memory of an ingest."""
SPARE_BYTES = 16 << 20
"""Room for the payload that goes over the limit."""
MOST_ROWS = 1024
"""Files gathered before they are committed, however small: each takes some 20 kB as Python objects."""
CLEANUP_EVERY = 64
"""Commits to a table between two sweeps of its old versions. Each lists all pieces of the table, so
that unswept they would grow with the square of the archive."""
PATIENCE_S = 600.0
"""How long a commit is tried again while others commit before it, seconds."""
SLEPT_NS = 60 * 10**9
"""A batch whose frames were written longer ago than this, ns, looks whether they are still there."""
KEEP_VERSIONS_S = 3600
"""Age that a superseded version of a table reaches at least, seconds: readers may still have it open."""


@dataclass(frozen=True, slots=True)
class Info:
    """What ``archive.json`` says.

    Attributes:
        format_version: of the on-disk contract.
        id: random UUID of this archive.
        hashes_cover: ``received`` (the bytes as they came) or ``de-identified``.
        created_by: name and version of the program that made it.
    """

    format_version: int
    id: str
    hashes_cover: str
    created_by: str


class Archive:
    """An open archive. Cheap to open; tables are opened when first used and may be refreshed.

    Safe to read from many threads; write through ``batch``.
    """

    def __init__(self, path: Path, info: Info) -> None:
        self.path = path
        self.info = info
        self._tables: dict[str, Any] = {}
        self._parts: Parts | None = None

    def __repr__(self) -> str:
        return f"Archive({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Absolute, for the process that it goes to may stand in another folder.
        return {"path": self.path.absolute(), "info": self.info, "_tables": {}, "_parts": None}

    def cover(self, what: str) -> None:
        """Record what the hashes cover (``received`` or ``de-identified``); only before the first file.

        Raises:
            StorageError: it cannot be written.
        """
        info = replace(self.info, hashes_cover=what)
        with writing(self.path):
            _write_whole(self.path / INFO_FILE, json.dumps(_info_as_dict(info), indent=2) + "\n", replacing=True)
        self.info = info

    # -- tables ---------------------------------------------------------------------------------

    def table(self, name: str) -> Any | None:
        """The Lance dataset of a table at the version seen first; None while it has no row.

        Raises:
            DamageError: the table is there but cannot be opened.
            UsageError: in a process that was forked from one that uses Lance.
        """
        _not_forked()
        if name not in self._tables:
            place = self.path / f"{name}.lance"
            if not place.is_dir():
                return None
            # A run that was killed while it wrote the very first version leaves a folder that is no table yet.
            if not _has_version(place):
                return None
            with reading(f"table {name!r}"):
                table = lance.dataset(str(place))
                _check_columns(TABLES[name], table.schema)
            self._tables[name] = table
        return self._tables[name]

    def count(self, name: str) -> int:
        """Rows of a table. Raises DamageError when it cannot be read."""
        table = self.table(name)
        with reading(f"table {name!r}"):
            return 0 if table is None else int(table.count_rows())

    def refresh(self) -> None:
        """See what was committed since, here or by another process."""
        self._tables.clear()
        self._parts = None

    def read(self, name: str, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Columns of a table as an Arrow table (never the ``data`` of frames).

        A column that the archive was written without, by an earlier release, is there and null.

        Raises:
            DamageError: the stored table cannot be read.
        """
        schema = TABLES[name]
        wanted = list(columns) if columns is not None else [n for n in schema.names if n != "data"]
        table = self.table(name)
        if table is None:
            return pa.schema([schema.field(n) for n in wanted]).empty_table()
        there = set(table.schema.names)
        with reading(f"table {name!r}"):
            found = table.scanner(columns=[n for n in wanted if n in there], filter=where).to_table()
        if found.num_columns < len(wanted):
            for n in wanted:
                if n not in there:
                    found = found.append_column(schema.field(n), pa.nulls(len(found), schema.field(n).type))
            found = found.select(wanted)
        return found

    def scan(self, name: str, rows: int, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
        """All rows of a table as dictionaries, ``rows`` at a time.

        Args:
            rows: at once.
            columns: which; one that the archive lacks is absent. None: all there are but the ``data`` of
                frames, those of later releases too, for they count in the checksum of a row.

        Raises:
            DamageError: the stored table cannot be read.
        """
        table = self.table(name)
        if table is None:
            return
        with reading(f"table {name!r}"):
            there = [n for n in table.schema.names if n != "data"]
            wanted = there if columns is None else [n for n in columns if n in there]
            for batch in table.scanner(columns=wanted, batch_size=rows).to_batches():
                yield batch.to_pylist()

    def volumes(self, where: str | None = None) -> list[StoredVolume]:
        """Volumes of the archive; see ``dcmark.archive.volumes.volumes``."""
        from dcmark.archive.volumes import volumes

        return volumes(self, where)

    # -- writing --------------------------------------------------------------------------------

    def batch(self) -> Batch:
        """A new batch of files to append; see ``Batch``."""
        return Batch(self)

    def _append(self, name: str, batches: Iterable[pa.RecordBatch]) -> None:
        """Commit rows to a table, which is made when it is not there; others may append meanwhile.

        Raises:
            StorageError: the storage refused.
        """
        schema = TABLES[name]
        place = str(self.path / f"{name}.lance")
        with writing(self.path):
            table = self.table(name)
            if table is None:
                table = self._create(name)
            there = set(table.schema.names)
            missing = [field for field in schema if field.name not in there]
            if missing:  # made by an earlier release
                table.add_columns(pa.schema(missing))
            rows = [*batches]  # views of memory that is there already
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    reader = pa.RecordBatchReader.from_batches(schema, rows)
                    self._tables[name] = lance.write_dataset(
                        reader, place, mode="append", data_storage_version=STORAGE_VERSION
                    )
                    break
                except BaseException as error:
                    self._tables.pop(name, None)
                    # Lance itself tries a number of times; with hundreds of writers that is not always enough.
                    if not _lost_race(error) or time.monotonic() > until:
                        raise
                    time.sleep(random.uniform(0.05, 1.0))  # noqa: S311
        if name == "frames":
            self._parts = None

    def _create(self, name: str) -> Any:
        """An empty table, made aside and put in its place whole.

        Of writers who begin at once one is first and the others use its table. (Lance's own way to create a table is
        not used in place: two at once can end as a table that overwrites the other, rows and all.)
        """
        place = self.path / f"{name}.lance"
        aside = self.path / f"{name}.{secrets.token_hex(8)}.draft"
        try:
            lance.write_dataset(
                TABLES[name].empty_table(),
                str(aside),
                mode="create",
                data_storage_version=STORAGE_VERSION,
                auto_cleanup_options={"interval": CLEANUP_EVERY, "older_than_seconds": KEEP_VERSIONS_S},
            )
            if place.is_dir() and not _has_version(place):
                _clear_away(place)
            try:
                aside.rename(place)
            except OSError:
                if not _has_version(place):
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return lance.dataset(str(place))

    # -- reading parts --------------------------------------------------------------------------

    def positions(self, batch: int, first_row: int, parts: int) -> NDArray[np.int64]:
        """Positions in ``frames`` of the parts of one file, in their order; valid until ``refresh``.

        Raises:
            DamageError: a part is not there.
        """
        if not parts:
            return np.empty(0, np.int64)
        try:
            return self._found_parts().find(batch, first_row, parts)
        except DamageError:
            # Frames are committed before files: those of another writer may be newer than the table opened here.
            if not self._renewed("frames"):
                raise
            return self._found_parts().find(batch, first_row, parts)

    def payloads(self, positions: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """Stored payloads at positions, in that order.

        Raises:
            DamageError: they cannot be read.
        """
        return self._found_parts().payloads(positions) if len(positions) else []

    def part_rows(self, positions: Sequence[int] | NDArray[np.int64]) -> list[dict[str, Any]]:
        """The columns of parts beside their payload, at positions, in that order.

        Raises:
            DamageError: they cannot be read.
        """
        return self._found_parts().rows(positions) if len(positions) else []

    def _renewed(self, name: str) -> bool:
        """Open the newest version of a table; False where that is the one that was open."""
        opened = self._tables.pop(name, None)
        newest = self.table(name)
        if newest is None or (opened is not None and newest.version == opened.version):
            return False
        self._parts = None
        return True

    def _found_parts(self) -> Parts:
        if self._parts is None:
            table = self.table("frames")
            if table is None:
                raise DamageError("the table 'frames' is missing; expected it beside 'files'")
            self._parts = Parts(table, self.path / "frames.lance")
        return self._parts


def _check_columns(expected: pa.Schema, found: pa.Schema) -> None:
    """Raise ValueError unless the columns found are those that are written, or fewer of those that may be null."""
    types = {field.name: field.type for field in found}
    for field in expected:
        if field.name in types and not types[field.name].equals(field.type):
            raise ValueError(f"column {field.name!r} is {types[field.name]}, not {field.type}")
        if field.name not in types and not field.nullable:
            raise ValueError(f"column {field.name!r} is missing")


def open_archive(path: str | os.PathLike[str], *, create: bool = False) -> Archive:
    """Open an archive, or make an empty one where nothing is and ``create`` is set.

    Raises:
        FormatVersionError: nothing is there, it is no archive, or a newer format.
        OutputExistsError: ``create``, and something that is no archive is in the way.
        StorageError: it cannot be made there.
    """
    place = Path(path)
    info_file = place / INFO_FILE
    if info_file.is_file():
        return Archive(place, _read_info(info_file))
    if not create:
        found = "a file" if place.is_file() else "a directory without archive.json" if place.is_dir() else "nothing"
        raise FormatVersionError(
            f"expected a dcmark archive at {place}, found {found}; make one with: dcmark ingest SOURCE {place}"
        )
    if place.is_file() or (place.is_dir() and not all(_is_draft(entry) for entry in place.iterdir())):
        if info_file.is_file():  # another process was first
            return Archive(place, _read_info(info_file))
        raise OutputExistsError(
            f"expected an archive, an empty directory or nothing at {place}, found other files; choose another name"
        )
    info = Info(FORMAT_VERSION, str(uuid.uuid4()), "received", _created_by())
    try:
        place.mkdir(parents=True, exist_ok=True)
        _write_whole(info_file, json.dumps(_info_as_dict(info), indent=2) + "\n")
    except OSError as error:
        raise storage_error(error, place) from error
    # Read again: where two begin at once, one of them names it for both.
    return Archive(place, _read_info(info_file))


def _created_by() -> str:
    from importlib.metadata import version

    return f"dcmark {version('dcmark')}"


def _info_as_dict(info: Info) -> dict[str, Any]:
    return {
        "format": "dcmark archive",
        "format_version": info.format_version,
        "id": info.id,
        "hashes_cover": info.hashes_cover,
        "created_by": info.created_by,
    }


def _read_info(place: Path) -> Info:
    try:
        found = json.loads(place.read_text("utf-8"))
        version = int(found["format_version"])
        info = Info(version, str(found["id"]), str(found["hashes_cover"]), str(found.get("created_by", "")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{place} is damaged: expected JSON with format_version, id and hashes_cover") from error
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"expected an archive of format {FORMAT_VERSION} or older, found format {version} "
            f"(made by {info.created_by}); update dcmark"
        )
    if version < 1:
        raise DamageError(f"{place} is damaged: format_version is {version}")
    return info


def _write_whole(place: Path, text: str, *, replacing: bool = False) -> None:
    """Write a small file so that it is there whole or not at all; the first of several writers stands."""
    draft = place.with_name(f"{place.name}.{secrets.token_hex(8)}.draft")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if replacing:
            draft.replace(place)
            return
        try:
            place.hardlink_to(draft)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)


def _lost_race(error: BaseException) -> bool:
    """Did other writers keep committing before this one?"""
    text = str(error).lower()
    return isinstance(error, lance.commit.CommitConflictError) or "conflict" in text or "concurrent writers" in text


def _has_version(table: Path) -> bool:
    return any((table / "_versions").glob("*.manifest"))


def _clear_away(place: Path) -> None:
    """Remove a folder that was never a table: a writer of an earlier release was killed while it made it.

    It is renamed before it is removed, so that a table that another writer puts there meanwhile is not touched.
    """
    away = place.with_name(f"{place.stem}.{secrets.token_hex(8)}.draft")
    with suppress(OSError):
        place.rename(away)
        if _has_version(away):
            away.rename(place)
        else:
            shutil.rmtree(away, ignore_errors=True)


def _is_draft(place: Path) -> bool:
    """Left by a run that was killed before its archive began to be."""
    return place.name.startswith(INFO_FILE) and place.name.endswith(".draft")


class Batch:
    """Files gathered for one commit.

    ``add_part`` any number of times, then ``add_file`` for the file they belong to; ``add_path`` for
    every place it was seen at. ``commit`` makes all of it visible; a batch dropped before
    that leaves nothing behind but parts no file points to. Use from one thread.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.id = secrets.randbits(62)
        self.rows = 0
        self._first = 0
        self._pending: list[dict[str, Any]] = []
        self._starts = [0]
        # One piece of memory for all payloads of a flush, which goes back to the system as a whole: thousands of
        # payloads kept on their own, made by many threads, leave it in shreds. Pages not written to cost nothing.
        self._payloads = np.empty(FLUSH_BYTES + SPARE_BYTES, np.uint8).data
        self._files: list[dict[str, Any]] = []
        self._paths: list[dict[str, Any]] = []
        self._flushed_ns = 0
        self.payload_bytes = 0

    def add_part(self, number: int, encoded: codecs.Encoded, length: int) -> None:
        """Append a part of the file that ``add_file`` names next.

        Args:
            number: of the frame, from 0; for bulk chunks -1, -2, ...
            encoded: the packed bytes.
            length: bytes when unpacked.
        """
        payload = encoded.payload
        if self._starts[-1] + len(payload) > len(self._payloads):
            self._flush_frames()
        self._pending.append(
            {
                "batch": self.id,
                "row": self.rows,
                "first_row": self._first,
                "number": number,
                "codec": encoded.codec,
                "length": length,
                "crc": codecs.checksum(payload),
                "lowest": encoded.lowest,
                "highest": encoded.highest,
            }
        )
        self.rows += 1
        self.payload_bytes += len(payload)
        start, end = self._starts[-1], self._starts[-1] + len(payload)
        self._starts.append(end)
        if end > len(self._payloads):  # larger than all there is room for: written on its own
            self._flush_frames(payload)
            return
        self._payloads[start:end] = payload
        if end >= FLUSH_BYTES:
            self._flush_frames()

    def add_file(self, row: dict[str, Any]) -> None:
        """Append the row of a file (columns of ``files`` but batch, first_row, parts, check)."""
        row = {**row, "batch": self.id, "first_row": self._first, "parts": self.rows - self._first}
        row["check"] = row_check(row)
        self._files.append(row)
        self._first = self.rows

    def add_path(self, row: dict[str, Any]) -> None:
        """Append a row of ``paths`` (all columns but check)."""
        self._paths.append({**row, "check": row_check(row)})

    @property
    def full(self) -> bool:
        """Is it time to commit?"""
        return self.payload_bytes >= FLUSH_BYTES or len(self._paths) >= MOST_ROWS

    def commit(self) -> None:
        """Frames, then files, then paths; afterwards the batch is spent.

        Raises:
            StorageError: the storage refused, or a sweep took this for an abandoned run; what was
                committed before is untouched.
        """
        self._flush_frames()
        if self._files:
            self._check_swept()
            self.archive._append("files", record_batches("files", self._files))
        if self._paths:
            self.archive._append("paths", record_batches("paths", self._paths))
        self._files, self._paths = [], []

    def _flush_frames(self, payloads: codecs.Bytes | None = None) -> None:
        rows, self._pending = self._pending, []
        starts, self._starts = self._starts, [0]
        if rows:
            self._flushed_ns = time.time_ns()
            self.archive._append(
                "frames", frame_batches(rows, starts, self._payloads if payloads is None else payloads)
            )

    def _check_swept(self) -> None:
        """A run that slept for long (a closed laptop) may find its parts swept by ``gc``."""
        if not self.rows or time.time_ns() - self._flushed_ns < SLEPT_NS:
            return
        self.archive.refresh()
        if self.archive.read("frames", ["row"], f"batch = {self.id}").num_rows != self.rows:
            raise StorageError(
                "expected the parts written in this run, found them swept by 'dcmark gc' as abandoned, for this run "
                "stood still for long; run the same command again"
            )


def layout_of_row(row: dict[str, Any]) -> PixelLayout | None:
    """Pixel layout of a row of ``files``; None where it has no pixels."""
    from dcmark.read.pixeldata import layout_from

    if not row.get("number"):
        return None
    return layout_from({k: v for k, v in row.items() if v is not None}, row["number"], bool(row["big_endian"]))


_process = 0
"""Which one uses Lance; a fork of it inherits the number and is another."""


def _not_forked() -> None:
    """Lance hangs or crashes, now and then, in a process forked from one that uses it: say so instead."""
    global _process  # noqa: PLW0603  it is the process that has one
    if _process != os.getpid():
        if _process:
            raise UsageError(
                "expected a process that was started anew; found one that was forked after an archive was used, where "
                "Lance cannot work; use the start method spawn or forkserver"
            )
        _process = os.getpid()
