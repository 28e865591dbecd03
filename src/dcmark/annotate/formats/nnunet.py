"""nnU-Net labels: ``labelsTr/*.nii.gz`` and the classes in ``dataset.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dcmark.annotate.formats.base import Context, Imported, Reader, Written, chosen_labels, read_json, reading_file
from dcmark.annotate.formats.labels import Segment
from dcmark.annotate.formats.masks import NiftiFormat, annotations_of, load
from dcmark.annotate.formats.volumes import label_array, layers, merged, volume_masks
from dcmark.annotate.model import Annotation, Label
from dcmark.errors import SourceError
from dcmark.read.nifti import NiftiReader


class NnUnetFormat:
    """A dataset folder; cases are named by the id of the volume. Images are exported by the view."""

    name = "nnunet"
    suffixes: tuple[str, ...] = ()

    def read(self, source: Path, context: Context) -> Imported:
        """Every label map of ``labelsTr`` and ``labelsTs``."""
        with reading_file("an nnU-Net dataset", source.name):
            place = source / "dataset.json"
            if not source.is_dir() or not place.is_file():
                raise SourceError(f"{source.name}: expected a folder with dataset.json, found none")
            segments = _classes(place)
            imported = Imported()
            files = sorted(file for sub in ("labelsTr", "labelsTs") for file in (source / sub).glob("*.nii*"))
            if not files:
                raise SourceError(f"{source.name}: expected label maps in labelsTr, found none")
            for file in files:
                with reading_file("a NIfTI label map", file.name):
                    header, array, _ = load(file, NiftiReader(context.limits), "a NIfTI label map", context.limits)
                    if header.affine is None:
                        raise SourceError(f"{file.name}, header: expected a place in the patient, found none")
                    imported.annotations += annotations_of(
                        array[0, ..., 0], header.affine, segments, file, file.name, context
                    )  # fmt: skip
            return imported

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """One class a label; a mask that overlaps another one is left out, for a pixel has one class."""
        written = Written()
        found = volume_masks(annotations, context, written)
        labels = chosen_labels([one.annotation for masks in found.values() for one in masks])
        numbers = {label.name: number for number, label in enumerate(labels, 1)}
        for volume_id, masks in found.items():
            groups = layers(merged(masks))
            for group in groups[1:]:
                for one in group:
                    written.leave_out(one.annotation, "it overlaps another class")
            values = [numbers[one.annotation.label.name] for one in groups[0]]
            array, affine = label_array(context.places.volumes[volume_id], groups[0], values)
            path = out / "labelsTr" / f"{volume_id}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            NiftiFormat().write_array(path, array, affine, groups[0], values)
            written.files.append(path)
            written.meant += [one.annotation for one in groups[0]]
        if written.files:
            about = {
                "channel_names": {"0": "CT"},
                "labels": {"background": 0, **numbers},
                "numTraining": len(written.files),
                "file_ending": ".nii.gz",
            }
            path = out / "dataset.json"
            path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            written.files.append(path)
        return written


def _classes(place: Path) -> list[Segment]:
    """``labels``: name to number (version 2) or number to name (version 1). Regions of several numbers are refused."""
    root = Reader(place.name, read_json(place))
    labels = root.at("labels")
    if not isinstance(labels.value, dict):
        raise labels.fail("an object of labels")
    found = []
    for key in labels.value:
        one = labels.at(key)
        if isinstance(one.value, str) and key.isdigit():
            name, number = one.value, int(key)
        else:
            name, number = key, one.whole(0, 65535)
        if number:
            found.append(Segment(number, 0, Label(name)))
    return found
