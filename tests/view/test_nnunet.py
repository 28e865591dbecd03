"""nnU-Net data sets: images and labels on one grid, classes that are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dcmark
from dcmark.annotate.log import Log
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Label
from dcmark.annotate.places import Places
from dcmark.errors import UsageError
from dcmark.read.volume_model import FrameId
from dcmark.testing.synthetic import ct_series
from dcmark.view.export.base import originals
from dcmark.view.export.nnunet import export_nnunet
from dcmark.view.view import View

nibabel = pytest.importorskip("nibabel", reason="the extra formats is not installed")


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    for number in (1, 2, 3):
        ct_series(
            tmp_path / "in" / str(number),
            rng.integers(-900, 900, (4, 20, 24)),
            series=number,
            study=number,
            patient=f"Phantom^{number}",
            spacing_mm=(3.0, 0.9, 0.7),
        )
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "in"], archive).raise_for_errors()
    return archive


def _mark(archive, number, label, rows):
    places = Places(archive)
    volume = list(places.volumes.values())[number]
    mask = np.zeros((20, 24), bool)
    mask[rows, 3:9] = True
    frames = [FrameId(*frame) for frame in volume.frames[1:3]]
    one = Annotation(
        "mask", places.target("volume", frames, volume), Label(label), mask=[make_plane(f, mask) for f in frames]
    )
    Log(archive, author="A").add([one])
    return volume


def test_images_and_labels_stand_on_one_grid(archive, tmp_path):
    marked = _mark(archive, 0, "liver", slice(2, 7))
    _mark(archive, 0, "lesion", slice(10, 12))
    _mark(archive, 2, "liver", slice(5, 6))
    out = tmp_path / "Dataset001_Liver"
    report = export_nnunet(archive, out, view=View())
    assert (report.items, report.left_out) == (3, 0)
    about = json.loads((out / "dataset.json").read_text())
    assert about["numTraining"] == 2 and about["channel_names"] == {"0": "CT"} and about["file_ending"] == ".nii.gz"
    assert sorted(about["labels"]) == ["background", "lesion", "liver"]
    assert len(list((out / "imagesTr").iterdir())) == 2 and len(list((out / "imagesTs").iterdir())) == 1
    image = nibabel.load(out / "imagesTr" / f"{marked.id}_0000.nii.gz")
    labels = nibabel.load(out / "labelsTr" / f"{marked.id}.nii.gz")
    assert image.shape == labels.shape and np.allclose(image.affine, labels.affine, atol=1e-4)
    found = np.asarray(labels.dataobj).transpose(2, 1, 0)
    assert (found[1:3, 2:7, 3:9] == about["labels"]["liver"]).all()
    assert (found[1:3, 10:12, 3:9] == about["labels"]["lesion"]).all()
    assert np.count_nonzero(found) == 2 * (5 + 2) * 6
    volume = next(one for one in archive.volumes() if one.id == marked.id)
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), dcmark.values(volume).values)
    assert len(originals(out)) == 12


def test_one_label_and_a_selection(archive, tmp_path):
    _mark(archive, 0, "liver", slice(2, 7))
    _mark(archive, 0, "lesion", slice(10, 12))
    export_nnunet(archive, tmp_path / "set", view=View(annotated="lesion"))
    about = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "lesion": 1} and about["numTraining"] == 1
    assert not (tmp_path / "set" / "imagesTs").exists()


def test_without_volumes(tmp_path, bundled):
    (tmp_path / "one.dcm").write_bytes((bundled / "SC_rgb_rle_2frame.dcm").read_bytes())
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "one.dcm"], archive)
    with pytest.raises(UsageError, match="ls ARCHIVE volumes"):
        export_nnunet(archive, tmp_path / "set", view=View())
    assert not (tmp_path / "set").exists()
