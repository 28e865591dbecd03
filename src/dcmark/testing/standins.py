"""Stand-ins for the datasets that dcmark exists for, with the quirks of the real ones.

The pixels are the phantom's and the people invented; layout, names, headers, encodings and oddities are
those of CTPA, DRLI and SCAPIS. Small by default so that tests stay quick; ``rows=512, columns=512`` and
some hundred slices make them look real.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import MissingExtraError
from dcmark.testing.awkward import CASES, AwkwardSeries, awkward
from dcmark.testing.companions import key_objects, measurement_report, presentation_state, segmentation
from dcmark.testing.phantom import embolus_labels, lesion_labels, lesions_mm, origin_mm, phantom
from dcmark.testing.synthetic import CORONAL, SAGITTAL, Vector, ct_datasets, ct_slice, save

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["CASES", "AwkwardSeries", "awkward", "ctpa", "drli", "scapis"]

_NAMES = ("Ett", "Två", "Tre", "Fyra", "Fem", "Sex", "Sju", "Åtta", "Nio", "Tio")
_FIELD_OF_VIEW = 390.0
_EPOCH = 1_700_000_000


def ctpa(out: Path, *, patients: int = 2, slices: int = 12, rows: int = 128, columns: int = 128, seed: int = 0) -> Path:
    """CT pulmonary angiographies: ``out/ctpa/<cut GUID>/<1 to 5>/i0000,0000b.dcm``, JPEG 2000 lossless.

    Series of each patient: 1 thin axial (0.625 mm), 2 axial of 5 mm, 3 coronal, 4 sagittal and 5 axial
    reformats of 2 mm. Instance 1 of the coronal and sagittal reformats is a reference image off the grid:
    an axial slice with the planes drawn in, and a parallel plane at no multiple of the spacing.
    Beside the series lie the outlined emboli of series 1, one label each: ``emboli.nrrd`` or, for every
    second patient, ``emboli.nii``; left out where pynrrd or nibabel is not installed.

    Args:
        slices: of the thin series; the others have half as many, at least 5.

    Returns:
        ``out/ctpa``.
    """
    root = out / "ctpa"
    pixel = _FIELD_OF_VIEW / max(rows, columns)
    for number in range(patients):
        who = seed * 1000 + number
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"ctpa {who}")).upper()[:16]
        folder = root / name
        common: dict[str, Any] = {
            "seed": who,
            "patient": f"Phantom^{_NAMES[number % 10]}",
            "signed": True,
            "bits_stored": 16,
            "intercept": 0.0,
        }
        tags: dict[str, Any] = {
            "PatientID": name, "Manufacturer": "GE MEDICAL SYSTEMS", "ManufacturerModelName": "Phantom HD",
            "StudyDescription": "DT lungartärer", "BodyPartExamined": "CHEST", "StudyID": str(4000 + number),
            "ContrastBolusAgent": "Iodine", "ConvolutionKernel": "STANDARD", "ProtocolName": "LE",
        }  # fmt: skip
        for series, (thickness, count) in enumerate(((0.625, slices), (5.0, max(5, slices // 2))), 1):
            shape, spacing = (count, rows, columns), (thickness, pixel, pixel)
            hu = _ctpa_volume(shape, spacing, who)
            datasets = ct_datasets(
                hu,
                spacing_mm=spacing,
                origin_mm=origin_mm(shape, spacing_mm=spacing, region="chest"),
                series=series,
                descending=True,
                tags={**tags, "SeriesDescription": f"Axial {thickness:g} mm"},
                **common,
            )
            _save_ctpa(datasets, folder / str(series))
        for series in (3, 4, 5):
            datasets = _reformats(series, max(5, slices // 2), rows, columns, pixel, who, tags, common)
            _save_ctpa(datasets, folder / str(series))
        shape, spacing = (slices, rows, columns), (0.625, pixel, pixel)
        labels = embolus_labels(shape, who, spacing_mm=spacing, region="chest")
        origin = origin_mm(shape, spacing_mm=spacing, region="chest")
        (_write_nifti if number % 2 else _write_nrrd)(folder, labels, spacing, origin)
    return root


def _ctpa_volume(shape: tuple[int, int, int], spacing: Vector, who: int) -> NDArray[np.int16]:
    return phantom(shape, who, spacing_mm=spacing, region="chest", phase="pulmonary", emboli=True, noise_hu=18)


def _save_ctpa(datasets: Sequence[Dataset], folder: Path) -> None:
    ordered = sorted(datasets, key=lambda dataset: int(dataset.InstanceNumber))
    save(ordered, folder, transfer_syntax="jpeg2000", names="i{:04},0000b.dcm")


def _reformats(
    series: int,
    count: int,
    rows: int,
    columns: int,
    pixel: float,
    who: int,
    tags: dict[str, Any],
    common: dict[str, Any],
) -> list[Dataset]:
    """The 2 mm reformats: painted upright, then turned so that the planes are coronal, sagittal or axial."""
    names = {3: "Coronal", 4: "Sagittal", 5: "Axial"}
    described = {
        **tags,
        "SeriesDescription": f"{names[series]} 2 mm MPR",
        "ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"],
    }
    given: dict[str, Any] = {"series": series, "tags": described, **common}
    if series == 5:
        shape, spacing = (count, rows, columns), (2.0, pixel, pixel)
        origin = origin_mm(shape, spacing_mm=spacing, region="chest")
        return ct_datasets(_ctpa_volume(shape, spacing, who), spacing_mm=spacing, origin_mm=origin, **given)
    if series == 3:
        shape, spacing = (rows, count, columns), (pixel, 2.0, pixel)
        planes = _ctpa_volume(shape, spacing, who)[::-1].transpose(1, 0, 2)
        x, y, z = origin_mm(shape, spacing_mm=spacing, region="chest")
        start, orientation = (x, y, z + pixel * (rows - 1)), CORONAL
        axial = _ctpa_volume((1, rows, columns), (2.0, pixel, pixel), who)[0]
        axial[:: max(2, rows // 16), ::2] = 1500
        reference = ct_slice(
            axial,
            spacing_mm=(pixel, pixel),
            position_mm=origin_mm((1, rows, columns), spacing_mm=(2.0, pixel, pixel), region="chest"),
            **given,
        )
    else:
        shape, spacing = (rows, columns, count), (pixel, pixel, 2.0)
        planes = _ctpa_volume(shape, spacing, who)[::-1, :, ::-1].transpose(2, 0, 1)
        x, y, z = origin_mm(shape, spacing_mm=spacing, region="chest")
        start, orientation = (x + 2.0 * (count - 1), y, z + pixel * (rows - 1)), SAGITTAL
        reference = ct_slice(
            planes[0],
            spacing_mm=(pixel, pixel),
            position_mm=(start[0] + 31.7, start[1], start[2]),
            orientation=orientation,
            **given,
        )
    body = ct_datasets(
        planes,
        spacing_mm=(2.0, pixel, pixel),
        origin_mm=start,
        orientation=orientation,
        first_instance=2,
        **given,
    )
    return [reference, *body]


def _write_nrrd(folder: Path, labels: NDArray[np.uint8], spacing: Vector, origin: Vector) -> None:
    if find_spec("nrrd") is None:
        return
    import nrrd

    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([spacing[2], spacing[1], spacing[0]]),
        "space origin": np.array(origin),
        "encoding": "raw",
        "kinds": ["domain", "domain", "domain"],
    }
    nrrd.write(str(folder / "emboli.nrrd"), labels.transpose(2, 1, 0), header, index_order="F")


def _write_nifti(folder: Path, labels: NDArray[np.uint8], spacing: Vector, origin: Vector) -> None:
    if find_spec("nibabel") is None:
        return
    import nibabel

    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    affine[:3, 3] = (-origin[0], -origin[1], origin[2])
    nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine).to_filename(str(folder / "emboli.nii"))


def drli(out: Path, *, patients: int = 2, slices: int = 12, rows: int = 128, columns: int = 128, seed: int = 0) -> Path:
    """Liver CT with metastases: ``out/drli/AI-DRLI-001/<1 to 3>/x0000.dcm``.

    Series 1 is the CT (Siemens, venous phase, 0.6 mm), its files in random order. Series 2 and 3 hold one
    file each that is no image: GSPS with outlines on named layers and SEG for the first patient, KOS and
    SR (TID 1500) for the second, and so on in turn. BodyPartExamined is ``DT THORAX OCH BUK``, which is a
    character longer than its VR allows; texts are Swedish, in ISO_IR 100.
    The slices lie around the middle of the patient's largest lesion.

    Returns:
        ``out/drli``.
    """
    root = out / "drli"
    pixel = _FIELD_OF_VIEW / max(rows, columns)
    shape, spacing = (slices, rows, columns), (0.6, pixel, pixel)
    for number in range(patients):
        who = seed * 1000 + 100 + number
        folder = root / f"AI-DRLI-{number + 1:03}"
        found = lesions_mm(who)
        middle = (0.0, 16.0, float(found[np.argmax(found[:, 3]), 2]))
        hu = phantom(shape, who, spacing_mm=spacing, region="liver", middle_mm=middle, noise_hu=16)
        labels = lesion_labels(shape, who, spacing_mm=spacing, region="liver", middle_mm=middle)
        datasets = ct_datasets(
            hu,
            spacing_mm=spacing,
            origin_mm=origin_mm(shape, spacing_mm=spacing, region="liver", middle_mm=middle),
            seed=who,
            patient=f"Fantom^{_NAMES[number % 10]}",
            tags={
                "PatientID": folder.name, "Manufacturer": "SIEMENS", "ManufacturerModelName": "SOMATOM Phantom",
                "StudyDescription": "DT buk, venös fas", "SeriesDescription": "Venös 0,6 mm",
                "InstitutionName": "Sjukhuset på Ön", "ContrastBolusAgent": "Omnipaque", "ProtocolName": "Lever",
                "StudyID": "1", "AcquisitionNumber": 3,
            },
        )  # fmt: skip
        for dataset in datasets:
            _put_unchecked(dataset, "BodyPartExamined", "DT THORAX OCH BUK")
        order = np.random.default_rng([seed, number]).permutation(slices)
        save(datasets, folder / "1", names=[f"x{place:04}.dcm" for place in order])
        lesion_slices = [int(index) for index in np.flatnonzero(labels.any(axis=(1, 2)))]
        if number % 2 == 0:
            beside = (presentation_state(datasets, labels, series=2), segmentation(datasets, labels, series=3))
        else:
            beside = (
                key_objects(datasets, lesion_slices, series=2),
                measurement_report(datasets, labels, series=3),
            )
        for series, dataset in enumerate(beside, 2):
            save([dataset], folder / str(series), names="x{:04}.dcm")
    return root


def _put_unchecked(dataset: Dataset, keyword: str, value: str) -> None:
    """Set a value that its VR forbids, as the real files have it, without a word from pydicom."""
    from pydicom import config
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import DataElement

    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))


def scapis(
    out: Path,
    *,
    patients: int = 2,
    slices: int = 16,
    rows: int = 128,
    columns: int = 128,
    seed: int = 0,
    seven_zip: bool = False,
) -> Path:
    """Heart CT of a population study: ``out/scapis/<patient>/<slices>``, no folder for the image.

    Slices stand 0.3 mm apart, StudyID is empty, and the one volume spans four AcquisitionNumbers.

    Args:
        seven_zip: deliver it as the real one is: ``out/scapis.7z`` with the same paths inside, no folder.

    Returns:
        ``out/scapis`` or ``out/scapis.7z``.

    Raises:
        MissingExtraError: ``seven_zip`` without py7zr.
    """
    if seven_zip and find_spec("py7zr") is None:
        raise MissingExtraError("py7zr", "formats", "a SCAPIS stand-in as 7z")
    root = out / "scapis"
    pixel = 200.0 / max(rows, columns)
    shape, spacing = (slices, rows, columns), (0.3, pixel, pixel)
    for number in range(patients):
        who = seed * 1000 + 200 + number
        name = f"5-{10001 + 37 * number}"
        datasets = ct_datasets(
            phantom(shape, who, spacing_mm=spacing, region="heart", phase="arterial", noise_hu=20),
            spacing_mm=spacing,
            origin_mm=origin_mm(shape, spacing_mm=spacing, region="heart"),
            seed=who,
            patient=f"Fantom^{_NAMES[number % 10]}",
            per_slice=_acquisition_of(slices),
            tags={
                "PatientID": name, "Manufacturer": "SIEMENS", "ManufacturerModelName": "SOMATOM Phantom Flash",
                "StudyDescription": "SCAPIS CT", "SeriesDescription": "CCTA 0,3 mm", "StudyID": "",
                "BodyPartExamined": "HEART", "ProtocolName": "CorCTA", "SliceThickness": "0.5",
            },
        )  # fmt: skip
        files = save(datasets, root / name, names="{:04}.dcm")
        for file in files:
            os.utime(file, (_EPOCH, _EPOCH))
    if not seven_zip:
        return root
    import py7zr

    packed = out / "scapis.7z"
    with py7zr.SevenZipFile(packed, "w") as archive:
        for path in sorted(root.rglob("*.dcm")):
            archive.write(path, path.relative_to(out).as_posix())
    shutil.rmtree(root)
    return packed


def _acquisition_of(slices: int) -> Any:
    return lambda index: {"AcquisitionNumber": 1 + index * 4 // slices}
