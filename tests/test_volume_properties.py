"""What must hold for volumes of any table of frames."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmark.errors import UsageError
from dcmark.geometry import largest_distance_mm
from dcmark.read.volumes import FrameRow, FrameTags, find_volumes
from volume_series import AXIAL, TIMES, changing, codes, found, later, only, renamed, series, tilted, wandering, without


@st.composite
def oblique_series(draw: st.DrawFn, smallest: int = 2):
    """Rows of a regular series on a grid turned at random, and its affine."""
    seed = draw(st.integers(0, 10**6))
    count = draw(st.integers(smallest, 40))
    step, *spacing = (draw(st.sampled_from([0.3, 0.625, 1.0, 2.5, 5.0, 7.77])) for _ in range(3))
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    cosines = np.concatenate([matrix[:, 0], matrix[:, 1]])
    direction = np.cross(matrix[:, 0], matrix[:, 1])
    origin = np.random.default_rng(seed + 1).uniform(-300, 300, 3)
    rows = series(count, step, image_orientation_patient=cosines.tolist(), pixel_spacing=spacing)
    for i, row in enumerate(rows):
        row["image_position_patient"] = (origin + direction * step * i).tolist()
    affine = np.eye(4)
    affine[:3] = np.stack([direction * step, matrix[:, 1] * spacing[0], matrix[:, 0] * spacing[1], origin], axis=1)
    return rows, affine


@given(oblique_series(), st.randoms(use_true_random=False))
def test_shuffled_oblique_grids_give_their_affine_back(drawn, order):
    rows, affine = drawn
    order.shuffle(rows)
    volume = only(rows)
    assert volume.grid == "regular"
    assert largest_distance_mm(volume.affine, affine, volume.shape) < 1e-6
    assert not [finding for finding in volume.findings if finding.level != "info"]


@given(oblique_series(smallest=5), st.data())
def test_slices_taken_out_are_always_reported(drawn, data):
    rows, affine = drawn
    lost = data.draw(st.sets(st.integers(1, len(rows) - 2), min_size=1, max_size=len(rows) - 3))
    result = found([row for i, row in enumerate(rows) if i not in lost])
    volume = result.volumes[0]
    reported = codes(volume) & {"missing-slices", "uneven-spacing", "sparse-slices"}
    assert reported
    assert any(finding.level != "info" for finding in volume.findings)
    if len(lost) <= len(rows) // 3 and volume.shape[0] == len(rows) - len(lost):
        assert np.allclose(volume.affine, affine, atol=1e-6)
        assert volume.missing == tuple(sorted(lost))


MESSES = {
    "missing": lambda rows: rows[:5] + rows[8:],
    "copies": lambda rows: rows + renamed(rows[2:4], "copy"),
    "phases": lambda rows: rows + later(rows),
    "unexplained": lambda rows: without(rows + renamed(rows[:3], "again", content_key=None), *TIMES),
    "localizer": lambda rows: [*rows, *renamed(rows[:1], "scout", image_type="A\\B\\LOCALIZER")],
    "tilt": tilted,
    "uneven": changing,
    "wander": wandering,
    "units": lambda rows: [{**row, "units": "A" if i % 2 else "B"} for i, row in enumerate(rows)],
    "placeless": lambda rows: [*rows, *without(renamed(rows[:4], "lost"), "image_position_patient")],
    "series": lambda rows: rows + renamed(rows, "other", series_instance_uid="1.9"),
}


@given(
    st.lists(st.sampled_from(sorted(MESSES)), min_size=1, max_size=3, unique=True), st.randoms(use_true_random=False)
)
def test_the_order_of_the_rows_changes_nothing(messes, order):
    rows = series()
    for mess in messes:
        rows = MESSES[mess](rows)
    before = found(rows)
    shuffled = list(rows)
    order.shuffle(shuffled)
    after = found(shuffled)
    for one, two in zip(before.volumes, after.volumes, strict=True):
        assert (one.id, one.number, one.findings, one.split) == (two.id, two.number, two.findings, two.split)
        assert np.array_equal(one.slice_index, two.slice_index)
        assert one.affine is two.affine is None or np.array_equal(one.affine, two.affine)
    assert [item.finding for item in before.leftovers] == [item.finding for item in after.leftovers]


JUNK = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.floats(), max_size=7),
    st.just((0.0, 0.0, 1.0)), st.just(AXIAL), st.just((1.0, 1.0)), st.sampled_from([1, 2, 64, "CT", "MR", "SEG"]),
)  # fmt: skip


@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(FrameRow.__annotations__.keys() - {"findings"})), JUNK), max_size=12
    ),
    st.booleans(),
)
def test_nothing_that_tags_say_can_break_it(junk, on_a_series):
    base = series(max(len(junk), 1)) if on_a_series else [{} for _ in junk]
    rows = [{**row, **wild} for row, wild in zip(base, junk, strict=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = found(rows)
    for volume in result.volumes:
        volume.as_dict()
        assert volume.affine is None or np.isfinite(volume.affine).all()


def test_columns_and_rows_make_the_same_table():
    rows = series()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["not_a_column"] = [object()] * 20
    one, two = only(rows), find_volumes(FrameTags.from_columns(columns)).volumes[0]
    assert (one.id, one.findings) == (two.id, two.findings)
    with pytest.raises(UsageError, match="equal length"):
        FrameTags.from_columns({"file": ["a"], "rows": [1, 2]})
    assert find_volumes(FrameTags.from_rows([])).volumes == ()


def test_findings_never_repeat_text_from_the_files():
    secret = "Doe^Jane"
    rows = series(
        image_type=f"ORIGINAL\\{secret}", stack_id=secret, units=secret, file=secret, convolution_kernel=secret
    )
    rows += renamed(series(), "x", stack_id=f"{secret}2")
    for mess in MESSES.values():
        for finding in find_volumes(FrameTags.from_rows(mess(rows))).findings:
            assert secret not in f"{finding.message}{finding.action}{finding.path}"
