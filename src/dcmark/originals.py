"""Annotations made on de-identified images, written as if they had been made on the originals."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dcmark.annotate.exchange import ExportReport, export_annotations
from dcmark.annotate.model import Annotation, Contour, Target
from dcmark.annotate.places import Places
from dcmark.archive.faults import writing
from dcmark.archive.source import ArchiveSource
from dcmark.archive.store import Archive, open_archive
from dcmark.config import LIMITS
from dcmark.deid.vault import Vault
from dcmark.errors import DamageError, OutputExistsError, UsageError
from dcmark.findings import Finding
from dcmark.ingestion import ingest
from dcmark.read.base import Item
from dcmark.read.containers import load
from dcmark.read.volume_model import FrameId
from dcmark.reidentification import inside


def export_on_originals(
    archive: Archive,
    vault: Vault,
    format: str,
    out: str | os.PathLike[str],
    *,
    annotations: Sequence[Annotation],
    options: dict[str, str] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write annotations in a format, on the original identities: UIDs, patients, dates, names of files.

    The originals that they are about are made again from the archive and the vault, in a folder beside ``out`` that
    only the owner can read and that is gone at the end; the export is made from them and read back like any other.

    Args:
        archive: of de-identified images.
        vault: what led there.
        format: name of the format.
        out: an empty or absent folder, unless ``overwrite``.
        annotations: which.
        options: of the format.
        overwrite: write into a folder that holds something.

    Raises:
        DamageError: the vault does not know an image, or what was read back is not what was meant.
        UsageError: nothing to export.
        OutputExistsError, StorageError: ``out`` cannot be written.
    """
    if not annotations:
        raise UsageError("expected annotations to export, found none; change the selection, or import some")
    place = Path(out)
    if place.exists() and (not place.is_dir() or (any(place.iterdir()) and not overwrite)):
        raise OutputExistsError(f"expected an empty folder at {place}, found something; choose another or --overwrite")
    clean = Places(archive)
    wanted = _about(clean, annotations)
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".originals", dir=place.parent))
    try:
        twins, findings = _rebuild(archive, vault, wanted, scratch / "files")
        originals = open_archive(scratch / "a.dcmark", create=True)
        ingest(scratch / "files", originals, layout="none")
        back = _Back(clean, Places(originals), twins)
        carried = [back.annotation(one) for one in annotations]
        report = export_annotations(originals, format, place, annotations=carried, options=options, overwrite=overwrite)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report.findings = [*findings, *report.findings]
    return report


def _about(places: Places, annotations: Iterable[Annotation]) -> set[bytes]:
    """Files of the series, or where nothing finer is said of the studies and patients, that annotations are about."""
    series: set[str] = set()
    studies: set[str] = set()
    patients: set[str] = set()
    files: set[str] = set()
    for one in annotations:
        target, named = one.target, {frame.file for frame in one.frames} | ({one.target.file} - {""})
        files |= named
        series |= {row["series_instance_uid"] for row in map(places.file, named)} | {target.series}
        if target.level == "study" or not (named or target.series):
            studies.add(target.study)
        if target.level == "patient" or not (named or target.series or target.study):
            patients.add(target.patient)
    rows = [places.file(sha256) for sha256 in places.known("sha256").values()]
    chosen = {
        row["sha256"]
        for row in rows
        if row["sha256"] in files
        or (row["series_instance_uid"] or "") in series - {""}
        or (row["study_instance_uid"] or "") in studies - {""}
        or (row["patient_id"] or row["patient"] or "") in patients - {""}
    }
    return {bytes.fromhex(one) for one in chosen}


def _rebuild(archive: Archive, vault: Vault, wanted: set[bytes], folder: Path) -> tuple[dict[str, str], list[Finding]]:
    """Originals as files; SHA-256 of the original by that of the clean file."""
    unknown = sum(one not in vault for one in wanted)
    if unknown:
        raise DamageError(
            f"expected the vault to know all {len(wanted)} images; it does not know {unknown}: cut, or another's"
        )
    twins: dict[str, str] = {}
    findings = []
    folder.mkdir(parents=True)
    for item in ArchiveSource(archive, wanted).items():
        assert isinstance(item, Item)
        with load(item, LIMITS) as buffer:
            digest = hashlib.sha256(buffer.data).digest()
            records = vault.find(digest)
            original = records[0].rebuild(buffer.data)
        if len({record.original for record in records}) > 1:
            text = "several originals became one clean file; the annotations refer to the first of them"
            findings.append(Finding("warning", "several-originals", text, "", item.path))
        twins[digest.hex()] = records[0].original.hex()
        target = inside(folder, records[0].path)
        with writing(folder):
            if target.exists():  # of several sources
                target = folder / f"{len(twins)}" / target.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(original)
    return twins, findings


@dataclass(eq=False)
class _Back:
    """From identities of clean images to those of their originals.

    Attributes:
        clean, original: places of either archive.
        twins: SHA-256 of the original by that of the clean file.
    """

    clean: Places
    original: Places
    twins: dict[str, str]

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        """By kind of name, the original's by the clean one's."""
        found: dict[str, dict[str, str]] = {
            name: {} for name in ("series_instance_uid", "study_instance_uid", "sop_instance_uid", "patient")
        }
        for clean, original in self.twins.items():
            old, new = self.clean.file(clean), self.original.file(original)
            for name, known in found.items():
                before, after = ((row["patient_id"] or row["patient"]) if name == "patient" else row[name]
                                 for row in (old, new))  # fmt: skip
                if before:
                    known.setdefault(str(before), str(after or ""))
        return found

    def frame(self, frame: FrameId) -> FrameId:
        """The same frame of the original."""
        return FrameId(self.twins[frame.file], frame.frame)

    def annotation(self, one: Annotation) -> Annotation:
        """The same statement about the originals."""
        contours = tuple(
            contour if contour.frame is None else Contour(contour.points, self.frame(contour.frame), contour.closed)
            for contour in one.contours
        )
        mask: Any = [replace(plane, frame=self.frame(plane.frame)) for plane in one.mask]
        moved = replace(one, contours=contours, mask=mask)
        target, names = one.target, self._names
        volume = ""
        if target.volume:
            there = self.clean.volumes.get(target.volume)
            frames = moved.frames or tuple(
                self.frame(FrameId(*frame)) for frame in (there.frames if there else ()) if frame[0] in self.twins
            )
            found = self.original.volume_of(frames) if frames else None
            volume = found.id if found is not None else ""
        return replace(
            moved,
            target=Target(
                target.level,
                names["patient"].get(target.patient, target.patient),
                names["study_instance_uid"].get(target.study, target.study),
                names["series_instance_uid"].get(target.series, target.series),
                volume,
                self.twins.get(target.file, ""),
                target.frame,
            ),
            origin=names["sop_instance_uid"].get(one.origin, one.origin),
        )
