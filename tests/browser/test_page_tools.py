"""Every tool that annotates, in a real browser over a real server: what it draws is what the server stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from page_data import BALL, SHELL, phantom
from page_tools import at, clear, colour_at, drag, get, go_to, marks, open_stack, saved, until, voxels

MIDDLE = 12
CENTRE = (64, 50)
"""Column and row of the middle of the ball."""


@pytest.fixture
def ct(desk: Any) -> Iterator[tuple[Any, str]]:
    """The phantom on its middle slice, without annotations."""
    name = open_stack(desk, "Phantom axial")
    clear(desk, name)
    name = open_stack(desk, "Phantom axial")
    desk.locator(".view").first.focus()
    go_to(desk, MIDDLE)
    yield desk, name
    desk.keyboard.press("Escape")
    clear(desk, name)


def press(page: Any, column: float, row: float) -> None:
    page.mouse.click(*at(page, column, row))


def grow(page: Any, column: int, row: int) -> None:
    page.keyboard.press("u")
    page.locator("#set-tolerance").fill("60")
    page.locator("#set-tolerance").press("Enter")
    page.locator(".view").first.focus()
    press(page, column, row)


def test_region_grow_on_a_slice_and_through_them(ct: Any) -> None:
    page, name = ct
    grow(page, *CENTRE)
    (mark,) = marks(page, name)
    wanted = np.zeros_like(phantom(), bool)
    wanted[MIDDLE] = phantom()[MIDDLE] == BALL
    assert np.array_equal(voxels(mark), wanted)
    page.locator("#deep").check()
    press(page, *CENTRE)
    for _ in range(100):
        (mark,) = marks(page, name)
        if len(mark["mask"]["slices"]) > 1:
            break
        page.wait_for_timeout(50)
    assert np.array_equal(voxels(mark), phantom() == BALL)
    page.locator("#deep").uncheck()


def test_a_brush_that_takes_only_values_between_two(ct: Any) -> None:
    page, name = ct
    page.keyboard.press("k")
    for field, value in (("#set-radius", "30"), ("#set-low", "200"), ("#set-high", "400")):
        page.locator(field).fill(value)
        page.locator(field).press("Enter")
    page.locator(".view").first.focus()
    drag(page, at(page, *CENTRE), at(page, 66, 50))
    (mark,) = marks(page, name)
    assert np.array_equal(voxels(mark)[MIDDLE], phantom()[MIDDLE] == BALL)


def test_brush_eraser_and_an_empty_mask(ct: Any) -> None:
    page, name = ct
    page.keyboard.press("b")
    page.locator("#set-radius").fill("8")
    page.locator("#set-radius").press("Enter")
    page.locator(".view").first.focus()
    press(page, 40, 64)
    (mark,) = marks(page, name)
    row, column = np.mgrid[:128, :128]
    disc = np.hypot(row - 64, column - 40)
    drawn = voxels(mark)[MIDDLE]
    assert drawn[disc <= 7].all()
    assert not drawn[disc > 9].any()
    page.keyboard.press("e")
    drag(page, at(page, 40, 46), at(page, 40, 58))
    (mark,) = marks(page, name)
    assert 0 < voxels(mark).sum() < drawn.sum()
    drag(page, at(page, 40, 50), at(page, 40, 80))
    assert marks(page, name) == []


def test_fill(ct: Any) -> None:
    page, name = ct
    grow(page, 64, 80)
    (mark,) = marks(page, name)
    ring = phantom()[MIDDLE] == SHELL
    assert np.array_equal(voxels(mark)[MIDDLE], ring)
    page.keyboard.press("Shift+F")
    (mark,) = marks(page, name)
    row, column = np.mgrid[:128, :128]
    assert np.array_equal(voxels(mark)[MIDDLE], np.hypot(row - 90, column - 64) < 12)


def test_masks_between_slices(ct: Any) -> None:
    page, name = ct
    grow(page, *CENTRE)
    go_to(page, MIDDLE + 4)
    press(page, *CENTRE)
    page.keyboard.press("j")
    (mark,) = marks(page, name)
    assert [one["k"] for one in mark["mask"]["slices"]] == [12, 13, 14, 15, 16]
    sizes = voxels(mark).sum(axis=(1, 2))[12:17]
    assert (np.diff(sizes) <= 0).all()
    ball = (phantom() == BALL)[12:17].sum(axis=(1, 2))
    assert np.abs(sizes / ball - 1).max() < 0.15


def test_contours_between_slices(ct: Any) -> None:
    page, name = ct
    page.keyboard.press("c")
    drag(page, at(page, 52, 38), at(page, 76, 62))
    go_to(page, MIDDLE + 4)
    drag(page, at(page, 60, 46), at(page, 68, 54))
    page.keyboard.press("j")
    (mark,) = marks(page, name)
    assert mark["kind"] == "ellipse"
    contours = sorted(mark["contours"], key=lambda one: one["slice"])
    assert [one["slice"] for one in contours] == [12, 13, 14, 15, 16]
    wide = [abs(one["points"][1][1] - one["points"][0][1]) for one in contours]
    assert np.allclose(wide, [24, 20, 16, 12, 8], atol=0.6)


def test_copy_to_the_next_slice(ct: Any) -> None:
    page, name = ct
    grow(page, *CENTRE)
    page.keyboard.press("y")
    until(page, "document.querySelector('.view').dataset.slice === '13'")
    (mark,) = marks(page, name)
    assert np.array_equal(voxels(mark)[13], voxels(mark)[12])


def test_a_locked_label_is_neither_changed_nor_painted_over(ct: Any) -> None:
    page, name = ct
    grow(page, *CENTRE)
    saved(page)
    first = page.locator(".labels li").first
    label = first.locator(".cut").inner_text()
    first.get_by_role("button", name=f"Lock {label}").click()
    page.locator(".view").first.focus()
    page.keyboard.press("b")
    press(page, *CENTRE)
    page.wait_for_selector(f".toast:has-text('“{label}” is locked.')")
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("button", name="Add").click()
    page.get_by_label("Name", exact=True).last.fill("Second")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector(".labels li:has-text('Second')")
    page.wait_for_selector(".view[data-ready]")
    page.locator(".labels button.pick", has_text="Second").click()
    page.locator(".view").first.focus()
    go_to(page, MIDDLE)
    page.keyboard.press("b")
    drag(page, at(page, 40, 50), at(page, *CENTRE))
    masks = {one["label"]["name"]: voxels(one) for one in marks(page, name)}
    assert set(masks) == {label, "Second"}
    assert masks["Second"][MIDDLE].any()
    assert not (masks["Second"] & masks[label]).any()
    page.get_by_role("button", name=f"Unlock {label}").click()


def test_a_label_is_hidden_and_shown_more_or_less(ct: Any) -> None:
    page, name = ct
    place = at(page, *CENTRE)
    bare = colour_at(page, *place)
    page.locator(".labels button.pick").first.click()
    grow(page, *CENTRE)
    saved(page)
    shown = colour_at(page, *place)
    assert shown != bare
    label = marks(page, name)[0]["label"]["name"]
    page.get_by_label(f"Opacity of {label}").fill("0.9")
    strong = colour_at(page, *place)
    assert np.abs(np.subtract(strong, bare)).sum() > np.abs(np.subtract(shown, bare)).sum()
    page.get_by_role("button", name=f"Hide {label}").click()
    assert colour_at(page, *place) == bare
    page.get_by_role("button", name=f"Show {label}").click()
    assert colour_at(page, *place) == strong
    page.get_by_label(f"Opacity of {label}").fill("0.35")


def test_painting_in_another_plane(ct: Any) -> None:
    page, name = ct
    page.keyboard.press("Alt+2")
    until(page, "document.querySelectorAll('.grid .view[data-ready]').length >= 3")
    page.keyboard.press("b")
    box = page.locator(".view").nth(1).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    drag(page, (x, y - 20), (x, y + 20))
    (mark,) = marks(page, name)
    drawn = voxels(mark)
    assert len(mark["mask"]["slices"]) > 3
    assert np.unique(np.nonzero(drawn)[1]).tolist() == [64], "a coronal stroke lies in one row of every slice"
    page.keyboard.press("Alt+1")


def test_measures(ct: Any) -> None:
    page, name = ct
    page.keyboard.press("m")
    drag(page, at(page, 40, 64), at(page, 80, 64))
    page.keyboard.press("a")
    for place in ((40, 20), (40, 40), (60, 40)):
        press(page, *place)
    found = {one["tool"]: one for one in marks(page, name)}
    assert found["ruler"]["unit"] == "mm"
    assert found["ruler"]["value"] == pytest.approx(60, abs=0.5)
    assert found["angle"]["unit"] == "deg"
    assert found["angle"]["value"] == pytest.approx(90, abs=0.5)
    page.keyboard.press("q")
    page.mouse.move(*at(page, *CENTRE))
    assert page.locator(".corner.bl").first.inner_text().split("   ") == ["64, 50", "300 HU"]


def test_point_line_box_polygon_and_freehand(ct: Any) -> None:
    page, name = ct
    page.keyboard.press("t")
    press(page, 30, 40)
    page.keyboard.press("l")
    for place in ((20, 60), (30, 70), (20, 80)):
        press(page, *place)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("x")
    drag(page, at(page, 50, 80), at(page, 70, 100))
    page.keyboard.press("g")
    for place in ((90, 40), (110, 50), (95, 70)):
        press(page, *place)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("d")
    drag(page, at(page, 90, 90), at(page, 100, 100))
    found = {one["kind"]: one for one in marks(page, name)}
    assert {"point", "line", "box", "polygon"} <= set(found)
    assert np.allclose(found["point"]["contours"][0]["points"], [[40, 30]], atol=0.2)
    assert np.allclose(found["line"]["contours"][0]["points"], [[60, 20], [70, 30], [80, 20]], atol=0.2)
    assert np.allclose(found["box"]["contours"][0]["points"], [[80, 50], [100, 70]], atol=0.2)
    assert np.allclose(found["polygon"]["contours"][0]["points"], [[40, 90], [50, 110], [70, 95]], atol=0.2)
    page.keyboard.press("s")
    drag(page, at(page, 70, 100), at(page, 74, 104))
    found = {one["kind"]: one for one in marks(page, name)}
    assert np.allclose(found["box"]["contours"][0]["points"], [[80, 50], [104, 74]], atol=0.5)
    page.keyboard.press("Delete")
    assert "box" not in {one["kind"] for one in marks(page, name)}


def test_classification_at_every_level(ct: Any) -> None:
    page, name = ct
    levels = ["volume", "frame", "instance", "series", "study", "patient"]
    for level in levels:
        page.get_by_label("Level").select_option(level)
        page.locator("button", has_text="is ").first.click()
        saved(page)
    found = {one["level"]: one for one in marks(page, name)}
    assert set(found) == set(levels)
    assert found["frame"]["slice"] == MIDDLE
    assert {one["kind"] for one in found.values()} == {"label"}


def test_the_label_set(ct: Any) -> None:
    page, _ = ct
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Name of the set").fill("Organs")
    page.get_by_role("button", name="Add").click()
    for field, value in (("Name", "Liver"), ("Key", "9"), ("Code", "10200004"), ("Scheme", "SCT")):
        page.get_by_label(field, exact=True).last.fill(value)
    page.get_by_label("Colour").last.fill("#8040c0")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector(".labels li:has-text('Liver')")
    page.wait_for_selector(".view[data-ready]")
    sets = {one["name"]: one["labels"] for one in get(page, "/api/labels")["sets"]}
    (liver,) = [one for one in sets["Organs"] if one["name"] == "Liver"]
    assert liver == {
        "name": "Liver", "color": "#8040c0", "key": "9",
        "code": {"value": "10200004", "scheme": "SCT", "meaning": "Liver"},
    }  # fmt: skip
    page.locator(".view").first.focus()
    page.keyboard.press("9")
    assert page.locator(".labels li.chosen .cut").inner_text() == "Liver"


def test_an_assistant_proposes_and_a_person_decides(ct: Any) -> None:
    page, name = ct
    ball = phantom() == BALL

    def ask() -> None:
        page.locator(".view").first.focus()
        page.keyboard.press("Shift+S")
        press(page, *CENTRE)
        page.locator(".proposal button", has_text="Accept").wait_for()

    bare = colour_at(page, *at(page, 56, 50))
    ask()
    assert marks(page, name) == [], "what is proposed is not kept"
    assert len({tuple(colour_at(page, *at(page, 54 + n, 50))) for n in range(8)} - {tuple(bare)}) > 0
    page.locator(".proposal button", has_text="Discard").click()
    assert marks(page, name) == []
    assert colour_at(page, *at(page, 56, 50)) == bare
    ask()
    page.locator(".view").first.focus()
    page.keyboard.press("Shift+Enter")
    (mark,) = marks(page, name)
    found = voxels(mark)
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.8
    assert mark["tool"] == "assist random-walker"
    ask()
    page.locator(".proposal button", has_text="Edit").click()
    page.locator(".view").first.focus()
    press(page, 30, 64)
    changed = next(one for one in marks(page, name) if one["id"] != mark["id"])
    assert voxels(changed)[MIDDLE, 64, 30], "the brush goes on with what was proposed"
    ask()
    page.locator(".view").first.focus()
    page.keyboard.press("Escape")
    assert len(marks(page, name)) == 2
