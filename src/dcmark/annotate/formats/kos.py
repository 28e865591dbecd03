"""Key Object Selection (PS3.3 A.35.4, TID 2010): images marked for a reason, as labels on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dcmark.annotate import objects
from dcmark.annotate.formats.base import Context, Imported, Written, reading_file
from dcmark.annotate.formats.dicom_write import begin, evidence, image_item, item, root, save, sequence
from dcmark.annotate.formats.seg import date_time
from dcmark.annotate.formats.sr import concept, walk
from dcmark.annotate.model import Annotation, Code, Label
from dcmark.annotate.objects import DicomObject, code, text
from dcmark.errors import SourceError
from dcmark.findings import Finding
from dcmark.read.attributes import items, numbers, word
from dcmark.read.volume_model import FrameId

OF_INTEREST = Code("113000", "DCM", "Of Interest")
DESCRIPTION = Code("113012", "DCM", "Key Object Description")
_TITLES = frozenset(str(number) for number in (*range(113000, 113011), 113013, 113018, 113020, 113021, 113030, 113031))


class KosFormat:
    """KOS: a label on each chosen image, named by the document's title, with its description as text."""

    name = "kos"
    suffixes = (".dcm",)

    def read(self, source: Path, context: Context) -> Imported:
        """The images that are in the archive."""
        with reading_file("a key object selection", source.name):
            return self.read_object(objects.of_file(source, context.limits), context)

    def read_object(self, found: DicomObject, context: Context) -> Imported:
        """The images that are in the archive."""
        if found.sop_class != objects.KOS:
            raise SourceError(f"{found.name}: expected a key object selection, found another SOP class")
        title = code(found.dataset, "ConceptNameCodeSequence") or OF_INTEREST
        words, author = "", context.author
        made: list[Annotation] = []
        missing = 0
        for one in walk(found.dataset, found.name):
            if concept(one) == DESCRIPTION[:2]:
                words = text(one, "TextValue")
            elif concept(one) == ("121008", "DCM"):
                author = text(one, "PersonName") or author
            elif word(one, "ValueType") == "IMAGE":
                for image in items(one, "ReferencedSOPSequence"):
                    uid = text(image, "ReferencedSOPInstanceUID")
                    chosen = [int(k) - 1 for k in numbers(image, "ReferencedFrameNumber")]
                    for number in chosen or [0]:
                        frame = context.places.frame_of_instance(uid, number)
                        missing += frame is None
                        if frame is not None:
                            target = context.places.target("frame" if chosen else "instance", [frame])
                            made.append(Annotation("label", target, Label(title.meaning, title)))
        done = [
            replace(one, text=words, author=author, time=date_time(found.dataset), origin=found.uid) for one in made
        ]
        findings = [
            Finding("warning", "no-image", f"{missing} key images are not in the archive", "left out")
        ] if missing else []  # fmt: skip
        return Imported(done, findings=findings)

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """One object a study and label; a label that is no title of the standard becomes the description."""
        written = Written()
        groups: dict[tuple[str, str, str], list[Annotation]] = {}
        for one in annotations:
            if one.kind != "label" or one.target.level not in ("instance", "frame") or not one.target.file:
                written.leave_out(one, "the format holds labels of images only")
                continue
            row = context.places.file(one.target.file)
            if not row["sop_instance_uid"]:
                written.leave_out(one, "it is about a file that is no DICOM image")
                continue
            own = one.label.code is not None and one.label.code.scheme == "DCM" and one.label.code.value in _TITLES
            words = one.text if own else one.label.name
            title = one.label.code.value if own and one.label.code is not None else ""
            groups.setdefault((row["study_instance_uid"], title, words), []).append(one)
        for place, ((_, title, words), members) in enumerate(sorted(groups.items()), 1):
            name = members[0].label.code if title else OF_INTEREST
            assert name is not None
            frames = [FrameId(one.target.file, one.target.frame or 0) for one in members]
            made = begin(context, frames[0].file, objects.KOS, "KO", 5, "Key images")
            made.ReferencedPerformedProcedureStepSequence = sequence([])
            made.CurrentRequestedProcedureEvidenceSequence = evidence(context.places, frames)
            children = [item("TEXT", DESCRIPTION, TextValue=words)] if words else []
            children += [image_item(context.places, frame, "CONTAINS") for frame in frames]
            root(made, name, "2010", children)
            path = out / f"key_images_{place}.dcm"
            save(made, path)
            written.files.append(path)
            for one, frame in zip(members, frames, strict=True):
                several = (context.places.file(frame.file)["number_of_frames"] or 1) > 1
                target = context.places.target("frame" if several else "instance", [frame])
                written.meant.append(replace(one, target=target, label=Label(name.meaning, name), text=words))
        return written
