"""Dataset, patient and image names from the folders, whatever part of the tree was handed over."""

from __future__ import annotations

import shutil
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pydicom
import pytest

import dcmark
from dcmark.errors import UsageError
from dcmark.read.containers import open_source
from dcmark.read.layouts import Layout, Place, place


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ctpa/05169DB5-4F6A-40/1/i0000,0000b.dcm", Place("ctpa", "05169DB5-4F6A-40", "1")),
        ("scapis/5-10001/0001.dcm", Place("scapis", "5-10001")),
        ("scapis.7z/scapis/5-10001/0001.dcm", Place("scapis", "5-10001")),
        ("scapis.7z/5-10001/0001.dcm", Place("scapis", "5-10001")),
        ("delivery_3.7z/scapis/5-10001/0001.dcm", Place("scapis", "5-10001")),
        ("data_dir/drli/AI-DRLI-001/2/x0000.dcm", Place("drli", "AI-DRLI-001", "2")),
        ("Lungröntgen/Å-1/thorax pa/1.dcm", Place("Lungröntgen", "Å-1", "thorax pa")),
        ("ctpa/README.txt", Place("ctpa")),
        ("ctpa/P,1/1/masks/a.dcm", Place("ctpa")),
        ("scapis/5-10001/set/0001.dcm", Place("scapis")),
        ("data_dir/lever/P1/1/a.dcm", Place("lever", "P1", "1")),
        ("lever/P1/1.zip/a.dcm", Place("lever", "P1", "1")),
        ("lever.tar.gz/lever/P1/1/a.dcm", Place("lever", "P1", "1")),
        ("README.txt", Place()),
        ("a/b/1.dcm", Place()),
        ("a/b/c/d/1.dcm", Place()),
    ],
)
def test_names_off_a_path_alone(path: str, expected: Place) -> None:
    assert place(path) == expected


def test_a_pattern_wins_and_may_be_of_the_end_of_the_path() -> None:
    assert place("ctpa/x/1/a.dcm", "{patient}/{dataset}/*/*") == Place("x", "ctpa")
    assert place("any/where/P1/a.dcm", "{patient}/*") == Place("", "P1")
    assert place("ctpa/x/1/a.dcm", "none") == Place()
    for wrong in ("{person}/*", "{patient}/{patient}/*", "{patient}"):
        with pytest.raises(UsageError, match="expected a layout"):
            place("a/b", wrong)


def _slice(file: Path, bundled: Path, patient: str, study: str = "") -> None:
    ct = pydicom.dcmread(bundled / "CT_small.dcm")
    ct.PatientID = patient
    ct.StudyInstanceUID = f"1.2.3.{zlib.crc32(study.encode())}" if study else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    ct.save_as(file)


def _tree(root: Path, bundled: Path, dataset: str) -> None:
    ct = pydicom.dcmread(bundled / "CT_small.dcm")
    for patient in ("P-1", "P-2"):
        for image in ("1", "2"):
            ct.PatientID = patient
            ct.SOPInstanceUID += ".1"
            folder = root / dataset / patient / image
            folder.mkdir(parents=True)
            ct.save_as(folder / "a.dcm")


@pytest.mark.parametrize("dataset", ["ctpa", "unheard of"])
def test_any_part_of_the_tree_may_be_handed_over(tmp_path: Path, bundled: Path, dataset: str) -> None:
    _tree(tmp_path, bundled, dataset)
    (tmp_path / dataset / "notes.csv").write_text("a,b")
    expected = Place(dataset, "P-1", "2")
    for handed in ("", dataset, f"{dataset}/P-1", f"{dataset}/P-1/2"):
        path = f"{dataset}/P-1/2/a.dcm".removeprefix(handed).lstrip("/")
        assert Layout(None, tmp_path / handed).place(path) == expected, handed


def test_folders_that_nothing_explains_give_no_names(tmp_path: Path, bundled: Path) -> None:
    folder = tmp_path / "home" / "bob" / "ct"
    folder.mkdir(parents=True)
    shutil.copy(bundled / "CT_small.dcm", folder)
    assert Layout(None, tmp_path / "home").place("bob/ct/CT_small.dcm") == Place()
    assert Layout(None, folder).place("CT_small.dcm") == Place()


def test_names_reach_the_archive_from_a_dataset_folder_and_from_a_7z(tmp_path: Path, bundled: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    _tree(tmp_path, bundled, "ctpa")
    with py7zr.SevenZipFile(tmp_path / "scapis.7z", "w") as packed:
        packed.write(bundled / "MR_small.dcm", "scapis/5-10001/0001.dcm")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "ctpa", tmp_path / "scapis.7z"], archive)
    rows = dcmark.query(archive, "SELECT DISTINCT dataset, patient, image FROM files").to_pylist()
    assert {tuple(row.values()) for row in rows} == {
        ("ctpa", "P-1", "1"), ("ctpa", "P-1", "2"), ("ctpa", "P-2", "1"), ("ctpa", "P-2", "2"),
        ("scapis", "5-10001", ""),
    }  # fmt: skip


def _packed(folder: Path, kind: str) -> Path:
    """``folder`` in a container beside it, its own name in every member's."""
    target = folder.parent / f"packed of {kind}.{kind}"
    files = sorted(place for place in folder.rglob("*") if place.is_file())
    names = [place.relative_to(folder.parent).as_posix() for place in files]
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as packed:
            for file, name in zip(files, names, strict=True):
                packed.write(file, name)
    elif kind == "7z":
        with pytest.importorskip("py7zr").SevenZipFile(target, "w") as packed:
            for file, name in zip(files, names, strict=True):
                packed.write(file, name)
    else:
        with tarfile.open(target, "w:gz") as packed:
            for file, name in zip(files, names, strict=True):
                packed.add(file, name)
    return target


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "7z"])
@pytest.mark.parametrize("dataset", ["ctpa", "Lungröntgen, 2"])
def test_so_may_a_container_of_any_part(tmp_path: Path, bundled: Path, dataset: str, kind: str) -> None:
    base = tmp_path / "store"
    _tree(base, bundled, dataset)
    for handed in ("", dataset, f"{dataset}/P-1", f"{dataset}/P-1/2"):
        packed = _packed(base / handed, kind)
        inside = (base / dataset / "P-1" / "2" / "a.dcm").relative_to((base / handed).parent).as_posix()
        found = Layout(None, open_source(packed)).place(inside)
        # The folder that a lone image came from is not in the container: two readings, none is taken.
        assert found.image == ("2" if handed != f"{dataset}/P-1/2" else ""), handed
        assert found.patient == "P-1"
        # A container stands for a folder of its name, here that of the dataset.
        assert found.dataset == ("packed of " + kind if handed == f"{dataset}/P-1" and dataset != "ctpa" else dataset)


def test_a_container_named_like_the_folder_it_was_made_from_stands_for_it(tmp_path: Path, bundled: Path) -> None:
    _tree(tmp_path, bundled, "store")
    for image in ("1", "2"):
        packed = tmp_path / "store" / "P-1" / f"{image}.zip"
        with zipfile.ZipFile(packed, "w") as made:
            made.write(tmp_path / "store" / "P-1" / image / "a.dcm", "a.dcm")
        expected = Place("store", "P-1", image)
        assert Layout(None, packed).place("a.dcm") == expected
        assert Layout(None, tmp_path).place(f"store/P-1/{image}.zip/a.dcm") == expected


def test_patients_told_apart_by_headers_alone(tmp_path: Path, bundled: Path) -> None:
    """No folder is called like a patient: the patient's are those that hold one patient each."""
    for patient in ("one", "two", "three"):
        for image in ("1", "2"):
            _slice(tmp_path / "liver" / f"case {patient}" / image / "a.dcm", bundled, patient, patient)
    assert Layout(None, tmp_path).place("liver/case two/1/a.dcm") == Place("liver", "case two", "1")
    assert Layout(None, tmp_path / "liver").place("case two/1/a.dcm") == Place("liver", "case two", "1")
    # One patient alone: which folder is the patient's cannot be told.
    assert Layout(None, tmp_path / "liver" / "case two").place("1/a.dcm") == Place()


def test_a_study_in_two_folders_is_not_two_patients(tmp_path: Path, bundled: Path) -> None:
    for number in range(4):
        _slice(tmp_path / "liver" / "case" / str(number) / "a.dcm", bundled, f"random {number}", "one study")
    layout = Layout(None, tmp_path)
    assert layout.place("liver/case/1/a.dcm") == Place("liver", "case", "1")
    assert layout.finding is not None and "told by depth" in layout.finding.message
    assert Layout(None, tmp_path / "liver").place("case/1/a.dcm") == Place()


def test_headers_that_speak_against_the_depth_leave_it_open(tmp_path: Path, bundled: Path) -> None:
    """Patient, study and image below the source, or datasets in each of which everybody has the same Patient ID."""
    for patient in ("one", "two"):
        for study in ("2019", "2020"):
            _slice(tmp_path / f"case {patient}" / study / "1" / "a.dcm", bundled, patient, patient + study)
    layout = Layout(None, tmp_path)
    assert layout.place("case one/2019/1/a.dcm") == Place() and layout.finding is None
    # Several Patient IDs in what the layout says is a patient's folder change nothing, but are not passed over.
    _slice(tmp_path / "case one" / "2019" / "2" / "a.dcm", bundled, "three", "another")
    layout = Layout(None, tmp_path)
    assert layout.place("case one/2019/1/a.dcm") == Place("case one", "2019", "1")
    assert layout.finding is not None and layout.finding.level == "warning"


def test_studies_between_patient_and_image_are_not_taken_for_images(tmp_path: Path, bundled: Path) -> None:
    for patient in ("P1", "P2"):
        for study in ("2019", "2020"):
            _slice(tmp_path / "liver" / patient / study / "1" / "a.dcm", bundled, patient, patient + study)
    expected = Place("liver", "P1")
    assert Layout(None, tmp_path).place("liver/P1/2019/1/a.dcm") == expected
    assert Layout(None, tmp_path / "liver").place("P1/2019/1/a.dcm") == expected
    assert Layout(None, tmp_path / "liver" / "P1").place("2019/1/a.dcm") == expected


def test_names_and_headers_that_disagree_give_no_name(tmp_path: Path, bundled: Path) -> None:
    for patient in ("P-1", "P-2"):
        _slice(tmp_path / "drli" / "batch" / patient / "a.dcm", bundled, patient)
    assert Layout(None, tmp_path).place("drli/batch/P-1/a.dcm") == Place("drli")
    assert Layout(None, tmp_path / "drli").place("batch/P-1/a.dcm") == Place("drli")
    assert Layout(None, tmp_path / "drli" / "batch").place("P-1/a.dcm") == Place()
    assert Layout("{patient}/*", tmp_path).place("drli/batch/P-1/a.dcm") == Place("", "P-1")


def test_a_patient_called_1_is_not_found_in_every_first_image(tmp_path: Path, bundled: Path) -> None:
    _slice(tmp_path / "liver" / "case" / "1" / "a.dcm", bundled, "1")
    assert Layout(None, tmp_path).place("liver/case/1/a.dcm") == Place("liver", "case", "1")
    assert Layout(None, tmp_path / "liver").place("case/1/a.dcm") == Place()


def test_accented_letters_are_the_same_however_a_system_writes_them(tmp_path: Path, bundled: Path) -> None:
    name = unicodedata.normalize("NFD", "Åsa-1")
    _slice(tmp_path / "x" / name / "1" / "a.dcm", bundled, "asa-1")
    assert Layout(None, tmp_path / "x").place(f"{name}/1/a.dcm") == Place()
    ct = pydicom.dcmread(tmp_path / "x" / name / "1" / "a.dcm")
    ct.SpecificCharacterSet, ct.PatientID = "ISO_IR 192", unicodedata.normalize("NFC", "ÅSA-1")
    ct.save_as(tmp_path / "x" / name / "1" / "a.dcm")
    assert Layout(None, tmp_path / "x").place(f"{name}/1/a.dcm") == Place("x", name, "1")


def _names(archive: dcmark.Archive) -> dict[str, tuple[str, str, str]]:
    rows = dcmark.query(archive, "SELECT path, dataset, patient, image FROM paths WHERE sha256 IS NOT NULL")
    return {row["path"]: (row["dataset"], row["patient"], row["image"]) for row in rows.to_pylist()}


def test_what_lies_beside_the_slices_names_nothing_by_itself(tmp_path: Path, bundled: Path) -> None:
    base = tmp_path / "base"
    _tree(base, bundled, "liver")
    for place_ in ("README", "liver/notes.csv", "liver/docs/how.txt", "liver/P-1/outline.nrrd", "liver/P-1/1/tmp/x.txt",
                   "liver/P-1/plans/a/b/c.txt", "liver/P-9/1/note"):  # fmt: skip
        (base / place_).parent.mkdir(parents=True, exist_ok=True)
        (base / place_).write_text(place_)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(base, archive)
    names = _names(archive)
    assert names["README"] == ("", "", "")
    assert names["liver/notes.csv"] == names["liver/docs/how.txt"] == names["liver/P-9/1/note"] == ("liver", "", "")
    assert names["liver/P-1/outline.nrrd"] == names["liver/P-1/plans/a/b/c.txt"] == ("liver", "P-1", "")
    assert names["liver/P-1/1/tmp/x.txt"] == names["liver/P-1/1/a.dcm"] == ("liver", "P-1", "1")
    # What comes later is named by what was there before, slices or not.
    (base / "liver" / "P-1" / "late.txt").write_text("late")
    assert dcmark.ingest(base, archive).files == 1
    assert _names(archive) == {**names, "liver/P-1/late.txt": ("liver", "P-1", "")}


def test_more_files_later_do_not_change_what_the_folders_mean(tmp_path: Path, bundled: Path) -> None:
    """At first depth alone tells; what comes then would tell otherwise, and the first reading stands."""
    base = tmp_path / "base"
    _slice(base / "case" / "2019" / "1" / "a.dcm", bundled, "one", "study one")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    report = dcmark.ingest(base, archive)
    assert [finding.code for finding in report.findings] == ["layout"] and not report.needs_a_look
    assert "--layout" in report.findings[0].action
    for number in (2, 3):
        for study in ("2019", "2020"):
            _slice(base / f"case {number}" / study / "1" / "a.dcm", bundled, f"p{number}", f"{number} {study}")
    assert Layout(None, base).place("case/2019/1/a.dcm") == Place(), "by itself it would now be left open"
    dcmark.ingest(base, archive)
    names = _names(archive)
    assert names["case/2019/1/a.dcm"] == ("case", "2019", "1")
    assert names["case 2/2019/1/a.dcm"] == ("case 2", "2019", "1")


def test_parts_and_the_whole_agree(tmp_path: Path, bundled: Path) -> None:
    """One patient first, then the dataset, then all: the same names for the same bytes."""
    base = tmp_path / "data_dir"
    _tree(base, bundled, "lever")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    sql = "SELECT DISTINCT dataset, patient, image FROM files ORDER BY ALL"
    dcmark.ingest(base / "lever" / "P-1" / "1" / "a.dcm", archive)
    assert dcmark.query(archive, sql).to_pylist() == [{"dataset": "lever", "patient": "P-1", "image": "1"}]
    for handed in ("lever/P-1/1", "lever/P-1", "lever", "."):
        dcmark.ingest(base / handed, archive)
    found = [tuple(row.values()) for row in dcmark.query(archive, sql).to_pylist()]
    assert found == [("lever", f"P-{p}", str(i)) for p in (1, 2) for i in (1, 2)]
    paths = dcmark.query(archive, "SELECT DISTINCT dataset, patient, image FROM paths WHERE sha256 IS NOT NULL")
    assert paths.num_rows == 4
