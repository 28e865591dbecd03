"""From an archive back to files: byte-exact, hash-checked, never outside OUT."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcmark.archive.assemble import (
    ASSEMBLY_COLUMNS,
    WINDOW_BYTES,
    Part,
    file_pieces,
    header_bytes,
    read_parts,
)
from dcmark.archive.faults import storage_error
from dcmark.archive.query import matching_files
from dcmark.archive.spread import Pinned, pin, rows_at, runs
from dcmark.archive.store import Archive
from dcmark.engine import Engine, current
from dcmark.errors import DamageError, DcmarkError, OutputExistsError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress

SMALL_FILE = 8 << 20
"""Files up to this many bytes are read, decoded and written many at a time."""
_LONGEST_NAME = 255
_WINDOWS_NAMES = frozenset(["con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))])


@dataclass(slots=True)
class RestoreReport:
    """What a restore wrote.

    Attributes:
        files: written, each with the SHA-256 it came in with.
        bytes: in them.
        findings: files that could not be restored, and names that had to be changed.
        damaged: number of files whose stored bytes are damaged; they were not written.
    """

    files: int = 0
    bytes: int = 0
    damaged: int = 0
    findings: list[Finding] = field(default_factory=list)


def restore(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    where: str | None = None,
    hashes: Iterable[bytes] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Write files back under their original relative paths and times.

    With one source its paths stand directly under ``out``; with several, each under its label.
    A file is written beside its place and moved there only when its hash is right.

    Args:
        archive: where from.
        out: an empty or absent folder, unless ``overwrite``.
        where: SQL condition over the view ``files``; None: all.
        hashes: restore only files of these SHA-256 (after ``where``).
        overwrite: replace files that are in the way.
        threads: for decoding; None: one a processor.
        progress: is told of each file.

    Raises:
        QueryError: ``where`` is refused.
        OutputExistsError: ``out`` has something in it and ``overwrite`` is not set.
        StorageError: ``out`` cannot be written.
    """
    progress = progress or NoProgress()
    chosen = matching_files(archive, where)
    if hashes is not None:
        chosen &= set(hashes)
    place = _prepare(Path(out), overwrite)
    names = _names(archive, chosen)
    report = RestoreReport()
    progress.start("restore", len(chosen))
    engine = current()
    if engine is not None:
        try:
            _spread(archive, place, names, overwrite, engine, report, progress)
        finally:
            progress.finish()
        return report
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="dcmark-restore") as executor:
        try:
            run = _Run(archive, place, names, overwrite, executor, report, progress)
            for rows in _groups(archive, chosen):
                run.write(rows)
        finally:
            progress.finish()
    return report


@dataclass(frozen=True)
class _Unit:
    """Files for one worker: positions in ``files``, and the paths of each content."""

    pinned: Pinned
    out: Path
    names: dict[bytes, list[tuple[str, int | None]]]
    positions: list[int]
    overwrite: bool
    token: str


def _spread(
    archive: Archive,
    out: Path,
    names: dict[bytes, list[tuple[str, int | None]]],
    overwrite: bool,
    engine: Engine,
    report: RestoreReport,
    progress: Progress,
) -> None:
    """Restore on the workers of an engine; what one that died left half is removed."""
    token = secrets.token_hex(8)
    columns = archive.read("files", ["sha256", "size"])
    digests, sizes = columns["sha256"].to_pylist(), columns["size"].to_pylist()
    first: dict[bytes, int] = {}
    for at, digest in enumerate(digests):
        if digest in names:
            first.setdefault(digest, at)
    places = sorted(first.values())
    pinned = pin(archive, "files", "frames")

    def units() -> Iterator[_Unit]:
        for start, end in runs([sizes[at] for at in places]):
            some = places[start:end]
            yield _Unit(pinned, out, {digests[at]: names[digests[at]] for at in some}, some, overwrite, token)

    for found, count, nbytes in engine.map(_restore_unit, units()):
        report.files += found.files
        report.bytes += found.bytes
        report.damaged += found.damaged
        report.findings += found.findings
        progress.advance(count, nbytes)
    if engine.lost:
        for draft in out.rglob(f".dcmark-{token}-*"):
            draft.unlink(missing_ok=True)


def _restore_unit(unit: _Unit) -> tuple[RestoreReport, int, int]:
    """In a worker: restore some files; the report, their number and bytes."""
    archive, report = unit.pinned.opened(), RestoreReport()
    rows = rows_at(archive, unit.positions, ASSEMBLY_COLUMNS)
    with ThreadPoolExecutor(1, thread_name_prefix="dcmark-restore") as executor:
        run = _Run(archive, unit.out, unit.names, unit.overwrite, executor, report, NoProgress())
        run.token = f"{unit.token}-{secrets.token_hex(4)}"
        group: list[dict[str, Any]] = []
        for row in rows:
            if row["size"] > SMALL_FILE:
                run.write([row])
                continue
            group.append(row)
            if sum(one["size"] for one in group) >= WINDOW_BYTES or len(group) >= 256:
                run.write(group)
                group = []
        if group:
            run.write(group)
    return report, len(rows), sum(row["size"] for row in rows)


def _prepare(out: Path, overwrite: bool) -> Path:
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"expected a folder to write to at {out}, found a file; choose another name")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputExistsError(
            f"expected an empty folder at {out}, found files in it; choose another or use --overwrite"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, out) from error
    return out.resolve()


def _names(archive: Archive, chosen: set[bytes]) -> dict[bytes, list[tuple[str, int | None]]]:
    """For each file the relative paths to write, with modification times in ns."""
    columns = ["root", "source", "path", "path_bytes", "mtime_ns", "sha256", "seen_ns"]
    # By the time they were seen, for several writers may have added them in any order.
    rows = archive.read("paths", columns, "sha256 IS NOT NULL").sort_by("seen_ns")
    labels: dict[bytes, str] = {}
    for root, source, sha256 in zip(*(rows[n].to_pylist() for n in ("root", "source", "sha256")), strict=True):
        if sha256 in chosen:
            labels.setdefault(root, source)
    folders = _folders(labels)
    latest: dict[tuple[bytes, str], tuple[bytes, int | None]] = {}
    for row in rows.to_pylist():
        raw = row["path_bytes"]
        path = os.fsdecode(raw) if raw is not None and sys.platform != "win32" else row["path"]
        # The same place seen again with other content: the last one stands, the earlier is restored by its hash.
        key = (row["root"], path)
        latest[key] = (row["sha256"], row["mtime_ns"])
    names: dict[bytes, list[tuple[str, int | None]]] = {}
    for (root, path), (sha256, mtime_ns) in latest.items():
        if sha256 in chosen:
            names.setdefault(sha256, []).append((folders[root] + path, mtime_ns))
    for sha256 in chosen - names.keys():
        names[sha256] = [(f"without-a-path/{sha256.hex()}", None)]
    return names


def _folders(labels: dict[bytes, str]) -> dict[bytes, str]:
    if len(labels) <= 1:
        return dict.fromkeys(labels, "")
    folders: dict[bytes, str] = {}
    taken: set[str] = set()
    for root, label in labels.items():
        name, n = label or "source", 1
        while name in taken:
            n += 1
            name = f"{label}-{n}"
        taken.add(name)
        folders[root] = name + "/"
    return folders


def _groups(archive: Archive, chosen: set[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Rows of the chosen files in storage order; small files many at a time, large ones alone."""
    done: set[bytes] = set()
    group: list[dict[str, Any]] = []
    size = 0
    for rows in archive.scan("files", 1024, ASSEMBLY_COLUMNS):
        for row in rows:
            if row["sha256"] not in chosen or row["sha256"] in done:
                continue
            done.add(row["sha256"])
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


class _Run:
    """Writes groups of files."""

    def __init__(
        self,
        archive: Archive,
        out: Path,
        names: Mapping[bytes, list[tuple[str, int | None]]],
        overwrite: bool,
        executor: Executor,
        report: RestoreReport,
        progress: Progress,
    ) -> None:
        self.archive, self.out, self.names, self.overwrite = archive, out, names, overwrite
        self.executor, self.report, self.progress = executor, report, progress
        self.folders: dict[str, Path] = {}
        self.token, self.drafts = secrets.token_hex(8), itertools.count()

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write one group: a large file streamed, or small files on all threads."""
        if len(rows) == 1 and rows[0]["size"] > SMALL_FILE:
            self._large(rows[0])
            return
        try:
            jobs = self._jobs(rows)
        except DamageError:
            # One bad part spoils a joint read: read the files one by one, so that the others survive.
            for row in rows:
                try:
                    self._finish(row, *self._small(*self._jobs([row])[0]))
                except DamageError as error:
                    self._finish(row, None, error)
            return
        done = self.executor.map(lambda job: self._small(*job), jobs)
        for row, (written, damage) in zip(rows, done, strict=True):
            self._finish(row, written, damage)

    def _jobs(self, rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[Part]]]:
        positions = [self.archive.positions(row["batch"], row["first_row"], row["parts"]) for row in rows]
        parts = read_parts(self.archive, [int(p) for run in positions for p in run])
        jobs, start = [], 0
        for row, run in zip(rows, positions, strict=True):
            jobs.append((row, parts[start : start + len(run)]))
            start += len(run)
        return jobs

    def _small(self, row: dict[str, Any], parts: list[Part]) -> tuple[int | None, DcmarkError | None]:
        """Put one file together in memory and write it; its size, or what is wrong."""
        try:
            pieces = assemble_small(self.archive, row, parts)
            digest = hashlib.sha256()
            for piece in pieces:
                digest.update(piece)
            if digest.digest() != row["sha256"]:
                return None, DamageError("a file's stored bytes do not give its SHA-256; the archive is damaged there")
            for path, mtime_ns in self.names[row["sha256"]]:
                self._place(path, pieces, mtime_ns)
        except DamageError as error:
            return None, error
        return row["size"], None

    def _large(self, row: dict[str, Any]) -> None:
        (path, mtime_ns), *others = self.names[row["sha256"]]
        target = self._target(path)
        draft = self._draft(target)
        digest = hashlib.sha256()
        try:
            with draft.open("wb") as stream:
                for piece in file_pieces(self.archive, row, self.executor):
                    digest.update(piece)
                    stream.write(piece)
            if digest.digest() != row["sha256"]:
                raise DamageError("a file's stored bytes do not give its SHA-256; the archive is damaged there")
            self._move(draft, target, mtime_ns)
            for other, other_time in others:
                place = self._target(other)
                again = self._draft(place)
                _copy(target, again)
                self._move(again, place, other_time)
            self._finish(row, row["size"], None)
        except DamageError as error:
            self._finish(row, None, error)
        except OSError as error:
            raise storage_error(error, self.out) from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _finish(self, row: dict[str, Any], size: int | None, error: DcmarkError | None) -> None:
        written = len(self.names[row["sha256"]])
        if error is not None or size is None:
            self.report.damaged += 1
            path = self.names[row["sha256"]][0][0]
            self.report.findings.append(Finding("error", "damage", str(error), "not written", path))
        else:
            self.report.files += written
            self.report.bytes += size * written
        self.progress.advance(1, row["size"])

    def _place(self, path: str, pieces: list[Any], mtime_ns: int | None) -> None:
        target = self._target(path)
        draft = self._draft(target)
        try:
            # Buffered: a raw write may stop halfway on a disk that fills up, and say so only in its result.
            with draft.open("wb") as stream:
                for piece in pieces:
                    stream.write(piece)
            self._move(draft, target, mtime_ns)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise storage_error(error, self.out) from error

    def _move(self, draft: Path, target: Path, mtime_ns: int | None) -> None:
        if mtime_ns is not None:
            with suppress(OSError, OverflowError):  # a time the file system cannot hold
                os.utime(draft, ns=(mtime_ns, mtime_ns))
        try:
            draft.replace(target)
        except OSError as error:
            if not target.is_dir():
                raise
            draft.unlink()
            raise OutputExistsError(f"expected to write a file at {target}, found a folder there") from error

    def _draft(self, target: Path) -> Path:
        """A name beside the target that nothing else uses."""
        return target.with_name(f".dcmark-{self.token}-{next(self.drafts)}")

    def _target(self, path: str) -> Path:
        """Where a stored path goes: under ``out`` whatever the path says, and no link leads away."""
        folder, _, name = path.rpartition("/")
        place = self.folders.get(folder)
        if place is None:
            place = self.folders[folder] = self._folder(folder)
        return place / (safe_name(name) if name not in ("", ".", "..") else "unnamed")

    def _folder(self, folder: str) -> Path:
        place = self.out.joinpath(*(safe_name(part) for part in folder.split("/") if part not in ("", ".", "..")))
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self.out) from error
        if not place.resolve().is_relative_to(self.out):
            raise OutputExistsError(f"a link under {self.out} leads out of it; remove it or choose another folder")
        return place


def safe_name(name: str) -> str:
    """A file name that this system can hold; unchanged wherever possible."""
    name = name.replace("\0", "_")
    if sys.platform == "win32":
        name = "".join("_" if c in '<>:"|?*\\' or ord(c) < 32 else c for c in name).rstrip(" .") or "_"
        if name.partition(".")[0].lower() in _WINDOWS_NAMES:
            name = "_" + name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = (
            os.fsdecode(os.fsencode(name)[: _LONGEST_NAME - 9])
            + "-"
            + hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        )
    return name


def assemble_small(archive: Archive, row: Mapping[str, Any], parts: list[Part]) -> list[Any]:
    """The bytes of a small file as pieces, from its parts as read.

    Raises:
        DamageError: they are not what was stored.
    """
    bulk = row["parts"] - row["frames"]
    if row["header"] is not None:
        header = memoryview(header_bytes(archive, row))
    else:
        header = memoryview(b"".join(bytes(part.unpack()) for part in parts[:bulk]))
    pieces: list[Any] = []
    head, current = 0, -1
    frame = memoryview(b"")
    for segment in row["segments"]:
        length = segment["length"]
        if segment["part"] < 0:
            piece = header[head : head + length]
            head += length
        else:
            if segment["part"] != current:
                current = segment["part"]
                if not 0 <= bulk + current < len(parts):
                    raise DamageError(f"frame {current} of a file is missing; the archive is damaged there")
                frame = memoryview(parts[bulk + current].unpack())
            piece, frame = frame[:length], frame[length:]
        if len(piece) != length:
            raise DamageError("a file's stored parts do not cover its segments; the archive is damaged there")
        pieces.append(piece)
    return pieces


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copyfile(source, target)
