"""Generated images as valid DICOM instances that can always be told from real ones.

What is written says so in five places: Synthetic Data (0008,001C) = YES (PS3.3 C.12.1), Image Type
DERIVED\\SECONDARY, Derivation Description, Contributing Equipment with model, weights and seed, and
patient and series that bear the word. A template lends geometry and acquisition, never identity.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark import __version__
from dcmark.errors import OutputExistsError, UsageError
from dcmark.out.template import Template

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made an image.

    Attributes:
        model: name of the model.
        weights: SHA-256 of its weights.
        run: name of the run; not a path.
        images_seen: images the model had been shown.
        data: hash of the data it learned from.
    """

    model: str
    weights: str
    run: str = ""
    images_seen: int = 0
    data: str = ""

    def text(self, made_from: str) -> str:
        """All of it in at most 1024 characters."""
        parts = [f"model {self.model}", f"weights sha256 {self.weights}", made_from]
        if self.run:
            parts.append(f"run {self.run[:64]}")
        if self.images_seen:
            parts.append(f"{self.images_seen} images shown")
        if self.data:
            parts.append(f"data {self.data}")
        return "; ".join(parts)[:1024]


@dataclass(frozen=True, slots=True)
class Look:
    """Values and geometry of generated images.

    Attributes:
        unit: of the values, such as HU.
        low, high: of the range a model makes, in that unit.
        spacing_mm: between rows and between columns; None for that of the template, over the same field of view.
        modality: such as CT; empty for that of the template.
    """

    unit: str = ""
    low: float = 0.0
    high: float = 255.0
    spacing_mm: tuple[float, float] | None = None
    modality: str = ""


def new_uid() -> str:
    """A new UID under 2.25, from a random UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass
class Series:
    """One series of generated images being put together; see :func:`write`."""

    description: str
    number: int
    uid: str = field(default_factory=new_uid)
    frame_of_reference: str = field(default_factory=new_uid)


def dataset_of(
    image: NDArray[Any],
    look: Look,
    provenance: Provenance,
    *,
    series: Series,
    study_uid: str,
    made_from: str,
    instance: int = 1,
    template: Dataset | None = None,
    study_date: datetime | None = None,
) -> Dataset:
    """One generated image as a data set that is valid once constructed.

    Args:
        image: (channels, rows, columns) in physical values; one channel, or three that are colours.
        made_from: in words, such as ``seed 7``.
        instance: place in the series, from 1; positions follow along the normal of the template's slices.
        template: lends geometry and acquisition; any DICOM image.

    Returns:
        CT Image Storage for one channel of CT (PS3.3 A.3), else Secondary Capture (PS3.3 A.8).

    Raises:
        UsageError: an image of another number of channels, or with values that are not finite.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    if image.ndim != 3 or image.shape[0] not in {1, 3}:
        raise UsageError(f"expected an image of 1 or 3 channels (C, H, W) for DICOM, found {image.shape}; use npy")
    if not np.isfinite(image).all():
        raise UsageError("expected finite values, found NaN or infinity in a generated image; the model diverged")
    lent = Template() if template is None else Template.of(template)
    now = study_date or datetime.now(UTC)
    modality = look.modality or lent.modality or "OT"
    ct = modality == "CT" and image.shape[0] == 1
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CT_IMAGE if ct else SECONDARY_CAPTURE
    ds.SOPInstanceUID = new_uid()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.ImplementationClassUID = UID("2.25.295461379041917246139236838914613047591")
    meta.ImplementationVersionName = f"DCMARK_{__version__}"[:16]
    _identity(ds, provenance, study_uid, series, now)
    _what_it_is(ds, provenance, made_from, ct, now)
    ds.Modality = modality
    ds.InstanceNumber = instance
    ds.PatientOrientation = ""
    spacing = _spacing(look, lent, image)
    if ct:
        _plane(ds, spacing or (1.0, 1.0), lent, series, instance)
    else:
        ds.ConversionType = "SYN"  # synthetic image, PS3.3 C.8.6.1
        if spacing:
            ds.PixelSpacing = [_decimal(value) for value in spacing]
        if "BodyPartExamined" in lent.values:
            ds.BodyPartExamined = lent.values["BodyPartExamined"]
    if lent.side_is_open:
        ds.Laterality = ""
    _pixels(ds, image, look, ct)
    return ds


def _identity(ds: Dataset, provenance: Provenance, study_uid: str, series: Series, now: datetime) -> None:
    ds.PatientName, ds.PatientID = "SYNTHETIC^DCMARK", f"SYNTHETIC-{provenance.weights[:12].upper()}"
    ds.PatientBirthDate = ds.PatientSex = ds.ReferringPhysicianName = ds.AccessionNumber = ""
    ds.StudyInstanceUID, ds.StudyID = study_uid, "SYNTHETIC"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = now.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = now.strftime("%H%M%S")
    ds.StudyDescription = "SYNTHETIC images, no patient"
    ds.SeriesInstanceUID, ds.SeriesNumber = series.uid, series.number
    ds.SeriesDescription = series.description[:64]
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "dcmark", provenance.model[:64], __version__


def _what_it_is(ds: Dataset, provenance: Provenance, made_from: str, ct: bool, now: datetime) -> None:
    from pydicom.dataset import Dataset as New

    ds.SyntheticData = "YES"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if ct else ["DERIVED", "SECONDARY"]
    ds.DerivationDescription = f"SYNTHETIC: generated, {provenance.text(made_from)}"[:1024]
    purpose = New()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    equipment = New()
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    equipment.Manufacturer, equipment.ManufacturerModelName = "dcmark", provenance.model[:64]
    equipment.SoftwareVersions = __version__
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = provenance.text(made_from)
    ds.ContributingEquipmentSequence = [equipment]


def _spacing(look: Look, lent: Template, image: NDArray[Any]) -> tuple[float, ...] | None:
    """Between rows and columns, mm: as given, else so that the image covers what the template covers."""
    if look.spacing_mm or lent.spacing is None or lent.size is None:
        return look.spacing_mm
    return tuple(step * size / own for step, size, own in zip(lent.spacing, lent.size, image.shape[1:], strict=True))


def _plane(ds: Dataset, spacing: tuple[float, ...], lent: Template, series: Series, instance: int) -> None:
    """Image plane, frame of reference and acquisition of a CT image (PS3.3 C.7.6.2, C.7.4.1, C.8.2.1)."""
    ds.PatientPosition, ds.KVP = "HFS", None
    for keyword, value in lent.values.items():
        setattr(ds, keyword, value)
    normal = np.cross(lent.orientation[:3], lent.orientation[3:])
    position = np.asarray(lent.position) + normal * lent.between * (instance - 1)
    ds.ImageOrientationPatient = [_decimal(value) for value in lent.orientation]
    ds.ImagePositionPatient = [_decimal(value) for value in position]
    ds.PixelSpacing = [_decimal(value) for value in spacing]
    ds.SliceThickness = _decimal(lent.thickness)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = series.frame_of_reference, ""
    ds.AcquisitionNumber = None
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"


def _pixels(ds: Dataset, image: NDArray[Any], look: Look, ct: bool) -> None:
    channels, ds.Rows, ds.Columns = image.shape
    ds.SamplesPerPixel = channels
    if channels == 3:
        ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0
        span = (image - look.low) / (look.high - look.low)
        stored: NDArray[Any] = np.rint(np.clip(span, 0, 1) * 255).astype(np.uint8)
        _depth(ds, 8, signed=False)
        ds.PixelData = np.ascontiguousarray(np.moveaxis(stored, 0, 2)).tobytes()
        ds.PixelData += b"\0" * (len(ds.PixelData) % 2)
        ds["PixelData"].VR = "OB"
        return
    ds.PhotometricInterpretation = "MONOCHROME2"
    if ct or look.unit == "HU":
        # Whole HU, as scanners store them; the window of the training data is undone.
        slope, intercept = 1.0, 0.0
        stored = np.clip(np.rint(image[0]), -32768, 32767).astype("<i2")
    else:
        slope, intercept = (look.high - look.low) / 65535, look.low
        stored = np.clip(np.rint((image[0] - intercept) / slope), 0, 65535).astype("<u2")
    _depth(ds, 16, signed=stored.dtype.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = _decimal(slope), _decimal(intercept)
    ds.RescaleType = "HU" if ct or look.unit == "HU" else (look.unit or "US")[:64]
    if "WindowCenter" not in ds:
        ds.WindowCenter, ds.WindowWidth = _decimal((look.low + look.high) / 2), _decimal(max(look.high - look.low, 1))
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"


def _depth(ds: Dataset, bits: int, *, signed: bool) -> None:
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits - 1, int(signed)


def _decimal(value: float) -> str:
    """A Decimal String: at most 16 characters (PS3.5 6.2)."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(float(value)))


def write(
    images: Iterable[NDArray[Any]],
    out: Path,
    look: Look,
    provenance: Provenance,
    *,
    made_from: Sequence[str],
    template: Dataset | None = None,
    volume: bool = False,
) -> list[Path]:
    """Write generated images as DICOM files.

    Args:
        images: (channels, rows, columns) each, in physical values.
        out: a new or empty folder.
        made_from: for each image in words what it was made from, such as ``seed 7``.
        volume: the images are the slices of one series along a latent walk, and labelled as such; else every
            image is a series of its own, as nothing holds two of them together in space.

    Returns:
        The files, in the order of the images.

    Raises:
        OutputExistsError: the folder has something in it.
    """
    import pydicom

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(f"expected a new or empty folder at {out}, found something in it")
    out.mkdir(parents=True, exist_ok=True)
    study, now, paths = new_uid(), datetime.now(UTC), []
    series = Series("SYNTHETIC latent walk, not anatomy", 1) if volume else None
    for number, image in enumerate(images):
        own = series or Series(f"SYNTHETIC {made_from[number]}", number + 1)
        dataset = dataset_of(
            image,
            look,
            provenance,
            series=own,
            study_uid=study,
            made_from=made_from[number],
            instance=number + 1 if volume else 1,
            template=template,
            study_date=now,
        )
        paths.append(out / f"{number:06}.dcm")
        pydicom.dcmwrite(paths[-1], dataset, enforce_file_format=True)
    return paths
