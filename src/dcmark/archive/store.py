"""The archive as a directory of Lance tables: opening, appending in batches, reading parts.

A file is in the archive when its row in ``files`` is committed. Its frames are committed before,
its path after; what a crash leaves between is invisible, and healed by ingesting again.
"""

from __future__ import annotations

import json
import os
import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa

from dcmark.archive import codec as codecs
from dcmark.archive.rows import frame_batches, record_batches
from dcmark.archive.schema import (
    FORMAT_VERSION,
    FRAMES,
    INFO_FILE,
    STORAGE_VERSION,
    TABLES,
    row_check,
)
from dcmark.errors import ArchiveError, DamageError, FormatVersionError, OutputExistsError, StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dcmark.read.base import PixelLayout

FLUSH_BYTES = 48 << 20
"""Payload bytes gathered before frames are written: bounds the memory of an ingest."""


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
        self._locator: _Locator | None = None

    def __repr__(self) -> str:
        return f"Archive({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "info": self.info, "_tables": {}, "_locator": None}

    # -- tables ---------------------------------------------------------------------------------

    def table(self, name: str) -> Any | None:
        """The Lance dataset of a table at the version seen first; None while it has no row.

        Raises:
            DamageError: the table is there but cannot be opened.
        """
        if name not in self._tables:
            place = self.path / f"{name}.lance"
            if not place.is_dir():
                return None
            if not any((place / "_versions").glob("*")):
                if any((place / "data").glob("*")) and name == "files":
                    raise DamageError(f"table {name!r} has data but no version; expected files in _versions")
                return None
            try:
                self._tables[name] = lance.dataset(str(place))
            except (OSError, ValueError, RuntimeError) as error:
                raise DamageError(
                    f"table {name!r} of the archive cannot be opened; it is damaged or not fully copied"
                ) from error
        return self._tables[name]

    def refresh(self) -> None:
        """See what was committed since, here or by another process."""
        self._tables.clear()
        self._locator = None

    def read(self, name: str, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Columns of a table as an Arrow table (never the ``data`` of frames).

        Raises:
            DamageError: the stored table cannot be read.
        """
        schema = TABLES[name]
        wanted = list(columns) if columns is not None else [n for n in schema.names if n != "data"]
        table = self.table(name)
        if table is None:
            return pa.schema([schema.field(n) for n in wanted]).empty_table()
        try:
            return table.scanner(columns=wanted, filter=where).to_table()
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise DamageError(f"table {name!r} cannot be read; the archive is damaged there") from error

    # -- writing --------------------------------------------------------------------------------

    def batch(self) -> Batch:
        """A new batch of files to append; see ``Batch``."""
        return Batch(self)

    def _append(self, name: str, batches: Iterable[pa.RecordBatch]) -> None:
        schema = TABLES[name]
        place = self.path / f"{name}.lance"
        mode = "append" if self.table(name) is not None else "create"
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        try:
            self._tables[name] = lance.write_dataset(
                reader, str(place), mode=mode, data_storage_version=STORAGE_VERSION
            )
        except (OSError, ValueError, RuntimeError) as error:
            self._tables.pop(name, None)
            raise storage_error(error, self.path) from error
        self._locator = None

    # -- reading parts --------------------------------------------------------------------------

    def positions(self, batch: int, first_row: int, parts: int) -> NDArray[np.int64]:
        """Positions in ``frames`` of the parts of one file, in their order; valid until ``refresh``.

        Raises:
            DamageError: a part is not there.
        """
        if parts == 0:
            return np.empty(0, np.int64)
        if self._locator is None:
            self._locator = _Locator(self)
        return self._locator.find(batch, first_row, parts)

    def payloads(self, positions: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """Stored payloads at positions, in that order, read in one plan.

        Raises:
            DamageError: they cannot be read.
        """
        if len(positions) == 0:
            return []
        frames = self.table("frames")
        if frames is None:
            raise DamageError("the table 'frames' is missing; expected it beside 'files'")
        try:
            found = frames.read_blobs("data", indices=[int(p) for p in positions], preserve_order=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise DamageError("frames cannot be read from the archive; it is damaged there") from error
        return [payload or b"" for _, payload in found]

    def part_rows(self, positions: Sequence[int] | NDArray[np.int64]) -> list[dict[str, Any]]:
        """The columns of parts beside their payload, at positions, in that order.

        Raises:
            DamageError: they cannot be read.
        """
        frames = self.table("frames")
        if frames is None or len(positions) == 0:
            return []
        try:
            rows = frames.take([int(p) for p in positions], columns=[n for n in FRAMES.names if n != "data"])
        except (OSError, ValueError, RuntimeError) as error:
            raise DamageError("rows of 'frames' cannot be read; the archive is damaged there") from error
        return list(rows.to_pylist())


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
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise OutputExistsError(
            f"expected an archive, an empty directory or nothing at {place}, found other files; choose another name"
        )
    info = Info(FORMAT_VERSION, str(uuid.uuid4()), "received", _created_by())
    try:
        place.mkdir(parents=True, exist_ok=True)
        _write_whole(info_file, json.dumps(_info_as_dict(info), indent=2) + "\n")
    except OSError as error:
        raise storage_error(error, place) from error
    return Archive(place, info)


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


def _write_whole(place: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    draft = place.with_name(place.name + ".draft")
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(place)


def storage_error(error: Exception, place: Path) -> ArchiveError:
    """An error of the storage in words: what was expected, found, and what to do."""
    text = str(error)
    number = getattr(error, "errno", None)
    if number == 28 or "No space left" in text or "os error 28" in text or "StorageFull" in text:
        what = "found the disk full; free space, then run the same command again"
    elif number == 27 or "File too large" in text or "os error 27" in text:
        what = "found a limit on the size of files; raise it, then run the same command again"
    elif number == 30 or "Read-only" in text or "os error 30" in text:
        what = "found it read-only; choose another place"
    elif number == 13 or "ermission denied" in text or "os error 13" in text:
        what = "found no permission to write; check the rights of the folder"
    else:
        what = f"the storage refused ({type(error).__name__})"
    return StorageError(f"expected to write to {place}, {what}; everything committed before is safe")


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
        self._pending_bytes = 0
        self._files: list[dict[str, Any]] = []
        self._paths: list[dict[str, Any]] = []
        self.payload_bytes = 0

    def add_part(self, number: int, encoded: codecs.Encoded, length: int) -> None:
        """Append a part of the file that ``add_file`` names next.

        Args:
            number: of the frame, from 0; for bulk chunks -1, -2, ...
            encoded: the packed bytes.
            length: bytes when unpacked.
        """
        self._pending.append(
            {
                "batch": self.id,
                "row": self.rows,
                "first_row": self._first,
                "number": number,
                "codec": encoded.codec,
                "length": length,
                "crc": codecs.checksum(encoded.payload),
                "lowest": encoded.lowest,
                "highest": encoded.highest,
                "data": encoded.payload,
            }
        )
        self.rows += 1
        self._pending_bytes += len(encoded.payload)
        self.payload_bytes += len(encoded.payload)
        if self._pending_bytes >= FLUSH_BYTES:
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
        return self.payload_bytes >= FLUSH_BYTES or len(self._paths) >= 4096

    def commit(self) -> None:
        """Frames, then files, then paths; afterwards the batch is spent.

        Raises:
            StorageError: the storage refused; what was committed before is untouched.
        """
        if self._pending:
            self._flush_frames()
        if self._files:
            self.archive._append("files", record_batches("files", self._files))
        if self._paths:
            self.archive._append("paths", record_batches("paths", self._paths))
        self._files, self._paths = [], []

    def _flush_frames(self) -> None:
        rows, self._pending, self._pending_bytes = self._pending, [], 0
        self.archive._append("frames", frame_batches(rows))


class _Locator:
    """From (batch, row) to the position in ``frames``, by runs of consecutive rows."""

    def __init__(self, archive: Archive) -> None:
        found = archive.read("frames", ["batch", "row"])
        batch, row = found["batch"].to_numpy(), found["row"].to_numpy()
        starts = np.ones(len(batch), bool)
        starts[1:] = (np.diff(batch) != 0) | (np.diff(row) != 1)
        first = np.flatnonzero(starts)
        order = np.lexsort((row[first], batch[first]))
        self._batch, self._row, self._position = batch[first][order], row[first][order], first[order]
        self._count = np.diff(np.append(first, len(batch)))[order]

    def find(self, batch: int, first_row: int, parts: int) -> NDArray[np.int64]:
        low = int(np.searchsorted(self._batch, batch, "left"))
        high = int(np.searchsorted(self._batch, batch, "right"))
        pieces: list[NDArray[np.int64]] = []
        row, end = first_row, first_row + parts
        while row < end:
            run = low + int(np.searchsorted(self._row[low:high], row, "right")) - 1
            inside = row - int(self._row[run]) if low <= run < high else 0
            if not low <= run < high or inside >= self._count[run]:
                raise DamageError(f"parts of a file are missing: {end - row} of {parts} are not in 'frames'")
            take = min(end - row, int(self._count[run]) - inside)
            start = int(self._position[run]) + inside
            pieces.append(np.arange(start, start + take, dtype=np.int64))
            row += take
        return np.concatenate(pieces)


def layout_of_row(row: dict[str, Any]) -> PixelLayout | None:
    """Pixel layout of a row of ``files``; None where it has no pixels."""
    from dcmark.read.pixeldata import layout_from

    if not row.get("number"):
        return None
    return layout_from({k: v for k, v in row.items() if v is not None}, row["number"], bool(row["big_endian"]))
