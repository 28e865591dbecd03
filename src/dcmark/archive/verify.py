"""Is the archive whole? Three depths: its tables, a sample of its bytes, or all of them."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dcmark.archive.assemble import WINDOW_BYTES, file_pieces, frame_part, header_bytes, read_parts
from dcmark.archive.events import check_events
from dcmark.archive.restore import SMALL_FILE, assemble_small
from dcmark.archive.schema import row_check
from dcmark.archive.spread import Pinned, pin, rows_at, runs
from dcmark.archive.store import Archive
from dcmark.engine import current
from dcmark.errors import DamageError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress


@dataclass(slots=True)
class VerifyReport:
    """What a verification saw.

    Attributes:
        files: whose rows were checked.
        files_read: whose bytes were put together again and hashed.
        bytes_read: in those files.
        orphans: parts that no file points to, left by interrupted runs; harmless (``dcmark gc`` sweeps them).
        findings: what is wrong; empty when the archive is whole.
    """

    files: int = 0
    files_read: int = 0
    bytes_read: int = 0
    orphans: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Nothing is damaged."""
        return not any(f.level == "error" for f in self.findings)

    def raise_for_damage(self) -> None:
        """Raise DamageError naming the first damage, if there is any."""
        for finding in self.findings:
            if finding.level == "error":
                raise DamageError(f"{len(self.findings)} findings; the first: {finding.message}")


def verify(
    archive: Archive,
    *,
    read_data: str = "all",
    threads: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check an archive; see docs/format.md for what each depth proves.

    Args:
        archive: which.
        read_data: ``none`` checks tables, row checksums and that every part is there; ``N%`` also puts
            a random N percent of the files together and hashes them; ``all`` every file.
        threads: for decoding; None: one a processor.
        seed: of the sample, to repeat it.
        progress: is told of each file.

    Raises:
        UsageError: ``read_data`` is none of these.
    """
    share = _share(read_data)
    progress = progress or NoProgress()
    archive.refresh()
    report = VerifyReport()
    # Not for secrecy: an unpredictable sample finds what a fixed one never would.
    chance = random.Random(seed)  # noqa: S311
    try:
        # Opened in this order, for a run that goes on meanwhile commits frames, then files, then paths.
        _, files, frames = [archive.count(name) for name in ("paths", "files", "frames")]
    except DamageError as error:
        report.findings.append(Finding("error", "damage", str(error)))
        return report
    progress.start("verify", files)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="dcmark-verify") as executor:
        try:
            missing = _seen_contents(archive, report)
            used = 0
            engine = current()
            if engine is None:
                for rows in _checked_rows(archive, "files", report):
                    used += _look(archive, rows, chance, share, executor, report)
                    missing.difference_update(row["sha256"] for row in rows)
                    progress.advance(len(rows), sum(row["size"] for row in rows))
            else:
                drawn = chance.getrandbits(64)
                pinned = pin(archive, "files", "frames")
                sizes = archive.read("files", ["size"])["size"].to_pylist()
                units = (_Unit(pinned, start, end, share, drawn) for start, end in runs(sizes))
                for found, seen, parts in engine.map(_verify_unit, units):
                    _add(report, found)
                    used += parts
                    missing.difference_update(seen)
                    progress.advance(found.files, sum(sizes[report.files - found.files : report.files]))
            report.orphans = frames - used
            for sha256 in sorted(missing):
                message = "'paths' names a content that 'files' does not hold; its row is lost"
                report.findings.append(Finding("error", "missing-file", message, path=sha256.hex()))
            report.findings += check_events(archive)
        except DamageError as error:
            report.findings.append(Finding("error", "damage", str(error)))
        finally:
            progress.finish()
    return report


def _look(
    archive: Archive,
    rows: list[dict[str, Any]],
    chance: random.Random,
    share: float,
    executor: Any,
    report: VerifyReport,
) -> int:
    """Check files whose rows are sound; the number of their parts."""
    report.files += len(rows)
    used = sum(_check_parts(archive, row, report) for row in rows)
    for group in _groups([row for row in rows if chance.random() < share]):
        _read_group(archive, group, executor, report)
    return used


@dataclass(frozen=True)
class _Unit:
    """Files for one worker: positions in ``files``, the share of them that is read, and the seed of the draw."""

    pinned: Pinned
    start: int
    end: int
    share: float
    seed: int


def _verify_unit(unit: _Unit) -> tuple[VerifyReport, list[bytes], int]:
    """In a worker: the report on some files, their contents, and the number of their parts."""
    archive, report = unit.pinned.opened(), VerifyReport()
    chance = random.Random(f"{unit.seed} {unit.start}")  # noqa: S311  as in verify
    seen, used = list[bytes](), 0
    with ThreadPoolExecutor(1, thread_name_prefix="dcmark-verify") as executor:
        try:
            for start in range(unit.start, unit.end, 512):
                read = rows_at(archive, range(start, min(unit.end, start + 512)))
                sound = _sound("files", read, report)
                used += _look(archive, sound, chance, unit.share, executor, report)
                seen += [row["sha256"] for row in sound]
        except DamageError as error:
            report.findings.append(Finding("error", "damage", str(error)))
    return report, seen, used


def _add(report: VerifyReport, found: VerifyReport) -> None:
    report.files += found.files
    report.files_read += found.files_read
    report.bytes_read += found.bytes_read
    report.findings += found.findings


def _share(read_data: str) -> float:
    if read_data in ("all", "none"):
        return 1.0 if read_data == "all" else 0.0
    try:
        percent = float(read_data.removesuffix("%")) if read_data.endswith("%") else -1.0
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise UsageError(f"expected all, none or a percentage such as 5% for read-data, found {read_data!r}")
    return percent / 100


def _checked_rows(archive: Archive, name: str, report: VerifyReport) -> Iterator[list[dict[str, Any]]]:
    """Rows of a table in groups, each compared with its own checksum; those that are not as written are left out."""
    for rows in archive.scan(name, 512):
        yield _sound(name, rows, report)


def _sound(name: str, rows: list[dict[str, Any]], report: VerifyReport) -> list[dict[str, Any]]:
    """The rows that are as they were written; a finding for each of the others."""
    sound = [row for row in rows if row_check(_as_written(row)) == row["check"]]
    for _ in range(len(rows) - len(sound)):
        message = f"a row of '{name}' is not what was stored (checksum)"
        report.findings.append(Finding("error", "row-damage", message))
    return sound


def _seen_contents(archive: Archive, report: VerifyReport) -> set[bytes]:
    """What the rows of ``paths`` say is in the archive."""
    seen: set[bytes] = set()
    for rows in _checked_rows(archive, "paths", report):
        seen.update(row["sha256"] for row in rows if row["sha256"] is not None)
    return seen


def _as_written(row: dict[str, Any]) -> dict[str, Any]:
    """Columns that hold an empty list where nothing was written count as absent."""
    always = ("segments", "findings")
    return {k: v for k, v in row.items() if v != [] or k in always}


def _check_parts(archive: Archive, row: dict[str, Any], report: VerifyReport) -> int:
    """The number of the parts of a file, all of which must be there."""
    try:
        return len(archive.positions(row["batch"], row["first_row"], row["parts"]))
    except DamageError as error:
        report.findings.append(Finding("error", "missing-parts", str(error), path=row["sha256"].hex()))
        return 0


def _groups(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if row["size"] > SMALL_FILE:
            yield [row]
            continue
        group.append(row)
        size += row["size"]
        if size >= WINDOW_BYTES or len(group) >= 1024:
            yield group
            group, size = [], 0
    if group:
        yield group


def _read_group(archive: Archive, group: list[dict[str, Any]], executor: Any, report: VerifyReport) -> None:
    def check(row: dict[str, Any]) -> DamageError | None:
        try:
            _check_file(archive, row, executor if len(group) == 1 else None)
        except DamageError as error:
            return error
        return None

    checked = map(check, group) if len(group) == 1 else executor.map(check, group)
    for row, error in zip(group, checked, strict=True):
        report.files_read += 1
        report.bytes_read += row["size"]
        if error is not None:
            report.findings.append(Finding("error", "damage", str(error), path=row["sha256"].hex()))


def _check_file(archive: Archive, row: dict[str, Any], executor: Any | None) -> None:
    """Put a file together and hash it; look at frames that are no part of its bytes too."""
    digest = hashlib.sha256()
    if executor is not None:
        for piece in file_pieces(archive, row, executor):
            digest.update(piece)
    else:
        positions = archive.positions(row["batch"], row["first_row"], row["parts"])
        for piece in assemble_small(archive, row, read_parts(archive, [int(p) for p in positions])):
            digest.update(piece)
    if digest.digest() != row["sha256"]:
        raise DamageError("a file's stored bytes do not give its SHA-256")
    if row["header"] is not None:
        header_bytes(archive, row)
    if row["frames"] and not any(s["part"] >= 0 for s in row["segments"]):
        for number in range(row["frames"]):
            frame_part(archive, row, number).unpack()
