"""Volumes of real files, against what is known of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from dcmark.geometry import affine_to_nifti, flip
from dcmark.read.volumes import frames_of
from volume_series import codes, found, message, only, read_folder

DICOM2NIFTI = "icometrix+dicom2nifti/tests/data"
PACSMAN = "TranslationalML+PACSMAN_data/pacsman_data/data"


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("folder", "shape", "spacing", "volumes"),
    [
        ("FNNDSC+data/dicom/andrei_abdomen/data", (100, 512, 512), (1.0, 0.78125, 0.78125), 1),
        ("derived/j2k-lossless-ct-series", (40, 512, 512), (1.0, 0.78125, 0.78125), 1),
        (f"{PACSMAN}/dicomseries", (128, 128, 128), (1, 1, 1), 1),
        ("TorchIO-project+torchio/tests/image_data/dicom", (17, 128, 88), (2, 2, 2), 1),
        ("QIICR+dcmqi/data/segmentations/23x38x3/image", (3, 38, 23), (2.5, 0.7, 0.7), 1),
        ("QIICR+dcmqi/data/segmentations/23x38x3/multiframe", (3, 38, 23), (2.5, 0.7, 0.7), 1),
        ("QIICR+dcmqi/data/segmentations/23x38x3/seg", (3, 38, 23), (2.5, 0.7, 0.7), 1),
        ("neurolabusc+dcm_qa_enh/In/Siemens/XA10", (6, 64, 64), (2.4, 3.375, 3.375), 2),
        (f"{DICOM2NIFTI}/ge/anatomical/001", (4, 256, 256), (1, 1, 1), 1),
        (f"{DICOM2NIFTI}/siemens/fmri_classic/001", (4, 192, 192), (2.5, 1.25, 1.25), 2),
        (f"{DICOM2NIFTI}/philips/fmri/001", (2, 80, 80), (3.3, 3, 3), 4),
        (f"{DICOM2NIFTI}/philips_enhanced/fmri/001", (8, 64, 64), (3.3125, 3.3125, 3.3125), 4),
        ("qurit+rt-utils/tests/oriented_data", (2, 50, 100), (4.5, 3.5, 2.5), 1),
    ],
)
def test_real_series_are_the_volumes_they_were_made_as(corpus, folder, shape, spacing, volumes):
    result = found(read_folder(corpus / folder))
    assert len(result.volumes) == volumes
    assert not result.leftovers
    for number, volume in enumerate(result.volumes, 1):
        assert (volume.grid, volume.shape, volume.phase) == ("regular", shape, number if volumes > 1 else 1)
        assert volume.spacing == pytest.approx(spacing, abs=1e-3)
        assert (
            not {finding.level for finding in volume.findings}
            - {"info"}
            - ({"warning"} if "philips/fmri" in folder else set())
        )


@pytest.mark.corpus
def test_the_ct_with_a_frame_of_reference_per_slice_is_one_volume(corpus):
    volume = only(read_folder(corpus / "FNNDSC+data/dicom/andrei_abdomen/data"))
    assert codes(volume) == {"frames-of-reference"}
    assert "100 different" in message(volume, "frames-of-reference")
    numbers = [int(Path(frame.file).stem) for frame in volume.frames]
    assert len(numbers) == 100


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("folder", "reference", "flips"),
    [
        # dicom2nifti keeps rows and columns, and counts slices in the order of its own sorting.
        (f"{DICOM2NIFTI}/generic/compressed/001", f"{DICOM2NIFTI}/generic/compressed/001_ground_truth.nii.gz", (0,)),
        (f"{DICOM2NIFTI}/generic/rgb/001", f"{DICOM2NIFTI}/generic/rgb/001_ground_truth.nii.gz", ()),
        (f"{DICOM2NIFTI}/hitachi/anatomical/001", f"{DICOM2NIFTI}/hitachi/anatomical/001_ground_truth.nii.gz", (0,)),
        (f"{DICOM2NIFTI}/philips/fmri/001", f"{DICOM2NIFTI}/philips/fmri/001_ground_truth.nii.gz", ()),
        (
            f"{DICOM2NIFTI}/philips_enhanced/fmri/001",
            f"{DICOM2NIFTI}/philips_enhanced/fmri/001_ground_truth.nii.gz",
            (),
        ),
        # Reoriented by dicom2nifti: rows turned round.
        (
            f"{DICOM2NIFTI}/philips_enhanced/fmri/001",
            f"{DICOM2NIFTI}/philips_enhanced/fmri/001_ground_truth_reoriented.nii.gz",
            (1,),
        ),
        # PACSMAN's NIfTI is a synthetic pattern from which the DICOM was made with rows turned round.
        (f"{PACSMAN}/dicomseries", f"{PACSMAN}/bids/sub-000001_T1w.nii.gz", (1,)),
    ],
)
def test_affines_and_pixels_are_those_of_the_nifti_references(corpus, folder, reference, flips):
    """(column, row, slice) in RAS, after turning round the axes that the reference counts the other way."""
    import pydicom

    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(corpus / reference)
    volumes = found(read_folder(corpus / folder)).volumes
    expected = np.asarray(image.dataobj)
    if expected.ndim == 3:
        expected = expected[..., None]
    assert len(volumes) == expected.shape[3]
    for volume, moment in zip(volumes, np.moveaxis(expected, 3, 0), strict=True):
        affine = volume.affine
        for axis in flips:
            affine = flip(affine, volume.shape, axis)
        corner = np.array(moment.shape) - 1
        ours, theirs = affine_to_nifti(affine), image.affine
        assert np.abs(ours[:3, 3] - theirs[:3, 3]).max() < 1e-3
        assert np.abs(ours[:3, :3] @ corner - theirs[:3, :3] @ corner).max() < 1e-3
        pictures = {file: pydicom.dcmread(file) for file in {frame.file for frame in volume.frames}}
        if any(dataset.file_meta.TransferSyntaxUID.is_encapsulated for dataset in pictures.values()):
            continue
        if moment.dtype.names:
            continue
        stored = {file: dataset.pixel_array for file, dataset in pictures.items()}
        array = np.stack([stored[file][n] if stored[file].ndim == 3 else stored[file] for file, n in volume.frames])
        array = np.flip(array, flips).transpose(2, 1, 0).astype(float)
        assert np.corrcoef(array.ravel(), moment.ravel().astype(float))[0, 1] > 0.9999


def test_every_dicom_file_at_hand_finds_its_place(bundled, corpus):
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    by_folder = defaultdict(int)
    for folder in (bundled, *sorted(path for path in corpus.iterdir() if path.is_dir())):
        rows = read_folder(folder)
        result = found(rows)
        by_folder[folder.name] += len(result.volumes)
        for volume in result.volumes:
            assert (volume.affine is None) == (volume.grid == "none")
            assert volume.grid == "none" or len(volume.slice_index) == volume.shape[0]
    assert by_folder["test_files"] > 20


def test_a_dose_grid_follows_its_offsets(bundled):
    import pydicom

    volume = only(frames_of(pydicom.dcmread(bundled / "rtdose.dcm", stop_before_pixels=True), "dose"))
    assert (volume.grid, volume.shape) == ("regular", (15, 10, 10))
    assert np.allclose(volume.affine[:3, 0], (0, 0, 5))
    assert np.allclose(volume.affine[:3, 3], (189.43125, 199.43125, -761.87))
