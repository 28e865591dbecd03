"""Volumes: awkward series of every kind, and what is done with each."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dcmark.errors import UsageError
from dcmark.geometry import orientation_letters, shear_degrees, to_mm, voxels
from dcmark.read.volumes import FrameTags, Tolerances, find_volumes, regular_grid
from volume_series import AXIAL, TIMES, codes, found, later, message, only, renamed, series, without

# The ordinary series, in every disguise that must change nothing


def test_an_ordinary_series_is_one_regular_volume_without_a_word():
    volume = only(series())
    assert (volume.grid, volume.shape, volume.number, volume.modality) == ("regular", (20, 64, 48), 1, "CT")
    assert volume.findings == ()
    assert volume.spacing == pytest.approx((2, 0.7, 0.7))
    assert np.allclose(volume.affine, [[0, 0, 0.7, -100], [0, 0.7, 0, -80], [2, 0, 0, 10], [0, 0, 0, 1]])
    assert [frame.file for frame in volume.frames] == [f"file{i:03d}" for i in range(20)]
    assert np.array_equal(volume.slice_index, np.arange(20))
    assert volume.missing == ()
    assert orientation_letters(volume.affine) == "SPL"


def reversed_numbers(rows):
    return [{**row, "instance_number": 21 - row["instance_number"]} for row in rows]


def own_reference(rows):
    return [{**row, "frame_of_reference_uid": f"1.2.9.{i}"} for i, row in enumerate(rows)]


def four_acquisitions(rows):
    return [{**row, "acquisition_number": 1 + i // 5} for i, row in enumerate(rows)]


def no_numbers(rows):
    return [{key: value for key, value in row.items() if "number" not in key and "time" not in key} for row in rows]


def rounded(rows):
    return [{**row, "image_position_patient": (-100.0, -80.0, round(10 + 0.625 * i, 1))} for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("disguise", "expected"),
    [
        (lambda rows: rows[::-1], set()),
        (lambda rows: random.Random(3).sample(rows, len(rows)), set()),
        (reversed_numbers, set()),
        (own_reference, {"frames-of-reference"}),
        (four_acquisitions, {"acquisitions-joined"}),
        (no_numbers, set()),
        (lambda rows: [{**row, "rescale_type": None} if i % 3 else row for i, row in enumerate(rows)], set()),
        (lambda rows: [{**row, "image_type": ["ORIGINAL", "PRIMARY ", "AXIAL"]} for row in rows], set()),
        (lambda rows: [{**row, "slice_thickness": 2.0 + i} for i, row in enumerate(rows)], {"thickness-varies"}),
        (lambda rows: [{**row, "gantry_detector_tilt": 12.0} for row in rows], {"tilt-not-seen"}),
    ],
    ids=["reversed", "shuffled", "numbers-reversed", "reference-per-slice", "four-acquisitions", "no-numbers",
         "units-missing", "blanks", "thickness", "tilt-tag"],
)  # fmt: skip
def test_what_changes_nothing_is_kept_together(disguise, expected):
    plain, volume = only(series()), only(disguise(series()))
    assert np.array_equal(volume.affine, plain.affine)
    assert (volume.grid, volume.shape, volume.frames) == ("regular", plain.shape, plain.frames)
    assert codes(volume) == expected


def test_positions_rounded_to_a_tenth_of_a_mm_are_even_and_said_to_be_rounded():
    volume = only(rounded(series(200, 0.625)))
    assert volume.grid == "regular"
    assert codes(volume) == {"rounded-positions"}
    assert volume.spacing[0] == pytest.approx(0.625, abs=1e-4)


def test_oblique_slices_and_pixels_that_are_not_square():
    turn = np.deg2rad(25)
    cosines = np.array([np.cos(turn), np.sin(turn), 0, 0, 0, -1.0])
    direction = np.cross(cosines[:3], cosines[3:])
    rows = series(image_orientation_patient=cosines.tolist(), pixel_spacing=[1.5, 0.5])
    for i, row in enumerate(rows):
        row["image_position_patient"] = (np.array([5.0, 6.0, 7.0]) + direction * 2 * i).tolist()
    volume = only(rows)
    assert volume.grid == "regular"
    assert volume.spacing == pytest.approx((2, 1.5, 0.5))
    assert np.allclose(volume.affine[:3, 2], cosines[:3] * 0.5)
    assert np.allclose(volume.affine[:3, 1], cosines[3:] * 1.5)
    assert np.allclose(to_mm(volume.affine, voxels([19, 0, 0])), rows[19]["image_position_patient"])


# The awkward series of the peers' table, and more


def test_two_missing_slices_are_counted_and_placed():
    rows = series()
    del rows[12], rows[7]
    volume = only(rows)
    assert volume.grid == "uneven"
    assert volume.missing == (7, 12)
    assert volume.spacing[0] == pytest.approx(2)
    text = message(volume, "missing-slices")
    assert "2 slices missing" in text
    assert "1 between 22.00 and 26.00, 1 between 32.00 and 36.00" in text
    assert np.allclose(to_mm(volume.affine, voxels([volume.slice_index[-1], 0, 0])), (-100, -80, 48))


def test_a_segmentation_leaves_out_empty_slices_and_misses_none():
    rows = series(sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4", modality="SEG", file="seg")
    rows = [{**row, "frame": i, "segment_number": 1 + i // 20} for i, row in enumerate(rows + rows)]
    del rows[12], rows[7]
    result = found(rows)
    assert [volume.split for volume in result.volumes] == [
        (("ReferencedSegmentNumber", "2"),),
        (("ReferencedSegmentNumber", "1"),),
    ]
    assert codes(result.volumes[1]) == {"empty-slices-left-out", "split"}


def test_more_missing_than_present_is_an_error():
    rows = series(60)[:6] + series(60)[-5:]
    volume = only(rows)
    assert [finding.level for finding in volume.findings if finding.code == "missing-slices"] == ["error"]
    assert len(volume.missing) == 49


def test_copies_are_left_out_by_their_pixels():
    rows = series()
    result = found(rows + renamed([rows[4], rows[9]], "z", content_time="235959"))
    (volume,) = result.volumes
    assert (volume.grid, volume.shape[0]) == ("regular", 20)
    assert codes(volume) == {"duplicate"}
    (leftover,) = result.leftovers
    assert [frame.file for frame in leftover.frames] == ["zfile004", "zfile009"]


def test_blanks_in_image_type_make_no_difference():
    rows = series()
    result = found(rows + renamed(rows[:1], "z", image_type="ORIGINAL \\PRIMARY\\AXIAL "))
    assert [leftover.finding.code for leftover in result.leftovers] == ["duplicate"]


def test_equal_border_slices_of_two_phases_are_no_copies():
    rows = series(content_key="empty", temporal_position_identifier=1)
    rows += renamed(rows, "b", temporal_position_identifier=2)
    result = found(rows)
    assert [volume.shape[0] for volume in result.volumes] == [20, 20]


def test_one_instance_with_two_kinds_of_pixels_is_reported():
    rows = series()
    again = {**rows[3], "file": "other", "content_key": "altered"}
    result = found([*rows, again])
    assert result.volumes[0].shape[0] == 20
    assert [leftover.finding.code for leftover in result.leftovers] == ["same-instance-twice"]


def test_repeated_places_that_nothing_explains_are_left_out():
    rows = series()
    for row in rows:
        del row["acquisition_time"], row["content_time"], row["content_key"]
    again = renamed([rows[3], rows[8]], "again")
    result = found(rows + [{**row, "instance_number": 50 - 3 * i} for i, row in enumerate(again)])
    (volume,) = result.volumes
    assert (volume.grid, volume.shape[0]) == ("regular", 20)
    assert [frame.file for frame in volume.frames] == [row["file"] for row in rows]
    assert message(volume, "repeated-position").endswith(": 2")
    assert [frame.file for frame in result.leftovers[0].frames] == ["againfile008", "againfile003"]


@pytest.mark.parametrize("degrees", [0.5, 12.0, -25.0])
def test_gantry_tilt_is_measured_and_the_affine_sheared(degrees):
    slope = np.tan(np.deg2rad(degrees))
    rows = [
        {**row, "image_position_patient": (-100.0, -80.0 + slope * 2 * i, 10.0 + 2 * i)}
        for i, row in enumerate(series())
    ]
    volume = only(rows)
    assert volume.grid == "tilted"
    assert f"{abs(degrees):.2f} degrees" in message(volume, "tilted")
    assert shear_degrees(volume.affine) == pytest.approx(abs(degrees))
    assert np.allclose(to_mm(volume.affine, voxels([19, 0, 0])), rows[19]["image_position_patient"])
    assert volume.spacing[0] == pytest.approx(2)


def test_two_series_stay_two():
    rows = series()
    other = renamed(series(20, 3.0), "x", series_instance_uid="1.2.4")
    result = found(rows + other)
    assert [(volume.series_instance_uid, volume.spacing[0]) for volume in result.volumes] == [
        ("1.2.3", pytest.approx(2)),
        ("1.2.4", pytest.approx(3)),
    ]


@pytest.mark.parametrize(
    ("attribute", "first", "second", "dropped"),
    [
        ("TemporalPositionIdentifier", {"temporal_position_identifier": 1}, {"temporal_position_identifier": 2}, ()),
        ("TriggerTime", {"trigger_time": 0.0}, {"trigger_time": 420.0}, TIMES),
        ("EchoTime", {"echo_time": 4.6}, {"echo_time": 9.2}, ()),
        ("DiffusionBValue", {"diffusion_b_value": 0}, {"diffusion_b_value": 800}, ()),
        ("ImageType", {"image_type": "ORIGINAL\\PRIMARY\\M"}, {"image_type": "ORIGINAL\\PRIMARY\\P"}, ()),
        ("ConvolutionKernel", {"convolution_kernel": "B30f"}, {"convolution_kernel": "B70f"}, ()),
        ("AcquisitionNumber", {"acquisition_number": 1}, {"acquisition_number": 2}, ()),
        ("AcquisitionTime", {}, {}, ()),
        ("ContentTime", {}, {}, ("acquisition_time",)),
        ("InstanceNumber", {}, {}, TIMES),
    ],
)
def test_two_phases_are_two_volumes_told_apart_by_what_explains_them(attribute, first, second, dropped):
    rows = series(**first)
    rows = without(rows + later(rows, **second), *dropped)
    random.Random(1).shuffle(rows)
    result = found(rows)
    assert [(volume.grid, volume.shape[0], volume.phase, volume.phases) for volume in result.volumes] == [
        ("regular", 20, 1, 2),
        ("regular", 20, 2, 2),
    ]
    assert not result.leftovers
    for volume, prefix in zip(result.volumes, ("file", "later"), strict=True):
        assert [split.attribute for split in volume.split] == [attribute]
        assert all(frame.file.startswith(prefix) for frame in volume.frames)
        guessed = attribute == "InstanceNumber"
        assert ("phases-by-instance-number" in codes(volume)) == guessed
        assert attribute in message(volume, "split")


def test_phases_of_several_acquisitions_each_are_split_by_time_alone():
    rows = [{**row, "acquisition_number": 1 + i // 10} for i, row in enumerate(series())]
    result = found(rows + later(rows))
    assert [volume.shape[0] for volume in result.volumes] == [20, 20]
    assert all("acquisitions-joined" in codes(volume) for volume in result.volumes)


def test_diffusion_splits_by_b_value_and_then_by_direction():
    rows = series(6, diffusion_b_value=0)
    for i, direction in enumerate(np.eye(3).tolist()):
        rows += renamed(series(6), f"d{i}" * (i + 1), diffusion_b_value=1000, diffusion_gradient_orientation=direction)
    result = found(without(rows, *TIMES))
    assert [volume.shape[0] for volume in result.volumes] == [6] * 4
    assert [volume.split[0].value for volume in result.volumes] == ["0", "1000", "1000", "1000"]
    assert [len(volume.split) for volume in result.volumes] == [1, 2, 2, 2]


def test_a_heart_over_time_is_split_by_the_order_of_trigger_times_at_each_place():
    rows = []
    for phase in range(5):
        jitter = {"acquisition_time": None, "content_time": None}
        for i, row in enumerate(renamed(series(8), "p" * (phase + 1), **jitter)):
            rows.append({**row, "trigger_time": phase * (33.0 + i), "content_key": f"{phase}-{i}"})
    result = found(rows)
    assert [volume.shape[0] for volume in result.volumes] == [8] * 5
    assert [volume.split for volume in result.volumes][2] == (("TriggerTime", "3 of 5 in order"),)


def test_a_phase_that_lacks_slices_is_still_told_apart_by_time():
    rows = series()
    result = found(rows + later(rows)[:7])
    assert [(volume.shape[0], volume.split[0].attribute) for volume in result.volumes] == [
        (20, "AcquisitionTime"),
        (7, "AcquisitionTime"),
    ]
    assert "uneven-phases" in codes(result.volumes[0])


def test_a_localizer_under_the_same_series_is_set_apart():
    rows = series()
    scout = renamed(rows[:1], "scout", image_type="ORIGINAL\\PRIMARY\\LOCALIZER", content_key="scout")
    scout[0]["image_orientation_patient"] = (1.0, 0, 0, 0, 0, -1)
    same_plane = renamed(rows[5:6], "flat", image_type="DERIVED\\PRIMARY\\LOCALIZER", content_key="flat")
    result = found(rows + scout + same_plane)
    assert [(volume.grid, volume.shape[0]) for volume in result.volumes] == [
        ("regular", 20),
        ("single", 1),
        ("single", 1),
    ]
    assert ["localizer" in codes(volume) for volume in result.volumes] == [False, True, True]
    assert "ImageType" in {split.attribute for split in result.volumes[1].split}


@pytest.mark.parametrize(
    ("attribute", "changes"),
    [
        ("Rows, Columns", {"rows": 32, "columns": 32}),
        ("PixelSpacing", {"pixel_spacing": (0.9, 0.9)}),
        ("ImageOrientationPatient", {"image_orientation_patient": (1, 0, 0, 0, -1, 0)}),
        ("PhotometricInterpretation", {"photometric_interpretation": "RGB"}),
        ("SOPClassUID", {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"}),
        ("StackID", {"stack_id": "2"}),
    ],
)
def test_what_no_volume_mixes_is_split_with_its_reason(attribute, changes):
    rows = series()
    result = found(rows[:12] + [{**row, **changes} for row in rows[12:]])
    assert [(volume.shape[0], volume.grid) for volume in result.volumes] == [(12, "regular"), (8, "regular")]
    assert all(attribute in [split.attribute for split in volume.split] for volume in result.volumes)
    assert attribute in message(result.volumes[0], "split")


def test_mixed_units_are_never_one_volume():
    rows = series(modality="PT")
    result = found([{**row, "units": "BQML" if i < 10 else "CNTS"} for i, row in enumerate(rows)])
    assert [volume.split[0].value for volume in result.volumes] == ["BQML", "CNTS"]
    assert all("mixed-units" in codes(volume) for volume in result.volumes)


def test_half_of_one_echo_and_half_of_another_is_no_volume():
    rows = series()
    result = found([{**row, "echo_time": 10.0 if i < 10 else 20.0} for i, row in enumerate(rows)])
    assert [(volume.shape[0], volume.phases) for volume in result.volumes] == [(10, 1), (10, 1)]


@pytest.mark.parametrize(
    ("offset", "cosines"),
    [
        ((40.0, 0.0, 0.0), AXIAL),  # beside the stack
        ((0.0, 0.0, -7.3), AXIAL),  # before it, off the lattice
        ((0.0, 0.0, 11.0), AXIAL),  # between two slices
        ((0.0, 0.0, 40.6), AXIAL),  # just behind, off the lattice, out of order
        ((0.0, 0.0, 200.0), AXIAL),  # far behind, on the lattice, out of order
        ((0.0, 0.0, 0.0), (1.0, 0, 0, 0, 0, -1)),  # of another direction
    ],
    ids=["beside", "before", "between", "behind", "far", "across"],
)
def test_a_reference_image_as_first_instance_stands_off_the_grid(offset, cosines):
    rows = [{**row, "instance_number": row["instance_number"] + 1} for row in series()]
    reference = renamed(rows[:1], "reference", instance_number=1, content_key="r", image_orientation_patient=cosines)[0]
    reference["image_position_patient"] = tuple(np.array(rows[0]["image_position_patient"]) + offset)
    result = found([reference, *rows])
    assert [(volume.grid, volume.shape[0]) for volume in result.volumes] == [("regular", 20), ("single", 1)]
    assert np.allclose(result.volumes[0].affine, only(series()).affine)
    assert "missing-slices" not in codes(result.volumes[0])
    if cosines == AXIAL:
        assert "instance number 1" in message(result.volumes[1], "off-grid-frame")


def test_a_far_slice_in_the_order_of_instance_numbers_is_a_gap_and_no_reference():
    rows = series(60)
    volume = only(rows[:20] + rows[59:])
    assert len(volume.missing) == 39


def test_uneven_spacing_keeps_positions_and_says_so():
    heights = np.cumsum(np.random.default_rng(5).uniform(1, 3, 20))
    rows = [
        {**row, "image_position_patient": (0.0, 0.0, z), "slice_thickness": 1.0}
        for z, row in zip(heights.tolist(), series(), strict=True)
    ]
    volume = only(rows)
    assert volume.grid == "uneven"
    assert "uneven-spacing" in codes(volume)
    assert volume.missing == ()
    ends = to_mm(volume.affine, voxels(np.column_stack([volume.slice_index, np.zeros((20, 2))])))
    assert np.allclose(ends[:, 2], heights)


def test_one_displaced_slice_is_kept_in_an_uneven_volume():
    rows = series()
    rows[9]["image_position_patient"] = (-100.0, -80.0, 10.0 + 2 * 9 + 0.6)
    volume = only(rows)
    assert (volume.grid, volume.shape[0]) == ("uneven", 20)
    assert volume.spacing[0] == pytest.approx(2)
    assert "uneven-spacing" in codes(volume)


def test_few_slices_with_gaps_are_counted_by_their_stated_thickness():
    rows = series()
    volume = only([rows[i] for i in (0, 2, 5, 7)])
    assert volume.missing == (1, 3, 4, 6)
    assert volume.spacing[0] == pytest.approx(2)


@pytest.mark.parametrize("there", [(0, 2, 5, 7, 10, 12, 14, 17, 19), (0, 2, 4, 6, 7, 9, 11, 13, 15, 17, 19)])
def test_the_step_is_found_though_most_neighbours_are_missing(there):
    rows = without(series(), "slice_thickness")
    volume = only([rows[i] for i in there])
    assert volume.missing == tuple(sorted(set(range(20)) - set(there)))


def test_a_last_slice_in_order_that_stands_too_far_is_kept():
    rows = series()
    rows[19]["image_position_patient"] = (-100.0, -80.0, 10.0 + 2 * 19.3)
    volume = only(rows)
    assert (volume.grid, volume.shape[0]) == ("uneven", 20)


@pytest.mark.parametrize("seed", range(8))
def test_a_stack_without_any_grid_sets_no_slice_aside(seed):
    heights = np.cumsum(np.random.default_rng(seed).uniform(0.02, 1, 300)).tolist()
    rows = [{**row, "image_position_patient": (0.0, 0.0, z)} for z, row in zip(heights, series(300), strict=True)]
    volume = only(without(rows, "slice_thickness"))
    assert (volume.grid, volume.shape[0], volume.missing) == ("uneven", 300, ())


def test_places_that_differ_by_rounding_only_are_the_same_place():
    rows = series(temporal_position_identifier=1)
    again = later(rows, temporal_position_identifier=2)
    for row in again:
        x, y, z = row["image_position_patient"]
        row["image_position_patient"] = (x + 0.003, y - 0.003, z + 0.004)
    assert [(volume.shape[0], volume.phases) for volume in found(rows + again).volumes] == [(20, 2), (20, 2)]


def test_thin_slices_followed_by_thick_ones_change_spacing_and_miss_nothing():
    heights = [2.0 * i for i in range(10)] + [18 + 4.0 * i for i in range(1, 11)]
    rows = [{**row, "image_position_patient": (0.0, 0.0, z)} for z, row in zip(heights, series(), strict=True)]
    volume = only(rows)
    assert volume.grid == "uneven"
    assert "uneven-spacing" in codes(volume)
    assert "missing-slices" not in codes(volume)


def test_two_stacks_side_by_side_are_two_volumes():
    rows = series()
    other = [
        {**row, "image_position_patient": (80.0, *row["image_position_patient"][1:])} for row in renamed(rows, "right")
    ]
    result = found(rows + other)
    assert [(volume.grid, volume.shape[0]) for volume in result.volumes] == [("regular", 20), ("regular", 20)]


def test_slices_that_wander_in_their_plane_are_one_uneven_volume():
    rng = np.random.default_rng(2)
    rows = [{**row, "image_position_patient": (*rng.uniform(-3, 3, 2), 2.0 * i)} for i, row in enumerate(series())]
    volume = only(rows)
    assert volume.grid == "uneven"
    assert "in-plane-shift" in codes(volume)


def test_images_of_one_direction_scattered_about_are_no_stack():
    rng = np.random.default_rng(2)
    rows = [
        {**row, "image_position_patient": (*rng.uniform(-90, 90, 2), float(i // 5))} for i, row in enumerate(series())
    ]
    result = found(rows)
    assert [volume.grid for volume in result.volumes] == ["single"] * 20
    assert all("no-stack" in codes(volume) for volume in result.volumes)


def test_turning_projections_are_single_slices_each():
    rows = series(12)
    for i, row in enumerate(rows):
        turn = np.deg2rad(15 * i)
        row["image_orientation_patient"] = (np.cos(turn), np.sin(turn), 0.0, 0.0, 0.0, -1.0)
    assert [volume.grid for volume in found(rows).volumes] == ["single"] * 12


def test_directions_that_barely_differ_are_parallel_and_said_to_vary():
    rows = series()
    for i, row in enumerate(rows):
        turn = np.deg2rad(0.04 * (i % 2))
        row["image_orientation_patient"] = (np.cos(turn), np.sin(turn), 0.0, -np.sin(turn), np.cos(turn), 0.0)
    volume = only(rows)
    assert volume.grid == "regular"
    assert "orientation-varies" in codes(volume)
    assert len(found([{**row} for row in rows]).volumes) == 1
    strict = find_volumes(FrameTags.from_rows(rows), Tolerances(angle_degrees=0.01))
    assert len(strict.volumes) == 2


@pytest.mark.parametrize("lost", ["image_position_patient", "image_orientation_patient", "pixel_spacing"])
def test_ct_without_a_place_is_kept_in_order_and_warned_about(lost):
    rows = random.Random(2).sample(without(series(), lost), 20)
    volume = only(rows)
    assert (volume.grid, volume.shape, volume.affine, volume.spacing) == ("none", (20, 64, 48), None, None)
    assert [frame.file for frame in volume.frames] == [f"file{i:03d}" for i in range(20)]
    assert codes(volume) == {"missing-geometry"}
    with pytest.raises(UsageError, match="none"):
        regular_grid(volume)


def test_ct_without_a_place_follows_slice_location_where_it_is_stated():
    rows = [{**row, "slice_location": -float(i)} for i, row in enumerate(without(series(), "image_position_patient"))]
    volume = only(rows)
    assert [frame.file for frame in volume.frames] == [f"file{i:03d}" for i in range(19, -1, -1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"image_orientation_patient": (0, 0, 0, 0, 0, 0)},
        {"image_orientation_patient": (1, 0, 0, 1, 0, 0)},
        {"pixel_spacing": (0, 0)},
        {"pixel_spacing": (1e300, 1)},
        {"image_position_patient": (0, 0, 1e200)},
    ],
)
def test_geometry_that_cannot_be_is_not_believed(changes):
    assert codes(only(series(**changes))) == {"impossible-geometry"}


def test_images_of_projection_and_objects_without_pixels_are_left_over_with_reasons():
    xray = without(series(2, modality="DX", sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1"), "image_position_patient")
    report = without(series(1, modality="SR", series_instance_uid="1.2.8"), "rows", "columns")
    result = found(xray + report)
    assert not result.volumes
    assert [leftover.finding.code for leftover in result.leftovers] == ["not-a-volume", "no-image"]


def test_stated_spacing_that_disagrees_is_reported_and_not_believed():
    volume = only(series(spacing_between_slices=4.0))
    assert volume.spacing[0] == pytest.approx(2)
    assert codes(volume) == {"spacing-disagrees"}


def test_every_second_slice_missing_shows_in_thickness_or_numbers():
    assert "sparse-slices" in codes(only(series()[::2]))
    assert codes(only(without(series(), "slice_thickness")[::2])) == {"instance-stride"}
    assert codes(only(series(slice_thickness=1.8))) == {"slice-gap"}
