"""Every format: what goes out comes back, what cannot be held is said, hostile input changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drawing
import numpy as np
import pytest

from dcmark.annotate import formats
from dcmark.annotate.exchange import export_annotations, import_annotations
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation, Contour, Label
from dcmark.annotate.places import Places
from dcmark.errors import DcmarkError, OutputExistsError, SourceError, UsageError
from dcmark.read.volume_model import FrameId

REGIONS = {"polygon", "polygon with a hole", "polygon on two slices", "freehand", "box", "ellipse", "mask"}
PICTURE = REGIONS | {"mask on one frame"}
POINTS = {"point", "points"}
CLASSES = {"class of a frame", "class of an image"}
HOLDS = {
    "nifti": REGIONS | {"mask on one frame"},
    "nrrd": REGIONS | {"mask on one frame"},
    "mha": REGIONS | {"mask on one frame"},
    "nnunet": {"mask"},
    "seg": REGIONS | {"mask on one frame"},
    "rtstruct": REGIONS | POINTS | {"mask on one frame", "open freehand", "line", "angle"},
    "sr": (REGIONS | POINTS | CLASSES | {
        "open freehand", "line", "angle", "class of a study", "measurement", "length of the line",
    }) - {"mask"},
    "gsps": (REGIONS | POINTS | {"open freehand", "line", "angle", "text"}) - {"mask"},
    "kos": CLASSES,
    "coco": PICTURE | POINTS,
    "yolo": PICTURE,
    "voc": PICTURE,
    "labelme": PICTURE | POINTS | CLASSES | {"open freehand", "line", "angle"},
    "cvat": PICTURE | POINTS | CLASSES | {"open freehand", "line", "angle"},
    "labelstudio": PICTURE | POINTS | CLASSES,
    "csv": CLASSES | {
        "class of a series", "class of a study", "class of a patient", "measurement", "length of the line",
    },
}  # fmt: skip
"""What of ``drawing.everything`` each format holds; the table of docs/reference/annotations.md in short."""
EXACT_PIXELS = ("nifti", "nrrd", "mha", "seg", "rtstruct", "coco", "labelme", "cvat", "labelstudio")
"""Formats that give back every pixel of masks and regions."""


@pytest.fixture(scope="module")
def drawn(shared_ct):
    return drawing.everything(shared_ct)


def test_every_format_is_tried():
    assert set(HOLDS) | {"ann"} == set(formats.names())
    with pytest.raises(UsageError, match="expected one of"):
        formats.load("jpeg")


@pytest.mark.parametrize("format", sorted(HOLDS))
def test_what_a_format_holds_comes_back_and_the_rest_is_said(shared_ct, drawn, tmp_path, format):
    """The export itself compares what it wrote; here: what it took, what it said of the rest, and every pixel."""
    names = {one.id[:8]: name for name, one in drawn.items()}
    chosen = {name: one for name, one in drawn.items() if format != "nnunet" or name in ("mask", "line", "text")}
    report = export_annotations(shared_ct, format, tmp_path / "out", annotations=list(chosen.values()))
    left = {names[one.message.split()[1].rstrip(":")] for one in report.findings if one.code == "left-out"}
    assert set(chosen) - left == HOLDS[format]
    if format in EXACT_PIXELS:
        context = formats.base.Context(shared_ct, volumes=(drawn["mask"].target.volume,))
        files = [file for file in sorted((tmp_path / "out").rglob("*")) if not file.name.endswith(".labels.json")]
        found = [a for file in files for a in formats.load(format).read(file, context).annotations]
        shown = [drawn[name] for name in HOLDS[format] & (PICTURE | {"mask"}) - {"open freehand"}]
        assert shown
        for label in {one.label.name for one in shown}:
            ours, theirs = ([one for one in side if one.label.name == label] for side in (shown, found))
            assert drawing.same_pixels(drawing.pixels(theirs, shared_ct), drawing.pixels(ours, shared_ct)), label


@pytest.mark.parametrize("format", sorted(HOLDS))
def test_all_at_once_and_into_the_log(ct, tmp_path, format):
    drawn = drawing.everything(ct)
    report = export_annotations(ct, format, tmp_path / "out", annotations=list(drawn.values()))
    assert report.findings
    source = tmp_path / "out"
    volumes = [drawn["mask"].target.volume]
    added = import_annotations(ct, format, source, author="Ben", volumes=volumes)
    assert added.annotations == report.annotations
    state = Log(ct).state()
    assert len(state) == added.annotations
    assert all(one.origin for one in state.annotations())
    with pytest.raises(OutputExistsError):
        export_annotations(ct, format, source, annotations=list(drawn.values()))


def test_codes_colours_and_names_travel(ct, tmp_path):
    one = drawing.volume_mask(ct, author="Ada")
    for format in ("seg", "nrrd", "nifti", "mha", "coco"):
        export_annotations(ct, format, tmp_path / format, annotations=[one])
        import_annotations(ct, format, tmp_path / format)
        found = list(Log(ct).state().annotations())[-1]
        assert found.label == one.label, format
    assert next(iter(Log(ct).state().annotations())).author == "Ada"


def test_fractions_survive_where_the_format_has_them(ct, tmp_path):
    from dcmark.annotate.masks import make_plane

    places = Places(ct)
    volume = next(iter(places.volumes.values()))
    values = np.random.default_rng(0).integers(0, 101, volume.shape[1:]).astype(np.uint8)
    frame = FrameId(*volume.frames[3])
    plane = make_plane(frame, values, 100)
    one = Annotation("mask", places.target("volume", [frame], volume), drawing.LIVER, mask=[plane])
    Log(ct).add([one])
    export_annotations(ct, "seg", tmp_path / "seg", annotations=[one], options={"type": "fractional"})
    import_annotations(ct, "seg", tmp_path / "seg")
    found = list(Log(ct).state().annotations())[-1]
    assert found.mask[0].levels == 100
    assert np.array_equal(found.mask[0].array(), values)
    report = export_annotations(ct, "nifti", tmp_path / "nifti", annotations=[one])
    assert "fractions-lost" in {finding.code for finding in report.findings}


def test_masks_that_overlap_are_kept_apart(ct, tmp_path):
    one, other = drawing.volume_mask(ct), drawing.volume_mask(ct, drawing.LESION, skip=2)
    for format, options in (("nifti", {}), ("nrrd", {}), ("seg", {"type": "labelmap"}), ("seg", {"type": "binary"})):
        out = tmp_path / f"{format}{len(options)}{options.get('type')}"
        assert export_annotations(ct, format, out, annotations=[one, other], options=options).annotations == 2
    report = export_annotations(ct, "nnunet", tmp_path / "nnunet", annotations=[one, other])
    assert report.annotations == 1
    assert "overlaps" in report.findings[-1].message


# Through the pictures of an export ------------------------------------------------------------------------------------


@pytest.fixture
def pictures(ct, tmp_path):
    from dcmark.view.export.images import export_images

    export_images(ct, tmp_path / "png", size=96)
    return tmp_path / "png"


@pytest.mark.parametrize("format", ["coco", "yolo", "voc", "labelme", "cvat", "labelstudio"])
def test_shapes_drawn_on_resized_pictures_land_on_the_frames(ct, pictures, tmp_path, format):
    drawn = drawing.everything(ct)
    names = ["polygon", "box"] if format in ("voc", "yolo") else ["polygon", "box", "ellipse", "point"]
    chosen = [drawn[name] for name in names]
    report = export_annotations(ct, format, tmp_path / "out", annotations=chosen, view=pictures)
    assert report.annotations == len(names)
    text = "".join(file.read_text() for file in (tmp_path / "out").rglob("*.*") if file.suffix in (".json", ".xml"))
    assert "96" in text or format == "yolo"
    with pytest.raises(DcmarkError):
        import_annotations(ct, format, tmp_path / "out")
    assert len(Log(ct).state()) == 0
    import_annotations(ct, format, tmp_path / "out", view=pictures)
    assert {one.frames for one in Log(ct).state().annotations()} == {one.frames for one in chosen}


def test_a_polygon_drawn_on_a_picture_by_hand_lands_where_it_was_seen(ct, pictures, tmp_path):
    """Worked out by hand: 40 x 48 pixels go into 96 x 96 as 80 x 96, 8 rows below the top."""
    view = json.loads((pictures / "view.json").read_text())
    item = view["items"][2]
    corners = [(20.0, 28.0), (60.0, 28.0), (60.0, 48.0)]  # x, y from the corner of the picture
    shape = {"label": "lesion", "points": corners, "shape_type": "polygon"}
    whole = {"imagePath": item["item"], "imageWidth": 96, "imageHeight": 96, "shapes": [shape], "flags": {}}
    (tmp_path / "one.json").write_text(json.dumps(whole))
    import_annotations(ct, "labelme", tmp_path / "one.json", view=pictures)
    (found,) = Log(ct).state().annotations()
    expected = [((y - 8) / 2 - 0.5, x / 2 - 0.5) for x, y in corners]
    assert np.allclose(found.contours[0].points, expected)
    assert found.contours[0].frame == FrameId(item["sha256"], item["frame"])


def test_a_mask_goes_through_smaller_pictures_within_a_pixel_of_them(ct, pictures, tmp_path):
    one = drawing.volume_mask(ct)
    report = export_annotations(ct, "coco", tmp_path / "out", annotations=[one], view=pictures)
    assert "resampled" in {finding.code for finding in report.findings}
    import_annotations(ct, "coco", tmp_path / "out", view=pictures)
    found = drawing.pixels(Log(ct).state().annotations(), ct)
    for frame, mask in drawing.pixels([one], ct).items():
        assert np.array_equal(found[frame], mask), "pictures of twice the size lose nothing"


# What other programs write --------------------------------------------------------------------------------------------


def picture_name(archive) -> tuple[str, int, int]:
    places = Places(archive)
    volume = next(iter(places.volumes.values()))
    frame = FrameId(*volume.frames[0])
    return f"{frame.file}_{frame.frame:04}.png", *places.size(frame)


def test_compressed_run_lengths_of_coco(ct, tmp_path):
    """A string made by the reference implementation's rules, written out by hand for the runs 41, 3, 37, 3, 1516."""
    name, height, width = picture_name(ct)
    counts = [41, 3, 37, 3, height * width - 84]
    text = ""
    for k, count in enumerate(counts):
        value = count - (counts[k - 2] if k > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            more = not ((value == 0 and not bits & 16) or (value == -1 and bits & 16))
            text += chr((bits | (32 if more else 0)) + 48)
            if not more:
                break
    whole = {
        "images": [{"id": 7, "file_name": name, "width": width, "height": height}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 1, 1],
             "segmentation": {"size": [height, width], "counts": text}}
        ],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(whole))
    import_annotations(ct, "coco", tmp_path / "coco.json")
    (found,) = Log(ct).state().annotations()
    mask = found.mask[0].array()
    assert np.flatnonzero(mask.ravel(order="F")).tolist() == [41, 42, 43, 81, 82, 83]


def test_segmentations_of_slicer_with_layers_and_terminology(ct, tmp_path):
    one, other = drawing.volume_mask(ct), drawing.volume_mask(ct, drawing.LESION, skip=2)
    export_annotations(ct, "nrrd", tmp_path / "out", annotations=[one, other])
    (path,) = (tmp_path / "out").iterdir()
    head = path.read_bytes().split(b"\n\n")[0].decode()
    assert "Segment0_Name:=liver" in head
    assert "SCT^10200004^Liver" in head
    assert "kinds: list domain domain domain" in head
    import nrrd

    data, header = nrrd.read(str(path))
    assert data.shape[0] == 2
    assert header["Segment1_Layer"] == "1"


def test_rotated_boxes_and_ellipses(ct, tmp_path):
    name, height, width = picture_name(ct)
    xml = f"""<annotations><image id="0" name="{name}" width="{width}" height="{height}">
    <box label="a" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90"/>
    <ellipse label="b" cx="20" cy="20" rx="4" ry="8" rotation="0"/>
    <points label="c" points="3,4;5,6"/><tag label="d"/></image></annotations>"""
    (tmp_path / "a.xml").write_text(xml)
    import_annotations(ct, "cvat", tmp_path / "a.xml")
    found = {one.label.name: one for one in Log(ct).state().annotations()}
    turned = np.array(found["a"].contours[0].points)
    assert np.allclose([turned.min(axis=0), turned.max(axis=0)], [(6.5, 12.5), (16.5, 16.5)])
    assert np.allclose(found["b"].contours[0].points[:2], [(11.5, 19.5), (27.5, 19.5)])
    assert found["c"].kind == "point"
    assert found["d"].kind == "label"


def test_csv_by_other_names_of_columns(ct, tmp_path):
    row = next(iter(Places(ct)._files.values()))
    text = f"PatientID,class\n{row['patient_id']},malignant\n"
    (tmp_path / "a.csv").write_text(text)
    import_annotations(ct, "csv", tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text(f"SOPInstanceUID,label,value,unit\n{row['sop_instance_uid']},noise,12.5,HU\n")
    import_annotations(ct, "csv", tmp_path / "b.csv")
    found = list(Log(ct).state().annotations())
    assert [(one.target.level, one.label.name, one.value) for one in found] == [
        ("patient", "malignant", None),
        ("instance", "noise", 12.5),
    ]


# Hostile and broken files ---------------------------------------------------------------------------------------------

BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "aaaaaaaaaa"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;&x;&x;">]>
<annotations><image id="0" name="&y;" width="1" height="1"/></annotations>"""
FETCH = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>"""
TEXTS = {
    "cvat": ["", "<", "<a/>", BOMB, "<annotations><image/></annotations>", "<annotations>" + "<a>" * 100_000],
    "voc": ["", "<annotation/>", FETCH, "<annotation><filename>x</filename></annotation>"],
    "coco": ["", "{", "[]", "{}", "[" * 100_000, '{"images": NaN}', '{"images": [{"id": 1}], "categories": []}'],
    "labelme": ["", "[]", '{"shapes": 3, "imagePath": "nothing.png"}'],
    "labelstudio": ["", "{}", "[{}]", '[{"data": {"image": "x"}, "annotations": []}]'],
    "csv": ["", "label\nx\n", "patient,label\nnobody,x\n", "patient,label\nx\n", 'patient,label\n"x,y\n'],
    "yolo": ["0 0.5 0.5 1 1\n"],
}


@pytest.mark.parametrize(("format", "number"), [(name, k) for name, texts in TEXTS.items() for k in range(len(texts))])
def test_hostile_text_is_refused_by_name_and_changes_nothing(ct, tmp_path, format, number):
    suffix = {"cvat": ".xml", "voc": ".xml", "csv": ".csv"}.get(format, ".json")
    path = tmp_path / f"hostile{suffix}"
    path.write_text(TEXTS[format][number])
    with pytest.raises((SourceError, UsageError)) as error:
        import_annotations(ct, format, path)
    assert "hostile" in str(error.value)
    assert "passwd" not in str(error.value)
    assert len(Log(ct).state()) == 0


CORRUPTIONS = {
    "coco": [
        ("images[0].width", lambda j: j["images"][0].update(width=7)),
        ("annotations[0]", lambda j: j["annotations"][0].update(category_id=99)),
        ("segmentation", lambda j: j["annotations"][0].update(segmentation={"size": [40, 48], "counts": [5]})),
        ("counts", lambda j: j["annotations"][0].update(segmentation={"size": [40, 48], "counts": "\u0010\u0010"})),
        ("segmentation", lambda j: j["annotations"][0].update(segmentation=[[1, 2, 3]])),
        ("segmentation", lambda j: j["annotations"][0].update(segmentation=[[1e300] * 6])),
        ("file_name", lambda j: j["images"][0].update(file_name=["x"])),
        ("images[0]", lambda j: j["images"][0].update(file_name="../../etc/passwd")),
    ],
    "labelstudio": [
        ("rle", lambda j: _result(j).update(type="brushlabels", value={"brushlabels": ["x"], "rle": [0] * 9})),
        ("original_width", lambda j: _result(j).update(original_width=10**12)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("format", "number"), [(name, k) for name, list_ in CORRUPTIONS.items() for k in range(len(list_))]
)
def test_a_wrong_place_in_json_is_named(ct, tmp_path, format, number):
    place, change = CORRUPTIONS[format][number]
    drawn = drawing.everything(ct)
    report = export_annotations(ct, format, tmp_path / "out", annotations=[drawn["polygon"]])
    path = tmp_path / "out" / report.files[0]
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))
    with pytest.raises((SourceError, UsageError)) as error:
        import_annotations(ct, format, path)
    assert path.name in str(error.value)
    assert place.split(".")[-1].split("[")[0] in str(error.value) or "pixels" in str(error.value)
    assert len(Log(ct).state()) == 0


@pytest.mark.parametrize("format", ["seg", "rtstruct", "sr", "gsps", "kos", "nifti", "nrrd", "mha", "ann"])
def test_bytes_that_are_something_else(ct, tmp_path, format):
    path = tmp_path / ("x.nii" if format == "nifti" else "x.dcm")
    for data in (b"", b"\0" * 10, b"DICM" * 100, b"\x89PNG\r\n\x1a\n" * 50, b"\x1f\x8b" + b"x" * 500):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=path.name):
            import_annotations(ct, format, path)
    assert len(Log(ct).state()) == 0


@pytest.mark.parametrize(
    "format", ["seg", "rtstruct", "sr", "gsps", "kos", "nifti", "nrrd", "mha", "coco", "cvat", "labelme"]
)
def test_cut_and_flipped_files_are_refused_or_read_never_half_imported(ct, tmp_path, format):
    """Deliberate damage everywhere: an error in words, or annotations that can be; never a crash, never a part."""
    drawn = drawing.everything(ct)
    chosen = [drawn[name] for name in ("polygon with a hole", "mask on one frame", "class of an image", "measurement")]
    report = export_annotations(ct, format, tmp_path / "out", annotations=chosen)
    name = next(file for file in report.files if not file.endswith(".labels.json"))
    whole = (tmp_path / "out" / name).read_bytes()
    rng = np.random.default_rng(7)
    events = 0
    path = tmp_path / Path(name).name
    volumes = [drawn["mask"].target.volume]
    for trial in range(8):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for at in rng.integers(0, len(data), 4):
                data[at] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            added = import_annotations(ct, format, path, volumes=volumes)
        except DcmarkError:
            assert len(Log(ct).events()) == events, "half imported"
        else:
            events += added.annotations
            assert len(Log(ct).events()) == events
    assert Log(ct).state() is not None


def test_a_detached_header_leads_nowhere_else(ct, tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"\1" * 100_000)
    inside = tmp_path / "in"
    inside.mkdir()
    for name in ("../secret.raw", str(secret), "LIST", "a%d.raw 1 3 1"):
        (inside / "a.mhd").write_text(
            "NDims = 3\nDimSize = 10 10 10\nElementType = MET_UCHAR\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
            f"ElementDataFile = {name}\n"
        )
        with pytest.raises(SourceError, match="beside"):
            import_annotations(ct, "mha", inside / "a.mhd")


def test_a_file_that_inflates_to_nothing_but_zeros_is_bounded(ct, tmp_path):
    import gzip
    import struct

    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 20_000, 20_000, 20_000, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 2, 8)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(bytes(header) + b"\0" * 10_000_000))
    with pytest.raises(DcmarkError, match="bomb"):
        import_annotations(ct, "nifti", path)


def test_a_folder_with_one_bad_file_adds_nothing(ct, tmp_path):
    drawn = drawing.everything(ct)
    export_annotations(ct, "labelme", tmp_path / "out", annotations=list(drawn.values()))
    (tmp_path / "out" / "zz.json").write_text("{")
    with pytest.raises(SourceError, match=r"zz.json, line 1 column 2"):
        import_annotations(ct, "labelme", tmp_path / "out")
    assert len(Log(ct).events()) == 0


def test_nothing_to_export_is_said(ct, tmp_path):
    with pytest.raises(UsageError, match="found none"):
        export_annotations(ct, "seg", tmp_path / "out")
    lone = Annotation("point", Places(ct).target("study"), Label("x"), (Contour(((1.0, 2.0, 3.0),), None, False),))
    Log(ct).add([lone])
    with pytest.raises(UsageError, match="in mm that lie on no frame"):
        export_annotations(ct, "gsps", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rejected_annotations_stay_inside(ct, tmp_path):
    one, other = drawing.volume_mask(ct), drawing.volume_mask(ct, drawing.LESION)
    log = Log(ct)
    log.add([one, other])
    log.set_status(other.id, "rejected")
    assert export_annotations(ct, "nifti", tmp_path / "out").annotations == 1


def test_a_file_of_labels_that_is_wrong_is_named(ct, tmp_path):
    export_annotations(ct, "nifti", tmp_path / "out", annotations=[drawing.volume_mask(ct)])
    side = next((tmp_path / "out").glob("*.labels.json"))
    for text in (
        "[]",
        '{"one": "liver"}',
        '{"1": {"name": "x", "colour": "red"}}',
        '{"1": {"name": "x", "code": [1]}}',
    ):
        side.write_text(text)
        with pytest.raises(SourceError, match=r"labels\.json"):
            import_annotations(ct, "nifti", tmp_path / "out")


def _result(document: Any) -> Any:
    """The first result of the first task."""
    return document[0]["annotations"][0]["result"][0]
