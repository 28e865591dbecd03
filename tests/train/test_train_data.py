"""Sources of training images: the official layouts, 16 bits, labels, and everything that is wrong with them."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmark.errors import DcmarkError, LimitError, SourceError, UsageError
from dcmark.train.data import ArrayImages, FolderImages, ImageData, Meaning, Padded, ZipImages, open_images


@pytest.mark.parametrize("name", ["sgzip_r16_L_int", "sgzip_r16_RGB_nolab"])
def test_official_zips(golden: Path, name: str) -> None:
    data = open_images(golden / "gan" / f"{name}.zip")
    assert isinstance(data, ImageData)
    with np.load(golden / "gan" / f"{name}_source.npz", allow_pickle=False) as source:
        images, labels = source["images"], source["labels"]
    assert len(data) == len(images)
    for index, expected in enumerate(images):
        image, label = data[index]
        assert np.array_equal(image, expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1))
        if len(labels):
            assert label is not None and label.sum() == 1 and label[labels[index]] == 1
        else:
            assert label is None


def pngs(folder: Path, count: int = 3, depth: Any = np.uint16, side: int = 8) -> None:
    (folder / "00000").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, np.iinfo(depth).max, (side, side), endpoint=True).astype(depth)
        (folder / "00000" / f"img{number:08}.png").write_bytes(imagecodecs.png_encode(pixels))


def test_sixteen_bits_and_vectors(tmp_path: Path) -> None:
    pngs(tmp_path)
    names = [f"00000/img{n:08}.png" for n in range(3)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[n, [i, 0.5]] for i, n in enumerate(names)]}))
    (tmp_path / "meaning.json").write_text(json.dumps({"slope": 0.1, "intercept": -1000, "unit": "HU"}))
    data = FolderImages(tmp_path)
    assert data[0][0].dtype == np.uint16 and data.labels == 2 and data.meaning.high == 65535
    assert np.array_equal(data[2][1], np.float32([2, 0.5]))  # type: ignore[arg-type]
    assert data.meaning.to_physical(np.float32([-1, 1])) == pytest.approx([-1000, 5553.5])


def test_zip_and_folder_are_the_same_data(tmp_path: Path) -> None:
    pngs(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted((tmp_path / "a").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "a").as_posix())
    folder, packed = open_images(tmp_path / "a"), open_images(tmp_path / "a.zip")
    assert all(np.array_equal(folder[i][0], packed[i][0]) for i in range(3))


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    pngs(tmp_path / "a")
    before = FolderImages(tmp_path / "a").hash
    assert FolderImages(tmp_path / "a").hash == before
    path = tmp_path / "a" / "00000" / "img00000000.png"
    path.write_bytes(imagecodecs.png_encode(np.zeros((8, 8), np.uint16)))
    assert FolderImages(tmp_path / "a").hash != before
    images = np.zeros((4, 8, 8), np.uint8)
    assert ArrayImages(images).hash != ArrayImages(images, np.arange(4)).hash


def corrupt(folder: Path, how: str) -> None:
    first = folder / "00000" / "img00000000.png"
    raw = first.read_bytes()
    (folder / "dataset.json").unlink(missing_ok=True)
    match how:
        case "cut off":
            first.write_bytes(raw[:60])
        case "no png":
            first.write_bytes(b"not an image")
        case "bomb":
            first.write_bytes(raw[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + raw[24:])
        case "another size":
            first.write_bytes(imagecodecs.png_encode(np.zeros((4, 8), np.uint16)))
        case "another depth":
            first.write_bytes(imagecodecs.png_encode(np.zeros((8, 8), np.uint8)))
        case "another number of channels":
            first.write_bytes(imagecodecs.png_encode(np.zeros((8, 8, 3), np.uint16)))
        case "label missing":
            (folder / "dataset.json").write_text(json.dumps({"labels": [["00000/img00000000.png", 1]]}))
        case "labels of two kinds":
            names = [f"00000/img{n:08}.png" for n in range(3)]
            (folder / "dataset.json").write_text(
                json.dumps({"labels": [[n, [1] * (i + 1)] for i, n in enumerate(names)]})
            )
        case "no json":
            (folder / "dataset.json").write_text("{")
        case "odd meaning":
            (folder / "meaning.json").write_text(json.dumps({"low": 5, "high": 5}))
        case "unknown word":
            (folder / "meaning.json").write_text(json.dumps({"lo": 5}))
        case "empty":
            for path in (folder / "00000").iterdir():
                path.unlink()


@pytest.mark.parametrize(
    "how",
    [
        "cut off", "no png", "bomb", "another size", "another depth", "another number of channels", "label missing",
        "labels of two kinds", "no json", "odd meaning", "unknown word", "empty",
    ],
)  # fmt: skip
def test_damage_is_told(tmp_path: Path, how: str) -> None:
    pngs(tmp_path)
    corrupt(tmp_path, how)
    with pytest.raises(DcmarkError, match="expected"):
        data = open_images(tmp_path)
        for index in range(len(data)):
            data[index]


def test_zips_that_are_none_and_members_that_swell(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(SourceError):
        open_images(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\x89PNG" + bytes(50_000_000))
    with pytest.raises((SourceError, LimitError)):
        ZipImages(tmp_path / "b.zip")
    with pytest.raises(SourceError):
        open_images(tmp_path / "absent")


def test_arrays(tmp_path: Path) -> None:
    assert ArrayImages(np.zeros((5, 8, 8, 3), np.uint8)).shape == (3, 8, 8)
    assert ArrayImages(np.zeros((5, 2, 8, 8), np.int16)).meaning.low == -32768
    np.save(tmp_path / "x.npy", np.zeros((5, 8, 8), np.float32))
    np.save(tmp_path / "x.labels.npy", np.array([0, 1, 2, 1, 0]))
    data = open_images(tmp_path / "x.npy")
    assert data.labels == 3 and data.shape == (1, 8, 8)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError):
        open_images(tmp_path / "o.npy")
    with pytest.raises(UsageError, match="NaN"):
        ArrayImages(np.full((2, 8, 8), np.nan, np.float32))
    with pytest.raises(UsageError):
        ArrayImages(np.zeros((0, 8, 8)))


@given(
    low=st.floats(-3000, 3000),
    span=st.floats(1, 6000),
    slope=st.floats(0.01, 10),
    intercept=st.floats(-2000, 2000),
    at=st.floats(0, 1),
)
def test_physical_values_survive_the_way_there_and_back(
    low: float, span: float, slope: float, intercept: float, at: float
) -> None:
    meaning = Meaning(low, low + span, slope, intercept)
    stored = np.array([low + at * span])
    back = meaning.to_stored(meaning.to_model(stored))
    assert back == pytest.approx(stored, abs=1e-3 * max(1, span / 1000))
    assert meaning.to_physical(meaning.to_model(stored)) == pytest.approx(stored * slope + intercept, abs=0.1)


def test_padding_puts_the_image_in_the_middle() -> None:
    inner = ArrayImages(np.full((2, 1, 9, 12), 200, np.uint8))
    data = Padded(inner)
    assert data.shape == (1, 16, 16) and data.mask.sum() == 9 * 12 and data.hash != inner.hash
    image, _ = data[0]
    top, left, rows, columns = data.within
    assert (image[0][data.mask] == 200).all() and (image[0][~data.mask] == 0).all()
    assert (image[0, top : top + rows, left : left + columns] == 200).all()
