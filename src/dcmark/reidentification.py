"""From a de-identified archive and its vault to the original files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dcmark.archive.assemble import ASSEMBLY_COLUMNS, file_pieces
from dcmark.archive.faults import storage_error
from dcmark.archive.query import matching_files
from dcmark.archive.store import Archive
from dcmark.deid.vault import FileRecord, Vault
from dcmark.errors import DamageError, OutputExistsError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress


@dataclass(slots=True)
class ReidentifyReport:
    """What a run did.

    Attributes:
        files: originals written.
        damaged: files of the archive whose original could not be made; each has a finding.
    """

    files: int = 0
    damaged: int = 0
    findings: list[Finding] = field(default_factory=list)


def reidentify(
    archive: Archive,
    vault: Vault,
    out: str | os.PathLike[str],
    *,
    where: str | None = None,
    progress: Progress | None = None,
) -> ReidentifyReport:
    """Write the original files, byte for byte, under the names they had.

    Args:
        archive: of de-identified files.
        vault: what led there.
        out: an empty or new folder.
        where: SQL condition over the view ``files``; None for all.

    Raises:
        DamageError: the vault does not know a file of the archive (it was cut, or belongs to another), found before
            anything is written; or a table cannot be read.
        OutputExistsError: something stands where the output should go.
        StorageError: the disk is full or refuses.
    """
    place = Path(out)
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise OutputExistsError(f"expected an empty or new folder at {place}; found files; choose another")
    wanted = matching_files(archive, where)
    unknown = sum(clean not in vault for clean in wanted)
    if unknown:
        raise DamageError(
            f"expected the vault to know all {len(wanted)} files; it does not know {unknown}: cut, or another's"
        )
    report = ReidentifyReport()
    progress = progress or NoProgress()
    progress.start("reidentify", len(wanted))
    rows = archive.read("files", list(ASSEMBLY_COLUMNS)).to_pylist()
    written: set[bytes] = set()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
            for row in rows:
                if row["sha256"] not in wanted or row["sha256"] in written:
                    continue
                written.add(row["sha256"])
                clean = b"".join(file_pieces(archive, row, executor))
                for record in vault.find(row["sha256"]):
                    _write(report, place, record, clean)
                progress.advance(1, len(clean))
    except OSError as error:
        raise storage_error(error, place) from error
    finally:
        progress.finish()
    return report


def _write(report: ReidentifyReport, place: Path, record: FileRecord, clean: bytes) -> None:
    try:
        original = record.rebuild(memoryview(clean))
    except DamageError as error:
        report.damaged += 1
        report.findings.append(Finding("error", error.code, str(error), "not written", record.clean.hex()))
        return
    target = _inside(place, record.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name[:200]}.draft")
    draft.write_bytes(original)
    draft.replace(target)
    report.files += 1


def _inside(place: Path, path: str) -> Path:
    """The place of an original; a name that could lead out of ``place`` is refused, whatever the vault says.

    Raises:
        DamageError: it does.
    """
    names = path.split("/")
    if any(name in ("", ".", "..") or "\0" in name or "\\" in name or ":" in name for name in names):
        raise DamageError("expected a relative path in the vault; found one that leads elsewhere")
    return place.joinpath(*names)
