"""Real segmentations, structure sets and reports, on their own images; and second opinions on what is written."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections import Counter
from pathlib import Path

import drawing
import numpy as np
import pytest

import dcmark
from dcmark.annotate import formats
from dcmark.annotate.exchange import export_annotations, import_annotations, import_from_archive
from dcmark.annotate.formats.base import Context
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation
from dcmark.annotate.places import Places
from dcmark.testing import standins

SEVEN = {
    "labels.nii.gz": "nifti", "labels.nrrd": "nrrd", "labels.mha": "mha", "seg-binary.dcm": "seg",
    "seg-labelmap.dcm": "seg", "seg-labelmap-rle.dcm": "seg", "rtstruct.dcm": "rtstruct",
}  # fmt: skip


def archive_of(folder: Path, *sources: Path) -> dcmark.Archive:
    archive = dcmark.open_archive(folder / "a.dcmark", create=True)
    dcmark.ingest([*sources], archive)
    return archive


@pytest.fixture(scope="module")
def chest(corpus, tmp_path_factory):
    """The CT that the seven segmentations were made on."""
    return archive_of(tmp_path_factory.mktemp("chest"), corpus / "FNNDSC+data" / "dicom")


@pytest.fixture(scope="module")
def seven(corpus, chest) -> dict[str, list[Annotation]]:
    folder = corpus / "derived" / "ct-segmentation-import"
    return {
        name: formats.load(format).read(folder / name, Context(chest)).annotations for name, format in SEVEN.items()
    }


def test_the_seven_derived_segmentations_are_the_same_voxels(chest, seven):
    first = seven["labels.nii.gz"]
    assert sorted(one.label.name for one in first) == ["1", "3"]
    air, bone = (drawing.pixels([one], chest) for one in sorted(first, key=lambda one: one.label.name))
    assert (sum(int(m.sum()) for m in air.values()), sum(int(m.sum()) for m in bone.values())) == (1484396, 82302)
    for name, found in seven.items():
        air_name, bone_name = ("air region 1", "bone") if name.endswith(".dcm") else ("1", "3")
        by_name = {one.label.name: one for one in found}
        assert drawing.same_pixels(drawing.pixels([by_name[air_name]], chest), air), name
        if name != "rtstruct.dcm":
            assert drawing.same_pixels(drawing.pixels([by_name[bone_name]], chest), bone), name


def test_the_voxels_are_those_that_numpy_sees_through_the_headers(corpus, chest, seven):
    """nibabel's array and the position of each slice, without dcmark."""
    import nibabel
    import pydicom

    image = nibabel.load(corpus / "derived" / "ct-segmentation-import" / "labels.nii.gz")
    data, back = np.asarray(image.dataobj), np.linalg.inv(image.affine)
    bone = next(one for one in seven["seg-binary.dcm"] if one.label.name == "bone")
    places = Places(chest)
    for plane in list(bone.mask)[::5]:
        file = corpus / "FNNDSC+data" / places.file(plane.frame.file)["path"].removeprefix("dicom/")
        if not file.exists():
            file = next((corpus / "FNNDSC+data").rglob(Path(places.file(plane.frame.file)["path"]).name))
        header = pydicom.dcmread(file, stop_before_pixels=True)
        origin, spacing = np.array(header.ImagePositionPatient, float), np.array(header.PixelSpacing, float)
        rows, columns = np.nonzero(plane.binary())
        points = origin + np.stack([columns * spacing[1], rows * spacing[0], 0 * rows], axis=1)
        index = np.rint((points * (-1, -1, 1)) @ back[:3, :3].T + back[:3, 3]).astype(int)
        assert (data[tuple(index.T)] == 3).all()


def test_real_objects_import_onto_their_images(corpus, bundled, tmp_path):
    """highdicom's, dcmqi's, rt-utils' and dicompyler's own files; each with how much of it has images here."""
    archive = archive_of(
        tmp_path, corpus / "ImagingDataCommons+highdicom", corpus / "QIICR+dcmqi", corpus / "qurit+rt-utils",
        corpus / "pypi+dicompyler-core-0.5.6", bundled,
    )  # fmt: skip
    report = import_from_archive(archive)
    paths = {
        row["sop_instance_uid"]: row["path"]
        for row in dcmark.query(archive, "SELECT path, sop_instance_uid FROM files ORDER BY path DESC").to_pylist()
    }
    found: dict[str, list[Annotation]] = {}
    for one in Log(archive).state().annotations():
        found.setdefault(Path(paths[one.origin]).name, []).append(one)
    on_images = Counter({name: sum(bool(one.frames) for one in members) for name, members in found.items()})
    assert on_images["seg_image_ct_binary.dcm"] == 1
    assert on_images["seg_image_ct_binary_fractional.dcm"] == 1
    assert on_images["seg_image_ct_binary_single_frame.dcm"] == 1
    assert on_images["seg_image_cr_binary.dcm"] == 1
    assert on_images["seg_image_sm_control.dcm"] == on_images["seg_image_sm_control_labelmap.dcm"] == 19
    assert on_images["sm_annotations.dcm"] == 4
    assert on_images["sr_document.dcm"] == 2
    assert on_images["label.seg"] == 1
    assert on_images["rt.dcm"] == 1
    assert len(found["rtss.dcm"]) == 9
    assert len(found["sr.dcm"]) == 23
    assert {f.level for f in report.findings if f.code == "usage"} == {"error"}
    again = import_from_archive(archive)
    assert again.annotations == 0
    assert again.unchanged >= len(found)
    assert dcmark.verify(archive, read_data="none").whole


def test_dcmqi_segmentation_is_its_own_label_map(corpus, tmp_path):
    """dcmqi made the DICOM object from the NRRD: both must mark the same pixels of the same slices."""
    folder = corpus / "QIICR+dcmqi" / "data" / "segmentations" / "23x38x3"
    archive = archive_of(tmp_path, folder / "image")
    seg = formats.load("seg").read(folder / "seg" / "label.seg", Context(archive)).annotations
    nrrd = formats.load("nrrd").read(folder / "nrrd" / "label.nrrd", Context(archive)).annotations
    assert drawing.same_pixels(drawing.pixels(seg, archive), drawing.pixels(nrrd, archive))
    assert seg[0].label.code is not None


def test_highdicom_reads_the_pixels_that_were_meant(chest, seven, tmp_path):
    hd = pytest.importorskip("highdicom")
    bone = next(one for one in seven["seg-binary.dcm"] if one.label.name == "bone")
    for kind in ("binary", "labelmap"):
        export_annotations(chest, "seg", tmp_path / kind, annotations=[bone], options={"type": kind})
        (path,) = (tmp_path / kind).iterdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = hd.seg.segread(path)
            uids = [str(uid) for _, _, uid in found.get_source_image_uids()]
            array = found.get_pixels_by_source_instance(uids, segment_numbers=[1], combine_segments=False)
        places = Places(chest)
        marked = {plane.frame: plane.binary() for plane in bone.mask}
        for uid, pixels in zip(uids, array[..., 0], strict=True):
            frame = places.frame_of_instance(uid)
            assert np.array_equal(pixels != 0, marked.get(frame, np.zeros_like(pixels, bool)))
        segment = found.get_segment_description(1)
        assert segment.segment_label == "bone"


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_dcmqi_reads_the_pixels_that_were_meant(chest, seven, tmp_path, kind):
    """dcmqi's own converter makes an array of it, which is put back by the geometry that it wrote."""
    dcmqi = pytest.importorskip("dcmqi")
    program = next((Path(dcmqi.__file__).parent / "bin").glob("segimage2itkimage*"))
    bone = next(one for one in seven["seg-binary.dcm"] if one.label.name == "bone")
    export_annotations(chest, "seg", tmp_path / "seg", annotations=[bone], options={"type": kind})
    (path,) = (tmp_path / "seg").iterdir()
    (tmp_path / "out").mkdir()
    ran = subprocess.run(
        [program, "--inputDICOM", path, "--outputDirectory", tmp_path / "out", "-t", "nrrd"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (array,) = (tmp_path / "out").glob("*.nrrd")
    found = formats.load("nrrd").read(array, Context(chest)).annotations
    assert drawing.same_pixels(drawing.pixels(found, chest), drawing.pixels([bone], chest))


def test_rt_utils_reads_the_pixels_that_were_meant(corpus, chest, seven, tmp_path):
    rt_utils = pytest.importorskip("rt_utils")
    bone = next(one for one in seven["seg-binary.dcm"] if one.label.name == "bone")
    export_annotations(chest, "rtstruct", tmp_path / "rt", annotations=[bone])
    (path,) = (tmp_path / "rt").iterdir()
    series = next(file.parent for file in (corpus / "FNNDSC+data" / "dicom").rglob("*.dcm"))
    found = rt_utils.RTStructBuilder.create_from(str(series), str(path)).get_roi_mask_by_name("bone")
    # OpenCV fills to whole pixels: two of 82,302 voxels, where pixels touch in a corner only, come out otherwise.
    assert abs(int(found.sum()) - sum(int(plane.binary().sum()) for plane in bone.mask)) <= 4


# Stand-ins for the datasets, and the validator ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drli(tmp_path_factory):
    """GSPS, SEG, KOS and SR beside the CT, as the liver dataset has them."""
    folder = tmp_path_factory.mktemp("drli")
    standins.drli(folder / "drli", patients=2, rows=64, columns=64)
    archive = archive_of(folder, folder / "drli")
    import_from_archive(archive)
    return archive


def test_objects_ingested_with_the_images_are_imported_from_the_archive(drli):
    found = Counter(one.kind for one in Log(drli).state().annotations())
    assert {"polygon", "label", "mask", "measurement"} <= found.keys()
    for one in Log(drli).state().annotations():
        assert one.frames or one.target.file
        if one.kind == "measurement":
            assert (one.label.name, one.unit) == ("Area", "mm2")
            assert Log(drli).state()[one.derived_from[0]].kind == "polygon"


def test_the_mask_of_the_segmentation_is_inside_the_outlines_of_the_presentation_state(drli):
    """Two objects of one study made from the same lesions, by other code: they must fall on each other."""
    from dcmark.annotate.agree import dice

    state = list(Log(drli).state().annotations())
    masks = [one for one in state if one.kind == "mask"]
    assert masks
    for mask in masks:
        outlines = [one for one in state if one.kind == "polygon" and one.label.name == mask.label.name]
        same = [one for one in outlines if one.target.study == mask.target.study]
        if same:
            assert dice(drawing.pixels([mask], drli), drawing.pixels(same, drli)) > 0.75


def test_emboli_of_the_pulmonary_dataset_come_in_as_masks(tmp_path):
    standins.ctpa(tmp_path / "ctpa", patients=1, rows=64, columns=64)
    archive = archive_of(tmp_path, tmp_path / "ctpa")
    files = [
        file for file in sorted((tmp_path / "ctpa").rglob("*")) if file.name.endswith((".nrrd", ".nii", ".nii.gz"))
    ]
    assert files
    for file in files:
        format = "nrrd" if file.name.endswith(".nrrd") else "nifti"
        import_annotations(archive, format, file)
    places = Places(archive)
    for one in Log(archive).state().annotations():
        assert {places.file(frame.file)["kind"] for frame in one.frames} == {"dicom"}, "not onto the mask itself"
    assert all(one.kind == "mask" for one in Log(archive).state().annotations())
    assert len(Log(archive).state()) >= 1


dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of Debian's dicom3tools")


@dciodvfy
@pytest.mark.parametrize("format", ["seg", "rtstruct", "sr", "gsps", "kos"])
def test_written_objects_pass_the_validator(ct, drli, tmp_path, format):
    if format == "seg":
        pytest.importorskip("highdicom")
    for number, archive in enumerate((ct, drli)):
        drawn = drawing.everything(archive) if archive is ct else {}
        chosen = list(drawn.values()) or list(Log(archive).state().annotations())
        for kind in ("binary", "fractional") if format == "seg" else ("",):
            options = {"type": kind} if kind else {}
            out = tmp_path / f"{number}{kind}"
            report = export_annotations(archive, format, out, annotations=chosen, options=options)
            for file in report.files:
                done = subprocess.run(["dciodvfy", out / file], capture_output=True, text=True, check=False)
                errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
                assert errors == []


@dciodvfy
def test_written_slide_annotations_pass_the_validator(corpus, tmp_path):
    archive = archive_of(tmp_path, corpus / "ImagingDataCommons+highdicom")
    import_from_archive(archive, format="ann")
    report = export_annotations(archive, "ann", tmp_path / "out")
    assert report.annotations == 2
    done = subprocess.run(["dciodvfy", tmp_path / "out" / report.files[0]], capture_output=True, text=True, check=False)
    source = corpus / "ImagingDataCommons+highdicom" / "data" / "test_files" / "sm_annotations.dcm"
    theirs = subprocess.run(["dciodvfy", source], capture_output=True, text=True, check=False)
    new = [line for line in done.stderr.splitlines() if line.startswith("Error") and line not in theirs.stderr]
    assert new == []


def test_reports_open_in_highdicom(drli, tmp_path):
    hd = pytest.importorskip("highdicom")
    report = export_annotations(drli, "sr", tmp_path / "out")
    groups = 0
    for file in report.files:
        content = hd.sr.srread(tmp_path / "out" / file).content
        groups += len(content.get_planar_roi_measurement_groups())
    assert groups == sum(one.kind == "polygon" for one in Log(drli).state().annotations())
