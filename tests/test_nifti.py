"""Volumes leave as NIfTI with the right values in the right place, and the originals are found again."""

from __future__ import annotations

import gzip
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import dcmark
from dcmark.cli import run
from dcmark.errors import OutputExistsError, UsageError
from dcmark.geometry import affine_to_nifti
from dcmark.testing.awkward import awkward
from dcmark.view.export.nifti import export_nifti, originals

nibabel = pytest.importorskip("nibabel")

DICOM2NIFTI = "icometrix+dicom2nifti/tests/data"
PACSMAN = "TranslationalML+PACSMAN_data/pacsman_data/data"


def archive_of(source: Path | list[Path], place: Path):
    archive = dcmark.open_archive(place, create=True)
    dcmark.ingest(source, archive)
    return archive


def written(folder: Path) -> list:
    return [nibabel.load(place) for place in sorted(folder.rglob("*.nii.gz"))]


def in_ras(image) -> tuple[np.ndarray, np.ndarray]:
    """Values and affine of an image with its axes turned to right, anterior, superior."""
    turned = nibabel.as_closest_canonical(image)
    return np.asarray(turned.dataobj), turned.affine


# Against what others made of the same files


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("series", "reference"),
    [
        *(
            (f"{DICOM2NIFTI}/{name}", f"{DICOM2NIFTI}/{name}_ground_truth{turned}.nii.gz")
            for name in (
                "generic/compressed/001",
                "hitachi/anatomical/001",
                "hitachi/anatomical/001_implicit",
                "philips/fmri/001",
                "philips/fmri/001_implicit",
                "philips_enhanced/fmri/001",
                "philips_enhanced/fmri/001_implicit",
            )
            for turned in ("", "_reoriented")
        ),
        (f"{PACSMAN}/dicomseries", f"{PACSMAN}/bids/sub-000001_T1w.nii.gz"),
    ],
)
def test_values_and_affine_are_those_of_the_reference(
    corpus: Path, tmp_path: Path, series: str, reference: str
) -> None:
    archive = archive_of(corpus / series, tmp_path / "a.dcmark")
    report = export_nifti(archive, tmp_path / "out")
    expected, affine = in_ras(nibabel.load(corpus / reference))
    expected = expected if expected.ndim == 4 else expected[..., None]
    assert (report.items, report.left_out) == (expected.shape[3], 0)
    for volume in archive.volumes():
        (place,) = (tmp_path / "out").rglob(f"*{volume.id}*.nii.gz")
        found, where = in_ras(nibabel.load(place))
        # The references of enhanced MR were computed in double precision and rounded to float32 once more.
        np.testing.assert_allclose(found, expected[..., volume.phase - 1], rtol=2e-7, atol=0)
        np.testing.assert_allclose(where, affine, atol=1e-3)


@pytest.mark.corpus
def test_colours_are_those_of_the_reference(corpus: Path, tmp_path: Path) -> None:
    archive = archive_of(corpus / DICOM2NIFTI / "generic/rgb/001", tmp_path / "a.dcmark")
    export_nifti(archive, tmp_path / "out")
    (image,) = written(tmp_path / "out")
    expected = nibabel.load(corpus / DICOM2NIFTI / "generic/rgb/001_ground_truth.nii.gz")
    found, where = in_ras(image)
    wanted, affine = in_ras(expected)
    # The reference holds RGBA: the same colours, and a fourth value that DICOM does not have.
    for channel in "RGB":
        np.testing.assert_array_equal(found[channel], wanted[channel])
    np.testing.assert_allclose(where, affine, atol=1e-3)


@pytest.mark.corpus
def test_the_array_that_pacsman_made_its_dicom_from_has_no_place(corpus: Path, tmp_path: Path) -> None:
    """``pacsman.nii.gz`` is the drawing before it became DICOM: an identity affine, and its axes in another order."""
    archive = archive_of(corpus / PACSMAN / "dicomseries", tmp_path / "a.dcmark")
    (volume,) = archive.volumes()
    drawing = nibabel.load(corpus / PACSMAN / "nifti/pacsman.nii.gz")
    np.testing.assert_array_equal(drawing.affine, np.eye(4))
    np.testing.assert_array_equal(np.asarray(drawing.dataobj).transpose(2, 0, 1), dcmark.values(volume).values)


# Awkward series


def test_a_ct_is_written_as_whole_hu_where_the_file_says_it_lies(tmp_path: Path) -> None:
    series = awkward(tmp_path / "src", "oblique")
    archive = archive_of(series.folder, tmp_path / "a.dcmark")
    (volume,) = archive.volumes()
    export_nifti(archive, tmp_path / "out")
    (image,) = written(tmp_path / "out")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), dcmark.values(volume).values)
    np.testing.assert_allclose(image.affine, affine_to_nifti(volume.affine), atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_ras_turns_the_axes_and_moves_nothing(tmp_path: Path) -> None:
    series = awkward(tmp_path / "src", "oblique")
    archive = archive_of(series.folder, tmp_path / "a.dcmark")
    export_nifti(archive, tmp_path / "lps")
    export_nifti(archive, tmp_path / "ras", ras=True)
    (plain,), (turned,) = written(tmp_path / "lps"), written(tmp_path / "ras")
    assert nibabel.aff2axcodes(plain.affine) == ("L", "P", "S")
    assert nibabel.aff2axcodes(turned.affine) == ("R", "A", "S")
    values, affine = in_ras(plain)
    np.testing.assert_array_equal(np.asarray(turned.dataobj), values)
    np.testing.assert_allclose(turned.affine, affine, atol=1e-4)


@pytest.mark.parametrize(("case", "slices"), [("gap", 20), ("uneven", 49), ("truncated", 20)])
def test_what_stands_on_no_even_grid_is_written_only_when_resampling_is_asked_for(
    tmp_path: Path, case: str, slices: int
) -> None:
    series = awkward(tmp_path / "src", case)
    archive = archive_of(series.folder, tmp_path / "a.dcmark")
    report = export_nifti(archive, tmp_path / "no")
    assert (report.items, report.left_out) == (0, 1)
    assert "--regular" in report.findings[0].message
    report = export_nifti(archive, tmp_path / "yes", regular=True)
    assert (report.items, report.left_out) == (1, 0)
    assert report.findings[0].code == "resampled"
    (image,) = written(tmp_path / "yes")
    assert image.shape[2] == slices  # no slice is lost: 1 mm divides the 2 and 3 mm of the uneven one
    side = json.loads(next((tmp_path / "yes").glob("sub-*/*.json")).read_text())
    assert "resampled" in {finding["code"] for finding in side["dcmark"]["findings"]}


def test_a_tilted_stack_keeps_its_pixels_under_a_sheared_affine(tmp_path: Path) -> None:
    series = awkward(tmp_path / "src", "tilt")
    archive = archive_of(series.folder, tmp_path / "a.dcmark")
    export_nifti(archive, tmp_path / "as-is")
    (image,) = written(tmp_path / "as-is")
    (volume,) = archive.volumes()
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), dcmark.values(volume).values)
    np.testing.assert_allclose(image.affine, affine_to_nifti(volume.affine), atol=1e-4)
    assert image.header["qform_code"] == 0  # a quaternion cannot say shear
    export_nifti(archive, tmp_path / "square", regular=True)
    (square,) = written(tmp_path / "square")
    directions = square.affine[:3, :3] / np.linalg.norm(square.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)


def test_padding_is_nan_or_what_was_asked_for(tmp_path: Path) -> None:
    series = awkward(tmp_path / "src", "padding")
    archive = archive_of(series.folder, tmp_path / "a.dcmark")
    export_nifti(archive, tmp_path / "nan")
    export_nifti(archive, tmp_path / "air", fill=-1024)
    export_nifti(archive, tmp_path / "stored", quantity="stored")
    (nan,), (air,), (stored,) = (written(tmp_path / name) for name in ("nan", "air", "stored"))
    outside = np.isnan(np.asarray(nan.dataobj))
    assert 0 < outside.mean() < 1
    assert (np.asarray(air.dataobj)[outside] == -1024).all()
    assert air.get_data_dtype() == np.int16
    assert len(np.unique(np.asarray(stored.dataobj)[outside])) == 1
    assert stored.get_data_dtype().kind in "iu"


def test_volumes_that_cannot_be_written_do_not_stop_the_others(tmp_path: Path, capsys) -> None:
    source = [awkward(tmp_path / "1", "regular").folder, awkward(tmp_path / "2", "gap", seed=1).folder]
    archive = archive_of(source, tmp_path / "a.dcmark")
    assert run(["export", "nifti", str(archive.path), str(tmp_path / "out"), "-q"]) == 3
    assert "1 volumes of 20 files written, 1 left out" in capsys.readouterr().out
    assert run(["export", "nifti", str(archive.path), str(tmp_path / "out"), "-q"]) == 2
    with pytest.raises(OutputExistsError):
        export_nifti(archive, tmp_path / "out")
    report = export_nifti(archive, tmp_path / "suv", quantity="suvbw")
    assert report.items == 0
    assert {finding.code for finding in report.findings} <= {"meaning", "unsupported"}


def test_equal_volumes_give_equal_files(tmp_path: Path) -> None:
    archive = archive_of(awkward(tmp_path / "src", "regular").folder, tmp_path / "a.dcmark")
    export_nifti(archive, tmp_path / "1")
    export_nifti(archive, tmp_path / "2")
    one, two = (next((tmp_path / name).rglob("*.nii.gz")).read_bytes() for name in "12")
    assert one == two


# The way back


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("exported")
    series = awkward(root / "src", "two_phases")
    archive = archive_of([series.folder, awkward(root / "src2", "regular", seed=3).folder], root / "a.dcmark")
    export_nifti(archive, root / "out")
    return archive, root / "out", series


def hashes(folder: Path) -> set[str]:
    return {hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_a_nifti_file_leads_back_to_its_originals(exported, tmp_path: Path) -> None:
    archive, out, _ = exported
    for k, volume in enumerate(archive.volumes()):
        (place,) = out.rglob(f"*{volume.id}*.nii.gz")
        assert run(["restore", str(archive.path), str(tmp_path / str(k)), "--from-nifti", str(place), "-q"]) == 0
        assert hashes(tmp_path / str(k)) == {frame.file for frame in volume.frames}


def test_a_folder_leads_back_to_all_of_them(exported, tmp_path: Path) -> None:
    archive, out, _ = exported
    assert run(["restore", str(archive.path), str(tmp_path / "all"), "--from-nifti", str(out), "-q"]) == 0
    assert len(hashes(tmp_path / "all")) == 60


def test_the_side_file_of_all_exports_names_every_slice(exported, tmp_path: Path) -> None:
    archive, out, _ = exported
    assert run(["restore", str(archive.path), str(tmp_path / "all"), "--from-export", str(out), "-q"]) == 0
    assert len(hashes(tmp_path / "all")) == 60


def test_the_nifti_alone_is_enough(exported, tmp_path: Path) -> None:
    archive, out, _ = exported
    volume = archive.volumes()[0]
    (place,) = out.rglob(f"*{volume.id}*.nii.gz")
    alone = tmp_path / "renamed.nii.gz"
    alone.write_bytes(place.read_bytes())
    unpacked = tmp_path / "renamed.nii"
    unpacked.write_bytes(gzip.decompress(place.read_bytes()))
    for path in (alone, unpacked, tmp_path):
        assert originals(path) == {bytes.fromhex(frame.file) for frame in volume.frames}


def test_files_of_others_and_hostile_ones_lead_nowhere(exported, tmp_path: Path) -> None:
    _, out, _ = exported
    with pytest.raises(UsageError, match="found nothing"):
        originals(tmp_path / "absent")
    image = next(out.rglob("*.nii.gz")).read_bytes()
    plain = gzip.decompress(image)
    for k, data in enumerate(
        (b"", b"\x1f\x8b", image[: len(image) // 8][:60], plain[:350], plain[:352] + b"\xff" * 64, b"{" * 100_000)
    ):
        for name in (f"{k}.nii.gz", f"{k}.nii", f"{k}.json"):
            place = tmp_path / str(k) / name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
            with pytest.raises(UsageError, match="none that names its originals"):
                originals(place)
    for text in ('{"dcmark": {"sha256": 7}}', '{"dcmark": {"sha256": ["../x", 7, null]}}', "[]", "7"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UsageError):
            originals(tmp_path / "x.json")


def test_the_side_file_says_what_the_numbers_are(exported) -> None:
    archive, out, _ = exported
    volume = archive.volumes()[0]
    (place,) = out.rglob(f"*{volume.id}*.json")
    side = json.loads(place.read_text("utf-8"))
    assert (side["Modality"], side["Units"]) == ("CT", "[hnsf'U]")
    ours = side["dcmark"]
    assert (ours["archive"], ours["volume"], ours["quantity"]) == (archive.info.id, volume.id, "hu")
    assert [(ours["sha256"][k], n) for k, n in ours["frames"]] == [tuple(frame) for frame in volume.frames]
    np.testing.assert_allclose(ours["affine_lps"], volume.affine)


def test_what_was_exported_can_be_ingested_and_is_the_same_volume(exported, tmp_path: Path) -> None:
    archive, out, _ = exported
    again = archive_of(out, tmp_path / "again.dcmark")
    volumes = again.volumes("kind = 'nifti'")
    assert len(volumes) == 3
    for volume in volumes:
        source = next(v for v in archive.volumes() if v.id in _path_of(again, volume))
        np.testing.assert_allclose(volume.affine, source.affine, atol=1e-4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(dcmark.values(volume).values, dcmark.values(source).values)


def _path_of(archive, volume) -> str:
    return dcmark.query(archive, f"SELECT path FROM volumes WHERE id = '{volume.id}'")["path"][0].as_py()
