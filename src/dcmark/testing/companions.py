"""What lies beside the images of a study and is no image: GSPS, SEG, KOS and SR, by pydicom alone.

Every function takes the data sets of a CT series (``synthetic.ct_datasets``) and gives one data set that
belongs to the same study and points at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.testing.encoding import uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["key_objects", "measurement_report", "presentation_state", "segmentation"]

_FROM_SOURCE = (
    "SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyID",
    "InstitutionName",
)  # fmt: skip
_LESION = ("52988006", "SCT", "Lesion")
_LIVER = ("10200004", "SCT", "Liver")


def _dataset(**attributes: Any) -> Dataset:
    from pydicom.dataset import Dataset

    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def _sequence(*members: Dataset) -> Any:
    from pydicom.sequence import Sequence as Members

    return Members(members)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _reference(image: Dataset, **more: Any) -> Dataset:
    return _dataset(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID, **more)


def _start(source: Sequence[Dataset], sop_class: str, modality: str, series: int, name: str) -> Dataset:
    first = source[0]
    made = _dataset(
        SOPClassUID=sop_class,
        SOPInstanceUID=uid(first.SeriesInstanceUID, name, "instance"),
        SeriesInstanceUID=uid(first.SeriesInstanceUID, name, "series"),
        Modality=modality,
        SeriesNumber=series,
        InstanceNumber=1,
        SeriesDate=first.SeriesDate,
        SeriesTime=first.SeriesTime,
        ContentDate=first.ContentDate,
        ContentTime=first.ContentTime,
        Manufacturer="Phantom Works",
        ManufacturerModelName="Reading room",
        DeviceSerialNumber="0",
        SoftwareVersions="1",
    )
    for keyword in _FROM_SOURCE:
        if keyword in first:
            # taken over as it lies: what is wrong in the images is wrong here too
            made[keyword] = first[keyword]
    return made


def _series_reference(source: Sequence[Dataset], used: Sequence[Dataset]) -> Dataset:
    return _dataset(
        SeriesInstanceUID=source[0].SeriesInstanceUID,
        ReferencedSOPSequence=_sequence(*(_reference(image) for image in used)),
    )


def _evidence(source: Sequence[Dataset], used: Sequence[Dataset]) -> Any:
    return _sequence(
        _dataset(
            StudyInstanceUID=source[0].StudyInstanceUID,
            ReferencedSeriesSequence=_sequence(_series_reference(source, used)),
        )
    )


def outlines(labels: NDArray[np.uint8]) -> list[tuple[int, int, NDArray[np.float32]]]:
    """Every labelled region of a volume (slices, rows, columns) as a closed polygon.

    Returns:
        (slice, label, points) with points (n, 2) as column and row in pixels; 0.0, 0.0 is the outer
        corner of the first pixel and 0.5, 0.5 its centre (PS3.3 C.10.5.1.1 and C.18.6.1.2). The polygon
        is meant for round regions: it is drawn around the centroid, touching from outside.
    """
    found = []
    for number, plane in enumerate(labels):
        for label in np.unique(plane[plane > 0]):
            rows, columns = np.nonzero(plane == label)
            angles = np.linspace(0, 2 * np.pi, 25)
            reach = np.stack([np.cos(angles), np.sin(angles)])
            offsets = np.stack([columns - columns.mean(), rows - rows.mean()])
            distance = np.max(reach.T @ offsets, axis=1) + 0.5
            points = np.stack([columns.mean() + 0.5 + reach[0] * distance, rows.mean() + 0.5 + reach[1] * distance])
            points[:, -1] = points[:, 0]
            found.append((number, int(label), points.T.astype(np.float32)))
    return found


def presentation_state(source: Sequence[Dataset], labels: NDArray[np.uint8], *, series: int = 2) -> Dataset:
    """A GSPS (PS3.3 A.33.1) with a closed polyline round every region, a named graphic layer a label.

    Args:
        source: the CT slices, one for each slice of ``labels``.
        labels: (slices, rows, columns); 0 is background.
    """
    made = _start(source, "1.2.840.10008.5.1.4.1.1.11.1", "PR", series, "presentation")
    drawn = outlines(labels)
    numbers = sorted({label for _, label, _ in drawn})
    made.ContentLabel, made.ContentDescription, made.ContentCreatorName = "LESIONS", "Outlined lesions", "Reader^One"
    made.PresentationCreationDate, made.PresentationCreationTime = made.ContentDate, made.ContentTime
    made.ReferencedSeriesSequence = _sequence(
        _dataset(
            SeriesInstanceUID=source[0].SeriesInstanceUID,
            ReferencedImageSequence=_sequence(*(_reference(image) for image in source)),
        )
    )
    made.GraphicLayerSequence = _sequence(
        *(
            _dataset(
                GraphicLayer=f"LESION {label}",
                GraphicLayerOrder=label,
                GraphicLayerRecommendedDisplayCIELabValue=[(20000 + 7000 * label) % 65536, 50000, 45000],
                GraphicLayerDescription=f"Metastasis {label}",
            )
            for label in numbers
        )
    )
    made.GraphicAnnotationSequence = _sequence(
        *(
            _dataset(
                ReferencedImageSequence=_sequence(_reference(source[number])),
                GraphicLayer=f"LESION {label}",
                GraphicObjectSequence=_sequence(
                    _dataset(
                        GraphicAnnotationUnits="PIXEL",
                        GraphicDimensions=2,
                        NumberOfGraphicPoints=len(points),
                        GraphicData=[float(value) for value in points.ravel()],
                        GraphicType="POLYLINE",
                        GraphicFilled="N",
                    )
                ),
            )
            for number, label, points in drawn
        )
    )
    made.DisplayedAreaSelectionSequence = _sequence(
        _dataset(
            DisplayedAreaTopLeftHandCorner=[1, 1],
            DisplayedAreaBottomRightHandCorner=[source[0].Columns, source[0].Rows],
            PresentationSizeMode="SCALE TO FIT",
            PresentationPixelAspectRatio=["1", "1"],
        )
    )
    made.SoftcopyVOILUTSequence = _sequence(_dataset(WindowCenter="60", WindowWidth="350"))
    made.PresentationLUTShape = "IDENTITY"
    if not drawn:
        del made.GraphicLayerSequence, made.GraphicAnnotationSequence
    return made


def segmentation(source: Sequence[Dataset], labels: NDArray[np.uint8], *, series: int = 3) -> Dataset:
    """A binary SEG (PS3.3 A.51): a segment a label, a frame for each slice that a segment touches.

    Args:
        source: the CT slices in the order of ``labels``, on one grid.
        labels: (slices, rows, columns) with at least one region.

    Raises:
        ValueError: there is no region at all.
    """
    from pydicom.datadict import tag_for_keyword

    numbers = [int(label) for label in np.unique(labels[labels > 0])]
    if not numbers:
        raise ValueError("a segmentation needs at least one labelled voxel; found none")
    made = _start(source, "1.2.840.10008.5.1.4.1.1.66.4", "SEG", series, "segmentation")
    first = source[0]
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    made.ContentLabel, made.ContentDescription, made.ContentCreatorName = "LESIONS", "Liver metastases", "Reader^One"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = first.Rows, first.Columns
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = made.PixelRepresentation = 0
    made.LossyImageCompression, made.SegmentationType = "00", "BINARY"
    made.SegmentSequence = _sequence(
        *(
            _dataset(
                SegmentNumber=place,
                SegmentLabel=f"Metastasis {label}",
                SegmentAlgorithmType="MANUAL",
                SegmentedPropertyCategoryCodeSequence=_sequence(
                    _code("49755003", "SCT", "Morphologically Altered Structure")
                ),
                SegmentedPropertyTypeCodeSequence=_sequence(_code("79282002", "SCT", "Metastasis")),
                AnatomicRegionSequence=_sequence(_code(*_LIVER)),
                TrackingID=f"lesion {label}",
                TrackingUID=uid(first.SeriesInstanceUID, "tracking", label),
                RecommendedDisplayCIELabValue=[(20000 + 7000 * label) % 65536, 50000, 45000],
            )
            for place, label in enumerate(numbers, 1)
        )
    )
    organisation = uid(first.SeriesInstanceUID, "dimensions")
    made.DimensionOrganizationSequence = _sequence(_dataset(DimensionOrganizationUID=organisation))
    made.DimensionIndexSequence = _sequence(
        *(
            _dataset(
                DimensionOrganizationUID=organisation,
                DimensionIndexPointer=tag_for_keyword(pointer),
                FunctionalGroupPointer=tag_for_keyword(group),
            )
            for pointer, group in (
                ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
                ("ImagePositionPatient", "PlanePositionSequence"),
            )
        )
    )
    made.SharedFunctionalGroupsSequence = _sequence(
        _dataset(
            PixelMeasuresSequence=_sequence(
                _dataset(
                    SliceThickness=first.SliceThickness,
                    SpacingBetweenSlices=_distance(source),
                    PixelSpacing=first.PixelSpacing,
                )
            ),
            PlaneOrientationSequence=_sequence(_dataset(ImageOrientationPatient=first.ImageOrientationPatient)),
        )
    )
    planes, groups = [], []
    for place, label in enumerate(numbers, 1):
        for number in np.flatnonzero((labels == label).any(axis=(1, 2))):
            planes.append(labels[number] == label)
            image = source[int(number)]
            purpose = _sequence(_code("121322", "DCM", "Source image for image processing operation"))
            derivation = _sequence(_code("113076", "DCM", "Segmentation"))
            groups.append(
                _dataset(
                    FrameContentSequence=_sequence(_dataset(DimensionIndexValues=[place, int(number) + 1])),
                    PlanePositionSequence=_sequence(_dataset(ImagePositionPatient=image.ImagePositionPatient)),
                    SegmentIdentificationSequence=_sequence(_dataset(ReferencedSegmentNumber=place)),
                    DerivationImageSequence=_sequence(
                        _dataset(
                            SourceImageSequence=_sequence(_reference(image, PurposeOfReferenceCodeSequence=purpose)),
                            DerivationCodeSequence=derivation,
                        )
                    ),
                )
            )
    made.PerFrameFunctionalGroupsSequence = _sequence(*groups)
    made.NumberOfFrames = len(planes)
    made.ReferencedSeriesSequence = _sequence(
        _dataset(
            SeriesInstanceUID=first.SeriesInstanceUID,
            ReferencedInstanceSequence=_sequence(*(_reference(image) for image in source)),
        )
    )
    packed = np.packbits(np.stack(planes).ravel(), bitorder="little").tobytes()
    made.PixelData = packed + b"\0" * (len(packed) % 2)
    made["PixelData"].VR = "OB"
    return made


def _distance(source: Sequence[Dataset]) -> str:
    if len(source) < 2:
        return str(source[0].SliceThickness)
    apart = np.subtract(source[1].ImagePositionPatient, source[0].ImagePositionPatient)
    return f"{float(np.linalg.norm(apart.astype(float))):.8g}"


def _content(kind: str, name: tuple[str, str, str], relation: str = "CONTAINS", **value: Any) -> Dataset:
    made = _dataset(ValueType=kind, ConceptNameCodeSequence=_sequence(_code(*name)))
    if relation:
        made.RelationshipType = relation
    for keyword, content in value.items():
        setattr(made, keyword, content)
    return made


def _image(image: Dataset, relation: str) -> Dataset:
    return _dataset(RelationshipType=relation, ValueType="IMAGE", ReferencedSOPSequence=_sequence(_reference(image)))


def _root(made: Dataset, name: tuple[str, str, str], template: str, children: Sequence[Dataset]) -> None:
    """Turn a data set into the root of a content tree (PS3.3 C.17.3)."""
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = _sequence(_code(*name))
    made.ContentTemplateSequence = _sequence(_dataset(MappingResource="DCMR", TemplateIdentifier=template))
    made.ContentSequence = _sequence(*children)


def key_objects(source: Sequence[Dataset], chosen: Sequence[int], *, series: int = 2) -> Dataset:
    """A Key Object Selection (PS3.3 A.35.4, TID 2010): the chosen slices, "For Teaching"."""
    used = [source[number] for number in chosen]
    made = _start(source, "1.2.840.10008.5.1.4.1.1.88.59", "KO", series, "key objects")
    made.ReferencedPerformedProcedureStepSequence = _sequence()
    made.CurrentRequestedProcedureEvidenceSequence = _evidence(source, used)
    children = [
        _content("TEXT", ("113012", "DCM", "Key Object Description"), TextValue="Slices that show a lesion"),
        *(_image(image, "CONTAINS") for image in used),
    ]
    _root(made, ("113004", "DCM", "For Teaching"), "2010", children)
    return made


def measurement_report(source: Sequence[Dataset], labels: NDArray[np.uint8], *, series: int = 3) -> Dataset:
    """A Comprehensive 3D SR after TID 1500: a measurement group a lesion, with its outline and its area.

    The group is a planar ROI (TID 1410) on the slice where the lesion is largest.
    """
    made = _start(source, "1.2.840.10008.5.1.4.1.1.88.34", "SR", series, "report")
    made.ReferencedPerformedProcedureStepSequence = made.PerformedProcedureCodeSequence = _sequence()
    made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "FINAL"
    pixel_mm2 = float(source[0].PixelSpacing[0]) * float(source[0].PixelSpacing[1])
    largest: dict[int, tuple[int, int, NDArray[np.float32]]] = {}
    for number, label, points in outlines(labels):
        area = int((labels[number] == label).sum())
        if label not in largest or area > largest[label][0]:
            largest[label] = (area, number, points)
    series_uid = source[0].SeriesInstanceUID
    groups = [
        _lesion(label, area * pixel_mm2, points, source[number], uid(series_uid, "tracking", label))
        for label, (area, number, points) in sorted(largest.items())
    ]
    used = [source[number] for number in sorted({number for _, number, _ in largest.values()})]
    if used:
        made.CurrentRequestedProcedureEvidenceSequence = _evidence(source, used)
    english = _content(
        "CODE", ("121049", "DCM", "Language of Content Item and Descendants"), "HAS CONCEPT MOD",
        ConceptCodeSequence=_sequence(_code("en", "RFC5646", "English")),
    )  # fmt: skip
    english.ContentSequence = _sequence(
        _content("CODE", ("121046", "DCM", "Country of Language"), "HAS CONCEPT MOD",
                 ConceptCodeSequence=_sequence(_code("US", "ISO3166_1", "United States")))
    )  # fmt: skip
    children = [
        english,
        _content("CODE", ("121005", "DCM", "Observer Type"), "HAS OBS CONTEXT",
                 ConceptCodeSequence=_sequence(_code("121006", "DCM", "Person"))),
        _content("PNAME", ("121008", "DCM", "Person Observer Name"), "HAS OBS CONTEXT", PersonName="Reader^One"),
        _content("CODE", ("121058", "DCM", "Procedure reported"), "HAS CONCEPT MOD",
                 ConceptCodeSequence=_sequence(_code("77477000", "SCT", "Computed tomography"))),
        _content("CONTAINER", ("111028", "DCM", "Image Library"), ContinuityOfContent="SEPARATE"),
        _content("CONTAINER", ("126010", "DCM", "Imaging Measurements"), ContinuityOfContent="SEPARATE",
                 **({"ContentSequence": _sequence(*groups)} if groups else {})),
    ]  # fmt: skip
    _root(made, ("126000", "DCM", "Imaging Measurement Report"), "1500", children)
    return made


def _lesion(label: int, area_mm2: float, points: NDArray[np.float32], image: Dataset, tracking: str) -> Dataset:
    region = _content(
        "SCOORD", ("111030", "DCM", "Image Region"), GraphicType="POLYLINE",
        GraphicData=[float(value) for value in points.ravel()],
        ContentSequence=_sequence(_image(image, "SELECTED FROM")),
    )  # fmt: skip
    area = _content(
        "NUM", ("42798000", "SCT", "Area"),
        MeasuredValueSequence=_sequence(
            _dataset(
                NumericValue=f"{area_mm2:.6g}",
                MeasurementUnitsCodeSequence=_sequence(_code("mm2", "UCUM", "square millimeter")),
            )
        ),
    )  # fmt: skip
    group = _content(
        "CONTAINER", ("125007", "DCM", "Measurement Group"), ContinuityOfContent="SEPARATE",
        ContentTemplateSequence=_sequence(_dataset(MappingResource="DCMR", TemplateIdentifier="1410")),
    )  # fmt: skip
    group.ContentSequence = _sequence(
        _content("TEXT", ("112039", "DCM", "Tracking Identifier"), "HAS OBS CONTEXT", TextValue=f"lesion {label}"),
        _content("UIDREF", ("112040", "DCM", "Tracking Unique Identifier"), "HAS OBS CONTEXT", UID=tracking),
        _content("CODE", ("121071", "DCM", "Finding"), ConceptCodeSequence=_sequence(_code(*_LESION))),
        _content("CODE", ("363698007", "SCT", "Finding Site"), "HAS CONCEPT MOD",
                 ConceptCodeSequence=_sequence(_code(*_LIVER))),
        region,
        area,
    )  # fmt: skip
    return group
