"""Training sets of StyleGAN3 and PGGAN: against the reference sets, other readers, and interruptions."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dcmark
from dcmark.errors import LabelError, UnsupportedError, UsageError
from dcmark.view.export import pggan as pggan_module
from dcmark.view.export.base import originals
from dcmark.view.export.pggan import export_pggan
from dcmark.view.export.stylegan3 import export_stylegan3
from dcmark.view.render import plan
from dcmark.view.view import Splits, View

crc32c = pytest.importorskip("google_crc32c", reason="the extra formats is not installed")
LUNG = View(windows=("lung",), size=(32, 32))


def pictures(folder: Path, images: np.ndarray, labels: np.ndarray | None = None) -> dcmark.Archive:
    """An archive of pictures; the class is the name of their folder."""
    for number, image in enumerate(images):
        name = "x" if labels is None else str(labels[number])
        (folder / "in" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "in" / name / f"{number:04}.png")
    archive = dcmark.open_archive(folder / "a.dcmark", create=True)
    dcmark.ingest([folder / "in"], archive)
    return archive


def zip_items(place: Path) -> tuple[list[tuple[str, np.ndarray]], object]:
    """A data set by zipfile and Pillow alone, sorted by name as loaders do."""
    with zipfile.ZipFile(place) as archive:
        assert archive.testzip() is None
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        images = [(name, np.asarray(Image.open(io.BytesIO(archive.read(name))))) for name in names]
        return images, json.loads(archive.read("dataset.json"))["labels"]


def records(place: Path) -> list[np.ndarray]:
    """TFRecords by a parser of their own: length, checksum, protocol buffer."""
    data, at, found = place.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        for start, size in ((at, 8), (at + 12, length)):
            crc = crc32c.value(data[start : start + size])
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack_from("<I", data, start + size)[0] == masked
        fields = dict(_feature(part) for _, part in _parts(dict(_parts(data[at + 12 : at + 12 + length]))[1]))
        shape = list(dict(_parts(dict(_parts(fields[b"shape"]))[3]))[1])
        sizes, value, shift = [], 0, 0
        for byte in shape:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                sizes.append(value)
                value, shift = 0, 0
        pixels = dict(_parts(dict(_parts(fields[b"data"]))[1]))[1]
        found.append(np.frombuffer(pixels, np.uint8).reshape(sizes))
        at += 16 + length
    return found


def _feature(part: bytes) -> tuple[bytes, bytes]:
    pair = dict(_parts(part))
    return pair[1], pair[2]


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    at, found = 0, []
    while at < len(data):
        number, kind = data[at] >> 3, data[at] & 7
        assert kind == 2
        at, length, shift = at + 1, 0, 0
        while True:
            byte = data[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        found.append((number, data[at : at + length]))
        at += length
    return found


# Reference sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "colour"), [("sgzip_r16_L_int", False), ("sgzip_r16_RGB_nolab", True)])
def test_the_zip_is_that_of_the_reference(golden, tmp_path, name, colour):
    source = np.load(golden / "gan" / f"{name}_source.npz")
    labels = source["labels"] if source["labels"].size else None
    archive = pictures(tmp_path, source["images"], labels)
    view = View(windows=("127.5/255",), size=(16, 16), colour=colour, labels="image::INT" if labels is not None else "")
    if labels is not None:
        view = View(windows=("128/256",), size=(16, 16), labels="regexp_extract(path, '(\\d)/', 1)::INT")
    export_stylegan3(archive, tmp_path / "set.zip", view=view)
    made, made_labels = zip_items(tmp_path / "set.zip")
    expected, expected_labels = zip_items(golden / "gan" / f"{name}.zip")
    assert [one for one, _ in made] == [one for one, _ in expected]

    # Records are in the order of paths here, in that of the source there: the same pairs.
    def pairs(items, labels):
        told = dict(labels or [])
        return sorted((image.tobytes(), image.shape, told.get(name)) for name, image in items)

    assert pairs(made, made_labels) == pairs(expected, expected_labels)
    assert (made_labels is None) == (expected_labels is None)


@pytest.mark.parametrize("name", ["tfr_r16_c1_lab3", "tfr_r32_c3_nolab"])
def test_the_records_are_those_of_the_reference_byte_for_byte(golden, tmp_path, name):
    source = np.load(golden / "gan" / f"{name}_source.npz")
    levels = [pggan_module.pyramid(image) for image in source["images"]]
    for place in sorted((golden / "gan" / name).glob("*.tfrecords")):
        side = 1 << int(place.stem[-2:])
        made = b"".join(
            pggan_module.record(level, crc32c.value) for one in levels for level in one if level.shape[1] == side
        )
        assert made == place.read_bytes(), place.name
        assert [one.shape[1] for one in records(place)] == [side] * len(source["images"])


@pytest.mark.parametrize("name", ["tfr_r16_c1_lab3", "tfr_r32_c3_nolab"])
def test_the_folder_is_that_of_the_reference(golden, tmp_path, name):
    """From pictures through an archive, in the order of the source."""
    source = np.load(golden / "gan" / f"{name}_source.npz")
    images = np.moveaxis(source["images"], 1, -1)
    colour = images.shape[-1] == 3
    archive = pictures(tmp_path, images if colour else images[..., 0])
    vectors = source.get("labels")
    labels = ""
    if vectors is not None:
        cases = " ".join(f"WHEN {k} THEN {[float(x) for x in vector]}" for k, vector in enumerate(vectors))
        labels = f"CASE regexp_extract(path, '(\\d+)\\.png', 1)::INT {cases} END"
    view = View(windows=("128/256",), colour=colour, size=images.shape[1:3], labels=labels)
    out = tmp_path / name
    export_pggan(archive, out, view=view, shuffle=None)
    expected = {place.name for place in (golden / "gan" / name).iterdir()}
    assert {place.name for place in out.iterdir()} == expected | {"view.json"}
    for place in sorted((golden / "gan" / name).iterdir()):
        if place.suffix == ".labels":
            made, known = np.load(out / place.name), np.load(place)
            assert made.dtype == known.dtype and np.array_equal(made, known)
        else:
            assert (out / place.name).read_bytes() == place.read_bytes(), place.name


# What is written ------------------------------------------------------------------------------------------------------


def test_a_zip_of_ct_slices(patients, tmp_path):
    view = View(windows=("lung",), size=(32, 32), labels="body_part_examined")
    report = export_stylegan3(patients, tmp_path / "set.zip", view=view)
    assert (report.items, report.files, report.left_out) == (24, 24, 0)
    images, labels = zip_items(tmp_path / "set.zip")
    side = json.loads((tmp_path / "set.zip.view.json").read_text())
    planned = plan(patients, view)
    for index, (name, image) in enumerate(images):
        item = planned.render(index)
        assert np.array_equal(image, item.image)
        assert labels[index] == [name, item.label]
        assert side["items"][index] == {"item": name, "index": index, **json.loads(json.dumps(item.record))}
    assert side["view_hash"] == view.hash and side["labels"]["classes"] == ["ABDOMEN", "CHEST", "HEAD"]
    assert originals(tmp_path / "set.zip") == {bytes.fromhex(one.sha256) for one in planned.chosen}


def test_sixteen_bits_for_the_own_trainer(patients, tmp_path):
    view = View(windows=("-600/1500",), quantity="hu", size=(32, 32), bits=16)
    export_stylegan3(patients, tmp_path / "set.zip", view=view)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        image = np.asarray(Image.open(io.BytesIO(archive.read("00000/img00000000.png")))).astype(float)
        told = json.loads(archive.read("meaning.json"))
    hu = plan(patients, View(windows=(), size=(32, 32), bits=32)).render(0).image
    inside = (hu > -1300) & (hu < 100)
    assert np.abs(image * told["slope"] + told["intercept"] - hu)[inside].max() < 0.02
    assert told["unit"] == "HU"


def test_records_are_drawn_in_another_order_and_told(patients, tmp_path):
    export_pggan(patients, tmp_path / "set", view=LUNG, shuffle=1)
    side = json.loads((tmp_path / "set" / "view.json").read_text())
    planned = plan(patients, LUNG)
    at = {(one.sha256, one.number): place for place, one in enumerate(planned.chosen)}
    order = [at[item["sha256"], item["frame"]] for item in side["items"]]
    assert sorted(order) == list(range(24)) and order != sorted(order)
    for place, image in zip(order, records(tmp_path / "set" / "set-r05.tfrecords"), strict=True):
        assert np.array_equal(image[0], planned.render(place).image)


def test_another_reader_of_tfrecords(patients, tmp_path):
    reader = pytest.importorskip("tfrecord", reason="the package tfrecord is not installed")
    export_pggan(patients, tmp_path / "set", view=LUNG, shuffle=None)
    found = list(reader.reader.tfrecord_loader(str(tmp_path / "set" / "set-r05.tfrecords"), None))
    assert len(found) == 24
    assert bytes(found[3]["data"]) == plan(patients, LUNG).render(3).image.tobytes()


# What does not fit ----------------------------------------------------------------------------------------------------

EXPORTERS = [pytest.param(export_stylegan3, id="stylegan3"), pytest.param(export_pggan, id="pggan")]


@pytest.mark.parametrize("export", EXPORTERS)
@pytest.mark.parametrize(
    ("view", "words"),
    [
        (View(windows=("lung",), size=(48, 48)), "use --size 64"),
        (View(windows=("lung",), size=(32, 64)), "square"),
        (View(windows=("lung",)), "--size"),
        (View(windows=("lung", "bone"), size=(32, 32)), "channels"),
        (View(windows=("lung",), size=(32, 32), bits=32), "--bits"),
        (View(where="false", windows=("lung",), size=(32, 32)), "change --where"),
    ],
)
def test_views_that_do_not_fit(patients, tmp_path, export, view, words):
    with pytest.raises(UsageError, match=words):
        export(patients, tmp_path / "set", view=view)
    assert not any(tmp_path.iterdir())


def test_sixteen_bits_into_bytes(patients, tmp_path):
    with pytest.raises(UsageError, match="--bits 8"):
        export_pggan(patients, tmp_path / "set", view=View(windows=("lung",), size=(32, 32), bits=16))


@pytest.mark.parametrize("export", EXPORTERS)
def test_three_classes_and_a_missing_label(patients, tmp_path, export):
    with pytest.raises(LabelError, match="8 of 24"):
        export(patients, tmp_path / "set", view=View(size=(32, 32), labels="nullif(body_part_examined, 'HEAD')"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("export", EXPORTERS)
def test_a_set_with_no_image_at_all(tmp_path, bundled, export):
    (tmp_path / "one.dcm").write_bytes((bundled / "MR_small.dcm").read_bytes())
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "one.dcm"], archive)
    with pytest.raises(UnsupportedError, match="in HU"):
        export(archive, tmp_path / "out" / "set", view=LUNG)
    assert not (tmp_path / "out" / "set.zip").exists() and not (tmp_path / "out" / "set" / "view.json").exists()


def test_parts_have_no_image_in_common(patients, tmp_path):
    splits = Splits((("train", 0.5), ("test", 0.5)))
    seen: list[set[bytes]] = []
    for part in ("train", "test"):
        view = View(windows=("lung",), size=(32, 32), splits=splits, part=part)
        export_stylegan3(patients, tmp_path / f"{part}.zip", view=view)
        seen.append(originals(tmp_path / f"{part}.zip"))
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 24
