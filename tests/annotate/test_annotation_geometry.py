"""Masks and contours on awkward series, checked against the headers of the files by pydicom alone.

The export reads its own files back, so a fault shared by writer and reader would go unseen; here every marked voxel of
a written file is put into mm by an independent way and compared with where the headers say the pixels are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import drawing
import numpy as np
import pydicom
import pytest

import dcmark
from dcmark.annotate.exchange import export_annotations, import_annotations
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation, Contour
from dcmark.annotate.places import Places
from dcmark.errors import DamageError, UsageError
from dcmark.read.volume_model import FrameId
from dcmark.testing.awkward import awkward

CASES = ("regular", "oblique", "reversed", "tilt", "nonsquare", "shuffled", "gap", "uneven", "enhanced",
         "frame_of_reference_per_slice", "two_phases", "duplicates")  # fmt: skip
SOME = {
    "two_phases": "seg", "frame_of_reference_per_slice": "seg", "uneven": "seg", "reversed": "seg", "tilt": "mha",
    "gap": "nrrd",
}  # fmt: skip
EVERY_FORMAT = ("oblique", "enhanced")
ARRAYS = ("nifti", "nrrd", "mha")


def series(case: str, folder: Path) -> tuple[dcmark.Archive, Annotation]:
    """An archive of an awkward series and a mask on it."""
    awkward(folder, case, slices=10, rows=24, columns=32)
    archive = dcmark.open_archive(folder / "a.dcmark", create=True)
    dcmark.ingest([folder / case], archive)
    places = Places(archive)
    largest = max(range(len(places.volumes)), key=lambda k: list(places.volumes.values())[k].shape[0])
    one = drawing.volume_mask(archive, number=largest)
    Log(archive).add([one])
    return archive, one


def header_points(folder: Path, case: str, archive, one: Annotation) -> np.ndarray:
    """Marked pixels in mm by the attributes of the original files (PS3.3 C.7.6.2.1.1), sorted."""
    import hashlib

    points = []
    for file in (folder / case).iterdir():
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        for plane in one.mask:
            if plane.frame.file == sha256:
                header = pydicom.dcmread(file, stop_before_pixels=True)
                group = header
                if "PerFrameFunctionalGroupsSequence" in header:
                    shared = header.SharedFunctionalGroupsSequence[0]
                    own = header.PerFrameFunctionalGroupsSequence[plane.frame.frame]
                    group = pydicom.Dataset()
                    for item in (shared, own):
                        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
                            if name in item:
                                group.update(item[name].value[0])
                cosines = np.array(group.ImageOrientationPatient, float)
                down, across = (float(value) for value in group.PixelSpacing)
                rows, columns = np.nonzero(plane.binary())
                origin = np.array(group.ImagePositionPatient, float)
                points.append(origin + rows[:, None] * cosines[3:] * down + columns[:, None] * cosines[:3] * across)
    return ordered(np.concatenate(points))


def ordered(points: np.ndarray) -> np.ndarray:
    rounded = np.round(points, 3) + 0.0
    return rounded[np.lexsort(rounded.T)]


def nifti_points(path: Path) -> np.ndarray:
    import nibabel

    image = nibabel.load(path)
    where = np.argwhere(np.asarray(image.dataobj))
    ras = where @ image.affine[:3, :3].T + image.affine[:3, 3]
    return ras * (-1, -1, 1)


def nrrd_points(path: Path) -> np.ndarray:
    import nrrd

    data, header = nrrd.read(str(path))
    assert header["space"] == "left-posterior-superior"
    return np.argwhere(data) @ header["space directions"] + header["space origin"]


def mha_points(path: Path) -> np.ndarray:
    import zlib

    head, _, body = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    keys = dict(line.split(" = ") for line in head.decode().splitlines())
    shape = [int(word) for word in keys["DimSize"].split()]
    data = np.frombuffer(zlib.decompress(body), np.uint8).reshape(shape[::-1])
    turn = np.array(keys["TransformMatrix"].split(), float).reshape(3, 3)
    spacing, offset = (np.array(keys[name].split(), float) for name in ("ElementSpacing", "Offset"))
    return np.argwhere(data)[:, ::-1] * spacing @ turn + offset


def seg_points(path: Path) -> np.ndarray:
    """By the plane positions of the frames, as any reader of DICOM would."""
    found = pydicom.dcmread(path)
    shared = found.SharedFunctionalGroupsSequence[0]
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    points = []
    for marked, own in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        item = (
            own.PlaneOrientationSequence[0] if "PlaneOrientationSequence" in own else shared.PlaneOrientationSequence[0]
        )
        cosines = np.array(item.ImageOrientationPatient, float)
        down, across = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
        rows, columns = np.nonzero(marked)
        origin = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        points.append(origin + rows[:, None] * cosines[3:] * down + columns[:, None] * cosines[:3] * across)
    return np.concatenate(points)


READERS = {"nifti": nifti_points, "nrrd": nrrd_points, "mha": mha_points, "seg": seg_points}


@pytest.mark.parametrize("case", CASES)
def test_every_marked_voxel_stands_where_the_headers_say(tmp_path, case):
    pytest.importorskip("highdicom")
    archive, one = series(case, tmp_path)
    expected = header_points(tmp_path, case, archive, one)
    for name in ("nifti", "nrrd", "mha", "seg") if case in EVERY_FORMAT else (SOME.get(case, "nifti"),):
        report = export_annotations(archive, name, tmp_path / f"out-{name}", annotations=[one])
        (path,) = [tmp_path / f"out-{name}" / file for file in report.files if not file.endswith(".json")]
        found = ordered(READERS[name](path))
        assert found.shape == expected.shape, name
        assert np.abs(found - expected).max() < 5e-3, name
        again = dcmark.open_archive(archive.path)
        seen = len(Log(again).state())
        # Phases stand on one grid: an array says nothing about which is meant, a segmentation refers to its images.
        volumes = [one.target.volume] if case == "two_phases" and name in ARRAYS else []
        import_annotations(again, name, path, author=name, volumes=volumes)
        made = [a for a in Log(again).state().annotations() if a.id != one.id][-1:]
        assert len(Log(again).state()) == seen + 1
        assert drawing.same_pixels(drawing.pixels(made, again), drawing.pixels([one], again)), name


def test_slices_at_irregular_places_go_into_no_array_but_into_a_segmentation(tmp_path):
    pytest.importorskip("highdicom")
    heights = [0.0, 1.0, 2.7, 3.9, 6.2, 7.5]
    archive = drawing.ct_archive(
        tmp_path, per_slice=lambda k: {"ImagePositionPatient": [-31.0, 12.0, heights[k]], "SliceThickness": "1"}
    )
    one = drawing.volume_mask(archive)
    assert next(iter(Places(archive).volumes.values())).grid == "uneven"
    for name in ARRAYS:
        with pytest.raises(dcmark.DcmarkError, match="evenly spaced"):
            export_annotations(archive, name, tmp_path / name, annotations=[one])
    export_annotations(archive, "seg", tmp_path / "seg", annotations=[one])
    export_annotations(archive, "rtstruct", tmp_path / "rtstruct", annotations=[one])


@pytest.mark.parametrize("case", ["oblique", "tilt", "nonsquare", "reversed"])
def test_contours_stand_where_the_headers_say(tmp_path, case):
    archive, _ = series(case, tmp_path)
    places = Places(archive)
    volume = max(places.volumes.values(), key=lambda one: one.shape[0])
    frame = FrameId(*volume.frames[2])
    points = ((2.0, 3.0), (2.0, 20.0), (15.5, 9.25))
    drawn = Annotation("polygon", places.target("region", [frame]), drawing.LESION, (Contour(points, frame),))
    export_annotations(archive, "rtstruct", tmp_path / "rt", annotations=[drawn])
    (path,) = (tmp_path / "rt").iterdir()
    found = pydicom.dcmread(path)
    contour = found.ROIContourSequence[0].ContourSequence[0]
    named = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
    header = next(
        one for one in (pydicom.dcmread(file) for file in (tmp_path / case).iterdir()) if one.SOPInstanceUID == named
    )
    cosines, spacing = np.array(header.ImageOrientationPatient, float), np.array(header.PixelSpacing, float)
    expected = [
        np.array(header.ImagePositionPatient, float)
        + row * spacing[0] * cosines[3:]
        + column * spacing[1] * cosines[:3]
        for row, column in points
    ]
    assert np.abs(np.array(contour.ContourData, float).reshape(-1, 3) - expected).max() < 1e-3


def flipped(path: Path, axis: int, keep_place: bool) -> None:
    """Flip the array of a NIfTI; with ``keep_place`` the affine too, so that every voxel stays where it is."""
    import nibabel

    image = nibabel.load(path)
    data, affine = np.flip(np.asarray(image.dataobj), axis), image.affine.copy()
    if keep_place:
        affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
        affine[:3, axis] *= -1
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_array_in_another_order_is_put_by_its_geometry(tmp_path, axis):
    """A flipped array with a flipped affine says the same; the pixels on the frames must not change."""
    import nibabel

    archive = drawing.ct_archive(tmp_path)
    one = drawing.volume_mask(archive)
    export_annotations(archive, "nifti", tmp_path / "out", annotations=[one])
    path = next((tmp_path / "out").glob("*.nii.gz"))
    flipped(path, axis, keep_place=True)
    image = nibabel.load(path)
    order = np.roll([0, 1, 2], axis)
    affine = image.affine.copy()
    affine[:, :3] = affine[:, order]
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj).transpose(order), affine), path)
    import_annotations(archive, "nifti", path)
    assert drawing.same_pixels(
        drawing.pixels(Log(archive).state().annotations(), archive), drawing.pixels([one], archive)
    )


def test_a_cropped_mask_is_put_where_it_belongs(tmp_path):
    import nibabel

    archive = drawing.ct_archive(tmp_path)
    one = drawing.volume_mask(archive)
    export_annotations(archive, "nifti", tmp_path / "out", annotations=[one])
    path = next((tmp_path / "out").glob("*.nii.gz"))
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    low, high = (f(np.argwhere(data), axis=0) for f in (np.min, np.max))
    nibabel.save(image.slicer[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))], path)
    import_annotations(archive, "nifti", path)
    assert drawing.same_pixels(
        drawing.pixels(Log(archive).state().annotations(), archive), drawing.pixels([one], archive)
    )


def test_a_mask_that_fits_nothing_is_refused_with_both_grids(tmp_path):
    import nibabel

    archive = drawing.ct_archive(tmp_path)
    export_annotations(archive, "nifti", tmp_path / "out", annotations=[drawing.volume_mask(archive)])
    path = next((tmp_path / "out").glob("*.nii.gz"))
    image = nibabel.load(path)
    shifts = {"half a pixel": (0.35, 0, 0), "far away": (0, 0, 500)}
    for shift in shifts.values():
        affine = image.affine.copy()
        affine[:3, 3] += shift
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
        with pytest.raises(UsageError) as error:
            import_annotations(archive, "nifti", path)
        text = str(error.value)
        assert "the mask: 6 x 40 x 48 voxels of 3 x 0.9 x 0.7 mm" in text or "outside" in text
        if "the mask" in text:
            assert text.count("6 x 40 x 48 voxels of 3 x 0.9 x 0.7 mm") == 2
            assert "mm LPS" in text
        assert len(Log(archive).state()) == 0


def test_a_mask_that_fits_two_volumes_asks_which(tmp_path):
    from dcmark.testing.synthetic import ct_series

    rng = np.random.default_rng(3)
    for number in (1, 2):
        ct_series(tmp_path / "ct" / str(number), rng.integers(0, 99, (5, 20, 24)), series=number)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "ct"], archive)
    one = drawing.volume_mask(archive)
    export_annotations(archive, "nifti", tmp_path / "out", annotations=[one])
    # Its name says which volume it belongs to; without it only the grid is left, and that fits both.
    path = next((tmp_path / "out").glob("*.nii.gz")).rename(tmp_path / "mask.nii.gz")
    with pytest.raises(UsageError, match="name one"):
        import_annotations(archive, "nifti", path)
    import_annotations(archive, "nifti", path, volumes=[one.target.volume])
    (found,) = Log(archive).state().annotations()
    assert found.target.volume == one.target.volume


@pytest.mark.parametrize("format", ["nifti", "seg", "rtstruct", "coco"])
def test_a_flip_or_shift_in_a_writer_blocks_the_export(tmp_path, monkeypatch, format):
    """Deliberate faults in the writers: nothing may reach the output."""
    archive = drawing.ct_archive(tmp_path)
    one = drawing.volume_mask(archive)
    if format == "nifti":
        from dcmark.annotate.formats import masks as module

        real = module.label_array
        monkeypatch.setattr(module, "label_array", lambda *a: (real(*a)[0][:, ::-1], real(*a)[1]))
    elif format == "seg":
        from dcmark.annotate.formats import seg_write as module

        pixels = module._pixels
        monkeypatch.setattr(module, "_pixels", lambda *a: pixels(*a)[::-1])
    elif format == "rtstruct":
        from dcmark.annotate.places import Plane

        to_mm = Plane.to_mm
        monkeypatch.setattr(Plane, "to_mm", lambda self, points: to_mm(self, np.asarray(points) + 0.5))
    else:
        from dcmark.annotate.formats import coco as module

        runs = module.runs
        monkeypatch.setattr(module, "runs", lambda mask, order: runs(mask[:, ::-1], order))
    with pytest.raises(DamageError, match=r"read|give back"):
        export_annotations(archive, format, tmp_path / "out", annotations=[one])
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_pixels_and_mm_are_converted_both_ways(tmp_path):
    for case in ("oblique", "tilt", "nonsquare"):
        folder = tmp_path / case
        archive, one = series(case, folder)
        places = Places(archive)
        plane = places.plane(one.mask[0].frame)
        points = np.random.default_rng(0).uniform(-5, 40, (20, 2))
        back, off = plane.to_pixels(plane.to_mm(points))
        assert np.abs(back - points).max() < 1e-9
        assert np.abs(off).max() < 1e-9
        lifted = plane.to_mm(points) + 1.5 * plane.normal
        back, off = plane.to_pixels(lifted)
        assert np.abs(back - points).max() < 1e-9
        assert np.allclose(off, 1.5)
        shutil.rmtree(folder)
