"""One archive into another: packed parts are copied as they lie, nothing is decoded, everything is checked.

What the target holds already is left alone, so a merge that was stopped goes on where it was, and one that is repeated
adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcmark.archive import known as knowledge
from dcmark.archive import volumes
from dcmark.archive.assemble import read_parts
from dcmark.archive.codec import Encoded, checksum
from dcmark.archive.events import append_events, append_planes, read_planes
from dcmark.archive.schema import EVENTS, FILES, PATHS, canonical_json, row_check
from dcmark.archive.store import Archive, Batch
from dcmark.errors import DamageError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress

PARTS_AT_ONCE = 64
_OWN = ("batch", "first_row", "parts", "check")
_CHAIN = ("seq", "of", "previous", "hash", "batch", "first_row")
"""Columns of an event that say where it stands in its log, not what it says."""

Row = dict[str, Any]


@dataclass(slots=True)
class MergeReport:
    """What a merge added.

    Attributes:
        files, bytes: contents that were new, and their size as received.
        repeated: contents that were there already.
        paths: places that were new.
        events: of annotations that were new.
        damaged: files left out because the other archive is damaged there; each has a finding.
        findings: why.
    """

    files: int = 0
    bytes: int = 0
    repeated: int = 0
    paths: int = 0
    events: int = 0
    damaged: int = 0
    findings: list[Finding] = field(default_factory=list)


def merge(target: Archive, other: Archive, *, progress: Progress | None = None) -> MergeReport:
    """Add everything that another archive holds: files, the places they were seen at, annotations with their history.

    Args:
        target: is added to.
        other: is only read.
        progress: is told of each file.

    Raises:
        UsageError: both are the same, or one holds files as received and the other de-identified ones.
        StorageError: the storage refused. What was committed is safe; the same call goes on.
        DamageError: a table cannot be read at all.
    """
    if target.path.resolve() == other.path.resolve() or target.info.id == other.info.id:
        raise UsageError("expected two archives, found one twice (or a copy of it)")
    for one in (target, other):
        one.refresh()
    _agree(target, other)
    progress = progress or NoProgress()
    report = MergeReport()
    progress.start("merge", other.count("files"))
    try:
        left_out = _files(target, other, report, progress)
        _paths(target, other, left_out, report)
        report.events = _events(target, other)
        volumes.update(target)
    finally:
        progress.finish()
    return report


def _agree(target: Archive, other: Archive) -> None:
    if target.info.hashes_cover == other.info.hashes_cover:
        return
    if not target.count("files"):
        target.cover(other.info.hashes_cover)
        return
    raise UsageError(
        f"expected archives of one kind, found files {target.info.hashes_cover} in {target.path} and "
        f"{other.info.hashes_cover} in {other.path}; keep them apart"
    )


def _sound(row: Mapping[str, Any]) -> bool:
    written = {k: v for k, v in row.items() if v != [] or k in ("segments", "findings")}
    return bool(row_check(written) == row["check"])


def _files(target: Archive, other: Archive, report: MergeReport, progress: Progress) -> set[bytes]:
    """Copy files; the contents that could not be."""
    there = knowledge.contents(target)
    left_out: set[bytes] = set()
    batch = target.batch()
    for rows in other.scan("files", 256):
        for row in rows:
            if row["sha256"] in there:
                report.repeated += 1
            else:
                try:
                    if not _sound(row):
                        raise DamageError("a row of 'files' is not what was stored (checksum)")
                    _copy(batch, other, row)
                    there.add(row["sha256"])
                    report.files += 1
                    report.bytes += row["size"]
                except DamageError as error:
                    left_out.add(row["sha256"])
                    report.damaged += 1
                    name = row["sha256"].hex()
                    report.findings.append(Finding("error", "damage", str(error), "left out", name))
            progress.advance(1, row["size"])
            if batch.full:
                batch.commit()
                batch = target.batch()
    batch.commit()
    return left_out


def _copy(batch: Batch, other: Archive, row: Row) -> None:
    """Append the parts of a file, each with the CRC it was stored with, and its row."""
    positions = other.positions(row["batch"], row["first_row"], row["parts"]).tolist()
    # All of them are looked at before the first is added, for a batch cannot take a part back.
    for parts in _parts(other, positions):
        for part in parts:
            if checksum(part.payload) != part.crc:
                raise DamageError(f"part {part.number} of a file is not what was stored (checksum)")
    for parts in _parts(other, positions):
        for part in parts:
            batch.add_part(part.number, Encoded(part.codec, part.payload, part.lowest, part.highest), part.length)
    kept = {
        n: v
        for n, v in row.items()
        if n not in _OWN and n in FILES.names and (v != [] or n in ("segments", "findings"))
    }
    batch.add_file({name: value for name, value in kept.items() if value is not None})


def _parts(other: Archive, positions: Sequence[int]) -> Iterator[list[Any]]:
    for start in range(0, len(positions), PARTS_AT_ONCE):
        yield read_parts(other, positions[start : start + PARTS_AT_ONCE])


def _paths(target: Archive, other: Archive, left_out: set[bytes], report: MergeReport) -> None:
    there = {_place(row) for rows in target.scan("paths", 4096) for row in rows}
    batch = target.batch()
    for rows in other.scan("paths", 512):
        for row in rows:
            if not _sound(row):
                report.findings.append(
                    Finding("error", "damage", "a row of 'paths' is not what was stored (checksum)", "left out")
                )
                report.damaged += 1
                continue
            key = _place(row)
            if key in there or row["sha256"] in left_out:
                continue
            there.add(key)
            batch.add_path({name: row[name] for name in PATHS.names if name != "check" and name in row})
            report.paths += 1
            if batch.full:
                batch.commit()
                batch = target.batch()
    batch.commit()


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    codes = tuple(finding["code"] for finding in row["findings"])
    return row["root"], row["path"], row["path_bytes"], row["sha256"], row["size"], row["mtime_ns"], codes


# Annotations ----------------------------------------------------------------------------------------------------------


def _events(target: Archive, other: Archive) -> int:
    """Append the events of the other log behind those of the target, in their order; one commit, or none."""
    if other.table("annotations") is None or not other.count("annotations"):
        return 0
    theirs = sorted(other.read("annotations").to_pylist(), key=lambda row: int(row["seq"]))
    ours = {_says(row) for row in target.read("annotations").to_pylist()}
    masks = {
        (row["batch"], row["first_row"], row["planes"])
        for row in theirs
        if row["planes"] and row["batch"] is not None and _says(row) not in ours
    }
    batches = {key: append_planes(target, _own(read_planes(other, *key))) for key in sorted(masks)}
    added = append_events(target, lambda last: _rebased(target, theirs, batches, last))
    return len(added)


def _own(planes: Sequence[Row]) -> list[Row]:
    return [{name: value for name, value in plane.items() if name not in ("batch", "row")} for plane in planes]


def _rebased(target: Archive, theirs: Sequence[Row], batches: Mapping[Any, int], last: int) -> list[Row]:
    """Events that the target does not have, numbered on from its last one."""
    there = {_says(row): int(row["seq"]) for row in target.read("annotations").to_pylist()}
    seq: dict[int, int] = {}
    rows: list[Row] = []
    for row in theirs:
        says = _says(row)
        if says in there:
            seq[row["seq"]] = there[says]
            continue
        seq[row["seq"]] = there[says] = last + 1 + len(rows)
        new = {name: row[name] for name in EVENTS.names if name not in _CHAIN and row.get(name) is not None}
        if row["of"] is not None:
            new["of"] = seq.get(row["of"], row["of"])
        key = (row["batch"], row["first_row"], row["planes"])
        if row["planes"] and row["batch"] is not None:
            new["batch"], new["first_row"] = batches[key], 0
        rows.append(new)
    return rows


def _says(row: Mapping[str, Any]) -> str:
    """What an event says, wherever it stands in a log."""
    return canonical_json({k: v for k, v in row.items() if k not in _CHAIN and v is not None})
