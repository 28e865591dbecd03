"""Masks made on exported images go back where they belong."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

import dcmark
from dcmark.annotate.log import Log
from dcmark.annotate.places import Places
from dcmark.errors import SourceError, UsageError
from dcmark.view.cache import write_cache
from dcmark.view.export.stylegan3 import export_stylegan3
from dcmark.view.place import pairs, place
from dcmark.view.render import plan
from dcmark.view.view import View


@pytest.fixture
def archive(tmp_path):
    """A volume that is square in nothing, its rows to the left and its columns to the front."""
    from dcmark.testing.synthetic import ct_series

    hu = np.full((5, 40, 56), -1000.0)
    hu[:, 5:22, 30:50] = 60
    hu[:, 8:12, 33:36] = 900
    ct_series(tmp_path / "in", hu, spacing_mm=(3.0, 0.9, 0.7), orientation=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0))
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "in"], archive).raise_for_errors()
    return archive


VIEW = View(windows=("bone",), size=(64, 64), crop="body", orientation="standard")


def _segmented(folder, archive, view):
    """A 'model' that marks the body as 1 and what is bright as 2, on the exported pictures."""
    with zipfile.ZipFile(folder / "set.zip") as found:
        for name in found.namelist():
            if name.endswith(".png"):
                image = np.asarray(Image.open(found.open(name)))
                target = folder / "masks" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((image > 50).astype(np.uint8) + (image > 150)).save(target)


def test_masks_of_a_model_stand_on_what_it_saw(archive, tmp_path):
    export_stylegan3(archive, tmp_path / "set.zip", view=VIEW)
    _segmented(tmp_path, archive, VIEW)
    report = place(archive, tmp_path / "set.zip", tmp_path / "masks", {1: "body", 2: "bone"}, author="model")
    assert (report.images, len(report.annotations), report.findings) == (5, 2, [])
    found = {one.label.name: one for one in Log(archive).state().annotations()}
    volume = next(iter(Places(archive).volumes.values()))
    for name, threshold in (("body", 0), ("bone", 500)):
        one = found[name]
        assert one.target.volume == volume.id and len(one.mask) == 5
        for plane in one.mask:
            hu = dcmark.frame(archive, plane.frame.file, 0).physical("hu").values
            truth = hu > threshold if name == "bone" else (hu > threshold) & (hu < 500)
            overlap = 2 * (plane.binary() & truth).sum() / (plane.binary().sum() + truth.sum())
            assert overlap > 0.9


def test_a_stack_of_masks_and_files_out(archive, tmp_path):
    view = View(windows=("bone",), size=(40, 56), spacing=None)
    write_cache(archive, tmp_path / "set", view=view)
    stack = np.zeros((5, 40, 56), np.uint8)
    stack[2, 3:9, 4:20] = 7
    np.save(tmp_path / "masks.npy", stack)
    report = place(archive, tmp_path / "set.npy", tmp_path / "masks.npy", {7: "x"}, out=tmp_path / "out")
    assert report.files == 5 and not report.annotations
    planned = plan(archive, view)
    one = planned.chosen[2]
    whole = np.load(tmp_path / "out" / f"{one.sha256}_0000.npy")
    # Every pixel of the frame is marked if and only if its centre lies in a marked pixel of the image.
    to_image = np.linalg.inv(planned.grid(one, dcmark.frame(archive, one.sha256, 0)).to_frame())
    rows, columns = np.mgrid[:40, :56]
    x, y, _ = np.rint(np.einsum("ij,jrc->irc", to_image, np.stack([columns, rows, np.ones((40, 56))]))).astype(int)
    inside = (x >= 0) & (x < 56) & (y >= 0) & (y < 40)
    expected = np.where(inside, stack[2][np.clip(y, 0, 39), np.clip(x, 0, 55)], 0)
    assert whole.shape == (40, 56) and np.array_equal(whole, expected) and (whole == 7).any()


def test_what_is_no_mask_of_the_set(archive, tmp_path):
    export_stylegan3(archive, tmp_path / "set.zip", view=VIEW)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UsageError, match="found none"):
        place(archive, tmp_path / "set.zip", tmp_path / "masks", {1: "x"})
    target = tmp_path / "masks" / "00000"
    target.mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(target / "img00000000.png")
    (target / "img00000001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    report = place(archive, tmp_path / "set.zip", tmp_path / "masks", {1: "x"})
    assert report.images == 0 and len(report.findings) == 2
    assert "64 x 64" in report.findings[0].message
    Image.fromarray(np.full((64, 64), 3, np.uint8)).save(target / "img00000002.png")
    with pytest.raises(UsageError, match="found 3"):
        place(archive, tmp_path / "set.zip", tmp_path / "masks", {1: "x"})
    assert not len(Log(archive).state())


def test_a_hostile_side_file(archive, tmp_path):
    export_stylegan3(archive, tmp_path / "set.zip", view=VIEW)
    side = tmp_path / "set.zip.view.json"
    whole = json.loads(side.read_text())
    (tmp_path / "masks").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    told = json.loads(json.dumps(whole))
    told["items"][0]["item"] = "../secret.png"
    side.write_text(json.dumps(told))
    with pytest.raises(UsageError, match="found none"):
        place(archive, tmp_path / "set.zip", tmp_path / "masks", {1: "x"})
    for change in (
        {"grid": {"frame": [1 << 40, 1], "image": [1, 1], "start": [0, 0], "step": [1, 1], "turn": [0, 0, 0]}},
        {"grid": {"frame": [9, 9], "image": [9, 9], "start": [0, 0], "step": [0, 1], "turn": [0, 0, 0]}},
        {"grid": 3},
        {"sha256": "../../etc"},
        {"frame": "0"},
    ):
        told = json.loads(json.dumps(whole))
        told["items"][1] |= change
        side.write_text(json.dumps(told))
        with pytest.raises(SourceError):
            place(archive, tmp_path / "set.zip", tmp_path / "masks", {1: "x"})
    side.write_text(json.dumps(whole | {"archive": "another"}))
    with pytest.raises(UsageError, match="another"):
        place(archive, tmp_path / "set.zip", tmp_path / "masks", {1: "x"})


def test_classes_as_they_are_written():
    assert dict(pairs("1=liver, 2=lesion")) == {1: "liver", 2: "lesion"}
    for text in ("", "0=x", "a=b", "1", "1="):
        with pytest.raises(UsageError):
            dict(pairs(text))
