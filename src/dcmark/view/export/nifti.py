"""Volumes as NIfTI files, one a volume, each with a side file that leads back to the files it was made from.

    export_nifti(archive, "nifti/", where="modality = 'CT'", quantity="hu")

A NIfTI file holds one even grid. So a volume with slices missing or unevenly spaced is left out, with a finding,
unless ``regular`` asks for a resampled one. A tilted stack is written as it is: its affine is sheared.
The array is never flipped and the affine is negated in x and y, LPS to RAS (unless ``ras`` asks for RAS axes).
"""

from __future__ import annotations

import gzip
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.query import query
from dcmark.archive.store import Archive
from dcmark.archive.volumes import StoredVolume
from dcmark.config import LIMITS, Limits
from dcmark.engine import current
from dcmark.errors import DamageError, DcmarkError, MissingExtraError, StorageError, UnsupportedError, UsageError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, affine_to_nifti, shear_degrees
from dcmark.progress import NoProgress, Progress
from dcmark.read.volumes import resample
from dcmark.view.export.base import ExportReport, begin, finish, item_line
from dcmark.view.volumes import stored_values, values

COMMENT_EXTENSION = 6
"""Code of a header extension that holds plain text (NIfTI-1 header extensions)."""
LARGEST_NIFTI1 = 32767
_DETAILS = (
    "manufacturer", "manufacturer_model_name", "series_description", "protocol_name", "series_number",
    "slice_thickness", "spacing_between_slices", "echo_time", "repetition_time", "inversion_time",
    "convolution_kernel", "kvp", "body_part_examined", "image_type",
)  # fmt: skip
_BIDS = {
    "manufacturer": "Manufacturer",
    "manufacturer_model_name": "ManufacturersModelName",
    "kvp": "KVP",
}
_MILLISECONDS = frozenset({"echo_time", "repetition_time", "inversion_time"})
"""DICOM states them in ms, BIDS in s."""

Array = NDArray[Any]


def export_nifti(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    where: str | None = None,
    quantity: str | None = None,
    ras: bool = False,
    regular: bool = False,
    fill: float | None = None,
    overwrite: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> ExportReport:
    """Write ``sub-PATIENT/sub-PATIENT_acq-ID_run-SERIES_MODALITY.nii.gz`` and its ``.json`` for every volume.

    Values that are whole numbers are written as int16 or int32, all others as float32. Pixels without a value
    (padding) are NaN.

    Args:
        archive: where from.
        out: an empty or absent folder, unless ``overwrite``.
        where: SQL condition over the view ``volumes``; None: all.
        quantity: as for ``dcmark.values``; ``stored`` for stored values in their own type.
        ras: turn and flip the array's axes to the nearest of right, anterior, superior; the affine follows.
        regular: resample volumes that stand on no even grid, fill gaps, shear tilted ones back.
        fill: written instead of NaN.
        threads: that decode.

    Returns:
        The report; its items are volumes. One that cannot be written never stops the others, and is a finding.

    Raises:
        QueryError: ``where`` is refused.
        MissingExtraError: nibabel is not installed.
        OutputExistsError: ``out`` has something in it.
        StorageError: ``out`` cannot be written.
    """
    _nibabel()
    progress = progress or NoProgress()
    folder = begin(out, overwrite)
    chosen = archive.volumes(where)
    details = _details(archive, chosen)
    report, files, items = ExportReport(), set[str](), list[str]()
    progress.start("export nifti", len(chosen))
    try:
        write = partial(_tried, folder.absolute(), quantity, ras, regular, fill, threads, limits)
        engine, units = current(), ((volume, details[volume.id]) for volume in chosen)
        written = map(write, units) if engine is None else engine.map(write, units)
        for volume, made in zip(chosen, written, strict=True):
            try:
                if isinstance(made, DcmarkError):
                    raise made
                name, notes = made
                report.findings += notes
                report.items += 1
                files |= set(files_of(volume))
                items += [
                    item_line({"item": name, "index": k, "sha256": frame.file, "frame": frame.frame})
                    for k, frame in enumerate(volume.frames)
                ]
                if volume.detached:
                    items.append(item_line({"item": name, "sha256": volume.detached}))
            except StorageError:
                raise
            except DcmarkError as error:
                report.left_out += 1
                report.damaged += isinstance(error, DamageError)
                report.findings.append(Finding("warning", error.code, str(error), "left out", volume.id))
            progress.advance(1, 0)
    finally:
        progress.finish()
    report.files = len(files)
    about = {"exporter": "nifti", "archive": archive.info.id, "where": where, "quantity": quantity, "ras": ras}
    finish(folder, about | {"regular": regular, "fill": fill}, items, report)
    return report


def _nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise MissingExtraError("nibabel", "formats", "writing NIfTI") from error
    return nibabel


# One volume -----------------------------------------------------------------------------------------------------------


def _tried(
    folder: Path,
    quantity: str | None,
    ras: bool,
    regular: bool,
    fill: float | None,
    threads: int,
    limits: Limits,
    unit: tuple[StoredVolume, Mapping[str, Any]],
) -> tuple[str, list[Finding]] | DcmarkError:
    """Write one volume, here or in a worker; the error where it cannot be."""
    try:
        return _write(folder, *unit, quantity, ras, regular, fill, threads, limits)
    except StorageError:
        raise
    except DcmarkError as error:
        return error


def _write(
    folder: Path,
    volume: StoredVolume,
    details: Mapping[str, Any],
    quantity: str | None,
    ras: bool,
    regular: bool,
    fill: float | None,
    threads: int,
    limits: Limits,
) -> tuple[str, list[Finding]]:
    label = re.sub("[^0-9A-Za-z]", "", details["patient"] or details["patient_id"] or "")[:40] or "unknown"
    series = details["series_number"]
    run = "" if series is None or series < 0 else f"_run-{series}"
    kind = re.sub("[^0-9A-Za-z]", "", details["modality"] or "")[:16] or "image"
    name = f"sub-{label}/sub-{label}_acq-{volume.id}{run}_{kind}"
    if volume.affine is None:
        raise UnsupportedError(f"expected a volume with a place in the patient, found {volume.verdict}")
    uneven = volume.grid == "uneven"
    if uneven and not regular:
        raise UnsupportedError(
            f"expected an even grid, found {volume.verdict}; resample with --regular, or export it as npy"
        )
    if quantity == "stored":
        array: Array = stored_values(volume, threads=threads, limits=limits)
        meaning = {"quantity": "stored", "unit": "1", "how": "stored values as they are (PS3.3 C.7.6.3)"}
    else:
        found = values(volume, quantity, threads=threads, limits=limits)
        array, meaning = found.values, {"quantity": found.quantity, "unit": found.unit, "how": found.how}
    affine, notes = volume.affine, list[Finding]()
    if regular and (uneven or volume.grid == "tilted"):
        outside = fill if fill is not None else float("nan")
        array, affine, note = resample(array, volume, fill=outside)
        notes.append(Finding(note.level, note.code, note.message, note.action, f"{name}.nii.gz"))
    if fill is not None and array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(fill, array.dtype), array)
    array = narrowest(array)
    image = image_of(array, affine, ras, reference_of(volume))
    files = files_of(volume)
    place = {file: number for number, file in enumerate(files)}
    side = {
        **_bids(details, meaning),
        "dcmark": {
            "archive": volume.archive.info.id if volume.archive else "",
            "volume": volume.id,
            **meaning,
            "grid": volume.grid,
            "verdict": volume.verdict,
            "affine_lps": affine.tolist(),
            "axes": "".join(_nibabel().aff2axcodes(image.affine)),
            "phase": volume.phase,
            "phases": volume.phases,
            "findings": [one.as_dict() for one in (*volume.findings, *notes)],
            "sha256": files,
            "frames": [[place[frame.file], frame.frame] for frame in volume.frames],
        },
    }
    with writing(folder):
        (folder / f"sub-{label}").mkdir(exist_ok=True)
        save_image(image, folder / f"{name}.nii.gz")
        _whole(folder / f"{name}.json", (_json(side) + "\n").encode())
    return f"{name}.nii.gz", notes


def _json(side: Mapping[str, Any], depth: int = 1) -> str:
    """JSON with a line a key, however long its value: a thousand slices are no thousand lines."""
    pad = " " * depth
    lines = [
        f"{pad}{json.dumps(key)}: "
        + (_json(value, depth + 1) if key == "dcmark" else json.dumps(value, ensure_ascii=False))
        for key, value in side.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n" + pad[1:] + "}"


def narrowest(array: Array) -> Array:
    """Whole numbers as int16 or int32, where all are; NIfTI-1 tools read these and float32 everywhere."""
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (-(2.0**24) <= low <= high <= 2.0**24) or not np.array_equal(array, np.rint(array)):
            return array.astype(np.float32)
    elif array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        return array
    else:
        low, high = float(array.min()), float(array.max())
    if low >= -32768 and high <= 32767:
        return array.astype(np.int16)
    return array.astype(np.int32) if low >= -(2**31) and high < 2**31 else array


def image_of(array: Array, affine: AffineLps, ras: bool, reference: bytes) -> Any:
    nibabel = _nibabel()
    if array.ndim == 4:
        if array.shape[3] != 3 or array.min() < 0 or array.max() > 255:
            raise UnsupportedError(
                f"expected one value a pixel, or RGB of 8 bits, found {array.shape[3]} values; export it as npy"
            )
        rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        array = np.ascontiguousarray(array.astype(np.uint8)).view(rgb)[..., 0]
    turned = array.transpose(2, 1, 0)
    kind = nibabel.Nifti1Image if max(turned.shape) <= LARGEST_NIFTI1 else nibabel.Nifti2Image
    image = kind(turned, affine_to_nifti(affine), dtype=turned.dtype)
    if ras:
        image = nibabel.as_closest_canonical(image)
    sheared = shear_degrees(affine) > 1e-3
    image.set_sform(image.affine, code=1)
    # A quaternion cannot say shear.
    image.set_qform(None if sheared else image.affine, code=0 if sheared else 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"dcmark"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(COMMENT_EXTENSION, reference))
    return image


def reference_of(volume: StoredVolume) -> bytes:
    """What leads back to the files when the side file is lost: JSON in a header extension."""
    return json.dumps({"dcmark": {"volume": volume.id, "sha256": files_of(volume)}}, separators=(",", ":")).encode()


def files_of(volume: StoredVolume) -> list[str]:
    """SHA-256 of the files a volume is made of, in the order of its slices."""
    files = dict.fromkeys(frame.file for frame in volume.frames)
    return [*files, *([volume.detached] if volume.detached else [])]


def save_image(image: Any, place: Path) -> None:
    draft = place.with_name(f".dcmark-{secrets.token_hex(8)}")
    try:
        # No name and no time in the gzip header: equal volumes give equal files.
        with draft.open("wb") as stream, gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
            image.to_stream(packed)
        draft.replace(place)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _whole(place: Path, data: bytes) -> None:
    draft = place.with_name(f".dcmark-{secrets.token_hex(8)}")
    try:
        draft.write_bytes(data)
        draft.replace(place)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _details(archive: Archive, chosen: list[StoredVolume]) -> dict[str, dict[str, Any]]:
    """Columns of the first file of every volume, by volume."""
    columns = ", ".join(f"f.{name}" for name in _DETAILS)
    rows = query(
        archive,
        f"SELECT v.id, v.dataset, v.patient, v.patient_id, v.modality, {columns} "
        "FROM volumes v JOIN files f ON f.sha256 = v.sha256",
    ).to_pylist()
    wanted = {volume.id for volume in chosen}
    return {row["id"]: row for row in rows if row["id"] in wanted}


def _bids(details: Mapping[str, Any], meaning: Mapping[str, str]) -> dict[str, Any]:
    """What BIDS knows names for (Brain Imaging Data Structure 1.10, common metadata of images)."""
    from importlib.metadata import version

    side: dict[str, Any] = {"Modality": details["modality"]}
    for name in _DETAILS:
        value = details[name]
        if value is None:
            continue
        if name in _MILLISECONDS:
            value = value / 1000
        if name == "image_type":
            value = value.split("\\")
        side[_BIDS.get(name, "".join(word.capitalize() for word in name.split("_")))] = value
    side["Units"] = meaning["unit"]
    side["ConversionSoftware"], side["ConversionSoftwareVersion"] = "dcmark", version("dcmark")
    return side


# The way back ---------------------------------------------------------------------------------------------------------

_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST_JSON = 256 << 20
_LARGEST_EXTENSION = 256 << 20
_MOST_FILES = 1_000_000


def originals(path: str | os.PathLike[str]) -> set[bytes]:
    """SHA-256 of the files that exported NIfTI files were made from.

    Found in the side file, else in the header extension of the NIfTI file itself. Both are taken as hostile.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, its side file, or a folder of them.

    Raises:
        UsageError: nothing is there, or nothing in it leads to an original.
    """
    place = Path(path)
    if place.is_dir():
        files = [p for p in sorted(place.rglob("*"))[:_MOST_FILES] if p.name.endswith((".nii", ".nii.gz", ".json"))]
        stems = {_side(p) for p in files}
        listed = [_originals(p) for p in files if p.suffix == ".json" or _side(p) not in files]
        found = set().union(*listed) if stems else set()
    elif place.is_file():
        side = _side(place)
        found = (_originals(side) if side.is_file() else set()) or _originals(place)
    else:
        raise UsageError(f"expected a NIfTI file or a folder of them at {path}, found nothing; check the path")
    if not found:
        raise UsageError(
            f"expected NIfTI files written by dcmark export nifti at {path}, found none that names its originals"
        )
    return found


def _side(place: Path) -> Path:
    name = place.name
    for end in (".nii.gz", ".nii", ".json"):
        if name.endswith(end):
            return place.with_name(name.removesuffix(end) + ".json")
    return place


def _originals(place: Path) -> set[bytes]:
    from dcmark.read.nifti import extensions

    if place.suffix == ".json":
        if place.stat().st_size > _LARGEST_JSON:
            return set()
        return _named(place.read_bytes())
    found: set[bytes] = set()
    with place.open("rb") as stream:
        for code, text in extensions(stream, _LARGEST_EXTENSION):
            if code == COMMENT_EXTENSION:
                found |= _named(text)
    return found


def _named(text: bytes) -> set[bytes]:
    """The SHA-256 that JSON of ours names; nothing of anything else."""
    try:
        parsed = json.loads(text.rstrip(b"\0 \n"))
    except (ValueError, RecursionError):
        return set()
    ours = parsed.get("dcmark") if isinstance(parsed, dict) else None
    if not isinstance(ours, dict):
        return set()
    names = ours.get("sha256")
    if not isinstance(names, list):
        return set()
    return {bytes.fromhex(name) for name in names if isinstance(name, str) and _SHA256.fullmatch(name)}
