"""Views: what is chosen, how it is rendered, that it is the same everywhere."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dcmark
from dcmark.archive.query import query
from dcmark.errors import LabelError, LeakError, QueryError, SourceError, UnsupportedError, UsageError
from dcmark.view.render import Plan, plan, render
from dcmark.view.split import check_leaks, draw, parts_of, same
from dcmark.view.view import Splits, View, load_view

LUNG = View(windows=("lung",), size=(32, 32))


def test_pixels_are_windowed_means_of_what_they_measure(patients):
    """Against the same computed by hand from the HU of the frame."""
    view = View(windows=("-100/400",), size=None, crop_mm=(32 * 0.8, 32 * 0.6), bits=16)
    planned = plan(patients, view)
    one = planned.chosen[5]
    hu = dcmark.frame(patients, one.sha256, 0).physical("hu").values[8:40, 16:48]
    expected = np.clip((hu.astype(float) + 100.5) / 399 + 0.5, 0, 1) * 65535
    assert np.abs(planned.render(5).image - expected).max() <= 1

    halved = planned.view.spacing
    assert halved is None
    small = plan(patients, View(windows=("-100/400",), spacing=1.6, size=(24, 24), bits=16)).render(5).image
    whole = dcmark.frame(patients, one.sha256, 0).physical("hu").values
    rows = whole.reshape(24, 2, 64).mean(1)
    column = 10  # of the image, 1.6 mm wide, the middle of the frame at 12
    left = 32 + (column - 12) * 1.6 / 0.6
    cover = np.clip(np.minimum(np.arange(64) + 1, left + 1.6 / 0.6) - np.maximum(np.arange(64), left), 0, None)
    mean = rows @ cover / cover.sum()
    expected = np.clip((mean + 100.5) / 399 + 0.5, 0, 1) * 65535
    assert np.abs(small[:, column] - expected).max() <= 1


def test_the_whole_frame_is_fitted_in_its_shape_in_mm(patients):
    """48 rows of 0.8 mm and 64 columns of 0.6 mm make a square."""
    item = plan(patients, View(windows=("lung",), size=(16, 16))).render(0)
    assert item.record["grid"]["step"] == [3.0, 4.0]
    wide = plan(patients, View(windows=("lung",), size=(16, 32), background=1.0)).render(0)
    assert wide.image.shape == (16, 32)
    assert (wide.image[:, :8] == 255).all() and (wide.image[:, 24:] == 255).all()
    assert (wide.image[:, 8:24] < 255).any()


def test_the_box_of_the_body_is_one_for_a_volume(patients):
    planned = plan(patients, View(windows=("soft-tissue",), crop="body"))
    shapes = {planned.render(index).image.shape for index in range(len(planned))}
    assert shapes == {(24 - 6, 60 - 16)}  # rows 6 to 23, columns 16 to 59


def test_records_lead_back_to_the_frame_and_to_the_patient(patients):
    planned = plan(patients, replace(LUNG, orientation="standard", crop="body"))
    record = planned.render(7).record
    row = patients.read("files", ["sha256", "image_position_patient", "pixel_spacing"]).to_pylist()
    (own,) = [one for one in row if bytes(one["sha256"]).hex() == record["sha256"]]
    pixel = np.array([3.0, 5.0, 1.0])  # column, row of the image
    column, down = np.array(record["to_original"]) @ pixel
    place = np.array(own["image_position_patient"]) + np.array([column * 0.6, down * 0.8, 0])
    np.testing.assert_allclose(np.array(record["to_patient"]) @ pixel, place, atol=1e-6)
    assert record["volume"] and record["slice"] == 3


def test_several_windows_are_channels(patients):
    item = plan(patients, View(windows=("lung", "bone", "0/100"), size=(32, 32))).render(0)
    for number, window in enumerate(("lung", "bone", "0/100")):
        alone = plan(patients, View(windows=(window,), size=(32, 32))).render(0).image
        assert np.array_equal(item.image[..., number], alone)


def test_physical_values_as_they_are(patients):
    planned = plan(patients, View(windows=(), bits=32))
    one = planned.chosen[0]
    hu = dcmark.frame(patients, one.sha256, 0).physical("hu").values
    assert np.array_equal(planned.render(0).image, hu)


def test_colour_and_palette_frames(tmp_path, bundled):
    for name in ("SC_rgb_rle_2frame.dcm", "examples_palette.dcm", "CT_small.dcm"):
        (tmp_path / name).write_bytes((bundled / name).read_bytes())
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(
        [tmp_path / name for name in ("SC_rgb_rle_2frame.dcm", "examples_palette.dcm", "CT_small.dcm")], archive
    )
    colour = list(render(archive, View(colour=True)))
    assert {item.image.shape[-1] for item in colour} == {3}
    assert len({item.image.shape for item in colour}) == 3
    frame = next(item for item in colour if item.record["frame"] == 1)
    shown = dcmark.frame(archive, frame.record["sha256"], 1).display()
    assert np.abs(frame.image.astype(int) - shown).max() <= 1
    grey = next(item for item in render(archive, View()) if item.record["frame"] == 1)
    luma = shown @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey.image - luma).max() <= 1


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_same_bytes_on_any_number_of_threads_and_in_other_processes(patients, bits):
    view = View(windows=("p1-99",), size=(24, 24), spacing=1.7, crop="body", bits=bits)
    planned = plan(patients, view)
    first = [item.image.tobytes() for item in render(patients, view)]
    assert first == [item.image.tobytes() for item in render(patients, view, threads=4)]
    order = np.random.default_rng(0).permutation(len(planned))
    for index in order:
        assert planned.render(int(index)).image.tobytes() == first[index]
    assert pickle.loads(pickle.dumps(planned)).render(3).image.tobytes() == first[3]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(_rendered, str(patients.path), view.as_dict(), 4).result()
    assert found == first[4]


def _rendered(archive: str, view: dict, index: int) -> bytes:
    return plan(archive, View.from_dict(view)).render(index).image.tobytes()


def test_a_part_of_a_volume_gets_the_window_of_the_whole(patients):
    view = View(windows=("p1-99",))
    whole = plan(patients, view)
    some = plan(patients, replace(view, every=3))
    assert len(some) == 12  # slices 0 and 3 of 4, six times
    by_key = {(one.sha256, one.number): place for place, one in enumerate(whole.chosen)}
    for index, one in enumerate(some.chosen):
        assert np.array_equal(some.render(index).image, whole.render(by_key[one.sha256, one.number]).image)


def test_volumes_with_gaps_can_be_left_out(tmp_path):
    from dcmark.testing.synthetic import ct_series

    hu = np.random.default_rng(0).integers(0, 99, (6, 16, 16))
    paths = ct_series(tmp_path / "in" / "a", hu, series=1)
    ct_series(tmp_path / "in" / "b", hu, series=2)
    paths[3].unlink()
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "in"], archive)
    assert len(plan(archive, View())) == 11
    assert len(plan(archive, View(gap_free=True))) == 6


# What a view is -------------------------------------------------------------------------------------------------------

views = st.builds(
    View,
    where=st.none() | st.text(max_size=20),
    every=st.integers(1, 9),
    windows=st.lists(st.sampled_from(["lung", "header", "-600/1500", "p1-99"]), min_size=1, max_size=3).map(tuple),
    crop_mm=st.none() | st.tuples(st.floats(1, 500), st.floats(1, 500)),
    size=st.none() | st.tuples(st.integers(1, 512), st.integers(1, 512)),
    bits=st.sampled_from([8, 16, 32]),
    labels=st.text(max_size=20),
    splits=st.none() | st.just(Splits((("train", 0.75), ("test", 0.25)), "modality", ("patient_id",), 3)),
)


@given(views)
def test_a_view_goes_through_json_and_keeps_its_hash(view):
    again = View.from_dict(json.loads(json.dumps(view.as_dict())))
    assert again == view and again.hash == view.hash
    assert replace(view, every=view.every + 1).hash != view.hash


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"windows": ["nothing"]}, "CENTRE/WIDTH"),
        ({"bits": 12}, "8, 16 or 32"),
        ({"size": [0, 5]}, "from 1 to"),
        ({"size": "large"}, "another kind"),
        ({"every": 1.5}, "another kind"),
        ({"colour": "yes"}, "another kind"),
        ({"splits": {"fractions": [["train", 0.5]]}}, "add up to 1"),
        ({"splits": {"fractions": [["../x", 1.0]]}}, "names"),
        ({"part": "train"}, "no splits"),
        ({"surprise": 1}, "surprise"),
        ({"dcmark_view": 2}, "version 1"),
        ({"windows": []}, "windows"),
    ],
)
def test_a_view_that_is_none_is_refused_with_what_is_wrong(change, words):
    with pytest.raises(UsageError, match=words):
        View.from_dict(View().as_dict() | change)


def test_files_that_are_no_views(tmp_path):
    for text in ("", "[1]", "{", '{"a": ' * 5000):
        (tmp_path / "v.json").write_text(text)
        with pytest.raises((SourceError, UsageError)):
            load_view(tmp_path / "v.json")
    with pytest.raises(SourceError):
        load_view(tmp_path / "absent.json")
    LUNG.save(tmp_path / "v.json")
    assert load_view(tmp_path / "v.json") == LUNG


def test_millimetres_need_a_spacing(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "one.png"], archive)
    with pytest.raises(UnsupportedError, match="pixel spacing"):
        plan(archive, View(spacing=1.0)).render(0)


def test_named_windows_are_for_hu(tmp_path, bundled):
    (tmp_path / "one.dcm").write_bytes((bundled / "MR_small.dcm").read_bytes())
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "one.dcm"], archive)
    with pytest.raises(UnsupportedError, match="in HU"):
        plan(archive, View(windows=("lung",))).render(0)


def test_nothing_chosen_and_wrong_sql(patients):
    with pytest.raises(UsageError, match="change --where"):
        plan(patients, View(where="modality = 'MR'"))
    with pytest.raises(UsageError, match="loosen"):
        plan(patients, View(annotated="*"))
    with pytest.raises(QueryError):
        plan(patients, View(where="nonsense ="))


# Splits ---------------------------------------------------------------------------------------------------------------

PARTS = Splits((("train", 0.5), ("val", 0.25), ("test", 0.25)))


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=6), st.sampled_from(["x", "y", "z"]), min_size=1, max_size=80),
    st.integers(0, 3),
)
def test_parts_get_their_share_of_every_stratum(persons, seed):
    splits = replace(PARTS, seed=seed)
    drawn = draw(persons, splits)
    assert drawn == draw(dict(reversed(persons.items())), splits)
    for stratum in set(persons.values()):
        own = [drawn[person] for person in persons if persons[person] == stratum]
        for part, share in splits.fractions:
            assert abs(own.count(part) - share * len(own)) <= len(splits.fractions) / 2


@given(st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=30))
def test_what_shares_a_key_is_together_and_nothing_else(keys):
    groups = same(keys)
    for a, one in enumerate(keys):
        for b, two in enumerate(keys):
            if set(one) & set(two):
                assert groups[a] == groups[b]
    for group in set(groups):  # connected: from any member all others are reached
        members = [place for place, found in enumerate(groups) if found == group]
        reached = {members[0]}
        while more := {b for a in reached for b in members if set(keys[a]) & set(keys[b])} - reached:
            reached |= more
        assert reached == set(members)


def test_no_patient_is_in_two_parts(patients):
    part_of = parts_of(patients, PARTS)
    rows = patients.read("files", ["sha256", "patient_id"]).to_pylist()
    of_patient = {}
    for row in rows:
        of_patient.setdefault(row["patient_id"], set()).add(part_of[bytes(row["sha256"]).hex()])
    assert all(len(parts) == 1 for parts in of_patient.values())
    assert (
        sorted(next(iter(parts)) for parts in of_patient.values()) == sorted(["train"] * 3 + ["val"] + ["test"] * 2)
        or len({next(iter(parts)) for parts in of_patient.values()}) == 3
    )
    assert (
        parts_of(patients, replace(PARTS, seed=1)) != part_of or parts_of(patients, replace(PARTS, seed=2)) != part_of
    )


def test_a_person_under_two_ids_by_the_rule_of_the_user(patients):
    """Patients 0 and 1, 2 and 3, 4 and 5 share a date of birth."""
    splits = Splits((("train", 0.5), ("test", 0.5)), same_person=("patient_birth_date",))
    columns = set(query(patients, "SELECT * FROM files LIMIT 1").column_names)
    if "patient_birth_date" not in columns:
        splits = replace(splits, same_person=("patient_id[3:3]::INT // 2",))
    part_of = parts_of(patients, splits)
    for row in patients.read("files", ["sha256", "patient_id"]).to_pylist():
        other = f"ID{int(row['patient_id'][2]) ^ 1}"
        twins = [
            part_of[bytes(one["sha256"]).hex()]
            for one in patients.read("files", ["sha256", "patient_id"]).to_pylist()
            if one["patient_id"] == other
        ]
        assert set(twins) == {part_of[bytes(row["sha256"]).hex()]}


def test_a_leak_is_loud():
    check_leaks([["a", 1], ["a", 2], [None, 3]], ["train", "train", "test"])
    with pytest.raises(LeakError, match="train"):
        check_leaks([["a", 1], ["a", 2]], ["train", "test"])


# Labels ---------------------------------------------------------------------------------------------------------------


def test_classes_from_tags_are_numbered_the_same_in_all_parts(patients):
    view = View(labels="body_part_examined", splits=Splits((("train", 0.5), ("test", 0.5)), seed=4))
    whole = plan(patients, view)
    assert whole.labels.classes == ("ABDOMEN", "CHEST", "HEAD")
    for part in ("train", "test"):
        planned = plan(patients, view.of_part(part))
        assert planned.labels.classes == whole.labels.classes
        by_key = {(one.sha256): label for one, label in zip(whole.chosen, whole.labels.values, strict=True)}
        assert list(planned.labels.values) == [by_key[one.sha256] for one in planned.chosen]


def test_vectors_and_numbers(patients):
    planned = plan(patients, View(labels="[instance_number, 2.5]"))
    assert planned.labels.dimensions == 2 and planned.labels.values[0] == (1.0, 2.5)
    planned = plan(patients, View(labels="instance_number"))
    assert planned.labels.classes == ("1", "2", "3", "4")
    assert plan(patients, View(labels="instance_number > 2")).labels.classes == ("false", "true")


def test_labels_that_are_missing_are_counted_and_told_what_to_do(patients):
    with pytest.raises(LabelError, match=r"none for 8 of 24"):
        plan(patients, View(labels="nullif(body_part_examined, 'HEAD')"))
    with pytest.raises(LabelError, match="lengths"):
        plan(patients, View(labels="CASE WHEN instance_number = 1 THEN [1.0] ELSE [1.0, 2.0] END"))


def test_labels_and_selection_by_annotation(tmp_path):
    from dcmark.annotate.log import Log
    from dcmark.annotate.model import Annotation, Label
    from dcmark.annotate.places import Places
    from dcmark.read.volume_model import FrameId
    from dcmark.testing.synthetic import ct_series

    hu = np.random.default_rng(0).integers(0, 99, (4, 16, 16))
    for number in (1, 2):
        ct_series(tmp_path / "in" / str(number), hu + number, series=number)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([tmp_path / "in"], archive)
    places = Places(archive)
    one, two = places.volumes.values()
    frame = FrameId(*one.frames[2])
    log = Log(archive, author="A")
    log.add(
        [
            Annotation("label", places.target("volume", list(two.frames), two), Label("ill")),
            Annotation("label", places.target("frame", [frame]), Label("ill")),
            Annotation("label", places.target("frame", [FrameId(*one.frames[0])]), Label("well")),
        ]
    )
    ill = plan(archive, View(annotated="ill"))
    assert len(ill) == 5
    assert len(plan(archive, View(annotated="*"))) == 6
    labels = plan(archive, View(annotated="*", labels="annotation:well|ill")).labels
    assert labels.classes == ("well", "ill") and sorted(labels.values) == [0, 1, 1, 1, 1, 1]
    with pytest.raises(LabelError, match="2 images of 8 without"):
        Plan(archive, View(labels="annotation:well|ill"))
