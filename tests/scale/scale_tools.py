"""What the tests of scale share: a small data set of several patients, and what an archive holds to compare."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import dcmark
from dcmark.archive.store import Archive
from dcmark.testing.builders import minimal, multiframe

LONG_AGO_NS = 1_600_000_000_000_000_000


def slice_of(patient: str, series: int, number: int, side: int | None = None) -> bytes:
    """A small slice, each with its own pixels."""
    import numpy as np
    import pydicom

    made = pydicom.dcmread(io.BytesIO(minimal()))
    made.PatientID, made.PatientName = patient, patient
    made.StudyInstanceUID = f"2.25.7{patient[1:]}"
    made.SeriesInstanceUID = f"2.25.7{patient[1:]}{series}"
    made.FrameOfReferenceUID = f"2.25.7{patient[1:]}9"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"2.25.7{patient[1:]}{series}{number:04d}"
    made.Modality, made.SeriesNumber, made.InstanceNumber = "CT", series, number
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing = [1, 1]
    if side is not None:
        made.Rows = made.Columns = side
        made.PixelData = bytes(side * side * made.BitsAllocated // 8)
    chance = np.random.default_rng([int(patient[1:]), series, number])
    made.PixelData = chance.integers(0, 255, len(made.PixelData), np.uint8).tobytes()
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dataset(folder: Path, patients: int = 5, slices: int = 4) -> Path:
    """``data_dir/trial/P<n>/<image>/*.dcm`` with notes, a repeated slice, a zip and a tar of further patients."""
    trial = folder / "trial"
    for number in range(patients):
        for series in (1, 2):
            place = trial / f"P{number}" / f"image {series}"
            place.mkdir(parents=True)
            for one in range(slices + number % 3):
                (place / f"{one}.dcm").write_bytes(slice_of(f"P{number}", series, one))
        (trial / f"P{number}" / "notes.txt").write_text(f"patient {number}", "utf-8")
    (trial / "P0" / "image 1" / "outline.json").write_text("{}", "utf-8")
    (trial / "P1" / "image 1" / "again.dcm").write_bytes((trial / "P0" / "image 1" / "0.dcm").read_bytes())
    (trial / "P2" / "image 1" / "many.dcm").write_bytes(
        multiframe()[0] if isinstance(multiframe(), tuple) else multiframe()
    )
    (trial / "README.txt").write_text("what this is", "utf-8")
    (folder / "LICENSE.txt").write_text("terms", "utf-8")
    with zipfile.ZipFile(trial / "delivery.zip", "w") as packed:
        for number in (50, 51):
            for one in range(3):
                packed.writestr(f"P{number}/image 1/{one}.dcm", slice_of(f"P{number}", 1, one))
            packed.writestr(f"P{number}/notes.txt", f"patient {number}")
    with tarfile.open(trial / "late.tar", "w") as packed_too:
        for number in (60, 61):
            for one in range(3):
                data = slice_of(f"P{number}", 1, one)
                member = tarfile.TarInfo(f"P{number}/image 1/{one}.dcm")
                member.size = len(data)
                packed_too.addfile(member, io.BytesIO(data))
    for at, place in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        os.utime(place, ns=(LONG_AGO_NS + at, LONG_AGO_NS + at))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = (place for place in folder.rglob("*") if place.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def content(archive: Archive) -> dict[str, Any]:
    """What an archive says, without what differs from run to run: random numbers, order, times of reading."""
    archive.refresh()
    queries = {
        "files": "SELECT * FROM files ORDER BY sha256",
        "frames": "SELECT * FROM frames ORDER BY sha256, number",
        "paths": "SELECT * REPLACE (epoch_ns(modified) AS modified) FROM paths ORDER BY ALL",
        "findings": "SELECT * FROM findings ORDER BY ALL",
        "volumes": "SELECT * EXCLUDE (id) FROM volumes ORDER BY ALL",
    }
    return {name: dcmark.query(archive, sql).to_pylist() for name, sql in queries.items()}
