"""The table ``annotations``: events, only ever added, each with the hash of the one before.

What an event means is told in ``dcmark.annotate.log``; here they are stored, chained and checked. The payloads of
masks stand in a table of their own, ``masks``, and are committed before the events that point to them.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError

from dcmark.archive.faults import reading, writing
from dcmark.archive.schema import EVENTS, MASKS, STORAGE_VERSION, canonical_json
from dcmark.archive.store import Archive
from dcmark.errors import DamageError, StorageError
from dcmark.findings import Finding

Row = dict[str, Any]

COMPACT_FROM = 48
"""Pieces of a table from which small ones are joined: every stroke of a brush adds one."""
EVENTS_A_PIECE, MASKS_A_PIECE = 8192, 1024
"""Rows that a piece has at most after joining; so a join never rewrites more than that."""
PATIENCE_S = 120.0
"""How long a writer tries again while others commit before it, seconds."""
PLANES_AT_ONCE = 2048
"""Rows of ``masks`` that are checked at once."""


def origin(archive: Archive) -> bytes:
    """What the first event carries as the hash of the one before: SHA-256 of the archive's id."""
    return hashlib.sha256(archive.info.id.encode()).digest()


def event_hash(row: Mapping[str, Any]) -> bytes:
    """SHA-256 of an event: of all columns but ``hash`` that are not null, as canonical JSON (docs/format.md)."""
    kept = {key: value for key, value in row.items() if key != "hash" and value is not None}
    return hashlib.sha256(canonical_json(kept).encode("utf-8", "surrogatepass")).digest()


def planes_digest(planes: Sequence[Mapping[str, Any]]) -> bytes:
    """SHA-256 over the planes of a mask in their order: each plane's columns but batch and row, data as its SHA-256."""
    whole = hashlib.sha256()
    for plane in planes:
        whole.update(_plane_words(plane))
    return whole.digest()


def _plane_words(plane: Mapping[str, Any]) -> bytes:
    kept = {key: value for key, value in plane.items() if key not in ("batch", "row", "data")}
    kept["data"] = hashlib.sha256(plane["data"]).digest()
    return canonical_json(kept).encode()


def append_planes(archive: Archive, planes: Sequence[Row]) -> int:
    """Commit the planes of masks (columns of ``masks`` but batch and row); the batch they were given.

    Their rows are numbered from 0 in the order given. Until an event points to them they are invisible.

    Raises:
        StorageError: the storage refused.
    """
    batch = secrets.randbits(62)
    step = 4096
    batches = (
        pa.RecordBatch.from_pylist(
            [{**one, "batch": batch, "row": start + i} for i, one in enumerate(planes[start : start + step])], MASKS
        )
        for start in range(0, len(planes), step)
    )
    archive._append("masks", batches)
    _join(archive, "masks", MASKS_A_PIECE)
    return batch


def read_planes(archive: Archive, batch: int, first_row: int, count: int) -> list[Row]:
    """Rows of ``masks`` of one mask in their order.

    Raises:
        DamageError: they are not there.
    """
    positions = _positions(archive, batch, first_row, count)
    table = archive.table("masks")
    with reading("table 'masks'"):
        rows: list[Row] = [] if table is None else table.take(positions, columns=MASKS.names).to_pylist()
    if len(rows) != count:
        raise DamageError(f"expected {count} planes of a mask in 'masks', found {len(rows)}; the archive is damaged")
    return rows


def frames_of_planes(archive: Archive, batch: int, first_row: int, count: int) -> list[tuple[str, int]]:
    """The frames that the planes of a mask lie on: SHA-256 in hexadecimal digits, and number. No payload is read."""
    positions = _positions(archive, batch, first_row, count)
    table = archive.table("masks")
    with reading("table 'masks'"):
        rows = [] if table is None else table.take(positions, columns=["file", "frame"]).to_pylist()
    return [(row["file"].hex(), row["frame"]) for row in rows]


def _positions(archive: Archive, batch: int, first_row: int, count: int) -> list[int]:
    """Where rows of a batch lie in ``masks``; looked for anew where another writer added them since."""
    found = _indexed(archive, batch, first_row, count)
    if len(found) != count:
        archive._tables.pop("masks", None)
        found = _indexed(archive, batch, first_row, count)
    if len(found) != count:
        raise DamageError(f"expected {count} planes of a mask in 'masks', found {len(found)}; the archive is damaged")
    return found


def _indexed(archive: Archive, batch: int, first_row: int, count: int) -> list[int]:
    """Positions by an index that is kept beside the open table."""
    table = archive.table("masks")
    index = archive._tables.get("masks index")
    if index is None or index[0] is not table:
        keys = archive.read("masks", ["batch", "row"])
        batches, rows = keys["batch"].to_numpy(), keys["row"].to_numpy()
        order = np.lexsort((rows, batches))
        index = archive._tables["masks index"] = (table, batches[order], rows[order], order)
    _, batches, rows, order = index
    low, high = np.searchsorted(batches, batch, "left"), np.searchsorted(batches, batch, "right")
    start = int(low + np.searchsorted(rows[low:high], first_row, "left"))
    stop = min(start + count, int(high))
    whole = stop - start == count and np.array_equal(rows[start:stop], np.arange(first_row, first_row + count))
    return [int(one) for one in order[start:stop]] if whole else []


def append_events(archive: Archive, build: Callable[[int], Sequence[Row]]) -> list[Row]:
    """Commit events behind the newest one, whatever others do meanwhile; the rows as they were stored.

    A commit that finds another one made in between is thrown away and made anew behind that one, so the chain of
    hashes stays a single line and no writer's event is lost.

    Args:
        build: is given the number of the newest event (-1 for none) and gives rows of ``annotations`` without ``seq``,
            ``previous`` and ``hash``. Called again where another writer was faster.

    Raises:
        StorageError: the storage refused, or others kept committing for ``PATIENCE_S``.
        DamageError: the log there is is damaged; nothing is added to it.
    """
    began, attempt = time.monotonic(), 0
    while True:
        archive._tables.pop("annotations", None)
        with writing(archive.path):
            table = archive.table("annotations") or archive._create("annotations")
        last, previous = _head(archive, table)
        rows = _chained(build(last), last, previous)
        if not rows:
            return []
        archive._tables.pop("annotations", None)
        with writing(archive.path):
            committed = _commit(table, rows)
        if committed is None:
            attempt += 1
            if time.monotonic() - began > PATIENCE_S:
                raise StorageError(
                    f"expected to add events to {archive.path}, found others committing before this for "
                    f"{PATIENCE_S:.0f} s; try again"
                )
            time.sleep(random.uniform(0, min(0.25, 0.002 * 2 ** min(attempt, 7))))  # noqa: S311
            continue
        archive._tables["annotations"] = committed
        _join(archive, "annotations", EVENTS_A_PIECE)
        return rows


def _chained(rows: Sequence[Row], last: int, previous: bytes) -> list[Row]:
    chained = []
    for seq, row in enumerate(rows, last + 1):
        whole = {**row, "seq": seq, "previous": previous}
        whole["hash"] = previous = event_hash(whole)
        chained.append(whole)
    return chained


def _head(archive: Archive, table: Any) -> tuple[int, bytes]:
    """Number and hash of the newest event."""
    with reading("table 'annotations'"):
        count = table.count_rows()
        if not count:
            return -1, origin(archive)
        # By its number, for rows do not keep their order when pieces are joined.
        rows = table.scanner(columns=["hash"], filter=f"seq = {count - 1}").to_table().to_pylist()
    if len(rows) != 1:
        raise DamageError(
            f"expected event {count - 1} once at the end of the log, found it {len(rows)} times; the archive is "
            "damaged, see: dcmark verify"
        )
    return count - 1, rows[0]["hash"]


def _commit(table: Any, rows: Sequence[Row]) -> Any:
    """A new version with these rows behind the others, made only from the version that was read; else None.

    Lance lets two appends pass each other. A merge names all pieces that the new version has, and is refused when
    another version came between.
    """
    batches = [pa.RecordBatch.from_pylist(list(rows[i : i + 4096]), EVENTS) for i in range(0, len(rows), 4096)]
    reader = pa.RecordBatchReader.from_batches(EVENTS, batches)
    new = lance.fragment.write_fragments(reader, table.uri, mode="append", data_storage_version=STORAGE_VERSION)
    old = [fragment.metadata for fragment in table.get_fragments()]
    operation = lance.LanceOperation.Merge([*old, *new], table.lance_schema)
    try:
        return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)
    except CommitConflictError:
        return None
    except OSError as error:
        if "commit conflict" in str(error).lower():  # some releases word a lost race as an input/output error
            return None
        raise


def _join(archive: Archive, name: str, rows: int) -> None:
    """Join small pieces of a table. May fail where another writes at this moment: then it is done another time."""
    table = archive._tables.get(name)
    if table is None or len(table.get_fragments()) < COMPACT_FROM:
        return
    with suppress(*(OSError, ValueError, RuntimeError, CommitConflictError)):
        table = lance.dataset(table.uri)
        table.optimize.compact_files(target_rows_per_fragment=rows)
    archive._tables.pop(name, None)


# Checking -------------------------------------------------------------------------------------------------------------


def check_events(archive: Archive) -> Iterator[Finding]:
    """What is wrong with the log: events altered, missing, out of place, or masks that are not what was drawn.

    Raises:
        DamageError: a table cannot be read at all.
    """
    table = archive.table("annotations")
    if table is None:
        if archive.table("masks") is not None and archive.count("masks"):
            text = "masks are stored and the table 'annotations' is not there; the log is lost, or never got its first"
            yield Finding("warning", "log-missing", f"{text} event")
        return
    with reading("table 'annotations'"):
        deleted = sum(fragment.num_deletions for fragment in table.get_fragments())
    if deleted:
        yield Finding("error", "event-missing", f"{deleted} events were deleted from the log")
    expected, previous = 0, origin(archive)
    for rows in _in_order(archive, table):
        for row in rows:
            seq = row["seq"]
            if seq != expected:
                text = f"expected event {expected} of the log, found event {seq}"
                yield Finding("error", "event-missing" if seq > expected else "event-order", text, path=f"event {seq}")
            elif row["previous"] != previous:
                text = f"event {seq} does not follow the one before it (hash)"
                yield Finding("error", "event-chain", text, path=f"event {seq}")
            if event_hash(row) != row["hash"]:
                yield Finding(
                    "error", "event-altered", f"event {seq} is not what was written (hash)", path=f"event {seq}"
                )
            expected, previous = seq + 1, row["hash"]
    yield from _check_masks(archive)


def _in_order(archive: Archive, table: Any) -> Iterator[list[Row]]:
    """All events by number, some at a time."""
    order = np.argsort(archive.read("annotations", ["seq"])["seq"].to_numpy(), kind="stable")
    for start in range(0, len(order), 1024):
        with reading("table 'annotations'"):
            yield table.take(order[start : start + 1024].tolist(), columns=EVENTS.names).to_pylist()


def _check_masks(archive: Archive) -> Iterator[Finding]:
    columns = ["seq", "batch", "first_row", "planes", "digest"]
    events = archive.read("annotations", columns)
    events = events.filter(pc.greater(events["planes"], 0)).to_pylist()
    checked: dict[tuple[int, int, int], bytes | None] = {}
    for row in events:
        key = (row["batch"], row["first_row"], row["planes"])
        if key not in checked:
            try:
                checked[key] = _digest(archive, *key)
            except DamageError:
                checked[key] = None
        if checked[key] is None:
            yield Finding("error", "mask-missing", f"planes of the mask of event {row['seq']} are missing")
        elif checked[key] != row["digest"]:
            yield Finding("error", "mask-altered", f"the mask of event {row['seq']} is not what was drawn (hash)")


def _digest(archive: Archive, batch: int, first_row: int, count: int) -> bytes:
    whole = hashlib.sha256()
    for start in range(0, count, PLANES_AT_ONCE):
        for plane in read_planes(archive, batch, first_row + start, min(PLANES_AT_ONCE, count - start)):
            whole.update(_plane_words(plane))
    return whole.digest()


def drop_orphan_masks(archive: Archive) -> int:
    """Delete planes that no event points to; the caller has made sure that nobody is writing. Returns their number."""
    if archive.table("masks") is None:
        return 0
    used = set(archive.read("annotations", ["batch"])["batch"].to_pylist())
    there = archive.read("masks", ["batch"])["batch"].to_pylist()
    orphans = {batch for batch in there if batch not in used}
    if orphans:
        with writing(archive.path):
            lance.dataset(str(archive.path / "masks.lance")).delete(f"batch IN ({', '.join(map(str, orphans))})")
        archive.refresh()
    return sum(batch in orphans for batch in there)
