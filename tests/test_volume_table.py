"""Volumes of an archive: found from tags on the way in, kept in a table that can always be made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

import dcmark
from dcmark.archive import volumes as table
from dcmark.cli import run
from dcmark.errors import QueryError, StorageError, UsageError
from dcmark.geometry import to_mm, voxels
from dcmark.read.volumes import frames_of
from dcmark.testing import standins
from dcmark.testing.awkward import CASES, awkward
from dcmark.view.volumes import stored_values
from volume_series import found as found_in


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory):
    """A case of the table of awkward series, and an archive of it; each is made once."""
    root, made = tmp_path_factory.mktemp("awkward"), {}

    def of(case: str):
        if case not in made:
            series = awkward(root, case)
            archive = dcmark.open_archive(root / f"{case}.dcmark", create=True)
            dcmark.ingest(series.folder, archive)
            made[case] = series, archive
        return made[case]

    return of


def told(volume) -> set[str]:
    return {finding.code for finding in volume.findings}


# The awkward series of docs/concepts/volumes.md, all 20 slices of 2 mm: what becomes of each, and what is said of it.
TABLE = {
    "regular": [("regular", 20, set())],
    "gap": [("uneven", 18, {"missing-slices"})],
    "duplicates": [("regular", 20, {"duplicate"})],
    "tilt": [("tilted", 20, {"tilted"})],
    "two_series": [("regular", 20, set()), ("regular", 20, set())],
    "two_phases": [("regular", 20, {"phases", "split"}), ("regular", 20, {"phases", "split"})],
    "localizer": [("regular", 20, {"split"}), ("single", 1, {"single-slice", "localizer", "split"})],
    "truncated": [("uneven", 19, {"missing-slices"})],
    "uneven": [("uneven", 20, {"uneven-spacing"})],
    "reversed": [("regular", 20, set())],
    "shuffled": [("regular", 20, set())],
    "oblique": [("regular", 20, set())],
    "nonsquare": [("regular", 20, set())],
    "mixed_units": [("regular", 17, {"split", "mixed-units"}), ("regular", 3, {"split", "mixed-units"})],
    "monochrome1": [("regular", 20, set())],
    "padding": [("regular", 20, set())],
    "frame_of_reference_per_slice": [("regular", 20, {"frames-of-reference"})],
    "enhanced": [("regular", 20, set())],
}
LEFT_OUT = {"duplicates": {"duplicate": 2}, "truncated": {"no-frame": 1}}


def test_every_awkward_case_has_its_row_in_the_table() -> None:
    assert set(TABLE) == set(CASES)


@pytest.mark.parametrize("case", TABLE)
def test_no_awkward_series_becomes_a_wrong_grid_in_silence(archives, case: str) -> None:
    series, archive = archives(case)
    volumes = archive.volumes()
    assert [(v.grid, v.shape[0], told(v)) for v in volumes] == TABLE[case]
    left = dcmark.query(archive, "SELECT code, files FROM leftovers").to_pylist()
    assert {row["code"]: row["files"] for row in left} == LEFT_OUT.get(case, {})
    assert sum(len(v.frames) for v in volumes) + sum(row["files"] for row in left) == len(series.hu)
    for volume in volumes:
        stated = _places(archive, volume)
        grid = to_mm(volume.affine, voxels([[index, 0, 0] for index in volume.slice_index]))
        # Every slice stands where its own file says, by the affine and slice_index alone.
        np.testing.assert_allclose(grid, stated, atol=0.01)


def _places(archive, volume) -> list:
    rows = archive.read("files", ["sha256", "image_position_patient"]).to_pylist()
    place = {row["sha256"].hex(): row["image_position_patient"] for row in rows}
    return [place[frame.file] or volume.positions[k].tolist() for k, frame in enumerate(volume.frames)]


@pytest.mark.parametrize("case", ["regular", "gap", "tilt", "uneven", "reversed", "oblique", "monochrome1", "enhanced"])
def test_values_of_a_volume_are_the_truth_in_the_order_of_position(archives, case: str) -> None:
    series, archive = archives(case)
    (volume,) = archive.volumes()
    hu = dcmark.values(volume)
    assert (hu.quantity, hu.unit, hu.values.dtype) == ("hu", "[hnsf'U]", np.float32)
    np.testing.assert_allclose(hu.values, series.hu, atol=0.51)
    np.testing.assert_array_equal(dcmark.values(volume, threads=2).values, hu.values)
    assert stored_values(volume).shape == volume.shape


def test_shuffled_files_give_the_same_values(archives) -> None:
    (plain,), (shuffled,) = archives("regular")[1].volumes(), archives("shuffled")[1].volumes()
    np.testing.assert_array_equal(dcmark.values(plain).values, dcmark.values(shuffled).values)


def test_the_archive_finds_the_volumes_that_the_files_themselves_give(archives) -> None:
    for case in ("localizer", "two_phases", "enhanced", "mixed_units"):
        series, archive = archives(case)
        rows = [row for file in series.files for row in frames_of(pydicom.dcmread(file), str(file))]
        direct = found_in(rows).volumes
        stored = archive.volumes()
        assert [(v.grid, v.shape, v.split) for v in stored] == [(v.grid, v.shape, v.split) for v in direct]
        for one, other in zip(stored, direct, strict=True):
            np.testing.assert_allclose(one.affine, other.affine)
            np.testing.assert_allclose(one.positions, other.positions)


def test_scapis_and_ctpa_stand_ins_keep_together_what_belongs_together(tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([standins.scapis(tmp_path, patients=1), standins.ctpa(tmp_path, patients=1)], archive)
    heart, *lungs = sorted(archive.volumes("modality = 'CT'"), key=lambda v: v.spacing[0])
    assert (heart.grid, heart.shape[0], told(heart)) == ("regular", 16, {"acquisitions-joined"})
    assert sorted((v.grid, v.shape[0]) for v in lungs) == [
        ("regular", 6), ("regular", 6), ("regular", 6), ("regular", 6), ("regular", 12), ("single", 1), ("single", 1)
    ]  # fmt: skip
    off = [volume for volume in lungs if volume.grid == "single"]
    assert all("split" in told(volume) for volume in off)


def test_a_segmentation_and_what_is_no_image_stand_apart_in_drli(tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(standins.drli(tmp_path, patients=2), archive)
    assert [v.shape[0] for v in archive.volumes("modality = 'CT'")] == [12, 12]
    assert {row["code"] for row in dcmark.query(archive, "SELECT code FROM leftovers").to_pylist()} == {"no-image"}


def test_only_what_changed_is_described_again(tmp_path: Path) -> None:
    one, two = awkward(tmp_path / "one", "regular"), awkward(tmp_path / "two", "tilt", seed=1)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(one.files[:10], archive)
    assert [v.shape[0] for v in archive.volumes()] == [10]
    first = archive.read("volumes").num_rows
    dcmark.ingest(two.folder, archive)
    assert archive.read("volumes").num_rows == first + 2  # the new series, and the row of state
    dcmark.ingest(one.files[10:], archive)
    assert sorted(v.shape[0] for v in archive.volumes()) == [20, 20]
    assert table.update(archive) == 0
    before = [v.as_dict() for v in archive.volumes()]
    assert table.update(archive, afresh=True) == 2
    assert [v.as_dict() for v in archive.volumes()] == before


def test_the_table_is_made_again_when_it_is_lost_or_damaged(tmp_path: Path) -> None:
    series = awkward(tmp_path, "gap")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(series.folder, archive)
    (before,) = archive.volumes()
    for damage in (_remove, _overwrite):
        damage(tmp_path / "a.dcmark" / "volumes.lance")
        (after,) = dcmark.open_archive(tmp_path / "a.dcmark").volumes()
        assert after.as_dict() == before.as_dict()
    assert dcmark.verify(archive).whole


def _remove(place: Path) -> None:
    shutil.rmtree(place)


def _overwrite(place: Path) -> None:
    for file in place.rglob("*.lance"):
        file.write_bytes(b"\0" * file.stat().st_size)


def test_an_archive_that_cannot_be_written_still_tells_its_volumes(tmp_path: Path, monkeypatch) -> None:
    series = awkward(tmp_path, "localizer")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(series.folder, archive)
    before = [v.as_dict() for v in archive.volumes()]
    _remove(archive.path / "volumes.lance")
    archive.refresh()

    def refused(*_: object) -> None:
        raise StorageError("expected to write, found it read-only")

    monkeypatch.setattr(archive, "_append", refused)
    assert [v.as_dict() for v in archive.volumes()] == before
    assert not (archive.path / "volumes.lance").exists()


def test_superseded_rows_are_tidied_away(tmp_path: Path) -> None:
    series = awkward(tmp_path, "localizer")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(series.folder, archive)
    before = [v.id for v in archive.volumes()]
    rows = archive.read("volumes").to_pylist()
    for k in range(1, 500):
        old = [{**row, "seen": -1, "build": k} for row in rows]
        archive._append("volumes", list(table.record_batches("volumes", old)))
    assert table.update(archive, afresh=True) == 2
    assert archive.read("volumes").num_rows == 3
    assert [v.id for v in archive.volumes()] == before
    assert table.update(archive) == 0


def test_two_patients_under_one_series_uid_are_two_volumes(tmp_path: Path) -> None:
    series = awkward(tmp_path, "regular")
    for file in series.files[10:]:
        dataset = pydicom.dcmread(file)
        dataset.PatientID = "somebody else"
        dataset.save_as(file)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(series.folder, archive)
    assert [v.shape[0] for v in archive.volumes()] == [10, 10]
    assert "somebody" not in json.dumps([v.as_dict() for v in archive.volumes()])


def test_files_without_any_uid_are_kept_apart_by_patient(tmp_path: Path) -> None:
    for k, patient in enumerate(("a", "b")):
        series = awkward(tmp_path / patient, "regular", seed=k)
        for file in series.files:
            dataset = pydicom.dcmread(file)
            dataset.PatientID = patient
            del dataset.SeriesInstanceUID
            dataset.save_as(file)
    archive = dcmark.open_archive(tmp_path / "x.dcmark", create=True)
    dcmark.ingest([tmp_path / "a", tmp_path / "b"], archive)
    assert [v.shape[0] for v in archive.volumes()] == [20, 20]


def test_a_header_that_cannot_be_parsed_costs_no_other_volume(tmp_path: Path, monkeypatch) -> None:
    series, other = awkward(tmp_path / "1", "enhanced"), awkward(tmp_path / "2", "regular")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)

    def fails(*_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("dcmark.archive.volume_source.header_dataset", fails)
    dcmark.ingest([series.folder, other.folder], archive)
    volumes = archive.volumes()
    assert ("regular", 20) in [(v.grid, v.shape[0]) for v in volumes]
    assert any("unreadable-header" in told(v) for v in volumes)


def test_queries_and_listings_tell_verdict_and_findings_in_words(archives, capsys) -> None:
    _, archive = archives("gap")
    (row,) = dcmark.query(archive, "SELECT * FROM volumes").to_pylist()
    assert (row["verdict"], row["level"], row["missing"]) == ("18 slices, 2 mm apart, 2 missing", "warning", 2)
    assert (row["slices"], row["rows"], row["columns"], row["files"]) == (18, 64, 64, 18)
    np.testing.assert_allclose(np.reshape(row["affine"], (4, 4)), archive.volumes()[0].affine)
    said = dcmark.query(archive, "SELECT volume FROM findings WHERE code = 'missing-slices'")
    assert said["volume"].to_pylist() == [row["id"]]
    assert archive.volumes("missing = 0") == []
    with pytest.raises(QueryError):
        archive.volumes("nonsense = 1")
    assert run(["ls", str(archive.path), "volumes"]) == 0
    shown = capsys.readouterr().out
    assert "2 missing" in shown
    assert "2 slices missing at 2 mm" in shown
    assert run(["ls", str(archive.path), "volumes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["volumes"][0]["id"] == row["id"]
    assert run(["ls", str(archives("truncated")[1].path), "volumes"]) == 0
    assert "in no volume: 1 files: error" in capsys.readouterr().out


def test_values_ask_for_a_volume_of_an_archive(archives) -> None:
    series, _ = archives("regular")
    rows = [row for file in series.files for row in frames_of(pydicom.dcmread(file), str(file))]
    with pytest.raises(UsageError, match=r"archive\.volumes"):
        dcmark.values(found_in(rows).volumes[0])
