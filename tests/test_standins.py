"""The stand-ins have the quirks of the sets they stand for, and come back from an archive byte for byte."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest

import dcmark
from dcmark.testing import standins
from dcmark.testing.phantom import lesion_labels, lesions_mm, origin_mm, phantom

SMALL = {"rows": 48, "columns": 48, "slices": 8}


def _read(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(place) for place in sorted(folder.glob("*.dcm"))]


def _hashes(root: Path) -> dict[str, str]:
    files = [place for place in sorted(root.rglob("*")) if place.is_file()]
    return {place.relative_to(root).as_posix(): hashlib.sha256(place.read_bytes()).hexdigest() for place in files}


def test_ctpa(tmp_path: Path) -> None:
    root = standins.ctpa(tmp_path, patients=1, **SMALL)
    (patient,) = root.iterdir()
    assert sorted(place.name for place in patient.iterdir() if place.is_dir()) == ["1", "2", "3", "4", "5"]
    for series in "12345":
        slices = _read(patient / series)
        assert all("," in place.name for place in (patient / series).iterdir())
        assert {s.file_meta.TransferSyntaxUID for s in slices} == {"1.2.840.10008.1.2.4.90"}
    for series in "34":
        slices = sorted(_read(patient / series), key=lambda s: s.InstanceNumber)
        normal = np.cross(*np.array(slices[1].ImageOrientationPatient, float).reshape(2, 3))
        along = [float(np.dot(normal, np.array(s.ImagePositionPatient, float))) for s in slices[1:]]
        steps = np.diff(along)
        assert np.allclose(steps, steps[0], atol=1e-3)
        first = float(np.dot(normal, np.array(slices[0].ImagePositionPatient, float)))
        turned = slices[0].ImageOrientationPatient != slices[1].ImageOrientationPatient
        off = abs((first - along[0]) / steps[0] - round((first - along[0]) / steps[0])) > 0.05
        assert turned or off  # instance 1 is a reference image off the grid
    assert list(patient.glob("emboli.*"))


def test_drli(tmp_path: Path) -> None:
    root = standins.drli(tmp_path, patients=2, **SMALL)
    kinds = defaultdict(set)
    for patient in sorted(root.iterdir()):
        slices = _read(patient / "1")
        positions = [float(s.ImagePositionPatient[2]) for s in slices]
        assert positions != sorted(positions)
        assert positions != sorted(positions, reverse=True)
        for series in "23":
            (place,) = (patient / series).iterdir()
            assert place.name == "x0000.dcm"
            beside = pydicom.dcmread(place)
            kinds[patient.name].add(beside.Modality)
        assert str(slices[0].BodyPartExamined).startswith("DT THORAX OCH")
    assert list(kinds.values()) == [{"PR", "SEG"}, {"KO", "SR"}]


def test_scapis(tmp_path: Path) -> None:
    root = standins.scapis(tmp_path, patients=1, **SMALL)
    (patient,) = root.iterdir()
    slices = _read(patient)
    assert len(slices) == SMALL["slices"]
    assert {s.StudyID for s in slices} in ({""}, {None})
    assert {s.AcquisitionNumber for s in slices} == {1, 2, 3, 4}
    positions = sorted(float(s.ImagePositionPatient[2]) for s in slices)
    assert np.allclose(np.diff(positions), 0.3, atol=1e-6)
    assert len({s.SeriesInstanceUID for s in slices}) == 1


def test_the_same_seed_gives_the_same_bytes_and_another_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        standins.scapis(tmp_path / name, patients=1, seed=seed, **SMALL)
    first, again, other = (_hashes(tmp_path / name) for name in "abc")
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_all_come_back_from_an_archive(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for make in (standins.ctpa, standins.drli, standins.scapis):
        make(source, patients=1, **SMALL)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(source, archive)
    places = dcmark.query(archive, "SELECT dataset, patient, image FROM files WHERE modality = 'CT'").to_pylist()
    assert {row["dataset"] for row in places} == {"ctpa", "drli", "scapis"}
    assert all(row["patient"] for row in places)
    assert all(bool(row["image"]) == (row["dataset"] != "scapis") for row in places)
    assert dcmark.verify(archive).whole
    dcmark.restore(archive, tmp_path / "out")
    assert _hashes(source) == _hashes(tmp_path / "out")


def test_a_7z_holds_the_same_files_as_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("py7zr")
    standins.scapis(tmp_path / "folder", patients=1, **SMALL)
    packed = standins.scapis(tmp_path / "packed", patients=1, seven_zip=True, **SMALL)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(packed, archive)
    dcmark.restore(archive, tmp_path / "out")
    assert set(_hashes(tmp_path / "out").values()) == set(_hashes(tmp_path / "folder").values())
    assert {row["dataset"] for row in dcmark.query(archive, "SELECT dataset FROM files").to_pylist()} == {"scapis"}


def test_the_phantom_is_a_body_in_hounsfield_units_and_its_lesions_lie_where_they_are_said() -> None:
    shape, seed = (24, 96, 96), 5
    ball = max(lesions_mm(seed), key=lambda found: found[3])
    spacing = (1.5, 4.0, 4.0)
    middle = (0.0, 16.0, float(ball[2]))
    hu = phantom(shape, seed, spacing_mm=spacing, region="liver", middle_mm=middle, noise_hu=0)
    labels = lesion_labels(shape, seed, spacing_mm=spacing, region="liver", middle_mm=middle)
    assert hu.min() <= -990
    assert 200 < hu.max() < 2500
    assert labels.any()
    # Metastases take up less contrast than the liver around them.
    around = hu[(hu > 60) & (hu < 200) & (labels == 0)]
    assert hu[labels > 0].mean() < np.median(around) - 10
    origin = np.array(origin_mm(shape, spacing_mm=spacing, region="liver", middle_mm=middle))
    where = np.argwhere(labels)[:, ::-1] * np.array(spacing[::-1]) + origin
    nearest = np.linalg.norm(where - ball[:3], axis=1).min()
    assert nearest < ball[3] + 10  # breathing moves what is painted by up to 9 mm
