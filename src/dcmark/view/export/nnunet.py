"""``dcmark export nnunet``: volumes and the masks of annotations in the raw layout of nnU-Net (version 2).

``imagesTr/CASE_0000.nii.gz`` with ``labelsTr/CASE.nii.gz`` for volumes that have masks and are not of the part
``test``, ``imagesTs`` for all others, and ``dataset.json``. A case is named by the id of its volume. nnU-Net sets
windows and spacings itself: of a view, the selection, quantity, parts and annotated labels count.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from dcmark.annotate.exchange import export_annotations
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation
from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import DamageError, DcmarkError, StorageError, UnsupportedError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.view.export.base import ExportReport, begin, finish, item_line
from dcmark.view.export.nifti import files_of, image_of, narrowest, reference_of, save_image
from dcmark.view.render import Plan
from dcmark.view.view import View
from dcmark.view.volumes import values

TEST = "test"
DATASET = "dataset.json"


def export_nnunet(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the volumes of a view as an nnU-Net data set; name the folder ``DatasetNNN_Name``.

    Args:
        archive: where from.
        out: folder to write.
        view: its selection, quantity, parts and annotated label.
        overwrite: write into a folder that holds something.
        threads: that decode a volume; None: one a processor.
        progress: is told of each volume.

    Returns:
        The report; its items are volumes.

    Raises:
        UsageError, QueryError: nothing is chosen, or no volume of it.
        OutputExistsError, StorageError: the place is taken, or cannot be written.
        MissingExtraError: nibabel is not installed.
    """
    plan = Plan(archive, view)
    cases, parts = _cases(plan)
    masks = _masks(archive, view, {case.id for case in cases})
    place = begin(out, overwrite)
    report, items = ExportReport(without_frames=plan.without_frames), list[str]()
    progress = progress or NoProgress()
    labelled: set[str] = set()
    trained = [one for one in masks if parts[one.target.volume] != TEST]
    if trained:
        report.findings += export_annotations(
            archive, "nnunet", place, annotations=trained, overwrite=overwrite
        ).findings
        labelled = {path.name.partition(".")[0] for path in (place / "labelsTr").glob("*.nii.gz")}
    progress.start("export nnunet", len(cases))
    channel = ""
    try:
        for volume in cases:
            folder = "imagesTr" if volume.id in labelled else "imagesTs"
            name = f"{folder}/{volume.id}_0000.nii.gz"
            try:
                channel = _write(place, name, volume, view.quantity, threads or os.cpu_count() or 1) or channel
            except StorageError:
                raise
            except DcmarkError as error:
                report.left_out += 1
                report.damaged += isinstance(error, DamageError)
                report.findings.append(Finding("error", error.code, str(error), "left out", volume.id))
                (place / "labelsTr" / f"{volume.id}.nii.gz").unlink(missing_ok=True)
                labelled.discard(volume.id)
            else:
                report.items += 1
                report.files += len(files_of(volume))
                items += [
                    item_line(
                        {"item": name, "index": k, "sha256": frame.file, "frame": frame.frame, "volume": volume.id}
                    )
                    for k, frame in enumerate(volume.frames)
                ]
            progress.advance(1, 0)
    finally:
        progress.finish()
    if not report.items:
        raise UnsupportedError(
            f"expected a volume that can be written; found none; the first: {report.findings[0].message}"
        )
    _describe(place, channel, len(labelled))
    finish(place, {"exporter": "nnunet", **plan.about}, items, report)
    return report


def _cases(plan: Plan) -> tuple[list[StoredVolume], dict[str, str]]:
    """Volumes of the plan in order, and the part of each."""
    parts: dict[str, str] = {}
    for index, one in enumerate(plan.chosen):
        found = plan.group(one)
        if found in plan.places.volumes:
            parts.setdefault(found, plan.parts[index] if plan.parts else "")
    cases = [plan.places.volumes[name] for name in parts]
    cases = [case for case in cases if case.affine is not None and case.grid in ("regular", "tilted", "single")]
    if not cases:
        raise UsageError(
            "expected volumes on a regular grid for nnU-Net; found none among the chosen files; see what there is with "
            "dcmark ls ARCHIVE volumes"
        )
    return cases, parts


def _masks(archive: Archive, view: View, cases: set[str]) -> list[Annotation]:
    wanted = view.annotated if view.annotated not in ("", "*") else ""
    return [
        one
        for one in Log(archive).state().annotations()
        if one.kind == "mask"
        and one.status != "rejected"
        and one.target.volume in cases
        and wanted in ("", one.label.name)
    ]


def _write(place: Path, name: str, volume: StoredVolume, quantity: str | None, threads: int) -> str:
    """Write a volume; the name of its channel, by which nnU-Net chooses how to normalise."""
    assert volume.affine is not None
    found = values(volume, quantity, threads=threads)
    array = found.values
    empty = np.isnan(array)
    if empty.any():
        array = np.where(empty, np.float32(-1000 if found.quantity == "hu" else 0), array)
    image = image_of(narrowest(array), volume.affine, False, reference_of(volume))
    with writing(place):
        (place / name).parent.mkdir(exist_ok=True)
        save_image(image, place / name)
    return "CT" if found.quantity == "hu" else volume.modality or found.quantity


def _describe(place: Path, channel: str, cases: int) -> None:
    """The ``dataset.json`` of nnU-Net; the classes are those the labels were written with."""
    target = place / DATASET
    with writing(place):
        about: dict[str, Any] = json.loads(target.read_text("utf-8")) if target.exists() else {}
        about |= {"channel_names": {"0": channel}, "numTraining": cases, "file_ending": ".nii.gz"}
        about.setdefault("labels", {"background": 0})
        target.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
