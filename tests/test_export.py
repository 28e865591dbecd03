"""Exports: the right pixels, the way back, and nothing hostile followed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

import dcmark
from dcmark.errors import OutputExistsError, SourceError, UsageError
from dcmark.view.export import reference
from dcmark.view.export.base import originals
from dcmark.view.export.images import export_images
from dcmark.view.export.npy import export_npy
from dcmark.view.export.resize import placed, resized

GREY = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jpeg_ls_lossless.dcm")


@pytest.fixture
def archive(tmp_path: Path, bundled: Path) -> dcmark.Archive:
    source = tmp_path / "in" / "set" / "p1" / "i1"
    source.mkdir(parents=True)
    for name in (*GREY, "rtdose.dcm", "rtplan.dcm", "SC_rgb_rle_2frame.dcm", "examples_palette.dcm"):
        (source / name).write_bytes((bundled / name).read_bytes())
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(tmp_path / "in", archive)
    return archive


def _view(out: Path) -> dict[str, dict[str, object]]:
    return {item["item"]: item for item in json.loads((out / "view.json").read_text())["items"]}


def test_stored_pixels_are_the_stored_values(archive: dcmark.Archive, tmp_path: Path, bundled: Path) -> None:
    out = tmp_path / "out"
    report = export_images(archive, out, stored=True)
    assert report.without_frames == {"RTPLAN": 1}
    assert {f.code for f in report.findings} == {"unsupported"}  # the dose has 32 bits
    items = _view(out)
    for name in GREY:
        item = f"set/p1/i1/{name.removesuffix('.dcm')}.png"
        pixels = imagecodecs.imread(str(out / item)).astype(int) + int(items[item].get("offset", 0))  # type: ignore[call-overload]
        assert (pixels == pydicom.dcmread(bundled / name).pixel_array).all(), name
    first, second = (imagecodecs.imread(str(out / f"set/p1/i1/SC_rgb_rle_2frame_000{n}.png")) for n in (1, 2))
    expected = pydicom.dcmread(bundled / "SC_rgb_rle_2frame.dcm").pixel_array
    assert (first == expected[0]).all()
    assert (second == expected[1]).all()


def test_display_pixels_of_a_plain_ct(archive: dcmark.Archive, tmp_path: Path, bundled: Path) -> None:
    """Rescale and linear window as PS3.3 C.11.2.1.2.1 writes them, worked out here once more."""
    export_images(archive, tmp_path / "out", where="modality = 'CT'", window="40/400")
    made = imagecodecs.imread(str(tmp_path / "out" / "set/p1/i1/CT_small.png")).astype(int)
    ct = pydicom.dcmread(bundled / "CT_small.dcm")
    hu = ct.pixel_array.astype(float) * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
    expected = np.clip((hu - (40 - 0.5)) / (400 - 1) + 0.5, 0, 1) * 255
    assert np.abs(made - expected).max() <= 0.5 + 1e-6


def test_one_window_for_all_slices_of_a_series_without_one(tmp_path: Path, bundled: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(4):
        slice_ = pydicom.dcmread(bundled / "CT_small.dcm")
        slice_.SOPInstanceUID += f".{number}"
        slice_.InstanceNumber = number
        pixels = slice_.pixel_array.copy()
        pixels[:20] = pixels.min() + 300 * number  # slices of different range
        slice_.PixelData = pixels.tobytes()
        slice_.save_as(source / f"{number}.dcm")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(source, archive)
    export_images(archive, tmp_path / "out")
    pictures = [imagecodecs.imread(str(tmp_path / "out" / f"{n}.png"))[20:] for n in range(4)]
    assert all((picture == pictures[0]).all() for picture in pictures)


def _shares(length: int, size: int) -> np.ndarray:
    """(size, length): how much of each new pixel each old one covers."""
    new, old = np.arange(size)[:, None] * length / size, np.arange(length)[None, :]
    overlap = np.minimum(new + length / size, old + 1) - np.maximum(new, old)
    return np.clip(overlap, 0, None) * size / length


@pytest.mark.parametrize("size", [64, 100, 300])
def test_sizes_are_area_averages_with_the_shape_kept(size: int) -> None:
    values = np.random.default_rng(1).integers(0, 4096, (96, 128)).astype(np.uint16)
    where = placed(values.shape, size)
    made = resized(values, where, 7)
    assert made.shape == (size, size)
    rows, columns = where.box
    assert (rows, columns) == (round(size * 96 / 128), size)
    box = made[where.corner[0] : where.corner[0] + rows, where.corner[1] : where.corner[1] + columns]
    expected = _shares(96, rows) @ values.astype(float) @ _shares(128, columns).T
    assert np.abs(box - expected).max() <= 0.5 + 1e-6
    rest = np.ones(made.shape, bool)
    rest[where.corner[0] : where.corner[0] + rows, where.corner[1] : where.corner[1] + columns] = False
    assert (made[rest] == 7).all()


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
def test_every_picture_alone_leads_back_to_its_file(archive: dcmark.Archive, tmp_path: Path, format: str) -> None:
    if format == "tiff":
        pytest.importorskip("tifffile")
    out = tmp_path / "out"
    export_images(archive, out, format=format, size=64)  # type: ignore[arg-type]
    loose = tmp_path / "loose"
    loose.mkdir()
    ct = next(out.rglob("CT_small.*"))
    shutil.copy(ct, loose / "renamed.bin")
    report = dcmark.restore(archive, tmp_path / "back", hashes=originals(loose))
    assert report.files == 1
    back = tmp_path / "back" / "set/p1/i1/CT_small.dcm"
    assert back.read_bytes() == (tmp_path / "in/set/p1/i1/CT_small.dcm").read_bytes()


def test_stacks_and_their_table(archive: dcmark.Archive, tmp_path: Path, bundled: Path) -> None:
    report = export_npy(archive, tmp_path / "out", tags=["KVP", "Manufacturer"])
    assert report.left_out == 0
    with (tmp_path / "out" / "slices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == report.items
    for row in rows:
        stack = np.load(tmp_path / "out" / row["stack"], mmap_mode="r")
        original = pydicom.dcmread(tmp_path / "in" / row["path"])
        pixels = original.pixel_array
        pixels = pixels[int(row["frame"])] if int(original.get("NumberOfFrames", 1) or 1) > 1 else pixels
        assert (stack[int(row["index"])] == pixels).all(), row["path"]
        assert row["Rows"] == str(original.Rows)
    ct = next(row for row in rows if row["slice"] == "CT_small.dcm")
    assert (ct["dataset"], ct["patient"], ct["image"]) == ("set", "p1", "i1")
    assert ct["KVP"] == "120"
    assert ct["PixelSpacing"] == "0.661468\\0.661468"
    assert originals(tmp_path / "out" / "slices.csv") == originals(tmp_path / "out")


def test_stacks_of_physical_values(archive: dcmark.Archive, tmp_path: Path, bundled: Path) -> None:
    export_npy(archive, tmp_path / "out", where="modality = 'CT'", quantity="hu")
    (stack,) = (np.load(place) for place in (tmp_path / "out").glob("*.npy"))
    ct = pydicom.dcmread(bundled / "CT_small.dcm")
    hu = ct.pixel_array * float(ct.RescaleSlope) + float(ct.RescaleIntercept)
    assert stack.dtype == np.float32
    known = ~np.isnan(stack[0])
    assert np.abs(stack[0][known] - hu[known]).max() == 0


def test_a_table_runs_nothing_in_a_spreadsheet(tmp_path: Path, bundled: Path) -> None:
    ct = pydicom.dcmread(bundled / "CT_small.dcm")
    ct.StudyID = "=1+cmd|x"
    (tmp_path / "in").mkdir()
    ct.save_as(tmp_path / "in" / "a.dcm")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(tmp_path / "in", archive)
    export_npy(archive, tmp_path / "out")
    with (tmp_path / "out" / "slices.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["StudyID"] == "'=1+cmd|x"


def test_what_cannot_be_exported_says_what_to_change(archive: dcmark.Archive, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="change --where"):
        export_images(archive, tmp_path / "a", where="modality = 'XX'")
    with pytest.raises(UsageError, match="1 files without a picture"):
        export_images(archive, tmp_path / "a", where="modality = 'RTPLAN'")
    with pytest.raises(UsageError, match="jpeg"):
        export_images(archive, tmp_path / "a", stored=True, format="jpeg")
    with pytest.raises(UsageError, match="CENTRE/WIDTH"):
        export_images(archive, tmp_path / "a", window="nose")
    with pytest.raises(UsageError, match="NoSuchTag"):
        export_npy(archive, tmp_path / "a", tags=["NoSuchTag"])
    assert not (tmp_path / "a").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(OutputExistsError):
        export_npy(archive, tmp_path / "full")


def test_half_a_set_looks_like_none(archive: dcmark.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcmark.view.export import images

    written = []

    def full_disk(place: Path, data: bytes) -> None:
        written.append(place)
        if len(written) > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "_write", full_disk)
    with pytest.raises(dcmark.DcmarkError, match="disk full"):
        export_images(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "view.json").exists()


@pytest.mark.parametrize(
    "said",
    ["../../etc/passwd", "00", "zz" * 32, 7, None, ["a"], "AB" * 32],
)
def test_a_hostile_reference_is_refused(tmp_path: Path, said: object) -> None:
    picture = bytes(imagecodecs.png_encode(np.zeros((2, 2), np.uint8)))
    (tmp_path / "x.png").write_bytes(reference.in_png(picture, {"sha256": said}))
    with pytest.raises(SourceError):
        originals(tmp_path / "x.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "view.json").write_text(json.dumps({"format": "dcmark view", "items": [{"sha256": said}]}))
    with pytest.raises(SourceError):
        originals(tmp_path / "set")


def test_names_stay_inside(tmp_path: Path, bundled: Path) -> None:
    from dcmark.view.export.base import Selected, item_name

    row = {"path": "con/a:b/..hidden /x?.dcm", "source": "s", "frames": 1}
    assert item_name(Selected("00", 0, row), ".png", with_source=False, taken=set()) == "_con/a_b/..hidden/x_.png"
    taken: set[str] = set()
    names = [
        item_name(Selected("00", 0, {**row, "path": p}), ".png", with_source=False, taken=taken)
        for p in ("a.dcm", "A.IMA")
    ]
    assert names == ["a.png", "A~2.png"]
