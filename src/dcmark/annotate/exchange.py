"""Import and export: files to the log in one commit, annotations to files that are read back before they count."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dcmark.annotate import formats, objects
from dcmark.annotate.formats.base import Context, Imported, reading_file
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation
from dcmark.annotate.readback import differences
from dcmark.archive.faults import storage_error, writing
from dcmark.archive.query import query
from dcmark.archive.store import Archive
from dcmark.errors import DamageError, DcmarkError, OutputExistsError, SourceError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress


@dataclass(slots=True)
class ImportReport:
    """What an import added.

    Attributes:
        annotations: added, in one commit.
        files: they came from.
        unchanged: objects that were imported before.
        events: numbers of the first and the last event; None where nothing was added.
        findings: what could not be taken over, and why.
    """

    annotations: int = 0
    files: int = 0
    unchanged: int = 0
    events: tuple[int, int] | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def needs_a_look(self) -> bool:
        """Was something left out?"""
        return any(finding.level != "info" for finding in self.findings)


@dataclass(slots=True)
class ExportReport:
    """What an export wrote, after it was read back.

    Attributes:
        annotations: that the files hold.
        files: written, relative to the folder.
        findings: annotations that were left out, and what was lost of others.
    """

    annotations: int = 0
    files: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def import_annotations(
    archive: Archive,
    format: str,
    source: str | os.PathLike[str],
    *,
    view: str | os.PathLike[str] | None = None,
    volumes: Sequence[str] = (),
    author: str = "",
    options: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Add the annotations of a file, or of all files of a folder, to the log: all of them or none.

    Args:
        archive: where the images are.
        format: name of the format.
        source: file or folder.
        view: folder or ``view.json`` of the export whose pictures were annotated.
        volumes: ids of volumes that masks may belong to; empty: any.
        author: where the files name none; also of the events.
        options: of the format.
        progress: is told of each file.

    Raises:
        SourceError: a file is not what it should be, with file and place.
        UsageError: something in it fits no image of the archive; unknown format.
        StorageError: the log cannot be written.
    """
    place = Path(source)
    if not place.exists():
        raise SourceError(f"expected annotations at {place}, found nothing; check the path")
    chosen = formats.load(format)
    context = Context(
        archive, None if view is None else Path(view), tuple(volumes), author, dict(options or {})
    )  # fmt: skip
    return _add(archive, _read_all(chosen, place, context, progress or NoProgress()), author)


def _read_all(chosen: Any, place: Path, context: Context, progress: Progress) -> Iterator[tuple[str, Imported]]:
    files = _files(chosen, place)
    progress.start("import", len(files))
    try:
        for file in files:
            with reading_file(f"a file of format {chosen.name}", file.name):
                yield file.name, chosen.read(file, context)
            progress.advance()
    finally:
        progress.finish()


def _files(chosen: Any, place: Path) -> list[Path]:
    if not place.is_dir() or not chosen.suffixes:
        return [place]
    found = [
        file
        for file in sorted(place.rglob("*"))
        if file.is_file() and file.name.lower().endswith(chosen.suffixes) and file.name != "view.json"
        and not file.name.endswith(".labels.json")
    ]  # fmt: skip
    if not found:
        raise SourceError(f"expected files named {', '.join(chosen.suffixes)} in {place}, found none")
    return found


def _add(archive: Archive, found: Iterator[tuple[str, Imported]], author: str) -> ImportReport:
    report = ImportReport()
    annotations: list[Annotation] = []
    sets = {}
    for _, imported in found:
        report.files += 1
        annotations += imported.annotations
        sets.update({one.name: one for one in imported.label_sets})
        report.findings += imported.findings
    if annotations or sets:
        seqs = Log(archive, author).add(annotations, sets=sets.values())
        report.events = (seqs[0], seqs[-1])
    report.annotations = len(annotations)
    return report


# Out of the archive ---------------------------------------------------------------------------------------------------

OBJECT_FORMATS: dict[str, str] = {
    objects.SEG: "seg", objects.LABEL_MAP: "seg", objects.RTSTRUCT: "rtstruct", objects.GSPS: "gsps",
    objects.KOS: "kos", objects.ANN: "ann",
}  # fmt: skip
"""Formats of DICOM objects by SOP Class UID; structured reports by the beginning of theirs."""


def format_of_object(sop_class: str) -> str:
    """Name of the format of a DICOM object; empty where it carries no annotations."""
    return OBJECT_FORMATS.get(sop_class) or ("sr" if sop_class.startswith(objects.SR_PREFIX) else "")


def import_from_archive(
    archive: Archive, *, format: str | None = None, author: str = "", progress: Progress | None = None
) -> ImportReport:
    """Import the DICOM objects that were ingested with the images: SEG, RTSTRUCT, SR, GSPS, KOS, ANN.

    An object is imported once, however often this is called. One that cannot be read is left out with a finding; the
    others are added in one commit.

    Args:
        format: only those of this format.
    """
    rows = query(
        archive,
        "SELECT sha256, path, sop_class_uid, sop_instance_uid FROM files WHERE sop_class_uid IS NOT NULL ORDER BY path",
    ).to_pylist()
    known = {one.origin for one in Log(archive).state().annotations()} | _ever(archive)
    progress = progress or NoProgress()
    context = Context(archive, author=author)
    report = ImportReport()
    annotations: list[Annotation] = []
    wanted = [(row, format_of_object(row["sop_class_uid"])) for row in rows]
    wanted = [(row, name) for row, name in wanted if name and format in (None, name)]
    progress.start("import", len(wanted))
    try:
        for row, name in wanted:
            if row["sop_instance_uid"] in known:
                report.unchanged += 1
                continue
            try:
                reader: Callable[[Any, Context], Imported] = formats.load(name).read_object  # type: ignore[attr-defined]
                with reading_file(f"an object of format {name}", row["path"] or row["sha256"]):
                    imported = reader(objects.of_archive(archive, row["sha256"]), context)
            except DcmarkError as error:
                report.findings.append(Finding("error", error.code, str(error), "not imported", row["path"] or ""))
                continue
            report.files += 1
            known.add(row["sop_instance_uid"])
            annotations += imported.annotations
            report.findings += [replace(one, path=row["path"] or "") for one in imported.findings]
            progress.advance()
    finally:
        progress.finish()
    if annotations:
        seqs = Log(archive, author).add(annotations)
        report.events = (seqs[0], seqs[-1])
    report.annotations = len(annotations)
    return report


def _ever(archive: Archive) -> set[str]:
    """Origins of all annotations there ever were: what was removed on purpose does not come back."""
    import json

    bodies = archive.read("annotations", ["body"], "body LIKE '%\"origin\"%'")["body"].to_pylist()
    return {json.loads(body).get("origin", "") for body in bodies}


# Export ---------------------------------------------------------------------------------------------------------------


def export_annotations(
    archive: Archive,
    format: str,
    out: str | os.PathLike[str],
    *,
    annotations: Sequence[Annotation] | None = None,
    where: Callable[[Annotation], bool] | None = None,
    view: str | os.PathLike[str] | None = None,
    options: dict[str, str] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write annotations in a format, read the files back, compare, and only then put them in their place.

    Args:
        archive: where from.
        format: name of the format.
        out: an empty or absent folder, unless ``overwrite``.
        annotations: which; None: all there are that are not rejected.
        where: only those for which it is true.
        view: folder or ``view.json`` of an export whose pictures they are for.
        options: of the format.
        overwrite: write into a folder that holds something.

    Raises:
        DamageError: what was read back is not what was meant; nothing is left in ``out``.
        UsageError: nothing to export.
        OutputExistsError, StorageError: ``out`` cannot be written.
    """
    chosen = formats.load(format)
    if annotations is None:
        annotations = [one for one in Log(archive).state().annotations() if one.status != "rejected"]
    if where is not None:
        annotations = [one for one in annotations if where(one)]
    if not annotations:
        raise UsageError("expected annotations to export, found none; change the selection, or import some")
    place = Path(out)
    if place.exists() and (not place.is_dir() or (any(place.iterdir()) and not overwrite)):
        raise OutputExistsError(f"expected an empty folder at {place}, found something; choose another or --overwrite")
    context = Context(archive, None if view is None else Path(view), options=dict(options or {}))
    report = ExportReport()
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".draft", dir=place.parent))
    try:
        with writing(place):
            written = chosen.write(annotations, draft, context)
        report.findings = written.findings
        if not written.files:
            reasons = "; ".join(one.message for one in written.findings[:3])
            raise UsageError(f"expected annotations that {format} can hold, found none: {reasons}")
        volumes = tuple({one.target.volume for one in written.meant if one.target.volume})
        back = Context(archive, context.view, volumes, options=context.options)
        back.__dict__["places"] = context.places  # the same frames stand where they stood
        found = [one for file in _files(chosen, draft) for one in chosen.read(file, back).annotations]
        wrong = list(differences(written, found))
        if wrong:
            raise DamageError(
                f"expected the {format} that was written to give back what was meant, found {len(wrong)} differences "
                f"(the first: {wrong[0]}); nothing was exported, please report this"
            )
        report.annotations = len(written.meant)
        _move(draft, place)
        report.files = sorted(file.relative_to(draft).as_posix() for file in written.files)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return report


def _move(draft: Path, place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        for file in sorted(draft.rglob("*")):
            target = place / file.relative_to(draft)
            if file.is_dir():
                target.mkdir(exist_ok=True)
            else:
                file.replace(target)
    except OSError as error:
        raise storage_error(error, place) from error
