"""Upkeep of an archive that many runs wrote: few large pieces, each content once, indexes that follow.

Every step is one commit of one table, so a run that is killed leaves the archive as it was before or after a step.
Writers and readers may go on meanwhile: what was open stays readable for as long as old versions are kept.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import lance
import numpy as np
from lance.commit import CommitConflictError
from numpy.typing import NDArray

from dcmark.archive import volumes
from dcmark.archive.faults import writing
from dcmark.archive.rows import record_batches
from dcmark.archive.store import Archive
from dcmark.errors import StorageError
from dcmark.progress import NoProgress, Progress

ROWS_A_PIECE = 1 << 20
"""Rows that a piece of a table other than ``frames`` is joined to."""
BYTES_A_PIECE = 1 << 30
"""Payload bytes that a piece of ``frames`` is joined to: what one reader opens, and one join rewrites."""
LEAST_PIECES = 4
"""Small pieces of a table from which they are joined."""
PATIENCE_S = 300.0
"""How long a step is tried again while others commit before it, seconds."""
INDEXES: dict[str, dict[str, str]] = {
    "files": {
        "sha256": "BTREE",
        "batch": "BTREE",
        "series_instance_uid": "BTREE",
        "study_instance_uid": "BTREE",
        "sop_instance_uid": "BTREE",
        "patient_id": "BTREE",
        "modality": "BITMAP",
    },
    "frames": {"batch": "BTREE"},
    "paths": {"sha256": "BTREE", "root": "BITMAP", "patient": "BTREE"},
    "annotations": {"annotation": "BTREE", "volume": "BTREE", "file": "BTREE"},
    "masks": {"batch": "BTREE"},
}
"""Columns with a scalar index: those that reading, worklists and DICOMweb ask for by value."""
INDEX_FROM = 10_000
"""Rows of a table from which an index is quicker than looking at all of it."""
_DELETED_AT_ONCE = 200


@dataclass(slots=True)
class CompactReport:
    """What an upkeep did.

    Attributes:
        pieces_before, pieces_after: of all tables together.
        files, paths: rows dropped because another says the same.
        parts: rows of ``frames`` dropped because no file points to them.
        indexes: made or brought up to date, as ``table.column``.
    """

    pieces_before: int = 0
    pieces_after: int = 0
    files: int = 0
    paths: int = 0
    parts: int = 0
    indexes: list[str] = field(default_factory=list)


def compact(archive: Archive, *, index: bool | None = None, progress: Progress | None = None) -> CompactReport:
    """Join small pieces of tables, drop what is stored twice, and bring indexes up to date.

    Payloads that are moved take their room twice until the old version of ``frames`` goes (``collect``).

    Args:
        index: make scalar indexes; None: for tables of ``INDEX_FROM`` rows and more.
        progress: is told of each table.

    Raises:
        StorageError: the storage refused; every table is as it was before or after a step.
        DamageError: a table cannot be read.
    """
    progress = progress or NoProgress()
    report = CompactReport()
    archive.refresh()
    volumes.update(archive)
    names = ["files", "frames", "paths", "volumes", "annotations", "masks"]
    progress.start("compact", len(names), "tables")
    try:
        report.files, report.parts = drop_repeats(archive)
        report.paths = _drop_paths(archive)
        for name in names:
            table = archive.table(name)
            if table is not None:
                report.pieces_before += len(table.get_fragments())
                if name == "files":
                    _join_files(archive)
                elif name != "volumes":
                    _join(archive, name)
                report.indexes += _index(archive, name, index)
                table = archive.table(name)
                report.pieces_after += len(table.get_fragments()) if table is not None else 0
            progress.advance(1)
    finally:
        progress.finish()
    archive.refresh()
    return report


# Joining --------------------------------------------------------------------------------------------------------------


def _join(archive: Archive, name: str) -> None:
    table = _newest(archive, name)
    rows = ROWS_A_PIECE if name != "frames" else _rows_a_piece(archive, table)
    small = [piece for piece in table.get_fragments() if piece.count_rows() < rows]
    deleted = any(piece.num_deletions for piece in table.get_fragments())
    if len(small) >= LEAST_PIECES or deleted:
        _again(archive, name, lambda table: table.optimize.compact_files(target_rows_per_fragment=rows))


def _rows_a_piece(archive: Archive, table: Any) -> int:
    count = int(table.count_rows())
    place = archive.path / "frames.lance" / "data"
    nbytes = sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) if place.is_dir() else 0
    return max(1024, min(ROWS_A_PIECE, BYTES_A_PIECE * count // max(1, nbytes)))


def _join_files(archive: Archive) -> None:
    """Join ``files``, and tell ``volumes`` that the new pieces hold nothing new."""
    before = _newest(archive, "files")
    known = volumes._seen(archive) >= max((one.fragment_id for one in before.get_fragments()), default=-1)
    _join(archive, "files")
    after = _newest(archive, "files")
    # Another writer may have added files in between; then series are described again, which costs time only.
    if known and after.version != before.version and after.count_rows() == before.count_rows():
        newest = max((one.fragment_id for one in after.get_fragments()), default=-1)
        archive._append("volumes", record_batches("volumes", [volumes._state(newest, time.time_ns())]))


def _newest(archive: Archive, name: str) -> Any:
    archive._tables.pop(name, None)
    table = archive.table(name)
    if name == "frames":
        archive._parts = None
    return table


def _again(archive: Archive, name: str, step: Callable[[Any], object]) -> None:
    """Do a step on the newest version of a table; once more where another commit came before it."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            with writing(archive.path):
                step(_newest(archive, name))
            break
        except StorageError as error:
            if not _conflict(error.__cause__) or time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.01, 0.5))  # noqa: S311  so that two do not meet again and again
    _newest(archive, name)


def _conflict(error: BaseException | None) -> bool:
    return isinstance(error, CommitConflictError) or "conflict" in str(error).lower()


# Repeats --------------------------------------------------------------------------------------------------------------


def drop_repeats(archive: Archive) -> tuple[int, int]:
    """Drop rows of ``files`` whose content another row holds too, and parts that no file of their batch points to.

    Two writers at once may both store a content. The row of the lowest batch stays, which is the one that queries see.

    Returns:
        Rows of ``files`` and of ``frames`` dropped.

    Raises:
        StorageError: the storage refused.
    """
    archive.refresh()
    if archive.table("files") is None:
        return 0, 0
    rows = archive.read("files", ["sha256", "batch", "first_row"])
    digests = np.array(rows["sha256"].to_pylist(), "S32")
    batch, first = rows["batch"].to_numpy(), rows["first_row"].to_numpy()
    order = np.lexsort((first, batch, digests))
    repeated = np.zeros(len(order), bool)
    repeated[1:] = digests[order[1:]] == digests[order[:-1]]
    gone = order[repeated].tolist()
    whole = rows["sha256"]
    conditions = [
        f"(batch = {batch[i]} AND first_row = {first[i]} AND sha256 = X'{whole[i].as_py().hex()}')" for i in gone
    ]
    _delete(archive, "files", conditions)
    return len(gone), _drop_parts(archive, np.unique(batch[gone]))


def _drop_parts(archive: Archive, emptied: NDArray[np.int64]) -> int:
    """Drop parts that no file points to, of batches that are committed (a batch commits its files once, at its end).

    Args:
        emptied: batches that are committed, and may have no file any more.
    """
    frames = archive.read("frames", ["batch", "row"])
    archive.refresh()
    files = archive.read("files", ["batch", "first_row", "parts"])
    batch, row = frames["batch"].to_numpy(), frames["row"].to_numpy()
    used, first, parts = (files[name].to_numpy() for name in ("batch", "first_row", "parts"))
    nothing = np.zeros(len(emptied), np.int64)
    used, first, parts = (np.append(*both) for both in ((used, emptied), (first, nothing), (parts, nothing)))
    conditions = [
        f"(batch = {number} AND row >= {start} AND row < {end})"
        for number, start, end in _gaps(batch, row, used, first, parts)
    ]
    before = archive.count("frames")
    _delete(archive, "frames", conditions)
    return before - archive.count("frames") if conditions else 0


def _gaps(
    batch: NDArray[np.int64], row: NDArray[np.int64], used: NDArray[np.int64], first: NDArray[np.int64],
    parts: NDArray[Any],
) -> Iterator[tuple[int, int, int]]:  # fmt: skip
    """Runs of rows of ``frames`` that lie in a used batch and in no file: batch, first row, row behind the last."""
    there, count = np.unique(batch, return_counts=True)
    wanted, at = np.unique(used, return_inverse=True)
    needed = np.bincount(at, weights=parts, minlength=len(wanted)).astype(np.int64)
    have = dict(zip(there.tolist(), count.tolist(), strict=True))
    for number, need in zip(wanted.tolist(), needed, strict=True):
        if have.get(number, 0) <= need:
            continue
        mine = used == number
        covered = sorted(zip(first[mine].tolist(), parts[mine].tolist(), strict=True))
        at_row, last = 0, int(row[batch == number].max()) + 1
        for start, length in covered:
            if start > at_row:
                yield number, at_row, start
            at_row = max(at_row, start + length)
        if at_row < last:
            yield number, at_row, last


def _drop_paths(archive: Archive) -> int:
    """Drop rows of ``paths`` that say what a later one says of the same place."""
    columns = ["root", "path", "path_bytes", "size", "mtime_ns", "sha256", "seen_ns", "findings", "dataset", "patient"]
    table = archive.read("paths", columns)
    newest: dict[tuple[Any, ...], int] = {}
    conditions: list[str] = []
    for rows in table.to_batches(max_chunksize=65536):
        for row in rows.to_pylist():
            codes = tuple(finding["code"] for finding in row["findings"])
            key = (row["root"], row["path"], row["path_bytes"], row["sha256"], row["size"], row["mtime_ns"], codes,
                   row["dataset"], row["patient"])  # fmt: skip
            hashed = key
            if hashed in newest and newest[hashed] != row["seen_ns"]:
                older = min(newest[hashed], row["seen_ns"])
                newest[hashed] = max(newest[hashed], row["seen_ns"])
                path = row["path"].replace("'", "''")
                content = f"= X'{row['sha256'].hex()}'" if row["sha256"] is not None else "IS NULL"
                where = f"root = X'{row['root'].hex()}' AND path = '{path}' AND sha256 {content}"
                conditions.append(f"(seen_ns = {older} AND {where})")
            else:
                newest.setdefault(hashed, row["seen_ns"])
    before = archive.count("paths")
    _delete(archive, "paths", conditions)
    return before - archive.count("paths") if conditions else 0


def _delete(archive: Archive, name: str, conditions: list[str]) -> None:
    for start in range(0, len(conditions), _DELETED_AT_ONCE):
        which = " OR ".join(conditions[start : start + _DELETED_AT_ONCE])
        _again(archive, name, lambda table, which=which: table.delete(which))  # type: ignore[misc]
    archive.refresh()


# Indexes --------------------------------------------------------------------------------------------------------------


def _index(archive: Archive, name: str, wanted: bool | None) -> list[str]:
    """Indexes of a table, made where there are none and brought up to date where there are."""
    table = _newest(archive, name)
    columns = INDEXES.get(name, {})
    if table is None or not columns or wanted is False or (wanted is None and table.count_rows() < INDEX_FROM):
        return []
    there = {column for one in table.describe_indices() for column in one.field_names}
    done = []
    for column, kind in columns.items():
        if column not in there and column in table.schema.names:
            _again(archive, name, lambda table, c=column, k=kind: table.create_scalar_index(c, k))  # type: ignore[misc]
            done.append(f"{name}.{column}")
    if there:
        _again(archive, name, lambda table: table.optimize.optimize_indices())
        done += [f"{name}.{column}" for column in sorted(there)]
    return done


# Old versions ---------------------------------------------------------------------------------------------------------


FOREVER = -1
"""Seconds that stand for: no old version is ever dropped."""
_AGE = "lance.auto_cleanup.older_than"


def keep_versions(archive: Archive, seconds: int) -> None:
    """The rule for superseded versions of tables: how old they are when they go, by themselves and in ``collect``.

    Args:
        seconds: age, at least an hour (readers may have an old version open); ``FOREVER``: they stay.

    Raises:
        StorageError: it cannot be written.
    """
    from dcmark.archive.store import CLEANUP_EVERY

    archive.refresh()
    for name in _tables(archive):
        with suppress(KeyError), writing(archive.path):
            table = lance.dataset(str(archive.path / f"{name}.lance"))
            if seconds == FOREVER:
                table.optimize.disable_auto_cleanup()
            else:
                table.optimize.enable_auto_cleanup({"interval": CLEANUP_EVERY, "older_than_seconds": seconds})
    archive.refresh()


def kept_versions(archive: Archive) -> int | None:
    """Seconds of the rule in force; ``FOREVER``; None while there is no table."""
    archive.refresh()
    found: list[int] = []
    for name in _tables(archive):
        table = archive.table(name)
        if table is not None:
            text = table.config().get(_AGE)
            found.append(FOREVER if text is None else seconds_of(text))
    return None if not found else FOREVER if FOREVER in found else max(found)


_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "w": 604800,
          "week": 604800, "month": 2_630_016, "year": 31_557_600}  # fmt: skip


def seconds_of(text: str) -> int:
    """Seconds of a duration such as ``90min``, ``1h``, ``30d`` or ``1day 2h``.

    Raises:
        ValueError: it is none.
    """
    import re

    found = re.findall(r"(\d+)\s*([a-z]+)", text.lower())
    if not found or re.sub(r"(\d+)\s*([a-z]+)", "", text.lower()).strip():
        raise ValueError(text)
    total = 0
    for count, unit in found:
        name = unit if unit in _UNITS else unit.removesuffix("s")
        if name not in _UNITS:
            raise ValueError(text)
        total += int(count) * _UNITS[name]
    return total


def _tables(archive: Archive) -> list[str]:
    from dcmark.archive.schema import TABLES

    return [name for name in TABLES if archive.table(name) is not None]
