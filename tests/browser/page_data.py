"""Images that the page is tried on: made up, so that every pixel is known."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

SLICES = 1000
HURT = "<img src=x onerror=window.hurt=1>"
SIDE, DEPTH = 128, 24
BALL, SHELL = 300, 600
FIRST = (-96.0, -96.0, -24.0)
"""Middle of the first voxel of the phantom, mm LPS; voxels are 1.5 x 1.5 x 2 mm."""
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@cache
def phantom() -> NDArray[np.int16]:
    """(slices, rows, columns): a body of 40 HU, a ball of 300 HU and, on all slices, a ring of 600 HU around water."""
    k, j, i = np.mgrid[:DEPTH, :SIDE, :SIDE]
    values = np.where((j - 64) ** 2 + (i - 64) ** 2 < 60**2, 40, -1000)
    ring = np.hypot(j - 90, i - 64)
    values[(ring >= 8) & (ring < 12)] = SHELL
    values[ring < 8] = 0
    values[((k - 12) * 2) ** 2 + ((j - 50) * 1.5) ** 2 + ((i - 64) * 1.5) ** 2 < 18**2] = BALL
    return np.asarray(values, np.int16)


def write(path: Path, kind: str, pixels: NDArray[Any], **tags: Any) -> None:
    """A DICOM file of one frame, or of several colour frames."""
    warnings.simplefilter("ignore")  # of pydicom, at names that are none
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    one = FileDataset(str(path), pydicom.Dataset(), file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    one.StudyInstanceUID, one.SeriesInstanceUID = generate_uid(), generate_uid()
    colour = pixels.dtype == np.uint8
    one.Rows, one.Columns = pixels.shape[1:3] if colour else pixels.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        one.PlanarConfiguration, one.NumberOfFrames = 0, len(pixels)
    one.BitsAllocated = one.BitsStored = pixels.dtype.itemsize * 8
    one.HighBit, one.PixelRepresentation = one.BitsStored - 1, int(pixels.dtype.kind == "i")
    one.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(one, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)


def long_ct(folder: Path) -> Path:
    """A CT of a thousand slices, 0.5 mm apart, with hostile names."""
    rng = np.random.default_rng(7)
    same = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
    }
    row, column = np.mgrid[-1:1:512j, -1:1:512j]
    noise = rng.integers(-20, 20, (512, 512), dtype=np.int16)
    for k in range(SLICES):
        values = np.where(row**2 / 0.36 + column**2 / 0.7 < 1, 45, -1000).astype(np.int16)
        values[(row - 0.1) ** 2 + (column - 0.2 * np.sin(k / 80)) ** 2 < 0.01] = 300
        write(
            folder / f"{k:04}.dcm", CTImageStorage, values + noise, **same, PatientName=HURT, PatientID="P1",
            Modality="CT", InstanceNumber=k + 1, SeriesDescription="<script>window.hurt=1</script>",
            ImagePositionPatient=[-180, -180, k / 2], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[0.7, 0.7], SliceThickness=0.5, RescaleSlope=1, RescaleIntercept=0, RescaleType="HU",
            WindowCenter=40, WindowWidth=400,
        )  # fmt: skip
    return folder


def small(folder: Path, hostile: bool = True) -> Path:
    """One patient: an axial CT and a coronal MR of one frame of reference, a cine in colour, a CR, a mammogram."""
    warnings.simplefilter("ignore")
    patient = {"PatientName": "Doe^Jane", "PatientID": "P2", "StudyInstanceUID": generate_uid()}
    place = generate_uid()
    ct = {"SeriesInstanceUID": generate_uid(), "Modality": "CT", "SeriesDescription": "Phantom axial"}
    for k, values in enumerate(phantom()):
        write(
            folder / "ct" / f"{k:02}.dcm", CTImageStorage, values, **patient, **ct, FrameOfReferenceUID=place,
            InstanceNumber=k + 1, ImagePositionPatient=[FIRST[0], FIRST[1], FIRST[2] + 2 * k],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1.5, 1.5], SliceThickness=2, RescaleSlope=1,
            RescaleIntercept=0, RescaleType="HU", WindowCenter=40, WindowWidth=400,
        )  # fmt: skip
    mr = {"SeriesInstanceUID": generate_uid(), "Modality": "MR", "SeriesDescription": "Phantom coronal"}
    for j in range(0, SIDE, 8):
        write(
            folder / "mr" / f"{j:03}.dcm", MRImageStorage, (phantom()[::-1, j, :] + 1000).astype(np.uint16), **patient,
            **mr, FrameOfReferenceUID=place, InstanceNumber=j // 8 + 1, PixelSpacing=[2, 1.5], SliceThickness=12,
            ImagePositionPatient=[FIRST[0], FIRST[1] + 1.5 * j, FIRST[2] + 2 * (DEPTH - 1)],
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        )  # fmt: skip
    film = np.zeros((12, 90, 120, 3), np.uint8)
    for n, frame in enumerate(film):
        frame[:, :60] = COLOURS[n % 3]
    write(
        folder / "us.dcm", UltrasoundMultiFrameImageStorage, film, **patient, Modality="US", FrameTime=50,
        SeriesDescription="Colour cine",
    )  # fmt: skip
    ramp = np.tile(np.arange(200, dtype=np.uint16) * 20, (160, 1))
    write(
        folder / "cr.dcm", ComputedRadiographyImageStorage, ramp, **patient, Modality="CR", BitsStored=12, HighBit=11,
        PhotometricInterpretation="MONOCHROME1", SeriesDescription="Hand", ImagerPixelSpacing=[0.2, 0.2],
        WindowCenter=2000, WindowWidth=4000,
    )  # fmt: skip
    write(
        folder / "mg.dcm", DigitalMammographyXRayImageStorageForPresentation, ramp.T.copy(), **patient, Modality="MG",
        BitsStored=12, HighBit=11, SeriesDescription="Breast", WindowCenter=2000, WindowWidth=4000,
    )  # fmt: skip
    if hostile:
        write(folder / "hostile.dcm", CTImageStorage, phantom()[0], **hostile_tags())
    return folder


def hostile_tags() -> dict[str, Any]:
    """A script in every text element that an image may have."""
    words = [
        "AccessionNumber", "AcquisitionComments", "AdditionalPatientHistory", "AdmittingDiagnosesDescription",
        "BodyPartExamined", "ContrastBolusAgent", "DerivationDescription", "DeviceSerialNumber",
        "EthnicGroup", "FilterType", "FrameComments", "ImageComments", "InstitutionAddress",
        "InstitutionalDepartmentName", "InstitutionName", "Manufacturer", "ManufacturerModelName",
        "MedicalAlerts", "NameOfPhysiciansReadingStudy", "Occupation", "OperatorsName", "OtherPatientNames",
        "PatientBirthName", "PatientComments", "PatientID", "PatientMotherBirthName", "PatientName",
        "PatientReligiousPreference", "PerformedProcedureStepDescription", "PerformingPhysicianName",
        "ProtocolName", "ReferringPhysicianName", "RequestedProcedureDescription", "RequestingPhysician",
        "SeriesDescription", "SoftwareVersions", "StationName", "StudyComments", "StudyDescription",
        "StudyID", "WindowCenterWidthExplanation",
    ]  # fmt: skip
    return dict.fromkeys(words, HURT) | {"Modality": "CT", "WindowCenter": 40, "WindowWidth": 400}
