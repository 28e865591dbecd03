"""Synthetic DICOM: CT series of the phantom, and small files of every awkward kind.

The people in these files do not exist. Everything follows from the arguments: the same call gives the
same bytes, UIDs included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.testing.builders import (
    OffsetTable,
    bomb,
    float_pixels,
    group_lengths,
    icon,
    image_dataset,
    minimal,
    multiframe,
    odd_lengths,
    one_bit,
    overlay,
    palette,
    pattern,
    undefined_sequences,
    unknown_vr,
)
from dcmark.testing.encoding import SYNTAXES, codestream, syntax_uid, uid, write
from dcmark.testing.objects import encapsulated_pdf, enhanced_ct, waveform
from dcmark.testing.phantom import (
    contact_sheet,
    embolus_labels,
    lesion_labels,
    lesions_mm,
    origin_mm,
    phantom,
    spacing_of,
    window,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "AWKWARD_FILES",
    "AXIAL",
    "CORONAL",
    "SAGITTAL",
    "SYNTAXES",
    "bomb",
    "codestream",
    "contact_sheet",
    "ct_datasets",
    "ct_series",
    "ct_slice",
    "embolus_labels",
    "encapsulated_pdf",
    "enhanced_ct",
    "float_pixels",
    "group_lengths",
    "icon",
    "image_dataset",
    "lesion_labels",
    "lesions_mm",
    "minimal",
    "multiframe",
    "odd_lengths",
    "one_bit",
    "origin_mm",
    "overlay",
    "palette",
    "pattern",
    "phantom",
    "save",
    "spacing_of",
    "syntax_uid",
    "uid",
    "undefined_sequences",
    "unknown_vr",
    "waveform",
    "window",
    "write",
]

Vector = tuple[float, float, float]
Orientation = tuple[float, float, float, float, float, float]

AXIAL: Orientation = (1, 0, 0, 0, 1, 0)
"""Direction cosines of a row and of a column, LPS (PS3.3 C.7.6.2.1.1)."""
CORONAL: Orientation = (1, 0, 0, 0, 0, -1)
SAGITTAL: Orientation = (0, 1, 0, 0, 0, -1)
_FULL_WIDTH = {SYNTAXES[name] for name in ("jpegls", "htj2k")}


def decimal(value: float) -> str:
    """A decimal string of at most 16 bytes (VR DS, PS3.5 6.2)."""
    return f"{value:.10g}"[:16]


def ct_slice(
    hu: NDArray[Any],
    *,
    spacing_mm: tuple[float, float] = (0.8, 0.8),
    position_mm: Vector = (0.0, 0.0, 0.0),
    orientation: Orientation = AXIAL,
    thickness_mm: float = 2.0,
    instance: int = 1,
    location_mm: float | None = None,
    seed: int = 0,
    study: int = 1,
    series: int = 1,
    patient: str = "Phantom^One",
    signed: bool = False,
    bits_stored: int = 12,
    intercept: float = -1024.0,
    slope: float = 1.0,
    tags: Mapping[str, Any] | None = None,
) -> Dataset:
    """One CT Image (PS3.3 A.3) with every mandatory module.

    Args:
        hu: (rows, columns) HU; stored as ``(hu - intercept) / slope``, rounded and clipped to what the
            stored bits hold.
        spacing_mm: row and column spacing.
        position_mm: patient coordinates (LPS) of the centre of the first pixel.
        location_mm: SliceLocation; left out, the position along the normal.
        seed, study, series, instance: all UIDs follow from these.
        tags: attributes by keyword that replace or join the others; None removes one.

    Returns:
        A data set with native pixel data, for ``write``.
    """
    from pydicom.dataset import Dataset

    low, high = (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if signed else (0, (1 << bits_stored) - 1)
    stored = np.clip(np.rint((np.asarray(hu, dtype=np.float64) - intercept) / slope), low, high)
    normal = np.cross(orientation[:3], orientation[3:])
    location = float(np.dot(normal, position_mm)) if location_mm is None else location_mm
    if signed and bits_stored < 16:
        stored = stored.astype(np.int32) & ((1 << bits_stored) - 1)
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": uid(seed, study, series, "instance", instance),
        "StudyDate": "20240229", "SeriesDate": "20240229", "AcquisitionDate": "20240229", "ContentDate": "20240229",
        "StudyTime": "081500", "SeriesTime": "081730", "AcquisitionTime": "081742.5", "ContentTime": "081801",
        "AccessionNumber": f"A{seed:05}{study:02}",
        "Modality": "CT", "Manufacturer": "Phantom Works", "InstitutionName": "Nowhere Hospital",
        "ReferringPhysicianName": "", "StationName": "CT99", "StudyDescription": "CT thorax abdomen",
        "SeriesDescription": f"Series {series}", "ManufacturerModelName": "Synthetic 64",
        "PatientName": patient, "PatientID": f"PHANTOM-{seed:04}", "PatientBirthDate": "19500101", "PatientSex": "O",
        "PatientAge": "074Y",
        "BodyPartExamined": "CHEST", "SliceThickness": decimal(thickness_mm), "KVP": "120",
        "DataCollectionDiameter": "500", "DeviceSerialNumber": "0", "SoftwareVersions": "1",
        "ProtocolName": "Phantom", "ReconstructionDiameter": decimal(spacing_mm[1] * np.shape(hu)[1]),
        "GantryDetectorTilt": "0", "TableHeight": "150", "RotationDirection": "CW", "ExposureTime": "500",
        "XRayTubeCurrent": "240", "Exposure": "120", "ConvolutionKernel": "B30f", "PatientPosition": "HFS",
        "StudyInstanceUID": uid(seed, study, "study"), "SeriesInstanceUID": uid(seed, study, series, "series"),
        "StudyID": str(study), "SeriesNumber": series, "AcquisitionNumber": 1, "InstanceNumber": instance,
        "ImagePositionPatient": [decimal(value) for value in position_mm],
        "ImageOrientationPatient": [decimal(value) for value in orientation],
        "FrameOfReferenceUID": uid(seed, study, "frame of reference"), "PositionReferenceIndicator": "",
        "SliceLocation": decimal(location),
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "Rows": np.shape(hu)[0], "Columns": np.shape(hu)[1], "PixelSpacing": [decimal(value) for value in spacing_mm],
        "BitsAllocated": 16, "BitsStored": bits_stored, "HighBit": bits_stored - 1, "PixelRepresentation": int(signed),
        "WindowCenter": "50", "WindowWidth": "400",
        "RescaleIntercept": decimal(intercept), "RescaleSlope": decimal(slope), "RescaleType": "HU",
        "PixelData": np.ascontiguousarray(stored).astype(np.int64).astype("<u2").tobytes(),
        **(tags or {}),
    }  # fmt: skip
    dataset = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    return dataset


def ct_datasets(
    volume: NDArray[Any],
    *,
    spacing_mm: Vector = (2.0, 0.8, 0.8),
    origin_mm: Vector = (0.0, 0.0, 0.0),
    orientation: Orientation = AXIAL,
    first_instance: int = 1,
    descending: bool = False,
    per_slice: Callable[[int], Mapping[str, Any]] | None = None,
    tags: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Dataset]:
    """A volume (slices, rows, columns) in HU as CT data sets, in the order of the array.

    Args:
        spacing_mm: between slices, rows, columns.
        origin_mm: patient coordinates (LPS) of voxel [0, 0, 0]; slices follow along the normal, the
            cross product of row and column direction.
        descending: number the instances from the last slice to the first.
        per_slice: further attributes for the slice of that index.
        options: passed on to ``ct_slice``.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    count = len(volume)
    options.setdefault("thickness_mm", spacing_mm[0])
    datasets = []
    for index, hu in enumerate(volume):
        x, y, z = np.asarray(origin_mm) + normal * spacing_mm[0] * index
        datasets.append(
            ct_slice(
                hu,
                spacing_mm=(spacing_mm[1], spacing_mm[2]),
                position_mm=(float(x), float(y), float(z)),
                orientation=orientation,
                instance=first_instance + (count - 1 - index if descending else index),
                tags={**(tags or {}), **(per_slice(index) if per_slice else {})},
                **options,
            )
        )
    return datasets


def save(
    datasets: Iterable[Dataset],
    folder: Path,
    *,
    transfer_syntax: str = "explicit",
    names: str | Sequence[str] = "IM{:04}.dcm",
) -> list[Path]:
    """Write data sets into a folder, made where needed.

    Args:
        names: a pattern that takes the running number from 0, or a name for each.

    Returns:
        The files, in the order of the data sets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets):
        name = names.format(number) if isinstance(names, str) else names[number]
        paths.append(folder / name)
        paths[-1].write_bytes(write(dataset, transfer_syntax))
    return paths


def ct_series(
    out_dir: Path,
    volume: NDArray[Any],
    *,
    spacing_mm: Vector = (2.0, 0.8, 0.8),
    transfer_syntax: str = "explicit",
    names: str | Sequence[str] = "IM{:04}.dcm",
    **options: Any,
) -> list[Path]:
    """Write a volume (slices, rows, columns) in HU as a CT series, a file a slice.

    Args:
        out_dir: folder, made where needed.
        spacing_mm: between slices, rows, columns.
        transfer_syntax: a name of ``SYNTAXES`` or a UID. JPEG-LS and HTJ2K files are written with 16 bits
            stored, as their encoders put the full width into the codestream.
        names: pattern of the file names, or a name for each slice.
        options: passed on to ``ct_datasets`` and ``ct_slice``: origin_mm, orientation, descending,
            per_slice, tags, seed, study, series, patient, signed, bits_stored, ...

    Returns:
        The files, in the order of the slices.
    """
    if syntax_uid(transfer_syntax) in _FULL_WIDTH:
        options["bits_stored"] = 16
    datasets = ct_datasets(volume, spacing_mm=spacing_mm, **options)
    return save(datasets, out_dir, transfer_syntax=transfer_syntax, names=names)


def _awkward_files() -> dict[str, Callable[[], bytes]]:
    colour = pattern((2, 3, 5, 3), np.uint8)
    tables: tuple[OffsetTable, ...] = ("basic", "empty", "extended", "wrong", "short")
    files: dict[str, Callable[[], bytes]] = {f"minimal, {name}": partial(minimal, syntax=name) for name in SYNTAXES}
    for table in tables:
        count = 1 if table == "extended" else 3
        files[f"multi-frame, {table} offset table, {count} fragments"] = partial(
            multiframe, fragments=count, offset_table=table
        )
    return files | {
        "no preamble": partial(minimal, preamble=False),
        "no meta information, implicit": partial(minimal, meta=False, syntax="implicit"),
        "no meta information, explicit": partial(minimal, meta=False),
        "trailing bytes": partial(minimal, trailing=b"\x0d\x0a and more behind the end"),
        "8 bit, odd number of pixels": partial(minimal, pattern((3, 3), np.uint8)),
        "signed, 12 bits stored": partial(minimal, pattern((4, 5), np.int16, 12) & 0x0FFF, bits_stored=12),
        "32 bit": partial(minimal, pattern((4, 5), np.uint32)),
        "colour by pixel, frames": partial(minimal, colour, frames=True),
        "colour by plane, frames": partial(minimal, colour, frames=True, planar=True),
        "undefined lengths": undefined_sequences,
        "undefined lengths, implicit": partial(undefined_sequences, syntax="implicit"),
        "undefined lengths, big endian": partial(undefined_sequences, syntax="big"),
        "undefined lengths, deflated": partial(undefined_sequences, syntax="deflated"),
        "explicit lengths": partial(undefined_sequences, undefined=False),
        "odd lengths": odd_lengths,
        "icon": icon,
        "icon, native": partial(icon, syntax="explicit"),
        "one bit": one_bit,
        "float": float_pixels,
        "double": partial(float_pixels, double=True),
        "palette": palette,
        "palette, segmented": partial(palette, segmented=True),
        "overlay": overlay,
        "overlay in the pixels": partial(overlay, embedded=True),
        "waveform": waveform,
        "pdf": encapsulated_pdf,
        "enhanced CT": enhanced_ct,
        "enhanced CT, frames shuffled": partial(enhanced_ct, order=[2, 0, 3, 1]),
        "unknown VR": unknown_vr,
        "group lengths": group_lengths,
        "declares gigabytes": bomb,
    }


AWKWARD_FILES: dict[str, Callable[[], bytes]] = _awkward_files()
"""Every awkward file by what it shows; call to get its bytes."""
