"""From sources into an archive: read, take apart, pack, prove, commit."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dcmark.archive import codec as codecs
from dcmark.archive import known as knowledge
from dcmark.archive import volumes
from dcmark.archive.known import Digests
from dcmark.archive.schema import BULK_CHUNK, LARGEST_HEADER
from dcmark.archive.store import Archive, Batch, open_archive
from dcmark.config import LIMITS, MIB, Limits
from dcmark.deid.apply import Deidentifier
from dcmark.deid.source import DeidentifiedSource
from dcmark.errors import ArchiveError, DcmarkError, SourceError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.read import formats, layouts
from dcmark.read.base import Instance, Item, Source
from dcmark.read.containers import Buffer, load, open_source
from dcmark.read.dicom import DicomReader

DEIDENTIFIED = "de-identified"
LARGE_FILE = 64 * MIB
"""A file above this, bytes, is packed frame by frame across all threads instead of by one thread."""
WINDOW_BYTES = 192 * MIB
"""Source bytes in flight between reading and committing."""
MOST_FINDINGS = 1000
MOST_BESIDE = 16384
"""Files without slices kept back to be named by the folders of those with: bounds the memory of an ingest."""


@dataclass(slots=True)
class IngestReport:
    """What an ingest did.

    Attributes:
        files: new files stored.
        frames: frames in them.
        bytes: their bytes.
        duplicates: paths whose content was there already, in the archive or earlier in this run.
        unchanged: paths known from an earlier run and skipped without reading.
        refused: paths that could not be stored (unreadable, vanished, a name that climbs out).
        opaque: new files that were kept whole because they could not be taken apart.
        errors, warnings: number of findings of that level.
        codes: number of findings by code.
        findings: the first 1,000 findings that are no mere information.
    """

    files: int = 0
    frames: int = 0
    bytes: int = 0
    duplicates: int = 0
    unchanged: int = 0
    refused: int = 0
    opaque: int = 0
    errors: int = 0
    warnings: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def needs_a_look(self) -> bool:
        """Were there opaque or refused files, or findings of level error?"""
        return bool(self.opaque or self.refused or self.errors)

    def raise_for_errors(self) -> None:
        """Raise SourceError when something needs a look; the archive holds all that could be stored."""
        if self.needs_a_look:
            raise SourceError(
                f"expected every file to be read and understood; found {self.refused} refused, {self.opaque} kept "
                f"whole and {self.errors} error findings; see: dcmark findings ARCHIVE"
            )

    def note(self, finding: Finding) -> None:
        """Count a finding."""
        self.codes[finding.code] += 1
        self.errors += finding.level == "error"
        self.warnings += finding.level == "warning"
        if finding.level != "info" and len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)


_SLICES = DicomReader()
_Part = tuple[int, codecs.Encoded, int]
"""Number, packed bytes, length when unpacked."""


@dataclass(slots=True)
class _Packed:
    """A file ready to be stored. Of a large one the parts are not packed yet and ``buffer`` is still open."""

    item: Item
    sha256: bytes
    size: int
    row: dict[str, Any] | None = None
    parts: Sequence[_Part] = ()
    instance: Instance | None = None
    buffer: Buffer | None = None
    bulk: bytes = b""
    slices: bool = False


class _Seen(NamedTuple):
    """A path, with when it was seen, and the content there or why there is none."""

    item: Item
    time_ns: int
    sha256: bytes | None = None
    size: int | None = None
    findings: tuple[Finding, ...] = ()


def ingest(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Source],
    archive: Archive,
    *,
    threads: int | None = None,
    layout: str | None = None,
    containers: Literal["open", "keep"] = "open",
    rehash: bool = False,
    deidentifier: Deidentifier | None = None,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
    describe: bool = True,
) -> IngestReport:
    """Store every file of the sources; what is there already is stored once.

    Every byte is proved before it is committed: each part is unpacked again and compared with the
    source bytes, and the segments cover the file. May be stopped at any moment and repeated.

    Args:
        sources: folders, files, zip, tar, 7z; or sources that are open, such as shards of an inventory.
        archive: where to.
        threads: for packing; None: one a processor.
        layout: pattern of folder names such as ``{dataset}/{patient}/{image}/*``; None: found out.
        containers: ``open`` stores the members of containers, ``keep`` the containers as they are.
        rehash: read files again that are known and unchanged by size and time.
        deidentifier: makes every file clean before it is stored; what cannot be made clean is refused. The archive
            must be empty, or hold de-identified files only.
        progress: is told of each file.
        limits: what hostile input may cost.
        describe: find the volumes at the end; else whoever asks for them first does.

    Raises:
        SourceError: a source is not there or cannot be read at all.
        UsageError: a source lies in the archive, or ``layout`` is no pattern.
        StorageError: the archive's storage refused. Everything committed before is safe.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    opened: list[Source] = [
        open_source(source, containers=containers, limits=limits) if isinstance(source, str | os.PathLike) else source
        for source in sources
    ]
    agree(archive, deidentifier)
    if deidentifier is not None:
        opened = [DeidentifiedSource(source, deidentifier, layout, limits) for source in opened]
    run = _Run(archive, threads or os.cpu_count() or 1, rehash, progress or NoProgress(), limits)
    run.progress.start("ingest", None)
    try:
        for source in opened:
            run.source(source, layout)
        run.close()
        if describe:
            volumes.update(archive)
    finally:
        run.progress.finish()
        run.executor.shutdown(cancel_futures=True)
    return run.report


def agree(archive: Archive, deidentifier: Deidentifier | None) -> None:
    """An archive holds files as received or de-identified ones, never both: its hashes say which they cover."""
    meant = "received" if deidentifier is None else DEIDENTIFIED
    if archive.info.hashes_cover == meant:
        return
    archive.info = open_archive(archive.path).info  # another writer may have been first
    if archive.info.hashes_cover == meant:
        return
    if deidentifier is not None and not archive.read("files", ["size"]).num_rows:
        archive.cover(DEIDENTIFIED)
        return
    raise UsageError(
        f"expected files {'that are de-identified on the way in' if deidentifier is None else 'as received'}, for the "
        f"archive {archive.path} holds such; use {'--deidentify' if deidentifier is None else 'another archive'}"
    )


class _Run:
    """One run of ``ingest``: keeps files in order between threads that pack and the batch."""

    def __init__(self, archive: Archive, threads: int, rehash: bool, progress: Progress, limits: Limits) -> None:
        archive.refresh()
        self.archive, self.rehash, self.progress, self.limits = archive, rehash, progress, limits
        self.threads = threads
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="dcmark-pack")
        self.known: Digests = knowledge.contents(archive)
        self.report = IngestReport()
        self.batch: Batch = archive.batch()
        self.waiting: deque[tuple[int, Future[_Packed | Finding]]] = deque()
        self.in_flight = 0
        self.layout = layouts.Layout("none")
        self.slices: set[layouts.Place] = set()
        self.beside: list[_Seen] = []
        self.root = b""
        self.label = ""
        self.refused: set[tuple[str, str]] = set()

    def source(self, source: Any, layout: str | None) -> None:
        """Store one source."""
        root = getattr(source, "root", "") or source.label
        self.root = hashlib.sha256(os.fsencode(root)).digest()[:16]
        self.label = source.label
        seen = Digests(b"", 16) if self.rehash else knowledge.places(self.archive, self.root, self.known)
        self.refused = knowledge.refusals(self.archive, self.root)
        record = knowledge.layout(self.archive, self.root) or getattr(source, "record", None)
        self.layout = layouts.Layout(layout or getattr(source, "pattern", None), source, record)
        self.slices = knowledge.named(self.archive, self.root)
        self.slices.update(layouts.Place(dataset) for dataset in getattr(source, "datasets", ()))
        if self.layout.finding is not None:
            self._refuse(self.layout.finding)
        own, skipped = _inside(self.archive.path, root), False
        for found in source.items():
            if own and found.path.startswith(own):
                skipped = True
            elif isinstance(found, Finding):
                self._refuse(found)
            elif _seen(found, seen):
                self.report.unchanged += 1
                self.progress.advance(1, found.size or 0)
            else:
                self._submit(found)
        if skipped:
            self._refuse(Finding("info", "archive-itself", "the archive that is written to", "left out", own[:-1]))
        self._drain(0)
        self._name_the_rest()

    def close(self) -> None:
        """Store what is still gathered."""
        self._drain(0)
        self.batch.commit()

    # -- the pipeline -----------------------------------------------------------------------------

    def _submit(self, item: Item) -> None:
        size = item.size or 0
        if item.sequential:
            # A member of a stream must be read before the next one: here, in order.
            buffer = _load(item, self.limits)
            if isinstance(buffer, Finding):
                self._refuse(buffer)
                return
            size = len(buffer.data)
            job: Future[_Packed | Finding] = self.executor.submit(_pack_loaded, item, buffer, self.known, self.limits)
        else:
            job = self.executor.submit(_load_and_pack, item, self.known, self.limits)
        self.waiting.append((size, job))
        self.in_flight += size
        self._drain(WINDOW_BYTES)

    def _drain(self, allowed: int) -> None:
        """Once too much is in flight, store finished files in order until half of ``allowed`` source bytes are.

        Half, for threads that hand over file by file spend their time on waking each other.
        """
        most = 8 * self.threads if allowed else 0
        if len(self.waiting) <= most and self.in_flight <= allowed and allowed:
            return
        while self.waiting and (len(self.waiting) > most // 2 or self.in_flight > allowed // 2):
            size, job = self.waiting.popleft()
            self.in_flight -= size
            self._take(size, job.result())

    def _take(self, size: int, packed: _Packed | Finding) -> None:
        if isinstance(packed, Finding):
            self._refuse(packed)
            self.progress.advance(1, size)
            return
        self._store(packed)
        self.progress.advance(1, packed.size)
        if self.batch.full:
            self.batch.commit()
            self.batch = self.archive.batch()

    def _store(self, packed: _Packed) -> None:
        report = self.report
        if packed.row is None or packed.sha256 in self.known:
            report.duplicates += 1
        else:
            instance = packed.instance
            assert instance is not None
            for number, encoded, length in packed.parts or self._spread(packed):
                self.batch.add_part(number, encoded, length)
            self.batch.add_file(packed.row)
            self.known.add(packed.sha256)
            report.files += 1
            report.bytes += packed.size
            report.frames += instance.frames
            report.opaque += instance.kind == "opaque"
            for finding in instance.findings:
                report.note(_at(finding, packed.item.path))
        if packed.buffer is not None:
            packed.buffer.close()
        seen = _Seen(packed.item, time.time_ns(), packed.sha256, packed.size)
        if packed.slices:
            place = self.layout.place(packed.item.path)
            if place not in self.slices:
                self.slices.update(layouts.with_parents(place))
            self.batch.add_path(self._path_row(seen, place))
        else:
            self._later(seen)

    def _spread(self, packed: _Packed) -> Iterator[_Part]:
        """The parts of a large file, packed by all threads, a few at a time."""
        if packed.buffer is None or packed.instance is None:
            return
        jobs: deque[Future[_Part]] = deque()
        for number, piece in _pieces(packed.buffer.data, packed.instance, packed.bulk):
            jobs.append(self.executor.submit(_pack_part, packed.instance, number, piece))
            if len(jobs) > 2 * self.threads:
                yield jobs.popleft().result()
        while jobs:
            yield jobs.popleft().result()

    def _refuse(self, finding: Finding) -> None:
        """Record what a source could not give; once, however often it is tried."""
        self.report.note(finding)
        self.report.refused += finding.level == "error"
        key = (_text(finding.path), finding.code)
        if key not in self.refused:
            self.refused.add(key)
            item = Item(self.label, finding.path, None, None, True, _nothing)
            self._later(_Seen(item, time.time_ns(), findings=(finding,)))

    def _later(self, seen: _Seen) -> None:
        """Keep back what holds no slices until it is known which folders do: it is named by those."""
        self.beside.append(seen)
        if len(self.beside) >= MOST_BESIDE:
            self._name_the_rest()

    def _name_the_rest(self) -> None:
        for seen in self.beside:
            self.batch.add_path(self._path_row(seen, self.layout.beside(seen.item.path, self.slices)))
        self.beside.clear()

    def _path_row(self, seen: _Seen, place: layouts.Place) -> dict[str, Any]:
        item = seen.item
        text = _text(item.path)
        return {
            "root": self.root,
            "source": _text(item.source),
            "path": text,
            "path_bytes": None if text == item.path else os.fsencode(item.path),
            "dataset": _text(place.dataset),
            "patient": _text(place.patient),
            "image": _text(place.image),
            "size": seen.size,
            "mtime_ns": item.mtime_ns,
            "seen_ns": seen.time_ns,
            "sha256": seen.sha256,
            "findings": [_finding_row(f) for f in seen.findings],
        }


def _inside(archive: Path, root: str) -> str:
    """Path of the archive inside a source, with a slash behind; empty where it lies elsewhere.

    Raises:
        UsageError: the source lies in the archive.
    """
    source, place = Path(root), archive.resolve()
    if source.is_relative_to(place):
        raise UsageError(
            f"expected sources outside the archive {archive}, found one in it; an archive holds no sources"
        )
    return place.relative_to(source).as_posix() + "/" if place.is_relative_to(source) else ""


def _seen(item: Item, seen: Digests) -> bool:
    if item.size is None or item.mtime_ns is None:
        return False
    return knowledge.place(os.fsencode(item.path), item.size, item.mtime_ns) in seen


def _load_and_pack(item: Item, known: Digests, limits: Limits) -> _Packed | Finding:
    buffer = _load(item, limits)
    return buffer if isinstance(buffer, Finding) else _pack(item, buffer, known, limits)


def _pack_loaded(item: Item, buffer: Buffer, known: Digests, limits: Limits) -> _Packed | Finding:
    return _pack(item, buffer, known, limits)


def _load(item: Item, limits: Limits) -> Buffer | Finding:
    try:
        return load(item, limits)
    except FileNotFoundError:
        return Finding(
            "error",
            "vanished",
            "the file was there when the folder was listed, and is gone",
            "left out",
            item.path,
        )
    except PermissionError:
        return Finding("error", "unreadable", "no permission to read the file", "left out", item.path)
    except OSError as error:
        return Finding(
            "error",
            "unreadable",
            f"reading failed ({error.strerror or type(error).__name__})",
            "left out",
            item.path,
        )
    except DcmarkError as error:
        return Finding("error", error.code, str(error), "left out", item.path)


def _pack(item: Item, buffer: Buffer, known: Digests, limits: Limits) -> _Packed:
    """Hash a file, take it apart and pack its parts. Closes the buffer unless the file is large."""
    data = buffer.data
    size = len(data)
    sha256 = hashlib.sha256(data).digest()
    slices = _SLICES.claims(data[: formats.HEAD], item.path)
    if sha256 in known:
        buffer.close()
        return _Packed(item, sha256, size, slices=slices)
    instance = formats.take_apart(data, item.path, limits)
    header = b"".join(_header(data, instance))
    row = _file_row(sha256, size, instance)
    bulk = header if _pack_header(row, header) else b""
    if size > LARGE_FILE:
        return _Packed(item, sha256, size, row, (), instance, buffer, bulk, slices)
    parts = [_pack_part(instance, number, piece) for number, piece in _pieces(data, instance, bulk)]
    buffer.close()
    return _Packed(item, sha256, size, row, parts, instance, slices=slices)


def _header(data: memoryview, instance: Instance) -> Iterator[memoryview]:
    pos = 0
    for segment in instance.segments:
        if segment.part < 0:
            yield data[pos : pos + segment.length]
        pos += segment.length
    if pos != len(data):
        raise ArchiveError(f"a reader gave segments of {pos} bytes for a file of {len(data)}; please report this")


def _pack_header(row: dict[str, Any], header: bytes) -> bool:
    """Put the header into its row; True when it is too large for that and goes to bulk parts."""
    row["header_length"] = len(header)
    if len(header) > LARGEST_HEADER:
        row["header"] = row["header_codec"] = None
        return True
    encoded = codecs.encode_bytes(header)
    row["header"], row["header_codec"] = encoded.payload, encoded.codec
    return False


def _pieces(data: memoryview, instance: Instance, bulk: bytes) -> Iterator[tuple[int, bytes | memoryview]]:
    """Number and bytes of each part: bulk chunks, then frames."""
    for chunk, start in enumerate(range(0, len(bulk), BULK_CHUNK)):
        yield -1 - chunk, bulk[start : start + BULK_CHUNK]
    yield from enumerate(instance.derived or _frames(data, instance))


def _pack_part(instance: Instance, number: int, piece: bytes | memoryview) -> _Part:
    if number < 0:
        encoded = codecs.encode_bytes(piece)
    elif not instance.native:
        encoded = codecs.Encoded(instance.transfer_syntax or "raw", bytes(piece))
    elif instance.layout is not None:
        encoded = codecs.encode_frame(piece, instance.layout)
    else:
        encoded = codecs.encode_bytes(piece)
    return number, encoded, len(piece)


def _frames(data: memoryview, instance: Instance) -> Iterator[bytes | memoryview]:
    """The bytes of each frame; joined where a frame lies in several fragments."""
    pos, current = 0, -1
    pieces: list[memoryview] = []
    for segment in instance.segments:
        if segment.part >= 0:
            if segment.part != current and pieces:
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces = []
            current = segment.part
            pieces.append(data[pos : pos + segment.length])
        pos += segment.length
    if pieces:
        yield pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _file_row(sha256: bytes, size: int, instance: Instance) -> dict[str, Any]:
    layout = instance.layout
    return {
        **instance.tags,
        "sha256": sha256,
        "size": size,
        "kind": instance.kind,
        "transfer_syntax": instance.transfer_syntax,
        "frames": instance.frames,
        "segments": [segment._asdict() for segment in instance.segments],
        "number": layout.number if layout else None,
        "big_endian": layout.big_endian if layout else None,
        "findings": [_finding_row(finding) for finding in instance.findings],
    }


def _finding_row(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level,
        "code": finding.code,
        "message": finding.message,
        "action": finding.action,
    }


def _at(finding: Finding, path: str) -> Finding:
    return Finding(finding.level, finding.code, finding.message, finding.action, path)


def _text(path: str) -> str:
    """A path as text that every tool can hold: bytes that are no UTF-8 become ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace") if not path.isascii() else path


def _nothing() -> Any:
    raise SourceError("nothing was stored under this path")
