"""From a DICOM data set to rows of the frame table, for every way frames state where they stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dcmark.errors import UsageError
from dcmark.findings import Finding
from dcmark.geometry import directions, normal
from dcmark.read.volume_csa import csa_values
from dcmark.read.volume_frames import FrameRow

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
_NUCLEAR = "1.2.840.10008.5.1.4.1.1.20"
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_MOST_FRAMES = 1_000_000
"""More frames than this in one object of which each has a place of its own are not believed."""

# Column: keyword and kind of the attribute that fills it.
_PLAIN: dict[str, tuple[str, Callable[[Any], Any]]]


def _text(value: Any) -> str | None:
    text = "\\".join(str(part) for part in value) if isinstance(value, list | tuple) or _is_multi(value) else str(value)
    return text.strip() or None


def _is_multi(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)


def _number(value: Any) -> float | None:
    if _is_multi(value):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    parts = [_number(part) for part in value] if _is_multi(value) else [_number(value)]
    return None if None in parts else cast("tuple[float, ...]", tuple(parts))


_PLAIN = {
    "patient_id": ("PatientID", _text),
    "study_instance_uid": ("StudyInstanceUID", _text),
    "series_instance_uid": ("SeriesInstanceUID", _text),
    "sop_class_uid": ("SOPClassUID", _text),
    "sop_instance_uid": ("SOPInstanceUID", _text),
    "modality": ("Modality", _text),
    "image_type": ("ImageType", _text),
    "rows": ("Rows", _number),
    "columns": ("Columns", _number),
    "samples_per_pixel": ("SamplesPerPixel", _number),
    "photometric_interpretation": ("PhotometricInterpretation", _text),
    "image_position_patient": ("ImagePositionPatient", _numbers),
    "image_orientation_patient": ("ImageOrientationPatient", _numbers),
    "pixel_spacing": ("PixelSpacing", _numbers),
    "spacing_between_slices": ("SpacingBetweenSlices", _number),
    "slice_thickness": ("SliceThickness", _number),
    "slice_location": ("SliceLocation", _number),
    "gantry_detector_tilt": ("GantryDetectorTilt", _number),
    "frame_of_reference_uid": ("FrameOfReferenceUID", _text),
    "instance_number": ("InstanceNumber", _number),
    "acquisition_number": ("AcquisitionNumber", _number),
    "acquisition_date": ("AcquisitionDate", _text),
    "acquisition_time": ("AcquisitionTime", _text),
    "acquisition_date_time": ("AcquisitionDateTime", _text),
    "content_date": ("ContentDate", _text),
    "content_time": ("ContentTime", _text),
    "temporal_position_identifier": ("TemporalPositionIdentifier", _number),
    "trigger_time": ("TriggerTime", _number),
    "echo_time": ("EchoTime", _number),
    "echo_numbers": ("EchoNumbers", _number),
    "inversion_time": ("InversionTime", _number),
    "diffusion_b_value": ("DiffusionBValue", _number),
    "diffusion_gradient_orientation": ("DiffusionGradientOrientation", _numbers),
    "kvp": ("KVP", _number),
    "convolution_kernel": ("ConvolutionKernel", _text),
    "complex_image_component": ("ComplexImageComponent", _text),
    "rescale_type": ("RescaleType", _text),
    "units": ("Units", _text),
}

# Functional groups (PS3.3 C.7.6.16.2 and the macros of each modality): macro, keyword, column, kind.
_GROUPS: tuple[tuple[str, str, str, Callable[[Any], Any]], ...] = (
    ("PixelMeasuresSequence", "PixelSpacing", "pixel_spacing", _numbers),
    ("PixelMeasuresSequence", "SliceThickness", "slice_thickness", _number),
    ("PixelMeasuresSequence", "SpacingBetweenSlices", "spacing_between_slices", _number),
    ("PlanePositionSequence", "ImagePositionPatient", "image_position_patient", _numbers),
    ("PlaneOrientationSequence", "ImageOrientationPatient", "image_orientation_patient", _numbers),
    ("FrameContentSequence", "FrameAcquisitionNumber", "acquisition_number", _number),
    ("FrameContentSequence", "FrameAcquisitionDateTime", "acquisition_date_time", _text),
    ("FrameContentSequence", "StackID", "stack_id", _text),
    ("FrameContentSequence", "TemporalPositionIndex", "temporal_position_identifier", _number),
    ("TemporalPositionSequence", "TemporalPositionTimeOffset", "trigger_time", _number),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "trigger_time", _number),
    ("CTImageFrameTypeSequence", "FrameType", "image_type", _text),
    ("MRImageFrameTypeSequence", "FrameType", "image_type", _text),
    ("PETFrameTypeSequence", "FrameType", "image_type", _text),
    ("XRay3DFrameTypeSequence", "FrameType", "image_type", _text),
    ("MRImageFrameTypeSequence", "ComplexImageComponent", "complex_image_component", _text),
    ("CTReconstructionSequence", "ConvolutionKernel", "convolution_kernel", _text),
    ("CTXRayDetailsSequence", "KVP", "kvp", _number),
    ("CTAcquisitionDetailsSequence", "GantryDetectorTilt", "gantry_detector_tilt", _number),
    ("MREchoSequence", "EffectiveEchoTime", "echo_time", _number),
    ("MRModifierSequence", "InversionTimes", "inversion_time", _number),
    ("MRDiffusionSequence", "DiffusionBValue", "diffusion_b_value", _number),
    ("PixelValueTransformationSequence", "RescaleType", "rescale_type", _text),
    ("SegmentIdentificationSequence", "ReferencedSegmentNumber", "segment_number", _number),
)
# Dimensions (PS3.3 C.7.6.17) that have a column of their own or are a matter of place.
_KNOWN_DIMENSIONS = frozenset(
    {
        0x00209056,  # Stack ID
        0x00209057,  # In-Stack Position Number
        0x00200032,  # Image Position (Patient)
        0x00200037,  # Image Orientation (Patient)
        0x00209128,  # Temporal Position Index
        0x0062000B,  # Referenced Segment Number
    }
)


def frames_of(dataset: Dataset, file: str = "", content_keys: Iterable[str] = ()) -> list[FrameRow]:
    """The frames of a data set as rows for ``FrameTags.from_rows``; pixels are not looked at.

    Understood: single frames; enhanced multi-frame objects with shared and per-frame functional groups
    (PS3.3 C.7.6.16), segmentations among them; nuclear medicine with Detector Information and frame vectors
    (C.8.4); RT Dose with Grid Frame Offset Vector (C.8.8.3.2); older multi-frame objects with Spacing Between
    Slices; Siemens mosaics. A cine or a slide, whose frames have no place in the patient, is one row with
    ``frame_count``.

    Args:
        dataset: as read with ``stop_before_pixels``.
        file: what identifies the file, such as its SHA-256 or path.
        content_keys: of each frame, where known.

    Returns:
        A row a frame, in the order of the file; never more rows than the file has items for. What was odd is
        in the ``findings`` of the first row.
    """
    common = _plain(dataset)
    if file:
        common["file"] = file
    count = int(max(1.0, min(_number(_get(dataset, "NumberOfFrames")) or 1.0, 2.0**31)))
    common["frame"], common["number_of_frames"] = 0, count
    sop_class = common.get("sop_class_uid", "")
    per_frame = _items(dataset, "PerFrameFunctionalGroupsSequence")
    findings: list[Finding] = []
    if sop_class == _SLIDE or _is_slide_mask(per_frame):
        rows = [_many(common, count)]
    elif per_frame or _items(dataset, "SharedFunctionalGroupsSequence"):
        rows = _enhanced(dataset, common, per_frame, count, findings)
    elif sop_class == _RT_DOSE and count > 1:
        rows = _dose(dataset, common, count, findings)
    elif sop_class == _NUCLEAR:
        rows = _nuclear(dataset, common, count)
    elif count > 1:
        rows = _stacked(dataset, common, count, findings)
    else:
        _private(dataset, common)
        rows = [common]
    for row, key in zip(rows, content_keys, strict=False):
        row["content_key"] = key
    if findings:
        rows[0]["findings"] = tuple(findings)
    return rows


# Reading attributes: what is broken counts as absent


def _get(dataset: Dataset, keyword: str) -> Any:
    # pydicom converts values when they are asked for; hostile ones raise all kinds of errors then.
    try:
        return dataset.get(keyword)
    except Exception:  # noqa: BLE001
        return None


def _items(dataset: Dataset, keyword: str) -> Any:
    """A sequence; empty where there is none."""
    found = _get(dataset, keyword)
    return found if found is not None and _is_multi(found) and not isinstance(found, Mapping) else ()


def _item(dataset: Dataset, keyword: str) -> Any:
    """The first item of a sequence, or None."""
    return next((item for item in _items(dataset, keyword) if hasattr(item, "get")), None)


def _plain(dataset: Dataset) -> FrameRow:
    row: dict[str, Any] = {}
    for column, (keyword, convert) in _PLAIN.items():
        value = _get(dataset, keyword)
        if value is None:
            continue
        converted = convert(value)
        if converted is not None:
            row[column] = converted
    return cast("FrameRow", row)


def _many(common: FrameRow, count: int) -> FrameRow:
    row = common.copy()
    row["frame_count"] = count
    return row


# Enhanced multi-frame objects


def _enhanced(
    dataset: Dataset, common: FrameRow, per_frame: Any, count: int, findings: list[Finding]
) -> list[FrameRow]:
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    if shared is not None:
        common = cast("FrameRow", {**common, **_functional_groups(shared)})
    if not per_frame:
        return _stacked(dataset, common, count, findings)
    if len(per_frame) != count:
        findings.append(
            Finding(
                "warning",
                "frame-count-disagrees",
                f"Number of Frames says {count}, there are functional groups for {len(per_frame)} frames",
                "as many frames as both have are used",
            )
        )
    named = _other_dimensions(dataset)
    rows = []
    for i in range(min(count, len(per_frame))):
        row = cast("dict[str, Any]", {**common, "frame": i})
        row.update(_functional_groups(per_frame[i]))
        if named:
            content = _item(per_frame[i], "FrameContentSequence")
            values = None if content is None else _numbers(_get(content, "DimensionIndexValues") or ())
            if values and len(values) > max(named):
                row["dimension_index"] = "/".join(f"{values[j]:.0f}" for j in named)
        rows.append(cast("FrameRow", row))
    return rows or [common]


def _functional_groups(item: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    macro, inside = "", None
    for sequence, keyword, column, convert in _GROUPS:
        if sequence != macro:
            macro, inside = sequence, _item(item, sequence)
        value = None if inside is None else _get(inside, keyword)
        converted = None if value is None else convert(value)
        if converted is not None:
            found[column] = converted
    diffusion = _item(item, "MRDiffusionSequence")
    if diffusion is not None:
        gradient = _item(diffusion, "DiffusionGradientDirectionSequence")
        direction = _numbers(_get(gradient, "DiffusionGradientOrientation") or ()) if gradient is not None else None
        if direction:
            found["diffusion_gradient_orientation"] = direction
    world = _item(item, "RealWorldValueMappingSequence")
    units = None if world is None else _item(world, "MeasurementUnitsCodeSequence")
    if units is not None and (code := _get(units, "CodeValue")):
        found["units"] = str(code)
    return found


def _other_dimensions(dataset: Dataset) -> list[int]:
    return [
        i
        for i, dimension in enumerate(_items(dataset, "DimensionIndexSequence"))
        if int(_number(_get(dimension, "DimensionIndexPointer")) or 0) not in _KNOWN_DIMENSIONS
    ]


def _is_slide_mask(per_frame: Any) -> bool:
    return bool(per_frame) and _item(per_frame[0], "PlanePositionSlideSequence") is not None


# Older multi-frame objects: the first frame has a place, the others follow from it


def _dose(dataset: Dataset, common: FrameRow, count: int, findings: list[Finding]) -> list[FrameRow]:
    """Grid Frame Offset Vector: offsets along the normal if the first is 0, else patient z (PS3.3 C.8.8.3.2)."""
    offsets = _numbers(_get(dataset, "GridFrameOffsetVector") or ())
    plane = _plane(common)
    if offsets is None or len(offsets) < 2 or plane is None:
        return _stacked(dataset, common, count, findings)
    if len(offsets) != count:
        findings.append(
            Finding(
                "warning",
                "frame-count-disagrees",
                f"Number of Frames says {count}, Grid Frame Offset Vector has {len(offsets)} values",
                "as many frames as both have are used",
            )
        )
    first, direction = plane
    if offsets[0] != 0.0:
        direction = np.array([0.0, 0.0, 1.0])
        if abs(offsets[0] - first[2]) > 0.01:
            findings.append(
                Finding(
                    "warning",
                    "dose-offsets-disagree",
                    f"Grid Frame Offset Vector starts {offsets[0] - first[2]:.2f} mm off the z of Image Position "
                    "(Patient), expected 0 or that z",
                    "the position is believed, the offsets are taken as distances from the first",
                )
            )
    steps = np.array(offsets[: min(count, len(offsets))]) - offsets[0]
    return _placed(common, first + steps[:, None] * direction)


def _nuclear(dataset: Dataset, common: FrameRow, count: int) -> list[FrameRow]:
    """Place from Detector Information; the sign of Spacing Between Slices is the side (PS3.3 C.8.4.15)."""
    detector = _item(dataset, "DetectorInformationSequence")
    for column, keyword in (
        ("image_position_patient", "ImagePositionPatient"),
        ("image_orientation_patient", "ImageOrientationPatient"),
    ):
        value = None if detector is None or column in common else _numbers(_get(detector, keyword) or ())
        if value:
            common[column] = value  # type: ignore[literal-required]
    if count == 1:
        return [common]
    tomographic = "TOMO" in str(common.get("image_type", "")) and "RECON" in str(common.get("image_type", ""))
    if not tomographic:
        return [_many(_without_place(common), count)]
    slices = _vector(dataset, "SliceVector", count)
    between = common.get("spacing_between_slices")
    plane = _plane(common)
    if plane is None or not between:
        return [_many(_without_place(common), count)]
    numbers = np.arange(1, count + 1) if slices is None and count <= _MOST_FRAMES else slices
    if numbers is None:
        return [_many(_without_place(common), count)]
    first, direction = plane
    rows = _placed(common, first + (numbers[:, None] - 1) * between * direction)
    for column, keyword in (
        ("energy_window", "EnergyWindowVector"),
        ("temporal_position_identifier", "TimeSlotVector"),
        ("temporal_position_identifier", "TimeSliceVector"),
        ("temporal_position_identifier", "PhaseVector"),
    ):
        values = _vector(dataset, keyword, count)
        for row, value in zip(rows, () if values is None else values, strict=False):
            row[column] = int(value)  # type: ignore[literal-required]
    return rows


def _vector(dataset: Dataset, keyword: str, count: int) -> Any:
    values = _numbers(_get(dataset, keyword) or ())
    return np.array(values) if values and len(values) == count else None


def _stacked(dataset: Dataset, common: FrameRow, count: int, findings: list[Finding]) -> list[FrameRow]:
    """Frames at Spacing Between Slices from the first along the normal; without that, a cine."""
    between = common.get("spacing_between_slices")
    plane = _plane(common)
    moves = any(_get(dataset, keyword) is not None for keyword in ("FrameTime", "FrameTimeVector", "CineRate"))
    if count == 1:
        return [common]
    if plane is None or not between or moves or count > _MOST_FRAMES:
        return [_many(_without_place(common), count)]
    findings.append(
        Finding(
            "warning",
            "derived-positions",
            f"{count} frames share one Image Position (Patient); Spacing Between Slices says {between:.4g} mm",
            "frames are placed at that distance along the normal, in the order of the file",
        )
    )
    first, direction = plane
    return _placed(common, first + np.arange(count)[:, None] * between * direction)


def _plane(common: FrameRow) -> tuple[Any, Any] | None:
    """Position of the first frame and normal, or None where one is missing or cannot be."""
    position, cosines = common.get("image_position_patient"), common.get("image_orientation_patient")
    if position is None or cosines is None or len(position) != 3 or len(cosines) != 6:
        return None
    try:
        directions(cosines)
    except UsageError:
        return None
    return np.array(position), normal(cosines)


def _without_place(common: FrameRow) -> FrameRow:
    """A cine or projection: one position for all frames would make them a stack of one place."""
    row = common.copy()
    row.pop("image_position_patient", None)
    return row


def _placed(common: FrameRow, positions: Any) -> list[FrameRow]:
    return [
        cast("FrameRow", {**common, "frame": i, "image_position_patient": position})
        for i, position in enumerate(positions.tolist())
    ]


# Private attributes of single frames


def _private(dataset: Dataset, row: FrameRow) -> None:
    image_type = str(row.get("image_type", ""))
    if "MOSAIC" in image_type.upper().split("\\"):
        _mosaic(dataset, row)
    if "diffusion_b_value" not in row and row.get("modality") == "MR":
        value = next(_private_b_values(dataset), None)
        if value is not None:
            row["diffusion_b_value"] = value


def _private_b_values(dataset: Dataset) -> Iterator[float]:
    for group, creator, offset in (
        (0x0019, "SIEMENS MR HEADER", 0x0C),
        (0x2001, "Philips Imaging DD 001", 0x03),
        (0x0043, "GEMS_PARM_01", 0x39),
    ):
        value = _number(_private_value(dataset, group, creator, offset))
        if value is not None and value >= 0:
            # GE adds 1,000,000,000 as a flag.
            yield value % 100_000 if group == 0x0043 else value


def _private_value(dataset: Dataset, group: int, creator: str, offset: int) -> Any:
    try:
        return dataset.private_block(group, creator)[offset].value
    except Exception:  # noqa: BLE001
        return None


def _mosaic(dataset: Dataset, row: FrameRow) -> None:
    header = _private_value(dataset, 0x0029, "SIEMENS CSA HEADER", 0x10)
    if not isinstance(header, bytes):
        return
    names = frozenset({"NumberOfImagesInMosaic", "SliceNormalVector"})
    found = csa_values(header, names)
    count = _number(next(iter(found.get("NumberOfImagesInMosaic", ())), None))
    direction = _numbers(found.get("SliceNormalVector", ()))
    if count and count >= 1:
        row["mosaic_tiles"] = int(count)
    if direction and len(direction) == 3 and abs(math.hypot(*direction) - 1) < 0.1:
        row["mosaic_normal"] = direction
