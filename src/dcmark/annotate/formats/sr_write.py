"""Writing TID 1500 reports: a measurement group a region, with the numbers and evaluations derived from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcmark.annotate import objects
from dcmark.annotate.formats import sr
from dcmark.annotate.formats.base import Context, Written
from dcmark.annotate.formats.dicom_write import (
    begin,
    by_study,
    dataset,
    evidence,
    image_item,
    item,
    own_code,
    person,
    root,
    save,
    sequence,
)
from dcmark.annotate.formats.rtstruct import decimal
from dcmark.annotate.model import Annotation, Code
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pydicom import Dataset

COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
_SHAPES = frozenset({"point", "line", "box", "ellipse", "polygon", "freehand"})
_EVALUATION = Code("121071", "DCM", "Finding")


def write_reports(annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
    """One report a study. Single precision is all that coordinates have (PS3.3 C.18.6.1.1)."""
    written = Written(tolerance=0.01, exact_labels=True)
    fit = [one for one in annotations if _fits(one, context, written)]
    for place, (study, members) in enumerate(sorted(by_study(fit, context).items()), 1):
        path = out / f"report_{place}.dcm"
        file = _file_of(members, context)
        if file is None:
            for one in members:
                written.leave_out(one, "no image of its study is in the archive")
            continue
        made = begin(context, file, COMPREHENSIVE_3D, "SR", 3, "Imaging measurements")
        del study
        groups, frames = [], []
        regions = {one.id: one for one in members if one.kind in _SHAPES}
        derived: dict[str, list[Annotation]] = {}
        for one in members:
            if one.kind not in _SHAPES:
                parent = next((name for name in one.derived_from if name in regions), one.id)
                derived.setdefault(parent, []).append(one)
        for name, region in regions.items():
            groups.append(_group(region, derived.pop(name, []), context, written))
            frames += list(region.frames)
        for rest in derived.values():
            groups.append(_group(None, rest, context, written))
            frames += [frame for one in rest for frame in _frames_of(one)]
        _finish(made, groups, frames, members, context)
        save(made, path)
        written.files.append(path)
    return written


def _fits(one: Annotation, context: Context, written: Written) -> bool:
    reason = ""
    if one.kind == "mask":
        reason = "masks go into a segmentation; their measurements can be reported"
    elif one.kind == "text":
        reason = "the format holds no free text"
    elif any(contour.frame is None for contour in one.contours):
        reason = "contours in mm that lie on no frame"
    elif one.kind in ("label", "measurement") and one.target.level not in ("study", "frame", "region", "instance"):
        reason = f"a statement about a {one.target.level}"
    elif one.kind in ("label", "measurement") and one.contours:
        reason = "a measurement with contours of its own; draw them as an annotation it is derived from"
    elif not _frames_of(one) and not one.target.study:
        reason = "neither its image nor its study is known"
    elif one.kind == "freehand" and len({c.closed for c in one.contours}) > 1:
        reason = "open and closed contours in one annotation"
    else:
        for frame in _frames_of(one):
            row = context.places.file(frame.file)
            if not row["sop_instance_uid"]:
                reason = "it lies on a file that is no DICOM image"
    if reason:
        written.leave_out(one, reason)
    return not reason


def _frames_of(one: Annotation) -> list[FrameId]:
    """The frames of an annotation; the first one of a whole instance."""
    if one.target.level == "instance" and one.target.file:
        return [FrameId(one.target.file, 0)]
    return list(one.frames)


def _file_of(members: Sequence[Annotation], context: Context) -> str | None:
    for one in members:
        for frame in _frames_of(one):
            return frame.file
    study = members[0].target.study
    rows = context.places._files.items()
    return next((sha256 for sha256, row in rows if row["study_instance_uid"] == study), None)


def _group(region: Annotation | None, others: Sequence[Annotation], context: Context, written: Written) -> Dataset:
    main = region or others[0]
    frames = _frames_of(main)
    several = region is not None and len(region.contours) > 1
    template = "1501" if region is None else "1411" if several else "1410"
    tracking = main.prop("tracking_uid") or f"2.25.{int(main.id, 16)}"
    children = [
        item(
            "TEXT", sr.TRACKING_ID, "HAS OBS CONTEXT", TextValue=main.prop("tracking_id") or main.label.name[:64]
        ),
        item("UIDREF", sr.TRACKING_UID, "HAS OBS CONTEXT", UID=tracking),
    ]  # fmt: skip
    judged = [one for one in others if one.kind == "label"]
    if region is not None:
        if region.label.category is not None:
            children.append(_coded(sr.FINDING_CATEGORY, region.label.category))
        children.append(_coded(sr.FINDING, region.label.code or own_code(region.label.name)))
    elif len(judged) == 1 and len(others) == 1 and not judged[0].prop("concept"):
        children.append(_coded(sr.FINDING, judged[0].label.code or own_code(judged[0].label.name)))
    site = main.prop("anatomic_region").split("^")
    if len(site) == 3:
        children.append(_coded(sr.FINDING_SITE, Code(*site), "HAS CONCEPT MOD"))
    segment, _, number = main.prop("referenced_segment").partition("#")
    if region is not None:
        written.meant.append(_named(sr.graphic_meant(region)))
        for contour in region.contours:
            children.append(_scoord(region, contour, context))
    elif segment and number.isdigit():
        children.append(_segment_item(segment, int(number), context))
    elif frames:
        children.append(image_item(context.places, frames[0], "CONTAINS", sr.MEASURED_ON))
    for one in others:
        target = one.target if region is None else _target_of(region, context)
        if region is None and frames:
            target = context.places.target("frame", frames[:1])
        elif region is None:
            target = replace(one.target, level="study")
        if one.kind == "measurement":
            children.append(_num(one))
        elif not (region is None and len(others) == 1 and not one.prop("concept")):
            name = one.prop("concept_code").split("^")
            concept = Code(*name) if len(name) == 3 else own_code(one.prop("concept") or "Evaluation")
            children.append(_coded(concept, one.label.code or own_code(one.label.name)))
        written.meant.append(_named(replace(one, target=target)))
    made = item("CONTAINER", Code("125007", "DCM", "Measurement Group"), children=children)
    made.ContentTemplateSequence = sequence([dataset(MappingResource="DCMR", TemplateIdentifier=template)])
    return made


def _named(one: Annotation) -> Annotation:
    """With the name that a code gives it: a report holds codes with their meanings, and no names beside."""
    code = one.label.code
    return one if code is None else replace(one, label=replace(one.label, name=code.meaning or code.value))


def _target_of(region: Annotation, context: Context) -> Any:
    return context.places.target("region", list(region.frames))


def _coded(name: Code, value: Code, relation: str = "CONTAINS") -> Dataset:
    return item("CODE", name, relation, ConceptCodeSequence=objects.code_items(value))


def _num(one: Annotation) -> Dataset:
    assert one.value is not None
    unit = one.unit or "1"
    value = dataset(
        NumericValue=decimal(one.value),
        FloatingPointValue=float(one.value),
        MeasurementUnitsCodeSequence=objects.code_items(Code(unit, "UCUM", "no units" if unit == "1" else unit)),
    )
    return item(
        "NUM", one.label.code or own_code(one.label.name), MeasuredValueSequence=sequence([value])
    )  # fmt: skip


def _scoord(region: Annotation, contour: Any, context: Context) -> Dataset:
    shape, points = sr.as_graphic(region, contour)
    data = (points[:, ::-1] + 0.5).astype(np.float32)
    image = image_item(context.places, contour.frame, "SELECTED FROM")
    return item(
        "SCOORD", sr.REGION, children=[image], GraphicType=shape,
        GraphicData=[float(value) for value in data.ravel()],
    )  # fmt: skip


def _segment_item(uid: str, number: int, context: Context) -> Dataset:
    file = context.places.file_of_instance(uid)
    sop_class = context.places.file(file)["sop_class_uid"] if file is not None else objects.SEG
    return dataset(
        RelationshipType="CONTAINS",
        ValueType="IMAGE",
        ConceptNameCodeSequence=objects.code_items(sr.SEGMENT),
        ReferencedSOPSequence=sequence(
            [dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid, ReferencedSegmentNumber=number)]
        ),
    )


def _finish(
    made: Dataset, groups: Sequence[Dataset], frames: Sequence[FrameId], members: Sequence[Annotation], context: Context
) -> None:
    made.ReferencedPerformedProcedureStepSequence = sequence([])
    made.PerformedProcedureCodeSequence = sequence([])
    made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "FINAL"
    if frames:
        made.CurrentRequestedProcedureEvidenceSequence = evidence(context.places, frames)
    author = person(members)
    language = item(
        "CODE", Code("121049", "DCM", "Language of Content Item and Descendants"), "HAS CONCEPT MOD",
        ConceptCodeSequence=objects.code_items(Code("en-US", "RFC5646", "English (United States)")),
    )  # fmt: skip
    observer = [
        item(
            "CODE", Code("121005", "DCM", "Observer Type"), "HAS OBS CONTEXT",
            ConceptCodeSequence=objects.code_items(
                Code("121006", "DCM", "Person") if author else Code("121007", "DCM", "Device")
            ),
        )
    ]  # fmt: skip
    if author:
        observer.append(
            item("PNAME", Code("121008", "DCM", "Person Observer Name"), "HAS OBS CONTEXT", PersonName=author)
        )
    else:
        observer.append(
            item(
                "UIDREF", Code("121012", "DCM", "Device Observer UID"), "HAS OBS CONTEXT",
                UID=f"2.25.{int(members[0].id, 16)}",
            )
        )  # fmt: skip
    procedure = item(
        "CODE", Code("121058", "DCM", "Procedure reported"), "HAS CONCEPT MOD",
        ConceptCodeSequence=objects.code_items(Code("363679005", "SCT", "Imaging procedure")),
    )  # fmt: skip
    library = item("CONTAINER", Code("111028", "DCM", "Image Library"))
    measured = item("CONTAINER", Code("126010", "DCM", "Imaging Measurements"), children=groups)
    root(
        made, Code("126000", "DCM", "Imaging Measurement Report"), "1500",
        [language, *observer, procedure, library, measured],
    )  # fmt: skip
