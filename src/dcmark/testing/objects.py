"""Whole objects besides plain images: waveform, document, enhanced multi-frame CT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.testing.builders import image_dataset, pattern
from dcmark.testing.encoding import uid, write

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["encapsulated_pdf", "enhanced_ct", "waveform"]


def _without_pixels(sop_class: str, modality: str, name: str) -> Dataset:
    dataset = image_dataset(pattern((2, 2)), sop_class=sop_class, name=name)
    for keyword in (
        "PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
        "SamplesPerPixel", "PhotometricInterpretation", "ConversionType",
    ):  # fmt: skip
        delattr(dataset, keyword)
    dataset.Modality = modality
    return dataset


def waveform(samples: int = 100) -> bytes:
    """A two-channel ECG (PS3.3 A.34.4), 16 bits at 500 Hz."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def code(value: str, meaning: str, scheme: str) -> Dataset:
        entry = Dataset()
        entry.CodeValue, entry.CodingSchemeDesignator, entry.CodeMeaning = value, scheme, meaning
        return entry

    dataset = _without_pixels("1.2.840.10008.5.1.4.1.1.9.1.2", "ECG", "waveform")
    dataset.ContentDate, dataset.ContentTime, dataset.AcquisitionDateTime = "20240229", "081500", "20240229081500"
    dataset.Manufacturer, dataset.AcquisitionContextSequence = "Phantom Works", Sequence([])
    channels = []
    for number, lead in ((1, "Lead I"), (2, "Lead II")):
        channel = Dataset()
        channel.ChannelSourceSequence = Sequence([code(f"5.6.3-9-{number}", lead, "SCPECG")])
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = "1", "1"
        channel.ChannelSensitivityUnitsSequence = Sequence([code("uV", "microvolt", "UCUM")])
        channel.ChannelBaseline, channel.ChannelSampleSkew, channel.WaveformBitsStored = "0", "0", 16
        channels.append(channel)
    group = Dataset()
    group.WaveformOriginality, group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = "ORIGINAL", 2, samples
    group.SamplingFrequency, group.ChannelDefinitionSequence = "500", Sequence(channels)
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    time = np.arange(samples) / 500
    values = np.stack([900 * np.sin(7 * time), 1200 * np.cos(11 * time)], axis=1).astype("<i2")
    group.add_new("WaveformData", "OW", values.tobytes())
    dataset.WaveformSequence = Sequence([group])
    return write(dataset)


def encapsulated_pdf() -> bytes:
    """An Encapsulated PDF (PS3.3 A.45.1): one empty page."""
    dataset = _without_pixels("1.2.840.10008.5.1.4.1.1.104.1", "DOC", "pdf")
    pages = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>",
    )
    document, places = b"%PDF-1.4\n", []
    for number, page in enumerate(pages, 1):
        places.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, page)
    start = len(document)
    document += b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    document += b"trailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start
    dataset.Manufacturer, dataset.ConversionType, dataset.BurnedInAnnotation = "Phantom Works", "SD", "NO"
    dataset.ContentDate = dataset.ContentTime = dataset.AcquisitionDateTime = dataset.DocumentTitle = ""
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(document)
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    return write(dataset)


def enhanced_ct(
    volume: NDArray[Any] | None = None,
    *,
    spacing_mm: tuple[float, float, float] = (2.0, 0.8, 0.8),
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    order: list[int] | None = None,
    syntax: str = "explicit",
    seed: int = 0,
) -> bytes:
    """A whole axial volume in one Enhanced CT Image (PS3.3 A.38).

    Args:
        volume: (slices, rows, columns) HU; left out, 4 slices of 8 x 8.
        order: the slice that each frame holds; left out, upwards. Positions follow the slices.
    """
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    hu = pattern((4, 8, 8), np.int16, 11) if volume is None else np.asarray(volume)
    order = order or list(range(len(hu)))
    stored = np.clip(hu[order].astype(np.int32) + 1024, 0, 4095).astype(np.uint16)
    dataset = image_dataset(stored, frames=True, bits_stored=12, name=f"enhanced {seed}")
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.2.1", "CT"
    del dataset.ConversionType
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.StudyDate = dataset.ContentDate = "20240229"
    dataset.StudyTime = dataset.ContentTime = "081500"
    dataset.AcquisitionDateTime, dataset.AcquisitionDuration = "20240229081500", 1.5
    dataset.Manufacturer, dataset.ManufacturerModelName = "Phantom Works", "Synthetic 64"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "0", "1"
    dataset.PixelPresentation, dataset.VolumetricProperties = "MONOCHROME", "VOLUME"
    dataset.VolumeBasedCalculationTechnique, dataset.BurnedInAnnotation = "NONE", "NO"
    dataset.LossyImageCompression, dataset.PresentationLUTShape = "00", "IDENTITY"
    dataset.ContentQualification, dataset.AcquisitionContextSequence = "RESEARCH", Sequence([])
    dataset.FrameOfReferenceUID = uid("enhanced", seed, "frame of reference")
    dataset.PositionReferenceIndicator, dataset.PatientPosition = "", "HFS"

    def one(**attributes: Any) -> Any:
        entry = Dataset()
        for keyword, value in attributes.items():
            setattr(entry, keyword, value)
        return Sequence([entry])

    dataset.DimensionOrganizationSequence = one(DimensionOrganizationUID=uid("enhanced", seed, "dimensions"))
    pointers = []
    for keyword in ("StackID", "InStackPositionNumber"):
        pointers += list(
            one(
                DimensionOrganizationUID=uid("enhanced", seed, "dimensions"),
                DimensionIndexPointer=tag_for_keyword(keyword),
                FunctionalGroupPointer=tag_for_keyword("FrameContentSequence"),
            )
        )
    dataset.DimensionIndexSequence = Sequence(pointers)
    dataset.SharedFunctionalGroupsSequence = one(
        PixelMeasuresSequence=one(
            SliceThickness=spacing_mm[0], SpacingBetweenSlices=spacing_mm[0], PixelSpacing=list(spacing_mm[1:])
        ),
        PlaneOrientationSequence=one(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelValueTransformationSequence=one(RescaleIntercept="-1024", RescaleSlope="1", RescaleType="HU"),
        FrameVOILUTSequence=one(WindowCenter="50", WindowWidth="400"),
        FrameAnatomySequence=one(
            FrameLaterality="U",
            AnatomicRegionSequence=one(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Chest"),
        ),
        CTImageFrameTypeSequence=one(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE",
        ),
    )  # fmt: skip
    x, y, z = origin_mm
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [
            one(
                FrameContentSequence=one(
                    StackID="1",
                    InStackPositionNumber=slice_number + 1,
                    DimensionIndexValues=[1, slice_number + 1],
                    FrameAcquisitionNumber=1,
                ),
                PlanePositionSequence=one(ImagePositionPatient=[x, y, z + spacing_mm[0] * slice_number]),
            )[0]
            for slice_number in order
        ]
    )
    return write(dataset, syntax)
