"""What the DICOM objects that dcmark writes by itself share: patient, study, references, content items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dcmark.annotate import objects
from dcmark.annotate.formats.base import Context
from dcmark.annotate.model import Annotation, Code
from dcmark.annotate.places import Places
from dcmark.archive.assemble import ASSEMBLY_COLUMNS, header_dataset
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset

TISSUE = Code("85756007", "SCT", "Tissue")
SERIES_NUMBER = 9000
MANUFACTURER = "dcmark"
_FROM_SOURCE = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def dataset(**attributes: Any) -> Dataset:
    """A data set of attributes by keyword."""
    from pydicom import Dataset

    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def sequence(members: Iterable[Dataset]) -> Any:
    """A sequence of items."""
    from pydicom import Sequence as Members

    return Members(list(members))


def header(context: Context, file: str) -> Dataset:
    """The header of a file; what a derived object takes over is there, if empty."""
    rows = context.archive.read("files", list(ASSEMBLY_COLUMNS), f"sha256 = X'{file}'").to_pylist()
    dataset = header_dataset(context.archive, rows[0])
    for keyword in (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
        "StudyTime", "ReferringPhysicianName",
    ):  # fmt: skip
        if keyword not in dataset:
            setattr(dataset, keyword, None if keyword == "PatientName" else "")
    return dataset


def own_code(name: str) -> Code:
    """A private code for a label without one (PS3.16 section 8: schemes that begin with 99 are private)."""
    import hashlib

    return Code(hashlib.sha256(name.encode()).hexdigest()[:12].upper(), objects.OWN_SCHEME, name[:64])


def now() -> datetime:
    """The time of writing."""
    return datetime.now().astimezone()


def begin(context: Context, file: str, sop_class: str, modality: str, offset: int, description: str) -> Dataset:
    """A new object of the patient and study of a file: SOP Common, Patient, Study, Series, Equipment.

    Args:
        file: SHA-256 of an image it belongs to.
        offset: added to the number of the series.
    """
    from pydicom.uid import generate_uid

    import dcmark

    source = header(context, file)
    moment = now()
    made = dataset(
        SOPClassUID=sop_class,
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        Modality=modality,
        SeriesNumber=SERIES_NUMBER + offset,
        InstanceNumber=1,
        SeriesDescription=description,
        SeriesDate=moment.strftime("%Y%m%d"),
        SeriesTime=moment.strftime("%H%M%S"),
        Manufacturer=MANUFACTURER,
        ManufacturerModelName="dcmark",
        DeviceSerialNumber="0",
        SoftwareVersions=dcmark.__version__,
        InstanceCreationDate=moment.strftime("%Y%m%d"),
        InstanceCreationTime=moment.strftime("%H%M%S"),
    )
    for keyword in _FROM_SOURCE:
        if keyword in source:
            made[keyword] = source[keyword]
    return made


def save(made: Dataset, path: Path) -> None:
    """Write an object as a file, Explicit VR Little Endian."""
    import warnings

    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if any(not text.isascii() for text in _texts(made)):
        made.SpecificCharacterSet = "ISO_IR 192"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)


def _texts(made: Dataset) -> Iterable[str]:
    from pydicom import Sequence as Members

    for element in made:
        if isinstance(element.value, Members):
            for item in element.value:
                yield from _texts(item)
        elif element.VR in ("LO", "SH", "PN", "ST", "LT", "UT", "UC"):
            yield str(element.value)


def person(annotations: Sequence[Annotation]) -> str:
    """A Person Name for the author of annotations; empty where there is none."""
    author = next((one.author for one in annotations if one.author), "")
    return author.replace("\\", " ").replace("=", " ")[:64]


def reference(places: Places, frame: FrameId) -> Dataset:
    """An item that refers to the instance of a frame, and to the frame where it has several."""
    sop_class, uid = places.instance(frame)
    made = dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)
    if (places.file(frame.file)["number_of_frames"] or 1) > 1:
        made.ReferencedFrameNumber = frame.frame + 1
    return made


def evidence(places: Places, frames: Iterable[FrameId]) -> Any:
    """Current Requested Procedure Evidence Sequence: study, series and instances of frames (PS3.3 table C.17-3)."""
    studies: dict[str, dict[str, dict[str, str]]] = {}
    for file in dict.fromkeys(frame.file for frame in frames):
        row = places.file(file)
        sop_class, uid = places.instance(FrameId(file, 0))
        series = studies.setdefault(row["study_instance_uid"], {}).setdefault(row["series_instance_uid"], {})
        series[uid] = sop_class
    return sequence(
        dataset(
            StudyInstanceUID=study,
            ReferencedSeriesSequence=sequence(
                dataset(
                    SeriesInstanceUID=series,
                    ReferencedSOPSequence=sequence(
                        dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)
                        for uid, sop_class in members.items()
                    ),
                )
                for series, members in found.items()
            ),
        )
        for study, found in studies.items()
    )


def by_study(annotations: Sequence[Annotation], context: Context) -> dict[str, list[Annotation]]:
    """Annotations by the study of their frames, or of their target."""
    found: dict[str, list[Annotation]] = {}
    for one in annotations:
        frames = one.frames
        study = context.places.file(frames[0].file)["study_instance_uid"] if frames else one.target.study
        found.setdefault(study or "", []).append(one)
    return found


# Content items of structured documents (PS3.3 C.17.3) -----------------------------------------------------------------


def item(kind: str, name: Code, relation: str = "CONTAINS", children: Sequence[Dataset] = (), **value: Any) -> Dataset:
    """A content item."""
    made = dataset(RelationshipType=relation, ValueType=kind, ConceptNameCodeSequence=objects.code_items(name), **value)
    if kind == "CONTAINER":
        made.ContinuityOfContent = "SEPARATE"
    if children:
        made.ContentSequence = sequence(children)
    return made


def image_item(places: Places, frame: FrameId, relation: str, name: Code | None = None) -> Dataset:
    """A reference to an image as a content item."""
    made = dataset(
        RelationshipType=relation, ValueType="IMAGE", ReferencedSOPSequence=sequence([reference(places, frame)])
    )
    if name is not None:
        made.ConceptNameCodeSequence = objects.code_items(name)
    return made


def root(made: Dataset, name: Code, template: str, children: Sequence[Dataset]) -> None:
    """Turn an object into the root of a content tree."""
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = objects.code_items(name)
    made.ContentTemplateSequence = sequence([dataset(MappingResource="DCMR", TemplateIdentifier=template)])
    made.ContentSequence = sequence(children)
    moment = now()
    made.ContentDate, made.ContentTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
