"""Looking, in a real browser over a real server: what stands on the screen is what the files say."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from page_data import COLOURS, HURT
from page_tools import at, colour_at, get, go_to, open_stack, stack_id, until


def shown(page: Any, view: int = 0) -> int:
    return int(page.locator(".view").nth(view).get_attribute("data-slice"))


def test_side_by_side_by_the_place_in_the_patient(desk: Any) -> None:
    page = desk
    open_stack(page, "Phantom axial")
    page.locator(".view").first.focus()
    page.keyboard.press("Alt+4")
    page.locator("dialog .card", has_text="Phantom coronal").click()
    until(page, "document.querySelectorAll('.grid.beside .view[data-ready]').length === 2")
    assert "Linked by position" in page.locator(".transport").inner_text()
    page.keyboard.press("q")
    box = page.locator(".view").first.bounding_box()
    zoom = min(box["width"], box["height"]) / 128
    for row in (24, 104):
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + (row + 0.5 - 64) * zoom)
        # Coronal slices lie 8 rows of the axial ones apart; in which order the archive puts them is its own affair.
        near = [str(row // 8), str(15 - row // 8)]
        until(page, "(near) => near.includes(document.querySelectorAll('.view')[1].dataset.slice)", near)
    first = shown(page)
    page.locator(".view").nth(1).focus()
    box = page.locator(".view").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 20)
    until(page, "(old) => document.querySelector('.view').dataset.slice !== String(old)", first)


def test_colour_and_cine(desk: Any) -> None:
    page = desk
    name = open_stack(page, "Colour cine")
    info = get(page, f"/api/stacks/{name}")
    assert info["colour"]
    assert info["fps"] == 20
    page.locator(".view").first.focus()
    go_to(page, 4)
    assert np.abs(np.subtract(colour_at(page, *at(page, 20, 45, size=(120, 90))), COLOURS[1])).max() < 3
    assert page.get_by_role("button", name="Three planes").is_disabled()
    page.keyboard.press("Space")
    seen = set()
    end = time.monotonic() + 10
    while len(seen) < 5 and time.monotonic() < end:
        seen.add(shown(page))
    assert len(seen) >= 5
    page.keyboard.press("Space")
    page.wait_for_timeout(100)
    still = shown(page)
    page.wait_for_timeout(200)
    assert shown(page) == still


def test_radiographs(desk: Any) -> None:
    page = desk
    open_stack(page, "Hand")
    left, right = (colour_at(page, *at(page, column, 80, size=(200, 160)))[0] for column in (5, 195))
    assert left > 200, "low values of MONOCHROME1 are bright"
    assert right < 60
    page.locator(".view").first.focus()
    page.keyboard.press("i")
    left, right = (colour_at(page, *at(page, column, 80, size=(200, 160)))[0] for column in (5, 195))
    assert left < 60
    assert right > 200
    page.mouse.move(*at(page, 100, 80, size=(200, 160)))
    assert page.locator(".corner.bl").first.inner_text().startswith("100, 80   2000")
    open_stack(page, "Breast")
    top, bottom = (colour_at(page, *at(page, 80, row, size=(160, 200)))[0] for row in (5, 195))
    assert top < 60
    assert bottom > 200


def test_turn_mirror_and_letters(desk: Any) -> None:
    page = desk
    open_stack(page, "Phantom axial")
    page.locator(".view").first.focus()
    go_to(page, 12)
    where = at(page, 64, 50)
    bright = colour_at(page, *where)
    page.keyboard.press("v")
    assert colour_at(page, *where) != bright
    assert colour_at(page, *at(page, 64, 127 - 50)) == bright
    page.keyboard.press("v")
    page.keyboard.press("r")
    assert colour_at(page, *at(page, 127 - 50, 64)) == bright
    before = page.locator(".corner.br").first.inner_text()
    page.keyboard.press("+")
    until(page, "(old) => document.querySelector('.corner.br').innerText !== old", before)
    page.keyboard.press("Shift+2")
    until(page, "document.querySelector('.corner.br').innerText.includes('W')")


def test_tags(desk: Any) -> None:
    page = desk
    open_stack(page, "Phantom axial")
    page.get_by_role("tab", name="Tags").click()
    page.locator(".tags tr", has_text="Patient's Name").wait_for()
    assert page.locator(".tags tr").count() > 20
    page.get_by_label("Search tags").fill("rescale")
    until(page, "document.querySelectorAll('.tags tr').length === 3")
    page.get_by_label("Search tags").fill("")
    page.locator(".view").first.focus()
    page.get_by_label("Search tags").fill("instance number")
    before = page.locator(".tags td").first.inner_text()
    page.locator(".view").first.focus()
    page.keyboard.press("ArrowDown")
    until(page, "(old) => document.querySelector('.tags td').innerText !== old", before)


def test_the_worklist(desk: Any) -> None:
    page = desk
    page.goto(f"{page.url.split('#')[0]}#/")
    page.wait_for_selector(".card")
    page.get_by_label("Search").fill("coronal")
    until(page, "document.querySelectorAll('.card').length === 1")
    page.get_by_label("Search").fill("")
    until(page, "document.querySelectorAll('.card').length > 4")
    page.locator(".choice", has_text="MG").click()
    until(page, "document.querySelectorAll('.card').length === 1")
    page.locator(".side fieldset").nth(1).locator(".choice", has_text="All").click()
    until(page, "document.querySelectorAll('.card').length > 4")
    assert "Doe, Jane" in page.locator(".list").inner_text()
    wanted = get(page, "/api/worklist")["next"]
    page.keyboard.press("n")
    until(page, "(id) => location.hash === `#/stack/${id}`", wanted)
    page.wait_for_selector(".view[data-ready]")


def test_hostile_words_stay_words(desk: Any) -> None:
    """A script in every text of a file, on every page; the fixture sees that none of it ran."""
    page = desk
    name = stack_id(page, HURT)
    page.goto(f"{page.url.split('#')[0]}#/")
    page.wait_for_selector(".card")
    assert HURT in page.locator(".list").inner_text()
    open_stack(page, HURT)
    assert HURT in page.locator(".bar").inner_text()
    page.get_by_role("tab", name="Tags").click()
    page.locator(".tags tr", has_text="Patient Comments").wait_for()
    assert page.locator(".tags td", has_text=HURT).count() > 25
    label = {"name": HURT, "color": "", "code": {"value": "1", "scheme": "99X", "meaning": HURT}}
    action = {"kind": "text", "level": "volume", "label": label, "text": HURT, "comment": HURT, "tool": HURT}
    from page_tools import post

    made = post(page, name, [{"type": "add", "annotation": action}], author=HURT)
    box = {"slice": 0, "closed": True, "points": [[10, 10], [40, 40]]}
    post(page, name, [{"type": "add", "annotation": {"kind": "box", "label": label, "contours": [box]}}])
    page.get_by_role("tab", name="Review").click()
    page.locator(".note", has_text=HURT).wait_for()
    page.get_by_label("Where readers differ").check()
    page.get_by_role("tab", name="Labels").click()
    page.locator(".marks li", has_text=HURT).first.wait_for()
    page.locator(".labels li", has_text=HURT).first.locator("button").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.keyboard.press("Escape")
    page.locator(".view").first.focus()
    page.keyboard.press("Alt+4")
    page.locator("dialog .card").first.wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("window.hurt") is None
    report = page.request.get(f"{page.url.split('/#')[0]}/api/report")
    assert report.headers["content-disposition"].startswith("attachment")
    bare = page.context.new_page()
    bare.set_content(report.text())
    assert bare.locator("body").inner_text()
    assert bare.evaluate("window.hurt") is None, "not even where no policy forbids it"
    bare.close()
    assert made["saved"]
