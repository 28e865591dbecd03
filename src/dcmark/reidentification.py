"""From de-identified files, in an archive or in folders, and their vault to the original files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dcmark.archive.faults import storage_error
from dcmark.archive.query import matching_files
from dcmark.archive.source import ArchiveSource
from dcmark.archive.store import Archive
from dcmark.config import LIMITS, Limits
from dcmark.deid.vault import FileRecord, Vault
from dcmark.errors import DamageError, DcmarkError, OutputExistsError, StorageError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.read.base import Item, Source
from dcmark.read.containers import load, open_source


@dataclass(slots=True)
class ReidentifyReport:
    """What a run did.

    Attributes:
        files: originals written.
        damaged: clean files whose original could not be made; each has a finding.
    """

    files: int = 0
    damaged: int = 0
    findings: list[Finding] = field(default_factory=list)


def reidentify(
    clean: Archive | Sequence[str | os.PathLike[str]],
    vault: Vault,
    out: str | os.PathLike[str],
    *,
    where: str | None = None,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> ReidentifyReport:
    """Write the original files, byte for byte, under the names they had; also those held back and kept in the vault.

    Args:
        clean: an archive of de-identified files; or folders, files, zip, tar, 7z of them.
        vault: what led there.
        out: an empty or new folder.
        where: SQL condition over the view ``files`` of an archive; None for all.

    Raises:
        DamageError: the vault does not know a file of the archive (it was cut, or belongs to another), found before
            anything is written; or a table cannot be read. A file of a folder that the vault does not know is a
            finding, and counts as damaged.
        OutputExistsError: something stands where the output should go.
        SourceError: a source is not there.
        StorageError: the disk is full or refuses.
    """
    place = Path(out)
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise OutputExistsError(f"expected an empty or new folder at {place}; found files; choose another")
    sources: list[Source] = []
    total = None
    if isinstance(clean, Archive):
        wanted = matching_files(clean, where)
        unknown = sum(one not in vault for one in wanted)
        if unknown:
            raise DamageError(
                f"expected the vault to know all {len(wanted)} files; it does not know {unknown}: cut, or another's"
            )
        sources, total = [ArchiveSource(clean, wanted)], len(wanted)
    else:
        if where is not None:
            raise UsageError("expected an archive for a condition; found folders; leave the condition out")
        sources = [open_source(one, containers="open", limits=limits) for one in clean]
    report = ReidentifyReport()
    progress = progress or NoProgress()
    progress.start("reidentify", total)
    done: set[bytes] = set()
    try:
        place.mkdir(parents=True, exist_ok=True)
        for source in sources:
            for item in source.items():
                if isinstance(item, Finding):
                    report.findings.append(item)
                    continue
                _lead_back(report, place, vault, item, done, limits)
                progress.advance(1, item.size or 0)
        if where is None:
            for record in vault.held_back():
                _write(report, place, record, memoryview(b""))
    except OSError as error:
        raise storage_error(error, place) from error
    finally:
        progress.finish()
    return report


def _lead_back(
    report: ReidentifyReport, place: Path, vault: Vault, item: Item, done: set[bytes], limits: Limits
) -> None:
    """Write the originals of one clean file; each content once."""
    try:
        with load(item, limits) as buffer:
            digest = hashlib.sha256(buffer.data).digest()
            if digest in done:
                return
            done.add(digest)
            for record in vault.find(digest):
                _write(report, place, record, buffer.data)
    except StorageError:
        raise
    except DcmarkError as error:
        report.damaged += 1
        report.findings.append(Finding("error", error.code, str(error), "not written", item.path))


def _write(report: ReidentifyReport, place: Path, record: FileRecord, clean: memoryview) -> None:
    try:
        original = record.rebuild(clean)
    except DamageError as error:
        report.damaged += 1
        report.findings.append(Finding("error", error.code, str(error), "not written", record.clean.hex()))
        return
    target = inside(place, record.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name[:200]}.draft")
    draft.write_bytes(original)
    draft.replace(target)
    report.files += 1


def inside(place: Path, path: str) -> Path:
    """The place of an original; a name that could lead out of ``place`` is refused, whatever the vault says.

    Raises:
        DamageError: it does.
    """
    names = path.split("/")
    if any(name in ("", ".", "..") or "\0" in name or "\\" in name or ":" in name for name in names):
        raise DamageError("expected a relative path in the vault; found one that leads elsewhere")
    return place.joinpath(*names)
