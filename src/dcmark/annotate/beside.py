"""Annotations beside restored originals: as the DICOM objects that a reading room takes, referring to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dcmark.annotate.exchange import export_annotations
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation
from dcmark.annotate.places import Places
from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.findings import Finding

FOLDER = "dcmark-annotations"
_ORDER = ("seg", "rtstruct", "sr", "gsps", "csv")


@dataclass(slots=True)
class BesideReport:
    """What was written beside the originals.

    Attributes:
        files: relative to the folder of the restore.
        annotations: that they hold.
        already: annotations that the restored objects themselves hold, for they came from there and did not change.
        findings: what no format could hold.
    """

    files: list[str] = field(default_factory=list)
    annotations: int = 0
    already: int = 0
    findings: list[Finding] = field(default_factory=list)


def write_beside(archive: Archive, out: Path, hashes: Iterable[bytes] | None = None) -> BesideReport:
    """Write annotations into ``out/dcmark-annotations``: masks as SEG, contours as RTSTRUCT, measurements and classes
    as SR, what these cannot hold as GSPS, and what is about no image as CSV.

    Args:
        archive: where from.
        out: the folder of the restore.
        hashes: SHA-256 of the restored files; only annotations on these. None: all.

    Raises:
        MissingExtraError: there are masks, and highdicom is not installed.
        DamageError, StorageError: as ``export_annotations``.
    """
    places = Places(archive)
    wanted = None if hashes is None else {one.hex() for one in hashes}
    state = Log(archive).state()
    report = BesideReport()
    left: list[Annotation] = []
    for one in state.annotations():
        if one.status == "rejected" or (wanted is not None and not _about(one, wanted, places)):
            continue
        if one.origin and places.file_of_instance(one.origin) is not None and state.row(one.id)["verb"] == "add":
            report.already += 1
        else:
            left.append(one)
    groups: dict[str, list[Annotation]] = {name: [] for name in _ORDER}
    for one in left:
        groups[_format(one, places)].append(one)
    ids = {one.id: name for name, members in groups.items() for one in members}
    # A number goes where the region is that it was measured on, so that they stay together.
    for name in ("rtstruct", "gsps"):
        measured = {parent for one in groups["sr"] for parent in one.derived_from if ids.get(parent) == name}
        groups["sr"] += [one for one in groups[name] if one.id in measured and one.kind != "text"]
    for name, members in groups.items():
        if not members:
            continue
        try:
            done = export_annotations(archive, name, out / FOLDER / name, annotations=members, overwrite=True)
        except UsageError as error:
            report.findings.append(Finding("warning", "not-beside", str(error), "not written"))
            continue
        report.files += [f"{FOLDER}/{name}/{file}" for file in done.files]
        report.annotations += done.annotations
        report.findings += done.findings
    return report


def _about(one: Annotation, wanted: set[str], places: Places) -> bool:
    frames = one.frames
    if frames:
        return any(frame.file in wanted for frame in frames)
    if one.target.file:
        return one.target.file in wanted
    target = one.target
    for sha256 in wanted:
        row = places.file(sha256)
        about = (row["series_instance_uid"], row["study_instance_uid"], row["patient_id"] or row["patient"])
        if (target.series or target.study or target.patient) in about:
            return True
    return False


def _format(one: Annotation, places: Places) -> str:
    """The format that holds an annotation best."""
    dicom = bool(one.frames) and all(places.file(frame.file)["sop_instance_uid"] for frame in one.frames)
    volume = places.volume_of(one.frames) if one.frames else None
    if one.kind == "mask" and volume is not None and dicom:
        return "seg"
    if one.kind in ("polygon", "freehand", "line", "point", "box", "ellipse") and dicom:
        placed = volume is not None and volume.positions is not None
        return "rtstruct" if placed and one.kind not in ("box", "ellipse") else "gsps"
    if one.kind == "text" and dicom:
        return "gsps"
    if one.kind in ("label", "measurement") and (one.target.level in ("study", "frame", "region", "instance")):
        return "sr"
    return "csv"
